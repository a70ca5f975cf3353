//! Configuration of a client: a builder, a URL, or variables of the environment.

mod environment;
mod options;
mod settings;
mod units;
mod url;
mod validate;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use crate::endpoint::{DEFAULT_PORT, Endpoint, IntoEndpoints};
pub use settings::{
    Backoff, Batching, ConsumerSettings, Credentials, Credit, Expired, Heartbeat, InFlight, OnFull, ProducerSettings,
    Reconnect, Replay, Settings,
};

use crate::dialect::Dialect;
use crate::error::{Error, ErrorKind};
use crate::frame::Limits;
use crate::message::Secret;
use crate::tls::Tls;
use settings::KEEPALIVE;

/// A warning that is an event of its own when it comes true.
pub(crate) const KEY_OVER_PLAINTEXT: &str = "the API key travels unencrypted: use TLS";

/// How to reach a server and how to behave towards it. Cheap to clone.
///
/// Building never fails. Errors are reported by [`validate`](Self::validate), which connecting calls
/// first. `Debug` and `Display` show neither keys nor certificates.
///
/// Also made from a URL with `parse` or `try_into`:
///
/// ```text
/// fila://[key@]host:port[,host:port…][?option=value…]          fila+tls://…
/// ```
///
/// Key, host and values are percent-decoded. The port is [`DEFAULT_PORT`] unless given. An option has the name
/// of the builder method, and its values are the method's arguments with commas between them, of which the
/// last ones may be left out: `?heartbeat=15s,2&request_timeout=none&max_in_flight=100,4MiB`. Times have a unit
/// (`ns`, `us`, `ms`, `s`, `m`, `h`), sizes may have one (`KiB`, `MiB`, `GiB`). TLS is set up by `tls_roots`
/// (`platform` or `webpki`), `server_name`, `ca_file`, `client_cert_file` and `client_key_file`; the three
/// files are read when a client connects, or by [`Config::from_url`]. Unknown and repeated options are errors.
///
/// ```
/// use fibp_proto::config::Config;
///
/// let config: Config = "fila://key@broker-1:5555,broker-2:5555?request_timeout=2s".parse()?;
/// assert_eq!(config.settings().endpoints.len(), 2);
/// assert_eq!(config.to_url(), "fila://broker-1:5555,broker-2:5555?request_timeout=2s");
/// # Ok::<(), fibp_proto::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    settings: Arc<Settings>,
    /// The first bad address, for `validate` to report.
    defect: Option<Error>,
}

impl Config {
    /// The defaults, for one server or several: `"host:port"`, `"[::1]:5555"`, comma-separated or in a list,
    /// `("host", port)` or a socket address.
    #[must_use]
    pub fn new(addresses: impl IntoEndpoints) -> Self {
        let (endpoints, defect) = match addresses.into_endpoints() {
            Ok(endpoints) => (endpoints, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        Self {
            settings: Arc::new(Settings {
                endpoints,
                ..Settings::default()
            }),
            defect,
        }
    }

    /// Everything that is set.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Checks the settings for what cannot work.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`], naming the first bad setting or contradiction.
    pub fn validate(&self) -> Result<(), Error> {
        match &self.defect {
            Some(defect) => Err(defect.clone()),
            None => self.settings.validate(),
        }
    }

    /// The settings that work but endanger something, or not as asked for, in words. Each connected client records them:
    /// with `tracing` when it connects, and to every subscriber as its first events
    /// ([`Event::Warning`](crate::Event::Warning)); a key in plaintext as
    /// [`Event::KeyOverPlaintext`](crate::Event::KeyOverPlaintext), when it is sent.
    #[must_use]
    pub fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        let Settings {
            endpoints,
            credentials,
            tls,
            ..
        } = self.settings();
        if tls.is_none() && !credentials.is_none() && !endpoints.iter().all(Endpoint::is_loopback) {
            warnings.push(KEY_OVER_PLAINTEXT);
        }
        if self.settings().keepalive.is_some_and(|idle| !KEEPALIVE.contains(&idle)) {
            warnings.push(
                "keepalive is outside of what operating systems accept: it is taken for the next of 1 s and 32767 s",
            );
        }
        warnings
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    /// Sets the API key.
    #[must_use]
    pub fn api_key(self, key: impl Into<Secret>) -> Self {
        let credentials = Credentials::fixed(key.into());
        self.with(|settings| settings.credentials = credentials)
    }

    /// Sets a closure that gives the API key. It is called before each dial, with no lock held.
    #[must_use]
    pub fn credentials(self, ask: impl Fn() -> Secret + Send + Sync + 'static) -> Self {
        let credentials = Credentials::asked(ask);
        self.with(|settings| settings.credentials = credentials)
    }

    /// Encrypts connections.
    #[must_use]
    pub fn tls(self, tls: Tls) -> Self {
        self.with(|settings| settings.tls = Some(tls))
    }

    /// Encrypts connections, and trusts the CA certificates of this PEM file and nothing else. The file is read when a
    /// client connects; `ca_file` in URLs.
    #[must_use]
    pub fn ca_file(self, path: impl Into<String>) -> Self {
        self.with(|settings| {
            let tls = settings.tls.take().unwrap_or_else(Tls::platform);
            settings.tls = Some(tls.with_ca_file(path.into()));
        })
    }

    /// Encrypts connections, and presents the client certificate of these PEM files: the chain, and its private key. They
    /// are read when a client connects; `client_cert_file` and `client_key_file` in URLs.
    #[must_use]
    pub fn client_files(self, certificates: impl Into<String>, key: impl Into<String>) -> Self {
        self.with(|settings| {
            let tls = settings.tls.take().unwrap_or_else(Tls::platform);
            settings.tls = Some(tls.identity_files(certificates, key));
        })
    }

    /// Reads the files that the settings name. Adapters call it when they connect; nothing is left to do afterwards.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`], naming the file that `load` refuses.
    pub fn load_files<E: fmt::Display>(self, load: impl Fn(&str) -> Result<Vec<u8>, E>) -> Result<Self, Error> {
        let Some(tls) = self.settings.tls.as_ref().filter(|tls| tls.has_files()) else {
            return Ok(self);
        };
        let tls = tls.clone().load_files(|path| {
            load(path).map_err(|error| Error::new(ErrorKind::Config, format!("cannot read \"{path}\": {error}")))
        })?;
        Ok(self.with(|settings| settings.tls = Some(tls)))
    }

    /// Sets the dialect to speak. By default it is found out.
    #[must_use]
    pub fn dialect(self, dialect: Dialect) -> Self {
        self.with(|settings| settings.dialect = dialect)
    }

    /// Bounds one whole attempt to connect: resolving, TCP, TLS, handshake and authentication. 5 s by default.
    #[must_use]
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.connect_timeout = timeout)
    }

    /// Bounds one request: queueing, writing and its answer. 10 s by default; `None` waits for ever.
    #[must_use]
    pub fn request_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into();
        self.with(|settings| settings.request_timeout = timeout)
    }

    /// Probes a connection that was silent for `every` (15 s by default), and gives it up when `missed`
    /// heartbeats (2 by default) in a row stay unanswered. Any byte received ends the silence, and so does a byte sent
    /// for which the socket had no room at first, so a large frame may take its time in either direction.
    #[must_use]
    pub fn heartbeat(self, every: Duration, missed: u32) -> Self {
        self.with(|settings| settings.heartbeat = Some(Heartbeat { every, missed }))
    }

    /// Never probes silent connections.
    #[must_use]
    pub fn no_heartbeat(self) -> Self {
        self.with(|settings| settings.heartbeat = None)
    }

    /// Sets what to do when the connection is lost.
    #[must_use]
    pub fn reconnect(self, reconnect: Reconnect) -> Self {
        self.with(|settings| settings.reconnect = reconnect)
    }

    /// Bounds the unanswered requests (4096 by default) and the bytes queued or unanswered (32 MiB).
    #[must_use]
    pub fn max_in_flight(self, requests: usize, bytes: usize) -> Self {
        self.with(|settings| {
            settings.in_flight.requests = requests;
            settings.in_flight.bytes = bytes;
        })
    }

    /// Sets what a call does that finds no room, here and in a producer's buffer. By default it waits.
    #[must_use]
    pub fn on_full(self, on_full: OnFull) -> Self {
        self.with(|settings| {
            settings.in_flight.on_full = on_full;
            settings.producer.on_full = on_full;
        })
    }

    /// Sets which requests are sent again when their outcome is unknown.
    #[must_use]
    pub fn replay(self, replay: Replay) -> Self {
        self.with(|settings| settings.replay = replay)
    }

    /// Bounds the length fields of frames, in bytes: 16 MiB to send and 32 MiB to receive by default.
    #[must_use]
    pub fn max_frame_size(self, send: u32, receive: u32) -> Self {
        self.with(|settings| settings.frame_limits = Limits::new(send, receive))
    }

    /// Sets when messages of several `enqueue` calls travel in one frame.
    #[must_use]
    pub fn batching(self, batching: Batching) -> Self {
        self.with(|settings| settings.producer.batching = batching)
    }

    /// Bounds the messages of one frame. 1000 by default.
    #[must_use]
    pub fn batch_max_messages(self, messages: usize) -> Self {
        self.with(|settings| settings.producer.max_messages = messages)
    }

    /// Bounds the bytes of messages in one frame; a single larger message has a frame of its own. 128 KiB by
    /// default.
    #[must_use]
    pub fn batch_max_bytes(self, bytes: usize) -> Self {
        self.with(|settings| settings.producer.max_bytes = bytes)
    }

    /// Bounds the bytes of messages that wait unconfirmed. 32 MiB by default.
    #[must_use]
    pub fn buffer(self, bytes: usize) -> Self {
        self.with(|settings| settings.producer.buffer = bytes)
    }

    /// Sets the idle time after which TCP probes the peer. 60 s by default; `None` leaves it off. Sockets take whole
    /// seconds from 1 s to 32767 s: what is outside is brought into that range, with a [warning](Self::warnings).
    #[must_use]
    pub fn keepalive(self, idle: impl Into<Option<Duration>>) -> Self {
        let idle = idle.into();
        self.with(|settings| settings.keepalive = idle)
    }

    /// Sets how long to wait for one address before the next is tried beside it (RFC 8305). 250 ms by default,
    /// at least 10 ms.
    #[must_use]
    pub fn happy_eyeballs_delay(self, delay: Duration) -> Self {
        self.with(|settings| settings.happy_eyeballs_delay = delay)
    }

    /// Bounds the leader redirects that one request or consumer follows. 5 by default; zero follows none.
    #[must_use]
    pub fn max_redirects(self, redirects: u32) -> Self {
        self.with(|settings| settings.max_redirects = redirects)
    }

    /// Sets how long a cluster is asked again, within the call's deadline, for a queue that it says it does not know:
    /// its nodes learn of a new queue one after another (docs/protocol/clusters.md 2). 2 s by default; zero takes the first
    /// answer. Single nodes are never asked again.
    #[must_use]
    pub fn queue_ready_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.queue_ready_timeout = timeout)
    }
}

impl From<&Self> for Config {
    fn from(config: &Self) -> Self {
        config.clone()
    }
}

impl From<Infallible> for Error {
    /// Lets `impl TryInto<Config>` take a [`Config`] itself.
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_redacts() {
        let config = Config::new("broker").api_key("hunter2");
        assert!(!format!("{config:?} {config}").contains("hunter2"));
    }

    #[test]
    fn clones_share_until_changed() {
        let first = Config::new("broker");
        let second = first.clone();
        assert!(Arc::ptr_eq(&first.settings, &second.settings));
        let second = second.max_redirects(1);
        assert_eq!(first.settings().max_redirects, 5);
        assert_eq!(second.settings().max_redirects, 1);
    }

    #[test]
    fn a_key_in_the_clear_is_warned_of() {
        let remote = || Config::new("broker");
        assert!(remote().warnings().is_empty());
        assert_eq!(remote().api_key("k").warnings().len(), 1);
        assert!(remote().api_key("k").tls(Tls::platform()).warnings().is_empty());
        assert!(Config::new("localhost").api_key("k").warnings().is_empty());
    }

    #[test]
    fn a_keepalive_that_kernels_refuse_is_brought_into_their_range_and_warned_of() {
        for (asked, set) in [
            (Duration::from_nanos(1), 1),
            (Duration::from_millis(999), 1),
            (Duration::from_millis(1_001), 2),
            (Duration::from_secs(60), 60),
            (Duration::from_secs(32_767), 32_767),
            (Duration::from_millis(32_767_001), 32_767),
            (Duration::MAX, 32_767),
        ] {
            let config = Config::new("broker").keepalive(asked);
            assert!(config.validate().is_ok());
            let idle = config.settings().keepalive_idle().unwrap();
            assert_eq!(idle, Duration::from_secs(set), "{asked:?}");
            let clamped = asked < Duration::from_secs(1) || asked > Duration::from_secs(32_767);
            assert_eq!(config.warnings().len(), usize::from(clamped), "{asked:?}");
        }
        assert_eq!(Config::new("broker").keepalive(None).settings().keepalive_idle(), None);
    }

    #[test]
    fn a_bad_address_is_kept_for_validate() {
        let config = Config::new("a:1,b:x").max_redirects(1);
        assert!(config.validate().unwrap_err().to_string().contains("b:x"));
    }
}
