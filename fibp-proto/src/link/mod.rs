//! One logical connection that survives reconnects: the only thing an adapter drives.
//!
//! # Driving a link
//!
//! Inputs carry `now`; outputs never do. Any call order is safe. A driver repeats, under one lock:
//!
//! 1. feed what happened: [`handle_dialed`](Link::handle_dialed), [`handle_input`](Link::handle_input),
//!    [`handle_eof`](Link::handle_eof), [`transmitted`](Link::transmitted),
//!    [`handle_timeout`](Link::handle_timeout), …
//! 2. take what is to be done: [`poll_action`](Link::poll_action) until `None`,
//!    [`drain_completions`](Link::drain_completions), [`take_transmit`](Link::take_transmit),
//!    [`take_read_buffer`](Link::take_read_buffer), [`poll_timeout`](Link::poll_timeout);
//!
//! and then, unlocked, wakes the completed waiters, dials, writes, reads and sleeps. Calls from user code
//! ([`call`](Link::call), [`enqueue`](Link::enqueue), …) may come at any moment between; after one, the driver
//! must take another turn if [`needs_driver`](Link::needs_driver).
//!
//! # Waiters
//!
//! `T` is the adapter's waiter token. Every token given to a link comes back exactly once: in a
//! [`Completion`], from [`abandon`](Link::abandon), or never only if the link itself is dropped (then the
//! token is dropped with it).

mod accounts;
mod answers;
mod closing;
mod completion;
#[cfg(feature = "simulation")]
mod holdings;
mod join;
mod lanes;
mod nodes;
mod session;
mod settle;
mod submit;
mod subscription;
mod transmit;
mod transport;
mod verdict;
mod work;

pub use completion::{Action, CallId, CloseReport, Completion, DialId, Reply};
pub use nodes::Nodes;
pub use submit::Parcel;
pub use subscription::{Lease, LeaseGuard, ReleaseDelivery};

use std::collections::VecDeque;
use std::time::Instant;

use crate::config::{ConsumerSettings, Endpoint};
use crate::connection::Connection;
use crate::event::{LinkName, Stats};
use crate::message::QueueName;
use crate::random::Random;
use crate::shared::Shared;
use crate::simulation::Knobs;
use crate::soonest::{Soonest, earlier};
use crate::trace::LinkSpan;
use accounts::Account;
use closing::Closing;
use join::Joins;
use lanes::Lanes;
use session::Session;
use subscription::Subscription;
use transport::Transport;
use work::{Call, Work};

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Link<T> {
    shared: Shared,
    name: LinkName,
    span: LinkSpan,
    random: Random,
    session: Session,
    transport: Transport,
    /// Boxed, as it is taken out and put back for every frame.
    connection: Option<Box<Connection<Work<T>>>>,
    /// Calls that were not encoded yet, in order of their ids.
    calls: VecDeque<Call<T>>,
    calls_soonest: Soonest,
    /// Calls that wait for an instant, or (`None`) for the admin revision.
    delayed: Vec<(Option<Instant>, Call<T>)>,
    lanes: Lanes<T>,
    joins: Joins<T>,
    /// The client's own account, then one per producer.
    accounts: Vec<Option<Account<T>>>,
    subscription: Option<Subscription<T>>,
    opened: Option<(CallId, T)>,
    closing: Option<Closing<T>>,
    completions: Vec<Completion<T>>,
    actions: VecDeque<Action<T>>,
    next_call: i64,
    next_accepted: i64,
    stats: Stats,
    needs_driver: bool,
    /// The latest instant seen.
    latest: Instant,
    /// What the driver sleeps until, so that only an earlier timeout has to wake it.
    sleeping_until: Option<Instant>,
    knobs: Knobs,
}

impl<T> Link<T> {
    /// A link for requests. It dials at once; `opened` completes with [`Reply::Opened`] when the connection
    /// is ready for requests, or with the error when it can't be within the connect timeout.
    pub fn requests(shared: &Shared, now: Instant, seed: u64, opened: Option<T>) -> Self {
        let mut link = Self::new(shared, LinkName::Main, now, seed);
        link.begin(now, opened);
        link
    }

    /// A further link for requests, to one node of the cluster ([`Action::Reroute`]). It ends with its
    /// connection; what it still holds goes back to the main link.
    pub fn requests_to(shared: &Shared, endpoint: Endpoint, now: Instant, seed: u64) -> Self {
        let mut link = Self::new(shared, LinkName::Node(endpoint.clone()), now, seed);
        link.session.aim_at(endpoint);
        link.begin(now, None);
        link
    }

    /// A link for one consumer. `opened` completes with [`Reply::Opened`] when the server confirmed it.
    pub fn consumer(
        shared: &Shared,
        queue: QueueName,
        settings: ConsumerSettings,
        now: Instant,
        seed: u64,
        opened: Option<T>,
    ) -> Self {
        let mut link = Self::new(shared, LinkName::Consumer(queue.clone()), now, seed);
        link.subscription = Some(Subscription::new(queue, settings));
        link.begin(now, opened);
        link
    }

    fn new(shared: &Shared, name: LinkName, now: Instant, seed: u64) -> Self {
        let settings = shared.config().settings();
        Self {
            shared: shared.clone(),
            span: LinkSpan::new(&name),
            name,
            random: Random::new(seed),
            session: Session::new(settings),
            transport: Transport::default(),
            connection: None,
            calls: VecDeque::new(),
            calls_soonest: Soonest::default(),
            delayed: Vec::new(),
            lanes: Lanes::new(),
            joins: Joins::new(),
            accounts: vec![Some(Account::of_client(settings))],
            subscription: None,
            opened: None,
            closing: None,
            completions: Vec::new(),
            actions: VecDeque::new(),
            next_call: 0,
            next_accepted: i64::MIN,
            stats: Stats::default(),
            needs_driver: true,
            latest: now,
            sleeping_until: None,
            knobs: Knobs::default(),
        }
    }

    // ---- what to do ----

    /// The next thing to do to the transport.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action<T>> {
        self.actions.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called at the latest. Ends the driver's turn.
    #[must_use]
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        self.needs_driver = false;
        self.sleeping_until = if self.completions.is_empty() && self.actions.is_empty() {
            self.next_timeout()
        } else {
            // What came up since they were drained, such as the refusal of a message that cannot be encoded, is
            // worth another turn.
            Some(self.latest)
        };
        self.sleeping_until
    }

    fn next_timeout(&self) -> Option<Instant> {
        if self.session.is_closed() {
            return self.closing.as_ref().and_then(Closing::poll_timeout);
        }
        let mut soonest = earlier(self.session.poll_timeout(), self.lanes.soonest());
        soonest = earlier(soonest, self.calls_soonest.at());
        soonest = earlier(soonest, self.connection.as_deref().and_then(Connection::poll_timeout));
        soonest = earlier(soonest, self.closing.as_ref().and_then(Closing::poll_timeout));
        if self.session.is_ready() && self.has_room_for_arrivals() {
            soonest = earlier(soonest, self.subscription.as_ref().and_then(Subscription::poll_timeout));
        }
        self.accounts
            .iter()
            .flatten()
            .fold(soonest, |soonest, account| earlier(soonest, account.soonest()))
    }

    /// Moves all completions to the back of `into`. Wake their tokens after unlocking.
    pub fn drain_completions(&mut self, into: &mut Vec<Completion<T>>) {
        into.append(&mut self.completions);
    }

    /// Whether a call from user code left something for the driver: an action, a write, completions, an
    /// earlier timeout, or input wanted again. Cleared by [`poll_timeout`](Self::poll_timeout), which ends the
    /// driver's turn.
    #[must_use]
    pub fn needs_driver(&self) -> bool {
        self.needs_driver
    }

    /// As [`needs_driver`](Self::needs_driver), looked at anew: after a caller did the driver's work itself.
    #[must_use]
    pub fn still_needs_driver(&mut self) -> bool {
        self.needs_driver = false;
        self.note_change();
        self.needs_driver |= self.is_terminated();
        self.needs_driver
    }

    /// How many frames were read on this connection, those included that nobody hears of: by this a driver knows when it has
    /// worked long enough at a time.
    #[cfg(feature = "client")]
    pub(crate) fn frames_read(&self) -> u64 {
        self.connection.as_deref().map_or(0, Connection::frames)
    }

    /// Whether there is something to do to the transport.
    #[cfg(feature = "client")]
    pub(crate) fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// How many requests were sent, or are being sent, and are not answered; abandoned ones do not count.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.connection.as_deref().map_or(0, Connection::in_flight)
    }

    /// Whether the link is done for good: the driver may end once completions and actions are drained.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.session.is_closed() && self.connection.is_none() && self.actions.is_empty() && self.completions.is_empty()
    }

    /// Time passed. Calling it early, late or often does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _span = self.span.enter();
        self.latest = self.latest.max(now);
        self.expire_queued(now);
        self.expire_in_flight(now);
        self.check_session(now);
        self.check_subscription(now);
        self.check_closing(now);
        self.settle_accounts(now);
        self.publish_stats();
    }

    /// The caller changed something: the driver must look if it would not do so by itself soon enough.
    fn note_change(&mut self) {
        if self.needs_driver {
            return;
        }
        let earlier_timeout = match (self.next_timeout(), self.sleeping_until) {
            (Some(at), Some(until)) => at < until,
            (at, until) => at.is_some() && until.is_none(),
        };
        self.needs_driver = earlier_timeout
            || !self.actions.is_empty()
            || !self.completions.is_empty()
            || self.wants_write()
            || self.transport.wants_read_again();
    }

    fn next_call_id(&mut self) -> CallId {
        self.next_call += 1;
        CallId(self.next_call)
    }

    /// For work of another link.
    fn next_accepted_id(&mut self) -> CallId {
        self.next_accepted += 1;
        CallId(self.next_accepted)
    }

    fn account(&mut self, index: usize) -> Option<&mut Account<T>> {
        self.accounts.get_mut(index).and_then(Option::as_mut)
    }

    /// Hands this turn's counters over.
    fn publish_stats(&mut self) {
        if self.stats != Stats::default() {
            self.shared.add_stats(&mut self.stats);
        }
    }
}

/// Names a producer of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProducerId(usize);

/// An ack or a nack.
#[derive(Debug, Clone, PartialEq)]
pub struct Settle {
    /// The queue.
    pub queue: QueueName,
    /// The message.
    pub id: crate::MessageId,
    /// `None` acks; `Some(why)` nacks.
    pub nack: Option<String>,
    /// When the lease ends, if known: to notice late acks.
    pub lease_deadline: Option<Instant>,
}
