//! What waits: calls, items of batches, and where their results go.

use std::time::Instant;

use super::join::Joins;
use super::places::{Place, Places};
use super::settle::Settle;
use crate::error::{Doing, Error, Outcome, SendError};
use crate::machine::{CallId, Completion, Reply};
use crate::message::{Message, MessageId, QueueName};
use crate::request::{AckItem, NackItem, Op, Request};

/// The client's own budget.
pub(super) const CLIENT: u32 = 0;

/// Bytes that a waiting item costs besides its contents.
const ITEM_OVERHEAD: usize = 128;

/// One request that travels in a frame of its own.
#[derive(Debug)]
pub(super) struct Call<T> {
    pub(super) id: CallId,
    pub(super) request: Request,
    /// `None`: the caller is gone.
    pub(super) token: Option<T>,
    pub(super) attempt: Attempt,
}

/// What a call or an item carries through retries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) deadline: Option<Instant>,
    /// Sent before, on a connection that was lost: a "not there" answer means that the first one worked.
    pub(super) replayed: bool,
    /// How often it was handed to another node.
    pub(super) hops: u32,
    /// How often it came back from a node that does not lead its queue and names no other.
    pub(super) returns: u8,
    /// When a cluster said first that it does not know the queue, perhaps not yet.
    pub(super) absent_since: Option<Instant>,
}

impl Attempt {
    pub(super) fn new(deadline: Option<Instant>) -> Self {
        Self {
            deadline,
            replayed: false,
            hops: 0,
            returns: 0,
            absent_since: None,
        }
    }

    /// What an error says of work with this past: nothing is certain of what may have been executed before.
    pub(super) fn judge(&self, error: Error) -> Error {
        if self.replayed {
            error.with_outcome(Outcome::Unknown)
        } else {
            error
        }
    }

    /// It goes back to the main route, which begins to look for the leader again.
    pub(super) fn return_home(&mut self) {
        self.hops = 0;
        self.returns = self.returns.saturating_add(1);
    }

    /// Whether the main route pauses before it asks again: once it may know better, after that an election is going on.
    pub(super) fn is_in_circles(&self) -> bool {
        self.returns > 1
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|at| at <= now)
    }
}

/// One item of a batched request.
#[derive(Debug)]
pub(super) struct BatchItem<T> {
    pub(super) payload: Payload,
    pub(super) ticket: Ticket<T>,
}

/// What an item carries.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    Message(Message),
    Settle(Settle),
}

impl From<Message> for Payload {
    fn from(message: Message) -> Self {
        Self::Message(message)
    }
}

impl From<Settle> for Payload {
    fn from(settle: Settle) -> Self {
        Self::Settle(settle)
    }
}

/// Which frames an item can share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct BatchKey {
    pub(super) budget: u32,
    pub(super) kind: BatchKind,
    pub(super) queue: QueueName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum BatchKind {
    Enqueue,
    Ack,
    Nack,
}

impl Payload {
    pub(super) fn kind(&self) -> BatchKind {
        match self {
            Self::Message(_) => BatchKind::Enqueue,
            Self::Settle(settle) if settle.nack.is_none() => BatchKind::Ack,
            Self::Settle(_) => BatchKind::Nack,
        }
    }

    /// What is done with it, for errors.
    pub(super) fn doing(&self) -> Doing {
        match self {
            Self::Message(message) => Doing::on_queue(Op::Enqueue, &message.queue),
            Self::Settle(settle) => settle.doing(),
        }
    }

    pub(super) fn queue(&self) -> &QueueName {
        match self {
            Self::Message(message) => &message.queue,
            Self::Settle(settle) => &settle.queue,
        }
    }

    /// An estimate of the bytes this holds while it waits.
    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Message(message) => cost_of_message(message),
            Self::Settle(settle) => cost_of_settle(settle),
        }
    }
}

pub(super) fn cost_of_message(message: &Message) -> usize {
    ITEM_OVERHEAD
        .saturating_add(message.payload.len())
        .saturating_add(message.headers.content_len())
}

fn cost_of_settle(settle: &Settle) -> usize {
    ITEM_OVERHEAD.saturating_add(settle.nack.as_ref().map_or(0, String::len))
}

/// Who waits for an item, and what it is charged to.
#[derive(Debug)]
pub(super) struct Ticket<T> {
    pub(super) call: CallId,
    pub(super) reply_to: ReplyTo<T>,
    pub(super) attempt: Attempt,
    /// Its bytes, which are charged to the budget of its call.
    pub(super) cost: usize,
    /// The flush epoch of its producer.
    pub(super) epoch: u64,
    /// The first item of a call, which is charged for the call itself.
    pub(super) leads: bool,
    /// A receipt: is sent even when nobody waits for it.
    pub(super) detached: bool,
}

/// What an item takes up in its budget.
#[derive(Debug, Clone, Copy)]
pub(super) struct Charge {
    pub(super) call: CallId,
    pub(super) cost: usize,
    pub(super) epoch: u64,
    pub(super) leads: bool,
}

impl<T> Ticket<T> {
    /// Where an item belongs among others of its queue: by call, then by place within the call.
    pub(super) fn order(&self) -> (CallId, u32) {
        let place = match &self.reply_to {
            ReplyTo::Part(place) => *place,
            ReplyTo::One(_) | ReplyTo::Nobody | ReplyTo::Told => 0,
        };
        (self.call, place)
    }

    /// Notes where it is, unless it is one of the many of its call.
    pub(super) fn note_place(&self, places: &mut Places, place: Place) {
        if !matches!(self.reply_to, ReplyTo::Part(_)) {
            places.set(self.call, place);
        }
    }

    pub(super) fn charge(&self) -> Charge {
        Charge {
            call: self.call,
            cost: self.cost,
            epoch: self.epoch,
            leads: self.leads,
        }
    }
}

/// Who waits.
#[derive(Debug)]
pub(super) enum ReplyTo<T> {
    One(T),
    /// One of the many of its call, whose results are joined in this machine, and its place among them.
    Part(u32),
    /// Nobody any more.
    Nobody,
    /// Its caller has the result already: its deadline passed while the frame it is in was under way.
    Told,
}

/// The result of one item.
#[derive(Debug)]
pub(super) enum ItemResult {
    Enqueued(Result<MessageId, Box<SendError>>),
    Settled(Result<(), Error>),
}

impl ItemResult {
    /// The failure of this payload.
    pub(super) fn failed(payload: Payload, error: Error) -> Self {
        let error = error.during(|| payload.doing());
        match payload {
            Payload::Message(message) => Self::Enqueued(Err(Box::new(SendError { message, error }))),
            Payload::Settle(_) => Self::Settled(Err(error)),
        }
    }

    pub(super) fn error(&self) -> Option<&Error> {
        match self {
            Self::Enqueued(Err(failed)) => Some(&failed.error),
            Self::Settled(Err(error)) => Some(error),
            Self::Enqueued(Ok(_)) | Self::Settled(Ok(())) => None,
        }
    }

    pub(super) fn map_err(self, map: impl FnOnce(Error) -> Error) -> Self {
        match self {
            Self::Enqueued(Err(failed)) => {
                let SendError { message, error } = *failed;
                let error = map(error);
                Self::Enqueued(Err(Box::new(SendError { message, error })))
            }
            Self::Settled(Err(error)) => Self::Settled(Err(map(error))),
            done => done,
        }
    }

    fn into_reply(self) -> Reply {
        match self {
            Self::Enqueued(result) => Reply::Enqueued(result),
            Self::Settled(result) => Reply::Settled(result),
        }
    }
}

/// What came of telling somebody a result.
#[derive(Debug)]
pub(super) struct Told<T> {
    pub(super) completion: Option<Completion<T>>,
    /// A failure that was not reported yet.
    pub(super) unheard: Option<Error>,
}

impl<T> ReplyTo<T> {
    /// The token of one that waits alone.
    pub(super) fn into_token(self) -> Option<T> {
        match self {
            Self::One(token) => Some(token),
            Self::Part(_) | Self::Nobody | Self::Told => None,
        }
    }

    /// Tells it of the result of an item of `call`.
    pub(super) fn tell(self, call: CallId, result: ItemResult, joins: &mut Joins<T>) -> Told<T> {
        let mut told = Told {
            completion: None,
            unheard: None,
        };
        match self {
            Self::One(token) => {
                told.completion = Some(Completion {
                    token,
                    reply: result.into_reply(),
                });
            }
            Self::Part(place) => match joins.tell(call, place, result) {
                Ok(completion) => told.completion = completion,
                Err(result) => told.unheard = result.error().cloned(),
            },
            Self::Nobody => told.unheard = result.error().cloned(),
            Self::Told => {}
        }
        told
    }
}

/// What the table keeps with a request in flight.
#[derive(Debug)]
pub(super) enum InFlight<T> {
    Call(Call<T>),
    Batch(Batch<T>),
}

/// A batched request in flight: the request keeps the payloads, `tickets` who waits for each.
#[derive(Debug)]
pub(super) struct Batch<T> {
    pub(super) key: BatchKey,
    pub(super) payloads: Payloads,
    pub(super) tickets: Vec<Ticket<T>>,
}

/// The payloads of a batch in the form the codec takes.
#[derive(Debug)]
pub(super) enum Payloads {
    /// What is enqueued.
    Messages(Vec<Message>),
    /// Acks or nacks, with what their request does not say.
    Settles(Vec<Settle>),
}

impl Payloads {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Messages(messages) => messages.len(),
            Self::Settles(settles) => settles.len(),
        }
    }

    pub(super) fn into_vec(self) -> Vec<Payload> {
        match self {
            Self::Messages(messages) => messages.into_iter().map(Payload::from).collect(),
            Self::Settles(settles) => settles.into_iter().map(Payload::from).collect(),
        }
    }

    pub(super) fn clone_one(&self, index: usize) -> Option<Payload> {
        match self {
            Self::Messages(messages) => messages.get(index).cloned().map(Payload::from),
            Self::Settles(settles) => settles.get(index).cloned().map(Payload::from),
        }
    }

    /// See [`Payload::cost`].
    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Messages(messages) => total(messages.iter().map(cost_of_message)),
            Self::Settles(settles) => total(settles.iter().map(cost_of_settle)),
        }
    }
}

fn total(costs: impl Iterator<Item = usize>) -> usize {
    costs.fold(0, usize::saturating_add)
}

/// A call with many items on its way in.
#[derive(Debug)]
pub(super) struct Many<T> {
    pub(super) call: CallId,
    pub(super) attempt: Attempt,
    pub(super) token: T,
    pub(super) payloads: Payloads,
}

impl<T> Many<T> {
    /// The failure of all of them.
    pub(super) fn fail(self, error: &Error) -> Completion<T> {
        let error = self.attempt.judge(error.clone());
        let reply = match self.payloads {
            Payloads::Messages(messages) => {
                let failed = |message: Message| {
                    let doing = || Doing::on_queue(Op::Enqueue, &message.queue);
                    let error = error.clone().during(doing);
                    Err(SendError { message, error })
                };
                Reply::EnqueuedMany(messages.into_iter().map(failed).collect())
            }
            Payloads::Settles(settles) => {
                let failed = |settle: Settle| Err(error.clone().during(|| settle.doing()));
                Reply::SettledMany(settles.into_iter().map(failed).collect())
            }
        };
        let token = self.token;
        Completion { token, reply }
    }
}

impl<T> BatchItem<T> {
    /// The batch queue it belongs to.
    pub(super) fn batch_key(&self) -> BatchKey {
        BatchKey {
            budget: self.ticket.call.budget,
            kind: self.payload.kind(),
            queue: self.payload.queue().clone(),
        }
    }

    /// A call of its own.
    pub(super) fn alone(call: CallId, attempt: Attempt, token: T, payload: Payload) -> Self {
        Self::new(call, attempt, ReplyTo::One(token), payload, true)
    }

    /// One of the many of a call.
    pub(super) fn part(call: CallId, attempt: Attempt, index: usize, payload: Payload) -> Self {
        // As many items as would not fit it fit into no memory.
        let place = u32::try_from(index).unwrap_or(u32::MAX);
        Self::new(call, attempt, ReplyTo::Part(place), payload, index == 0)
    }

    fn new(call: CallId, attempt: Attempt, reply_to: ReplyTo<T>, payload: Payload, leads: bool) -> Self {
        Self {
            ticket: Ticket {
                call,
                reply_to,
                attempt,
                cost: payload.cost(),
                epoch: 0,
                leads,
                detached: false,
            },
            payload,
        }
    }
}

pub(super) fn ack_request(settles: &[Settle]) -> Request {
    Request::Ack(
        settles
            .iter()
            .map(|settle| AckItem {
                queue: settle.queue.clone(),
                id: settle.id.clone(),
            })
            .collect(),
    )
}

pub(super) fn nack_request(settles: &[Settle]) -> Request {
    Request::Nack(
        settles
            .iter()
            .map(|settle| NackItem {
                queue: settle.queue.clone(),
                id: settle.id.clone(),
                error: settle.nack.clone().unwrap_or_default(),
            })
            .collect(),
    )
}

impl BatchKind {
    pub(super) fn op(self) -> Op {
        match self {
            Self::Enqueue => Op::Enqueue,
            Self::Ack => Op::Ack,
            Self::Nack => Op::Nack,
        }
    }
}
