//! The task that moves a channel's bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::dial::{Dialed, Dialing, dial};
use super::runtime::Runtime;
use crate::client::attention::Attention;
use crate::client::cell::{CallerWrites, Cell};
use crate::client::clients::{Clients, Driven, Drivers, StartDriver};
use crate::client::locked::Locked;
use crate::client::waiter::Waiter;
use crate::fault::Fault;
use crate::frame::{ReadBuffer, Transmit};
use crate::machine::{Action, ChannelId, Completion, DialId};

/// How many turns a driver takes before it lets other tasks run. Each reads and writes at most a buffer's worth of bytes.
const MAX_TURNS: usize = 16;

/// About how many frames it reads before that: a buffer holds thousands of tiny ones, each of which costs as much as a
/// larger one. Some runtimes look at their timers only once in many polls.
const MAX_FRAMES: u64 = 1024;

/// How much is encoded and written at a time, in bytes.
const WRITE_SIZE: usize = 64 * 1024;

/// The most slices of one vectored write.
const MAX_SLICES: usize = 32;

/// What starts drivers on `runtime`.
pub(super) fn drivers<R: Runtime>(runtime: R) -> Drivers<R::Writer> {
    Drivers {
        writes: CallerWrites {
            write: |writer, cx, transmit| match written(transmit, |slices| R::try_write(writer, cx, slices)) {
                Poll::Ready(result) => result,
                Poll::Pending => Ok(0),
            },
            claimed: None,
            wake_driver: R::WAKE_AFTER_WRITE,
        },
        start_requests: starter(runtime.clone()),
        start_consumer: starter(runtime),
    }
}

fn starter<R: Runtime, M: Driven + 'static>(runtime: R) -> StartDriver<M, R::Writer> {
    Box::new(move |clients, cell, channel, receive_buffer| {
        runtime.spawn(Driver {
            runtime: runtime.clone(),
            clients: Arc::clone(clients),
            attention: cell.attention(channel),
            cell: Arc::clone(cell),
            channel,
            receive_buffer,
            dialing: None,
            reader: None,
            writer: None,
            buffer: None,
            transmit: Transmit::new(),
            timer: None,
            armed: None,
            completions: Vec::new(),
            collecting: false,
        });
    })
}

/// Waits for whatever a channel waits for. Dropped with its runtime, it fails all calls.
struct Driver<R: Runtime, M: Driven> {
    runtime: R,
    clients: Arc<Clients<R::Writer>>,
    cell: Arc<Cell<M, R::Writer>>,
    channel: ChannelId,
    attention: Arc<Attention>,
    receive_buffer: Option<u32>,
    dialing: Option<(DialId, Dialing<R>)>,
    reader: Option<R::Reader>,
    writer: Option<Arc<R::Writer>>,
    /// Where to read into, while reading is wanted.
    buffer: Option<ReadBuffer>,
    /// What is being written.
    transmit: Transmit,
    timer: Option<R::Timer>,
    /// When the timer fires. It is moved only to be earlier: a spurious timeout is cheaper than a timer per call.
    armed: Option<Instant>,
    completions: Vec<Completion<Waiter>>,
    /// The last turn woke several tasks and left writing to this one.
    collecting: bool,
}

/// What happened to the transport, found out without the lock.
struct News<R: Runtime> {
    dialed: Option<(DialId, Result<Dialed<R>, Fault>)>,
    timeout: bool,
    written: Option<Result<usize, Fault>>,
    /// How many bytes came; `None`: there was nothing yet.
    read: Option<Result<Option<usize>, Fault>>,
}

impl<R: Runtime> News<R> {
    fn none() -> Self {
        Self {
            dialed: None,
            timeout: false,
            written: None,
            read: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.dialed.is_none() && !self.timeout && self.written.is_none() && self.read.is_none()
    }
}

enum Turn {
    /// There may be more to do at once; so many frames were read.
    Again { read: u64 },
    /// The tasks that were woken go first.
    Yield,
    /// The channel is done for good.
    Done,
}

impl<R: Runtime, M: Driven> Future for Driver<R, M> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        // Before anything is polled: a kick in between is seen here, or wakes the task again.
        let mut kicked = this.attention.attend(cx.waker());
        let mut frames = 0;
        // Bounded: a busy connection must not keep the executor from other tasks.
        for _ in 0..MAX_TURNS {
            let news = this.poll_news(cx);
            if !kicked && news.is_empty() {
                return Poll::Pending;
            }
            match this.turn(news) {
                Turn::Again { read } => {
                    kicked = this.attention.take_kick();
                    frames += read;
                    if frames >= MAX_FRAMES {
                        break;
                    }
                }
                Turn::Yield => break,
                Turn::Done => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<R: Runtime, M: Driven> Driver<R, M> {
    /// Everything that can make progress without the lock; what can't has the task's waker afterwards.
    fn poll_news(&mut self, cx: &mut Context<'_>) -> News<R> {
        let mut news = News::none();
        if let Some((id, dialing)) = &mut self.dialing
            && let Poll::Ready(result) = dialing.as_mut().poll(cx)
        {
            news.dialed = Some((*id, result));
            self.dialing = None;
        }
        if let Some(writer) = &self.writer
            && !self.transmit.is_empty()
            && let Poll::Ready(result) = written(&self.transmit, |slices| R::poll_write(writer, cx, slices))
        {
            news.written = Some(result);
        }
        if let (Some(reader), Some(buffer)) = (&mut self.reader, &mut self.buffer) {
            news.read = match R::poll_read(reader, cx, buffer.unfilled()) {
                Poll::Ready(result) => Some(result.map_err(Fault::from).inspect(|n| buffer.advance(*n)).map(Some)),
                Poll::Pending => buffer.reports_empty().then_some(Ok(None)),
            };
        }
        // Not worth its price while there is something else to do: looked at before the driver sleeps.
        if let (Some(_), Some(timer)) = (self.armed, &mut self.timer)
            && news.is_empty()
            && Pin::new(timer).poll(cx).is_ready()
        {
            news.timeout = true;
        }
        news
    }

    /// Tells the machine what happened and takes what is to be done.
    fn turn(&mut self, news: News<R>) -> Turn {
        let cell = Arc::clone(&self.cell);
        let channel = self.channel;
        let now = R::now();
        // Closed, woken and handed on after unlocking.
        let mut sockets = Vec::new();
        let mut dials = Vec::new();
        let mut further = Vec::new();
        let mut half_close = false;

        let mut locked = cell.lock();
        // Another connection counts from the start.
        let before = locked.machine.frames_read(channel);
        self.feed(&mut locked, now, news);
        let read = locked.machine.frames_read(channel).saturating_sub(before);
        while let Some(action) = locked.machine.poll_action(channel) {
            match action {
                Action::Dial { id, endpoint, deadline } => {
                    let config = self.clients.shared.config().clone();
                    let dialing = dial(self.runtime.clone(), config, endpoint, deadline, self.receive_buffer);
                    dials.extend(self.dialing.replace((id, dialing)));
                }
                Action::HalfClose => half_close = true,
                Action::Hangup => {
                    dials.extend(self.dialing.take());
                    let (socket, _) = locked.port(channel).hang_up();
                    sockets.push((self.reader.take(), self.writer.take(), socket));
                    self.transmit = Transmit::new();
                    // Lent for the closed socket: the machine takes it back and drops what is in it.
                    if let Some(buffer) = self.buffer.take() {
                        locked.machine.handle_input(now, channel, buffer);
                    }
                }
            }
        }
        while let Some(channel) = locked.machine.poll_new_channel() {
            further.push(channel);
        }
        locked.machine.drain_completions(&mut self.completions);
        // The tasks woken now may have more to send: let them, then send it in one frame.
        self.collecting = self.completions.len() > 1 && !self.collecting;
        if !self.collecting
            && self.transmit.is_empty()
            && let Some((_, transmit)) = locked.claim_all(now, channel, WRITE_SIZE)
        {
            self.transmit = transmit;
        }
        if self.buffer.is_none() && self.reader.is_some() {
            self.buffer = locked.machine.take_read_buffer(channel);
        }
        let timeout = locked.machine.poll_timeout(channel);
        locked.machine.note_sleep(channel, timeout);
        // Looked at last: completions and actions have been drained, so nothing is left behind.
        let done = locked.machine.is_terminated(channel);
        if done {
            locked.remove_port(channel);
        }
        let others = locked.needed(channel);
        drop(locked);

        // Sockets are closed, and dials given up, without the lock.
        drop((sockets, dials));
        if let (true, Some(writer)) = (half_close, &self.writer) {
            // Fails only if the connection is lost already, which reading will tell.
            let _ = R::shut_down_write(writer);
        }
        // Before they are woken: their calls find the driver awake, and wait for its next turn.
        if self.collecting {
            self.attention.collect_calls();
        }
        cell.deliver(&mut self.completions);
        self.clients.notify();
        for channel in further {
            self.clients.start_further(&cell, channel);
        }
        others.iter().for_each(|driver| driver.kick());
        self.arm(timeout);
        match (done, self.collecting) {
            (true, _) => Turn::Done,
            (false, true) => Turn::Yield,
            (false, false) => Turn::Again { read },
        }
    }

    fn feed(&mut self, locked: &mut Locked<M, R::Writer>, now: Instant, news: News<R>) {
        let channel = self.channel;
        match news.dialed {
            Some((id, Ok(Dialed { reader, writer, key }))) => {
                let writer = Arc::new(writer);
                self.reader = Some(reader);
                self.writer = Some(Arc::clone(&writer));
                locked.port(channel).socket = Some(writer);
                locked.machine.handle_dialed(now, channel, id, key);
            }
            Some((id, Err(fault))) => locked.machine.handle_dial_failed(now, channel, id, fault),
            None => {}
        }
        if let Some(result) = news.written {
            locked.written(now, channel, std::mem::take(&mut self.transmit), result);
        }
        if let Some(result) = news.read
            && let Some(buffer) = self.buffer.take()
        {
            locked.read(now, channel, buffer, result);
        }
        if news.timeout || self.armed.is_some_and(|armed| armed <= now) {
            self.armed = None;
            locked.machine.handle_timeout(now);
        }
    }

    /// Sees to it that the timer fires at `timeout` or before.
    fn arm(&mut self, timeout: Option<Instant>) {
        let Some(timeout) = timeout.filter(|timeout| self.armed.is_none_or(|armed| *timeout < armed)) else {
            return;
        };
        self.armed = Some(timeout);
        match &mut self.timer {
            Some(timer) => self.runtime.reset_timer(timer, timeout),
            none => *none = Some(self.runtime.timer(timeout)),
        }
    }
}

impl<R: Runtime, M: Driven> Drop for Driver<R, M> {
    fn drop(&mut self) {
        let mut locked = self.cell.lock();
        // The runtime ends, or the task panicked: callers fail now instead of waiting for ever.
        locked.machine.abandon_channel(R::now(), self.channel);
        locked.machine.drain_completions(&mut self.completions);
        let (socket, _) = locked.port(self.channel).hang_up();
        locked.remove_port(self.channel);
        let others = locked.needed(self.channel);
        drop(locked);
        drop(socket);
        self.cell.deliver(&mut self.completions);
        others.iter().for_each(|driver| driver.kick());
        self.clients.notify();
    }
}

/// Has `write` write what there is, as far as one call of it goes.
fn written(
    transmit: &Transmit,
    write: impl FnOnce(&[IoSlice<'_>]) -> Poll<io::Result<usize>>,
) -> Poll<Result<usize, Fault>> {
    let chunk = transmit.chunk();
    let result = if chunk.len() == transmit.len() {
        write(&[IoSlice::new(chunk)])
    } else {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        write(transmit.slices(&mut slices))
    };
    result.map(|result| match result {
        Ok(0) => Err(io::Error::from(io::ErrorKind::WriteZero).into()),
        result => result.map_err(Fault::from),
    })
}
