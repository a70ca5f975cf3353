//! Output: what waits is encoded when the driver is ready to write it, not before.

use std::time::Instant;

use super::subscription::Subscription;
use super::work::{
    Batch, Item, ItemResult, LaneKey, LaneKind, Payload, Payloads, Ticket, Work, ack_request, nack_request,
};
use super::{Link, Settle};
use crate::config::Batching;
use crate::connection::Connection;
use crate::dialect::EncodeError;
use crate::error::Error;
use crate::frame::{HEADER_LEN, Transmit};
use crate::message::Message;
use crate::request::Request;
use crate::soonest::earlier;

impl<T> Link<T> {
    /// Moves up to about `max` bytes to write into `transmit` (encoding them now) and claims the writer slot;
    /// false when there is nothing to write, no connection, or the slot is taken.
    #[must_use]
    pub fn take_transmit(&mut self, now: Instant, max: usize, transmit: &mut Transmit) -> bool {
        if !self.transport.may_write() {
            return false;
        }
        let Some(mut connection) = self.connection.take() else {
            return self.transport.take_transmit::<Work<T>>(now, None, transmit);
        };
        if connection.is_ready() {
            self.encode_calls(now, &mut connection, max);
            self.encode_lanes(now, &mut connection, max);
        }
        let taken = self.transport.take_transmit(now, Some(&mut connection), transmit);
        self.connection = Some(connection);
        taken
    }

    /// Whether [`take_transmit`](Self::take_transmit) would have something to write.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        if !self.transport.may_write() {
            return false;
        }
        if self.transport.has_output() {
            return true;
        }
        self.connection.as_ref().is_some_and(|connection| {
            let has_batches = || self.lanes.has_ready() && self.has_window(connection);
            !connection.out.is_empty() || (connection.is_ready() && (!self.calls.is_empty() || has_batches()))
        })
    }

    /// Whether one more batch may be in flight. Where a frame holds one item, a call with many items has as many frames:
    /// it is admitted as one request, so the bound of unanswered requests is kept here.
    fn has_window(&self, connection: &Connection<Work<T>>) -> bool {
        !connection.is_cluster() || connection.in_flight() < self.shared.config().settings().in_flight.requests.max(1)
    }

    fn encode_calls(&mut self, now: Instant, connection: &mut Connection<Work<T>>, max: usize) {
        while connection.out.len() < max {
            let Some(call) = self.calls.pop_front() else { break };
            if call.fate.is_due(now) {
                // Its turn to fail comes with the timeout.
                self.calls.push_front(call);
                break;
            }
            let op = call.request.op();
            if op.is_admin() && !connection.admin_known() {
                if let Err(error) = connection.probe_admin() {
                    self.finish_call(call, Err(error.into()));
                } else {
                    self.calls_soonest.add(call.fate.deadline);
                    self.delayed.push((None, call));
                }
                continue;
            }
            match connection.encode(&call.request) {
                Ok(id) => {
                    self.stats.frames_sent += 1;
                    let deadline = call.fate.deadline;
                    connection.register(id, op, Work::Call(call), deadline);
                }
                Err(error) => self.finish_call(call, Err(error.into())),
            }
        }
    }

    fn encode_lanes(&mut self, now: Instant, connection: &mut Connection<Work<T>>, max: usize) {
        while connection.out.len() < max && self.has_window(connection) {
            let Some(index) = self.lanes.next_ready(now) else { break };
            self.encode_frame(now, connection, index);
        }
    }

    /// Encodes one frame of a lane.
    fn encode_frame(&mut self, now: Instant, connection: &mut Connection<Work<T>>, index: usize) {
        let Some(lane) = self.lanes.lane_mut(index) else { return };
        let key = lane.key.clone();
        let frame = FrameRoom::new(connection, key.kind, &key.queue, lane.policy.max_bytes);
        let max_items = lane.policy.max_messages.min(connection.max_items());
        let one_call = matches!(lane.policy.batching, Batching::Disabled);
        let expected = if one_call { 1 } else { lane.share_of(frame.limit) };
        let mut picked = Picked::with_capacity(key.kind, expected.min(max_items));
        let mut refused = Vec::new();
        let mut taken = 0;
        let mut len = frame.base;
        while let Some(next) = lane.front() {
            let picks = picked.tickets.len();
            if picks >= max_items {
                break;
            }
            let same_call = picked.tickets.last().is_none_or(|last| last.call == next.ticket.call);
            if one_call && !same_call {
                break;
            }
            let refusal = match frame.item_len(connection, &next.payload) {
                Ok(item_len) if picks > 0 && len.saturating_add(item_len) > frame.limit => break,
                Ok(item_len) => {
                    len = len.saturating_add(item_len);
                    None
                }
                Err(error) => Some(error),
            };
            let Some(item) = lane.pop_front() else { break };
            taken += 1;
            match refusal {
                None => picked.add(item),
                Some(error) => refused.push((item, error)),
            }
        }
        let sent = self.send_batch(connection, key, picked);
        self.lanes.taken(now, index, taken, sent);
        for (item, error) in refused {
            self.finish_item(item.ticket, ItemResult::failed(item.payload, error.into()));
        }
    }

    fn send_batch(&mut self, connection: &mut Connection<Work<T>>, lane: LaneKey, picked: Picked<T>) -> bool {
        let Picked {
            messages,
            settles,
            tickets,
            deadline,
        } = picked;
        if tickets.is_empty() {
            return false;
        }
        let kind = lane.kind;
        let (encoded, payloads) = match kind {
            LaneKind::Enqueue => {
                let request = Request::Enqueue(messages);
                let encoded = connection.encode(&request);
                // The codec only borrows them in the request.
                let messages = if let Request::Enqueue(messages) = request {
                    messages
                } else {
                    Vec::new()
                };
                (encoded, Payloads::Messages(messages))
            }
            LaneKind::Ack => (connection.encode(&ack_request(&settles)), Payloads::Settles(settles)),
            LaneKind::Nack => (connection.encode(&nack_request(&settles)), Payloads::Settles(settles)),
        };
        match encoded {
            Ok(id) => {
                self.stats.frames_sent += 1;
                match kind {
                    LaneKind::Enqueue => self.stats.enqueue_frames += 1,
                    LaneKind::Ack | LaneKind::Nack => self.stats.settle_frames += 1,
                }
                let batch = Batch {
                    lane,
                    payloads,
                    tickets,
                };
                connection.register(id, kind.op(), Work::Batch(batch), deadline);
                true
            }
            Err(error) => {
                let error = Error::from(error);
                for (payload, ticket) in payloads.into_vec().into_iter().zip(tickets) {
                    self.finish_item(ticket, ItemResult::failed(payload, error.clone()));
                }
                false
            }
        }
    }
}

/// The items of a frame. A lane holds either messages or settles.
struct Picked<T> {
    messages: Vec<Message>,
    settles: Vec<Settle>,
    tickets: Vec<Ticket<T>>,
    deadline: Option<Instant>,
}

impl<T> Picked<T> {
    fn with_capacity(kind: LaneKind, items: usize) -> Self {
        let (messages, settles) = match kind {
            LaneKind::Enqueue => (items, 0),
            LaneKind::Ack | LaneKind::Nack => (0, items),
        };
        Self {
            messages: Vec::with_capacity(messages),
            settles: Vec::with_capacity(settles),
            tickets: Vec::with_capacity(items),
            deadline: None,
        }
    }

    fn add(&mut self, item: Item<T>) {
        match item.payload {
            Payload::Message(message) => self.messages.push(message),
            Payload::Settle(settle) => self.settles.push(settle),
        }
        self.deadline = earlier(self.deadline, item.ticket.fate.deadline);
        self.tickets.push(item.ticket);
    }
}

/// How much fits one frame of a lane.
struct FrameRoom {
    /// Bytes before the first item.
    base: usize,
    /// Where a frame with more than one item ends.
    limit: usize,
    /// Where every frame ends.
    hard_limit: Option<u32>,
}

impl FrameRoom {
    fn new<W>(connection: &Connection<W>, kind: LaneKind, queue: &str, max_bytes: usize) -> Self {
        let codec = connection.codec();
        let base = match kind {
            LaneKind::Enqueue => codec.enqueue_base_len(queue),
            LaneKind::Ack | LaneKind::Nack => codec.settle_base_len(),
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

impl<T> Link<T> {
    /// The calls that waited for the admin revision go on.
    pub(super) fn release_admin_calls(&mut self) {
        for (until, call) in std::mem::take(&mut self.delayed) {
            match until {
                None => self.requeue_call(call),
                Some(_) => self.delayed.push((until, call)),
            }
        }
    }

    /// Why no server of the dialect in use takes this, whatever else is sent with it; `None` also while the dialect
    /// is not known.
    pub(super) fn unsendable(&self, payload: &Payload) -> Option<Error> {
        let connection = self.connection.as_ref()?;
        let room = FrameRoom::new(connection, payload.kind(), payload.queue(), usize::MAX);
        room.item_len(connection, payload).err().map(Error::from)
    }

    /// The calls that waited for the admin revision wait in vain.
    pub(super) fn fail_admin_calls(&mut self, error: &Error) {
        for (until, call) in std::mem::take(&mut self.delayed) {
            match until {
                None => self.finish_call(call, Err(error.clone())),
                Some(_) => self.delayed.push((until, call)),
            }
        }
    }

    /// Whether a caller may ask this of a link by itself.
    pub(super) fn is_callable(request: &Request) -> bool {
        let op = request.op();
        op.is_admin() || op == crate::Op::Heartbeat
    }

    pub(super) fn open_work(&self) -> usize {
        let accounts = self.accounts.iter().flatten();
        let parked: usize = accounts.map(|account| account.parked() + account.reserved()).sum();
        let in_flight = self.connection.as_deref().map_or(0, Connection::in_flight);
        let subscribing = usize::from(self.subscription.as_ref().is_some_and(Subscription::is_pending));
        let in_flight = in_flight.saturating_sub(subscribing);
        self.calls.len() + self.delayed.len() + self.lanes.len() + parked + in_flight
    }
}
