//! The threads of a channel, stepped by hand on virtual time: who reads, who writes, who is woken.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use fibp_proto::client::{
    Answer, CallerWrites, Clients, Drivers, Handle, Input, Job, News, RequestCall, RequestsCell, SLICE, Sources,
    Waiter, answer,
};
use fibp_proto::fault::Fault;
use fibp_proto::frame::{ReadBuffer, Transmit};
use fibp_proto::machine::{ChannelId, DialId};
use fibp_proto::requests::{Requests, Settle};
use fibp_proto::response::ServerError;
use fibp_proto::server::{RequestId, ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{AdminRevision, Config, Dialect, ErrorKind, Message, MessageId, Request, Response, Shared};

type Worker<'a> = fibp_proto::client::Worker<'a, Requests<Waiter>, Wire>;

const P1: Dialect = Dialect::Preamble(AdminRevision::Protobuf);
const MS: Duration = Duration::from_millis(1);

#[expect(clippy::disallowed_methods, reason = "tests need some instant to begin with")]
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// Counts how often it is woken.
#[derive(Debug, Default)]
struct Notifier(AtomicUsize);

impl Notifier {
    fn waker() -> (Arc<Self>, Waker) {
        let notifier = Arc::new(Self::default());
        (Arc::clone(&notifier), Waker::from(notifier))
    }

    fn wakes(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Wake for Notifier {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A socket with a server at its other end.
#[derive(Debug)]
struct Wire {
    server: Mutex<ServerConnection>,
    asked: Mutex<VecDeque<(RequestId, Request)>>,
    arrived: Mutex<VecDeque<u8>>,
    /// How many bytes a write takes.
    room: AtomicUsize,
    over: AtomicBool,
    /// How many writes began.
    claims: AtomicUsize,
}

impl Wire {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            server: Mutex::new(ServerConnection::new(ServerConfig::new([P1]))),
            asked: Mutex::default(),
            arrived: Mutex::default(),
            room: AtomicUsize::new(usize::MAX),
            over: AtomicBool::new(false),
            claims: AtomicUsize::new(0),
        })
    }

    fn write(&self, transmit: &Transmit) -> Result<usize, Fault> {
        let mut server = self.server.lock().unwrap();
        let chunk = transmit.chunk();
        let mut taken = &chunk[..chunk.len().min(self.room.load(Ordering::SeqCst))];
        let n = taken.len();
        while !taken.is_empty() {
            let n = server.feed(taken);
            assert!(n > 0, "it reads");
            taken = &taken[n..];
            while let Some(event) = server.poll_event() {
                match event {
                    ServerEvent::Opened { .. } => server.accept(),
                    ServerEvent::Request { id, request } => self.asked.lock().unwrap().push_back((id, request)),
                    _ => {}
                }
            }
        }
        self.flush(&mut server);
        Ok(n)
    }

    fn flush(&self, server: &mut ServerConnection) {
        let mut transmit = Transmit::new();
        while server.take_transmit(&mut transmit) {
            let n = transmit.chunk().len();
            self.arrived.lock().unwrap().extend(transmit.chunk());
            server.transmitted(&mut transmit, n);
        }
    }

    /// The server confirms all items of the oldest request; how many there were.
    fn answer(&self) -> usize {
        let (id, request) = self.asked.lock().unwrap().pop_front().unwrap();
        let (items, response) = match request {
            Request::Enqueue(messages) => {
                let results = messages.iter().map(|_| Ok(MessageId::from("id"))).collect();
                (messages.len(), Response::Enqueue(results))
            }
            Request::Ack(acks) => (acks.len(), Response::Ack(acks.iter().map(|_| Ok(())).collect())),
            other => panic!("{other:?}"),
        };
        let mut server = self.server.lock().unwrap();
        server.respond(id, &response).unwrap();
        self.flush(&mut server);
        items
    }

    /// The server refers the oldest request to another node.
    fn refer(&self, leader: &str) {
        let (id, _) = self.asked.lock().unwrap().pop_front().unwrap();
        let refusal = ServerError::new(ErrorKind::NotLeader, format!("leader_hint:{leader}"));
        let mut server = self.server.lock().unwrap();
        server.respond_error(id.id, &refusal);
        self.flush(&mut server);
    }

    fn read(&self, buffer: &mut ReadBuffer) -> Result<Option<usize>, Fault> {
        let mut arrived = self.arrived.lock().unwrap();
        if arrived.is_empty() {
            return Ok(self.over.load(Ordering::SeqCst).then_some(0));
        }
        let n = arrived.len().min(buffer.unfilled().len());
        for (to, byte) in buffer.unfilled().iter_mut().zip(arrived.drain(..n)) {
            *to = byte;
        }
        buffer.advance(n);
        Ok(Some(n))
    }
}

/// Does a job that is done with a socket alone.
fn perform(job: Job<Wire>) -> News<Wire> {
    match job {
        Job::Read { socket, mut buffer, .. } => {
            let result = socket.read(&mut buffer);
            News::Read { buffer, result }
        }
        Job::Write { socket, transmit } => {
            let result = socket.write(&transmit);
            News::Written { transmit, result }
        }
        Job::Close(socket) => {
            socket.over.store(true, Ordering::SeqCst);
            News::Nothing
        }
        Job::Look | Job::HalfClose(_) => News::Nothing,
        other => panic!("{other:?}"),
    }
}

struct World {
    handle: Cell<Option<Handle<Wire>>>,
    clients: Arc<Clients<Wire>>,
    cell: Arc<RequestsCell<Wire>>,
    /// All channels that were opened, the main one first.
    channels: Arc<Mutex<Vec<ChannelId>>>,
    opened: Cell<Option<RequestCall<'static, Wire, answer::Opened>>>,
    now: Cell<Instant>,
}

impl World {
    fn new() -> Self {
        Self::with(Config::new("server:1").dialect(P1).no_heartbeat())
    }

    fn with(config: Config) -> Self {
        let sources = Sources { now: epoch, seed: || 7 };
        let channels: Arc<Mutex<Vec<ChannelId>>> = Arc::default();
        let known = Arc::clone(&channels);
        let drivers = Drivers {
            writes: CallerWrites {
                write: |wire: &Wire, _, transmit| wire.write(transmit),
                claimed: Some(|wire| {
                    wire.claims.fetch_add(1, Ordering::SeqCst);
                }),
                wake_driver: false,
            },
            start_requests: Box::new(move |_, _, channel, _| known.lock().unwrap().push(channel)),
            start_consumer: Box::new(|_, _, _, _| panic!("no consumer is opened")),
        };
        let (handle, opened) = Handle::open(Shared::new(config).unwrap(), sources, drivers);
        Self {
            clients: Arc::clone(handle.clients()),
            cell: Arc::clone(handle.main()),
            channels,
            handle: Cell::new(Some(handle)),
            opened: Cell::new(Some(opened)),
            now: Cell::new(epoch()),
        }
    }

    /// A handle of the client; the world keeps another.
    fn handle(&self) -> Handle<Wire> {
        let handle = self.handle.take().expect("a handle");
        self.handle.set(Some(handle.clone()));
        handle
    }

    fn step(&self, worker: &mut Worker<'_>, news: News<Wire>) -> Job<Wire> {
        worker.step(self.now.get(), news)
    }

    /// Works until there is nothing to do: the job that says so.
    fn work(&self, worker: &mut Worker<'_>, mut news: News<Wire>) -> Job<Wire> {
        for _ in 0..1000 {
            match self.step(worker, news) {
                job @ (Job::Sleep(_) | Job::Wait { .. } | Job::End | Job::Dial { .. }) => return job,
                // Nothing comes: what a thread would sleep in.
                job @ Job::Read { .. } if is_silent(&job) => return job,
                job => news = perform(job),
            }
        }
        panic!("works for ever");
    }

    fn dial(&self, driver: &mut Worker<'_>) -> DialId {
        let Job::Dial { id, .. } = self.work(driver, News::Nothing) else {
            panic!("no dial")
        };
        id
    }

    fn caller(&self, until: Option<Duration>) -> Worker<'_> {
        let until = until.map(|until| self.now.get() + until);
        Worker::caller(&self.clients, &self.cell, Input::Answer, until)
    }

    fn enqueue(&self) -> RequestCall<'_, Wire, answer::Enqueued> {
        self.enqueue_within(None, "m")
    }

    fn enqueue_within(
        &self,
        timeout: Option<Duration>,
        payload: impl Into<Vec<u8>>,
    ) -> RequestCall<'_, Wire, answer::Enqueued> {
        let now = self.now.get();
        let message = Message::new("q", payload.into());
        self.cell.enqueue(now, message, timeout)
    }

    /// Drives on until `ends` says so of a job, each write taking as long as it may: that job, and the time that passes.
    fn drive(&self, driver: &mut Worker<'_>, mut ends: impl FnMut(&Job<Wire>) -> bool) -> (Job<Wire>, Duration) {
        let start = self.now.get();
        let mut news = News::Nothing;
        loop {
            let job = self.step(driver, news);
            if ends(&job) {
                return (job, self.now.get() - start);
            }
            let until = match &job {
                Job::Write { .. } => self.now.get() + SLICE,
                Job::Sleep(Some(until)) => *until,
                _ => self.now.get(),
            };
            news = match job {
                Job::Sleep(Some(_)) => News::Nothing,
                job => perform(job),
            };
            self.now.set(until);
            assert!(until - start < MINUTE, "never");
        }
    }
}

/// How late a deadline may be noticed.
const LATE: Duration = Duration::from_millis(100);

const MINUTE: Duration = Duration::from_secs(60);

/// How many bytes sockets take at a time whose server never reads, reads hardly, or reads slowly.
const SLOW: [usize; 3] = [0, 1, 1000];

/// What the slowest of them keep writing for longer than any deadline below.
fn large() -> Vec<u8> {
    vec![7; 1 << 20]
}

fn in_time(passed: Duration, limit: Duration) -> bool {
    passed >= limit && passed <= limit + LATE
}

fn is_silent(job: &Job<Wire>) -> bool {
    match job {
        Job::Read { socket, .. } => socket.arrived.lock().unwrap().is_empty() && !socket.over.load(Ordering::SeqCst),
        _ => false,
    }
}

fn is_patient(job: &Job<Wire>) -> bool {
    matches!(job, Job::Read { patient: true, .. })
}

fn is_done<A: Answer>(call: &mut RequestCall<'_, Wire, A>, waker: &Waker) -> bool {
    Pin::new(call).poll(&mut Context::from_waker(waker)).is_ready()
}

/// A world with an open connection that its reader has left to the callers: `body` gets it with the driver, the reader
/// and the notifiers of both.
fn in_open_world(body: impl FnOnce(&World, &Arc<Wire>, &mut Worker<'_>, &mut Worker<'_>, &Notifier, &Notifier)) {
    in_open(World::new(), body);
}

fn in_open(
    world: World,
    body: impl FnOnce(&World, &Arc<Wire>, &mut Worker<'_>, &mut Worker<'_>, &Notifier, &Notifier),
) {
    let (driver_notifier, waker) = Notifier::waker();
    let mut driver = Worker::driver(&world.clients, &world.cell, ChannelId::MAIN, &waker);
    let id = world.dial(&mut driver);
    let wire = Wire::new();
    let (reader_notifier, waker) = Notifier::waker();
    let mut reader = Worker::reader(&world.clients, &world.cell, ChannelId::MAIN, waker);
    let result = Ok((Arc::clone(&wire), Ok(None)));
    let silent = world.work(&mut reader, News::Dialed { id, result });
    assert!(is_silent(&silent), "what opens a connection comes unasked: {silent:?}");
    assert!(matches!(world.work(&mut driver, News::Nothing), Job::Sleep(_)));
    let opened = world.opened.take().unwrap();
    let Poll::Ready(opened) = pin!(opened).poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("not open")
    };
    opened.unwrap();
    // The reader's role ends with an answer that somebody waits for.
    let mut call = world.enqueue();
    assert!(!is_done(&mut call, Waker::noop()));
    wire.answer();
    let job = world.work(&mut reader, perform(silent));
    assert!(matches!(job, Job::Sleep(Some(_))), "{job:?}");
    assert!(is_done(&mut call, Waker::noop()));
    world.work(&mut driver, News::Nothing);
    driver_notifier.wakes();
    reader_notifier.wakes();
    body(
        &world,
        &wire,
        &mut driver,
        &mut reader,
        &driver_notifier,
        &reader_notifier,
    );
}

#[test]
fn one_call_after_another_wakes_nobody() {
    in_open_world(|world, wire, _, _, driver_notifier, reader_notifier| {
        for _ in 0..3 {
            let mut call = world.enqueue();
            assert_eq!(wire.answer(), 1, "written by the caller");
            let mut caller = world.caller(None);
            let read = world.step(&mut caller, News::Nothing);
            assert!(matches!(read, Job::Read { patient: false, .. }), "{read:?}");
            let look = world.step(&mut caller, perform(read));
            assert!(matches!(look, Job::Look), "{look:?}");
            assert!(is_done(&mut call, Waker::noop()));
            drop(caller);
            world.now.set(world.now.get() + MS);
        }
        assert_eq!((driver_notifier.wakes(), reader_notifier.wakes()), (0, 0));
    });
}

#[test]
fn whoever_leads_reads_for_all_and_leaves_the_rest_to_the_reader() {
    in_open_world(|world, wire, _, reader, driver_notifier, reader_notifier| {
        let (notifier, waker) = Notifier::waker();
        // Each as many as go without waiting for one another, so that the next one waits.
        let messages = vec![Message::new("q", "m"); 8];
        let mut first = world.cell.enqueue_many(world.now.get(), messages, None);
        let mut others: [_; 8] = std::array::from_fn(|_| world.enqueue());
        let mut leader = world.caller(None);
        let read = world.step(&mut leader, News::Nothing);
        for call in &mut others {
            let job = world.step(&mut world.caller(None), News::Nothing);
            assert!(matches!(job, Job::Wait { socket: Some(_), .. }), "{job:?}");
            assert!(!is_done(call, &waker));
        }
        let claims = wire.claims.load(Ordering::SeqCst);
        assert_eq!(wire.answer(), 8);
        let write = world.step(&mut leader, perform(read));
        assert!(
            matches!(write, Job::Write { .. }),
            "what waited for the answer: {write:?}"
        );
        assert_eq!(wire.claims.load(Ordering::SeqCst), claims + 1);
        assert!(matches!(world.step(&mut leader, perform(write)), Job::Look));
        assert!(is_done(&mut first, Waker::noop()));
        drop(leader);
        assert_eq!(reader_notifier.wakes(), 1, "somebody sleeps");

        assert_eq!(wire.answer(), 8);
        let read = world.step(reader, News::Nothing);
        let mut late = world.enqueue();
        let job = world.step(&mut world.caller(None), News::Nothing);
        assert!(matches!(job, Job::Wait { .. }), "the reader leads: {job:?}");
        assert!(matches!(world.step(reader, perform(read)), Job::Write { .. }));
        assert_eq!(notifier.wakes(), 1, "one for all");
        assert!(others.iter_mut().all(|call| is_done(call, &waker)));
        assert!(!is_done(&mut late, &waker));
        assert_eq!(driver_notifier.wakes(), 0);
    });
}

#[test]
fn a_caller_close_to_its_limit_sleeps() {
    in_open_world(|world, _, _, reader, _, reader_notifier| {
        let mut call = world.enqueue();
        let mut caller = world.caller(Some(SLICE + MS));
        let read = world.step(&mut caller, News::Nothing);
        assert!(matches!(read, Job::Read { .. }), "{read:?}");
        world.now.set(world.now.get() + MS);
        assert!(matches!(world.step(&mut caller, perform(read)), Job::Look));
        assert!(!is_done(&mut call, Waker::noop()));
        let job = world.step(&mut caller, News::Nothing);
        assert!(matches!(job, Job::Wait { until: Some(_), .. }), "{job:?}");
        assert_eq!(reader_notifier.wakes(), 1);
        assert!(
            is_silent(&world.work(reader, News::Nothing)),
            "the reader reads instead"
        );
        world.now.set(world.now.get() + SLICE);
        assert!(matches!(world.step(&mut caller, News::Nothing), Job::End));
    });
}

#[test]
fn a_silent_leader_makes_room_for_the_reader() {
    in_open_world(|world, _, _, reader, _, reader_notifier| {
        let _call = world.enqueue();
        let mut caller = world.caller(None);
        let read = world.step(&mut caller, News::Nothing);
        assert!(matches!(world.step(&mut caller, perform(read)), Job::Look));
        assert!(matches!(world.step(&mut caller, News::Nothing), Job::Wait { .. }));
        assert_eq!(reader_notifier.wakes(), 1);
        let read = world.work(reader, News::Nothing);
        assert!(!is_patient(&read));
        let look = world.step(reader, perform(read));
        assert!(matches!(look, Job::Look));
        assert!(
            is_patient(&world.step(reader, News::Nothing)),
            "nothing came: it waits in the read"
        );
    });
}

#[test]
fn an_unattended_call_gets_the_reader() {
    in_open_world(|world, wire, driver, reader, driver_notifier, reader_notifier| {
        let now = world.now.get();
        let ack = Settle::ack("q", &MessageId::from("m"));
        let mut call = world.cell.settle_queued(now, ack, None);
        assert_eq!(driver_notifier.wakes(), 1);
        assert!(matches!(world.work(driver, News::Nothing), Job::Sleep(_)));
        assert_eq!(wire.answer(), 1, "written by the driver");
        assert_eq!(reader_notifier.wakes(), 1);
        assert!(is_silent(&world.work(reader, News::Nothing)));
        assert!(is_done(&mut call, Waker::noop()));
    });
}

#[test]
fn the_driver_finishes_what_the_socket_did_not_take() {
    in_open_world(|world, wire, driver, _, driver_notifier, _| {
        wire.room.store(5, Ordering::SeqCst);
        let _call = world.enqueue();
        assert_eq!(driver_notifier.wakes(), 1);
        let other = world.enqueue();
        let job = world.step(driver, News::Nothing);
        assert!(matches!(job, Job::Write { .. }), "{job:?}");
        wire.room.store(usize::MAX, Ordering::SeqCst);
        assert!(matches!(world.work(driver, perform(job)), Job::Sleep(_)));
        assert_eq!(wire.answer(), 1);
        drop(other);
    });
}

#[test]
fn lost_connections_end_their_readers() {
    in_open_world(|world, wire, driver, reader, driver_notifier, reader_notifier| {
        let mut caller = world.caller(None);
        let call = world.enqueue();
        let read = world.step(&mut caller, News::Nothing);
        wire.over.store(true, Ordering::SeqCst);
        assert!(matches!(world.step(&mut caller, perform(read)), Job::Look));
        assert_eq!(driver_notifier.wakes(), 1);
        let job = world.step(&mut caller, News::Nothing);
        assert!(matches!(job, Job::Wait { .. }), "nothing more can be read: {job:?}");
        let job = world.step(driver, News::Nothing);
        assert!(matches!(job, Job::Close(_)), "{job:?}");
        assert!(reader_notifier.wakes() > 0);
        assert!(matches!(world.work(reader, News::Nothing), Job::End));

        // The next connection is led by its own reader, and by nobody of the last one.
        let mut again = world.work(driver, News::Nothing);
        while let Job::Sleep(Some(until)) = again {
            world.now.set(until);
            again = world.work(driver, News::Nothing);
        }
        let Job::Dial { id, .. } = again else {
            panic!("{again:?}")
        };
        let (_, waker) = Notifier::waker();
        let mut reader = Worker::reader(&world.clients, &world.cell, ChannelId::MAIN, waker);
        let result = Ok((Wire::new(), Ok(None)));
        let read = world.work(&mut reader, News::Dialed { id, result });
        assert!(is_silent(&read), "{read:?}");
        drop((caller, call));
        let _next = world.enqueue();
        let job = world.step(&mut world.caller(None), News::Nothing);
        assert!(matches!(job, Job::Wait { .. }), "{job:?}");
    });
}

#[test]
fn a_dial_that_is_given_up_brings_no_socket() {
    let world = World::new();
    let (_, waker) = Notifier::waker();
    let mut driver = Worker::driver(&world.clients, &world.cell, ChannelId::MAIN, &waker);
    let id = world.dial(&mut driver);
    world.cell.with(|requests| requests.abort(world.now.get()));
    assert!(matches!(world.work(&mut driver, News::Nothing), Job::End));
    let mut reader = Worker::reader(&world.clients, &world.cell, ChannelId::MAIN, waker);
    let wire = Wire::new();
    let result = Ok((Arc::clone(&wire), Ok(None)));
    assert!(matches!(world.work(&mut reader, News::Dialed { id, result }), Job::End));
    drop(reader);
    assert_eq!(Arc::strong_count(&wire), 1, "closed");
}

#[test]
fn closing_ends_both_threads() {
    in_open_world(|world, wire, driver, reader, driver_notifier, _| {
        let handle = world.handle();
        let mut close = pin!(handle.close(Duration::from_secs(1)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(close.as_mut().poll(&mut cx).is_ready(), "nothing is open");
        assert!(driver_notifier.wakes() > 0);
        assert!(matches!(world.work(driver, News::Nothing), Job::End));
        assert!(wire.over.load(Ordering::SeqCst));
        assert!(matches!(world.work(reader, News::Nothing), Job::End));
    });
}

#[test]
fn calls_end_by_their_deadlines_while_a_write_stalls() {
    const SECOND: Duration = Duration::from_secs(1);
    for room in SLOW {
        in_open_world(|world, wire, driver, _, _, _| {
            wire.room.store(room, Ordering::SeqCst);
            let limits = [SECOND, SECOND * 2, SECOND * 3];
            let mut calls = limits.map(|limit| world.enqueue_within(Some(limit), large()));
            let start = world.now.get();
            for (call, limit) in calls.iter_mut().zip(limits) {
                world.drive(driver, |_| is_done(call, Waker::noop()));
                let passed = world.now.get() - start;
                assert!(
                    in_time(passed, limit),
                    "{room} bytes at a time: {passed:?} of {limit:?}"
                );
            }
        });
    }
}

#[test]
fn heartbeats_give_up_a_peer_that_never_reads() {
    const EVERY: Duration = Duration::from_secs(1);
    let config = Config::new("server:1").dialect(P1).heartbeat(EVERY, 2);
    in_open(World::with(config), |world, wire, driver, _, _, _| {
        wire.room.store(0, Ordering::SeqCst);
        let _call = world.enqueue_within(Some(MINUTE), large());
        let (_, passed) = world.drive(driver, |job| matches!(job, Job::Close(_)));
        assert!(in_time(passed, EVERY * 3), "{passed:?}");
    });
}

#[test]
fn close_returns_by_its_deadline_while_a_write_stalls() {
    const LIMIT: Duration = Duration::from_secs(1);
    for room in SLOW {
        in_open_world(|world, wire, driver, reader, _, _| {
            wire.room.store(room, Ordering::SeqCst);
            let _call = world.enqueue_within(None, large());
            let handle = world.handle();
            let mut close = pin!(handle.close(LIMIT));
            let mut cx = Context::from_waker(Waker::noop());
            let mut report = None;
            let (job, passed) = world.drive(driver, |_| {
                if let Poll::Ready(closed) = close.as_mut().poll(&mut cx) {
                    report = Some(closed);
                }
                report.is_some()
            });
            assert!(in_time(passed, LIMIT), "{room} bytes at a time: {passed:?}");
            let report = report.unwrap();
            assert_eq!(
                (report.flushed, report.failed + report.unknown),
                (0, 1),
                "{room}: {report:?}"
            );
            assert!(matches!(world.work(driver, perform(job)), Job::End));
            assert!(wire.over.load(Ordering::SeqCst), "closed");
            assert!(matches!(world.work(reader, News::Nothing), Job::End));
        });
    }
}

#[test]
fn an_abort_ends_a_write_that_stalls() {
    in_open_world(|world, wire, driver, _, _, _| {
        wire.room.store(1, Ordering::SeqCst);
        let mut call = world.enqueue_within(None, large());
        let job = world.step(driver, News::Nothing);
        assert!(matches!(job, Job::Write { .. }), "{job:?}");
        world.cell.with(|requests| requests.abort(world.now.get()));
        assert!(is_done(&mut call, Waker::noop()));
        let job = world.step(driver, perform(job));
        assert!(matches!(job, Job::Close(_)), "{job:?}");
        let job = world.step(driver, perform(job));
        assert!(matches!(job, Job::End), "{job:?}");
    });
}

#[test]
fn connecting_ends_by_its_deadline_while_a_write_stalls() {
    const LIMIT: Duration = Duration::from_secs(1);
    let config = Config::new("server:1").dialect(P1).connect_timeout(LIMIT);
    let world = World::with(config);
    let (_, waker) = Notifier::waker();
    let mut driver = Worker::driver(&world.clients, &world.cell, ChannelId::MAIN, &waker);
    let id = world.dial(&mut driver);
    let wire = Wire::new();
    wire.room.store(0, Ordering::SeqCst);
    let mut reader = Worker::reader(&world.clients, &world.cell, ChannelId::MAIN, waker);
    let write = world.step(
        &mut reader,
        News::Dialed {
            id,
            result: Ok((wire, Ok(None))),
        },
    );
    assert!(matches!(write, Job::Write { .. }), "{write:?}");
    let read = world.work(&mut reader, perform(write));
    assert!(is_silent(&read), "a write is left to the driver: {read:?}");
    let mut opened = pin!(world.opened.take().unwrap());
    let mut cx = Context::from_waker(Waker::noop());
    let (_, passed) = world.drive(&mut driver, |_| {
        matches!(opened.as_mut().poll(&mut cx), Poll::Ready(Err(_)))
    });
    assert!(in_time(passed, LIMIT), "{passed:?}");
}

#[test]
fn what_a_lost_socket_did_not_take_is_not_written_to_the_next() {
    in_open_world(|world, wire, driver, reader, _, _| {
        wire.room.store(5, Ordering::SeqCst);
        let mut call = world.enqueue();
        assert!(!is_done(&mut call, Waker::noop()));
        // The connection is lost while most of the frame waits for the driver.
        wire.over.store(true, Ordering::SeqCst);
        let mut caller = world.caller(None);
        let read = world.step(&mut caller, News::Nothing);
        assert!(matches!(world.step(&mut caller, perform(read)), Job::Look));
        let mut again = world.work(driver, News::Nothing);
        while let Job::Sleep(Some(until)) = again {
            world.now.set(until);
            again = world.work(driver, News::Nothing);
        }
        let Job::Dial { id, .. } = again else {
            panic!("{again:?}")
        };
        assert!(matches!(world.work(reader, News::Nothing), Job::End));
        let next = Wire::new();
        let (_, waker) = Notifier::waker();
        let mut reader = Worker::reader(&world.clients, &world.cell, ChannelId::MAIN, waker);
        let result = Ok((Arc::clone(&next), Ok(None)));
        let silent = world.work(&mut reader, News::Dialed { id, result });
        assert!(is_silent(&silent), "the server knows what it reads: {silent:?}");
        assert!(matches!(world.work(driver, News::Nothing), Job::Sleep(_)));
        assert!(
            is_done(&mut call, Waker::noop()),
            "nobody knows how much of it was sent"
        );
        let _next = world.enqueue();
        world.work(driver, News::Nothing);
        assert_eq!(next.answer(), 1);
    });
}

#[test]
fn a_channel_that_is_opened_for_the_last_work_of_a_client_ends_with_it() {
    in_open_world(|world, wire, driver, _, _, _| {
        let mut call = world.enqueue();
        // The last handle is gone, the work is not.
        drop(world.handle.take());
        wire.refer("node:2");
        let mut caller = world.caller(None);
        let read = world.step(&mut caller, News::Nothing);
        assert!(matches!(world.step(&mut caller, perform(read)), Job::Look));
        world.work(driver, News::Nothing);
        let channels = world.channels.lock().unwrap().clone();
        let [ChannelId::MAIN, node] = channels[..] else {
            panic!("{channels:?}")
        };
        let (_, waker) = Notifier::waker();
        let mut driver = Worker::driver(&world.clients, &world.cell, node, &waker);
        let id = world.dial(&mut driver);
        let next = Wire::new();
        let mut reader = Worker::reader(&world.clients, &world.cell, node, waker);
        let result = Ok((Arc::clone(&next), Ok(None)));
        let silent = world.work(&mut reader, News::Dialed { id, result });
        world.work(&mut driver, News::Nothing);
        assert_eq!(next.answer(), 1);
        world.work(&mut reader, perform(silent));
        assert!(is_done(&mut call, Waker::noop()));
        let end = world.work(&mut driver, News::Nothing);
        assert!(matches!(end, Job::End), "{end:?}");
        assert!(next.over.load(Ordering::SeqCst), "closed");
    });
}
