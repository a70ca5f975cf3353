//! What callers ask of a link.

use std::time::{Duration, Instant};

use super::accounts::{Account, Job, Parked, Reserved};
use super::answers::{ELECTION_PAUSE, Moved};
use super::closing::Closing;
use super::completion::{CallId, Completion, Reply};
use super::work::{Call, Charge, Fate, Item, ItemResult, Many, Payload, Payloads, Waiter, Work, cost_of_message};
use super::{Link, ProducerId, Settle};
use crate::config::{OnFull, ProducerSettings};
use crate::directory::Purpose;
use crate::error::{Error, ErrorKind, SendError};
use crate::event::{Event, LinkName};
use crate::message::Message;
use crate::request::Request;
use crate::simulation::Flaw;
use crate::soonest::earlier;

/// The client's own account.
pub(super) const CLIENT: usize = 0;

/// Work on its way to another link: opaque to the adapter.
#[derive(Debug)]
pub struct Parcel<T>(pub(super) Cargo<T>);

#[derive(Debug)]
pub(super) enum Cargo<T> {
    Call(Call<T>),
    Items(Vec<Item<T>>),
    /// What is over of the work that the main link gave away.
    Over(Vec<Over>),
}

/// Work that ended in the link to a node.
#[derive(Debug)]
pub(super) enum Over {
    Call,
    Item(Charge, Option<Error>),
}

impl<T> Link<T> {
    /// One request; completes with [`Reply::Response`]. `timeout` overrides the configured request timeout.
    pub fn call(&mut self, now: Instant, request: Request, timeout: Option<Duration>, token: T) -> CallId {
        let id = self.next_call_id();
        if !Self::is_callable(&request) {
            let text = format!(
                "{:?} is not a call: use the producer's or consumer's own methods",
                request.op()
            );
            self.complete_call(Some(token), Err(Error::new(ErrorKind::InvalidArgument, text)));
            self.note_change();
            return id;
        }
        let fate = Fate::new(self.deadline(now, timeout));
        let call = Call {
            id,
            request,
            token: Some(token),
            fate,
            is_abroad: false,
        };
        self.submit(now, CLIENT, id, fate.deadline, Job::Call(call));
        id
    }

    /// One message through the client's own accumulator; completes with [`Reply::Enqueued`].
    pub fn enqueue(&mut self, now: Instant, message: Message, timeout: Option<Duration>, token: T) -> CallId {
        self.submit_one(now, message.into(), timeout, token)
    }

    /// Many messages, any mix of queues; completes with [`Reply::EnqueuedMany`], results in input order.
    pub fn enqueue_many(
        &mut self,
        now: Instant,
        messages: Vec<Message>,
        timeout: Option<Duration>,
        token: T,
    ) -> CallId {
        let payloads = Payloads::Messages(messages);
        self.submit_many(now, payloads, timeout, token)
    }

    /// One ack or nack; completes with [`Reply::Settled`].
    pub fn settle(&mut self, now: Instant, settle: Settle, timeout: Option<Duration>, token: T) -> CallId {
        self.note_late(now, &settle);
        self.submit_one(now, settle.into(), timeout, token)
    }

    /// Many acks and nacks; completes with [`Reply::SettledMany`], results in input order.
    pub fn settle_many(&mut self, now: Instant, settles: Vec<Settle>, timeout: Option<Duration>, token: T) -> CallId {
        for settle in &settles {
            self.note_late(now, settle);
        }
        self.submit_many(now, Payloads::Settles(settles), timeout, token)
    }

    /// A producer with an accumulator of its own.
    pub fn open_producer(&mut self, settings: ProducerSettings) -> ProducerId {
        let account = Some(Account::of_producer(settings));
        let free = self.accounts.iter().position(Option::is_none);
        let index = match free.and_then(|index| self.accounts.get_mut(index).map(|place| (index, place))) {
            Some((index, place)) => {
                *place = account;
                index
            }
            None => {
                self.accounts.push(account);
                self.accounts.len() - 1
            }
        };
        ProducerId(index)
    }

    /// The producer's last handle is gone: what it holds is still sent.
    pub fn close_producer(&mut self, producer: ProducerId) {
        let now = self.latest;
        if let Some(account) = self.account(producer.0).filter(|_| producer.0 != CLIENT) {
            account.closed = true;
        }
        self.lanes.flush(now, Some(producer.0));
        self.settle_accounts(now);
        self.note_change();
    }

    /// Hands a message to a producer. `admitted` completes with [`Reply::Admitted`] once the message is in the
    /// buffer (at once if there is room, later or with an error per `on_full`), `receipt` with
    /// [`Reply::Enqueued`] when the broker answered. If admission fails, only `admitted` completes, and
    /// `receipt` comes back inside it.
    pub fn send(
        &mut self,
        now: Instant,
        producer: ProducerId,
        message: Message,
        timeout: Option<Duration>,
        admitted: T,
        receipt: T,
    ) -> CallId {
        let id = self.next_call_id();
        let fate = Fate::new(self.deadline(now, timeout));
        let item = self.receipt_item(id, producer, message, fate, receipt);
        self.submit(now, producer.0, id, fate.deadline, Job::Send { item, admitted });
        id
    }

    /// Hands a message to a producer if there is room right now.
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
        let id = self.next_call_id();
        let fate = Fate::new(self.deadline(now, timeout));
        let item = self.receipt_item(id, producer, message, fate, receipt);
        let refusal = refusal.or_else(|| self.unsendable(&item.payload));
        let refusal = refusal.or_else(|| match self.account(producer.0) {
            Some(account) if account.has_room_for(item.ticket.cost) => None,
            Some(_) => Some(full()),
            None => Some(closed("the producer")),
        });
        let result = self.take_in(now, producer, item, refusal);
        if result.is_ok() {
            self.note_change();
        }
        result
    }

    /// Waits for room for a message of a producer, in line with others; completes with [`Reply::Room`]. The caller keeps the
    /// message, so that one who goes away before the room is used has sent nothing. The room is kept for
    /// [`send_reserved`](Self::send_reserved) until it is used or [abandoned](Self::abandon).
    pub fn reserve(
        &mut self,
        now: Instant,
        producer: ProducerId,
        message: &Message,
        timeout: Option<Duration>,
        token: T,
    ) -> CallId {
        let id = self.next_call_id();
        let deadline = self.deadline(now, timeout);
        let cost = cost_of_message(message);
        let room = Reserved { id, cost, deadline };
        self.submit(now, producer.0, id, deadline, Job::Room { room, token });
        id
    }

    /// Hands a message to a producer into room that was [reserved](Self::reserve) for it, also while the link closes.
    ///
    /// # Errors
    ///
    /// The message and the token back, if the link has ended meanwhile.
    pub fn send_reserved(
        &mut self,
        now: Instant,
        producer: ProducerId,
        room: CallId,
        message: Message,
        receipt: T,
    ) -> Result<CallId, (SendError, T)> {
        let reserved = self.account(producer.0).and_then(|account| account.redeem(room));
        let id = self.next_call_id();
        let fate = Fate::new(reserved.and_then(|room| room.deadline));
        let item = self.receipt_item(id, producer, message, fate, receipt);
        let refusal = self.session_refusal(now).or_else(|| self.unsendable(&item.payload));
        let refusal = refusal.or_else(|| reserved.is_none().then(|| closed("the wait for room")));
        let result = self.take_in(now, producer, item, refusal);
        self.settle_accounts(now);
        self.check_closing(now);
        self.note_change();
        result
    }

    /// Admits a producer's message unless there is a reason not to.
    fn take_in(
        &mut self,
        now: Instant,
        producer: ProducerId,
        item: Item<T>,
        refusal: Option<Error>,
    ) -> Result<CallId, (SendError, T)> {
        let id = item.ticket.call;
        let Some(error) = refusal else {
            self.admit(now, producer.0, Job::Item(item));
            return Ok(id);
        };
        match (item.payload, item.ticket.waiter) {
            (Payload::Message(message), Waiter::One(receipt)) => Err((SendError { message, error }, receipt)),
            _ => Ok(id),
        }
    }

    /// Sends what the producer holds without lingering; completes with [`Reply::Flushed`] when everything
    /// handed to it before this call is settled.
    pub fn flush(&mut self, now: Instant, producer: ProducerId, timeout: Option<Duration>, token: T) -> CallId {
        let id = self.next_call_id();
        let deadline = self.deadline(now, timeout);
        self.lanes.flush(now, Some(producer.0));
        let mut completions = std::mem::take(&mut self.completions);
        match self.account(producer.0) {
            Some(account) => account.flush(id, deadline, token, &mut completions),
            None => completions.push(Completion {
                token,
                reply: Reply::Flushed(Err(closed("the producer"))),
            }),
        }
        self.completions = completions;
        self.note_change();
        id
    }

    /// The caller is gone. Its token, if the call was still open; what was not sent yet is withdrawn, except
    /// for receipts of producers.
    pub fn abandon(&mut self, id: CallId) -> Option<T> {
        let now = self.latest;
        let token = self.find_abandoned(now, id);
        self.settle_accounts(now);
        self.check_closing(now);
        self.note_change();
        token
    }

    /// Whether work of other links can still be done here: also while this one closes, until nothing is open any more.
    #[must_use]
    pub fn takes_parcels(&self) -> bool {
        self.closing.as_ref().is_none_or(|closing| !closing.is_done()) && !self.session.is_leaving()
    }

    /// Accepts work that another link handed over with [`Action::Reroute`](super::Action::Reroute). What a link to a
    /// node cannot take, because it has ended meanwhile, comes back: give it to the main link.
    #[must_use = "what comes back is work that somebody waits for"]
    pub fn accept(&mut self, now: Instant, parcel: Parcel<T>) -> Option<Parcel<T>> {
        let refusal = if self.takes_parcels() {
            self.session_refusal(now)
        } else {
            self.refusal(now)
        };
        let is_home = self.name == LinkName::Main;
        if !is_home && (refusal.is_some() || matches!(parcel.0, Cargo::Over(_))) {
            return Some(parcel);
        }
        match parcel.0 {
            Cargo::Over(over) => {
                for over in over {
                    match over {
                        Over::Call => self.release_call(),
                        Over::Item(charge, error) => self.release(charge, error.as_ref()),
                    }
                }
                self.settle_accounts(now);
            }
            // The call ids of the other link mean nothing here, but the order they stand for does.
            Cargo::Call(mut call) => {
                call.id = self.next_accepted_id();
                call.is_abroad = !is_home;
                match refusal {
                    Some(error) => self.finish_call(call, Err(error)),
                    // It is charged at home all the while.
                    None if is_home && call.fate.is_in_circles() => {
                        self.delay_call(now.checked_add(ELECTION_PAUSE), call);
                    }
                    None if is_home => self.requeue_call(call),
                    None => self.admit(now, CLIENT, Job::Call(call)),
                }
            }
            Cargo::Items(items) => {
                let mut latest = None;
                let mut moved = Moved::default();
                for mut item in items {
                    // What came together stays together.
                    let known = latest.filter(|(theirs, _)| *theirs == item.ticket.call);
                    let (theirs, ours) = known.unwrap_or_else(|| (item.ticket.call, self.next_accepted_id()));
                    latest = Some((theirs, ours));
                    item.ticket.call = ours;
                    if is_home {
                        self.welcome(now, item, refusal.as_ref(), &mut moved);
                    } else {
                        let charge = item.ticket.charge();
                        item.ticket.home.get_or_insert_with(|| Box::new(charge));
                        item.ticket.set_charge(Charge {
                            account: CLIENT,
                            cost: item.payload.cost(),
                            ..charge
                        });
                        self.admit_item(now, item, &mut moved);
                    }
                }
                self.hand_over_all(moved);
            }
        }
        self.note_change();
        None
    }

    /// An item is back in the main link, where it was charged all the while.
    fn welcome(&mut self, now: Instant, mut item: Item<T>, refusal: Option<&Error>, moved: &mut Moved<T>) {
        if let Some(home) = item.ticket.home.take() {
            item.ticket.set_charge(*home);
        }
        if let Some(error) = refusal {
            return self.finish_item(item.ticket, ItemResult::failed(item.payload, error.clone()));
        }
        if let Some(leader) = self.leader_elsewhere(&item.payload) {
            return moved.add(leader, item);
        }
        match self.account(item.ticket.account).map(|account| account.policy) {
            Some(policy) => {
                let held = item.ticket.fate.is_in_circles().then(|| item.lane());
                self.lanes.push(now, policy, item);
                if let (Some(lane), Some(until)) = (held, now.checked_add(ELECTION_PAUSE)) {
                    self.lanes.hold(now, &lane, until);
                }
            }
            None => self.fail_items(vec![item], &closed("the producer")),
        }
    }

    /// Flushes, waits for answers, then closes; completes with [`Reply::Closed`] by `now + deadline` at the
    /// latest; a deadline beyond the clock's range is no limit. Later calls fail with `Closed`.
    pub fn close(&mut self, now: Instant, deadline: Duration, token: T) -> CallId {
        let id = self.next_call_id();
        let until = now.checked_add(deadline);
        match &mut self.closing {
            Some(closing) => {
                closing.tokens.push((id, token));
                closing.until = earlier(closing.until, until);
            }
            None => self.closing = Some(Closing::new(id, token, until)),
        }
        self.lanes.flush(now, None);
        self.check_closing(now);
        self.note_change();
        id
    }

    // ---- the way in ----

    pub(super) fn deadline(&self, now: Instant, timeout: Option<Duration>) -> Option<Instant> {
        let configured = self.shared.config().settings().request_timeout;
        timeout.or(configured).and_then(|timeout| now.checked_add(timeout))
    }

    fn submit_one(&mut self, now: Instant, payload: Payload, timeout: Option<Duration>, token: T) -> CallId {
        let id = self.next_call_id();
        let fate = Fate::new(self.deadline(now, timeout));
        let item = Item::alone(id, fate, token, payload);
        self.submit(now, CLIENT, id, fate.deadline, Job::Item(item));
        id
    }

    fn submit_many(&mut self, now: Instant, payloads: Payloads, timeout: Option<Duration>, token: T) -> CallId {
        let call = self.next_call_id();
        let is_enqueue = matches!(payloads, Payloads::Messages(_));
        if payloads.len() == 0 {
            let reply = if is_enqueue {
                Reply::EnqueuedMany(Vec::new())
            } else {
                Reply::SettledMany(Vec::new())
            };
            self.completions.push(Completion { token, reply });
            self.note_change();
            return call;
        }
        let fate = Fate::new(self.deadline(now, timeout));
        let many = Many {
            call,
            fate,
            token,
            payloads,
        };
        self.submit(now, CLIENT, call, fate.deadline, Job::Many(many));
        call
    }

    fn receipt_item(&self, id: CallId, producer: ProducerId, message: Message, fate: Fate, receipt: T) -> Item<T> {
        let mut item = Item::alone(id, fate, receipt, message.into());
        item.ticket.account = producer.0;
        item.ticket.leads = false;
        item.ticket.detached = true;
        item
    }

    fn submit(&mut self, now: Instant, account: usize, id: CallId, deadline: Option<Instant>, job: Job<T>) {
        self.latest = self.latest.max(now);
        let refusal = self.refusal(now).or_else(|| match &job {
            Job::Send { item, .. } => self.unsendable(&item.payload),
            // Others get their own payloads back with the answer.
            Job::Call(_) | Job::Item(_) | Job::Many(_) | Job::Room { .. } => None,
        });
        match refusal {
            Some(error) => self.fail_job(job, &error),
            None => match self.account(account) {
                Some(room) if room.has_room(&job) => self.admit(now, account, job),
                Some(room) if room.on_full == OnFull::Wait => room.park(Parked { id, deadline, job }),
                Some(_) => self.fail_job(job, &full()),
                None => self.fail_job(job, &closed("the producer")),
            },
        }
        self.note_change();
    }

    /// Why nothing new is taken, if so.
    fn refusal(&mut self, now: Instant) -> Option<Error> {
        if self.closing.is_some() {
            return Some(closed("the client"));
        }
        self.session_refusal(now)
    }

    pub(super) fn admit(&mut self, now: Instant, account: usize, job: Job<T>) {
        match job {
            Job::Call(call) => {
                if let Some(room) = self.account(account) {
                    room.charge(true, 0);
                }
                self.requeue_call(call);
            }
            Job::Item(item) => self.admit_one(now, item),
            Job::Many(many) => self.admit_many(now, many),
            Job::Send { item, admitted } => {
                self.admit_one(now, item);
                self.completions.push(Completion {
                    token: admitted,
                    reply: Reply::Admitted(Ok(())),
                });
            }
            Job::Room { room, token } => {
                if let Some(account) = self.account(account) {
                    account.reserve(room);
                }
                let reply = Reply::Room(Ok(()));
                self.completions.push(Completion { token, reply });
            }
        }
    }

    fn admit_one(&mut self, now: Instant, item: Item<T>) {
        let mut moved = Moved::default();
        self.admit_item(now, item, &mut moved);
        self.hand_over_all(moved);
    }

    fn admit_many(&mut self, now: Instant, many: Many<T>) {
        let Many {
            call,
            fate,
            token,
            payloads,
        } = many;
        let items = payloads.len();
        match payloads {
            Payloads::Messages(messages) => {
                self.joins.open(call, token, items, true);
                self.admit_parts(now, call, fate, messages);
            }
            Payloads::Settles(settles) => {
                self.joins.open(call, token, items, false);
                self.admit_parts(now, call, fate, settles);
            }
        }
    }

    fn admit_parts<P: Into<Payload>>(&mut self, now: Instant, call: CallId, fate: Fate, payloads: Vec<P>) {
        let mut moved = Moved::default();
        for (index, payload) in payloads.into_iter().enumerate() {
            let item = Item::part(call, fate, index, payload.into());
            self.admit_item(now, item, &mut moved);
        }
        self.hand_over_all(moved);
    }

    /// Lets an item in; one whose queue is led elsewhere goes to `moved`.
    fn admit_item(&mut self, now: Instant, mut item: Item<T>, moved: &mut Moved<T>) {
        let leader = self.leader_elsewhere(&item.payload);
        let Some(account) = self.accounts.get_mut(item.ticket.account).and_then(Option::as_mut) else {
            return self.fail_items(vec![item], &closed("the producer"));
        };
        account.charge(item.ticket.leads, item.ticket.cost);
        item.ticket.epoch = account.enter();
        match leader {
            Some(leader) => moved.add(leader, item),
            None => self.lanes.push(now, account.policy, item),
        }
    }

    /// The node that is known to lead a message's queue, if it is not the one this link talks to. Acks and nacks stay:
    /// every node takes them (docs/protocol/clusters.md 4).
    fn leader_elsewhere(&self, payload: &Payload) -> Option<crate::Endpoint> {
        let Payload::Message(message) = payload else {
            return None;
        };
        if self.name != LinkName::Main {
            return None;
        }
        let leader = self.shared.leader(Purpose::Requests, &message.queue)?;
        (Some(&leader) != self.session.endpoint()).then_some(leader)
    }

    /// Lets those in line in, as far as there is room; frees the accounts of producers that are done.
    pub(super) fn settle_accounts(&mut self, now: Instant) {
        for index in 0..self.accounts.len() {
            let mut admitted = false;
            while let Some(parked) = self.account(index).and_then(Account::next_admitted) {
                if !self.knobs.has(Flaw::ForgottenCall) {
                    self.admit(now, index, parked.job);
                }
                admitted = true;
            }
            let hurry = self.closing.is_some() || self.account(index).is_some_and(|account| account.closed);
            if admitted && hurry {
                self.lanes.flush(now, Some(index));
            }
            if self
                .account(index)
                .is_some_and(|account| account.closed && account.is_idle())
                && let Some(place) = self.accounts.get_mut(index)
            {
                *place = None;
            }
        }
    }

    pub(super) fn fail_job(&mut self, job: Job<T>, error: &Error) {
        match job {
            Job::Call(call) => self.complete_call(call.token, Err(call.fate.judge(error.clone()))),
            Job::Item(item) => self.fail_outside(item, error),
            Job::Many(many) => self.completions.push(many.fail(error)),
            Job::Room { token, .. } => {
                let reply = Reply::Room(Err(error.clone()));
                self.completions.push(Completion { token, reply });
            }
            Job::Send { item, admitted } => {
                if let (Payload::Message(message), Waiter::One(receipt)) = (item.payload, item.ticket.waiter) {
                    let error = error.clone();
                    self.completions.push(Completion {
                        token: admitted,
                        reply: Reply::Admitted(Err(Box::new((SendError { message, error }, receipt)))),
                    });
                }
            }
        }
    }

    /// Fails an item that was not let in.
    fn fail_outside(&mut self, item: Item<T>, error: &Error) {
        let error = item.ticket.fate.judge(error.clone());
        let result = ItemResult::failed(item.payload, error);
        let told = item.ticket.waiter.tell(item.ticket.call, result, &mut self.joins);
        self.completions.extend(told.completion);
    }

    // ---- callers that are gone ----

    fn find_abandoned(&mut self, now: Instant, id: CallId) -> Option<T> {
        if self.opened.as_ref().is_some_and(|(opened, _)| *opened == id) {
            return self.opened.take().map(|(_, token)| token);
        }
        if let Some(closing) = &mut self.closing
            && let Some(place) = closing.tokens.iter().position(|(known, _)| *known == id)
        {
            return Some(closing.tokens.swap_remove(place).1);
        }
        if let Some(token) = self
            .subscription
            .as_mut()
            .and_then(|subscription| subscription.abandon(id))
        {
            return Some(token);
        }
        if let Ok(place) = self.calls.binary_search_by_key(&id, |call| call.id) {
            let call = self.calls.remove(place)?;
            self.release_call();
            return call.token;
        }
        if let Some(place) = self.delayed.iter().position(|(_, call)| call.id == id) {
            self.release_call();
            return self.delayed.swap_remove(place).1.token;
        }
        for index in 0..self.accounts.len() {
            let Some(account) = self.account(index) else { continue };
            if let Some(token) = account.abandon_flush(id) {
                return Some(token);
            }
            if account.redeem(id).is_some() {
                // The room is free for the next in line.
                return None;
            }
            if let Some(parked) = account.withdraw(id) {
                return match parked.job {
                    Job::Call(call) => call.token,
                    Job::Room { token, .. } => Some(token),
                    Job::Send { item, admitted } => {
                        self.fail_outside(item, &closed("the wait for room"));
                        Some(admitted)
                    }
                    Job::Item(item) => item.ticket.waiter.into_token(),
                    Job::Many(many) => Some(many.token),
                };
            }
        }
        if let Some(waiter) = self.lanes.detach(id) {
            return waiter.into_token();
        }
        // Parts of a call with many items may be under way; they find nobody waiting.
        let mut token = self.joins.abandon(id);
        for mut item in self.lanes.withdraw(now, id) {
            let waiter = std::mem::replace(&mut item.ticket.waiter, Waiter::Told);
            token = token.or_else(|| waiter.into_token());
            self.release(item.ticket.charge(), None);
        }
        token.or_else(|| self.forget_in_flight(id))
    }

    /// Takes the waiter out of what is in flight; a request nobody waits for leaves a tombstone.
    fn forget_in_flight(&mut self, id: CallId) -> Option<T> {
        let connection = self.connection.as_mut()?;
        let mut token = None;
        let mut is_call = false;
        connection.visit(|work| match work {
            Work::Call(call) if call.id == id => {
                token = call.token.take();
                is_call = true;
                true
            }
            Work::Batch(batch) => {
                let place = batch.tickets.binary_search_by_key(&id, |ticket| ticket.call);
                if let Some(ticket) = place.ok().and_then(|place| batch.tickets.get_mut(place)) {
                    token = std::mem::replace(&mut ticket.waiter, Waiter::Nobody).into_token();
                }
                false
            }
            Work::Call(_) | Work::Subscribe => false,
        });
        if is_call {
            self.release_call();
        }
        token
    }

    fn note_late(&mut self, now: Instant, settle: &Settle) {
        let late_by = settle
            .lease_deadline
            .and_then(|deadline| now.checked_duration_since(deadline))
            .filter(|late_by| !late_by.is_zero());
        if let Some(late_by) = late_by {
            self.stats.late_settles += 1;
            self.shared.push_event(Event::LateSettle {
                queue: settle.queue.clone(),
                id: settle.id.clone(),
                late_by,
            });
        }
    }
}

fn full() -> Error {
    Error::new(ErrorKind::Overloaded, "no room: the client's own bound is reached")
}

pub(super) fn closed(what: &str) -> Error {
    Error::new(ErrorKind::Closed, format!("{what} is closed"))
}
