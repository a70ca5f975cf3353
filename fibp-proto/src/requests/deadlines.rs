//! Deadlines: of what waits for room, of what was not sent, and of what was not answered.

use std::time::Instant;

use super::Requests;
use super::batch_queue::Answered;
use super::ledger::Ledger;
use super::route::Route;
use super::run::Run;
use super::work::{BatchKey, InFlight};
use crate::connection::Expiry;
use crate::error::{Doing, Error, ErrorKind, Outcome};
use crate::machine::{CallId, ChannelId};
use crate::simulation::{Defect, TestHooks};

impl<T> Requests<T> {
    /// Ends what is late.
    pub(super) fn expire(&mut self, now: Instant) {
        let hooks = self.router.hooks;
        for route in self.router.iter_mut() {
            route.expire_waiting(now, &mut self.ledger);
            route.expire_in_flight(now, &mut self.ledger, hooks);
            route.doubts.expire(now, &mut self.ledger);
        }
        self.ledger.expire(now, &self.router.main().late_unsent());
        // A connection that leaves too many requests unanswered ends here.
        let channels: Vec<ChannelId> = self.router.iter().map(|route| route.id).collect();
        for channel in channels {
            self.take_events(now, channel);
        }
    }
}

enum Expired<T> {
    Call(CallId, Option<T>, Doing),
    Run(Run<T>),
    /// All runs of a frame, which have so many items.
    Frame(BatchKey, usize),
}

impl<T> Route<T> {
    /// Fails what was not sent by its deadline; makes delayed calls due.
    fn expire_waiting(&mut self, now: Instant, ledger: &mut Ledger<T>) {
        let error = self.late_unsent();
        if self.calls_deadline.take_due(now) {
            for (id, call) in std::mem::take(&mut self.calls) {
                if call.attempt.is_due(now) {
                    ledger.finish_call(call, Err(error.clone()));
                } else {
                    self.calls_deadline.add(call.attempt.deadline);
                    self.calls.insert(id, call);
                }
            }
            for (until, call) in std::mem::take(&mut self.delayed).into_values() {
                // The caller's deadline first: a call that is late is not sent, even if its pause ends now.
                if call.attempt.is_due(now) {
                    ledger.finish_call(call, Err(error.clone()));
                } else if until.is_some_and(|until| until <= now) {
                    self.requeue_call(call);
                } else {
                    self.delay_call(until, call);
                }
            }
        }
        for run in self.queues.handle_timeout(now) {
            ledger.fail(run, &error);
        }
    }

    /// Fails what was not answered by its deadline. The channel may have events then.
    fn expire_in_flight(&mut self, now: Instant, ledger: &mut Ledger<T>, hooks: TestHooks) {
        // What is encoded goes out sooner or later, and cannot be called back.
        let mut ended = Vec::new();
        self.channel.expire(now, |work| match work {
            InFlight::Call(call) => {
                let doing = Doing::request(&call.request);
                ended.push(Expired::Call(call.id, call.token.take(), doing));
                Expiry::Expired
            }
            InFlight::Batch(batch) => {
                let items = batch.len();
                let (mut left, mut next) = (Expiry::Expired, 0);
                for ticket in batch.tickets.iter_mut() {
                    let first = next;
                    next += ticket.items;
                    if ticket.is_told() {
                        continue;
                    }
                    if ticket.attempt.is_due(now) {
                        ended.push(Expired::Run(Run {
                            // Copies: the frame stays whole, as its other runs may have to be sent again.
                            payloads: batch.payloads.clone_range(first, ticket.items),
                            ticket: ticket.tell_early(),
                        }));
                    } else {
                        left = match (left, ticket.attempt.deadline) {
                            (Expiry::At(earliest), Some(at)) => Expiry::At(earliest.min(at)),
                            (_, Some(at)) => Expiry::At(at),
                            (Expiry::At(earliest), None) => Expiry::At(earliest),
                            (_, None) => Expiry::Never,
                        };
                    }
                }
                if left == Expiry::Expired {
                    ended.push(Expired::Frame(batch.key().to_key(), items));
                }
                left
            }
        });
        if ended.is_empty() {
            return;
        }
        let late = Error::new(ErrorKind::Timeout, "no answer within the deadline")
            .with_outcome(Outcome::Unknown)
            .at(self.channel.endpoint());
        for expired in ended {
            match expired {
                Expired::Call(id, token, doing) => {
                    let late = late.clone().during(|| doing);
                    ledger.release_call(id);
                    ledger.note_result(1, Some(&late));
                    if !hooks.has(Defect::LostWaiter) {
                        ledger.complete_call(token, Err(late));
                    }
                }
                Expired::Run(run) => ledger.fail(run, &late),
                // Nobody waits for the frame, so what is behind it does not wait for its answer either.
                Expired::Frame(key, items) => self.queues.answered(now, key.by_ref(), items, Answered::Never),
            }
        }
    }

    fn late_unsent(&self) -> Error {
        let text = match self.channel.last_error() {
            Some(error) if self.channel.connection().is_none() => {
                format!("not connected within the deadline: {}", error.without_remedy())
            }
            _ if self.channel.connection().is_none() => "not connected within the deadline".to_owned(),
            _ => "not sent within the deadline".to_owned(),
        };
        let here = self.channel.endpoint().filter(|_| self.channel.is_ready());
        Error::new(ErrorKind::Timeout, text).at(here)
    }
}
