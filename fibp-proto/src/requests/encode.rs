//! Output: what waits is encoded when the driver is ready to write it, not before.

use std::time::Instant;

use super::Requests;
use super::batch_queue::BatchQueues;
use super::ledger::Ledger;
use super::places::Place;
use super::route::{Route, has_window};
use super::settle::Settle;
use super::work::{
    Batch, BatchItem, BatchKey, BatchKind, Call, InFlight, ItemResult, Payload, Payloads, Ticket, ack_request,
    nack_request,
};
use crate::config::Batching;
use crate::connection::Connection;
use crate::dialect::EncodeError;
use crate::earliest_deadline::earlier;
use crate::error::Error;
use crate::frame::{HEADER_LEN, Transmit};
use crate::message::Message;
use crate::request::Request;

impl<T> Requests<T> {
    /// Why no server of the dialect in use takes this, whatever else is sent with it; `None` also while the dialect
    /// is not known.
    pub(super) fn unsendable(&self, payload: &Payload) -> Option<Error> {
        let connection = self.main().channel.connection()?;
        let room = FrameRoom::new(connection, payload.kind(), payload.queue(), usize::MAX);
        room.item_len(connection, payload).err().map(Error::from)
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
                self.connection.register(id, op, InFlight::Call(call), deadline);
            }
            Err(error) => self.ledger.finish_call(call, Err(error.into())),
        }
        Encoded::Done
    }

    /// Encodes one frame of a queue.
    fn encode_frame(&mut self, queues: &mut BatchQueues<T>, index: usize) {
        let Some(queue) = queues.queue_mut(index) else { return };
        let key = queue.key.clone();
        let frame = FrameRoom::new(self.connection, key.kind, &key.queue, queue.policy.max_bytes);
        let max_items = match queue.is_probing() {
            true => 1,
            false => queue.policy.max_messages.min(self.connection.max_items()),
        };
        let one_call = matches!(queue.policy.batching, Batching::Disabled);
        let expected = if one_call { 1 } else { queue.share_of(frame.limit) };
        let mut picked = Picked::with_capacity(key.kind, expected.min(max_items));
        let mut refused = Vec::new();
        let mut taken = 0;
        let mut len = frame.base;
        while let Some(next) = queue.front() {
            let picks = picked.tickets.len();
            if picks >= max_items {
                break;
            }
            let same_call = picked.tickets.last().is_none_or(|last| last.call == next.ticket.call);
            // Without batching a frame holds the items of one call.
            if one_call && !same_call {
                break;
            }
            let refusal = match frame.item_len(self.connection, &next.payload) {
                // The first item goes whatever its size: `item_len` has checked the limit of the frame.
                Ok(item_len) if picks > 0 && len.saturating_add(item_len) > frame.limit => break,
                Ok(item_len) => {
                    len = len.saturating_add(item_len);
                    None
                }
                Err(error) => Some(error),
            };
            let Some(item) = queue.pop_front() else { break };
            taken += 1;
            match refusal {
                None => picked.add(item),
                Some(error) => refused.push((item, error)),
            }
        }
        if queue.is_probing() {
            // What was due with it has waited for company, and waits for the answer now.
            queue.flush();
        }
        let sent = self.send_batch(key, picked);
        queues.taken(self.now, index, taken, sent);
        for (item, error) in refused {
            self.ledger
                .finish_item(item.ticket, ItemResult::failed(item.payload, error.into()));
        }
    }

    /// Encodes a frame; how many items are in flight with it.
    fn send_batch(&mut self, key: BatchKey, picked: Picked<T>) -> usize {
        let Picked {
            messages,
            settles,
            tickets,
            deadline,
        } = picked;
        if tickets.is_empty() {
            return 0;
        }
        let kind = key.kind;
        let (encoded, payloads) = match kind {
            BatchKind::Enqueue => {
                let request = Request::Enqueue(messages);
                let encoded = self.connection.encode(&request);
                // The codec only borrows them in the request.
                let messages = if let Request::Enqueue(messages) = request {
                    messages
                } else {
                    Vec::new()
                };
                (encoded, Payloads::Messages(messages))
            }
            BatchKind::Ack => (
                self.connection.encode(&ack_request(&settles)),
                Payloads::Settles(settles),
            ),
            BatchKind::Nack => (
                self.connection.encode(&nack_request(&settles)),
                Payloads::Settles(settles),
            ),
        };
        match encoded {
            Ok(id) => {
                self.ledger.stats.frames_sent += 1;
                match kind {
                    BatchKind::Enqueue => self.ledger.stats.enqueue_frames += 1,
                    BatchKind::Ack | BatchKind::Nack => self.ledger.stats.settle_frames += 1,
                }
                for ticket in &tickets {
                    ticket.note_place(&mut self.ledger.places, Place::InFlight(id));
                }
                let items = tickets.len();
                let batch = Batch { key, payloads, tickets };
                self.connection
                    .register(id, kind.op(), InFlight::Batch(batch), deadline);
                items
            }
            Err(error) => {
                let error = Error::from(error);
                for (payload, ticket) in payloads.into_vec().into_iter().zip(tickets) {
                    self.ledger
                        .finish_item(ticket, ItemResult::failed(payload, error.clone()));
                }
                0
            }
        }
    }
}

/// The items of a frame. A queue holds either messages or settles.
struct Picked<T> {
    messages: Vec<Message>,
    settles: Vec<Settle>,
    tickets: Vec<Ticket<T>>,
    deadline: Option<Instant>,
}

impl<T> Picked<T> {
    fn with_capacity(kind: BatchKind, items: usize) -> Self {
        let (messages, settles) = match kind {
            BatchKind::Enqueue => (items, 0),
            BatchKind::Ack | BatchKind::Nack => (0, items),
        };
        Self {
            messages: Vec::with_capacity(messages),
            settles: Vec::with_capacity(settles),
            tickets: Vec::with_capacity(items),
            deadline: None,
        }
    }

    fn add(&mut self, item: BatchItem<T>) {
        match item.payload {
            Payload::Message(message) => self.messages.push(message),
            Payload::Settle(settle) => self.settles.push(settle),
        }
        self.deadline = earlier(self.deadline, item.ticket.attempt.deadline);
        self.tickets.push(item.ticket);
    }
}

/// How much fits one frame of a queue.
struct FrameRoom {
    /// Bytes before the first item.
    base: usize,
    /// Where a frame with more than one item ends.
    limit: usize,
    /// Where every frame ends.
    hard_limit: Option<u32>,
}

impl FrameRoom {
    fn new<W>(connection: &Connection<W>, kind: BatchKind, queue: &str, max_bytes: usize) -> Self {
        let codec = connection.codec();
        let base = match kind {
            BatchKind::Enqueue => codec.enqueue_base_len(queue),
            BatchKind::Ack | BatchKind::Nack => codec.settle_base_len(),
        };
        let send_limit = connection.send_limit();
        Self {
            base,
            limit: max_bytes.min((send_limit as usize).saturating_sub(HEADER_LEN)),
            hard_limit: (!connection.rules().continuation).then_some(send_limit),
        }
    }

    fn item_len<W>(&self, connection: &Connection<W>, payload: &Payload) -> Result<usize, EncodeError> {
        let codec = connection.codec();
        let len = match payload {
            Payload::Message(message) => codec.enqueue_item_len(message)?,
            Payload::Settle(settle) => {
                codec.settle_item_len(&settle.queue, settle.id.as_str(), settle.nack.as_deref())?
            }
        };
        let alone = len.saturating_add(self.base).saturating_add(HEADER_LEN);
        match self.hard_limit {
            Some(limit) if alone > limit as usize => Err(EncodeError::FrameTooLarge { len: alone, limit }),
            _ => Ok(len),
        }
    }
}
