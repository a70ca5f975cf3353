//! Lost connections: what was in flight is sent again where that is safe, and fails elsewhere.

use std::time::Instant;

use super::Requests;
use super::budget::Submission;
use super::run::Run;
use super::submit::closed;
use super::work::{BatchKey, InFlight};
use crate::channel::{Lost, Plan};
use crate::config::Replay;
use crate::connection::Connection;
use crate::error::{Error, Outcome};
use crate::event::State;
use crate::machine::{ChannelId, Reply};
use crate::request::Op;

impl<T> Requests<T> {
    pub(super) fn handle_lost(&mut self, now: Instant, channel: ChannelId, lost: Lost<InFlight<T>>) {
        let Lost { error, works, .. } = lost;
        let Some(route) = self.route_mut(channel) else { return };
        // Each connection learns its admin revision by itself: what waited for this one asks the next.
        route.release_admin_calls();
        if route.node.is_some() {
            // The route ends, its work does not: the main server knows where the leader is by now.
            self.retry_or_fail(now, channel, works, &error, true);
            self.return_to_main(now, channel);
            if let Some(route) = self.route_mut(channel) {
                route.channel.shut(now, error);
            }
            return;
        }
        let plan = match route.channel.plan_after(&error) {
            // Somebody waits to see the first connection, and is better off with the error.
            Plan::GiveUp if self.opened.is_some() => Plan::End,
            plan => plan,
        };
        let error = match plan {
            Plan::Again(_) => error,
            Plan::End | Plan::GiveUp => self.main().channel.summarise(error),
        };
        self.retry_or_fail(now, channel, works, &error, plan != Plan::End);
        match plan {
            Plan::End => self.end(now, error),
            Plan::GiveUp => {
                self.fail_main(&error);
                self.shared.set_state(State::Failed);
                self.main_mut().channel.give_up();
            }
            Plan::Again(backoff) => {
                if self.main().channel.was_ready() {
                    self.shared.set_state(State::Reconnecting);
                }
                self.main_mut().channel.retry(now, backoff);
            }
        }
    }

    /// What was in flight when the connection was lost: sent again where that is safe, failed elsewhere.
    /// `goes_on`: there will be another connection.
    fn retry_or_fail(
        &mut self,
        now: Instant,
        channel: ChannelId,
        works: Vec<(InFlight<T>, bool)>,
        error: &Error,
        goes_on: bool,
    ) {
        let unknown = error.clone().with_outcome(Outcome::Unknown);
        let not_sent = error.clone().with_outcome(Outcome::NotSent);
        // The last first: each then goes to the front, where its call id belongs.
        for (work, sent) in works.into_iter().rev() {
            let error = if sent { &unknown } else { &not_sent };
            match work {
                InFlight::Call(mut call) => {
                    let again = goes_on && (!sent || self.is_replayable(call.request.op()));
                    call.attempt.replayed |= sent && again;
                    match self.route_mut(channel).filter(|_| again) {
                        Some(route) => route.requeue_call(call),
                        None => self.ledger.finish_call(call, Err(error.clone())),
                    }
                }
                InFlight::Batch(batch) => {
                    let again = goes_on && (!sent || self.is_replayable(batch.key.kind.op()));
                    let key = batch.key.clone();
                    let mut runs = Vec::new();
                    for mut run in batch.into_runs() {
                        if again {
                            run.ticket.attempt.replayed |= sent;
                            if !run.ticket.is_told() {
                                runs.push(run);
                            }
                        } else {
                            self.ledger.fail(run, error);
                        }
                    }
                    self.put_back(now, channel, key, runs);
                }
            }
        }
        if let Some(route) = self.route_mut(channel) {
            route.queues.reset_in_flight(now);
        }
    }

    fn is_replayable(&self, op: Op) -> bool {
        match self.shared.config().settings().replay {
            Replay::Never => false,
            Replay::SafeOps => op.is_safe_to_replay(),
            Replay::IncludingEnqueue => op == Op::Enqueue || op.is_safe_to_replay(),
        }
    }

    /// Puts runs back where they came from.
    pub(super) fn put_back(&mut self, now: Instant, channel: ChannelId, key: BatchKey, runs: Vec<Run<T>>) {
        if runs.is_empty() {
            return;
        }
        let policy = self.ledger.budgets.policy(key.budget);
        match (policy, self.route_and_ledger(channel)) {
            (Some(policy), Some((route, ledger))) => {
                route.queues.put_back(now, key, policy, runs, &mut ledger.places);
            }
            _ => self.ledger.fail_runs(runs, &closed("the producer")),
        }
    }

    // ---- ends ----

    /// The machine is over: what waits fails, nothing new is taken.
    pub(super) fn end(&mut self, now: Instant, error: Error) {
        if self.main().channel.is_closed() {
            return;
        }
        self.fail_everything(&error);
        self.complete_opened(Err(error.clone()));
        self.shut_channels(now, &error);
        self.shared.set_state(State::Closed);
    }

    pub(super) fn shut_channels(&mut self, now: Instant, error: &Error) {
        for route in &mut self.routes {
            route.channel.shut(now, error.clone());
        }
    }

    /// Fails everything that is open, on every route. Connections stay for a goodbye.
    pub(super) fn fail_everything(&mut self, error: &Error) {
        let channels: Vec<ChannelId> = self.routes.iter().map(|route| route.id).collect();
        for channel in channels {
            self.fail_route(channel, error);
        }
        self.fail_all_parked(error);
        let unknown = error.clone().with_outcome(Outcome::Unknown);
        for token in self.ledger.budgets.drain_flushes() {
            self.ledger.complete(token, Reply::Flushed(Err(unknown.clone())));
        }
    }

    /// Fails what waits for the main route, or for room. Nodes go on.
    fn fail_main(&mut self, error: &Error) {
        self.fail_route(ChannelId::MAIN, error);
        self.fail_all_parked(error);
    }

    fn fail_route(&mut self, channel: ChannelId, error: &Error) {
        let Some(route) = self.routes.iter_mut().find(|route| route.id == channel) else {
            return;
        };
        let in_flight = route
            .channel
            .connection_mut()
            .map(Connection::drain)
            .unwrap_or_default();
        let calls = route.take_calls();
        let runs = route.queues.drain();
        // What is encoded may be on its way at this moment, or go out before the goodbye.
        let unknown = error.clone().with_outcome(Outcome::Unknown);
        for (work, _) in in_flight {
            match work {
                InFlight::Call(call) => self.ledger.finish_call(call, Err(unknown.clone())),
                InFlight::Batch(batch) => {
                    for run in batch.into_runs() {
                        self.ledger.fail(run, &unknown);
                    }
                }
            }
        }
        let not_sent = error.clone().with_outcome(Outcome::NotSent);
        for call in calls {
            self.ledger.finish_call(call, Err(not_sent.clone()));
        }
        self.ledger.fail_runs(runs, &not_sent);
    }

    /// Fails everything that waits for room.
    fn fail_all_parked(&mut self, error: &Error) {
        let error = error.clone().with_outcome(Outcome::NotSent);
        for parked in self.ledger.budgets.drain_parked() {
            self.fail_parked(parked.submission, &error);
        }
    }

    /// Fails what waited for room.
    pub(super) fn fail_parked(&mut self, submission: Submission<T>, error: &Error) {
        self.ledger.note_result(submission.results(), Some(error));
        self.fail_submission(submission, error);
    }
}
