//! Deliveries: their leases, the room they take, and who waits for them.

use std::collections::BTreeSet;
use std::time::Instant;

use super::Consumer;
use super::credit::CreditLedger;
use super::expired::Pace;
use super::leases::{Leases, Terms};
use crate::error::Error;
use crate::event::Stats;
use crate::machine::{CallId, Completion, Reply};
use crate::request::Request;
use crate::response::Push;
use crate::simulation::Defect;

/// What was received and not taken, and who waits for it.
#[derive(Debug)]
pub(super) struct Deliveries<T> {
    pub(super) waiting: Leases,
    /// Handed to the consumer in its last take: it has not asked for more yet.
    lent: usize,
    sequence: u64,
    pub(super) credit: CreditLedger,
    /// With a window: the deliveries that are not settled or dropped, of this connection and of earlier ones. They are
    /// leased, so they take up the window.
    pub(super) unsettled: BTreeSet<u64>,
    pub(super) pace: Pace,
    /// The lease deadline of the burst of which deliveries were skipped last.
    pub(super) skipped_until: Option<Instant>,
    end: End,
    ready: Option<(CallId, T)>,
    pub(super) drained: Vec<(CallId, T)>,
}

#[derive(Debug)]
enum End {
    /// More may come.
    Open,
    /// Nothing more comes; `Some`: the error to hand out after the last delivery.
    Ended(Option<Error>),
}

impl<T> Deliveries<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: Leases::new(),
            lent: 0,
            sequence: 0,
            credit: CreditLedger::None,
            unsettled: BTreeSet::new(),
            pace: Pace::default(),
            skipped_until: None,
            end: End::Open,
            ready: None,
            drained: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many deliveries take up a window of credit.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    pub(super) fn abandon(&mut self, id: CallId) -> Option<T> {
        if self.ready.as_ref().is_some_and(|(ready, _)| *ready == id) {
            return self.ready.take().map(|(_, token)| token);
        }
        let place = self.drained.iter().position(|(known, _)| *known == id)?;
        Some(self.drained.swap_remove(place).1)
    }

    /// For how many deliveries there is room.
    pub(super) fn room(&self, prefetch: usize) -> usize {
        prefetch.max(1).saturating_sub(self.waiting.len() + self.lent)
    }

    /// Whether somebody waits for a delivery.
    pub(super) fn is_awaited(&self) -> bool {
        self.ready.is_some()
    }

    fn has_news(&self) -> bool {
        !self.waiting.is_empty() || matches!(self.end, End::Ended(_))
    }

    fn wake(&mut self, completions: &mut Vec<Completion<T>>) {
        if self.has_news()
            && let Some((_, token)) = self.ready.take()
        {
            completions.push(Completion {
                token,
                reply: Reply::Ready,
            });
        }
    }
}

impl<T> Consumer<T> {
    /// The gauges of [`Stats`]: what the machine holds now.
    #[must_use]
    pub fn gauges(&self) -> Stats {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Stats {
            open_connections: u64::from(self.channel.is_ready()),
            deliveries_waiting: count(self.deliveries.len()),
            unsettled: count(self.deliveries.unsettled()),
            ..Stats::default()
        }
    }

    /// Moves up to `max` received deliveries to the back of `into`, oldest first; how many. Frees room, so the driver may have
    /// to read again. Costs as much for a burst as for a delivery.
    pub fn take_leases(&mut self, now: Instant, max: usize, into: &mut Leases) -> usize {
        // Before anything is taken: only the step from full to not full is news for the driver.
        let was_full = !self.has_delivery_room();
        let skipped = self.deliveries.skip_expired(now, &self.settings);
        let n = self.deliveries.waiting.move_to(max, into);
        // What was lent before is used up, or the consumer would not ask for more.
        self.deliveries.lent = n;
        self.deliveries.pace.handed_out(now, n);
        self.note_skipped(&skipped);
        if was_full {
            self.resume(now);
        }
        n
    }

    /// A delivery was settled or dropped: where a window of credit bounds what is leased, the server may send another.
    /// Only deliveries that [are counted](super::Lease::is_counted) need it. A number that was released before, or never
    /// delivered, does nothing.
    pub fn release_delivery(&mut self, sequence: u64) {
        if self.deliveries.unsettled.remove(&sequence) {
            let starving = self.deliveries.is_awaited();
            let grant = self.deliveries.credit.released(1, starving);
            self.grant(grant);
        }
    }

    /// The state of the consumer when no delivery waits: `None` while more may come, `Some(None)` after a clean
    /// end, `Some(Some(error))` once after a terminal error.
    pub fn poll_end(&mut self) -> Option<Option<Error>> {
        if !self.deliveries.waiting.is_empty() {
            return None;
        }
        match &mut self.deliveries.end {
            End::Open => None,
            End::Ended(error) => Some(error.take()),
        }
    }

    /// Completes with [`Reply::Ready`] when a delivery waits or the consumer has ended; at once if so.
    pub fn wait_delivery(&mut self, now: Instant, token: T) -> CallId {
        let id = self.next_call_id();
        // The consumer has used up what it was lent.
        self.deliveries.pace.asked(now);
        let was_full = !self.has_delivery_room();
        self.deliveries.lent = 0;
        // One waiter at a time; the earlier one looks again, so none is forgotten.
        if let Some((_, earlier)) = self.deliveries.ready.replace((id, token)) {
            self.complete(earlier, Reply::Ready);
        }
        self.deliveries.wake(&mut self.completions);
        let starving = self.deliveries.is_awaited();
        let grant = self.deliveries.credit.released(0, starving);
        self.grant(grant);
        if was_full {
            self.resume(now);
        }
        id
    }

    fn has_delivery_room(&self) -> bool {
        self.deliveries.room(self.settings.prefetch) > 0
    }

    /// For how many deliveries there is room. Before a connection is ready nothing is delivered on it.
    pub(super) fn room(&self) -> usize {
        let room = self.deliveries.room(self.settings.prefetch);
        if self.channel.is_delivering() {
            room
        } else {
            room.max(1)
        }
    }

    /// Whether what arrives now has room.
    pub(super) fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// Deliveries may have room again.
    fn resume(&mut self, now: Instant) {
        if !self.has_room() {
            return;
        }
        self.rearm_silence(now);
        self.channel.note_room();
        self.take_events(now);
        self.finish_turn(now);
    }

    pub(super) fn handle_push(&mut self, now: Instant, push: Push) {
        let began = self.channel.burst_began();
        let deadline = began.and_then(|at| at.checked_add(self.settings.lease()));
        let n = push.deliveries.len();
        let terms = Terms {
            deadline,
            sequence: self.deliveries.sequence + 1,
            is_counted: self.deliveries.credit.is_window(),
        };
        self.deliveries.sequence += n as u64;
        if terms.is_counted {
            let sequences = terms.sequence..=self.deliveries.sequence;
            self.deliveries.unsettled.extend(sequences);
        }
        self.deliveries.waiting.push(push.deliveries, terms);
        self.stats.deliveries += n as u64;
        self.rearm_silence(now);
        let grant = self.deliveries.credit.received(n);
        if !self.hooks.has(Defect::LostWakeUp) {
            self.deliveries.wake(&mut self.completions);
        }
        // A delivery is the proof that the subscription works: the backoff starts over.
        self.channel.note_success();
        self.grant(grant);
    }

    /// What arrived on a connection that is over, or about to be.
    pub(super) fn take_last_pushes(&mut self, now: Instant) {
        while let Some(push) = self.channel.poll_last_push(now, &self.queue) {
            self.handle_push(now, push);
        }
    }

    pub(super) fn grant(&mut self, credit: Option<u32>) {
        if self.hooks.has(Defect::SkippedTopUp) {
            return;
        }
        if let (Some(credit), Some(connection)) = (credit, self.channel.connection_mut())
            && connection.is_ready()
        {
            // A grant has no part that could fail to encode.
            let _ = connection.encode(&Request::Flow { credit });
        }
    }

    /// Nothing more comes: after the deliveries that wait, the consumer sees `error`, or a clean end.
    pub(super) fn end_deliveries(&mut self, error: Option<Error>) {
        if let End::Open = self.deliveries.end {
            self.deliveries.end = End::Ended(error);
        }
        self.idle_at = None;
        for (_, token) in std::mem::take(&mut self.deliveries.drained) {
            self.complete(token, Reply::Drained);
        }
        self.deliveries.wake(&mut self.completions);
    }
}
