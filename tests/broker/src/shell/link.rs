//! One connection's socket and the two threads that move its bytes.
//!
//! The reader answers by itself, as real servers do, and so does not read while it is blocked writing. The writer
//! sends what others caused: pushes, mostly.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;

use super::shared::{Shared, State};
use super::transport::{Outgoing, Step, Transport};
use crate::machine::{ConnectionId, Ending};

/// Slices per vectored write.
const SLICES: usize = 64;

/// Bytes of TLS records to read at once.
#[cfg(feature = "tls")]
const SEALED: usize = 32 * 1024;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) socket: Arc<TcpStream>,
    /// Wakes whichever of the two threads waits.
    pub(super) wake: Arc<Condvar>,
    /// To be closed with a reset.
    reset: bool,
    transport: Transport,
    writing: bool,
    /// The reader waits for the writer to make room.
    reader_waits: bool,
    /// The transport is over once what it has to say is written.
    failed: bool,
    /// Writing failed.
    broken: bool,
}

impl Link {
    pub(super) fn new(transport: Transport, socket: Arc<TcpStream>) -> Self {
        Self {
            socket,
            wake: Arc::default(),
            reset: false,
            transport,
            writing: false,
            reader_waits: false,
            failed: false,
            broken: false,
        }
    }

    /// Makes both threads stop. With `reset`, the peer is to see a reset.
    pub(super) fn end(&mut self, reset: bool) {
        // If the option is refused, the peer sees an EOF. Either call fails if the peer was faster.
        self.reset = reset && SockRef::from(&*self.socket).set_linger(Some(Duration::ZERO)).is_ok();
        let how = match self.reset {
            // Nothing may be sent before the reset.
            true => Shutdown::Read,
            false => Shutdown::Both,
        };
        let _ = self.socket.shutdown(how);
    }
}

/// Serves a connection until it ends. `connection` is in `shared` already.
pub(super) fn serve(shared: &Arc<Shared>, connection: ConnectionId, socket: &TcpStream) {
    let writer = super::spawn("write", {
        let shared = Arc::clone(shared);
        move || run_writer(&shared, connection)
    });
    let ending = run_reader(shared, connection, socket);
    {
        let mut state = shared.lock();
        let link = state.remove(shared.clock.now(), connection, ending);
        // Unblocks the writer; but a connection that is to be reset must not be closed before. It fails if the
        // socket is gone already.
        if link.is_none_or(|link| link.writing || !link.reset) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        shared.notice(&state);
    }
    if let Ok(writer) = writer {
        super::join(writer);
    }
}

fn run_reader(shared: &Shared, connection: ConnectionId, mut socket: &TcpStream) -> Ending {
    #[cfg(feature = "tls")]
    let mut sealed = Vec::new();
    let mut state = shared.lock();
    loop {
        if let Some(link) = state.links.get_mut(&connection) {
            link.failed |= link.transport.feed().is_err();
        }
        state.host.process(shared.clock.now(), connection);
        state.wake_others();
        shared.notice(&state);
        state = flush(shared, state, connection);
        if state.is_over(connection) {
            return Ending::Clean;
        }
        let State { links, host, .. } = &mut *state;
        let (Some(link), Some(server)) = (links.get_mut(&connection), host.connection(connection)) else {
            return Ending::Clean;
        };
        let mut step = match link.failed {
            true => Step::Blocked,
            false => link.transport.step(server),
        };
        let into = match &mut step {
            Step::Read(buffer) => buffer.unfilled(),
            #[cfg(feature = "tls")]
            Step::ReadSealed => {
                sealed.resize(SEALED, 0);
                &mut *sealed
            }
            #[cfg(feature = "tls")]
            Step::Arrived => continue,
            Step::Blocked => {
                // Too much is waiting to be written, by the other thread.
                if link.writing {
                    link.reader_waits = true;
                    let wake = Arc::clone(&link.wake);
                    state = wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                continue;
            }
        };
        drop(state);
        let read = read_some(&mut socket, into);
        state = shared.lock();
        let State { links, host, .. } = &mut *state;
        let (Some(link), Some(server)) = (links.get_mut(&connection), host.connection(connection)) else {
            return Ending::Clean;
        };
        let Ok(n) = read else {
            return Ending::Reset;
        };
        if n == 0 {
            server.handle_eof();
        }
        match step {
            Step::Read(mut buffer) => {
                buffer.advance(n);
                server.handle_input(buffer);
            }
            #[cfg(feature = "tls")]
            _ => link.transport.receive(sealed.get(..n).unwrap_or_default()),
            #[cfg(not(feature = "tls"))]
            Step::Blocked => {}
        }
        if link.reset {
            return Ending::Clean;
        }
    }
}

fn run_writer(shared: &Shared, connection: ConnectionId) {
    let mut state = shared.lock();
    loop {
        state = flush(shared, state, connection);
        let over = state.is_over(connection);
        let Some(link) = state.links.get(&connection) else {
            return;
        };
        if over {
            // Unblocks the reader, which cleans up. It fails if the socket is gone already.
            let _ = link.socket.shutdown(Shutdown::Both);
        }
        let wake = Arc::clone(&link.wake);
        state = wake.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

impl State {
    /// Whether nothing is left to do for a connection.
    fn is_over(&self, connection: ConnectionId) -> bool {
        self.links
            .get(&connection)
            .is_none_or(|link| link.broken || ((link.failed || self.host.is_finished(connection)) && !link.writing))
    }

    /// Takes what is to be written next, unless a write is under way.
    fn claim(&mut self, shared: &Shared, connection: ConnectionId) -> Option<(Outgoing, Arc<TcpStream>)> {
        let link = self.links.get_mut(&connection)?;
        if link.writing || link.broken {
            return None;
        }
        let taken = link.transport.take(&mut self.host, shared.clock.now(), connection);
        link.failed |= taken.is_err();
        let outgoing = taken.unwrap_or_default()?;
        link.writing = true;
        Some((outgoing, Arc::clone(&link.socket)))
    }
}

/// Writes until nothing is left to write, or another thread is at it.
fn flush<'a>(shared: &'a Shared, mut state: MutexGuard<'a, State>, connection: ConnectionId) -> MutexGuard<'a, State> {
    while let Some((outgoing, socket)) = state.claim(shared, connection) {
        drop(state);
        let written = write_all(&socket, shared, connection, outgoing);
        state = shared.lock();
        let Some(link) = state.links.get_mut(&connection) else {
            return state;
        };
        link.writing = false;
        link.broken |= written.is_err();
        // The writer has no need to be woken: this goes on until nothing is left to write.
        if std::mem::take(&mut link.reader_waits) {
            link.wake.notify_all();
        }
        state.wake_others();
    }
    state
}

fn read_some(socket: &mut &TcpStream, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn write_all(mut socket: &TcpStream, shared: &Shared, connection: ConnectionId, outgoing: Outgoing) -> io::Result<()> {
    #[cfg_attr(
        not(feature = "tls"),
        expect(clippy::infallible_destructuring_match, reason = "with TLS there are two")
    )]
    let mut transmit = match outgoing {
        Outgoing::Plain(transmit) => transmit,
        #[cfg(feature = "tls")]
        Outgoing::Sealed(bytes) => return socket.write_all(&bytes),
    };
    while !transmit.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let written = match socket.write_vectored(transmit.slices(&mut slices)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let now = shared.clock.now();
        shared.lock().host.transmitted(now, connection, &mut transmit, written);
    }
    Ok(())
}
