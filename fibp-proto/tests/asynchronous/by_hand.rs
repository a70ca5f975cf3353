//! A runtime that is stepped by hand, on virtual time, with a server at the other end of every connection.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::future::pending;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use fibp_proto::client::{Client, Runtime, SocketOptions};
use fibp_proto::frame::Transmit;
use fibp_proto::server::{RequestId, ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{
    AdminRevision, Config, Dialect, Error, ErrorKind, Message, MessageId, Request, Response, ServerError,
};

pub(crate) const P1: Dialect = Dialect::Preamble(AdminRevision::Protobuf);

thread_local!(static NOW: Cell<Option<Instant>> = const { Cell::new(None) });

#[expect(clippy::disallowed_methods, reason = "tests need some instant to begin with")]
pub(crate) fn now() -> Instant {
    let now = NOW.get().unwrap_or_else(Instant::now);
    NOW.set(Some(now));
    now
}

/// Lets time pass.
pub(crate) fn advance(by: Duration) {
    NOW.set(Some(now() + by));
}

/// The other end of every connection: a server that confirms what is enqueued, and refuses what begins with "bad".
pub(crate) struct Server {
    connection: ServerConnection,
    /// The payloads of each enqueue, as texts.
    pub(crate) enqueued: Vec<Vec<String>>,
    /// Answers to enqueues wait for [`ByHand::answer`].
    pub(crate) hold: bool,
    held: VecDeque<(RequestId, Response)>,
    sent: VecDeque<u8>,
    /// Sent again and again when there is nothing else to read.
    pub(crate) flood: Option<Vec<u8>>,
    /// How many bytes the client read.
    pub(crate) read: usize,
}

impl Server {
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let n = self.connection.feed(bytes);
            assert!(n > 0, "it reads");
            bytes = &bytes[n..];
            while let Some(event) = self.connection.poll_event() {
                match event {
                    ServerEvent::Opened { .. } => self.connection.accept(),
                    ServerEvent::Request {
                        id,
                        request: Request::Enqueue(messages),
                    } => {
                        let payload = |message: &Message| String::from_utf8_lossy(&message.payload).into_owned();
                        self.enqueued.push(messages.iter().map(payload).collect());
                        let response = Response::Enqueue(messages.iter().map(result).collect());
                        if self.hold {
                            self.held.push_back((id, response));
                        } else {
                            self.connection.respond(id, &response).unwrap();
                        }
                    }
                    ServerEvent::Request {
                        id,
                        request: Request::Authenticate(_),
                    } => self.connection.respond(id, &Response::Authenticated).unwrap(),
                    ServerEvent::Request {
                        id,
                        request: Request::SetConfig { .. },
                    } => self.connection.respond(id, &Response::SetConfig).unwrap(),
                    ServerEvent::Request {
                        id,
                        request: Request::Consume { .. },
                    } => self
                        .connection
                        .respond(id, &Response::Consume { consumer_id: None })
                        .unwrap(),
                    _ => {}
                }
            }
        }
        let bytes = self.flush();
        self.sent.extend(bytes);
    }

    fn flush(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut transmit = Transmit::new();
        while self.connection.take_transmit(&mut transmit) {
            let n = transmit.chunk().len();
            bytes.extend_from_slice(transmit.chunk());
            self.connection.transmitted(&mut transmit, n);
        }
        bytes
    }

    /// Sends the first answer that is held.
    fn answer(&mut self) {
        let (id, response) = self.held.pop_front().unwrap();
        self.connection.respond(id, &response).unwrap();
        let bytes = self.flush();
        self.sent.extend(bytes);
    }

    /// The smallest of frames, from here on without end: answers to nobody.
    pub(crate) fn flood(&mut self) -> usize {
        self.connection
            .respond_error(u32::MAX, &ServerError::new(ErrorKind::Server, ""));
        let frame = self.flush();
        let len = frame.len();
        self.flood = Some(frame);
        self.read = 0;
        len
    }

    fn give(&mut self, into: &mut [u8]) -> usize {
        let n = match &self.flood {
            Some(frame) => {
                let whole = into.len() / frame.len() * frame.len();
                let endless = frame.iter().cycle();
                into[..whole].iter_mut().zip(endless).for_each(|(to, byte)| *to = *byte);
                whole
            }
            None => {
                let n = into.len().min(self.sent.len());
                into.iter_mut()
                    .zip(self.sent.drain(..n))
                    .for_each(|(to, byte)| *to = byte);
                n
            }
        };
        self.read += n;
        n
    }
}

fn result(message: &Message) -> Result<MessageId, Box<ServerError>> {
    if message.payload.starts_with(b"bad") {
        return Err(Box::new(ServerError::new(ErrorKind::QueueNotFound, "no such queue")));
    }
    Ok(MessageId::from("id"))
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What was asked of the runtime.
#[derive(Default)]
pub(crate) struct Dials {
    /// Nobody answers there.
    pub(crate) deaf: Vec<SocketAddr>,
    pub(crate) asked: Vec<(SocketAddr, SocketOptions)>,
    pub(crate) timers: Vec<Instant>,
}

/// Whoever waits for it is polled in every turn.
pub(crate) struct Timer(Instant);

impl Future for Timer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.0 <= now() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// One end of a connection, and the runtime, where drivers are woken after each write.
pub(crate) type ByHand = Stepped<true>;

/// The same, for either value of [`Runtime::WAKE_AFTER_WRITE`].
#[derive(Clone)]
pub(crate) struct Stepped<const WAKE: bool> {
    pub(crate) server: Arc<Mutex<Server>>,
    pub(crate) tasks: Arc<Mutex<Vec<Task>>>,
    pub(crate) dials: Arc<Mutex<Dials>>,
    /// A connection was made. Each further one has a server of its own.
    is_used: Arc<AtomicBool>,
}

impl<const WAKE: bool> fmt::Debug for Stepped<WAKE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByHand")
    }
}

impl<const WAKE: bool> Runtime for Stepped<WAKE> {
    type Reader = Self;
    type Writer = Self;
    type Timer = Timer;

    const WAKE_AFTER_WRITE: bool = WAKE;

    fn current() -> Result<Self, Error> {
        Err(Error::new(ErrorKind::Config, "nobody steps it"))
    }

    fn now() -> Instant {
        now()
    }

    fn seed() -> u64 {
        7
    }

    fn var(_: &str) -> Option<OsString> {
        None
    }

    fn read_file(_: &str) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap().push(Box::pin(task));
    }

    fn timer(&self, at: Instant) -> Self::Timer {
        self.dials.lock().unwrap().timers.push(at);
        Timer(at)
    }

    async fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((1..=2)
            .map(|host| SocketAddr::from(([127, 0, 0, host], port)))
            .collect())
    }

    async fn dial(&self, address: SocketAddr, options: SocketOptions) -> io::Result<(Self, Self)> {
        let is_deaf = {
            let mut dials = self.dials.lock().unwrap();
            dials.asked.push((address, options));
            dials.deaf.contains(&address)
        };
        if is_deaf {
            return pending().await;
        }
        let end = match self.is_used.swap(true, Ordering::SeqCst) {
            false => self.clone(),
            true => Self {
                tasks: Arc::clone(&self.tasks),
                ..Self::new()
            },
        };
        Ok((end.clone(), end))
    }

    fn poll_read(reader: &mut Self, _: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match reader.server.lock().unwrap().give(into) {
            0 => Poll::Pending,
            n => Poll::Ready(Ok(n)),
        }
    }

    fn poll_write(writer: &Self, _: &mut Context<'_>, from: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut server = writer.server.lock().unwrap();
        from.iter().for_each(|slice| server.take(slice));
        Poll::Ready(Ok(from.iter().map(|slice| slice.len()).sum()))
    }

    fn shut_down_write(_: &Self) -> io::Result<()> {
        Ok(())
    }
}

impl<const WAKE: bool> Stepped<WAKE> {
    pub(crate) fn new() -> Self {
        Self {
            server: Arc::new(Mutex::new(Server {
                enqueued: Vec::new(),
                hold: false,
                held: VecDeque::new(),
                connection: ServerConnection::new(ServerConfig::new([P1])),
                sent: VecDeque::new(),
                flood: None,
                read: 0,
            })),
            tasks: Arc::default(),
            dials: Arc::default(),
            is_used: Arc::default(),
        }
    }

    /// Sends an answer that is held, and lets the client read it.
    #[cfg_attr(not(feature = "sink"), expect(dead_code, reason = "others hold nothing"))]
    pub(crate) fn answer(&self) {
        self.server.lock().unwrap().answer();
        self.settle();
    }

    /// Lets everybody do what there is to do.
    pub(crate) fn settle(&self) {
        for _ in 0..10 {
            self.turn(Waker::noop());
        }
    }

    /// Polls every task once.
    pub(crate) fn turn(&self, waker: &Waker) {
        // A task may spawn others.
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        let mut cx = Context::from_waker(waker);
        let left = tasks
            .into_iter()
            .filter_map(|mut task| task.as_mut().poll(&mut cx).is_pending().then_some(task));
        let left: Vec<_> = left.collect();
        self.tasks.lock().unwrap().extend(left);
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..100 {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return output;
            }
            self.turn(Waker::noop());
        }
        panic!("nothing left to do, and no result");
    }

    pub(crate) fn client(&self) -> Client<Self> {
        self.client_with(|config| config)
    }

    pub(crate) fn client_with(&self, change: impl FnOnce(Config) -> Config) -> Client<Self> {
        let config = change(Config::new("server:1").dialect(P1).no_heartbeat());
        self.block_on(Client::connect_on(self.clone(), config)).unwrap()
    }
}
