//! Runs: consecutive items of one call, which wait, travel and end as one.
//!
//! One message or settle is a run by itself, held in place. A list is a run for each stretch of its items that may share
//! a frame. A frame takes as much of a run as it has room for, so runs are divided; what comes back from a connection
//! joins what it was divided from.
//!
//! # Invariants
//!
//! * A run is never empty, and its ticket knows how long it is.
//! * Its items have consecutive places among the items of their call, in the order of the input, and belong to the same
//!   batch queue.
//! * The items of a list are parts: their results are joined, and their caller's token is kept with the results. Only a
//!   run that is its whole call holds a token, and it has one item. So a run is divided without a look at who waits.
//! * A run is charged what its items cost, and for its call if it has the call's first item. Whoever divides a run
//!   divides the charge.

use bytes::Bytes;

use super::few::Few;
use super::places::{Place, Places};
use super::settle::Settle;
use super::work::{Attempt, BatchKind, KeyRef};
use crate::connection::NOWHERE;
use crate::error::{Doing, Error, SendError};
use crate::machine::{CallId, Reply};
use crate::message::{Message, MessageId, QueueName, same_queue};
use crate::request::Op;

/// Bytes that a waiting item costs besides its contents.
const ITEM_OVERHEAD: usize = 128;

/// See the [module documentation](self).
#[derive(Debug)]
pub(super) struct Run<T> {
    pub(super) payloads: Payloads,
    pub(super) ticket: Ticket<T>,
}

/// Who waits for a run, and what it is charged to.
#[derive(Debug)]
pub(super) struct Ticket<T> {
    pub(super) call: CallId,
    pub(super) reply_to: ReplyTo<T>,
    pub(super) attempt: Attempt,
    /// How many items it is for.
    pub(super) items: usize,
    /// Their bytes, which are charged to the budget of the call.
    pub(super) cost: usize,
    /// The flush epoch of the producer.
    pub(super) epoch: u64,
    /// It has the first item of its call, which is charged for the call itself.
    pub(super) leads: bool,
    /// A receipt: is sent even when nobody waits for it.
    pub(super) detached: bool,
}

/// Who waits.
#[derive(Debug)]
pub(super) enum ReplyTo<T> {
    One(T),
    /// The caller of a list, whose results are joined in this machine, and the place of the first item in the list.
    Part(usize),
    /// Nobody any more.
    Nobody,
    /// Its caller has the result already: its deadline passed while the frame it is in was under way.
    Told,
}

/// What a run takes up in its budget.
#[derive(Debug, Clone, Copy)]
pub(super) struct Charge {
    pub(super) call: CallId,
    pub(super) items: usize,
    pub(super) cost: usize,
    pub(super) epoch: u64,
    pub(super) leads: bool,
}

impl<T> Run<T> {
    /// A call with one item.
    pub(super) fn alone(call: CallId, attempt: Attempt, token: T, payload: impl Into<Payloads>) -> Self {
        let payloads = payload.into();
        Self {
            ticket: Ticket {
                call,
                reply_to: ReplyTo::One(token),
                attempt,
                items: 1,
                cost: payloads.cost(),
                epoch: 0,
                leads: true,
                detached: false,
            },
            payloads,
        }
    }

    /// Items of a list, from this place on, and what they cost.
    pub(super) fn part(call: CallId, attempt: Attempt, first: usize, payloads: Payloads, cost: usize) -> Self {
        Self {
            ticket: Ticket {
                call,
                reply_to: ReplyTo::Part(first),
                attempt,
                items: payloads.len(),
                cost,
                epoch: 0,
                leads: first == 0,
                detached: false,
            },
            payloads,
        }
    }

    /// How many items it has.
    pub(super) fn len(&self) -> usize {
        self.ticket.items
    }

    /// The batch queue it belongs to.
    pub(super) fn key(&self) -> KeyRef<'_> {
        KeyRef {
            budget: self.ticket.call.budget,
            kind: self.payloads.kind(),
            queue: self.payloads.queue(),
        }
    }

    /// Takes the first `items` off. Fewer than there are: none of the two is empty.
    pub(super) fn split_front(&mut self, items: usize) -> Self {
        let payloads = self.payloads.split_front(items);
        let ticket = self.ticket.split_front(items, payloads.cost());
        Self { payloads, ticket }
    }

    /// Item by item.
    pub(super) fn into_items(self) -> impl Iterator<Item = Self> {
        let mut left = Some(self);
        std::iter::from_fn(move || match &mut left {
            Some(run) if run.len() > 1 => Some(run.split_front(1)),
            last => last.take(),
        })
    }

    /// Whether `next` begins where this ends, and went through the same.
    pub(super) fn continues_with(&self, next: &Self) -> bool {
        let (ticket, next) = (&self.ticket, &next.ticket);
        match (&ticket.reply_to, &next.reply_to) {
            (ReplyTo::Part(place), ReplyTo::Part(follower)) => {
                // Not with another past: what was sent before is judged otherwise than what was not.
                ticket.call == next.call && place + ticket.items == *follower && ticket.attempt == next.attempt
            }
            _ => false,
        }
    }

    /// Joins what continues this run.
    pub(super) fn append(&mut self, next: Self) {
        self.payloads.append(next.payloads);
        self.ticket.absorb(&next.ticket);
    }

    /// Joins what this run continues.
    pub(super) fn prepend(&mut self, mut previous: Self) {
        self.payloads.prepend(previous.payloads);
        previous.ticket.absorb(&self.ticket);
        self.ticket = previous.ticket;
    }
}

impl<T> Ticket<T> {
    /// Where a run belongs among others of its queue: by call, then by place within the call.
    pub(super) fn order(&self) -> (CallId, usize) {
        let place = match &self.reply_to {
            ReplyTo::Part(place) => *place,
            ReplyTo::One(_) | ReplyTo::Nobody | ReplyTo::Told => 0,
        };
        (self.call, place)
    }

    /// Notes where it is, unless it is a part of its call.
    pub(super) fn note_place(&self, places: &mut Places, place: Place) {
        if !matches!(self.reply_to, ReplyTo::Part(_)) {
            places.set(self.call, place);
        }
    }

    pub(super) fn is_told(&self) -> bool {
        matches!(self.reply_to, ReplyTo::Told)
    }

    pub(super) fn charge(&self) -> Charge {
        Charge {
            call: self.call,
            items: self.items,
            cost: self.cost,
            epoch: self.epoch,
            leads: self.leads,
        }
    }

    /// A ticket that completes the waiter now; the one that stays has nobody to complete and holds no room.
    pub(super) fn tell_early(&mut self) -> Self {
        let told = Self {
            reply_to: std::mem::replace(&mut self.reply_to, ReplyTo::Told),
            ..*self
        };
        // The charge goes with the result. The answer to the frame must not give it back again.
        self.cost = 0;
        self.leads = false;
        told
    }

    /// The ticket of the first `items`, which are charged `cost`; this one stays that of the rest.
    fn split_front(&mut self, items: usize, cost: usize) -> Self {
        let reply_to = match &mut self.reply_to {
            ReplyTo::Part(place) => {
                let first = *place;
                *place += items;
                ReplyTo::Part(first)
            }
            // Only parts are longer than one item.
            whole => std::mem::replace(whole, ReplyTo::Nobody),
        };
        let front = Self {
            reply_to,
            items,
            cost,
            ..*self
        };
        // The first item goes with the front, and so does the charge for the call.
        self.items = self.items.saturating_sub(items);
        self.cost = self.cost.saturating_sub(cost);
        self.leads = false;
        front
    }

    /// Takes over the items of the ticket that follows.
    fn absorb(&mut self, next: &Self) {
        self.items += next.items;
        self.cost = self.cost.saturating_add(next.cost);
        self.leads |= next.leads;
    }
}

impl<T> ReplyTo<T> {
    /// The token of one that waits alone.
    pub(super) fn into_token(self) -> Option<T> {
        match self {
            Self::One(token) => Some(token),
            Self::Part(_) | Self::Nobody | Self::Told => None,
        }
    }
}

/// What the items of a run, or of a frame, carry.
#[derive(Debug, Clone)]
pub(super) enum Payloads {
    /// What is enqueued.
    Messages(Few<Message>),
    /// Acks or nacks, with what their request does not say.
    Settles(Few<Settle>),
}

impl From<Message> for Payloads {
    fn from(message: Message) -> Self {
        Self::Messages(Few::One(message))
    }
}

impl From<Settle> for Payloads {
    fn from(settle: Settle) -> Self {
        Self::Settles(Few::One(settle))
    }
}

/// Calls the same method of whatever a [`Payloads`] holds.
macro_rules! each {
    ($payloads:expr, $few:ident => $call:expr) => {
        match $payloads {
            Payloads::Messages($few) => $call,
            Payloads::Settles($few) => $call,
        }
    };
}

impl Payloads {
    /// Makes room for so many in all.
    pub(super) fn make_room(&mut self, n: usize) {
        each!(self, few => few.make_room(n));
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        each!(self, few => few.len())
    }

    /// The batch queue that the first of them, and in a run all, belong to.
    #[inline]
    pub(super) fn kind(&self) -> BatchKind {
        match self {
            Self::Messages(_) => BatchKind::Enqueue,
            Self::Settles(settles) => settles.first().map_or(BatchKind::Ack, Settle::kind),
        }
    }

    /// The queue of the first of them, and in a run of all.
    #[inline]
    pub(super) fn queue(&self) -> &QueueName {
        let queue = match self {
            Self::Messages(messages) => messages.first().map(|message| &message.queue),
            Self::Settles(settles) => settles.first().map(|settle| &settle.queue),
        };
        // Runs are never empty.
        queue.unwrap_or(&NOWHERE)
    }

    /// An estimate of the bytes this holds while it waits.
    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Messages(messages) => total(messages.iter().map(cost_of_message)),
            Self::Settles(settles) => total(settles.iter().map(cost_of_settle)),
        }
    }

    /// How many of them, from the first on, belong to the same batch queue.
    pub(super) fn of_one_queue(&self) -> usize {
        match self {
            Self::Messages(messages) => messages.alike(|a, b| same_queue(&a.queue, &b.queue)),
            Self::Settles(settles) => settles.alike(|a, b| a.kind() == b.kind() && same_queue(&a.queue, &b.queue)),
        }
    }

    /// Takes the first `n` off.
    pub(super) fn split_front(&mut self, n: usize) -> Self {
        match self {
            Self::Messages(messages) => Self::Messages(messages.split_front(n)),
            Self::Settles(settles) => Self::Settles(settles.split_front(n)),
        }
    }

    /// Puts others behind these.
    #[inline]
    pub(super) fn append(&mut self, others: Self) {
        match (self, others) {
            (Self::Messages(messages), Self::Messages(others)) => messages.append(others),
            (Self::Settles(settles), Self::Settles(others)) => settles.append(others),
            // Invariant: a batch queue holds either messages or settles.
            (Self::Messages(_), Self::Settles(_)) | (Self::Settles(_), Self::Messages(_)) => {}
        }
    }

    fn prepend(&mut self, others: Self) {
        match (self, others) {
            (Self::Messages(messages), Self::Messages(others)) => messages.prepend(others),
            (Self::Settles(settles), Self::Settles(others)) => settles.prepend(others),
            // As above.
            (Self::Messages(_), Self::Settles(_)) | (Self::Settles(_), Self::Messages(_)) => {}
        }
    }

    /// Copies of some of them.
    pub(super) fn clone_range(&self, from: usize, n: usize) -> Self {
        match self {
            Self::Messages(messages) => Self::Messages(messages.clone_range(from, n)),
            Self::Settles(settles) => Self::Settles(settles.clone_range(from, n)),
        }
    }
}

pub(crate) fn cost_of_message(message: &Message) -> usize {
    ITEM_OVERHEAD
        .saturating_add(message.payload.len())
        .saturating_add(message.headers.content_len())
}

fn cost_of_settle(settle: &Settle) -> usize {
    ITEM_OVERHEAD.saturating_add(settle.nack.as_ref().map_or(0, String::len))
}

fn total(costs: impl Iterator<Item = usize>) -> usize {
    costs.fold(0, usize::saturating_add)
}

// ---- failures ----

/// The results of messages that all failed for the same reason.
pub(super) fn failed_messages(
    messages: Few<Message>,
    error: &Error,
) -> impl Iterator<Item = Result<MessageId, SendError>> {
    // Neighbours are mostly of one queue, and share the error then.
    let mut latest: Option<(QueueName, Error)> = None;
    messages.into_iter().map(move |message| {
        let known = latest.as_ref().filter(|(queue, _)| same_queue(queue, &message.queue));
        let error = match known {
            Some((_, error)) => error.clone(),
            None => {
                let error = error.clone().during(|| Doing::on_queue(Op::Enqueue, &message.queue));
                latest = Some((message.queue.clone(), error.clone()));
                error
            }
        };
        Err(SendError { message, error })
    })
}

/// The results of settles that all failed for the same reason.
pub(super) fn failed_settles(settles: Few<Settle>, error: &Error) -> impl Iterator<Item = Result<(), Error>> {
    settles
        .into_iter()
        .map(move |settle| Err(error.clone().during(|| settle.doing())))
}

impl Payloads {
    /// What is told to the caller of one item that failed.
    pub(super) fn fail_one(self, error: &Error) -> Reply {
        match self {
            Self::Messages(messages) => {
                let failed = failed_messages(messages, error).next().and_then(Result::err);
                // Runs are never empty.
                let failed = failed.unwrap_or_else(|| SendError {
                    message: Message::new("", Bytes::new()),
                    error: error.clone(),
                });
                Reply::Enqueued(Err(Box::new(failed)))
            }
            Self::Settles(settles) => {
                let failed = failed_settles(settles, error).next();
                Reply::Settled(failed.unwrap_or_else(|| Err(error.clone())))
            }
        }
    }

    /// What is told to the caller of a list that failed as a whole.
    pub(super) fn fail_all(self, error: &Error) -> Reply {
        match self {
            Self::Messages(messages) => Reply::EnqueuedMany(failed_messages(messages, error).collect()),
            Self::Settles(settles) => Reply::SettledMany(failed_settles(settles, error).collect()),
        }
    }
}
