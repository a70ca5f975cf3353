//! What answers mean for those who wait.

use std::time::Instant;

use super::Requests;
use super::batch_queue::Answered;
use super::item_results::ItemResults;
use super::routing::{ELECTION_PAUSE, Next, queue_of};
use super::work::{
    Attempt, Batch, BatchItem, BatchKind, Call, InFlight, ItemResult, Payload, Payloads, ReplyTo, Ticket,
};
use crate::directory::Purpose;
use crate::error::{Error, ErrorKind};
use crate::machine::ChannelId;
use crate::message::QueueName;
use crate::request::Op;
use crate::response::Response;

/// Items to ask for again, and when.
struct Delayed<T> {
    items: Vec<BatchItem<T>>,
    until: Option<Instant>,
    /// Since when the server does not know the queue, if it does not.
    absent_since: Option<Instant>,
    /// Some are asked for elsewhere: what waits behind them goes there too.
    moved: bool,
}

impl<T> Delayed<T> {
    fn add(&mut self, until: Option<Instant>, item: BatchItem<T>) {
        self.until = self.until.max(until);
        self.items.push(item);
    }
}

impl<T> Requests<T> {
    pub(super) fn handle_answer(
        &mut self,
        now: Instant,
        channel: ChannelId,
        work: InFlight<T>,
        response: Result<Response, Error>,
    ) {
        let response = match self.route_mut(channel) {
            Some(route) => {
                route.channel.note_cluster(&response);
                // A refusal counts, too: the server does its work.
                route.channel.note_success();
                route.note_peer(now);
                response.map_err(|error| route.channel.place(error))
            }
            None => response,
        };
        match work {
            InFlight::Call(call) => self.answer_call(now, channel, call, response),
            InFlight::Batch(batch) => self.answer_batch(now, channel, batch, response),
        }
    }

    /// Queues work again that the server refused without an effect, in its old place.
    pub(super) fn send_again(&mut self, now: Instant, channel: ChannelId, work: InFlight<T>) {
        match work {
            InFlight::Call(call) => match self.route_mut(channel) {
                Some(route) => route.requeue_call(call),
                None => self.main_mut().requeue_call(call),
            },
            InFlight::Batch(Batch { key, payloads, tickets }) => {
                if let Some(route) = self.route_mut(channel) {
                    route.queues.answered(now, &key, tickets.len(), Answered::NotYet);
                }
                let waiting = payloads.into_vec().into_iter().zip(tickets);
                let items = waiting
                    .filter(|(_, ticket)| !matches!(ticket.reply_to, ReplyTo::Told))
                    .map(|(payload, ticket)| BatchItem { payload, ticket })
                    .collect();
                self.put_back(now, channel, key, items);
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
                match self.next_node(channel, queue.as_ref(), error, call.attempt, learned) {
                    Next::Node(endpoint) => {
                        call.attempt.hops += 1;
                        return self.send_call_to(now, endpoint, call);
                    }
                    Next::Home => {
                        call.attempt.return_home();
                        return self.return_call(now, call);
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

    fn answer_batch(&mut self, now: Instant, channel: ChannelId, batch: Batch<T>, response: Result<Response, Error>) {
        let Batch { key, payloads, tickets } = batch;
        let items = tickets.len();
        let results = ItemResults::of(key.kind, response);
        let delayed = match payloads {
            Payloads::Messages(messages) => self.answer_items(now, channel, &key.queue, messages, tickets, results),
            Payloads::Settles(settles) => self.answer_items(now, channel, &key.queue, settles, tickets, results),
        };
        let answered = match delayed.moved || !delayed.items.is_empty() {
            true => Answered::NotYet,
            false => Answered::Finally,
        };
        self.put_back(now, channel, key.clone(), delayed.items);
        let Some(route) = self.route_mut(channel) else { return };
        // The refusal of an item may have said first that this is a cluster.
        route.note_peer(now);
        if let Some(until) = delayed.until {
            route.queues.hold(now, &key, until);
        }
        if let Some(since) = delayed.absent_since {
            route.queues.note_absent(&key, since);
        }
        route.queues.answered(now, &key, items, answered);
        if delayed.moved && key.kind == BatchKind::Enqueue {
            for item in route.queues.take_waiting(now, &key) {
                self.return_item(now, item);
            }
        }
    }

    /// Ends or moves the items of an answered batch; returns those to ask for again later.
    fn answer_items<P: Into<Payload>>(
        &mut self,
        now: Instant,
        channel: ChannelId,
        queue: &QueueName,
        payloads: Vec<P>,
        tickets: Vec<Ticket<T>>,
        mut results: ItemResults,
    ) -> Delayed<T> {
        let mut delayed = Delayed {
            items: Vec::new(),
            until: None,
            absent_since: None,
            moved: false,
        };
        for (payload, mut ticket) in payloads.into_iter().zip(tickets) {
            let error = match results.next() {
                Ok(Some(id)) => {
                    self.ledger.finish_item(ticket, ItemResult::Enqueued(Ok(id)));
                    continue;
                }
                Ok(None) => {
                    self.ledger.finish_item(ticket, ItemResult::Settled(Ok(())));
                    continue;
                }
                Err(error) => error,
            };
            let payload: Payload = payload.into();
            let error = match self.route(channel) {
                Some(route) => {
                    route.channel.note_cluster_error(&error);
                    route.channel.place(error)
                }
                None => error,
            };
            let is_open = !matches!(ticket.reply_to, ReplyTo::Told);
            if error.kind() == ErrorKind::NotLeader && is_open {
                // Acks and nacks are taken by every node: only the node's own word moves one (docs/protocol/clusters.md
                // 4). The framed dialect names no leader per item, but a consumer may have been told.
                let learned = match payload {
                    Payload::Message(_) => self.shared.leader(Purpose::Consume, queue),
                    Payload::Settle(_) => None,
                };
                match self.next_node(channel, Some(queue), &error, ticket.attempt, learned) {
                    Next::Node(endpoint) => {
                        ticket.attempt.hops += 1;
                        delayed.moved = true;
                        self.send_item_to(now, endpoint, BatchItem { payload, ticket });
                        continue;
                    }
                    Next::Home => {
                        ticket.attempt.return_home();
                        delayed.moved = true;
                        self.return_item(now, BatchItem { payload, ticket });
                        continue;
                    }
                    Next::Later => {
                        delayed.add(now.checked_add(ELECTION_PAUSE), BatchItem { payload, ticket });
                        continue;
                    }
                    Next::GiveUp => {}
                }
            }
            if is_open && let Some(again) = self.retry_absent(now, channel, &error, &mut ticket.attempt) {
                delayed.absent_since = delayed.absent_since.or(ticket.attempt.absent_since);
                delayed.add(Some(again), BatchItem { payload, ticket });
                continue;
            }
            let result = match &payload {
                Payload::Settle(settle) if error.kind() == ErrorKind::MessageNotFound => ItemResult::Settled(
                    self.judge_unleased(now, channel, settle, &ticket.attempt, error.during(|| settle.doing())),
                ),
                _ => ItemResult::failed(payload, error),
            };
            self.ledger.finish_item(ticket, result);
        }
        delayed
    }

    fn retry_absent(&self, now: Instant, channel: ChannelId, error: &Error, attempt: &mut Attempt) -> Option<Instant> {
        let deadline = attempt.deadline;
        self.route(channel)?
            .channel
            .retry_absent(now, error, &mut attempt.absent_since, deadline)
    }

    /// Asks again later. At the end of the clock's range there is no later.
    fn delay_call(&mut self, channel: ChannelId, until: Option<Instant>, call: Call<T>) {
        let until = until.unwrap_or(self.latest);
        match self.route_mut(channel) {
            Some(route) => route.delay_call(Some(until), call),
            None => self.main_mut().delay_call(Some(until), call),
        }
    }
}
