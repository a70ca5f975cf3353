//! Models of what threads and tasks do at the same time: shuttle runs them under many schedules and reports a deadlock
//! wherever a wake-up is lost. Nothing times out here, so that no timer makes up for one.
//!
//! ```sh
//! RUSTFLAGS="--cfg shuttle" cargo test -p fibp-proto --features client --lib models
//! ```
//!
//! Why shuttle and not loom: a model is a whole client with a server behind it, thousands of steps, which only random
//! schedules get through; and the locks are used through the standard library's interface. What shuttle doesn't see are
//! reorderings of relaxed atomics. There is one: `take_kick` reads before it swaps, and the swap acquires.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use shuttle::rand::Rng as _;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use super::attention::Attention;
use super::replies::Replies;
use super::{
    CallerWrites, Clients, Drivers, Handle, Input, Job, News, RequestCall, RequestsCell, Sources, Subscription, Waiter,
    Watchers, answer,
};
use crate::dialect::{AdminRevision, Dialect};
use crate::event::{ConnectionRole, Event, State};
use crate::fault::Fault;
use crate::frame::{ReadBuffer, Transmit};
use crate::machine::ChannelId;
use crate::message::{Message, MessageId};
use crate::server::{RequestId, ServerConfig, ServerConnection, ServerEvent};
use crate::{Config, Request, Response, Shared};

type Worker<'a> = super::Worker<'a, crate::requests::Requests<Waiter>, Wire>;

/// How many schedules of a small model, and of one with a client in it.
const SMALL: usize = 3000;
const LARGE: usize = 1000;

/// Runs a model under random schedules, and under some with few switches in unlikely places.
fn check(schedules: usize, model: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(model, schedules);
    shuttle::check_pct(model, schedules, 3);
}

fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(crate::tests_epoch)
}

/// Wakes the thread that sleeps by it.
#[derive(Default)]
struct Notifier {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Notifier {
    fn count(&self) -> u64 {
        *self.rings.lock().unwrap()
    }

    /// Sleeps while nothing has rung since the count was `seen`. Without a limit.
    fn sleep(&self, seen: u64) {
        let rings = self.rings.lock().unwrap();
        drop(self.rung.wait_while(rings, |rings| *rings == seen).unwrap());
    }
}

impl Wake for Notifier {
    fn wake(self: Arc<Self>) {
        *self.rings.lock().unwrap() += 1;
        self.rung.notify_all();
    }
}

/// Polls until there is a result, sleeping in between.
fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let notifier = Arc::new(Notifier::default());
    let waker = Waker::from(Arc::clone(&notifier));
    loop {
        let seen = notifier.count();
        match poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => return result,
            Poll::Pending => notifier.sleep(seen),
        }
    }
}

fn wait_for(replies: &Replies, number: u64) {
    block_on(|cx| replies.poll(number, cx).map(drop));
}

#[test]
fn every_wait_ends_once() {
    check(SMALL, || {
        let replies = Arc::new(Replies::default());
        let waiting: Vec<_> = (1..=3)
            .map(|number| {
                let replies = Arc::clone(&replies);
                thread::spawn(move || wait_for(&replies, number))
            })
            .collect();
        let leaving = Arc::clone(&replies);
        let leaving = thread::spawn(move || {
            let polled = leaving.poll(4, &mut Context::from_waker(Waker::noop()));
            if polled.is_pending() {
                leaving.leave(4, None);
            }
        });
        let (first, second) = (Arc::clone(&replies), Arc::clone(&replies));
        let delivering = [
            thread::spawn(move || first.deliver_ready([1, 2])),
            thread::spawn(move || second.deliver_ready([3, 4])),
        ];
        for thread in waiting {
            thread.join().unwrap();
        }
        leaving.join().unwrap();
        for thread in delivering {
            assert!(thread.join().unwrap() <= 2);
        }
        assert_eq!(replies.len(), 0);
    });
}

/// A task that is polled by one thread, then by another, is woken where it was polled last.
#[test]
fn a_wait_moves_between_tasks() {
    check(SMALL, || {
        let replies = Arc::new(Replies::default());
        let delivering = Arc::clone(&replies);
        let delivering = thread::spawn(move || delivering.deliver_ready([1]));
        let first = replies.poll(1, &mut Context::from_waker(Waker::noop()));
        if first.is_pending() {
            wait_for(&replies, 1);
        }
        delivering.join().unwrap();
    });
}

fn shared() -> Shared {
    let config = Config::new("server:1")
        .dialect(Dialect::Preamble(AdminRevision::Protobuf))
        .no_heartbeat();
    Shared::new(config).unwrap()
}

#[test]
fn no_kick_is_lost() {
    const KICKS: usize = 4;
    check(SMALL, move || {
        let attention = Arc::new(Attention::new());
        let work = Arc::new(AtomicUsize::new(0));
        let kicking: Vec<_> = (0..2)
            .map(|_| {
                let (attention, work) = (Arc::clone(&attention), Arc::clone(&work));
                thread::spawn(move || {
                    for _ in 0..KICKS / 2 {
                        work.fetch_add(1, Ordering::SeqCst);
                        attention.kick();
                    }
                })
            })
            .collect();
        let mut done = 0;
        block_on(|cx| {
            attention.attend(cx.waker());
            done += work.swap(0, Ordering::SeqCst);
            if done == KICKS { Poll::Ready(()) } else { Poll::Pending }
        });
        for thread in kicking {
            thread.join().unwrap();
        }
    });
}

#[test]
fn every_subscriber_sees_every_event() {
    const EVENTS: u32 = 3;
    check(SMALL, || {
        let shared = shared();
        let watchers = Arc::new(Watchers::default());
        let subscribers: Vec<_> = (0..2)
            .map(|_| {
                let mut subscription = Subscription::new(&shared, &watchers);
                thread::spawn(move || {
                    let mut seen = 0_u32;
                    while block_on(|cx| subscription.poll(cx)).is_some() {
                        seen += 1;
                    }
                    seen
                })
            })
            .collect();
        let telling: Vec<_> = (0..EVENTS)
            .map(|number| {
                let (shared, watchers) = (shared.clone(), Arc::clone(&watchers));
                thread::spawn(move || {
                    shared.push_event(Event::Reconnecting {
                        connection: ConnectionRole::Main,
                        attempt: number,
                        delay: Duration::ZERO,
                    });
                    watchers.notify(shared.event_count());
                })
            })
            .collect();
        for thread in telling {
            thread.join().unwrap();
        }
        shared.set_state(State::Closed);
        watchers.notify(shared.event_count());
        for subscriber in subscribers {
            assert!(subscriber.join().unwrap() >= EVENTS);
        }
    });
}

/// A socket with a server at its other end, which answers when its thread gets to it.
#[derive(Default)]
struct Wire {
    state: Mutex<Option<Peer>>,
    changed: Condvar,
}

struct Peer {
    server: ServerConnection,
    asked: VecDeque<(RequestId, Request)>,
    arrived: VecDeque<u8>,
    over: bool,
}

impl Wire {
    fn new() -> Arc<Self> {
        let dialect = Dialect::Preamble(AdminRevision::Protobuf);
        Arc::new(Self {
            state: Mutex::new(Some(Peer {
                server: ServerConnection::new(ServerConfig::new([dialect])),
                asked: VecDeque::new(),
                arrived: VecDeque::new(),
                over: false,
            })),
            changed: Condvar::new(),
        })
    }

    fn with<R>(&self, body: impl FnOnce(&mut Peer) -> R) -> R {
        let mut state = self.state.lock().unwrap();
        let result = body(state.as_mut().expect("a wire of its own"));
        drop(state);
        self.changed.notify_all();
        result
    }

    /// The server's thread.
    fn serve(&self) {
        loop {
            let state = self.state.lock().unwrap();
            let is_quiet =
                |peer: &mut Option<Peer>| peer.as_ref().is_some_and(|peer| !peer.over && peer.asked.is_empty());
            let state = self.changed.wait_while(state, is_quiet).unwrap();
            let is_over = state.as_ref().is_none_or(|peer| peer.over);
            drop(state);
            if is_over {
                return;
            }
            self.with(Peer::answer);
        }
    }

    /// Takes all, some or nothing, as a socket may.
    fn write(&self, transmit: &Transmit) -> Result<usize, Fault> {
        let chunk = transmit.chunk();
        let n = match shuttle::rand::thread_rng().gen_range(0..4) {
            0 => 0,
            1 => chunk.len().min(5),
            _ => chunk.len(),
        };
        self.with(|peer| peer.take(&chunk[..n]));
        Ok(n)
    }

    fn read(&self, buffer: &mut ReadBuffer, patient: bool) -> Result<Option<usize>, Fault> {
        let mut state = self.state.lock().unwrap();
        if patient {
            let is_silent =
                |peer: &mut Option<Peer>| peer.as_ref().is_some_and(|peer| !peer.over && peer.arrived.is_empty());
            state = self.changed.wait_while(state, is_silent).unwrap();
        }
        let peer = state.as_mut().expect("a wire of its own");
        if peer.arrived.is_empty() {
            return Ok(peer.over.then_some(0));
        }
        let n = peer.arrived.len().min(buffer.unfilled().len());
        for (to, byte) in buffer.unfilled().iter_mut().zip(peer.arrived.drain(..n)) {
            *to = byte;
        }
        buffer.advance(n);
        Ok(Some(n))
    }

    fn perform(job: Job<Self>) -> News<Self> {
        match job {
            Job::Read {
                socket,
                mut buffer,
                patient,
            } => {
                let result = socket.read(&mut buffer, patient);
                return News::Read { buffer, result };
            }
            Job::Write { socket, transmit } => {
                let result = socket.write(&transmit);
                return News::Written { transmit, result };
            }
            Job::Close(socket) => socket.with(|peer| peer.over = true),
            _ => {}
        }
        News::Nothing
    }
}

impl Peer {
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut buffer = self.server.take_read_buffer().expect("requests are taken at once");
            let n = bytes.len().min(buffer.unfilled().len());
            buffer.unfilled()[..n].copy_from_slice(&bytes[..n]);
            buffer.advance(n);
            bytes = &bytes[n..];
            self.server.handle_input(buffer);
            while let Some(event) = self.server.poll_event() {
                match event {
                    ServerEvent::Opened { .. } => self.server.accept(),
                    ServerEvent::Request { id, request } => self.asked.push_back((id, request)),
                    _ => {}
                }
            }
        }
        self.flush();
    }

    /// Confirms the oldest request: the ids say which messages they are of.
    fn answer(&mut self) {
        let Some((id, Request::Enqueue(messages))) = self.asked.pop_front() else {
            return;
        };
        let name = |message: &Message| MessageId::from(String::from_utf8_lossy(&message.payload).into_owned());
        let results = messages.iter().map(|message| Ok(name(message))).collect();
        self.server.respond(id, &Response::Enqueue(results)).unwrap();
        self.flush();
    }

    fn flush(&mut self) {
        let mut transmit = Transmit::new();
        while self.server.take_transmit(&mut transmit) {
            let n = transmit.chunk().len();
            self.arrived.extend(transmit.chunk());
            self.server.transmitted(&mut transmit, n);
        }
    }
}

/// The threads of a client, as the blocking adapter has them.
#[derive(Clone)]
struct Threads {
    clients: Arc<Clients<Wire>>,
    cell: Arc<RequestsCell<Wire>>,
    started: Arc<Mutex<Vec<thread::JoinHandle<()>>>>,
}

impl Threads {
    /// A client and the handle that keeps it.
    fn open() -> (Handle<Wire>, Self) {
        let sources = Sources { now: epoch, seed: || 7 };
        let drivers = Drivers {
            writes: CallerWrites {
                write: |wire: &Wire, _, transmit| wire.write(transmit),
                claimed: Some(|_| ()),
                wake_driver: false,
            },
            // Started below.
            start_requests: Box::new(|_, _, _, _| ()),
            start_consumer: Box::new(|_, _, _, _| ()),
        };
        let (handle, opened) = Handle::open(shared(), sources, drivers);
        drop(opened);
        let threads = Self {
            clients: Arc::clone(handle.clients()),
            cell: Arc::clone(handle.main()),
            started: Arc::default(),
        };
        threads.start(|threads| {
            let notifier = Arc::new(Notifier::default());
            let worker = Worker::driver(
                &threads.clients,
                &threads.cell,
                ChannelId::MAIN,
                &Waker::from(Arc::clone(&notifier)),
            );
            threads.work(worker, &notifier, News::Nothing);
        });
        (handle, threads)
    }

    fn start(&self, body: impl FnOnce(&Self) + Send + 'static) {
        let threads = self.clone();
        let thread = thread::spawn(move || body(&threads));
        self.started.lock().unwrap().push(thread);
    }

    fn work(&self, mut worker: Worker<'_>, notifier: &Notifier, mut news: News<Wire>) {
        loop {
            let seen = notifier.count();
            news = match worker.step(epoch(), news) {
                Job::End => return,
                Job::Sleep(_) => {
                    notifier.sleep(seen);
                    News::Nothing
                }
                Job::Dial { id, .. } => {
                    let wire = Wire::new();
                    let peer = Arc::clone(&wire);
                    self.start(move |_| peer.serve());
                    self.start(move |threads| {
                        let notifier = Arc::new(Notifier::default());
                        let worker = Worker::reader(
                            &threads.clients,
                            &threads.cell,
                            ChannelId::MAIN,
                            Waker::from(Arc::clone(&notifier)),
                        );
                        let result = Ok((wire, Ok(None)));
                        threads.work(worker, &notifier, News::Dialed { id, result });
                    });
                    News::Nothing
                }
                job => Wire::perform(job),
            };
        }
    }

    fn enqueue(&self, payload: &'static str) -> RequestCall<'_, Wire, answer::Enqueued> {
        let message = Message::new("q", payload);
        self.cell.enqueue(epoch(), message, None)
    }

    /// Waits as a caller's thread does, one that is close to its own limit if `until` says so: it sleeps rather than reads.
    fn confirm(&self, call: RequestCall<'_, Wire, answer::Enqueued>, until: Option<Instant>) -> MessageId {
        let mut call = pin!(call);
        let mut worker = Worker::caller(&self.clients, &self.cell, Input::Answer, until);
        let notifier = Arc::new(Notifier::default());
        let waker = Waker::from(Arc::clone(&notifier));
        let mut job = Job::Look;
        loop {
            let news = match job {
                Job::Look => match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(result) => return result.unwrap(),
                    Poll::Pending => News::Nothing,
                },
                Job::Wait { .. } => {
                    let seen = notifier.count();
                    if let Poll::Ready(result) = call.as_mut().poll(&mut Context::from_waker(&waker)) {
                        return result.unwrap();
                    }
                    notifier.sleep(seen);
                    job = Job::Look;
                    continue;
                }
                job => Wire::perform(job),
            };
            job = worker.step(epoch(), news);
        }
    }

    /// Closes, and waits for the end of all threads.
    fn end(self, handle: Handle<Wire>) {
        let mut close = pin!(handle.close(Duration::from_secs(1)));
        block_on(|cx| close.as_mut().poll(cx));
        loop {
            let next = self.started.lock().unwrap().pop();
            let Some(thread) = next else { break };
            thread.join().unwrap();
        }
    }
}

#[test]
fn callers_hand_over_the_lead() {
    check(LARGE, || {
        let (handle, threads) = Threads::open();
        let close = epoch().checked_add(Duration::from_millis(1));
        let callers: Vec<_> = [(["a", "b"], None), (["c", "d"], None), (["e", "f"], close)]
            .into_iter()
            .map(|(names, until)| {
                let threads = threads.clone();
                thread::spawn(move || {
                    for name in names {
                        let id = threads.confirm(threads.enqueue(name), until);
                        assert_eq!(id.as_str(), name, "each gets its own answer");
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        threads.end(handle);
    });
}

#[test]
fn a_caller_that_does_not_read_has_the_reader() {
    check(LARGE, || {
        let (handle, threads) = Threads::open();
        let close = epoch().checked_add(Duration::from_millis(1));
        for name in ["a", "b"] {
            let id = threads.confirm(threads.enqueue(name), close);
            assert_eq!(id.as_str(), name);
        }
        threads.end(handle);
    });
}

#[test]
fn a_caller_that_leaves_leaves_nobody_behind() {
    check(LARGE, || {
        let (handle, threads) = Threads::open();
        let leaving = {
            let threads = threads.clone();
            thread::spawn(move || {
                let call = threads.enqueue("a");
                let mut worker = Worker::caller(&threads.clients, &threads.cell, Input::Answer, None);
                // Its time is up after a few steps; what it began to read or write it finishes.
                let mut left: i32 = shuttle::rand::thread_rng().gen_range(1..5);
                let mut news = News::Nothing;
                loop {
                    left -= 1;
                    news = match worker.step(epoch(), news) {
                        Job::Look | Job::Wait { .. } if left <= 0 => break,
                        job => Wire::perform(job),
                    };
                }
                drop((worker, call));
            })
        };
        let staying = threads.clone();
        let staying = thread::spawn(move || {
            let (first, second) = (staying.enqueue("b"), staying.enqueue("c"));
            assert_eq!(staying.confirm(second, None).as_str(), "c");
            assert_eq!(staying.confirm(first, None).as_str(), "b");
        });
        leaving.join().unwrap();
        staying.join().unwrap();
        threads.end(handle);
    });
}
