//! The way in: what callers ask for, and the room it takes.

use std::time::{Duration, Instant};

use super::Requests;
use super::budget::{Budget, Parked, Submission};
use super::few::Few;
use super::run::{Payloads, Run};
use super::settle::Settle;
use super::work::{Attempt, CLIENT, Call, Many};
use crate::config::OnFull;
use crate::error::{Error, ErrorKind};
use crate::event::{Event, State};
use crate::machine::{CallId, Reply};
use crate::message::Message;
use crate::request::{Op, Request};
use crate::simulation::Defect;

impl<T> Requests<T> {
    /// One request; completes with [`Reply::Response`]. `timeout` overrides the configured request timeout.
    pub fn call(&mut self, now: Instant, request: Request, timeout: Option<Duration>, token: T) -> CallId {
        let id = self.next_call_id();
        if !is_callable(&request) {
            let text = format!(
                "{:?} is not a call: use the producer's or consumer's own methods",
                request.op()
            );
            let error = Error::new(ErrorKind::InvalidArgument, text);
            self.ledger.complete_call(Some(token), Err(error));
            return id;
        }
        let attempt = Attempt::new(self.deadline(now, timeout));
        let call = Call {
            id,
            request,
            token: Some(token),
            attempt,
        };
        self.submit(now, CLIENT, id, attempt.deadline, Submission::Call(call));
        id
    }

    /// One message through the client's own batch queues; completes with [`Reply::Enqueued`].
    pub fn enqueue(&mut self, now: Instant, message: Message, timeout: Option<Duration>, token: T) -> CallId {
        self.submit_one(now, message, timeout, token)
    }

    /// Many messages, any mix of queues; completes with [`Reply::EnqueuedMany`], results in input order.
    pub fn enqueue_many(
        &mut self,
        now: Instant,
        messages: Vec<Message>,
        timeout: Option<Duration>,
        token: T,
    ) -> CallId {
        self.submit_many(now, Payloads::Messages(Few::from(messages)), timeout, token)
    }

    /// One ack or nack; completes with [`Reply::Settled`].
    pub fn settle(&mut self, now: Instant, settle: Settle, timeout: Option<Duration>, token: T) -> CallId {
        // Noted, and sent all the same: leases may last longer than this machine believes.
        self.note_late(now, &settle);
        self.submit_one(now, settle, timeout, token)
    }

    /// Many acks and nacks; completes with [`Reply::SettledMany`], results in input order.
    pub fn settle_many(&mut self, now: Instant, settles: Vec<Settle>, timeout: Option<Duration>, token: T) -> CallId {
        for settle in &settles {
            self.note_late(now, settle);
        }
        self.submit_many(now, Payloads::Settles(Few::from(settles)), timeout, token)
    }

    pub(super) fn deadline(&self, now: Instant, timeout: Option<Duration>) -> Option<Instant> {
        let configured = self.shared.config().settings().request_timeout;
        timeout.or(configured).and_then(|timeout| now.checked_add(timeout))
    }

    fn submit_one(
        &mut self,
        now: Instant,
        payload: impl Into<Payloads>,
        timeout: Option<Duration>,
        token: T,
    ) -> CallId {
        let id = self.next_call_id();
        let attempt = Attempt::new(self.deadline(now, timeout));
        let run = Run::alone(id, attempt, token, payload);
        // Not by way of `submit`: a run is large to move, and this is what most callers do.
        match self.way_in(now, CLIENT, run.ticket.cost) {
            WayIn::Open => self.admit_run(now, run),
            way => self.keep_out(CLIENT, id, attempt.deadline, Submission::One(run), way),
        }
        id
    }

    fn submit_many(&mut self, now: Instant, payloads: Payloads, timeout: Option<Duration>, token: T) -> CallId {
        let call = self.next_call_id();
        if payloads.len() == 0 {
            let reply = match payloads {
                Payloads::Messages(_) => Reply::EnqueuedMany(Vec::new()),
                Payloads::Settles(_) => Reply::SettledMany(Vec::new()),
            };
            self.ledger.complete(token, reply);
            return call;
        }
        let attempt = Attempt::new(self.deadline(now, timeout));
        let many = Many {
            call,
            attempt,
            token,
            cost: payloads.cost(),
            payloads,
        };
        self.submit(now, CLIENT, call, attempt.deadline, Submission::Many(many));
        call
    }

    pub(super) fn submit(
        &mut self,
        now: Instant,
        budget: u32,
        id: CallId,
        deadline: Option<Instant>,
        submission: Submission<T>,
    ) {
        match self.way_in(now, budget, submission.cost()) {
            WayIn::Open => self.admit(now, budget, submission),
            way => self.keep_out(budget, id, deadline, submission, way),
        }
    }

    /// Whether something of this cost may come in.
    fn way_in(&mut self, now: Instant, budget: u32, cost: usize) -> WayIn {
        // Whoever gives up says no instant: `abandon` goes by the latest one that was seen.
        self.latest = self.latest.max(now);
        if let Some(error) = self.refusal(now) {
            return WayIn::Shut(error);
        }
        match self.ledger.budgets.get(budget) {
            Some(room) if room.has_room_for(cost) => WayIn::Open,
            Some(room) if room.on_full == OnFull::Wait => WayIn::Line,
            Some(_) => WayIn::Shut(full()),
            None => WayIn::Shut(closed("the producer")),
        }
    }

    /// Parks or fails what may not come in now.
    fn keep_out(&mut self, budget: u32, id: CallId, deadline: Option<Instant>, submission: Submission<T>, way: WayIn) {
        match way {
            WayIn::Shut(error) => self.ledger.fail_submission(submission, &error),
            WayIn::Open | WayIn::Line => {
                let parked = Parked { deadline, submission };
                self.ledger.budgets.park(budget, id, parked);
            }
        }
    }

    /// Why nothing new is taken, if so. A main channel that gave up may try once more for this.
    pub(super) fn refusal(&mut self, now: Instant) -> Option<Error> {
        if self.ledger.closing.is_some() {
            return Some(closed("the client"));
        }
        self.channel_refusal(now)
    }

    /// The same, also while the client closes.
    pub(super) fn channel_refusal(&mut self, now: Instant) -> Option<Error> {
        let channel = &mut self.router.main_mut().channel;
        let had_given_up = channel.has_given_up();
        let refusal = channel.refusal(now);
        if had_given_up && refusal.is_none() {
            self.shared.set_state(State::Reconnecting);
        }
        refusal
    }

    pub(super) fn admit(&mut self, now: Instant, budget: u32, submission: Submission<T>) {
        match submission {
            Submission::Call(call) => {
                if let Some(room) = self.ledger.budgets.get_mut(budget) {
                    room.charge(true, 0);
                }
                // The main server first, whichever queue it is about: its answer names the node that has to be asked.
                self.router.main_mut().requeue_call(call);
            }
            Submission::One(run) => self.admit_run(now, run),
            Submission::Many(many) => self.admit_many(now, many),
            Submission::Room { room, token, .. } => {
                if let Some(budget) = self.ledger.budgets.get_mut(budget) {
                    budget.reserve(room);
                }
                self.ledger.complete(token, Reply::Room(Ok(())));
            }
        }
    }

    /// Lets a list in: a run for each stretch of items of one batch queue.
    fn admit_many(&mut self, now: Instant, many: Many<T>) {
        let Many {
            call,
            attempt,
            token,
            mut payloads,
            mut cost,
        } = many;
        let items = payloads.len();
        let is_enqueue = matches!(payloads, Payloads::Messages(_));
        // Before the first run comes in: one that fails at once looks for it.
        self.ledger.joins.open(call, token, items, is_enqueue);
        let mut place = 0;
        while place < items {
            let stretch = payloads.split_front(payloads.of_one_queue());
            let is_last = place + stretch.len() == items;
            // The last one takes what is left, so that the parts give back what the whole was charged.
            let part = if is_last { cost } else { stretch.cost() };
            cost = cost.saturating_sub(part);
            let run = Run::part(call, attempt, place, stretch, part);
            place += run.len();
            self.admit_run(now, run);
        }
    }

    /// Lets a run in: it takes room, and waits at the route that leads to its queue.
    #[inline]
    pub(super) fn admit_run(&mut self, now: Instant, mut run: Run<T>) {
        // Room is taken before the route is chosen: a move to another route takes the charge along.
        let Some(policy) = self.ledger.budgets.charge(&mut run.ticket) else {
            return self.ledger.fail_closed(run);
        };
        if let Some(queues) = self.router.queues_for(now, &run.payloads) {
            queues.push(now, policy, run, &mut self.ledger.places);
        }
    }

    /// Lets those in line in, as far as there is room; frees the budgets of producers that are done.
    pub(super) fn settle_budgets(&mut self, now: Instant) {
        // Until none is in line: letting one in may end another at once, which gives room back.
        while let Some(index) = self.ledger.budgets.next_to_settle() {
            let mut admitted = false;
            while let Some(parked) = self.ledger.budgets.get_mut(index).and_then(Budget::next_admitted) {
                if !self.router.hooks.has(Defect::ForgottenCall) {
                    self.admit(now, index, parked.submission);
                }
                admitted = true;
            }
            // Nothing more will come that is worth lingering for.
            if admitted && self.ledger.closing.is_some() {
                self.router.flush(now, Some(index));
            }
            // Only now: those in line count as its work.
            self.ledger.budgets.remove_done(index);
        }
    }

    fn note_late(&mut self, now: Instant, settle: &Settle) {
        // Compared first: most are in time, and the time between two instants takes longer.
        if let Some(deadline) = settle.lease_deadline.filter(|deadline| *deadline < now) {
            let late_by = now.saturating_duration_since(deadline);
            self.ledger.stats.late_settles += 1;
            self.shared.push_event(Event::LateSettle {
                queue: settle.queue.clone(),
                id: settle.id.clone(),
                late_by,
            });
        }
    }
}

/// What stands between a caller's work and the machine.
enum WayIn {
    Open,
    /// It waits for room, in line.
    Line,
    Shut(Error),
}

/// Whether a caller may ask this by itself.
fn is_callable(request: &Request) -> bool {
    let op = request.op();
    op.is_admin() || op == Op::Heartbeat
}

pub(super) fn full() -> Error {
    Error::new(
        ErrorKind::Overloaded,
        "the client's own buffer or bound of requests in flight is full",
    )
    .with_remedy("wait for answers, set on_full to Wait, or raise buffer or max_in_flight")
}

pub(super) fn closed(what: &str) -> Error {
    crate::channel::closed(what)
}
