//! The task that moves a link's bytes.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use async_std::io::{Read, Write};
use async_std::net::TcpStream;
use async_std::task::{sleep, spawn};
use fibp_proto::Fault;
use fibp_proto::client::{Clients, LinkCell, Locked, Spawn, Waiter, complete};
use fibp_proto::frame::{ReadBuffer, Transmit};
use fibp_proto::link::{Action, Completion, DialId};

use crate::connect::{Dialed, dial, fault};

/// What callers may write to.
pub(crate) type Socket = TcpStream;

type Dialing = Pin<Box<dyn Future<Output = Result<Dialed, Fault>> + Send>>;

type Sleeping = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How many turns a driver takes before it lets other tasks run.
const MAX_TURNS: usize = 16;

/// How much is encoded and written at a time, in bytes.
const WRITE_SIZE: usize = 64 * 1024;

/// The most slices of one vectored write.
const MAX_SLICES: usize = 32;

/// What starts drivers, on the global executor.
pub(crate) fn spawner() -> Spawn<Socket> {
    Box::new(|clients, link, receive_buffer| {
        let cell = Arc::new(LinkCell::new(link, |socket, cx, transmit| {
            match poll_write(socket, transmit, cx) {
                Poll::Ready(result) => result,
                Poll::Pending => Ok(0),
            }
        }));
        spawn(Driver {
            clients: Arc::clone(clients),
            cell: Arc::clone(&cell),
            receive_buffer,
            dialing: None,
            socket: None,
            buffer: None,
            transmit: Transmit::new(),
            timer: None,
            completions: Vec::new(),
            collecting: false,
        });
        cell
    })
}

/// Waits for whatever the link waits for. Dropped, it fails all calls.
struct Driver {
    clients: Arc<Clients<Socket>>,
    cell: Arc<LinkCell<Socket>>,
    receive_buffer: Option<u32>,
    dialing: Option<(DialId, Dialing)>,
    socket: Option<Arc<Socket>>,
    /// Where to read into, while reading is wanted.
    buffer: Option<ReadBuffer>,
    /// What is being written.
    transmit: Transmit,
    /// When the timer fires. It is moved only to be earlier: a spurious timeout is cheaper than a timer per call.
    timer: Option<(Instant, Sleeping)>,
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
        if let Some(socket) = &self.socket
            && !self.transmit.is_empty()
            && let Poll::Ready(result) = poll_write(socket, &self.transmit, cx)
        {
            news.written = Some(result);
        }
        if let (Some(socket), Some(buffer)) = (&self.socket, &mut self.buffer)
            && let Poll::Ready(result) = poll_read(socket, buffer, cx)
        {
            news.read = Some(result);
        }
        // Not worth its price while there is something else to do: looked at before the driver sleeps.
        if let Some((_, sleeping)) = &mut self.timer
            && news.is_empty()
            && sleeping.as_mut().poll(cx).is_ready()
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
                    sockets.push((self.socket.take(), locked.socket.take()));
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
        if self.buffer.is_none() && self.socket.is_some() {
            self.buffer = locked.link.take_read_buffer();
        }
        let timeout = locked.link.poll_timeout();
        let done = locked.link.is_terminated();
        drop(locked);

        drop((sockets, dials));
        if let (true, Some(socket)) = (half_close, &self.socket) {
            // Fails only if the connection is lost already, which reading will tell.
            let _ = socket.shutdown(Shutdown::Write);
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
                let socket = Arc::new(stream);
                self.socket = Some(Arc::clone(&socket));
                locked.socket = Some(socket);
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
        if news.timeout || self.timer.as_ref().is_some_and(|(armed, _)| *armed <= now) {
            self.timer = None;
            locked.link.handle_timeout(now);
        }
    }

    /// Sees to it that the timer fires at `timeout` or before.
    fn arm(&mut self, timeout: Option<Instant>) {
        if let Some(timeout) = timeout
            && self.timer.as_ref().is_none_or(|(armed, _)| timeout < *armed)
        {
            let left = timeout.saturating_duration_since(Instant::now());
            self.timer = Some((timeout, Box::pin(sleep(left))));
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

fn poll_read(mut socket: &Socket, buffer: &mut ReadBuffer, cx: &mut Context<'_>) -> Poll<Result<usize, Fault>> {
    let n = ready!(Pin::new(&mut socket).poll_read(cx, buffer.unfilled())).map_err(fault)?;
    buffer.advance(n);
    Poll::Ready(Ok(n))
}

/// Writes what the socket takes at once, or has the waker of `cx` woken when it takes more.
fn poll_write(mut socket: &Socket, transmit: &Transmit, cx: &mut Context<'_>) -> Poll<Result<usize, Fault>> {
    let chunk = transmit.chunk();
    let socket = Pin::new(&mut socket);
    let written = if chunk.len() == transmit.len() {
        socket.poll_write(cx, chunk)
    } else {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        socket.poll_write_vectored(cx, transmit.slices(&mut slices))
    };
    Poll::Ready(match ready!(written) {
        Ok(0) => Err(fault(io::ErrorKind::WriteZero.into())),
        Ok(n) => Ok(n),
        Err(error) => Err(fault(error)),
    })
}
