//! The task that moves a link's bytes.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use fibp_proto::client::{Clients, LinkCell, Locked, Spawn, Waiter, complete};
use fibp_proto::frame::{ReadBuffer, Transmit};
use fibp_proto::link::{Action, Completion, DialId};
use fibp_proto::{Error, ErrorKind, Fault};
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep_until};

use crate::connect::{Dialed, dial, fault};

/// The half of the socket that callers may write to.
pub(crate) type Socket = OwnedWriteHalf;

type Dialing = Pin<Box<dyn Future<Output = Result<Dialed, Fault>> + Send>>;

/// How many turns a driver takes before it lets other tasks run.
const MAX_TURNS: usize = 16;

/// How much is encoded and written at a time, in bytes.
const WRITE_SIZE: usize = 64 * 1024;

/// The most slices of one vectored write.
const MAX_SLICES: usize = 32;

/// What starts drivers, on the runtime of the task that asks.
pub(crate) fn spawner() -> Result<Spawn<Socket>, Error> {
    let runtime = Handle::try_current()
        .map_err(|error| Error::new(ErrorKind::Config, error.to_string()).with_source(Arc::new(error)))?;
    Ok(Box::new(move |clients, link, receive_buffer| {
        let cell = Arc::new(LinkCell::new(link, |socket, _, transmit| write_some(socket, transmit)));
        runtime.spawn(Driver {
            clients: Arc::clone(clients),
            cell: Arc::clone(&cell),
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
        cell
    }))
}

/// Waits for whatever the link waits for. Dropped with its runtime, it fails all calls.
struct Driver {
    clients: Arc<Clients<Socket>>,
    cell: Arc<LinkCell<Socket>>,
    receive_buffer: Option<u32>,
    dialing: Option<(DialId, Dialing)>,
    reader: Option<OwnedReadHalf>,
    writer: Option<Arc<Socket>>,
    /// Where to read into, while reading is wanted.
    buffer: Option<ReadBuffer>,
    /// What is being written.
    transmit: Transmit,
    timer: Option<Pin<Box<Sleep>>>,
    /// When the timer fires. It is moved only to be earlier: a spurious timeout is cheaper than a timer per call.
    armed: Option<Instant>,
    completions: Vec<Completion<Waiter>>,
    /// The last turn woke several tasks and left writing to this one.
    collecting: bool,
}

/// What happened to the transport, found out without the lock.
#[derive(Default)]
struct News {
    dialed: Option<(DialId, Result<Dialed, Fault>)>,
    timeout: bool,
    written: Option<Result<usize, Fault>>,
    read: Option<Result<usize, Fault>>,
}

impl News {
    fn is_empty(&self) -> bool {
        self.dialed.is_none() && !self.timeout && self.written.is_none() && self.read.is_none()
    }
}

enum Turn {
    /// There may be more to do at once.
    Again,
    /// The tasks that were woken go first.
    Yield,
    /// The link is done for good.
    Done,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut kicked = this.cell.attend(cx.waker());
        for _ in 0..MAX_TURNS {
            let news = this.poll_news(cx);
            if !kicked && news.is_empty() {
                return Poll::Pending;
            }
            match this.turn(news) {
                Turn::Again => kicked = this.cell.take_kick(),
                Turn::Yield => break,
                Turn::Done => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Driver {
    /// Everything that can make progress without the lock; what can't has the task's waker afterwards.
    fn poll_news(&mut self, cx: &mut Context<'_>) -> News {
        let mut news = News::default();
        if let Some((id, dialing)) = &mut self.dialing
            && let Poll::Ready(result) = dialing.as_mut().poll(cx)
        {
            news.dialed = Some((*id, result));
            self.dialing = None;
        }
        if let Some(writer) = &self.writer
            && !self.transmit.is_empty()
            && let Poll::Ready(result) = poll_write(writer, &self.transmit, cx)
        {
            news.written = Some(result);
        }
        if let (Some(reader), Some(buffer)) = (&mut self.reader, &mut self.buffer)
            && let Poll::Ready(result) = poll_read(reader, buffer, cx)
        {
            news.read = Some(result);
        }
        // Not worth its price while there is something else to do: looked at before the driver sleeps.
        if let (Some(_), Some(timer)) = (self.armed, &mut self.timer)
            && news.is_empty()
            && timer.as_mut().poll(cx).is_ready()
        {
            news.timeout = true;
        }
        news
    }

    /// Tells the link what happened and takes what is to be done.
    fn turn(&mut self, news: News) -> Turn {
        let cell = Arc::clone(&self.cell);
        let now = Instant::now();
        // Closed, woken and handed on after unlocking.
        let mut sockets = Vec::new();
        let mut dials = Vec::new();
        let mut reroutes = Vec::new();
        let mut half_close = false;

        let mut locked = cell.lock();
        self.feed(&mut locked, now, news);
        while let Some(action) = locked.link.poll_action() {
            match action {
                Action::Dial { id, endpoint, deadline } => {
                    let config = self.clients.shared.config().clone();
                    let dialing: Dialing = Box::pin(dial(config, endpoint, deadline, self.receive_buffer));
                    dials.extend(self.dialing.replace((id, dialing)));
                }
                Action::HalfClose => half_close = true,
                Action::Hangup => {
                    dials.extend(self.dialing.take());
                    sockets.push((self.reader.take(), self.writer.take(), locked.socket.take()));
                    self.transmit = Transmit::new();
                    locked.unwritten = Transmit::new();
                    if let Some(buffer) = self.buffer.take() {
                        locked.link.handle_input(now, buffer);
                    }
                }
                Action::Reroute { endpoint, parcel } => reroutes.push((endpoint, parcel)),
                _ => {}
            }
        }
        locked.link.drain_completions(&mut self.completions);
        // The tasks woken now may have more to send: let them, then send it in one frame.
        self.collecting = self.completions.len() > 1 && !self.collecting;
        if !self.collecting
            && self.transmit.is_empty()
            && let Some((_, transmit)) = locked.claim_all(now, WRITE_SIZE)
        {
            self.transmit = transmit;
        }
        if self.buffer.is_none() && self.reader.is_some() {
            self.buffer = locked.link.take_read_buffer();
        }
        let timeout = locked.link.poll_timeout();
        let done = locked.link.is_terminated();
        drop(locked);

        drop((sockets, dials));
        if let (true, Some(reader)) = (half_close, &self.reader) {
            // Fails only if the connection is lost already, which reading will tell.
            let _ = SockRef::from(reader.as_ref()).shutdown(Shutdown::Write);
        }
        if self.collecting {
            cell.collect_calls();
        }
        complete(&mut self.completions);
        self.clients.notify();
        for (endpoint, parcel) in reroutes {
            self.clients.reroute(endpoint, now, parcel);
        }
        self.arm(timeout);
        match (done, self.collecting) {
            (true, _) => Turn::Done,
            (false, true) => Turn::Yield,
            (false, false) => Turn::Again,
        }
    }

    fn feed(&mut self, locked: &mut Locked<Socket>, now: Instant, news: News) {
        match news.dialed {
            Some((id, Ok((stream, key)))) => {
                let (reader, writer) = stream.into_split();
                let writer = Arc::new(writer);
                self.reader = Some(reader);
                self.writer = Some(Arc::clone(&writer));
                locked.socket = Some(writer);
                locked.link.handle_dialed(now, id, key);
            }
            Some((id, Err(fault))) => locked.link.handle_dial_failed(now, id, fault),
            None => {}
        }
        if let Some(result) = news.written {
            locked.written(now, std::mem::take(&mut self.transmit), result);
        }
        if let Some(result) = news.read
            && let Some(buffer) = self.buffer.take()
        {
            locked.read(now, buffer, result.map(Some));
        }
        if news.timeout || self.armed.is_some_and(|armed| armed <= now) {
            self.armed = None;
            locked.link.handle_timeout(now);
        }
    }

    /// Sees to it that the timer fires at `timeout` or before.
    fn arm(&mut self, timeout: Option<Instant>) {
        let Some(timeout) = timeout.filter(|timeout| self.armed.is_none_or(|armed| *timeout < armed)) else {
            return;
        };
        self.armed = Some(timeout);
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(timeout.into()),
            none => *none = Some(Box::pin(sleep_until(timeout.into()))),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut locked = self.cell.lock();
        locked.link.abort(Instant::now());
        locked.link.drain_completions(&mut self.completions);
        let socket = locked.socket.take();
        drop(locked);
        drop(socket);
        complete(&mut self.completions);
        self.clients.notify();
    }
}

fn poll_read(reader: &mut OwnedReadHalf, buffer: &mut ReadBuffer, cx: &mut Context<'_>) -> Poll<Result<usize, Fault>> {
    let mut into = ReadBuf::new(buffer.unfilled());
    let result = ready!(Pin::new(reader).poll_read(cx, &mut into));
    let n = into.filled().len();
    buffer.advance(n);
    Poll::Ready(result.map(|()| n).map_err(fault))
}

fn poll_write(writer: &Socket, transmit: &Transmit, cx: &mut Context<'_>) -> Poll<Result<usize, Fault>> {
    loop {
        ready!(writer.as_ref().poll_write_ready(cx)).map_err(fault)?;
        match write_some(writer, transmit) {
            // Not ready after all, which the socket knows by now.
            Ok(0) => {}
            result => return Poll::Ready(result),
        }
    }
}

/// Writes what the socket takes at once: nothing if it would block.
fn write_some(writer: &Socket, transmit: &Transmit) -> Result<usize, Fault> {
    let chunk = transmit.chunk();
    let result = if chunk.len() == transmit.len() {
        writer.try_write(chunk)
    } else {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        writer.try_write_vectored(transmit.slices(&mut slices))
    };
    match result {
        Ok(0) => Err(fault(io::ErrorKind::WriteZero.into())),
        Ok(n) => Ok(n),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(fault(error)),
    }
}
