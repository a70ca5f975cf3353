//! The threads that move a link's bytes and its time.
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
//! No lock is held across a system call on the socket. A port's lock may be taken under its link's lock, never
//! the other way round.

use std::mem;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use fibp_proto::Endpoint;
use fibp_proto::frame::Transmit;
use fibp_proto::link::{Action, DialId, Parcel};
use fibp_proto::task::{Hub, LinkCell, Locked, Sources, Spawn, Waiter, complete};

use crate::connect::{self, SLICE};
use crate::wait::{Bell, Input, lock, sleep};

/// How much is encoded ahead of the socket, in bytes.
const WRITE_CHUNK: usize = 64 * 1024;

/// How long a connection is left to its callers before the reader thread takes over.
const IDLE: Duration = Duration::from_millis(5);

/// How many rounds one turn takes before it leaves the rest to the driver thread: a caller does not write for
/// others for ever.
const TURN_ROUNDS: usize = 8;

/// What the core cannot have itself.
pub(crate) const SOURCES: Sources = Sources {
    now: Instant::now,
    seed,
};

/// A link with what its threads share.
pub(crate) type Line = LinkCell<Port>;

/// What the threads of a link share besides the link itself.
#[derive(Debug)]
pub(crate) struct Port {
    state: Mutex<State>,
    driver_bell: Condvar,
    reader_bell: Condvar,
    /// For the callers of the next frame.
    callers: Mutex<Arc<Bell>>,
    /// The driver thread keeps the hub; work cannot be handed to other links after its end.
    hub: Weak<Hub<Self>>,
    receive_buffer: Option<u32>,
}

#[derive(Debug, Default)]
struct State {
    stream: Option<Arc<TcpStream>>,
    dialing: Option<DialId>,
    /// Somebody reads.
    led: bool,
    /// The reader thread is to lead next.
    reader_wanted: bool,
    /// Nothing more can be read.
    ended: bool,
    /// The reader thread waits until input is wanted again.
    reader_parked: bool,
    /// Counts reads, to tell a silent connection.
    reads: u64,
    /// The driver thread is to take a turn.
    summoned: bool,
    /// When the driver thread is to take a turn.
    due: Option<Instant>,
    /// Until when the driver thread sleeps, if it does.
    driver_sleeps: Option<Option<Instant>>,
}

impl State {
    fn is_at(&self, stream: &Arc<TcpStream>) -> bool {
        self.stream.as_ref().is_some_and(|current| Arc::ptr_eq(current, stream))
    }
}

impl Wake for Port {
    /// Has the driver thread take a turn.
    fn wake(self: Arc<Self>) {
        self.summon(&mut lock(&self.state));
    }
}

impl Port {
    fn summon(&self, state: &mut State) {
        state.summoned = true;
        if state.driver_sleeps.take().is_some() {
            self.driver_bell.notify_one();
        }
    }
}

/// What a turn brought about.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Completions delivered.
    delivered: usize,
    /// Those that were waited for.
    woken: usize,
    /// Work went to another link: its answer will not come here.
    pub(crate) rerouted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes,
    Nothing,
    /// No input is wanted now, or none can come.
    Stopped,
}

/// Something to do without a lock.
enum Task {
    Dial(DialId, Endpoint, Instant),
    Shutdown(Arc<TcpStream>, Shutdown),
    Reroute(Option<Endpoint>, Parcel<Waiter>),
}

/// What starts the threads of a link.
pub(crate) fn spawner() -> Spawn<Port> {
    Box::new(|hub, link, receive_buffer| {
        let port = Arc::new(Port {
            state: Mutex::default(),
            driver_bell: Condvar::new(),
            reader_bell: Condvar::new(),
            callers: Mutex::default(),
            hub: Arc::downgrade(hub),
            receive_buffer,
        });
        // Callers write in turns of their own.
        let line = Arc::new(Line::new(link, |_, _, _| Ok(0)));
        line.lock().socket = Some(Arc::clone(&port));
        line.attend(&Waker::from(Arc::clone(&port)));
        let (hub, line_too) = (Arc::clone(hub), Arc::clone(&line));
        let body = move || Driver { line: line_too, port }.run(&hub);
        if connect::spawn("fila-driver", body).is_err() {
            line.with(|link| link.abort(Instant::now()));
        }
        line
    })
}

/// Makes calls, and does on this thread what they leave to do.
pub(crate) fn attend<R>(line: &Arc<Line>, calls: impl FnOnce() -> R) -> R {
    line.collect_calls();
    let result = calls();
    if let Some(driver) = Driver::of(line) {
        driver.turn();
    }
    result
}

/// As [`attend`], for calls whose answers no caller may read for.
pub(crate) fn post<R>(line: &Arc<Line>, calls: impl FnOnce() -> R) -> R {
    let result = attend(line, calls);
    if let Some(driver) = Driver::of(line) {
        driver.want_reader();
    }
    result
}

/// See the [module documentation](self).
#[derive(Debug, Clone)]
pub(crate) struct Driver {
    line: Arc<Line>,
    port: Arc<Port>,
}

impl Driver {
    pub(crate) fn of(line: &Arc<Line>) -> Option<Self> {
        let port = line.lock().socket.clone()?;
        let line = Arc::clone(line);
        Some(Self { line, port })
    }

    /// What wakes the callers of the next frame.
    pub(crate) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&lock(&self.port.callers))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.port.state)
    }

    /// Takes the leader's role, if it is free and `input` may come here.
    pub(crate) fn lead(&self, input: Input) -> Option<Leader<'_>> {
        if input == Input::Answer && self.line.lock().link.in_flight() == 0 {
            return None;
        }
        let mut state = self.state();
        let stream = state.stream.clone()?;
        if state.led || state.reader_wanted || state.ended {
            return None;
        }
        state.led = true;
        Some(Leader { driver: self, stream })
    }

    /// Answers will come that no caller reads for.
    pub(crate) fn want_reader(&self) {
        let mut state = self.state();
        if state.stream.is_some() && !state.led && !mem::replace(&mut state.reader_wanted, true) {
            self.port.reader_bell.notify_all();
        }
    }

    // ---- turns ----

    /// Does what the link asks for: actions, completions, writes.
    pub(crate) fn turn(&self) -> Turn {
        self.line.take_kick();
        let mut turn = Turn::default();
        let mut completions = Vec::new();
        for round in 0.. {
            let mut tasks = Vec::new();
            let mut locked = self.line.lock();
            while let Some(action) = locked.link.poll_action() {
                self.prepare(&mut locked, action, &mut tasks);
            }
            locked.link.drain_completions(&mut completions);
            let writing = if round < TURN_ROUNDS {
                self.claim(&mut locked)
            } else {
                None
            };
            if tasks.is_empty() && completions.is_empty() && writing.is_none() {
                self.rearm(&mut locked);
                break;
            }
            drop(locked);
            turn.delivered += completions.len();
            turn.woken += complete(&mut completions);
            for task in tasks {
                turn.rerouted |= self.perform(task);
            }
            if let Some((stream, transmit)) = writing {
                self.write(&stream, transmit);
            }
        }
        if let Some(hub) = self.port.hub.upgrade() {
            hub.notify();
        }
        turn
    }

    /// Applies an action's part that needs the lock.
    fn prepare(&self, locked: &mut Locked<Port>, action: Action<Waiter>, tasks: &mut Vec<Task>) {
        let mut state = self.state();
        let mut hang_up = |state: &mut State| {
            locked.unwritten = Transmit::new();
            state.dialing = None;
            state.stream.take().map(|gone| Task::Shutdown(gone, Shutdown::Both))
        };
        match action {
            Action::Dial { id, endpoint, deadline } => {
                tasks.extend(hang_up(&mut state));
                state.dialing = Some(id);
                tasks.push(Task::Dial(id, endpoint, deadline));
            }
            Action::HalfClose => {
                let stream = state.stream.clone();
                tasks.extend(stream.map(|stream| Task::Shutdown(stream, Shutdown::Write)));
            }
            Action::Reroute { endpoint, parcel } => tasks.push(Task::Reroute(endpoint, parcel)),
            // Hangup, and what a later core may want: the safe answer is the same.
            _ => tasks.extend(hang_up(&mut state)),
        }
    }

    /// Takes what is to be written, if the writer slot is free.
    fn claim(&self, locked: &mut Locked<Port>) -> Option<(Arc<TcpStream>, Transmit)> {
        if !locked.link.wants_write() {
            return None;
        }
        let stream = self.state().stream.clone()?;
        let Locked { link, unwritten, .. } = locked;
        if !link.take_transmit(Instant::now(), WRITE_CHUNK, unwritten) {
            return None;
        }
        // Later callers travel in another frame.
        let mut bell = lock(&self.port.callers);
        if Arc::get_mut(&mut bell).is_none() {
            *bell = Arc::default();
        }
        Some((stream, mem::take(unwritten)))
    }

    /// Wakes the threads that the turn left something for.
    fn rearm(&self, locked: &mut Locked<Port>) {
        let mut state = self.state();
        state.due = locked.link.poll_timeout();
        let is_earlier = |until: Option<Instant>| state.due.is_some_and(|due| until.is_none_or(|until| due < until));
        if state.driver_sleeps.is_some_and(is_earlier) || locked.link.wants_write() || locked.link.is_terminated() {
            self.port.summon(&mut state);
        }
        if state.reader_parked && locked.link.wants_read() {
            state.reader_parked = false;
            self.port.reader_bell.notify_all();
        }
    }

    /// Writes what the link gave. What the socket does not take soon is left to the driver thread.
    fn write(&self, stream: &TcpStream, mut transmit: Transmit) {
        loop {
            let result = connect::write(stream, &transmit);
            let now = Instant::now();
            let mut locked = self.line.lock();
            match result {
                Ok((taken, is_full)) => {
                    locked.link.transmitted(now, &mut transmit, taken);
                    let is_left = !transmit.is_empty();
                    if is_left && !is_full {
                        continue;
                    }
                    // What is empty may be of an earlier connection, and is kept for its capacity only.
                    if is_left || locked.unwritten.is_empty() {
                        locked.unwritten = transmit;
                    }
                    if is_left {
                        self.port.summon(&mut self.state());
                    }
                }
                Err(error) => locked.link.transmit_failed(now, transmit, connect::fault(error)),
            }
            return;
        }
    }

    /// Does what an action asks for; true if it took work elsewhere.
    fn perform(&self, task: Task) -> bool {
        match task {
            Task::Dial(id, endpoint, deadline) => {
                let driver = self.clone();
                if let Err(fault) = connect::spawn("fila-reader", move || driver.dial(id, &endpoint, deadline)) {
                    self.line.lock().link.handle_dial_failed(Instant::now(), id, fault);
                }
            }
            Task::Shutdown(stream, half) => {
                // It fails if the peer was faster.
                let _ = stream.shutdown(half);
                self.port.reader_bell.notify_all();
            }
            Task::Reroute(endpoint, parcel) => {
                // A parcel that finds no link fails its waiters when it is dropped.
                if let Some(hub) = self.port.hub.upgrade() {
                    hub.reroute(endpoint, Instant::now(), parcel);
                }
                return true;
            }
        }
        false
    }

    // ---- threads ----

    /// The driver thread.
    fn run(&self, hub: &Hub<Port>) {
        loop {
            let mut locked = self.line.lock();
            let now = Instant::now();
            if self.state().due.is_some_and(|due| due <= now) {
                locked.link.handle_timeout(now);
            }
            let stream = self.state().stream.clone().filter(|_| !locked.unwritten.is_empty());
            let stalled = stream.map(|stream| (stream, mem::take(&mut locked.unwritten)));
            drop(locked);
            if let Some((stream, transmit)) = stalled {
                self.write(&stream, transmit);
            }
            self.turn();
            let locked = self.line.lock();
            let (is_over, is_answer_due) = (locked.link.is_terminated(), locked.link.in_flight() > 0);
            drop(locked);
            if is_over {
                break;
            }
            if is_answer_due {
                self.want_reader();
            }
            let mut state = self.state();
            while !state.summoned && state.due.is_none_or(|due| Instant::now() < due) {
                let due = state.due;
                state.driver_sleeps = Some(due);
                state = sleep(&self.port.driver_bell, state, due);
                state.driver_sleeps = None;
            }
            state.summoned = false;
        }
        let gone = self.state().stream.take();
        if let Some(stream) = gone {
            self.perform(Task::Shutdown(stream, Shutdown::Both));
        }
        hub.notify();
    }

    /// The reader thread: makes a connection, then serves it until it is gone.
    fn dial(&self, id: DialId, endpoint: &Endpoint, deadline: Instant) {
        let Some(config) = self.port.hub.upgrade().map(|hub| hub.shared.config().clone()) else {
            return;
        };
        let settings = config.settings();
        // Asks the caller's closure: before the lock.
        let key = settings.credentials.key();
        let result = connect::connect(endpoint, deadline, settings, self.port.receive_buffer);
        let mut locked = self.line.lock();
        let mut state = self.state();
        if state.dialing != Some(id) {
            return;
        }
        state.dialing = None;
        let mut made = None;
        match result {
            Ok(stream) => {
                let stream = made.insert(Arc::new(stream));
                state.stream = Some(Arc::clone(stream));
                (state.led, state.reader_wanted, state.ended) = (false, true, false);
                locked.link.handle_dialed(Instant::now(), id, key);
            }
            Err(fault) => locked.link.handle_dial_failed(Instant::now(), id, fault),
        }
        drop((state, locked));
        self.turn();
        if let Some(stream) = made {
            self.serve(&stream);
        }
    }

    fn serve(&self, stream: &Arc<TcpStream>) {
        let mut seen = 0;
        loop {
            let locked = self.line.lock();
            let mut state = self.state();
            let is_parked = state.ended || !locked.link.wants_read();
            let is_needed = state.reader_wanted || state.reads == seen || locked.link.in_flight() > 0;
            drop(locked);
            if !state.is_at(stream) {
                return;
            }
            seen = state.reads;
            if is_parked {
                state.reader_parked = true;
                drop(sleep(&self.port.reader_bell, state, None));
            } else if state.led || !is_needed {
                drop(sleep(&self.port.reader_bell, state, Instant::now().checked_add(IDLE)));
            } else {
                state.led = true;
                state.reader_wanted = false;
                drop(state);
                let stream = Arc::clone(stream);
                Leader { driver: self, stream }.read_while_needed();
                // The callers' turn: not silent yet.
                seen = self.state().reads.wrapping_sub(1);
            }
        }
    }
}

/// The one who reads. Whoever waits for an answer after this is dropped has the reader thread.
#[derive(Debug)]
pub(crate) struct Leader<'a> {
    driver: &'a Driver,
    stream: Arc<TcpStream>,
}

impl Leader<'_> {
    /// Reads once, and does what follows from it.
    pub(crate) fn read(&self) -> (Read, Turn) {
        let Self { driver, stream } = self;
        let mut locked = driver.line.lock();
        let is_open = driver.state().is_at(stream);
        let buffer = if is_open { locked.link.take_read_buffer() } else { None };
        drop(locked);
        let Some(mut buffer) = buffer else {
            return (Read::Stopped, Turn::default());
        };
        let result = connect::read(stream, &mut buffer);

        let mut locked = driver.line.lock();
        let now = Instant::now();
        locked.link.handle_input(now, buffer);
        let mut state = driver.state();
        state.reads = state.reads.wrapping_add(1);
        let read = match result {
            Ok(None) => Read::Nothing,
            Ok(Some(1..)) => Read::Bytes,
            _ if !state.is_at(stream) => Read::Stopped,
            over => {
                state.ended = true;
                match over {
                    Err(error) => locked.link.handle_transport_error(now, connect::fault(error)),
                    Ok(_) => locked.link.handle_eof(now),
                }
                Read::Stopped
            }
        };
        drop((state, locked));
        (read, driver.turn())
    }

    /// Reads until all who slept have their replies, or nothing more is to be read.
    fn read_while_needed(&self) {
        // In a silent connection this thread sleeps in the read itself; a shutdown ends it.
        let mut is_patient = false;
        loop {
            let (read, turn) = self.read();
            let was_all_awaited = turn.woken > 0 && turn.woken == turn.delivered;
            let leaves = match read {
                Read::Bytes => was_all_awaited && self.driver.line.lock().link.in_flight() == 0,
                Read::Nothing => false,
                Read::Stopped => true,
            };
            if leaves == is_patient && (leaves || read == Read::Nothing) {
                is_patient = !is_patient;
                // It fails if the connection is lost, which the next read will tell.
                let _ = self
                    .stream
                    .set_read_timeout(if is_patient { None } else { Some(SLICE) });
            }
            if leaves {
                return;
            }
        }
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let Self { driver, stream } = self;
        let mut state = driver.state();
        if !state.is_at(stream) {
            return;
        }
        state.led = false;
        let is_wanted = mem::take(&mut state.reader_wanted);
        drop(state);
        // Only now: whoever calls from here on finds the role free.
        if is_wanted || driver.line.lock().link.in_flight() > 0 {
            driver.want_reader();
        }
    }
}

/// Unpredictable enough to spread the pauses of many clients.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
