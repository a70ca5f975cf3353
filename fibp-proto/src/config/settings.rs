//! The values behind [`Config`](super::Config): what the machines and adapters read.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::Endpoint;
use crate::dialect::Dialect;
use crate::error::{Error, ErrorKind};
use crate::frame::Limits;
use crate::message::Secret;
use crate::tls::Tls;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Every setting of a client, read through [`Config::settings`](super::Config::settings).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The servers, tried in this order. Never empty in a valid configuration.
    pub endpoints: Vec<Endpoint>,
    /// Where the API key comes from.
    pub credentials: Credentials,
    /// TLS, or `None` for plain TCP.
    pub tls: Option<Tls>,
    /// The dialect to speak.
    pub dialect: Dialect,
    /// The bound of one whole attempt: resolving, TCP, TLS, handshake and authentication. 5 s.
    pub connect_timeout: Duration,
    /// The bound of one request: queueing, writing and its answer. 10 s; `None` waits for ever.
    pub request_timeout: Option<Duration>,
    /// When to probe a silent connection. `None` never does.
    pub heartbeat: Option<Heartbeat>,
    /// What to do when the connection is lost.
    pub reconnect: Reconnect,
    /// The bounds of unanswered requests.
    pub in_flight: InFlight,
    /// Which requests are sent again when their outcome is unknown.
    pub replay: Replay,
    /// The largest length fields of frames, in bytes.
    pub frame_limits: Limits,
    /// Batching of `Client::enqueue`, and the defaults of its producers.
    pub producer: ProducerSettings,
    /// The idle time after which TCP probes the peer, as it was asked for. 60 s; `None` leaves it off. Sockets get
    /// [`keepalive_idle`](Self::keepalive_idle).
    pub keepalive: Option<Duration>,
    /// How long to wait for one address before the next is tried beside it (RFC 8305). 250 ms.
    pub happy_eyeballs_delay: Duration,
    /// How many leader redirects one request or consumer follows. 5; zero follows none.
    pub max_redirects: u32,
    /// How long a cluster is asked again for a queue that it says it does not know, as its nodes learn of a new queue one
    /// after another (docs/protocol/clusters.md 2). 2 s; zero takes the first answer.
    pub queue_ready_timeout: Duration,
}

/// The idle times that all operating systems take for TCP keepalive: Linux counts whole seconds in 15 bits, and refuses
/// what is beyond with an error that would end every attempt to connect.
pub(super) const KEEPALIVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);

impl Settings {
    /// The idle time to set on a socket: [`keepalive`](Self::keepalive) in whole seconds, brought into the range that
    /// operating systems accept, which is 1 s to 32767 s.
    #[must_use]
    pub fn keepalive_idle(&self) -> Option<Duration> {
        let idle = self.keepalive?.clamp(*KEEPALIVE.start(), *KEEPALIVE.end());
        let begun = u64::from(idle.subsec_nanos() > 0);
        Some(Duration::from_secs(idle.as_secs() + begun))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            credentials: Credentials::default(),
            tls: None,
            dialect: Dialect::Auto,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Some(Duration::from_secs(10)),
            heartbeat: Some(Heartbeat::default()),
            reconnect: Reconnect::default(),
            in_flight: InFlight::default(),
            replay: Replay::default(),
            frame_limits: Limits::default(),
            producer: ProducerSettings::default(),
            keepalive: Some(Duration::from_secs(60)),
            happy_eyeballs_delay: Duration::from_millis(250),
            max_redirects: 5,
            queue_ready_timeout: Duration::from_secs(2),
        }
    }
}

/// Where the API key of each new connection comes from.
#[derive(Clone, Default)]
pub struct Credentials(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    Nowhere,
    Fixed(Secret),
    Asked(Arc<dyn Fn() -> Secret + Send + Sync>),
}

/// The longest key that a request can carry, in bytes.
const MAX_KEY_LEN: usize = u16::MAX as usize;

impl Credentials {
    pub(super) fn fixed(key: Secret) -> Self {
        Self(Source::Fixed(key))
    }

    pub(super) fn asked(ask: impl Fn() -> Secret + Send + Sync + 'static) -> Self {
        Self(Source::Asked(Arc::new(ask)))
    }

    /// Whether connections are made without a key.
    #[must_use]
    pub fn is_none(&self) -> bool {
        matches!(self.0, Source::Nowhere)
    }

    /// The key for one connection. Call it before each dial, with no lock held: it runs the caller's closure.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for a key that cannot be one. The text never shows it.
    pub fn key(&self) -> Result<Option<Secret>, Error> {
        let key = match &self.0 {
            Source::Nowhere => return Ok(None),
            Source::Fixed(key) => key.clone(),
            Source::Asked(ask) => ask(),
        };
        match key_problem(key.expose()) {
            Some(problem) => Err(Error::new(ErrorKind::Config, format!("the API key {problem}"))),
            None => Ok(Some(key)),
        }
    }

    /// Checks a fixed key; a closure is not called.
    pub(super) fn validate(&self) -> Result<(), Error> {
        match self.0 {
            Source::Fixed(_) => self.key().map(drop),
            Source::Nowhere | Source::Asked(_) => Ok(()),
        }
    }
}

fn key_problem(key: &str) -> Option<&'static str> {
    if key.is_empty() {
        Some("is empty")
    } else if key.len() > MAX_KEY_LEN {
        Some("is longer than 65535 bytes")
    } else if key.trim() != key {
        Some("begins or ends with white space (a line break from a file?)")
    } else if key.contains(char::is_control) {
        Some("contains a control character")
    } else {
        None
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::Nowhere => "none",
            Source::Fixed(_) => "key(redacted)",
            Source::Asked(_) => "closure",
        })
    }
}

/// When a silent connection is probed, and when it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// The silence after which a heartbeat is sent. 15 s.
    pub every: Duration,
    /// How many in a row may stay unanswered. 2.
    pub missed: u32,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(15),
            missed: 2,
        }
    }
}

/// What to do when a connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reconnect {
    /// The client is closed by the first loss.
    Never,
    /// Dial again, with growing pauses.
    Backoff(Backoff),
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::Backoff(Backoff::default())
    }
}

/// Pauses between dials: each is drawn between zero and a bound that doubles from `initial` to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first pause. 100 ms.
    pub initial: Duration,
    /// The largest bound. 30 s.
    pub max: Duration,
    /// How many dials in a row may fail before the client gives up for good, as if it were closed. `None`, the default,
    /// never does.
    pub max_attempts: Option<u32>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(30),
            max_attempts: None,
        }
    }
}

/// The bounds of what one client has in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// Unanswered requests. 4096.
    pub requests: usize,
    /// Bytes of requests that are queued or unanswered. 32 MiB.
    pub bytes: usize,
    /// What to do at a bound.
    pub on_full: OnFull,
}

impl Default for InFlight {
    fn default() -> Self {
        Self {
            requests: 4096,
            bytes: 32 * MIB,
            on_full: OnFull::Wait,
        }
    }
}

/// What happens to a call that finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnFull {
    /// It waits its turn, within its deadline.
    #[default]
    Wait,
    /// It fails with [`ErrorKind::Overloaded`].
    Fail,
}

/// Which requests are sent again when the connection was lost before their answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Replay {
    /// None: every such request fails with [`Outcome::Unknown`](crate::Outcome::Unknown).
    Never,
    /// Those whose repetition changes nothing: reads, acks, deletions, settings.
    #[default]
    SafeOps,
    /// Enqueues too. The server knows no duplicates: a message may be there twice.
    IncludingEnqueue,
}

/// When messages of several calls travel in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Batching {
    /// As many as wait when the connection can take a frame: no delay when idle, large frames under load. With up to
    /// eight messages of a queue waiting and unanswered, each goes at once; with more, they gather while a frame is
    /// unanswered.
    #[default]
    Auto,
    /// Delays a frame to collect more messages.
    Linger {
        /// The longest that a message is delayed.
        delay: Duration,
        /// How many messages end the wait early.
        max_messages: usize,
    },
    /// Each call has a frame of its own.
    Disabled,
}

/// Options of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerSettings {
    /// When messages share a frame.
    pub batching: Batching,
    /// The most messages in one frame. 1000.
    pub max_messages: usize,
    /// The most bytes of messages in one frame; a single larger message has a frame of its own. 128 KiB.
    pub max_bytes: usize,
    /// The most bytes of messages that wait unconfirmed. 32 MiB.
    pub buffer: usize,
    /// What to do when the buffer is full.
    pub on_full: OnFull,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        Self {
            batching: Batching::Auto,
            max_messages: 1000,
            max_bytes: 128 * KIB,
            buffer: 32 * MIB,
            on_full: OnFull::Wait,
        }
    }
}

impl ProducerSettings {
    /// Sets when messages share a frame.
    #[must_use]
    pub fn batching(mut self, batching: Batching) -> Self {
        self.batching = batching;
        self
    }

    /// Sets the most messages in one frame.
    #[must_use]
    pub fn max_messages(mut self, messages: usize) -> Self {
        self.max_messages = messages;
        self
    }

    /// Sets the most bytes of messages in one frame.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets the most bytes of messages that wait unconfirmed.
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.buffer = bytes;
        self
    }

    /// Sets what to do when the buffer is full.
    #[must_use]
    pub fn on_full(mut self, on_full: OnFull) -> Self {
        self.on_full = on_full;
        self
    }
}

/// Credit policy of a consumer, where the dialect has credit (docs/protocol/preamble.md 1.7): how many messages
/// a server leases to a consumer that does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Credit {
    /// `Window` where the server is known to keep it exactly (P3, by the configured dialect or an admin call made
    /// before), `Standing` elsewhere.
    #[default]
    Auto,
    /// One large grant. What the server leases ahead is bounded by not reading alone: `prefetch` and the rest of a
    /// frame (63) in the client; what the client's receive buffer (`receive_buffer`, which Linux doubles) and the
    /// server's send buffer (4 MiB on Linux, unless configured otherwise) hold; and 64 frames of up to 64 messages and 128
    /// more in the server. With the defaults 4,700 messages of 16 KiB or 31,000 of 128 bytes were measured.
    Standing,
    /// A window of `prefetch` deliveries: so many are leased and not settled, and at most 128 more by the server for its
    /// own queue. The credit of a delivery comes back when it is settled or dropped. Servers with the credit bug (P1, P2)
    /// lose messages to their visibility timeout under it.
    Window,
}

/// The visibility timeout of queues that were created without one.
const ASSUMED_VISIBILITY_TIMEOUT: Duration = Duration::from_secs(30);

/// What becomes of a delivery whose lease has ended before it is handed out: the server delivers the message again, here or
/// elsewhere, and an ack would come too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Expired {
    /// It is skipped, and counted in [`Stats::expired`](crate::Stats::expired). So is one whose lease ends before the handler
    /// would be done, going by the time it took for the last one, in the last eighth of the lease.
    #[default]
    Skip,
    /// It is handed out all the same.
    Deliver,
}

/// Options of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerSettings {
    /// P3: how many deliveries may be leased and not settled; P1, P2 and framed: how many may wait in the client before
    /// nothing more is read. 256.
    ///
    /// A lease runs from the moment the server hands a message out. So a slow handler needs a `prefetch` at which
    /// `prefetch` × handling time stays below the queue's visibility timeout. On P1, P2 and the framed dialect servers
    /// lease ahead of that (see [`Credit::Standing`]): there it also needs a stated
    /// [`visibility_timeout`](Self::visibility_timeout), by which deliveries that expired while they waited are skipped.
    ///
    /// A pushed frame is decoded as a whole, so the rest of one (64 messages at most, on real servers) may come on top.
    /// Deliveries hold at most twice the memory of their payloads, and the connection holds the frame that arrives:
    /// 5.1 MiB were measured for 256 messages of 16 KiB.
    pub prefetch: usize,
    /// Credit policy. The framed dialect has no credit: a consumer that does not read has leased what
    /// the client and both sockets hold (see [`Credit::Standing`]) and 320 messages in the server (docs/protocol/framed.md 5).
    /// With the defaults 860 messages of 16 KiB or 17,000 of 128 bytes were measured.
    pub credit: Credit,
    /// The queue's visibility timeout, which no server announces: lease deadlines are computed from it, and where it is
    /// stated, [`expired`](Self::expired) says what becomes of deliveries whose lease has ended. `None` assumes 30 s, the
    /// servers' default.
    pub visibility_timeout: Option<Duration>,
    /// What becomes of a delivery whose lease has ended before it is handed out, where the visibility timeout is stated.
    pub expired: Expired,
    /// The time without a delivery, or a part of one, after which the consumer subscribes again. 60 s; `None` trusts the
    /// server.
    pub idle_resubscribe: Option<Duration>,
    /// Whether to subscribe again after a lost connection. Yes.
    pub resubscribe: bool,
    /// Whether the consumer asks for the queue before it subscribes: when it is opened, after every lost connection, and
    /// whenever it renews an idle subscription ([`idle_resubscribe`](Self::idle_resubscribe)). A single node accepts
    /// consumers of queues that do not exist, and says nothing when a queue is deleted; with this the consumer ends with
    /// [`ErrorKind::QueueNotFound`](crate::ErrorKind::QueueNotFound). No.
    pub verify_queue: bool,
    /// The size of the socket's receive buffer, in bytes: together with `prefetch` it bounds what a server leases ahead
    /// where credit does not. 256 KiB; `None` leaves it to the operating system.
    pub receive_buffer: Option<u32>,
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            prefetch: 256,
            credit: Credit::Auto,
            visibility_timeout: None,
            expired: Expired::Skip,
            idle_resubscribe: Some(Duration::from_secs(60)),
            resubscribe: true,
            verify_queue: false,
            receive_buffer: Some(256 * 1024),
        }
    }
}

impl ConsumerSettings {
    /// Sets how many decoded deliveries may wait in the client.
    #[must_use]
    pub fn prefetch(mut self, deliveries: usize) -> Self {
        self.prefetch = deliveries;
        self
    }

    /// Sets the credit policy.
    #[must_use]
    pub fn credit(mut self, credit: Credit) -> Self {
        self.credit = credit;
        self
    }

    /// Sets the visibility timeout that lease deadlines are computed from.
    #[must_use]
    pub fn visibility_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.visibility_timeout = timeout.into();
        self
    }

    /// Sets what becomes of a delivery whose lease has ended before it is handed out.
    #[must_use]
    pub fn expired(mut self, expired: Expired) -> Self {
        self.expired = expired;
        self
    }

    /// The visibility timeout, stated or assumed.
    pub(crate) fn lease(&self) -> Duration {
        self.visibility_timeout.unwrap_or(ASSUMED_VISIBILITY_TIMEOUT)
    }

    /// Whether expired deliveries are skipped.
    pub(crate) fn skips_expired(&self) -> bool {
        self.visibility_timeout.is_some() && self.expired == Expired::Skip
    }

    /// Sets the time without a delivery after which the consumer subscribes again, or `None` for never.
    #[must_use]
    pub fn idle_resubscribe(mut self, silence: impl Into<Option<Duration>>) -> Self {
        self.idle_resubscribe = silence.into();
        self
    }

    /// Sets whether to subscribe again after a lost connection.
    #[must_use]
    pub fn resubscribe(mut self, resubscribe: bool) -> Self {
        self.resubscribe = resubscribe;
        self
    }

    /// Sets whether the consumer asks for the queue before it subscribes, each time.
    #[must_use]
    pub fn verify_queue(mut self, verify: bool) -> Self {
        self.verify_queue = verify;
        self
    }

    /// Sets the size of the socket's receive buffer in bytes, or `None` for the operating system's choice.
    #[must_use]
    pub fn receive_buffer(mut self, bytes: impl Into<Option<u32>>) -> Self {
        self.receive_buffer = bytes.into();
        self
    }
}
