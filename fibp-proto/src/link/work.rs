//! What waits: calls, items of batches, and who is told of their results.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::Settle;
use super::completion::{CallId, Completion, Reply};
use crate::error::{Error, Outcome, SendError};
use crate::message::{Message, MessageId, QueueName};
use crate::request::{AckItem, NackItem, Request};

/// Bytes that a waiting item costs besides its contents.
const ITEM_OVERHEAD: usize = 128;

/// One request that travels in a frame of its own.
#[derive(Debug)]
pub(super) struct Call<T> {
    pub(super) id: CallId,
    pub(super) request: Request,
    /// `None`: the caller is gone.
    pub(super) token: Option<T>,
    pub(super) fate: Fate,
}

/// What a call or an item carries through retries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fate {
    pub(super) deadline: Option<Instant>,
    /// Sent before, on a connection that was lost: a "not there" answer means that the first one worked.
    pub(super) replayed: bool,
    /// How often it was handed to another node.
    pub(super) hops: u32,
}

impl Fate {
    pub(super) fn new(deadline: Option<Instant>) -> Self {
        Self {
            deadline,
            replayed: false,
            hops: 0,
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

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|at| at <= now)
    }
}

/// One item of a batched request.
#[derive(Debug)]
pub(super) struct Item<T> {
    pub(super) payload: Payload,
    pub(super) ticket: Ticket<T>,
}

/// What an item carries.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    Message(Message),
    Settle(Settle),
}

/// Which frames an item can share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LaneKey {
    pub(super) account: usize,
    pub(super) kind: LaneKind,
    pub(super) queue: QueueName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum LaneKind {
    Enqueue,
    Ack,
    Nack,
}

impl Payload {
    pub(super) fn kind(&self) -> LaneKind {
        match self {
            Self::Message(_) => LaneKind::Enqueue,
            Self::Settle(settle) if settle.nack.is_none() => LaneKind::Ack,
            Self::Settle(_) => LaneKind::Nack,
        }
    }

    pub(super) fn queue(&self) -> &QueueName {
        match self {
            Self::Message(message) => &message.queue,
            Self::Settle(settle) => &settle.queue,
        }
    }

    /// Bytes this is reckoned to hold while it waits.
    pub(super) fn cost(&self) -> usize {
        let contents = match self {
            Self::Message(message) => {
                let headers: usize = message.headers.iter().map(|(key, value)| key.len() + value.len()).sum();
                message.payload.len().saturating_add(headers)
            }
            Self::Settle(settle) => settle.nack.as_ref().map_or(0, String::len),
        };
        contents.saturating_add(ITEM_OVERHEAD)
    }
}

/// Who waits for an item, and what it is charged to.
#[derive(Debug)]
pub(super) struct Ticket<T> {
    pub(super) call: CallId,
    pub(super) waiter: Waiter<T>,
    pub(super) fate: Fate,
    /// The account it is charged to, with its bytes.
    pub(super) account: usize,
    pub(super) cost: usize,
    /// 1 for the first item of a call, which stands for the call itself.
    pub(super) requests: usize,
    /// The flush epoch of its producer.
    pub(super) epoch: u64,
    /// A receipt: goes out even when nobody waits for it any more.
    pub(super) detached: bool,
}

/// Who waits.
#[derive(Debug)]
pub(super) enum Waiter<T> {
    One(T),
    /// One of several whose results are joined.
    Part(Arc<Join<T>>, usize),
    /// Nobody any more.
    Nobody,
    /// Already told: its deadline passed while the frame it is in was under way.
    Told,
}

/// Results of a call with many items, joined in input order.
#[derive(Debug)]
pub(super) struct Join<T>(Mutex<Parts<T>>);

#[derive(Debug)]
struct Parts<T> {
    token: Option<T>,
    left: usize,
    results: Results,
}

#[derive(Debug)]
enum Results {
    Enqueued(Vec<Option<Result<MessageId, SendError>>>),
    Settled(Vec<Option<Result<(), Error>>>),
}

/// The result of one item.
#[derive(Debug)]
pub(super) enum ItemResult {
    Enqueued(Result<MessageId, SendError>),
    Settled(Result<(), Error>),
}

impl ItemResult {
    /// The failure of this payload.
    pub(super) fn failed(payload: Payload, error: Error) -> Self {
        match payload {
            Payload::Message(message) => Self::Enqueued(Err(SendError { message, error })),
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
            Self::Enqueued(Err(SendError { message, error })) => Self::Enqueued(Err(SendError {
                message,
                error: map(error),
            })),
            Self::Settled(Err(error)) => Self::Settled(Err(map(error))),
            done => done,
        }
    }

    fn into_reply<T>(self) -> Reply<T> {
        match self {
            Self::Enqueued(result) => Reply::Enqueued(result),
            Self::Settled(result) => Reply::Settled(result),
        }
    }
}

impl<T> Join<T> {
    pub(super) fn new(token: T, parts: usize, enqueue: bool) -> Arc<Self> {
        let results = if enqueue {
            Results::Enqueued(std::iter::repeat_with(|| None).take(parts).collect())
        } else {
            Results::Settled(std::iter::repeat_with(|| None).take(parts).collect())
        };
        Arc::new(Self(Mutex::new(Parts {
            token: Some(token),
            left: parts,
            results,
        })))
    }

    /// Records one part; the last one completes the whole.
    fn set(&self, index: usize, result: ItemResult) -> Option<Completion<T>> {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut parts.results, result) {
            (Results::Enqueued(all), ItemResult::Enqueued(result)) => {
                if let Some(place) = all.get_mut(index) {
                    *place = Some(result);
                }
            }
            (Results::Settled(all), ItemResult::Settled(result)) => {
                if let Some(place) = all.get_mut(index) {
                    *place = Some(result);
                }
            }
            // The lanes never mix kinds.
            (Results::Enqueued(_), ItemResult::Settled(_)) | (Results::Settled(_), ItemResult::Enqueued(_)) => {}
        }
        parts.left = parts.left.saturating_sub(1);
        if parts.left > 0 {
            return None;
        }
        let reply = match &mut parts.results {
            Results::Enqueued(all) => Reply::EnqueuedMany(all.drain(..).flatten().collect()),
            Results::Settled(all) => Reply::SettledMany(all.drain(..).flatten().collect()),
        };
        parts.token.take().map(|token| Completion { token, reply })
    }

    pub(super) fn take_token(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).token.take()
    }
}

/// What telling a waiter amounted to.
#[derive(Debug)]
pub(super) struct Told<T> {
    pub(super) completion: Option<Completion<T>>,
    /// A failure that nobody heard of.
    pub(super) unheard: Option<Error>,
}

impl<T> Waiter<T> {
    pub(super) fn tell(self, result: ItemResult) -> Told<T> {
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
            Self::Part(join, index) => told.completion = join.set(index, result),
            Self::Nobody => told.unheard = result.error().cloned(),
            Self::Told => {}
        }
        told
    }
}

/// What the table keeps with a request in flight.
#[derive(Debug)]
pub(super) enum Work<T> {
    Call(Call<T>),
    Batch(Batch<T>),
    /// The consume request of this link's consumer.
    Subscribe,
}

/// A batched request in flight: the request keeps the payloads, `tickets` who waits for each.
#[derive(Debug)]
pub(super) struct Batch<T> {
    pub(super) lane: LaneKey,
    pub(super) payloads: Payloads,
    pub(super) tickets: Vec<Ticket<T>>,
}

/// The payloads of a batch in the form the codec takes.
#[derive(Debug)]
pub(super) enum Payloads {
    /// An enqueue request.
    Messages(Request),
    /// Acks or nacks, with what their request does not say.
    Settles(Vec<Settle>),
}

impl Payloads {
    pub(super) fn into_vec(self) -> Vec<Payload> {
        match self {
            Self::Messages(Request::Enqueue(messages)) => messages.into_iter().map(Payload::Message).collect(),
            Self::Messages(_) => Vec::new(),
            Self::Settles(settles) => settles.into_iter().map(Payload::Settle).collect(),
        }
    }

    pub(super) fn clone_one(&self, index: usize) -> Option<Payload> {
        match self {
            Self::Messages(Request::Enqueue(messages)) => messages.get(index).cloned().map(Payload::Message),
            Self::Messages(_) => None,
            Self::Settles(settles) => settles.get(index).cloned().map(Payload::Settle),
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
