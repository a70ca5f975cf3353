//! The asynchronous client on a runtime that is stepped by hand, on virtual time.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::future::{pending, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use fibp_proto::client::{Client, Runtime, SocketOptions};
use fibp_proto::frame::Transmit;
use fibp_proto::server::{ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{
    AdminRevision, Config, Dialect, Error, ErrorKind, Message, MessageId, Request, Response, ServerError,
};

const P1: Dialect = Dialect::Preamble(AdminRevision::Protobuf);

#[expect(clippy::disallowed_methods, reason = "tests need some instant to begin with")]
fn now() -> Instant {
    let now = NOW.get().unwrap_or_else(Instant::now);
    NOW.set(Some(now));
    now
}

thread_local!(static NOW: Cell<Option<Instant>> = const { Cell::new(None) });

/// Time goes on.
fn pass(time: Duration) {
    NOW.set(Some(now() + time));
}

/// The other end of every connection: a server that confirms what is enqueued.
struct Server {
    connection: ServerConnection,
    sent: VecDeque<u8>,
    /// Sent again and again when there is nothing else to read.
    flood: Option<Vec<u8>>,
    /// How many bytes the client read.
    read: usize,
}

impl Server {
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut buffer = self.connection.take_read_buffer().unwrap();
            let n = bytes.len().min(buffer.unfilled().len());
            buffer.unfilled()[..n].copy_from_slice(&bytes[..n]);
            buffer.advance(n);
            bytes = &bytes[n..];
            self.connection.handle_input(buffer);
            while let Some(event) = self.connection.poll_event() {
                match event {
                    ServerEvent::Opened { .. } => self.connection.accept(),
                    ServerEvent::Request {
                        id,
                        request: Request::Enqueue(messages),
                    } => {
                        let results = messages.iter().map(|_| Ok(MessageId::from("id"))).collect();
                        self.connection.respond(id, &Response::Enqueue(results)).unwrap();
                    }
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

    /// The smallest of frames, from here on without end: answers to nobody.
    fn flood(&mut self) -> usize {
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

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One end of a connection, and the runtime.
#[derive(Clone)]
struct ByHand {
    server: Arc<Mutex<Server>>,
    tasks: Arc<Mutex<Vec<Task>>>,
    dials: Arc<Mutex<Dials>>,
}

/// What was asked of the runtime.
#[derive(Default)]
struct Dials {
    /// Nobody answers there.
    deaf: Vec<SocketAddr>,
    asked: Vec<(SocketAddr, SocketOptions)>,
    timers: Vec<Instant>,
}

impl fmt::Debug for ByHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByHand")
    }
}

impl Runtime for ByHand {
    type Reader = Self;
    type Writer = Self;
    type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

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
        Box::pin(poll_fn(move |_| match at <= now() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }))
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
        Ok((self.clone(), self.clone()))
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

impl ByHand {
    fn new() -> Self {
        Self {
            server: Arc::new(Mutex::new(Server {
                connection: ServerConnection::new(ServerConfig::new([P1])),
                sent: VecDeque::new(),
                flood: None,
                read: 0,
            })),
            tasks: Arc::default(),
            dials: Arc::default(),
        }
    }

    /// Polls every task once.
    fn turn(&self, waker: &Waker) {
        // A task may spawn others.
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        let mut cx = Context::from_waker(waker);
        let left = tasks
            .into_iter()
            .filter_map(|mut task| task.as_mut().poll(&mut cx).is_pending().then_some(task));
        let left: Vec<_> = left.collect();
        self.tasks.lock().unwrap().extend(left);
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..100 {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return output;
            }
            self.turn(Waker::noop());
        }
        panic!("nothing left to do, and no result");
    }

    fn client(&self) -> Client<Self> {
        let config = Config::new("server:1").dialect(P1).no_heartbeat();
        self.block_on(Client::connect_on(self.clone(), config)).unwrap()
    }
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_client_needs_nothing_but_its_runtime() {
    let runtime = ByHand::new();
    let client = runtime.client();
    let id = runtime.block_on(client.enqueue(Message::new("orders", "one"))).unwrap();
    assert_eq!(id.as_str(), "id");
    let Poll::Ready(Err(error)) =
        pin!(Client::<ByHand>::connect("fila://server")).poll(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("no runtime was named");
    };
    assert_eq!(error.kind(), ErrorKind::Config);
}

/// A flood of tiny frames does not keep the thread from its other tasks: one poll reads about a buffer of them.
#[test]
fn a_poll_is_bounded_by_frames_as_well_as_by_bytes() {
    let runtime = ByHand::new();
    let client = runtime.client();
    let frame = runtime.server.lock().unwrap().flood();
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut polls = 0;
    let mut frames = 0;
    while frames < 100_000 {
        let before = runtime.server.lock().unwrap().read;
        runtime.turn(&waker);
        let read = (runtime.server.lock().unwrap().read - before) / frame;
        assert!(read > 0, "it goes on reading");
        assert!(
            read <= 1024 + 64 * 1024 / frame,
            "{read} frames of {frame} bytes in one poll"
        );
        polls += 1;
        frames += read;
        assert!(count.0.load(Ordering::SeqCst) >= polls, "it wants to go on");
    }
    // Nothing is starved by it either.
    runtime.server.lock().unwrap().flood = None;
    assert!(runtime.block_on(client.enqueue(Message::new("orders", "one"))).is_ok());
}

#[test]
fn a_runtime_that_ends_fails_its_calls() {
    let runtime = ByHand::new();
    let client = runtime.client();
    runtime.tasks.lock().unwrap().clear();
    let failed = runtime
        .block_on(client.enqueue(Message::new("orders", "one")))
        .unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Closed);
    assert_eq!(failed.message.payload.as_ref(), b"one");
}

/// The next address of a name is dialed when the first has not answered for as long as configured.
#[test]
fn addresses_are_dialed_one_after_another_as_configured() {
    let delay = Duration::from_secs(7);
    let config = || {
        let config = Config::new("server:1").dialect(P1).no_heartbeat();
        config.connect_timeout(Duration::from_secs(60))
    };
    let deaf = SocketAddr::from(([127, 0, 0, 1], 1));
    for (delay, config) in [
        (delay, config().happy_eyeballs_delay(delay)),
        (Duration::from_millis(250), config()),
    ] {
        let runtime = ByHand::new();
        runtime.dials.lock().unwrap().deaf.push(deaf);
        let mut connecting = pin!(Client::connect_on(runtime.clone(), config));
        for _ in 0..100 {
            assert!(
                connecting
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()))
                    .is_pending()
            );
            runtime.turn(Waker::noop());
        }
        let dials = runtime.dials.lock().unwrap();
        assert_eq!(dials.asked.len(), 1, "{:?}", dials.asked);
        assert!(dials.timers.contains(&(now() + delay)), "{:?}", dials.timers);
        drop(dials);
        pass(delay);
        assert!(runtime.block_on(connecting).is_ok());
        assert_eq!(runtime.dials.lock().unwrap().asked.len(), 2);
    }
}

/// Sockets are opened as configured: those of consumers with a receive buffer of their own.
#[test]
fn sockets_have_the_options_that_are_configured() {
    let runtime = ByHand::new();
    let keepalive = Duration::from_secs(7);
    let config = Config::new("server:1").dialect(P1).no_heartbeat().keepalive(keepalive);
    let client = runtime.block_on(Client::connect_on(runtime.clone(), config)).unwrap();
    let mut opening = pin!(client.consumer("orders").receive_buffer(12_345).open());
    while runtime.dials.lock().unwrap().asked.len() < 2 {
        // Nobody answers it.
        assert!(
            opening
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        runtime.turn(Waker::noop());
    }
    let dials = runtime.dials.lock().unwrap();
    let asked: Vec<_> = dials
        .asked
        .iter()
        .map(|(_, options)| (options.keepalive, options.receive_buffer))
        .collect();
    assert_eq!(asked, [(Some(keepalive), None), (Some(keepalive), Some(12_345))]);
}
