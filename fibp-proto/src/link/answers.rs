//! What answers, failures and deadlines mean for those who wait.

use std::time::{Duration, Instant};

use super::Link;
use super::accounts::{Account, Job};
use super::completion::{Action, Completion, Reply};
use super::submit::{CLIENT, Cargo, Over, Parcel};
use super::work::{
    Batch, Call, Charge, Fate, Item, ItemResult, LaneKey, LaneKind, Payload, Payloads, Ticket, Waiter, Work,
};
use crate::config::{Endpoint, Replay};
use crate::connection::{Connection, Expiry};
use crate::directory::Purpose;
use crate::error::{Error, ErrorKind, Outcome};
use crate::event::{Event, LinkName};
use crate::message::{MessageId, QueueName};
use crate::request::{Op, Request};
use crate::response::{Response, ServerError};
use crate::simulation::Flaw;

/// How long to wait before asking again while a leader is being elected.
pub(super) const ELECTION_PAUSE: Duration = Duration::from_millis(200);

impl<T> Link<T> {
    // ---- answers ----

    pub(super) fn handle_answer(&mut self, now: Instant, work: Work<T>, response: Result<Response, Error>) {
        self.note_cluster(&response);
        match work {
            Work::Call(call) => {
                self.session.note_success();
                self.answer_call(now, call, response);
            }
            Work::Batch(batch) => {
                self.session.note_success();
                self.answer_batch(now, batch, response);
            }
            Work::Subscribe => self.handle_subscribed(now, response),
        }
    }

    /// Queues work again that the server refused without an effect, in its old place.
    pub(super) fn send_again(&mut self, now: Instant, work: Work<T>) {
        match work {
            // Consume has one number in every framed revision.
            Work::Subscribe => {}
            Work::Call(call) => self.requeue_call(call),
            Work::Batch(Batch {
                lane,
                payloads,
                tickets,
            }) => {
                self.lanes.answered(now, &lane);
                let waiting = payloads.into_vec().into_iter().zip(tickets);
                let items = waiting
                    .filter(|(_, ticket)| !matches!(ticket.waiter, Waiter::Told))
                    .map(|(payload, ticket)| Item { payload, ticket })
                    .collect();
                self.put_back(now, lane, items);
            }
        }
    }

    fn answer_call(&mut self, now: Instant, mut call: Call<T>, response: Result<Response, Error>) {
        if let Err(error) = &response {
            if error.kind() == ErrorKind::NotLeader {
                let queue = queue_of(&call.request).cloned();
                let learned = queue
                    .as_ref()
                    .and_then(|queue| self.shared.leader(Purpose::Consume, queue));
                match self.next_node(queue.as_ref(), error, call.fate, learned) {
                    Next::Node(endpoint) => {
                        call.fate.hops += 1;
                        return self.hand_over_call(Some(endpoint), call);
                    }
                    Next::Home => {
                        call.fate.return_home();
                        return self.hand_over_call(None, call);
                    }
                    Next::Later => return self.delay_call(now.checked_add(ELECTION_PAUSE), call),
                    Next::GiveUp => {}
                }
            }
            if call.request.op() == Op::QueueStats
                && let Some(again) = self.retry_absent(now, error, &mut call.fate)
            {
                return self.delay_call(Some(again), call);
            }
            if call.fate.replayed {
                // The first attempt worked; the second finds nothing left to do.
                let done = match (call.request.op(), error.kind()) {
                    (Op::DeleteQueue, ErrorKind::QueueNotFound) => Some(Response::DeleteQueue),
                    (Op::RevokeApiKey, ErrorKind::ApiKeyNotFound) => Some(Response::RevokeApiKey),
                    _ => None,
                };
                if let Some(done) = done {
                    return self.finish_call(call, Ok(done));
                }
            }
        }
        self.finish_call(call, response);
    }

    fn answer_batch(&mut self, now: Instant, batch: Batch<T>, response: Result<Response, Error>) {
        let Batch {
            lane,
            payloads,
            tickets,
        } = batch;
        self.lanes.answered(now, &lane);
        let results = Verdicts::of(lane.kind, response);
        let delayed = match payloads {
            Payloads::Messages(messages) => self.answer_items(now, &lane.queue, messages, tickets, results),
            Payloads::Settles(settles) => self.answer_items(now, &lane.queue, settles, tickets, results),
        };
        self.put_back(now, lane.clone(), delayed.items);
        if let Some(until) = delayed.until {
            self.lanes.hold(now, &lane, until);
        }
    }

    /// Tells everybody; returns the items to ask for again later.
    fn answer_items<P: Into<Payload>>(
        &mut self,
        now: Instant,
        queue: &QueueName,
        payloads: Vec<P>,
        tickets: Vec<Ticket<T>>,
        mut verdicts: Verdicts,
    ) -> Delayed<T> {
        let mut moved = Moved::default();
        let mut returned = Vec::new();
        let mut delayed = Delayed {
            items: Vec::new(),
            until: None,
        };
        for (payload, mut ticket) in payloads.into_iter().zip(tickets) {
            let error = match verdicts.next() {
                Ok(Some(id)) => {
                    self.finish_item(ticket, ItemResult::Enqueued(Ok(id)));
                    continue;
                }
                Ok(None) => {
                    self.finish_item(ticket, ItemResult::Settled(Ok(())));
                    continue;
                }
                Err(error) => error,
            };
            let payload = payload.into();
            self.note_cluster_error(&error);
            let is_open = !matches!(ticket.waiter, Waiter::Told);
            if error.kind() == ErrorKind::NotLeader && is_open {
                // Acks and nacks are taken by every node: only the node's own word moves one (docs/protocol/clusters.md 4).
                let learned = match payload {
                    Payload::Message(_) => self.shared.leader(Purpose::Consume, queue),
                    Payload::Settle(_) => None,
                };
                match self.next_node(Some(queue), &error, ticket.fate, learned) {
                    Next::Node(endpoint) => {
                        ticket.fate.hops += 1;
                        moved.add(endpoint, Item { payload, ticket });
                        continue;
                    }
                    Next::Home => {
                        ticket.fate.return_home();
                        returned.push(Item { payload, ticket });
                        continue;
                    }
                    Next::Later => {
                        delayed.add(now.checked_add(ELECTION_PAUSE), Item { payload, ticket });
                        continue;
                    }
                    Next::GiveUp => {}
                }
            }
            if is_open && let Some(again) = self.retry_absent(now, &error, &mut ticket.fate) {
                delayed.add(Some(again), Item { payload, ticket });
                continue;
            }
            let result = match &payload {
                Payload::Settle(settle) if error.kind() == ErrorKind::MessageNotFound => {
                    ItemResult::Settled(self.judge_unleased(now, settle, &ticket.fate, error))
                }
                _ => ItemResult::failed(payload, error),
            };
            self.finish_item(ticket, result);
        }
        self.hand_over_all(moved);
        if !returned.is_empty() {
            self.hand_over_items(None, returned);
        }
        delayed
    }

    /// Where a request goes that this node does not lead. `learned`: the leader that a consumer was told of, as the
    /// framed dialect names none per item.
    fn next_node(&mut self, queue: Option<&QueueName>, error: &Error, fate: Fate, learned: Option<Endpoint>) -> Next {
        let Some(here) = self.session.endpoint().cloned() else {
            return Next::Later;
        };
        let hinted = error
            .leader()
            .and_then(|hint| Endpoint::from_leader_hint(hint, &here).ok());
        match hinted.or(learned) {
            Some(leader) if leader != here => {
                if fate.hops >= self.shared.config().settings().max_redirects {
                    return Next::GiveUp;
                }
                if let Some(queue) = queue {
                    self.shared.learn_leader(Purpose::Requests, queue, leader.clone());
                }
                self.stats.redirects += 1;
                self.shared.push_event(Event::Redirected {
                    link: self.name.clone(),
                    to: leader.clone(),
                });
                Next::Node(leader)
            }
            // An election, or a node that names itself: the answer will change.
            _ => {
                if let Some(queue) = queue {
                    self.forget_stale_leader(queue);
                }
                // Work was sent here because this node was taken for the leader: the main server knows better.
                if self.name == LinkName::Main {
                    Next::Later
                } else {
                    Next::Home
                }
            }
        }
    }

    fn hand_over(&mut self, endpoint: Option<Endpoint>, cargo: Cargo<T>) {
        self.actions.push_back(Action::Reroute {
            endpoint,
            parcel: Parcel(cargo),
        });
    }

    /// The main link's account goes on counting what it gives away, until it hears that it is over.
    fn hand_over_call(&mut self, endpoint: Option<Endpoint>, call: Call<T>) {
        if self.name != LinkName::Main {
            self.release_call();
        }
        self.hand_over(endpoint, Cargo::Call(call));
    }

    /// As [`hand_over_call`](Self::hand_over_call), for items.
    fn hand_over_items(&mut self, endpoint: Option<Endpoint>, mut items: Vec<Item<T>>) {
        for item in &mut items {
            if self.name != LinkName::Main {
                self.release(item.ticket.charge(), None);
            }
            self.joins.export(item);
        }
        self.hand_over(endpoint, Cargo::Items(items));
    }

    /// Hands items to the nodes they belong to.
    pub(super) fn hand_over_all(&mut self, moved: Moved<T>) {
        for (endpoint, items) in moved.0 {
            self.hand_over_items(Some(endpoint), items);
        }
    }

    /// Tells the main link of work of its own that is over here.
    fn report_over(&mut self, over: Over) {
        if let Some(Action::Reroute {
            endpoint: None,
            parcel: Parcel(Cargo::Over(known)),
        }) = self.actions.back_mut()
        {
            known.push(over);
        } else {
            self.hand_over(None, Cargo::Over(vec![over]));
        }
    }

    /// An item is over, whoever may wait for it.
    fn note_over(&mut self, ticket: &Ticket<T>, error: Option<&Error>) {
        if let Some(home) = &ticket.home {
            self.report_over(Over::Item(**home, error.cloned()));
        }
    }

    /// A call is over, whoever may wait for it.
    fn note_call_over(&mut self, is_abroad: bool) {
        self.release_call();
        if is_abroad {
            self.report_over(Over::Call);
        }
    }

    pub(super) fn delay_call(&mut self, until: Option<Instant>, call: Call<T>) {
        // At the end of the clock's range there is no later.
        let until = until.unwrap_or(self.latest);
        self.calls_soonest.add(Some(until));
        self.calls_soonest.add(call.fate.deadline);
        self.delayed.push((Some(until), call));
    }

    // ---- endings ----

    /// Ends a call that was charged to the client's account.
    pub(super) fn finish_call(&mut self, call: Call<T>, result: Result<Response, Error>) {
        self.note_call_over(call.is_abroad);
        let result = result.map_err(|error| call.fate.judge(error));
        crate::trace::call_finished(call.request.op(), result.as_ref().err());
        self.note_result(result.as_ref().err());
        self.complete_call(call.token, result);
    }

    pub(super) fn complete_call(&mut self, token: Option<T>, result: Result<Response, Error>) {
        if let Some(token) = token {
            self.completions.push(Completion {
                token,
                reply: Reply::Response(result.map(Box::new)),
            });
        }
    }

    pub(super) fn release_call(&mut self) {
        if let Some(account) = self.account(CLIENT) {
            account.release(true, 0);
        }
    }

    /// Ends an item that was charged to its account.
    pub(super) fn finish_item(&mut self, ticket: Ticket<T>, result: ItemResult) {
        if matches!(ticket.waiter, Waiter::Told) {
            return;
        }
        let result = result.map_err(|error| ticket.fate.judge(error));
        let error = result.error().cloned();
        let op = match &result {
            ItemResult::Enqueued(_) => Op::Enqueue,
            ItemResult::Settled(_) => Op::Ack,
        };
        crate::trace::call_finished(op, error.as_ref());
        self.note_result(error.as_ref());
        match &result {
            ItemResult::Enqueued(Ok(_)) => self.stats.messages_confirmed += 1,
            ItemResult::Settled(Ok(())) => self.stats.settled += 1,
            ItemResult::Enqueued(Err(_)) | ItemResult::Settled(Err(_)) => {}
        }
        let queue = match &result {
            ItemResult::Enqueued(Err(failed)) => Some(failed.message.queue.clone()),
            _ => None,
        };
        self.release(ticket.charge(), error.as_ref());
        self.note_over(&ticket, error.as_ref());
        let told = ticket.waiter.tell(ticket.call, result, &mut self.joins);
        self.completions.extend(told.completion);
        if let (Some(queue), Some(error)) = (queue, told.unheard) {
            self.shared.push_event(Event::Unconfirmed { queue, error });
        }
    }

    /// Gives back the room a ticket took, and tells the flushes of its producer.
    pub(super) fn release(&mut self, charge: Charge, error: Option<&Error>) {
        if let Some(account) = self.accounts.get_mut(charge.account).and_then(Option::as_mut) {
            account.release(charge.leads, charge.cost);
            account.leave(charge.epoch, error, &mut self.completions);
        }
    }

    pub(super) fn fail_items(&mut self, items: Vec<Item<T>>, error: &Error) {
        for item in items {
            self.finish_item(item.ticket, ItemResult::failed(item.payload, error.clone()));
        }
    }

    /// Fails what waited for room.
    fn fail_parked(&mut self, job: Job<T>, error: &Error) {
        for _ in 0..job.results() {
            self.note_result(Some(error));
        }
        self.fail_job(job, error);
    }

    fn note_result(&mut self, error: Option<&Error>) {
        if error.is_some_and(|error| error.kind() == ErrorKind::Timeout) {
            self.stats.timeouts += 1;
        }
        if let Some(closing) = &mut self.closing {
            closing.note(error);
        }
    }

    // ---- deadlines ----

    /// Fails what was not sent by its deadline; makes delayed calls due.
    pub(super) fn expire_queued(&mut self, now: Instant) {
        let error = self.late_unsent();
        if self.calls_soonest.take_due(now) {
            let mut left = std::collections::VecDeque::with_capacity(self.calls.len());
            for call in std::mem::take(&mut self.calls) {
                if call.fate.is_due(now) {
                    self.finish_call(call, Err(error.clone()));
                } else {
                    self.calls_soonest.add(call.fate.deadline);
                    left.push_back(call);
                }
            }
            self.calls = left;
            for (until, call) in std::mem::take(&mut self.delayed) {
                if call.fate.is_due(now) {
                    self.finish_call(call, Err(error.clone()));
                } else if until.is_some_and(|until| until <= now) {
                    self.requeue_call(call);
                } else {
                    self.calls_soonest
                        .add(crate::soonest::earlier(until, call.fate.deadline));
                    self.delayed.push((until, call));
                }
            }
        }
        for item in self.lanes.handle_timeout(now) {
            self.finish_item(item.ticket, ItemResult::failed(item.payload, error.clone()));
        }
        for index in 0..self.accounts.len() {
            let (expired, flushes) = self
                .account(index)
                .map(|account| account.expired(now))
                .unwrap_or_default();
            for token in flushes {
                let reply = Reply::Flushed(Err(error.clone()));
                self.completions.push(Completion { token, reply });
            }
            for parked in expired {
                self.fail_parked(parked.job, &error);
            }
        }
    }

    /// Fails what was not answered by its deadline.
    pub(super) fn expire_in_flight(&mut self, now: Instant) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        // What is encoded goes out sooner or later, and cannot be called back.
        let late = Error::new(ErrorKind::Timeout, "no answer within the deadline").with_outcome(Outcome::Unknown);
        let mut ended = Vec::new();
        let result = connection.expire(now, |work| match work {
            Work::Call(call) => {
                ended.push(Expired::Call(call.token.take(), call.is_abroad));
                Expiry::Expired
            }
            Work::Subscribe => Expiry::Never,
            Work::Batch(batch) => {
                let mut left = Expiry::Expired;
                for (index, ticket) in batch.tickets.iter_mut().enumerate() {
                    if matches!(ticket.waiter, Waiter::Told) {
                        continue;
                    }
                    if ticket.fate.is_due(now) {
                        if let Some(payload) = batch.payloads.clone_one(index) {
                            ended.push(Expired::Item(ticket.tell_early(), payload));
                        }
                    } else {
                        left = match (left, ticket.fate.deadline) {
                            (Expiry::At(soonest), Some(at)) => Expiry::At(soonest.min(at)),
                            (_, Some(at)) => Expiry::At(at),
                            (Expiry::At(soonest), None) => Expiry::At(soonest),
                            (_, None) => Expiry::Never,
                        };
                    }
                }
                if left == Expiry::Expired {
                    ended.push(Expired::Frame(batch.lane.clone()));
                }
                left
            }
        });
        self.connection = Some(connection);
        for expired in ended {
            match expired {
                Expired::Call(token, is_abroad) => {
                    self.note_call_over(is_abroad);
                    self.note_result(Some(&late));
                    if !self.knobs.has(Flaw::LostWaiter) {
                        self.complete_call(token, Err(late.clone()));
                    }
                }
                Expired::Item(ticket, payload) => {
                    self.finish_item(ticket, ItemResult::failed(payload, late.clone()));
                }
                Expired::Frame(lane) => self.lanes.answered(now, &lane),
            }
        }
        if let Err(broken) = result {
            self.handle_broken(now, broken);
        }
    }

    fn late_unsent(&self) -> Error {
        let text = match self.session.last_error() {
            Some(error) if self.connection.is_none() => format!("not connected within the deadline: {error}"),
            _ => "not sent within the deadline".to_owned(),
        };
        Error::new(ErrorKind::Timeout, text)
    }

    // ---- lost connections ----

    /// What was in flight when the connection was lost: sent again where that is safe, failed elsewhere.
    /// `goes_on`: there will be another connection.
    pub(super) fn retry_or_fail(&mut self, now: Instant, works: Vec<(Work<T>, bool)>, error: &Error, goes_on: bool) {
        let unknown = error.clone().with_outcome(Outcome::Unknown);
        let not_sent = error.clone().with_outcome(Outcome::NotSent);
        for (work, sent) in works.into_iter().rev() {
            match work {
                Work::Subscribe => {}
                Work::Call(mut call) => {
                    if goes_on && (!sent || self.is_replayable(call.request.op())) {
                        call.fate.replayed |= sent;
                        self.requeue_call(call);
                    } else {
                        let error = if sent { &unknown } else { &not_sent };
                        self.finish_call(call, Err(error.clone()));
                    }
                }
                Work::Batch(batch) => {
                    let again = goes_on && (!sent || self.is_replayable(batch.lane.kind.op()));
                    let mut items = Vec::new();
                    for (payload, mut ticket) in batch.payloads.into_vec().into_iter().zip(batch.tickets) {
                        if again {
                            ticket.fate.replayed |= sent;
                            if !matches!(ticket.waiter, Waiter::Told) {
                                items.push(Item { payload, ticket });
                            }
                        } else {
                            let error = if sent { &unknown } else { &not_sent };
                            self.finish_item(ticket, ItemResult::failed(payload, error.clone()));
                        }
                    }
                    self.put_back(now, batch.lane, items);
                }
            }
        }
        self.lanes.reset_in_flight(now);
    }

    fn is_replayable(&self, op: Op) -> bool {
        match self.shared.config().settings().replay {
            Replay::Never => false,
            Replay::SafeOps => op.is_safe_to_replay(),
            Replay::IncludingEnqueue => op == Op::Enqueue || op.is_safe_to_replay(),
        }
    }

    pub(super) fn requeue_call(&mut self, call: Call<T>) {
        self.calls_soonest.add(call.fate.deadline);
        let place = self.calls.partition_point(|known| known.id < call.id);
        self.calls.insert(place, call);
    }

    pub(super) fn put_back(&mut self, now: Instant, lane: LaneKey, items: Vec<Item<T>>) {
        if items.is_empty() {
            return;
        }
        match self.account(lane.account).map(|account| account.policy) {
            Some(policy) => self.lanes.put_back(now, lane, policy, items),
            None => self.fail_items(items, &super::submit::closed("the producer")),
        }
    }

    /// Fails everything that is open, in flight or waiting. The connection, if there is one, stays for a goodbye.
    pub(super) fn fail_everything(&mut self, error: &Error) {
        // What is encoded may be on its way at this moment, or go out before the goodbye.
        let unknown = error.clone().with_outcome(Outcome::Unknown);
        let in_flight = self
            .connection
            .as_deref_mut()
            .map(Connection::drain)
            .unwrap_or_default();
        for (work, _) in in_flight {
            match work {
                Work::Subscribe => {}
                Work::Call(call) => self.finish_call(call, Err(unknown.clone())),
                Work::Batch(batch) => {
                    for (payload, ticket) in batch.payloads.into_vec().into_iter().zip(batch.tickets) {
                        self.finish_item(ticket, ItemResult::failed(payload, unknown.clone()));
                    }
                }
            }
        }
        let error = &error.clone().with_outcome(Outcome::NotSent);
        let delayed = std::mem::take(&mut self.delayed).into_iter().map(|(_, call)| call);
        for call in std::mem::take(&mut self.calls).into_iter().chain(delayed) {
            self.finish_call(call, Err(error.clone()));
        }
        let items = self.lanes.drain();
        self.fail_items(items, error);
        for index in 0..self.accounts.len() {
            let parked = self.account(index).map(|account| account.drain()).unwrap_or_default();
            for parked in parked {
                self.fail_parked(parked.job, error);
            }
            // What they wait for is with other links, which may have nobody to tell any more.
            let flushes = self.account(index).map(Account::drain_flushes).unwrap_or_default();
            for token in flushes {
                let reply = Reply::Flushed(Err(unknown.clone()));
                self.completions.push(Completion { token, reply });
            }
        }
    }

    /// Everything that waits goes back to the main link: this node is gone.
    pub(super) fn return_everything(&mut self) {
        let delayed = std::mem::take(&mut self.delayed).into_iter().map(|(_, call)| call);
        for mut call in std::mem::take(&mut self.calls).into_iter().chain(delayed) {
            call.fate.hops += 1;
            self.hand_over_call(None, call);
        }
        let mut items = self.lanes.drain();
        for item in &mut items {
            item.ticket.fate.hops += 1;
        }
        if !items.is_empty() {
            self.hand_over_items(None, items);
        }
        debug_assert!(matches!(self.name, LinkName::Node(_)));
    }
}

/// Items on their way to other nodes.
pub(super) struct Moved<T>(Vec<(Endpoint, Vec<Item<T>>)>);

impl<T> Default for Moved<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Moved<T> {
    pub(super) fn add(&mut self, endpoint: Endpoint, item: Item<T>) {
        match self.0.iter_mut().find(|(known, _)| *known == endpoint) {
            Some((_, items)) => items.push(item),
            None => self.0.push((endpoint, vec![item])),
        }
    }
}

/// Items to ask for again, and when.
struct Delayed<T> {
    items: Vec<Item<T>>,
    until: Option<Instant>,
}

impl<T> Delayed<T> {
    fn add(&mut self, until: Option<Instant>, item: Item<T>) {
        self.until = self.until.max(until);
        self.items.push(item);
    }
}

enum Next {
    Node(Endpoint),
    /// Back to the main link.
    Home,
    Later,
    GiveUp,
}

enum Expired<T> {
    Call(Option<T>, bool),
    Item(Ticket<T>, Payload),
    Frame(LaneKey),
}

impl LaneKind {
    pub(super) fn op(self) -> Op {
        match self {
            Self::Enqueue => Op::Enqueue,
            Self::Ack => Op::Ack,
            Self::Nack => Op::Nack,
        }
    }
}

impl<T> Ticket<T> {
    /// A ticket that tells the waiter now; the one that stays has nobody to tell and holds no room.
    fn tell_early(&mut self) -> Self {
        let told = Self {
            call: self.call,
            waiter: std::mem::replace(&mut self.waiter, Waiter::Told),
            fate: self.fate,
            account: self.account,
            cost: self.cost,
            epoch: self.epoch,
            leads: self.leads,
            detached: self.detached,
            home: self.home.take(),
        };
        self.cost = 0;
        self.leads = false;
        told
    }
}

/// What the server says of the items of a batch, in order, with something for every item however many it sent.
struct Verdicts {
    said: Said,
    /// For items that got none; `None` if the server should have said more.
    rest: Option<Error>,
}

enum Said {
    Enqueued(std::vec::IntoIter<Result<MessageId, Box<ServerError>>>),
    Settled(std::vec::IntoIter<Result<(), Box<ServerError>>>),
    Nothing,
}

impl Verdicts {
    fn of(kind: LaneKind, response: Result<Response, Error>) -> Self {
        let (rest, said) = match (kind, response) {
            (LaneKind::Enqueue, Ok(Response::Enqueue(results))) => {
                (whole_refusal(&results), Said::Enqueued(results.into_iter()))
            }
            (LaneKind::Ack | LaneKind::Nack, Ok(Response::Ack(results) | Response::Nack(results))) => {
                (whole_refusal(&results), Said::Settled(results.into_iter()))
            }
            (_, Ok(_)) => (Some(missing("the answer belongs to another operation")), Said::Nothing),
            (_, Err(error)) => (Some(error), Said::Nothing),
        };
        Self { said, rest }
    }

    /// The id of an enqueued message; none for what was settled.
    fn next(&mut self) -> Result<Option<MessageId>, Error> {
        let said = match &mut self.said {
            Said::Enqueued(results) => results.next().map(|result| result.map(Some)),
            Said::Settled(results) => results.next().map(|result| result.map(|()| None)),
            Said::Nothing => None,
        };
        match said {
            Some(Ok(id)) => Ok(id),
            Some(Err(error)) => Err(Error::from_server(*error)),
            None => {
                let fewer = || missing("the server answered fewer results than there were items");
                Err(self.rest.get_or_insert_with(fewer).clone())
            }
        }
    }
}

fn missing(text: &str) -> Error {
    Error::new(ErrorKind::Protocol, text).with_outcome(Outcome::Unknown)
}

/// One refusal for a whole frame is how an empty queue name is answered (docs/protocol/preamble.md 1.5).
fn whole_refusal<R>(results: &[Result<R, Box<ServerError>>]) -> Option<Error> {
    match results {
        [Err(only)] if only.kind() == ErrorKind::InvalidArgument => Some(Error::from_server((**only).clone())),
        _ => None,
    }
}

/// The queue whose leader has to answer a request.
fn queue_of(request: &Request) -> Option<&QueueName> {
    match request {
        Request::QueueStats { queue } | Request::DeleteQueue { queue } => Some(queue),
        Request::Redrive { dlq, .. } => Some(dlq),
        Request::CreateQueue(spec) => Some(&spec.name),
        _ => None,
    }
}
