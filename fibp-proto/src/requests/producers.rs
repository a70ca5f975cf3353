//! Producers: their budgets, their flushes, and the messages they hand over.

use std::time::{Duration, Instant};

use super::Requests;
use super::budget::{Reserved, Submission};
use super::few::Few;
use super::run::{Payloads, ReplyTo, Run, cost_of_message};
use super::submit::{closed, full};
use super::work::{Attempt, CLIENT};
use crate::config::ProducerSettings;
use crate::error::{Doing, Error, SendError};
use crate::machine::CallId;
use crate::message::Message;
use crate::request::Op;

/// Names a producer of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProducerId(pub(super) u32);

impl<T> Requests<T> {
    /// A producer with batch queues and a buffer of its own.
    pub fn open_producer(&mut self, settings: ProducerSettings) -> ProducerId {
        ProducerId(self.ledger.budgets.open(settings))
    }

    /// The producer's last handle is gone: what it holds is still sent.
    pub fn close_producer(&mut self, producer: ProducerId) {
        let now = self.latest;
        if producer.0 != CLIENT {
            self.ledger.budgets.close(producer.0);
        }
        self.router.flush(now, Some(producer.0));
        self.settle_budgets(now);
    }

    /// Hands a message to a producer if there is room right now. `receipt` completes with
    /// [`Reply::Enqueued`](crate::machine::Reply::Enqueued) when the broker answered. The message goes out also if its
    /// receipt is [abandoned](Self::abandon).
    ///
    /// # Errors
    ///
    /// The message and the token back: `Overloaded` when the buffer is full, `Closed` after a close.
    pub fn try_send(
        &mut self,
        now: Instant,
        producer: ProducerId,
        message: Message,
        timeout: Option<Duration>,
        receipt: T,
    ) -> Result<CallId, (SendError, T)> {
        let refusal = self.refusal(now);
        let id = self.next_call_id_of(producer);
        let attempt = Attempt::new(self.deadline(now, timeout));
        let item = receipt_item(id, message, attempt, receipt);
        let refusal = refusal.or_else(|| self.unsendable(&item.payloads));
        let refusal = refusal.or_else(|| match self.ledger.budgets.get(producer.0) {
            Some(budget) if budget.has_room_for(item.ticket.cost) => None,
            Some(_) => Some(full()),
            None => Some(closed("the producer")),
        });
        self.take_in(now, item, refusal)
    }

    /// Waits for room for a message of a producer, in line with others; completes with
    /// [`Reply::Room`](crate::machine::Reply::Room). The caller keeps the message, so that one who goes away before the
    /// room is used has sent nothing. The room is kept for [`send_reserved`](Self::send_reserved) until it is used or
    /// [abandoned](Self::abandon).
    pub fn reserve(
        &mut self,
        now: Instant,
        producer: ProducerId,
        message: &Message,
        timeout: Option<Duration>,
        token: T,
    ) -> CallId {
        let id = self.next_call_id_of(producer);
        let deadline = self.deadline(now, timeout);
        let cost = cost_of_message(message);
        let room = Reserved { id, cost, deadline };
        self.submit(
            now,
            producer.0,
            id,
            deadline,
            Submission::Room {
                room,
                queue: message.queue.clone(),
                token,
            },
        );
        id
    }

    /// Hands a message to a producer into room that was [reserved](Self::reserve) for it, also while the client closes.
    ///
    /// # Errors
    ///
    /// The message and the token back, if the client has ended meanwhile.
    pub fn send_reserved(
        &mut self,
        now: Instant,
        producer: ProducerId,
        room: CallId,
        message: Message,
        receipt: T,
    ) -> Result<CallId, (SendError, T)> {
        // Given back here and taken by `take_in`. Nobody in line comes in between: that is for `settle_budgets`, below.
        let reserved = self.ledger.budgets.redeem(producer.0, room);
        let id = self.next_call_id_of(producer);
        let attempt = Attempt::new(reserved.and_then(|room| room.deadline));
        let item = receipt_item(id, message, attempt, receipt);
        // Not `refusal`: whoever was promised room may use it while the client closes, and the close waits for that.
        let refusal = self.channel_refusal(now).or_else(|| self.unsendable(&item.payloads));
        let refusal = refusal.or_else(|| reserved.is_none().then(|| closed("the wait for room")));
        let result = self.take_in(now, item, refusal);
        let is_closing = self.ledger.closing.is_some();
        if is_closing || self.ledger.budgets.get(producer.0).is_some_and(|budget| budget.closed) {
            // Nothing more will come that is worth lingering for.
            self.router.flush(now, Some(producer.0));
        }
        self.settle_budgets(now);
        self.check_closing(now);
        result
    }

    /// Admits a producer's message unless there is a reason not to.
    fn take_in(&mut self, now: Instant, item: Run<T>, refusal: Option<Error>) -> Result<CallId, (SendError, T)> {
        let id = item.ticket.call;
        let Some(error) = refusal else {
            self.admit_run(now, item);
            return Ok(id);
        };
        match (item.payloads, item.ticket.reply_to) {
            (Payloads::Messages(Few::One(message)), ReplyTo::One(receipt)) => {
                let error = error.during(|| Doing::on_queue(Op::Enqueue, &message.queue));
                Err((SendError { message, error }, receipt))
            }
            _ => Ok(id),
        }
    }

    /// Sends what the producer holds without lingering; completes with [`Reply::Flushed`](crate::machine::Reply::Flushed) when everything
    /// handed to it before this call is settled.
    pub fn flush(&mut self, now: Instant, producer: ProducerId, timeout: Option<Duration>, token: T) -> CallId {
        let id = self.next_call_id_of(producer);
        let deadline = self.deadline(now, timeout);
        self.router.flush(now, Some(producer.0));
        self.ledger.flush(producer.0, id, deadline, token);
        id
    }

    /// Sends what the producer holds without lingering, and waits for nothing.
    pub fn hurry(&mut self, now: Instant, producer: ProducerId) {
        self.router.flush(now, Some(producer.0));
    }
}

fn receipt_item<T>(id: CallId, message: Message, attempt: Attempt, receipt: T) -> Run<T> {
    let mut item = Run::alone(id, attempt, receipt, message);
    // Producers are bounded by bytes, not by requests.
    item.ticket.leads = false;
    item.ticket.detached = true;
    item
}
