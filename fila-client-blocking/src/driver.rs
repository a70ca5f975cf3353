//! One link and the threads that move its bytes and its time.
//!
//! * **Callers** write what they submit and read their own answers: a caller that waits becomes the link's
//!   *leader* and reads the socket until its reply is there. In the sequential case a call costs one write
//!   and one read on the caller's own thread, and nobody is woken.
//! * The **reader** thread, one per connection, leads when no caller does: at once when somebody sleeps or a
//!   call was made that nobody waits for, else after a few silent milliseconds. The leader's role is handed
//!   to it alone, never to a caller: it cannot have left already.
//! * The **driver** thread, one per link, keeps the time, and finishes writes that the socket did not take.
//!   Readers and callers block in a write for a moment only, so a peer that does not read cannot keep this
//!   side from reading.
//!
//! The mutex is never held across a system call on the socket.

use std::mem;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use fibp_proto::fault::Fault;
use fibp_proto::frame::Transmit;
use fibp_proto::link::{Action, CallId, Completion, DialId, Parcel};
use fibp_proto::{Endpoint, Error, ErrorKind, Link, Shared};

use crate::connect::{self, SLICE};
use crate::events::EventBell;
use crate::links::Links;
use crate::reply::Answer;
use crate::waiter::{Cohorts, Ticket, Token, deliver, lock, wait};

/// How much is encoded ahead of the socket, in bytes.
const WRITE_CHUNK: usize = 64 * 1024;

/// How long a connection is left to its callers before the reader thread takes over.
const IDLE: Duration = Duration::from_millis(5);

/// How many rounds one turn takes before it leaves the rest to the driver thread: a caller does not write for
/// others for ever.
const TURN_ROUNDS: usize = 8;

/// How long a link goes on after its last handle is gone, to send what it was given.
const GRACE: Duration = Duration::from_secs(5);

type Guard<'a> = MutexGuard<'a, Inner>;

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct Driver {
    inner: Mutex<Inner>,
    /// Callers that sleep for a reply.
    sleepers: Arc<AtomicUsize>,
    driver_bell: Condvar,
    reader_bell: Condvar,
    shared: Shared,
    events: Arc<EventBell>,
    links: Weak<Links>,
    receive_buffer: Option<u32>,
}

/// What the driver's lock protects.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) link: Link<Token>,
    cohorts: Cohorts,
    connection: Option<Connection>,
    dialing: Option<DialId>,
    /// Bytes that the socket did not take in time, for the driver thread.
    stalled: Option<(Arc<TcpStream>, Transmit)>,
    /// The driver thread is to take a turn.
    summoned: bool,
    /// Until when the driver thread sleeps, if it does.
    driver_sleeps: Option<Option<Instant>>,
    /// The reader thread waits until input is wanted again.
    reader_parked: bool,
    /// Counts reads, to tell a silent connection.
    reads: u64,
    events_seen: u64,
    /// Both kept for their capacity.
    transmit: Transmit,
    completions: Vec<Completion<Token>>,
}

#[derive(Debug)]
struct Connection {
    stream: Arc<TcpStream>,
    /// Somebody reads.
    led: bool,
    /// The reader thread is to lead next.
    reader_wanted: bool,
    /// Nothing more can be read.
    ended: bool,
}

/// What a turn brought about.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Completions delivered.
    delivered: usize,
    /// Sleepers among those who got them.
    woken: usize,
    /// Work went to another link: its answer will not come here.
    rerouted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    Bytes,
    Nothing,
    /// No input is wanted now, or none can come.
    Stopped,
}

/// Something to do without the lock.
enum Task {
    Dial(DialId, Endpoint, Instant),
    Shutdown(Arc<TcpStream>, Shutdown),
    Reroute(Option<Endpoint>, Parcel<Token>),
}

impl Inner {
    /// Both ends of a place for one reply.
    pub(crate) fn pair(&mut self) -> (Token, Ticket) {
        self.cohorts.pair()
    }

    fn connection(&mut self, stream: &Arc<TcpStream>) -> Option<&mut Connection> {
        let connection = self.connection.as_mut();
        connection.filter(|connection| Arc::ptr_eq(&connection.stream, stream))
    }

    /// Takes the leader's role, if it is free.
    fn lead(&mut self) -> Option<Arc<TcpStream>> {
        let connection = self.connection.as_mut()?;
        if connection.led || connection.reader_wanted || connection.ended || !self.link.wants_read() {
            return None;
        }
        connection.led = true;
        Some(Arc::clone(&connection.stream))
    }

    /// Takes what is to be written, if the writer slot is free.
    fn claim_writing(&mut self) -> Option<(Arc<TcpStream>, Transmit)> {
        if !self.link.wants_write() {
            return None;
        }
        let stream = Arc::clone(&self.connection.as_ref()?.stream);
        if !self.link.take_transmit(Instant::now(), WRITE_CHUNK, &mut self.transmit) {
            return None;
        }
        self.cohorts.close();
        Some((stream, mem::take(&mut self.transmit)))
    }

    fn fail(&mut self, now: Instant, stream: &Arc<TcpStream>, fault: Fault) {
        if let Some(connection) = self.connection(stream) {
            connection.ended = true;
            self.link.handle_transport_error(now, fault);
        }
    }

    /// Applies an action's part that needs the lock.
    fn prepare(&mut self, action: Action<Token>, tasks: &mut Vec<Task>) {
        match action {
            Action::Dial { id, endpoint, deadline } => {
                self.hang_up(tasks);
                self.dialing = Some(id);
                tasks.push(Task::Dial(id, endpoint, deadline));
            }
            Action::HalfClose => {
                let stream = self.connection.as_ref().map(|connection| &connection.stream);
                tasks.extend(stream.map(|stream| Task::Shutdown(Arc::clone(stream), Shutdown::Write)));
            }
            Action::Reroute { endpoint, parcel } => tasks.push(Task::Reroute(endpoint, parcel)),
            // Hangup, and what a later core may want: the safe answer is the same.
            _ => self.hang_up(tasks),
        }
    }

    fn hang_up(&mut self, tasks: &mut Vec<Task>) {
        self.dialing = None;
        let gone = self.connection.take();
        tasks.extend(gone.map(|gone| Task::Shutdown(gone.stream, Shutdown::Both)));
    }
}

impl Driver {
    /// A link with its driver thread. The ticket is for the token given to `build`.
    pub(crate) fn spawn(
        links: &Arc<Links>,
        receive_buffer: Option<u32>,
        build: impl FnOnce(&Shared, Instant, u64, Token) -> Link<Token>,
    ) -> Result<(Arc<Self>, Ticket), Error> {
        let sleepers = Arc::new(AtomicUsize::new(0));
        let mut cohorts = Cohorts::new(&sleepers);
        let (token, ticket) = cohorts.pair();
        let driver = Arc::new(Self {
            inner: Mutex::new(Inner {
                link: build(&links.shared, Instant::now(), seed(), token),
                cohorts,
                connection: None,
                dialing: None,
                stalled: None,
                summoned: false,
                driver_sleeps: None,
                reader_parked: false,
                reads: 0,
                events_seen: 0,
                transmit: Transmit::new(),
                completions: Vec::new(),
            }),
            sleepers,
            driver_bell: Condvar::new(),
            reader_bell: Condvar::new(),
            shared: links.shared.clone(),
            events: Arc::clone(&links.events),
            links: Arc::downgrade(links),
            receive_buffer,
        });
        let (thread, links) = (Arc::clone(&driver), Arc::clone(links));
        let body = move || {
            thread.run();
            // Until here, work could be handed to other links.
            drop(links);
        };
        connect::spawn("fila-driver", body)
            .map_err(|fault| fault.into_error(ErrorKind::Connect, fibp_proto::Outcome::NotSent))?;
        Ok((driver, ticket))
    }

    pub(crate) fn lock(&self) -> Guard<'_> {
        lock(&self.inner)
    }

    // ---- callers ----

    /// Makes a call and waits for its reply.
    pub(crate) fn ask(self: &Arc<Self>, call: impl FnOnce(&mut Link<Token>, Instant, Token) -> CallId) -> Answer {
        let mut inner = self.lock();
        let (token, ticket) = inner.pair();
        call(&mut inner.link, Instant::now(), token);
        self.finish(inner, &ticket)
    }

    /// Makes a call whose reply is waited for later, if at all.
    pub(crate) fn post<R>(self: &Arc<Self>, call: impl FnOnce(&mut Link<Token>, Instant, Token) -> R) -> (R, Ticket) {
        let mut inner = self.lock();
        let (token, ticket) = inner.pair();
        let result = call(&mut inner.link, Instant::now(), token);
        let inner = self.turn(inner, &mut Turn::default());
        self.want_reader(inner);
        (result, ticket)
    }

    /// Waits for the reply to an earlier call.
    pub(crate) fn wait(self: &Arc<Self>, ticket: &Ticket) -> Answer {
        match ticket.take() {
            Some(answer) => answer,
            None => self.finish(self.lock(), ticket),
        }
    }

    /// Waits for the reply to an earlier call, until `until` at the latest.
    pub(crate) fn wait_until(self: &Arc<Self>, ticket: &Ticket, until: Option<Instant>) -> Option<Answer> {
        match ticket.take() {
            None => self.finish_until(self.lock(), ticket, until),
            answer => answer,
        }
    }

    /// Does what a call left to do, then waits for its reply. There is no limit here: deadlines are the link's.
    pub(crate) fn finish<'a>(self: &'a Arc<Self>, inner: Guard<'a>, ticket: &Ticket) -> Answer {
        self.finish_until(inner, ticket, None).unwrap_or(Answer(None))
    }

    /// Does what a call left to do, then waits for its reply: as the leader if nobody leads, else asleep.
    pub(crate) fn finish_until<'a>(
        self: &'a Arc<Self>,
        inner: Guard<'a>,
        ticket: &Ticket,
        until: Option<Instant>,
    ) -> Option<Answer> {
        let mut turn = Turn::default();
        let mut inner = self.turn(inner, &mut turn);
        let mut answer = if turn.delivered > 0 { ticket.take() } else { None };
        // A read cannot be cut short: close to the caller's own limit it is better to sleep.
        let may_read = || until.is_none_or(|until| until.saturating_duration_since(Instant::now()) > SLICE);
        if answer.is_none()
            && !turn.rerouted
            && may_read()
            && let Some(stream) = inner.lead()
        {
            let mut read = Read::Bytes;
            while answer.is_none() && read == Read::Bytes && !turn.rerouted && may_read() {
                (inner, read) = self.read(inner, &stream, &mut turn);
                answer = ticket.take();
            }
            if answer.is_none() {
                ticket.lie_down();
            }
            self.stop_leading(&mut inner, &stream);
        } else if answer.is_none() {
            ticket.lie_down();
        }
        drop(inner);
        answer.or_else(|| ticket.sleep(until))
    }

    /// Takes a turn if a call left something to do.
    pub(crate) fn catch_up(self: &Arc<Self>, inner: Guard<'_>) {
        if inner.link.needs_driver() {
            drop(self.turn(inner, &mut Turn::default()));
        }
    }

    /// Has the driver thread take a turn, for callers that must not block.
    pub(crate) fn leave_to_driver(&self, mut inner: Guard<'_>) {
        inner.summoned = true;
        self.rearm(&mut inner);
        self.want_reader(inner);
    }

    /// Lets the threads finish what is under way and end, with nobody waiting for it.
    pub(crate) fn close_unattended(&self) {
        let mut inner = self.lock();
        let (token, _) = inner.pair();
        inner.link.close(Instant::now(), GRACE, token);
        self.leave_to_driver(inner);
    }

    /// Accepts work from another link.
    pub(crate) fn accept(self: &Arc<Self>, parcel: Parcel<Token>) {
        let mut inner = self.lock();
        inner.link.accept(Instant::now(), parcel);
        let inner = self.turn(inner, &mut Turn::default());
        self.want_reader(inner);
    }

    /// Leaves the leader's role. Whoever sleeps by now is seen here, under the lock, and whoever lies down
    /// later finds the role free: either way somebody reads.
    fn stop_leading(&self, inner: &mut Inner, stream: &Arc<TcpStream>) {
        let Some(connection) = inner.connection(stream) else {
            return;
        };
        connection.led = false;
        if connection.reader_wanted || self.sleepers.load(Ordering::SeqCst) > 0 {
            connection.reader_wanted = true;
            self.reader_bell.notify_all();
        }
    }

    /// Answers will come that no caller reads for.
    fn want_reader(&self, mut inner: Guard<'_>) {
        let Some(connection) = &mut inner.connection else {
            return;
        };
        let news = !mem::replace(&mut connection.reader_wanted, true) && !connection.led;
        drop(inner);
        if news {
            self.reader_bell.notify_all();
        }
    }

    // ---- turns ----

    /// Does what the link asks for: actions, completions, writes. Unlocks meanwhile.
    fn turn<'a>(self: &'a Arc<Self>, mut inner: Guard<'a>, turn: &mut Turn) -> Guard<'a> {
        for round in 0.. {
            if round == TURN_ROUNDS {
                inner.summoned = true;
                break;
            }
            let mut tasks = Vec::new();
            while let Some(action) = inner.link.poll_action() {
                inner.prepare(action, &mut tasks);
            }
            let mut completions = mem::take(&mut inner.completions);
            inner.link.drain_completions(&mut completions);
            let writing = inner.claim_writing();
            let events = self.shared.event_count();
            let news = mem::replace(&mut inner.events_seen, events) != events;
            if tasks.is_empty() && completions.is_empty() && writing.is_none() && !news {
                inner.completions = completions;
                break;
            }
            drop(inner);
            turn.delivered += completions.len();
            turn.woken += deliver(&mut completions);
            if news {
                self.events.ring();
            }
            for task in tasks {
                turn.rerouted |= self.perform(task);
            }
            inner = match writing {
                Some((stream, transmit)) => self.write(stream, transmit),
                None => self.lock(),
            };
            inner.completions = completions;
        }
        self.rearm(&mut inner);
        inner
    }

    /// Wakes the threads that the turn left something for.
    fn rearm(&self, inner: &mut Inner) {
        let due = inner.link.poll_timeout();
        if let Some(until) = inner.driver_sleeps {
            let is_earlier = due.is_some_and(|due| until.is_none_or(|until| due < until));
            if is_earlier || inner.summoned || inner.stalled.is_some() || inner.link.is_terminated() {
                inner.driver_sleeps = None;
                self.driver_bell.notify_one();
            }
        }
        if inner.reader_parked && inner.link.wants_read() {
            inner.reader_parked = false;
            self.reader_bell.notify_all();
        }
    }

    /// Writes what the link gave. What the socket does not take soon is left to the driver thread.
    fn write(&self, stream: Arc<TcpStream>, mut transmit: Transmit) -> Guard<'_> {
        loop {
            let result = connect::write(&stream, &transmit);
            let mut inner = self.lock();
            let now = Instant::now();
            let is_stalled = match result {
                Ok((taken, is_full)) => {
                    inner.link.transmitted(now, &mut transmit, taken);
                    is_full
                }
                Err(error) => {
                    inner.link.transmit_failed(now, transmit, connect::fault(error));
                    return inner;
                }
            };
            if transmit.is_empty() {
                inner.transmit = transmit;
                return inner;
            }
            if is_stalled {
                inner.stalled = Some((stream, transmit));
                return inner;
            }
        }
    }

    /// Reads once, as the leader, and does what follows from it.
    fn read<'a>(
        self: &'a Arc<Self>,
        mut inner: Guard<'a>,
        stream: &Arc<TcpStream>,
        turn: &mut Turn,
    ) -> (Guard<'a>, Read) {
        let buffer = inner
            .connection(stream)
            .filter(|connection| !connection.ended)
            .is_some();
        let buffer = if buffer { inner.link.take_read_buffer() } else { None };
        let Some(mut buffer) = buffer else {
            return (inner, Read::Stopped);
        };
        drop(inner);
        let result = connect::read(stream, &mut buffer);

        let mut inner = self.lock();
        let now = Instant::now();
        inner.reads = inner.reads.wrapping_add(1);
        inner.link.handle_input(now, buffer);
        let read = match result {
            Ok(None) => Read::Nothing,
            Ok(Some(0)) => {
                if let Some(connection) = inner.connection(stream) {
                    connection.ended = true;
                    inner.link.handle_eof(now);
                }
                Read::Stopped
            }
            Ok(Some(_)) => Read::Bytes,
            Err(error) => {
                inner.fail(now, stream, connect::fault(error));
                Read::Stopped
            }
        };
        (self.turn(inner, turn), read)
    }

    /// Does what an action asks for; true if it took work elsewhere.
    fn perform(self: &Arc<Self>, task: Task) -> bool {
        match task {
            Task::Dial(id, endpoint, deadline) => {
                let driver = Arc::clone(self);
                if let Err(fault) = connect::spawn("fila-reader", move || driver.dial(id, &endpoint, deadline)) {
                    self.lock().link.handle_dial_failed(Instant::now(), id, fault);
                }
            }
            Task::Shutdown(stream, half) => {
                // It fails if the peer was faster.
                let _ = stream.shutdown(half);
                self.reader_bell.notify_all();
            }
            Task::Reroute(endpoint, parcel) => {
                // Gone only after the driver thread.
                if let Some(links) = self.links.upgrade() {
                    links.reroute(endpoint, parcel);
                }
                return true;
            }
        }
        false
    }

    // ---- threads ----

    /// The driver thread.
    fn run(self: &Arc<Self>) {
        let mut inner = self.lock();
        loop {
            inner.driver_sleeps = None;
            inner.summoned = false;
            if let Some((stream, transmit)) = inner.stalled.take() {
                drop(inner);
                inner = self.write(stream, transmit);
            }
            let now = Instant::now();
            if inner.link.poll_timeout().is_some_and(|due| due <= now) {
                inner.link.handle_timeout(now);
            }
            inner = self.turn(inner, &mut Turn::default());
            if inner.link.is_terminated() {
                break;
            }
            if !inner.summoned && inner.stalled.is_none() {
                let due = inner.link.poll_timeout();
                inner.driver_sleeps = Some(due);
                inner = wait(&self.driver_bell, inner, due);
            }
        }
        let mut tasks = Vec::new();
        inner.hang_up(&mut tasks);
        drop(inner);
        for task in tasks {
            self.perform(task);
        }
        self.events.ring();
    }

    /// The reader thread: makes a connection, then serves it until it is gone.
    fn dial(self: &Arc<Self>, id: DialId, endpoint: &Endpoint, deadline: Instant) {
        let settings = self.shared.config().settings();
        // Asks the caller's closure: before the lock.
        let key = settings.credentials.key();
        let result = connect::connect(endpoint, deadline, settings, self.receive_buffer);
        let mut inner = self.lock();
        if inner.dialing != Some(id) {
            return;
        }
        inner.dialing = None;
        let now = Instant::now();
        match result {
            Ok(stream) => {
                let stream = Arc::new(stream);
                inner.connection = Some(Connection {
                    stream: Arc::clone(&stream),
                    led: false,
                    reader_wanted: true,
                    ended: false,
                });
                inner.link.handle_dialed(now, id, key);
                let inner = self.turn(inner, &mut Turn::default());
                self.serve(inner, &stream);
            }
            Err(fault) => {
                inner.link.handle_dial_failed(now, id, fault);
                drop(self.turn(inner, &mut Turn::default()));
            }
        }
    }

    fn serve<'a>(self: &'a Arc<Self>, mut inner: Guard<'a>, stream: &Arc<TcpStream>) {
        let mut seen = inner.reads;
        loop {
            let is_silent = inner.reads == seen;
            seen = inner.reads;
            let wants_read = inner.link.wants_read();
            let Some(connection) = inner.connection(stream) else {
                return;
            };
            if connection.ended || !wants_read {
                inner.reader_parked = true;
                inner = wait(&self.reader_bell, inner, None);
                continue;
            }
            let is_needed = connection.reader_wanted || is_silent || self.sleepers.load(Ordering::SeqCst) > 0;
            if connection.led || !is_needed {
                inner = wait(&self.reader_bell, inner, Instant::now().checked_add(IDLE));
                continue;
            }
            connection.led = true;
            connection.reader_wanted = false;
            inner = self.read_while_needed(inner, stream);
            // The callers' turn: not silent yet.
            seen = inner.reads.wrapping_sub(1);
        }
    }

    /// Reads as the leader until all who slept have their replies, or nothing more is to be read.
    fn read_while_needed<'a>(self: &'a Arc<Self>, mut inner: Guard<'a>, stream: &Arc<TcpStream>) -> Guard<'a> {
        // In a silent connection this thread sleeps in the read itself; a shutdown ends it.
        let mut is_patient = false;
        loop {
            let mut turn = Turn::default();
            let read;
            (inner, read) = self.read(inner, stream, &mut turn);
            let was_all_for_sleepers = turn.woken > 0 && turn.woken == turn.delivered;
            let leaves = match read {
                Read::Bytes => was_all_for_sleepers && self.sleepers.load(Ordering::SeqCst) == 0,
                Read::Nothing => false,
                Read::Stopped => true,
            };
            if leaves == is_patient && (leaves || read == Read::Nothing) {
                is_patient = !is_patient;
                drop(inner);
                let result = stream.set_read_timeout(if is_patient { None } else { Some(SLICE) });
                inner = self.lock();
                if let Err(error) = result {
                    inner.fail(Instant::now(), stream, connect::fault(error));
                    inner = self.turn(inner, &mut turn);
                }
            }
            if leaves {
                if let Some(connection) = inner.connection(stream) {
                    connection.led = false;
                }
                return inner;
            }
        }
    }
}

/// Unpredictable enough to spread the pauses of many clients.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
