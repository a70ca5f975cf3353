//! Subscribing: the consume request, redirects to the queue's leader, and silence.

use std::time::Instant;

use super::credit::CreditLedger;
use super::{Asked, Consumer};
use crate::config::Endpoint;
use crate::directory::Purpose;
use crate::error::{Doing, Error, ErrorKind};
use crate::event::Event;
use crate::request::{Op, Request};
use crate::response::Response;

impl<T> Consumer<T> {
    /// The connection is ready: asks for the queue first where that is wanted, as a single node accepts consumers of
    /// queues that do not exist, and says nothing when a queue is deleted (docs/protocol/preamble.md 1.7).
    pub(super) fn begin_subscription(&mut self, now: Instant) {
        if !self.settings.verify_queue {
            return self.subscribe(now);
        }
        // This question, too, has to be answered within the connect_timeout.
        self.rearm_silence(now);
        let Some(connection) = self.channel.connection_mut() else {
            return;
        };
        let request = Request::QueueStats {
            queue: self.queue.clone(),
        };
        let asked = if connection.admin_known() {
            let encoded = connection.encode(&request);
            encoded.map(|id| connection.register(id, Op::QueueStats, Asked::Queue, None))
        } else {
            // This goes on when the revision is known.
            connection.probe_admin()
        };
        if let Err(error) = asked {
            self.end(now, error.into());
        }
    }

    pub(super) fn handle_verified(&mut self, now: Instant, response: Result<Response, Error>) {
        self.channel.note_cluster(&response);
        match response {
            Ok(_) => self.subscribe(now),
            Err(error) => self.handle_refused(now, error),
        }
    }

    fn subscribe(&mut self, now: Instant) {
        self.rearm_silence(now);
        let Some(connection) = self.channel.connection_mut() else {
            return;
        };
        // What is held from earlier connections is leased, and its part of the window is not granted a second time.
        let unsettled = self.deliveries.unsettled();
        let credit = CreditLedger::new(&self.settings, connection.rules(), unsettled);
        self.deliveries.credit = credit;
        let request = Request::Consume {
            queue: self.queue.clone(),
            credit: credit.initial(),
        };
        match connection.encode(&request) {
            Ok(id) => connection.register(id, Op::Consume, Asked::Subscribe, None),
            Err(error) => self.end(now, error.into()),
        }
    }

    pub(super) fn handle_subscribed(&mut self, now: Instant, response: Result<Response, Error>) {
        self.channel.note_cluster(&response);
        match response {
            Ok(_) => {
                self.active = true;
                self.absent_since = None;
                self.rearm_silence(now);
                let again = std::mem::replace(&mut self.was_open, true);
                // Asked in any case: a renewal explains this subscription, and not the next one.
                let renewed = self.channel.take_renewed();
                if again && !renewed {
                    let queue = self.queue.clone();
                    self.shared.push_event(Event::Resubscribed { queue });
                }
                self.channel.forget_followed();
                self.complete_opened(Ok(()));
            }
            Err(error) => self.handle_refused(now, error),
        }
    }

    /// The server will not have the consumer, or not yet, or not here.
    pub(super) fn handle_refused(&mut self, now: Instant, error: Error) {
        let error = self.place(error);
        if error.kind() == ErrorKind::NotLeader {
            return self.follow_leader(now, error);
        }
        let mends = error.is_retryable() || error.kind() == ErrorKind::Protocol;
        // A new queue, perhaps, which this node or the next one will know soon.
        if mends || self.retry_absent(now, &error) {
            // As a loss: the backoff and the other servers of the list apply to it.
            self.channel.fail(now, error);
        } else {
            self.end(now, error);
        }
    }

    /// Says where an error happened, and to which consumer.
    fn place(&self, error: Error) -> Error {
        let error = error.during(|| Doing::on_queue(Op::Consume, &self.queue));
        self.channel.place(error)
    }

    fn retry_absent(&mut self, now: Instant, error: &Error) -> bool {
        self.channel
            .retry_absent(now, error, &mut self.absent_since, None)
            .is_some()
    }

    fn follow_leader(&mut self, now: Instant, error: Error) {
        let here = self.channel.endpoint().cloned();
        let leader = here
            .as_ref()
            .zip(error.leader())
            .and_then(|(here, hint)| Endpoint::from_leader_hint(hint, here).ok());
        match leader {
            Some(leader) if Some(&leader) != here.as_ref() => {
                if !self.channel.may_follow(&leader) {
                    self.channel.forget_followed();
                    // While leadership moves, nodes may name each other.
                    return if self.was_open {
                        self.channel.fail(now, error);
                    } else {
                        self.end(now, error);
                    };
                }
                // For everybody: requests go there, too, where a node names no leader to them (`Router::next_node`).
                self.shared.learn_leader(Purpose::Consume, &self.queue, leader.clone());
                self.stats.redirects += 1;
                self.shared.push_event(Event::Redirected {
                    connection: self.channel.role().clone(),
                    to: leader.clone(),
                });
                self.channel.redial_at(now, leader);
                self.note_unsubscribed();
            }
            // An election, or a node that names itself: ask again after a pause.
            _ => {
                self.shared.directory().forget_queue(Purpose::Consume, &self.queue);
                self.channel.fail(now, error);
            }
        }
    }

    /// Silence counts from now on: that of the server which has to confirm the consumer, or that of the queue.
    pub(super) fn rearm_silence(&mut self, now: Instant) {
        let bound = if self.active {
            self.settings.idle_resubscribe
        } else {
            Some(self.shared.config().settings().connect_timeout)
        };
        self.idle_at = bound.and_then(|silence| now.checked_add(silence));
    }

    /// Nothing arrived for too long: the server may have lost the consumer without a word (docs/protocol/preamble.md
    /// 1.7 and 2.4).
    pub(super) fn check_silence(&mut self, now: Instant) {
        if !self.channel.is_ready() || !self.has_room() || self.idle_at.is_none_or(|at| at > now) {
            return;
        }
        // Once: the renewal has deadlines of its own.
        self.idle_at = None;
        if !self.active {
            let error = self.place(Error::new(
                ErrorKind::Timeout,
                "the server did not confirm the consumer within the connect_timeout",
            ));
            self.channel.fail(now, error);
            return self.take_events(now);
        }
        self.channel.renew(now);
        self.note_unsubscribed();
    }

    /// The connection is gone, or about to be.
    pub(super) fn note_unsubscribed(&mut self) {
        self.active = false;
        self.idle_at = None;
    }
}
