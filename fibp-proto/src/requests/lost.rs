//! Lost connections: what was in flight is sent again where that is safe, and fails elsewhere.

use std::time::Instant;

use super::Requests;
use super::ledger::Ledger;
use super::route::Route;
use super::run::Run;
use super::submit::closed;
use super::work::{BatchKey, InFlight};
use crate::channel::{Lost, Plan};
use crate::config::Replay;
use crate::connection::Connection;
use crate::error::{Error, Outcome};
use crate::event::State;
use crate::machine::ChannelId;
use crate::request::Op;

impl<T> Requests<T> {
    pub(super) fn handle_lost(&mut self, now: Instant, channel: ChannelId, lost: Lost<InFlight<T>>) {
        let Lost { error, works, .. } = lost;
        let Some(route) = self.router.get_mut(channel) else {
            return;
        };
        // Each connection learns its admin revision by itself: what waited for this one asks the next.
        route.release_admin_calls();
        if route.node.is_some() {
            // The route ends, its work does not: the main server knows where the leader is by now.
            // Back to this route first, and then away with all that waits here, in the order of call ids.
            self.retry_or_fail(now, channel, works, &error, true);
            self.router.return_to_main(now, channel, &mut self.ledger);
            if let Some(route) = self.router.get_mut(channel) {
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
            Plan::End | Plan::GiveUp => self.router.main().channel.summarise(error),
        };
        // Before the plan is carried out: what is kept waits at this route when it is dialed, or fails with the rest of
        // it.
        self.retry_or_fail(now, channel, works, &error, plan != Plan::End);
        match plan {
            Plan::End => self.end(now, error),
            Plan::GiveUp => {
                self.fail_main(&error);
                self.shared.set_state(State::Failed);
                self.router.main_mut().channel.give_up();
            }
            Plan::Again(backoff) => {
                if self.router.main().channel.was_ready() {
                    self.shared.set_state(State::Reconnecting);
                }
                self.router.main_mut().channel.retry(now, backoff);
            }
        }
    }

    // ---- ends ----

    /// The machine is over: what waits fails, nothing new is taken.
    pub(super) fn end(&mut self, now: Instant, error: Error) {
        if self.router.main().channel.is_closed() {
            return;
        }
        // In this order: channels that are shut drop what they have in flight, tokens and all.
        self.fail_everything(&error);
        self.complete_opened(Err(error.clone()));
        self.shut_channels(now, &error);
        self.shared.set_state(State::Closed);
    }

    pub(super) fn shut_channels(&mut self, now: Instant, error: &Error) {
        for route in self.router.iter_mut() {
            route.channel.shut(now, error.clone());
        }
    }

    /// Fails everything that is open, on every route. Connections stay for a goodbye.
    pub(super) fn fail_everything(&mut self, error: &Error) {
        for route in self.router.iter_mut() {
            route.fail(error, &mut self.ledger);
        }
        self.ledger.fail_all_parked(error);
        self.ledger.fail_flushes(error);
    }

    /// Fails what waits for the main route, or for room. Nodes go on.
    fn fail_main(&mut self, error: &Error) {
        self.router.main_mut().fail(error, &mut self.ledger);
        self.ledger.fail_all_parked(error);
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
        let replay = self.shared.config().settings().replay;
        if let Some((route, ledger)) = self.route_and_ledger(channel) {
            let again = |sent: bool, op| goes_on && (!sent || is_replayable(replay, op));
            route.retry_or_fail(now, works, error, again, ledger);
        }
    }
}

fn is_replayable(replay: Replay, op: Op) -> bool {
    match replay {
        Replay::Never => false,
        Replay::SafeOps => op.is_safe_to_replay(),
        Replay::IncludingEnqueue => op == Op::Enqueue || op.is_safe_to_replay(),
    }
}

impl<T> Route<T> {
    /// Lets what was in flight wait again where it waited before, or fails it. `again`: which of it, by whether it may
    /// have been sent and by its operation.
    fn retry_or_fail(
        &mut self,
        now: Instant,
        works: Vec<(InFlight<T>, bool)>,
        error: &Error,
        again: impl Fn(bool, Op) -> bool,
        ledger: &mut Ledger<T>,
    ) {
        let unknown = error.clone().with_outcome(Outcome::Unknown);
        let not_sent = error.clone().with_outcome(Outcome::NotSent);
        // The last first: each then goes to the front, where its call id belongs.
        for (work, sent) in works.into_iter().rev() {
            let error = if sent { &unknown } else { &not_sent };
            match work {
                InFlight::Call(mut call) => {
                    if again(sent, call.request.op()) {
                        // It stays so: a later "not there" may be the effect of any earlier attempt.
                        call.attempt.replayed |= sent;
                        self.requeue_call(*call);
                    } else {
                        ledger.finish_call(*call, Err(error.clone()));
                    }
                }
                InFlight::Batch(batch) if again(sent, batch.key().kind.op()) => {
                    let key = batch.key().to_key();
                    // Without those who were told: their deadline passed, and their room was given back then.
                    let mut runs: Vec<_> = batch.into_runs().filter(|run| !run.ticket.is_told()).collect();
                    for run in &mut runs {
                        run.ticket.attempt.replayed |= sent;
                    }
                    self.put_back(now, key, runs, ledger);
                }
                InFlight::Batch(batch) => batch.into_runs().for_each(|run| ledger.fail(run, error)),
            }
        }
        // After the runs are back: a queue that has something again is made ready for the next connection.
        self.queues.reset_in_flight(now);
    }

    /// Puts runs back where they came from.
    pub(super) fn put_back(&mut self, now: Instant, key: BatchKey, runs: Vec<Run<T>>, ledger: &mut Ledger<T>) {
        if runs.is_empty() {
            return;
        }
        match ledger.budgets.policy(key.budget) {
            Some(policy) => self.queues.put_back(now, key, policy, runs, &mut ledger.places),
            None => ledger.fail_runs(runs, &closed("the producer")),
        }
    }

    /// Fails what is in flight, what waits and what is in doubt.
    fn fail(&mut self, error: &Error, ledger: &mut Ledger<T>) {
        let in_flight = self.channel.connection_mut().map(Connection::drain).unwrap_or_default();
        let calls = self.take_calls();
        let runs = self.queues.drain();
        // What is encoded may be on its way at this moment, or go out before the goodbye.
        let unknown = error.clone().with_outcome(Outcome::Unknown);
        for (work, _) in in_flight {
            match work {
                InFlight::Call(call) => ledger.finish_call(*call, Err(unknown.clone())),
                InFlight::Batch(batch) => batch.into_runs().for_each(|run| ledger.fail(run, &unknown)),
            }
        }
        let not_sent = error.clone().with_outcome(Outcome::NotSent);
        for call in calls {
            ledger.finish_call(call, Err(not_sent.clone()));
        }
        ledger.fail_runs(runs, &not_sent);
        self.doubts.give_up(ledger);
    }
}
