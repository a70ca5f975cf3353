//! The consumer of a link: subscribing, credit, deliveries and their leases.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Link;
use super::completion::{CallId, Completion, Reply};
use super::submit::closed;
use super::work::{Fate, Work};
use crate::config::{ConsumerSettings, Credit, Endpoint};
use crate::connection::Broken;
use crate::dialect::Rules;
use crate::directory::Purpose;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::message::{QueueName, Received};
use crate::request::{Op, Request};
use crate::response::{Push, Response};
use crate::simulation::Flaw;

/// A standing grant: the server-side balance never comes near the 64 at which servers with bug 1 lose
/// messages (docs/protocol/preamble.md 1.7), and never near the end of the counter.
const STANDING_CREDIT: u32 = 1 << 30;

/// A received message and its lease.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The message.
    pub received: Received,
    /// When the lease ends at the earliest, by the client's clock and the configured visibility timeout.
    pub deadline: Option<Instant>,
    /// Counts deliveries of this consumer: tells redeliveries of one id apart.
    pub sequence: u64,
    /// Its credit comes back with [`Link::release_delivery`], once it is settled or dropped.
    pub is_counted: bool,
    /// Does that when the last clone of the lease is gone, if the adapter puts it there.
    pub guard: Option<LeaseGuard>,
}

/// Tells a consumer's link that a delivery was settled or dropped, when the last clone is dropped.
#[derive(Clone)]
pub struct LeaseGuard(#[expect(dead_code, reason = "kept for its drop")] Arc<OnRelease>);

struct OnRelease {
    sequence: u64,
    release: Arc<dyn ReleaseDelivery>,
}

/// What passes a delivery's end on to [`Link::release_delivery`].
pub trait ReleaseDelivery: Send + Sync {
    /// The delivery with this number was settled or dropped.
    fn release_delivery(&self, sequence: u64);
}

impl Drop for OnRelease {
    fn drop(&mut self) {
        self.release.release_delivery(self.sequence);
    }
}

impl LeaseGuard {
    /// A guard for the delivery with this number.
    pub fn new(sequence: u64, release: Arc<dyn ReleaseDelivery>) -> Self {
        Self(Arc::new(OnRelease { sequence, release }))
    }
}

impl fmt::Debug for LeaseGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseGuard")
    }
}

/// The consumer's side of a link.
#[derive(Debug)]
pub(super) struct Subscription<T> {
    queue: QueueName,
    settings: ConsumerSettings,
    deliveries: VecDeque<Lease>,
    /// Handed to the consumer in its last take: it has not asked for more yet.
    lent: usize,
    sequence: u64,
    credit: Ledger,
    /// With a window: the deliveries that are not settled or dropped, of this connection and of earlier ones. They are
    /// leased, so they take up the window.
    unsettled: BTreeSet<u64>,
    /// The server confirmed this connection's consumer.
    active: bool,
    /// A consumer was confirmed before.
    was_open: bool,
    end: End,
    ready: Option<(CallId, T)>,
    drained: Vec<(CallId, T)>,
    /// Nothing arrived until then: subscribe anew.
    idle_at: Option<Instant>,
    /// What a cluster's answers to the consume say so far.
    fate: Fate,
    pace: Pace,
    /// The lease deadline of the burst of which deliveries were skipped last.
    skipped_until: Option<Instant>,
}

/// How long the consumer is busy with what it was given.
#[derive(Debug, Default)]
struct Pace {
    /// When deliveries were handed out last, and how many, if it has not asked for more.
    given: Option<(Instant, u32)>,
    /// The time that one of them took.
    handling: Duration,
}

impl Pace {
    fn handed_out(&mut self, now: Instant, n: usize) {
        self.given = u32::try_from(n).ok().filter(|n| *n > 0).map(|n| (now, n));
    }

    /// The consumer asks for more.
    fn asked(&mut self, now: Instant) {
        if let Some((at, n)) = self.given.take() {
            self.handling = now.saturating_duration_since(at) / n;
        }
    }
}

/// What was skipped.
#[derive(Debug, Default)]
struct Skipped {
    deliveries: u64,
    /// How many of them take up the window.
    counted: u32,
    /// The first ones of their burst.
    is_news: bool,
}

#[derive(Debug)]
enum End {
    /// More may come.
    Open,
    /// Nothing more comes; `Some`: the error to hand out after the last delivery.
    Ended(Option<Error>),
}

/// What was granted on this connection and used up since.
#[derive(Debug, Clone, Copy)]
enum Ledger {
    /// The dialect has no credit.
    None,
    /// Top up what was received, when half of the grant is gone.
    Standing { used: u32 },
    /// Top up what was settled or dropped, so that no more than the window is ever leased and unsettled.
    Window {
        size: u32,
        /// Credit that the server has not used yet.
        open: u32,
        /// Settled or dropped, and not granted again yet.
        released: u32,
    },
}

impl Ledger {
    /// `unsettled`: how much of a window is taken up already.
    fn new(settings: &ConsumerSettings, rules: Rules, unsettled: usize) -> Self {
        let window = match settings.credit {
            Credit::Auto => rules.credit_window,
            Credit::Standing => false,
            Credit::Window => true,
        };
        if !rules.credit {
            Self::None
        } else if window {
            let size = u32::try_from(settings.prefetch)
                .unwrap_or(STANDING_CREDIT)
                .clamp(1, STANDING_CREDIT);
            Self::Window {
                size,
                open: size.saturating_sub(u32::try_from(unsettled).unwrap_or(u32::MAX)),
                released: 0,
            }
        } else {
            Self::Standing { used: 0 }
        }
    }

    fn initial(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Standing { .. } => STANDING_CREDIT,
            Self::Window { open, .. } => open,
        }
    }

    fn is_window(self) -> bool {
        matches!(self, Self::Window { .. })
    }

    /// Deliveries were received; what to grant for them now.
    fn received(&mut self, n: usize) -> Option<u32> {
        match self {
            Self::Standing { used } => top_up(used, n, STANDING_CREDIT / 2),
            Self::Window { open, .. } => {
                *open = open.saturating_sub(u32::try_from(n).unwrap_or(u32::MAX));
                None
            }
            Self::None => None,
        }
    }

    /// A delivery was settled or dropped; what to grant for it now. `starving`: the consumer waits for a delivery, so
    /// that all others may be held for long, and half of a window may never come together.
    fn released(&mut self, n: u32, starving: bool) -> Option<u32> {
        let Self::Window { size, open, released } = self else {
            return None;
        };
        *released = released.saturating_add(n);
        let half = size.div_ceil(2);
        if *released == 0 || !(*released >= half || (starving && *open < half)) {
            return None;
        }
        *open = open.saturating_add(*released);
        Some(std::mem::take(released))
    }
}

fn top_up(count: &mut u32, n: usize, from: u32) -> Option<u32> {
    *count = count.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
    (*count >= from).then(|| std::mem::take(count))
}

impl<T> Subscription<T> {
    pub(super) fn new(queue: QueueName, settings: ConsumerSettings) -> Self {
        Self {
            queue,
            settings,
            deliveries: VecDeque::new(),
            lent: 0,
            sequence: 0,
            credit: Ledger::None,
            unsettled: BTreeSet::new(),
            active: false,
            was_open: false,
            end: End::Open,
            ready: None,
            drained: Vec::new(),
            idle_at: None,
            fate: Fate::new(None),
            pace: Pace::default(),
            skipped_until: None,
        }
    }

    pub(super) fn queue(&self) -> QueueName {
        self.queue.clone()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.idle_at
    }

    pub(super) fn abandon(&mut self, id: CallId) -> Option<T> {
        if self.ready.as_ref().is_some_and(|(ready, _)| *ready == id) {
            return self.ready.take().map(|(_, token)| token);
        }
        let place = self.drained.iter().position(|(known, _)| *known == id)?;
        Some(self.drained.swap_remove(place).1)
    }

    fn has_room(&self) -> bool {
        self.deliveries.len() + self.lent < self.settings.prefetch.max(1)
    }

    fn has_news(&self) -> bool {
        !self.deliveries.is_empty() || matches!(self.end, End::Ended(_))
    }

    /// Silence counts from now on: that of the server which has to confirm the consumer, or that of the queue.
    pub(super) fn rearm(&mut self, now: Instant, confirm_within: Duration) {
        let bound = if self.active {
            self.settings.idle_resubscribe
        } else {
            Some(confirm_within)
        };
        self.idle_at = bound.and_then(|silence| now.checked_add(silence));
    }

    /// Whether the server has yet to confirm the consumer.
    pub(super) fn is_pending(&self) -> bool {
        !self.active
    }

    /// Skips the deliveries whose lease has ended, or would end before the handler is done with them.
    fn skip_expired(&mut self, now: Instant) -> Skipped {
        self.pace.asked(now);
        let mut skipped = Skipped::default();
        if !self.settings.skips_expired() {
            return skipped;
        }
        // Only the end of a lease, lest a handler that was slow once is given nothing any more.
        let margin = self.pace.handling.min(self.settings.lease() / 8);
        let over = now.checked_add(margin).unwrap_or(now);
        let is_over = |lease: &Lease| lease.deadline.is_some_and(|at| at <= over);
        while self.deliveries.front().is_some_and(is_over)
            && let Some(lease) = self.deliveries.pop_front()
        {
            skipped.deliveries += 1;
            skipped.counted += u32::from(self.unsettled.remove(&lease.sequence));
            skipped.is_news |= std::mem::replace(&mut self.skipped_until, lease.deadline) != lease.deadline;
        }
        skipped
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

impl<T> Link<T> {
    // ---- what the consumer asks ----

    /// Takes up to `max` received deliveries, oldest first. Frees room, so the driver may have to read again.
    pub fn take_deliveries(&mut self, now: Instant, max: usize, into: &mut VecDeque<Lease>) -> usize {
        let Some(subscription) = &mut self.subscription else {
            return 0;
        };
        let was_full = !subscription.has_room();
        let skipped = subscription.skip_expired(now);
        let n = max.min(subscription.deliveries.len());
        into.extend(subscription.deliveries.drain(..n));
        // What was lent before is used up, or the consumer would not ask for more.
        subscription.lent = n;
        subscription.pace.handed_out(now, n);
        self.note_skipped(skipped);
        if was_full {
            self.resume(now);
        }
        self.note_change();
        n
    }

    /// How many deliveries are worth taking at a time: one where expired ones are skipped, so that none expires after it
    /// was taken.
    #[must_use]
    pub fn worth_taking(&self, max: usize) -> usize {
        let skips = |subscription: &Subscription<T>| subscription.settings.skips_expired();
        if self.subscription.as_ref().is_some_and(skips) {
            max.min(1)
        } else {
            max
        }
    }

    fn note_skipped(&mut self, skipped: Skipped) {
        let Some(subscription) = self.subscription.as_mut().filter(|_| skipped.deliveries > 0) else {
            return;
        };
        self.stats.expired += skipped.deliveries;
        if skipped.is_news {
            let queue = subscription.queue.clone();
            let skipped = skipped.deliveries;
            self.shared.push_event(Event::Expired { queue, skipped });
        }
        let grant = subscription
            .credit
            .released(skipped.counted, subscription.ready.is_some());
        self.grant(grant);
        self.publish_stats();
    }

    /// A delivery was settled or dropped: where a window of credit bounds what is leased, the server may send another.
    /// Only deliveries that [are counted](Lease::is_counted) need it. A number that was released before, or never
    /// delivered, does nothing.
    pub fn release_delivery(&mut self, sequence: u64) {
        let Some(subscription) = &mut self.subscription else {
            return;
        };
        if subscription.unsettled.remove(&sequence) {
            let starving = subscription.ready.is_some();
            let grant = subscription.credit.released(1, starving);
            self.grant(grant);
            self.note_change();
        }
    }

    /// The state of the consumer when no delivery waits: `None` while more may come, `Some(None)` after a clean
    /// end, `Some(Some(error))` once after a terminal error.
    pub fn poll_consumer_end(&mut self) -> Option<Option<Error>> {
        let subscription = self.subscription.as_mut()?;
        if !subscription.deliveries.is_empty() {
            return None;
        }
        match &mut subscription.end {
            End::Open => None,
            End::Ended(error) => Some(error.take()),
        }
    }

    /// Completes with [`Reply::Ready`] when a delivery waits or the consumer has ended; at once if so.
    pub fn wait_delivery(&mut self, now: Instant, token: T) -> CallId {
        let id = self.next_call_id();
        match &mut self.subscription {
            Some(subscription) => {
                // The consumer has used up what it was lent.
                subscription.pace.asked(now);
                let was_full = !subscription.has_room();
                subscription.lent = 0;
                if let Some((_, earlier)) = subscription.ready.replace((id, token)) {
                    self.completions.push(Completion {
                        token: earlier,
                        reply: Reply::Ready,
                    });
                }
                subscription.wake(&mut self.completions);
                let grant = subscription.credit.released(0, subscription.ready.is_some());
                self.grant(grant);
                if was_full {
                    self.resume(now);
                }
            }
            None => self.completions.push(Completion {
                token,
                reply: Reply::Ready,
            }),
        }
        self.note_change();
        id
    }

    /// Stops receiving: the connection is closed, deliveries that were received stay available, then the
    /// consumer ends cleanly. Completes with [`Reply::Drained`].
    pub fn stop_consuming(&mut self, now: Instant, token: T) -> CallId {
        let id = self.next_call_id();
        match &mut self.subscription {
            Some(subscription) => subscription.drained.push((id, token)),
            None => self.completions.push(Completion {
                token,
                reply: Reply::Drained,
            }),
        }
        self.take_last_deliveries(now);
        self.fail_everything(&closed("the consumer"));
        self.complete_opened(Err(closed("the consumer")));
        self.shut(now);
        if self.session.is_closed() {
            self.end_consumer(None);
        }
        self.note_change();
        id
    }

    /// Deliveries may have room again.
    fn resume(&mut self, now: Instant) {
        if !self.has_room_for_arrivals() {
            return;
        }
        if let Some(subscription) = &mut self.subscription {
            subscription.rearm(now, self.shared.config().settings().connect_timeout);
        }
        self.transport.note_room();
        self.process_arrivals(now);
    }

    // ---- subscribing ----

    /// The connection is ready: subscribe.
    pub(super) fn subscribe(&mut self, now: Instant) {
        let (Some(subscription), Some(connection)) = (&mut self.subscription, &mut self.connection) else {
            return;
        };
        let unsettled = subscription.unsettled.len();
        subscription.credit = Ledger::new(&subscription.settings, connection.rules(), unsettled);
        subscription.rearm(now, self.shared.config().settings().connect_timeout);
        let request = Request::Consume {
            queue: subscription.queue.clone(),
            credit: subscription.credit.initial(),
        };
        match connection.encode(&request) {
            Ok(id) => connection.register(id, Op::Consume, Work::Subscribe, None),
            Err(error) => self.end_for_good(now, error.into()),
        }
    }

    pub(super) fn handle_subscribed(&mut self, now: Instant, response: Result<Response, Error>) {
        self.note_cluster(&response);
        let Some(subscription) = &mut self.subscription else {
            return;
        };
        match response {
            Ok(_) => {
                subscription.active = true;
                subscription.fate.absent_since = None;
                subscription.rearm(now, self.shared.config().settings().connect_timeout);
                let again = std::mem::replace(&mut subscription.was_open, true);
                if again {
                    let queue = subscription.queue.clone();
                    self.shared.push_event(Event::Resubscribed { queue });
                }
                self.session.forget_followed();
                self.complete_opened(Ok(()));
            }
            Err(error) if error.kind() == ErrorKind::NotLeader => self.follow_leader(now, error),
            Err(error) if error.is_retryable() || error.kind() == ErrorKind::Protocol => {
                self.handle_broken(now, Broken::new(error));
            }
            // A new queue, perhaps, which this node or the next one will know soon.
            Err(error) if self.retry_absent_consume(now, &error) => self.handle_broken(now, Broken::new(error)),
            Err(error) => self.end_for_good(now, error),
        }
    }

    /// As [`retry_absent`](Self::retry_absent), for the consumer.
    fn retry_absent_consume(&mut self, now: Instant, error: &Error) -> bool {
        let Some(mut fate) = self.subscription.as_ref().map(|subscription| subscription.fate) else {
            return false;
        };
        let again = self.retry_absent(now, error, &mut fate);
        if let Some(subscription) = &mut self.subscription {
            subscription.fate = fate;
        }
        again.is_some()
    }

    fn follow_leader(&mut self, now: Instant, error: Error) {
        let Some(subscription) = &self.subscription else { return };
        let queue = subscription.queue.clone();
        let here = self.session.endpoint().cloned();
        let leader = here
            .as_ref()
            .zip(error.leader())
            .and_then(|(here, hint)| Endpoint::from_leader_hint(hint, here).ok());
        match leader {
            Some(leader) if Some(&leader) != here.as_ref() => {
                let hops = self.shared.config().settings().max_redirects;
                if !self.session.may_follow(&leader, hops) {
                    self.session.forget_followed();
                    // While leadership moves, nodes may name each other.
                    return if subscription.was_open {
                        self.handle_broken(now, Broken::new(error));
                    } else {
                        self.end_for_good(now, error);
                    };
                }
                self.shared.learn_leader(Purpose::Consume, &queue, leader.clone());
                self.stats.redirects += 1;
                self.shared.push_event(Event::Redirected {
                    link: self.name.clone(),
                    to: leader.clone(),
                });
                self.redial_at(now, leader);
            }
            // An election, or a node that names itself: ask again after a pause.
            _ => {
                self.shared.directory().forget_queue(Purpose::Consume, &queue);
                self.handle_broken(now, Broken::new(error));
            }
        }
    }

    // ---- deliveries ----

    pub(super) fn handle_push(&mut self, now: Instant, push: Push) {
        let Some(subscription) = &mut self.subscription else {
            let error = Error::new(
                ErrorKind::Protocol,
                "deliveries arrived on a connection without a consumer",
            );
            return self.handle_broken(now, Broken::new(error));
        };
        let began = self.transport.burst_began();
        let deadline = began.and_then(|at| at.checked_add(subscription.settings.lease()));
        let n = push.deliveries.len();
        for received in push.deliveries {
            subscription.sequence += 1;
            let is_counted = subscription.credit.is_window();
            if is_counted {
                subscription.unsettled.insert(subscription.sequence);
            }
            subscription.deliveries.push_back(Lease {
                received,
                deadline,
                sequence: subscription.sequence,
                is_counted,
                guard: None,
            });
        }
        self.stats.deliveries += n as u64;
        subscription.rearm(now, self.shared.config().settings().connect_timeout);
        let grant = subscription.credit.received(n);
        if !self.knobs.has(Flaw::LostWakeUp) {
            subscription.wake(&mut self.completions);
        }
        self.session.note_success();
        self.grant(grant);
    }

    #[cfg(feature = "simulation")]
    pub(super) fn waiting_deliveries(&self) -> usize {
        self.subscription
            .as_ref()
            .map_or(0, |subscription| subscription.deliveries.len())
    }

    fn grant(&mut self, credit: Option<u32>) {
        if self.knobs.has(Flaw::SkippedTopUp) {
            return;
        }
        if let (Some(credit), Some(connection)) = (credit, &mut self.connection)
            && connection.is_ready()
        {
            // A grant has no part that could fail to encode.
            let _ = connection.encode(&Request::Flow { credit });
        }
    }

    /// Whether what arrives now has room. Before a connection is ready nothing is delivered on it.
    pub(super) fn has_room_for_arrivals(&self) -> bool {
        self.subscription.as_ref().is_none_or(Subscription::has_room)
            || self.connection.as_ref().is_none_or(|connection| !connection.is_ready())
    }

    /// Nothing arrived for too long: the server may have lost the consumer without a word (docs/protocol/preamble.md 1.7
    /// and 2.4).
    pub(super) fn check_subscription(&mut self, now: Instant) {
        if !self.session.is_ready() || !self.has_room_for_arrivals() {
            return;
        }
        let Some(subscription) = &mut self.subscription else {
            return;
        };
        if subscription.idle_at.is_none_or(|at| at > now) {
            return;
        }
        subscription.idle_at = None;
        if !subscription.active {
            let error = Error::new(ErrorKind::Timeout, "the server did not confirm the consumer in time");
            return self.handle_broken(now, Broken::new(error));
        }
        if let Some(endpoint) = self.session.endpoint().cloned() {
            self.renew(now, endpoint);
        }
    }

    /// The connection is gone.
    pub(super) fn note_unsubscribed(&mut self) {
        if let Some(subscription) = &mut self.subscription {
            subscription.active = false;
            subscription.idle_at = None;
        }
    }

    /// Whether a lost connection ends this link's consumer.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.subscription
            .as_ref()
            .is_some_and(|subscription| subscription.was_open && !subscription.settings.resubscribe)
    }

    /// Nothing more comes: after the deliveries that wait, the consumer sees `error`, or a clean end.
    pub(super) fn end_consumer(&mut self, error: Option<Error>) {
        let Some(subscription) = &mut self.subscription else {
            return;
        };
        if let End::Open = subscription.end {
            subscription.end = End::Ended(error);
        }
        subscription.idle_at = None;
        for (_, token) in subscription.drained.drain(..) {
            self.completions.push(Completion {
                token,
                reply: Reply::Drained,
            });
        }
        subscription.wake(&mut self.completions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standing_credit_is_granted_anew_when_half_of_it_is_used() {
        let mut ledger = Ledger::Standing { used: 0 };
        let half = (STANDING_CREDIT / 2) as usize;
        assert_eq!(ledger.received(half - 1), None);
        assert_eq!(ledger.released(1_000, true), None, "settling costs nothing");
        assert_eq!(ledger.received(1), Some(STANDING_CREDIT / 2));
        assert_eq!(ledger.received(1), None);
    }

    #[test]
    fn windows_are_granted_again_by_halves() {
        let window = |size, open| Ledger::Window {
            size,
            open,
            released: 0,
        };
        let mut ledger = window(5, 5);
        assert_eq!(ledger.received(5), None, "receiving frees nothing");
        assert_eq!(ledger.released(2, false), None);
        assert_eq!(ledger.released(1, false), Some(3));
        assert_eq!(ledger.released(2, false), None);
        assert_eq!(window(1, 0).released(1, false), Some(1));
    }

    #[test]
    fn a_consumer_that_waits_is_granted_what_there_is() {
        let mut ledger = Ledger::Window {
            size: 10,
            open: 4,
            released: 0,
        };
        assert_eq!(ledger.released(0, true), None, "nothing is free");
        assert_eq!(ledger.released(1, false), None);
        assert_eq!(ledger.released(0, true), Some(1));
        assert_eq!(ledger.released(1, true), None, "half of the window is open");
    }

    #[test]
    fn what_is_held_from_earlier_connections_takes_up_the_window() {
        let rules = crate::Dialect::Preamble(crate::AdminRevision::P3)
            .codec()
            .unwrap()
            .rules();
        let settings = ConsumerSettings::default().prefetch(10);
        for (held, initial) in [(0, 10), (4, 6), (10, 0), (12, 0)] {
            assert_eq!(Ledger::new(&settings, rules, held).initial(), initial);
        }
    }
}
