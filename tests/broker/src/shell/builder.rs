//! Settings of a broker on sockets.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fibp_proto::frame::{DEFAULT_MAX_LENGTH, Limits};
use fibp_proto::server::ServerConfig;
use fibp_proto::{AdminRevision, Dialect, QueueName, Secret};

use super::Broker;
use super::port::Port;
use super::shared::Shared;
use super::transport::Acceptor;
use crate::Faults;
use crate::clock::{Clock, ManualClock};
use crate::host::BrokerHost;
use crate::machine::{BrokerMachine, Settings};

/// Builds a [`Broker`]. The defaults are those of real servers, on a free port of the loopback interface, for both
/// dialects.
#[derive(Debug, Clone)]
pub struct BrokerBuilder {
    listen: Vec<SocketAddr>,
    listen_error: Option<String>,
    dialects: Vec<Dialect>,
    queues: Vec<QueueName>,
    clock: Option<ManualClock>,
    max_frame_size: u32,
    node_id: u64,
    nodes: usize,
    #[cfg(feature = "tls")]
    tls: Option<super::ServerTls>,
    settings: Settings,
}

impl BrokerBuilder {
    pub(super) fn new() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            listen_error: None,
            dialects: vec![Dialect::Preamble(AdminRevision::Protobuf), Dialect::Handshake],
            queues: Vec::new(),
            clock: None,
            max_frame_size: DEFAULT_MAX_LENGTH,
            node_id: 0,
            nodes: 1,
            #[cfg(feature = "tls")]
            tls: None,
            settings: Settings::new(Instant::now(), wall_ms),
        }
    }

    /// Where to listen: `127.0.0.1:0` unless set. Port 0 is a free one. The nodes of a cluster listen on this port and
    /// those that follow it, or on free ones.
    #[must_use]
    pub fn listen(mut self, addr: impl ToSocketAddrs) -> Self {
        match addr.to_socket_addrs() {
            Ok(addrs) => self.listen = addrs.collect(),
            Err(error) => self.listen_error = Some(error.to_string()),
        }
        self
    }

    /// Turns authentication on, with this bootstrap key (a superadmin).
    #[must_use]
    pub fn api_key(mut self, key: impl Into<Secret>) -> Self {
        self.settings.api_key = Some(key.into());
        self
    }

    /// Speaks one dialect only. [`Dialect::Auto`] stands for the default.
    #[must_use]
    pub fn dialect(self, dialect: Dialect) -> Self {
        self.dialects([dialect])
    }

    /// Speaks these dialects, distinguished by a client's first bytes: at most one revision of each.
    #[must_use]
    pub fn dialects(mut self, dialects: impl Into<Vec<Dialect>>) -> Self {
        self.dialects = dialects.into();
        if self.dialects.contains(&Dialect::Auto) {
            self.dialects = Self::new().dialects;
        }
        self
    }

    /// The largest length field of a frame, in bytes: of requests, and of preamble pushes.
    #[must_use]
    pub fn max_frame_size(mut self, bytes: u32) -> Self {
        self.max_frame_size = bytes;
        self.settings.max_frame_size = bytes;
        self
    }

    /// The visibility timeout of queues that name none.
    #[must_use]
    pub fn visibility_timeout(mut self, timeout: Duration) -> Self {
        self.settings.visibility_timeout = timeout;
        self
    }

    /// The header that names a message's fairness key, in place of an `on_enqueue` script.
    #[must_use]
    pub fn fairness_header(mut self, header: Option<impl Into<String>>) -> Self {
        self.settings.fairness_header = header.map(Into::into);
        self
    }

    /// Messages per turn of a fairness key.
    #[must_use]
    pub fn quantum(mut self, messages: u32) -> Self {
        self.settings.quantum = messages;
        self
    }

    /// Moves messages to the dead-letter queue at this many nacks, in place of an `on_failure` script.
    #[must_use]
    pub fn dead_letter_after(mut self, nacks: u32) -> Self {
        self.settings.dead_letter_after = Some(nacks);
        self
    }

    /// What ids and keys derive from.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// The wall clock at the start, in milliseconds since the Unix epoch; the system's unless set.
    #[must_use]
    pub fn wall_clock_ms(mut self, ms: u64) -> Self {
        self.settings.wall_ms = ms;
        self
    }

    /// Makes it a cluster of this many nodes, with node ids from 1 on, see [`Broker::cluster`]. One is a single node.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes.max(1);
        self
    }

    /// How long a queue of a cluster has no leader after a client created it: 65 ms unless set, on the broker's clock.
    /// Queues that the builder or [`Broker::create_queue`] creates are ready at once.
    #[must_use]
    pub fn creation_delay(mut self, delay: Duration) -> Self {
        self.settings.creation_delay = delay;
        self
    }

    /// How long a cluster takes to elect a leader in place of one that is gone: 300 ms unless set, on the broker's
    /// clock.
    #[must_use]
    pub fn election_timeout(mut self, timeout: Duration) -> Self {
        self.settings.election_timeout = timeout;
        self
    }

    /// The node id that the framed handshake announces; nodes of a cluster announce their own.
    #[must_use]
    pub fn node_id(mut self, id: u64) -> Self {
        self.node_id = id;
        self
    }

    /// What to do wrong.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.settings.faults = faults;
        self
    }

    /// Runs on this clock instead of the system's.
    #[must_use]
    pub fn manual_clock(mut self, clock: ManualClock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Serves TLS, and nothing else.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: super::ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Creates a queue at the start, with its dead-letter queue. Repeatable.
    #[must_use]
    pub fn queue(mut self, name: impl Into<QueueName>) -> Self {
        self.queues.push(name.into());
        self
    }

    /// Binds and starts serving.
    ///
    /// # Errors
    ///
    /// The address does not resolve or cannot be bound, a key does not fit its certificate, or a thread cannot be
    /// started.
    pub fn start(self) -> io::Result<Broker> {
        if let Some(error) = self.listen_error {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        #[cfg(feature = "tls")]
        let acceptor = match self.tls {
            Some(tls) => Acceptor::Tls(tls.acceptor(&self.dialects)?),
            None => Acceptor::Plain,
        };
        #[cfg(not(feature = "tls"))]
        let acceptor = Acceptor::Plain;
        let (ports, listeners): (Vec<_>, _) = bind(&self.listen, self.nodes)?.into_iter().unzip();
        let addrs: Vec<_> = ports.iter().map(Port::addr).collect();
        let clock = self.clock.map_or(Clock::Real, Clock::Manual);
        let mut settings = self.settings;
        settings.start = clock.now();
        if self.nodes > 1 {
            settings.nodes = addrs.iter().map(SocketAddr::to_string).collect();
        }
        let mut machine = BrokerMachine::new(settings);
        for queue in self.queues {
            machine.create_queue(queue);
        }
        let mut server = ServerConfig::new(self.dialects);
        server.node_id = self.node_id;
        // The machine bounds pushes, by the switch that real servers lack.
        server.limits = Limits::new(u32::MAX, self.max_frame_size);
        let shared = Shared::new(clock, BrokerHost::new(machine, server));
        Broker::start(ports, listeners, acceptor, shared)
    }
}

/// Keeps a port and listens on it per node: the first anywhere of `listen`, the others beside it.
fn bind(listen: &[SocketAddr], nodes: usize) -> io::Result<Vec<(Port, TcpListener)>> {
    let mut first = Err(io::Error::new(io::ErrorKind::InvalidInput, "no address to listen on"));
    for addr in listen {
        first = Port::bind(*addr);
        if first.is_ok() {
            break;
        }
    }
    let first = first?;
    let bound = first.0.addr();
    let chosen = listen.iter().any(|addr| addr.port() == bound.port());
    let mut ports = vec![first];
    for node in 1..nodes {
        let mut addr = bound;
        let port = u16::try_from(node).ok().and_then(|node| bound.port().checked_add(node));
        addr.set_port(match chosen {
            false => 0,
            true => port.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no ports left for all nodes"))?,
        });
        ports.push(Port::bind(addr)?);
    }
    Ok(ports)
}
