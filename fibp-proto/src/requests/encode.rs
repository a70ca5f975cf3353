//! Output: what waits is encoded when the driver is ready to write it, not before.

use std::time::Instant;

use super::Requests;
use super::batch_queues::BatchQueues;
use super::few::Few;
use super::ledger::Ledger;
use super::places::Place;
use super::route::{Route, has_window};
use super::run::{Payloads, Run};
use super::work::{Batch, BatchKind, Call, InFlight};
use crate::config::Batching;
use crate::connection::Connection;
use crate::dialect::{Codec, EncodeError};
use crate::earliest_deadline::earlier;
use crate::error::Error;
use crate::frame::{HEADER_LEN, Transmit};
use crate::machine::CallId;

impl<T> Requests<T> {
    /// Why no server of the dialect in use takes this, whatever else is sent with it; `None` also while the dialect
    /// is not known.
    pub(super) fn unsendable(&self, payloads: &Payloads) -> Option<Error> {
        let connection = self.router.main().channel.connection()?;
        let (kind, queue) = (payloads.kind(), payloads.queue());
        let mut room = FrameRoom::new(connection, kind, queue, usize::MAX, usize::MAX);
        room.take(payloads).err().map(Error::from)
    }
}

impl<T> Route<T> {
    /// Encodes up to about `max` bytes of what waits, and claims the writer slot for them.
    pub(super) fn take_transmit(
        &mut self,
        now: Instant,
        max: usize,
        transmit: &mut Transmit,
        ledger: &mut Ledger<T>,
    ) -> bool {
        if !self.channel.may_write() {
            return false;
        }
        if self.channel.is_ready()
            && let Some(connection) = self.channel.connection_mut()
        {
            let mut encoder = Encoder {
                now,
                connection,
                ledger,
            };
            // Calls before batches: however much waits in those, a call leaves with the next write.
            while encoder.connection.out.len() < max
                && let Some((id, call)) = self.calls.pop_first()
            {
                match encoder.encode_call(call) {
                    Encoded::Done => {}
                    // Its turn to fail comes with the timeout.
                    Encoded::Late(call) => {
                        self.calls.insert(id, call);
                        break;
                    }
                    Encoded::WaitsForRevision(call) => {
                        self.calls_deadline.add(call.attempt.deadline);
                        self.delayed.insert(id, (None, call));
                    }
                }
            }
            // `out` may grow beyond `max` by one frame, so that every frame is whole.
            while encoder.connection.out.len() < max
                && has_window(encoder.connection, self.max_in_flight)
                && let Some(index) = self.queues.next_ready(now)
            {
                encoder.encode_frame(&mut self.queues, index);
            }
        }
        self.channel.take_transmit(now, transmit)
    }
}

/// What became of a call that was to be encoded.
enum Encoded<T> {
    /// It is in flight, or cannot be sent and has failed.
    Done,
    Late(Call<T>),
    WaitsForRevision(Call<T>),
}

/// Makes frames of what waits.
struct Encoder<'a, T> {
    now: Instant,
    connection: &'a mut Connection<InFlight<T>>,
    ledger: &'a mut Ledger<T>,
}

impl<T> Encoder<'_, T> {
    fn encode_call(&mut self, call: Call<T>) -> Encoded<T> {
        if call.attempt.is_due(self.now) {
            return Encoded::Late(call);
        }
        let op = call.request.op();
        if op.is_admin() && !self.connection.admin_known() {
            return match self.connection.probe_admin() {
                // The probe is asked once; whoever comes while it is under way waits for the same answer.
                Ok(()) => Encoded::WaitsForRevision(call),
                Err(error) => {
                    self.ledger.finish_call(call, Err(error.into()));
                    Encoded::Done
                }
            };
        }
        match self.connection.encode(&call.request) {
            Ok(id) => {
                self.ledger.stats.frames_sent += 1;
                let deadline = call.attempt.deadline;
                self.ledger.places.set(call.id, Place::InFlight(id));
                self.connection
                    .register(id, op, InFlight::Call(Box::new(call)), deadline);
            }
            Err(error) => self.ledger.finish_call(call, Err(error.into())),
        }
        Encoded::Done
    }

    /// Encodes one frame of a queue.
    fn encode_frame(&mut self, queues: &mut BatchQueues<T>, index: usize) {
        let Some(queue) = queues.queue_mut(index) else { return };
        let max_items = match queue.is_probing() {
            true => 1,
            false => queue.policy.max_messages.min(self.connection.max_items()),
        };
        let mut room = FrameRoom::new(
            self.connection,
            queue.key.kind,
            &queue.key.queue,
            max_items,
            queue.policy.max_bytes,
        );
        let one_call = matches!(queue.policy.batching, Batching::Disabled);
        let mut picked: Option<Picked<T>> = None;
        let mut refused = Vec::new();
        let mut taken = 0;
        loop {
            // Without batching a frame holds the items of one call.
            let call = picked.as_ref().and_then(Picked::call).or_else(|| queue.first_call());
            let runs = queue
                .runs()
                .take_while(|run| !one_call || Some(run.ticket.call) == call);
            // Measured before it is taken out: what does not fit keeps its place, and its charge is not divided for
            // nothing.
            let (before, runs_before) = (room.items, room.runs);
            let result = room.take_runs(runs);
            let (items, runs) = (room.items - before, room.runs - runs_before);
            if items > 0 {
                queue.take(items, |run| match &mut picked {
                    Some(picked) => picked.add(run),
                    None => picked = Some(Picked::new(run, items, runs)),
                });
                taken += items;
            }
            // What goes into no frame at all makes way for what is behind it.
            let Err(error) = result else { break };
            taken += 1;
            refused.extend(queue.take_front(1).map(|item| (item, error)));
        }
        if queue.is_probing() {
            // What was due with it has waited for company, and waits for the answer now.
            queue.flush();
        }
        let len = room.len - room.base;
        let sent = picked.map_or(0, |picked| self.send_batch(picked, len));
        // Even if nothing was sent: the queue has left the line of those that are ready, and may belong there again.
        queues.taken(self.now, index, taken, sent);
        for (item, error) in refused {
            self.ledger.fail(item, &error.into());
        }
    }

    /// Encodes a frame, whose items are so long; how many items are in flight with it.
    fn send_batch(&mut self, picked: Picked<T>, len: usize) -> usize {
        let Picked { mut batch, deadline } = picked;
        let kind = batch.key().kind;
        let encoded = match &mut batch.payloads {
            Payloads::Messages(messages) => self.connection.encode_enqueue(messages.as_slice(), len),
            Payloads::Settles(settles) => self.connection.encode_settles(kind.op(), settles.as_slice(), len),
        };
        match encoded {
            Ok(id) => {
                self.ledger.stats.frames_sent += 1;
                match kind {
                    BatchKind::Enqueue => self.ledger.stats.enqueue_frames += 1,
                    BatchKind::Ack | BatchKind::Nack => self.ledger.stats.settle_frames += 1,
                }
                // From here on an abandoned call is looked for in flight.
                for ticket in batch.tickets.iter() {
                    ticket.note_place(&mut self.ledger.places, Place::InFlight(id));
                }
                let items = batch.len();
                self.connection
                    .register(id, kind.op(), InFlight::Batch(batch), deadline);
                items
            }
            Err(error) => {
                let error = Error::from(error);
                for run in batch.into_runs() {
                    self.ledger.fail(run, &error);
                }
                0
            }
        }
    }
}

/// The runs of a frame.
struct Picked<T> {
    /// Boxed as it will be in flight, so that it is moved no more.
    batch: Box<Batch<T>>,
    deadline: Option<Instant>,
}

impl<T> Picked<T> {
    /// The first of so many runs with so many items.
    fn new(run: Run<T>, items: usize, runs: usize) -> Self {
        let mut picked = Self {
            deadline: run.ticket.attempt.deadline,
            batch: Box::new(Batch {
                payloads: run.payloads,
                tickets: Few::One(run.ticket),
            }),
        };
        if runs > 1 {
            picked.batch.payloads.make_room(items);
            picked.batch.tickets.make_room(runs);
        }
        picked
    }

    /// Puts a run behind the others.
    #[inline]
    fn add(&mut self, run: Run<T>) {
        self.deadline = earlier(self.deadline, run.ticket.attempt.deadline);
        self.batch.payloads.append(run.payloads);
        self.batch.tickets.push(run.ticket);
    }

    /// The call of its first run.
    fn call(&self) -> Option<CallId> {
        self.batch.tickets.first().map(|first| first.call)
    }
}

/// How much fits one frame of a queue.
struct FrameRoom {
    codec: &'static dyn Codec,
    /// Bytes before the first item.
    base: usize,
    /// Bytes of what the frame holds.
    len: usize,
    /// How many items it holds.
    items: usize,
    /// How many runs these are of.
    runs: usize,
    /// How many items it may hold.
    max_items: usize,
    /// Where a frame with more than one item ends.
    limit: usize,
    /// Where every frame ends.
    hard_limit: Option<u32>,
}

impl FrameRoom {
    fn new<W>(connection: &Connection<W>, kind: BatchKind, queue: &str, max_items: usize, max_bytes: usize) -> Self {
        let codec = connection.codec();
        let base = match kind {
            BatchKind::Enqueue => codec.enqueue_base_len(queue),
            BatchKind::Ack | BatchKind::Nack => codec.settle_base_len(),
        };
        let send_limit = connection.send_limit();
        Self {
            codec,
            base,
            len: base,
            items: 0,
            runs: 0,
            max_items,
            limit: max_bytes.min((send_limit as usize).saturating_sub(HEADER_LEN)),
            hard_limit: (!connection.rules().continuation).then_some(send_limit),
        }
    }

    /// Counts the items of these runs, from the first on, that there is room for.
    ///
    /// # Errors
    ///
    /// Why the one behind those goes into no frame at all.
    fn take_runs<'a, T: 'a>(&mut self, runs: impl Iterator<Item = &'a Run<T>>) -> Result<(), EncodeError> {
        for run in runs {
            if self.items >= self.max_items {
                break;
            }
            let before = self.items;
            let result = self.take(&run.payloads);
            let items = self.items - before;
            self.runs += usize::from(items > 0);
            if result.is_err() || items < run.len() {
                return result;
            }
        }
        Ok(())
    }

    /// Counts the payloads, from the first on, that there is room for.
    ///
    /// # Errors
    ///
    /// Why the one behind those goes into no frame at all.
    fn take(&mut self, payloads: &Payloads) -> Result<(), EncodeError> {
        let codec = self.codec;
        match payloads {
            Payloads::Messages(messages) => self.take_each(messages, |message| codec.enqueue_item_len(message)),
            Payloads::Settles(settles) => self.take_each(settles, |settle| {
                codec.settle_item_len(&settle.queue, &settle.id, settle.nack.as_deref())
            }),
        }
    }

    #[inline]
    fn take_each<P>(
        &mut self,
        payloads: &Few<P>,
        len_of: impl Fn(&P) -> Result<usize, EncodeError>,
    ) -> Result<(), EncodeError> {
        match payloads {
            Few::One(payload) => self.take_one(len_of(payload)?).map(drop),
            Few::Many(payloads) => {
                for payload in payloads.iter().take(self.max_items.saturating_sub(self.items)) {
                    if !self.take_one(len_of(payload)?)? {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    /// Counts an item of this length, if there is room for it.
    #[inline]
    fn take_one(&mut self, item_len: usize) -> Result<bool, EncodeError> {
        let alone = item_len.saturating_add(self.base).saturating_add(HEADER_LEN);
        if let Some(limit) = self.hard_limit
            && alone > limit as usize
        {
            return Err(EncodeError::FrameTooLarge { len: alone, limit });
        }
        let len = self.len.saturating_add(item_len);
        // The first item goes whatever its size, as no frame would be larger.
        let fits = self.items == 0 || len <= self.limit;
        if fits {
            self.len = len;
            self.items += 1;
        }
        Ok(fits)
    }
}
