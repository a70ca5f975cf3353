//! Threads that share the work of one channel.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::attention::Attention;
use super::cell::Cell;
use super::clients::{Clients, Driven};
use super::lead::{Term, Watch};
use super::locked::Locked;
use super::waiter::Waiter;
use crate::config::Endpoint;
use crate::error::Error;
use crate::fault::Fault;
use crate::frame::{ReadBuffer, Transmit};
use crate::machine::{Action, ChannelId, Completion, DialId};
use crate::message::Secret;

/// How long one read or write of a socket that threads share may block.
pub const SLICE: Duration = Duration::from_millis(10);

/// How long a connection is left to its callers before the standing reader leads.
const IDLE: Duration = Duration::from_millis(5);

/// About how much is encoded and written at a time, in bytes.
const WRITE_SIZE: usize = 64 * 1024;

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// An answer, which may come on another channel.
    Answer,
    /// What the server sends unasked.
    Push,
}

/// What a worker is to do next, with no lock held.
#[derive(Debug)]
#[non_exhaustive]
pub enum Job<S> {
    /// Read once, for [`SLICE`] at most unless `patient`, and bring [`News::Read`].
    Read {
        /// What to read.
        socket: Arc<S>,
        /// Where to read into.
        buffer: ReadBuffer,
        /// Read until something comes.
        patient: bool,
    },
    /// Write once, for [`SLICE`] at most, and bring [`News::Written`].
    Write {
        /// Where to.
        socket: Arc<S>,
        /// What.
        transmit: Transmit,
    },
    /// Look whether what is waited for has come, then take another step.
    Look,
    /// Sleep until woken, or until this instant, then take another step.
    Sleep(Option<Instant>),
    /// As [`Sleep`](Self::Sleep), for callers: what is waited for wakes them.
    Wait {
        /// Where the answer may come. Those who wait here before the next write are likely to be answered together.
        socket: Option<Arc<S>>,
        /// When to look again.
        until: Option<Instant>,
    },
    /// Have a reader resolve, connect until `deadline` if there is one, and bring [`News::Dialed`]. For drivers.
    Dial {
        /// To be returned with the result.
        id: DialId,
        /// Where to.
        endpoint: Endpoint,
        /// When to give up. The machine does by itself, so what hangs longer may be left behind.
        deadline: Option<Instant>,
    },
    /// Shut down the writing half. For drivers.
    HalfClose(Arc<S>),
    /// Shut down both halves, which ends a read that is under way. For drivers.
    Close(Arc<S>),
    /// The work is done: the machine or the connection is gone, or the caller's time is up.
    End,
}

/// A socket that was connected, and the API key to present on it.
pub type Dialed<S> = (Arc<S>, Result<Option<Secret>, Error>);

/// What a [`Job`] led to.
#[derive(Debug)]
#[non_exhaustive]
pub enum News<S> {
    /// Nothing that concerns the machine.
    Nothing,
    /// A dial is over.
    Dialed {
        /// The dial.
        id: DialId,
        /// What was made, or why nothing was.
        result: Result<Dialed<S>, Fault>,
    },
    /// A write is over.
    Written {
        /// What was to be written.
        transmit: Transmit,
        /// How many bytes the socket took: 0 if none in time.
        result: Result<usize, Fault>,
    },
    /// A read is over.
    Read {
        /// The buffer.
        buffer: ReadBuffer,
        /// How many bytes came, 0 at the end of the stream; `None` if nothing came in time.
        result: Result<Option<usize>, Fault>,
    },
}

/// A thread's part in the work of a machine.
///
/// * **Callers** read their own answers: a caller that waits becomes the connection's *leader* and reads until its
///   reply is there. In the sequential case a call costs one write and one read on the caller's own thread, and nobody
///   is woken.
/// * The **reader**, one per connection, leads when no caller does: at once when somebody sleeps or a call was made that
///   nobody waits for, else after a few silent milliseconds. The leader's role is handed to it alone, never to a caller,
///   who may have left already.
/// * The **driver**, one per machine, keeps the time, does what the machine asks for, and finishes writes that the socket did
///   not take at once. It looks at the clock before each of them, so a deadline is late by one [`SLICE`] at most. Others
///   try a write once only, so a peer that does not read cannot keep this side from reading.
///
/// A thread calls [`step`](Self::step), does the job it gets, and brings the news to the next step. When a leader is
/// dropped, whoever waits for an answer has the reader.
pub struct Worker<'a, M: Driven, S> {
    clients: &'a Arc<Clients<S>>,
    cell: &'a Arc<Cell<M, S>>,
    channel: ChannelId,
    attention: Arc<Attention>,
    role: Role,
    /// When this worker is the leader.
    leading: Option<Term>,
    last: LastRead,
}

#[derive(Debug)]
enum Role {
    Caller {
        input: Input,
        until: Option<Instant>,
    },
    Reader {
        waker: Waker,
        term: Option<Term>,
        seen: u64,
    },
    Driver,
}

/// What a leader's last read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastRead {
    /// Bytes, or there was no read yet.
    Bytes,
    /// All replies, each of which was waited for.
    Replies,
    Nothing,
    /// Nothing, and nothing more can come.
    Over,
}

impl<'a, M: Driven, S> Worker<'a, M, S> {
    /// A caller that waits for `input`, until `until` at the latest.
    pub fn caller(
        clients: &'a Arc<Clients<S>>,
        cell: &'a Arc<Cell<M, S>>,
        input: Input,
        until: Option<Instant>,
    ) -> Self {
        Self::new(clients, cell, ChannelId::MAIN, Role::Caller { input, until })
    }

    /// The reader of a connection that was dialed, which its first news tell.
    pub fn reader(clients: &'a Arc<Clients<S>>, cell: &'a Arc<Cell<M, S>>, channel: ChannelId, waker: Waker) -> Self {
        let (term, seen) = (None, 0);
        Self::new(clients, cell, channel, Role::Reader { waker, term, seen })
    }

    /// The driver of a machine.
    pub fn driver(clients: &'a Arc<Clients<S>>, cell: &'a Arc<Cell<M, S>>, channel: ChannelId, waker: &Waker) -> Self {
        let worker = Self::new(clients, cell, channel, Role::Driver);
        worker.attention.attend(waker);
        worker
    }

    fn new(clients: &'a Arc<Clients<S>>, cell: &'a Arc<Cell<M, S>>, channel: ChannelId, role: Role) -> Self {
        Self {
            clients,
            attention: cell.attention(channel),
            cell,
            channel,
            role,
            leading: None,
            last: LastRead::Bytes,
        }
    }

    /// Takes in what the last job led to, and returns the next one. Call it with no machine locked.
    #[must_use]
    pub fn step(&mut self, now: Instant, news: News<S>) -> Job<S> {
        let is_driver = matches!(self.role, Role::Driver);
        if matches!(news, News::Nothing) && !is_driver {
            return self.look_for_work(now);
        }
        let mut rest = Rest::default();
        let was_read = matches!(news, News::Read { .. });
        let was_written = matches!(news, News::Written { .. });
        if is_driver {
            // Before the machine is locked: a kick that comes later is about something that this step may not see.
            self.attention.take_kick();
        }
        let channel = self.channel;
        let mut locked = self.cell.lock();
        self.take_in(&mut locked, now, news);
        let job = match &mut self.role {
            Role::Driver => {
                // At every step: a peer that reads slowly, or not at all, may keep the driver writing for ever.
                if locked.machine.poll_timeout(channel).is_some_and(|due| due <= now) {
                    locked.machine.handle_timeout(now);
                }
                let action = rest.next_action(&mut locked, channel);
                action.or_else(|| locked.claim_all(now, channel, WRITE_SIZE).map(write))
            }
            _ if was_written => Some(Job::Look),
            // What waited for these answers travels next. Whoever waits for one looks before the next read.
            _ => Some(locked.claim(now, channel, WRITE_SIZE).map_or(Job::Look, write)),
        };
        if let Role::Caller {
            input: Input::Answer, ..
        } = self.role
            && locked.machine.in_flight(channel) == 0
        {
            // Nothing more is due. Left now, the role takes no lock of its own when the caller goes.
            rest.wakers.extend(leave(&mut self.leading, &mut locked, channel));
        }
        while is_driver && let Some(further) = locked.machine.poll_new_channel() {
            rest.further.push(further);
        }
        locked.machine.drain_completions(&mut rest.completions);
        let job = job.unwrap_or_else(|| self.idle(&mut locked, now, &mut rest.wakers));
        // After everything that makes room: the reader sleeps until somebody says so.
        if locked.machine.wants_read(channel) {
            rest.wakers.extend(locked.port(channel).lead.unpark());
        }
        let kick = !is_driver && locked.needs_driver(channel);
        let others = locked.needed(channel);
        drop(locked);
        if kick {
            self.attention.kick();
        }
        others.iter().for_each(|driver| driver.kick());
        if rest.finish(self.clients, self.cell) && was_read && self.last == LastRead::Bytes {
            self.last = LastRead::Replies;
        }
        job
    }

    /// The next job of a thread that has no news. It does nothing to the machine, so this concerns nobody else.
    fn look_for_work(&mut self, now: Instant) -> Job<S> {
        let mut wakers = Vec::new();
        let job = self.idle(&mut self.cell.lock(), now, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        job
    }

    fn take_in(&mut self, locked: &mut Locked<M, S>, now: Instant, news: News<S>) {
        let channel = self.channel;
        match news {
            News::Nothing => {}
            News::Dialed { id, result } => {
                let port = locked.port(channel);
                // A dial that was given up while its thread was at it: its socket is dropped, and closes.
                if port.dialing.take_if(|dialing| *dialing == id).is_none() {
                    return;
                }
                match (result, &mut self.role) {
                    (Ok((socket, key)), Role::Reader { waker, term, .. }) => {
                        // The term begins before the machine knows of the socket: what comes of that may call the reader.
                        *term = Some(port.lead.begin(waker.clone()));
                        port.socket = Some(socket);
                        locked.machine.handle_dialed(now, channel, id, key);
                    }
                    (Ok(_), _) => {}
                    (Err(fault), _) => locked.machine.handle_dial_failed(now, channel, id, fault),
                }
            }
            News::Written { transmit, result } => locked.written(now, channel, transmit, result),
            News::Read { buffer, result } => {
                self.last = LastRead::Over;
                let lead = &mut locked.port(channel).lead;
                if !self.leading.is_some_and(|term| lead.is_in(term)) {
                    // The connection is another one by now, which has not ended.
                    return locked.read(now, channel, buffer, Ok(None));
                }
                match result {
                    Ok(None) => self.last = LastRead::Nothing,
                    Ok(Some(1..)) => self.last = LastRead::Bytes,
                    Ok(Some(0)) | Err(_) => {}
                }
                lead.note_read(self.last == LastRead::Over);
                locked.read(now, channel, buffer, result);
            }
        }
    }

    /// What to do when nothing else is to be done.
    fn idle(&mut self, locked: &mut Locked<M, S>, now: Instant, wakers: &mut Vec<Waker>) -> Job<S> {
        let channel = self.channel;
        let answers_due = locked.machine.in_flight(channel) > 0;
        match &mut self.role {
            Role::Driver => {
                if locked.machine.is_terminated(channel) {
                    let (socket, reader) = locked.port(channel).hang_up();
                    locked.remove_port(channel);
                    wakers.extend(reader);
                    return socket.map_or(Job::End, Job::Close);
                }
                if answers_due {
                    wakers.extend(locked.port(channel).lead.call_reader());
                }
                // Under the same lock: a caller that brings the deadline forward sees how long this thread sleeps.
                let until = locked.machine.poll_timeout(channel);
                locked.machine.note_sleep(channel, until);
                Job::Sleep(until)
            }
            Role::Caller { input, until } => {
                let left = until.map(|until| until.saturating_duration_since(now));
                if left.is_some_and(|left| left.is_zero()) {
                    return Job::End;
                }
                // A read cannot be cut short: close to the caller's own limit it is better to sleep.
                if left.is_none_or(|left| left > SLICE) {
                    // What goes to another node is not answered here.
                    let may_come = *input == Input::Push || (answers_due && !locked.machine.has_actions(channel));
                    if self.leading.is_none() && may_come {
                        self.leading = locked.port(channel).lead.take();
                        self.last = LastRead::Bytes;
                    }
                    let goes_on = matches!(self.last, LastRead::Bytes | LastRead::Replies);
                    if let Some(read) = self
                        .leading
                        .filter(|_| goes_on)
                        .and_then(|term| read(locked, channel, term, false))
                    {
                        return read;
                    }
                }
                wakers.extend(leave(&mut self.leading, locked, channel));
                // Whoever sleeps has the reader.
                wakers.extend(locked.port(channel).lead.call_reader());
                let socket = locked.port(channel).socket.clone();
                Job::Wait { socket, until: *until }
            }
            Role::Reader { term, seen, .. } => {
                let Some(term) = term.filter(|term| locked.port(channel).lead.is_in(*term)) else {
                    return Job::End;
                };
                if self.leading.is_some() {
                    let goes_on = match self.last {
                        LastRead::Bytes | LastRead::Nothing => true,
                        // All who slept are awake: the next caller reads its answer itself.
                        LastRead::Replies => answers_due,
                        LastRead::Over => false,
                    };
                    // In a silent connection this thread sleeps in the read itself; closing the socket ends it.
                    let patient = self.last == LastRead::Nothing;
                    if goes_on && let Some(read) = read(locked, channel, term, patient) {
                        return read;
                    }
                    wakers.extend(leave(&mut self.leading, locked, channel));
                    *seen = locked.port(channel).lead.not_silent();
                }
                let wants_read = locked.machine.wants_read(channel);
                match locked.port(channel).lead.watch(seen, wants_read, answers_due) {
                    Watch::Park => Job::Sleep(None),
                    Watch::Look => Job::Sleep(now.checked_add(IDLE)),
                    Watch::Lead => {
                        self.leading = Some(term);
                        self.last = LastRead::Bytes;
                        if let Some(read) = read(locked, channel, term, false) {
                            return read;
                        }
                        // Without a buffer there is nothing to lead, nor for those who would be called.
                        self.leading = None;
                        locked.port(channel).lead.leave(term, false);
                        Job::Sleep(now.checked_add(IDLE))
                    }
                }
            }
        }
    }
}

impl<M: Driven, S> Drop for Worker<'_, M, S> {
    fn drop(&mut self) {
        if self.leading.is_some() {
            // The lock is free again when the reader is woken.
            let waker = leave(&mut self.leading, &mut self.cell.lock(), self.channel);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

fn write<S>((socket, transmit): (Arc<S>, Transmit)) -> Job<S> {
    Job::Write { socket, transmit }
}

fn read<M: Driven, S>(locked: &mut Locked<M, S>, channel: ChannelId, term: Term, patient: bool) -> Option<Job<S>> {
    let port = locked.port(channel);
    let socket = port.socket.as_ref().filter(|_| port.lead.is_in(term))?;
    let socket = Arc::clone(socket);
    let buffer = locked.machine.take_read_buffer(channel)?;
    Some(Job::Read {
        socket,
        buffer,
        patient,
    })
}

/// Leaves the leader's role. Returns whom to wake.
fn leave<M: Driven, S>(leading: &mut Option<Term>, locked: &mut Locked<M, S>, channel: ChannelId) -> Option<Waker> {
    let answers_due = locked.machine.in_flight(channel) > 0;
    leading
        .take()
        .and_then(|term| locked.port(channel).lead.leave(term, answers_due))
}

/// What is left of a step when the machine is unlocked.
#[derive(Default)]
struct Rest {
    completions: Vec<Completion<Waiter>>,
    wakers: Vec<Waker>,
    /// Channels that have no driver yet.
    further: Vec<ChannelId>,
}

impl Rest {
    /// What the machine asks its driver to do.
    fn next_action<M: Driven, S>(&mut self, locked: &mut Locked<M, S>, channel: ChannelId) -> Option<Job<S>> {
        while let Some(action) = locked.machine.poll_action(channel) {
            match action {
                Action::Dial { id, endpoint, deadline } => {
                    locked.port(channel).dialing = Some(id);
                    return Some(Job::Dial { id, endpoint, deadline });
                }
                Action::HalfClose => {
                    if let Some(socket) = &locked.port(channel).socket {
                        return Some(Job::HalfClose(Arc::clone(socket)));
                    }
                }
                Action::Hangup => {
                    let (socket, reader) = locked.port(channel).hang_up();
                    self.wakers.extend(reader);
                    if let Some(socket) = socket {
                        return Some(Job::Close(socket));
                    }
                }
            }
        }
        None
    }

    /// Tells whom it concerns. True if there were replies, and all were waited for.
    fn finish<M: Driven, S>(mut self, clients: &Arc<Clients<S>>, cell: &Arc<Cell<M, S>>) -> bool {
        let delivered = self.completions.len();
        let awaited = cell.deliver(&mut self.completions);
        for waker in self.wakers {
            waker.wake();
        }
        for channel in self.further {
            clients.start_further(cell, channel);
        }
        clients.notify();
        delivered > 0 && awaited == delivered
    }
}

impl<M: Driven, S> fmt::Debug for Worker<'_, M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("role", &self.role)
            .field("leading", &self.leading)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}
