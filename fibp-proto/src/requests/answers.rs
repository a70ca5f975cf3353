//! What answers mean for those who wait.

use std::time::Instant;

use super::Requests;
use super::batch_queue::Answered;
use super::doubts::{settle_of, settle_unleased};
use super::item_results::ItemResults;
use super::router::{ELECTION_PAUSE, Next, queue_of};
use super::run::{Payloads, Run};
use super::unleased::is_doubtful;
use super::work::{Attempt, Batch, BatchKind, Call, InFlight};
use crate::directory::Purpose;
use crate::error::{Error, ErrorKind};
use crate::machine::ChannelId;
use crate::request::Op;
use crate::response::Response;

/// Runs to ask for again, and when.
struct Delayed<T> {
    runs: Vec<Run<T>>,
    until: Option<Instant>,
    /// Since when the server does not know the queue, if it does not.
    absent_since: Option<Instant>,
    /// Some are asked for elsewhere: what waits behind them goes there too.
    moved: bool,
}

impl<T> Delayed<T> {
    fn add(&mut self, until: Option<Instant>, run: Run<T>) {
        // The longest pause holds for all of them, so that they keep their order.
        self.until = self.until.max(until);
        match self.runs.last_mut() {
            Some(last) if last.continues_with(&run) => last.append(run),
            _ => self.runs.push(run),
        }
    }
}

impl<T> Requests<T> {
    pub(super) fn handle_answer(
        &mut self,
        now: Instant,
        channel: ChannelId,
        work: InFlight<T>,
        mut response: Result<Response, Error>,
    ) {
        if let Some(route) = self.router.get_mut(channel) {
            // First what it says of the cluster: that decides how this answer is judged, and how what waits is sent.
            route.channel.note_cluster(&response);
            // A refusal counts, too: the server does its work.
            route.channel.note_success();
            route.note_peer(now);
            if let Err(error) = &mut response {
                *error = route.channel.place(error.clone());
            }
        }
        match work {
            InFlight::Call(call) => self.answer_call(now, channel, *call, response),
            InFlight::Batch(batch) => self.answer_batch(now, channel, batch, response),
        }
    }

    /// Queues work again that the server refused without an effect, in its old place.
    pub(super) fn send_again(&mut self, now: Instant, channel: ChannelId, work: InFlight<T>) {
        match work {
            InFlight::Call(call) => match self.router.get_mut(channel) {
                Some(route) => route.requeue_call(*call),
                None => self.router.main_mut().requeue_call(*call),
            },
            InFlight::Batch(batch) => {
                if let Some(route) = self.router.get_mut(channel) {
                    route.queues.answered(now, batch.key(), batch.len(), Answered::NotYet);
                }
                let key = batch.key().to_key();
                let runs = batch.into_runs().filter(|run| !run.ticket.is_told()).collect();
                self.router.put_back(now, channel, key, runs, &mut self.ledger);
            }
        }
    }

    fn answer_call(&mut self, now: Instant, channel: ChannelId, mut call: Call<T>, response: Result<Response, Error>) {
        if let Err(error) = &response {
            if error.kind() == ErrorKind::NotLeader {
                let queue = queue_of(&call.request).cloned();
                let learned = queue
                    .as_ref()
                    .and_then(|queue| self.shared.leader(Purpose::Consume, queue));
                match self.router.next_node(
                    channel,
                    queue.as_ref(),
                    error,
                    call.attempt,
                    learned,
                    &mut self.ledger.stats,
                ) {
                    Next::Node(endpoint) => {
                        call.attempt.hops += 1;
                        return self.router.send_call_to(now, endpoint, call);
                    }
                    Next::Home => {
                        call.attempt.return_home();
                        return self.router.return_call(now, call);
                    }
                    Next::Later => return self.delay_call(channel, now.checked_add(ELECTION_PAUSE), call),
                    Next::GiveUp => {}
                }
            }
            if call.request.op() == Op::QueueStats
                && let Some(again) = self.retry_absent(now, channel, error, &mut call.attempt)
            {
                return self.delay_call(channel, Some(again), call);
            }
            if call.attempt.replayed {
                // The first attempt worked; the second finds nothing left to do.
                let done = match (call.request.op(), error.kind()) {
                    (Op::DeleteQueue, ErrorKind::QueueNotFound) => Some(Response::DeleteQueue),
                    (Op::RevokeApiKey, ErrorKind::ApiKeyNotFound) => Some(Response::RevokeApiKey),
                    _ => None,
                };
                if let Some(done) = done {
                    return self.ledger.finish_call(call, Ok(done));
                }
            }
        }
        self.ledger.finish_call(call, response);
    }

    #[expect(clippy::boxed_local, reason = "to pass the box is less than to pass what is in it")]
    fn answer_batch(
        &mut self,
        now: Instant,
        channel: ChannelId,
        batch: Box<Batch<T>>,
        response: Result<Response, Error>,
    ) {
        let items = batch.len();
        let mut results = ItemResults::of(batch.payloads.kind(), response);
        if results.accepts(items) {
            // Before its runs are accepted, which takes them. Nothing is sent meanwhile.
            if let Some(route) = self.router.get_mut(channel) {
                route.queues.answered(now, batch.key(), items, Answered::Finally);
            }
            let accept = |ticket| self.ledger.accept(ticket, &mut results);
            return batch.tickets.for_each(accept);
        }
        let key = batch.key().to_key();
        let delayed = self.answer_items(now, channel, *batch, results);
        let answered = match delayed.moved || !delayed.runs.is_empty() {
            true => Answered::NotYet,
            false => Answered::Finally,
        };
        // Back before the queue hears of it: what follows is about all that waits there, these in front.
        self.router
            .put_back(now, channel, key.clone(), delayed.runs, &mut self.ledger);
        let Some(route) = self.router.get_mut(channel) else {
            return;
        };
        // The refusal of an item may have said first that this is a cluster.
        route.note_peer(now);
        if let Some(until) = delayed.until {
            route.queues.hold(now, &key, until);
        }
        if let Some(since) = delayed.absent_since {
            route.queues.note_absent(&key, since);
        }
        // Last: from here on the queue may send again.
        route.queues.answered(now, key.by_ref(), items, answered);
        if delayed.moved && key.kind == BatchKind::Enqueue {
            // Behind the ones that moved, or they would arrive before them.
            for run in route.queues.take_waiting(now, &key) {
                self.router.return_run(now, run, &mut self.ledger);
            }
        }
    }

    /// Ends or moves the items of a batch of which some were refused; returns those to ask for again later.
    fn answer_items(
        &mut self,
        now: Instant,
        channel: ChannelId,
        batch: Batch<T>,
        mut results: ItemResults,
    ) -> Delayed<T> {
        let mut delayed = Delayed {
            runs: Vec::new(),
            until: None,
            absent_since: None,
            moved: false,
        };
        for item in batch.into_runs().flat_map(Run::into_items) {
            match results.next_refusal() {
                None => self.ledger.accept(item.ticket, &mut results),
                Some(error) => self.answer_refused(now, channel, item, error, &mut delayed),
            }
        }
        delayed
    }

    /// Ends or moves one item that was refused.
    fn answer_refused(
        &mut self,
        now: Instant,
        channel: ChannelId,
        mut item: Run<T>,
        error: Error,
        delayed: &mut Delayed<T>,
    ) {
        let error = match self.router.get(channel) {
            Some(route) => {
                route.channel.note_cluster_error(&error);
                route.channel.place(error)
            }
            None => error,
        };
        // Its caller was told when its deadline passed. Nobody gains by asking again.
        if item.ticket.is_told() {
            return;
        }
        let attempt = &mut item.ticket.attempt;
        if error.kind() == ErrorKind::NotLeader {
            let queue = item.payloads.queue();
            // Acks and nacks are taken by every node: only the node's own word moves one (docs/protocol/clusters.md
            // 4). The framed dialect names no leader per item, but a consumer may have been told.
            let learned = match item.payloads {
                Payloads::Messages(_) => self.shared.leader(Purpose::Consume, queue),
                Payloads::Settles(_) => None,
            };
            match self
                .router
                .next_node(channel, Some(queue), &error, *attempt, learned, &mut self.ledger.stats)
            {
                Next::Node(endpoint) => {
                    attempt.hops += 1;
                    delayed.moved = true;
                    return self.router.send_run_to(now, endpoint, item, &mut self.ledger);
                }
                Next::Home => {
                    attempt.return_home();
                    delayed.moved = true;
                    return self.router.return_run(now, item, &mut self.ledger);
                }
                Next::Later => return delayed.add(now.checked_add(ELECTION_PAUSE), item),
                Next::GiveUp => {}
            }
        }
        if let Some(again) = self.retry_absent(now, channel, &error, attempt) {
            // The first of them has asked for longest, and the queue's time to become known began with it.
            delayed.absent_since = delayed.absent_since.or(attempt.absent_since);
            return delayed.add(Some(again), item);
        }
        match settle_of(&item) {
            Some(settle) if error.kind() == ErrorKind::MessageNotFound => {
                let error = error.during(|| settle.doing());
                self.answer_unleased(now, channel, item, error);
            }
            _ => self.ledger.fail(item, &error),
        }
    }

    /// Ends a settle that the server finds no lease for, or keeps it until that can be judged.
    fn answer_unleased(&mut self, now: Instant, channel: ChannelId, item: Run<T>, error: Error) {
        let doubtful = settle_of(&item).is_some_and(|settle| is_doubtful(now, settle, &item.ticket.attempt));
        let clustered = match self.router.get_mut(channel) {
            Some(route) if doubtful => match route.channel.learn_cluster() {
                Some(clustered) => clustered,
                None => return route.doubts.add(now, item, error, &mut self.ledger.places),
            },
            route => route.is_some_and(|route| route.channel.is_in_cluster()),
        };
        settle_unleased(now, clustered, item, error, &mut self.ledger);
    }

    fn retry_absent(&self, now: Instant, channel: ChannelId, error: &Error, attempt: &mut Attempt) -> Option<Instant> {
        let deadline = attempt.deadline;
        self.router
            .get(channel)?
            .channel
            .retry_absent(now, error, &mut attempt.absent_since, deadline)
    }

    /// Asks again later. At the end of the clock's range there is no later.
    fn delay_call(&mut self, channel: ChannelId, until: Option<Instant>, call: Call<T>) {
        let until = until.unwrap_or(self.latest);
        match self.router.get_mut(channel) {
            Some(route) => route.delay_call(Some(until), call),
            None => self.router.main_mut().delay_call(Some(until), call),
        }
    }
}
