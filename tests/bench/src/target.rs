//! What is measured against: the null server, or the server that `FILA_URL` names.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use fibp_proto::admin::QueueSpec;
use fibp_proto::config::Config;
use fibp_proto::frame::{self, Frame, FrameHeader, Limits, OutBuf};
use fibp_proto::{AdminRevision, Dialect, Message, QueueName, Request, Secret};
use fila_client_blocking::Client;

/// What the null server speaks: preamble, revision P1.
pub const P1: Dialect = Dialect::Preamble(AdminRevision::Protobuf);

/// The six bytes that open the preamble dialect, in both directions.
pub(crate) const PREAMBLE: [u8; 6] = *b"FIBP\x01\x00";
use crate::PAYLOAD;
use crate::null_server::Manner;
use crate::servers::{Kind, Server};

/// A server, and how a bare loop talks to it.
pub(super) struct Target {
    /// How clients reach it.
    pub(super) config: Config,
    /// How bare loops do.
    pub(super) peer: Peer,
    /// The queue to use.
    pub(super) queue: QueueName,
    /// Queues that are still in use elsewhere.
    kept: Vec<QueueName>,
    /// Creates and deletes queues; the null server has none.
    admin: Option<Client>,
    _server: Option<Server>,
}

/// A server in plaintext.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    addr: SocketAddr,
    dialect: Dialect,
    key: Option<Secret>,
}

impl Target {
    /// A null server.
    pub(super) fn null(manner: Manner) -> Self {
        let server = Server::start(Kind::Null(manner));
        let addr = server.addr;
        let dialect = manner.node_id.map_or(P1, |_| Dialect::Handshake);
        Self {
            config: Config::new(addr).dialect(dialect),
            peer: Peer {
                addr,
                dialect,
                key: None,
            },
            _server: Some(server),
            queue: "bench".into(),
            kept: Vec::new(),
            admin: None,
        }
    }

    /// The server that `FILA_URL` names; `None` if it is not set.
    ///
    /// # Panics
    ///
    /// The variables are malformed, ask for TLS (there are no bare loops for that), or the server cannot be reached.
    pub(super) fn external() -> Option<Self> {
        std::env::var("FILA_URL").ok().filter(|url| !url.is_empty())?;
        let lookup = |name: &str| std::env::var_os(name);
        let config = Config::from_vars(lookup, |path| std::fs::read(path)).expect("FILA_URL and its companions");
        assert!(config.settings().tls.is_none(), "bare loops need a plaintext FILA_URL");
        let admin = Client::connect(config.clone()).expect("the server that FILA_URL names");
        let peer = Peer::recognise(&config);
        let mut target = Self {
            config,
            peer,
            queue: "".into(),
            kept: Vec::new(),
            admin: Some(admin),
            _server: None,
        };
        target.create_queue();
        Some(target)
    }

    /// Goes on with a new, empty queue, and deletes the one before.
    ///
    /// # Panics
    ///
    /// It cannot be created.
    pub(super) fn renew_queue(&mut self) {
        self.delete(&self.queue);
        self.create_queue();
    }

    /// Goes on with a new, empty queue, and keeps the one before until the end.
    ///
    /// # Panics
    ///
    /// It cannot be created.
    pub(super) fn another_queue(&mut self) {
        self.kept.push(self.queue.clone());
        self.create_queue();
    }

    fn create_queue(&mut self) {
        let Some(admin) = &self.admin else { return };
        let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        let name = format!("bench-{:x}", now.unwrap_or_default().as_nanos());
        admin
            .admin()
            .create_queue(QueueSpec::new(name.as_str()))
            .expect("a queue");
        self.queue = name.into();
    }

    /// Empties the queue first: some servers are busy for ever with one that is deleted full.
    fn delete(&self, queue: &str) {
        if let Some(admin) = &self.admin {
            drain(admin, queue);
            let _gone = admin.admin().delete_queue(queue).is_err();
        }
    }

    /// Puts messages into the queue, and returns how many; `None` if the server never runs dry anyway.
    ///
    /// # Panics
    ///
    /// One is not confirmed.
    pub(super) fn fill(&self, messages: u64) -> Option<u64> {
        let admin = self.admin.as_ref()?;
        for sent in admin.enqueue_many((0..messages).map(|_| message(&self.queue)).collect()) {
            sent.expect("confirmed");
        }
        Some(messages)
    }
}

/// How long a queue may take to run dry: what a reader left unsettled comes back when its lease ends.
const DRAINING: Duration = Duration::from_secs(90);

/// Acks everything in a queue.
fn drain(admin: &Client, queue: &str) {
    let start = Instant::now();
    let is_empty = || admin.admin().queue_stats(queue).is_ok_and(|stats| stats.depth == 0);
    let Ok(mut consumer) = admin.consume(queue) else { return };
    while !is_empty() {
        if start.elapsed() > DRAINING {
            eprintln!("{queue} is deleted although it is not empty");
            return;
        }
        for _ in 0..1000 {
            match consumer.recv_timeout(Duration::from_millis(100)) {
                Ok(Some(delivery)) => drop(delivery.ack_queued()),
                Ok(None) => break,
                Err(error) => {
                    eprintln!("{queue} cannot be drained: {error}");
                    return;
                }
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.delete(&self.queue);
        for queue in &self.kept {
            self.delete(queue);
        }
    }
}

impl Peer {
    fn recognise(config: &Config) -> Self {
        let settings = config.settings();
        let endpoint = settings.endpoints.first().expect("a valid configuration").to_string();
        let addr = std::net::ToSocketAddrs::to_socket_addrs(&endpoint)
            .ok()
            .and_then(|mut addrs| addrs.next())
            .expect("an address");
        let mut peer = Self {
            addr,
            dialect: P1,
            key: settings.credentials.key().expect("a valid key"),
        };
        if peer.open().is_err() {
            peer.dialect = Dialect::Handshake;
        }
        peer
    }

    /// Whether the fair loops speak its dialect.
    pub(super) fn is_preamble(&self) -> bool {
        self.dialect.layout() == P1.layout()
    }

    /// A connection that is ready for requests.
    pub(super) fn open(&self) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.addr)?;
        stream.set_nodelay(true)?;
        let key = self.key.as_ref().map(Secret::expose);
        if self.dialect == Dialect::Handshake {
            let mut body = vec![0, 1, u8::from(key.is_some())];
            if let Some(key) = key {
                body.extend_from_slice(&(key.len() as u16).to_be_bytes());
                body.extend_from_slice(key.as_bytes());
            }
            stream.write_all(&self.handshake(body))?;
            skip_frame(&mut stream)?;
        } else {
            stream.write_all(&PREAMBLE)?;
            stream.read_exact(&mut [0; PREAMBLE.len()])?;
            if let Some(key) = &self.key {
                stream.write_all(&self.encode(&Request::Authenticate(key.clone())))?;
                skip_frame(&mut stream)?;
            }
        }
        Ok(stream)
    }

    fn handshake(&self, body: Vec<u8>) -> Vec<u8> {
        let header = FrameHeader {
            opcode: 0x01,
            flags: 0,
            id: 0,
        };
        let frame = Frame {
            header,
            body: body.into(),
        };
        let mut out = OutBuf::new();
        frame::encode(self.dialect.layout(), &frame, u32::MAX, &mut out).expect("a frame that fits");
        out.take_bytes().to_vec()
    }

    /// An enqueue frame of so many messages, as the clients send it.
    ///
    /// # Panics
    ///
    /// It does not fit a frame.
    pub(super) fn enqueue_frame(&self, queue: &QueueName, messages: u64) -> Vec<u8> {
        let messages = (0..messages).map(|_| message(queue)).collect();
        self.encode(&Request::Enqueue(messages))
    }

    /// A consume frame with credit for good.
    pub(super) fn consume_frame(&self, queue: &QueueName) -> Vec<u8> {
        self.encode(&Request::Consume {
            queue: queue.clone(),
            credit: 1 << 30,
        })
    }

    fn encode(&self, request: &Request) -> Vec<u8> {
        let bytes = request.encode(self.dialect, 1, Limits::default());
        bytes.expect("a frame that fits").to_vec()
    }

    /// Whether a frame that begins so, length field included, is a push.
    pub(super) fn is_push(&self, frame: &[u8]) -> bool {
        match (self.dialect, frame.get(4..6)) {
            (Dialect::Handshake, Some([opcode, _])) => *opcode == 0x14,
            (_, Some([flags, _])) => *flags == 0x04,
            _ => false,
        }
    }

    /// How many deliveries a push of this body holds.
    pub(super) fn deliveries(&self, body: &[u8]) -> u64 {
        match (self.dialect, body) {
            (Dialect::Handshake, [a, b, c, d, ..]) => u32::from_be_bytes([*a, *b, *c, *d]).into(),
            (_, [a, b, ..]) => u16::from_be_bytes([*a, *b]).into(),
            _ => 0,
        }
    }
}

fn skip_frame(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u64::from(u32::from_be_bytes(length));
    std::io::copy(&mut stream.take(length), &mut std::io::sink())?;
    Ok(())
}

/// A message for a queue; cheap to make.
#[must_use]
pub fn message(queue: &QueueName) -> Message {
    static BYTES: [u8; PAYLOAD] = [7; PAYLOAD];
    Message::new(queue.clone(), bytes::Bytes::from_static(&BYTES))
}
