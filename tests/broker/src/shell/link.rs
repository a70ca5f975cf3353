//! One connection: its protocol state and the two threads that move its bytes.
//!
//! The reader answers by itself, as real servers do, and so does not read while it is blocked writing. The writer
//! sends what others caused: pushes, mostly.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};

use fibp_proto::Push;
use fibp_proto::server::ServerConnection;

use super::shared::{Shared, State};
use super::transport::{Outgoing, Step, Transport};
use crate::machine::{ConnectionId, Ending};

/// Pushes are encoded only while less than this waits to be written.
const ENCODE_AHEAD: usize = 64 * 1024;

/// Slices per vectored write.
const SLICES: usize = 64;

/// Bytes of TLS records to read at once.
#[cfg(feature = "tls")]
const SEALED: usize = 32 * 1024;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) server: ServerConnection,
    pub(super) socket: Arc<TcpStream>,
    transport: Transport,
    /// Wakes whichever of the two threads waits.
    pub(super) wake: Arc<Condvar>,
    pushes: VecDeque<(u32, Push)>,
    /// Pushes encoded and not yet taken for writing.
    encoded: usize,
    held: bool,
    writing: bool,
    /// The reader waits for the writer to make room.
    reader_waits: bool,
    /// The transport is gone, or will be once what it has to say is written.
    failed: bool,
    /// Writing failed.
    broken: bool,
}

/// Bytes taken for writing.
struct Claim {
    bytes: Outgoing,
    pushes: usize,
}

impl Link {
    pub(super) fn new(server: ServerConnection, transport: Transport, socket: Arc<TcpStream>) -> Self {
        Self {
            server,
            socket,
            transport,
            wake: Arc::default(),
            pushes: VecDeque::new(),
            encoded: 0,
            held: false,
            writing: false,
            reader_waits: false,
            failed: false,
            broken: false,
        }
    }

    pub(super) fn queue_push(&mut self, consume_id: u32, push: Push) {
        self.pushes.push_back((consume_id, push));
    }

    /// Keeps pushes back until what is encoded now is on its way in a segment of its own.
    pub(super) fn hold_pushes(&mut self) {
        self.held = true;
    }

    /// Takes what is to be written next, unless a write is under way.
    fn claim(&mut self) -> Option<Claim> {
        if self.writing || self.broken {
            return None;
        }
        if !std::mem::take(&mut self.held) {
            self.encode_pushes();
        }
        let mut bytes = self.take_bytes();
        if bytes.is_none() {
            self.encode_pushes();
            bytes = self.take_bytes();
        }
        let bytes = bytes?;
        self.writing = true;
        Some(Claim {
            bytes,
            pushes: std::mem::take(&mut self.encoded),
        })
    }

    fn take_bytes(&mut self) -> Option<Outgoing> {
        let taken = self.transport.take(&mut self.server);
        self.failed |= taken.is_err();
        taken.unwrap_or_default()
    }

    fn encode_pushes(&mut self) {
        while self.server.buffered() < ENCODE_AHEAD {
            let Some((consume_id, push)) = self.pushes.pop_front() else {
                return;
            };
            self.encoded += 1;
            if self.server.push_to(consume_id, &push).is_err() {
                self.server.close();
            }
        }
    }

    fn is_over(&self) -> bool {
        self.broken || ((self.failed || self.server.is_finished()) && !self.writing)
    }
}

/// Serves a connection until it ends. `connection` is in `shared` already.
pub(super) fn serve(shared: &Arc<Shared>, connection: ConnectionId, socket: &TcpStream) {
    let writer = super::spawn("write", {
        let shared = Arc::clone(shared);
        move || run_writer(&shared, connection)
    });
    let ending = run_reader(shared, connection, socket);
    // Unblocks the writer. The socket may be gone already.
    let _ = socket.shutdown(Shutdown::Both);
    {
        let mut state = shared.lock();
        state.remove(shared.clock.now(), connection, ending);
        shared.notice(&state);
    }
    if let Ok(writer) = writer {
        // A panic there was reported by its own thread.
        let _ = writer.join();
    }
}

fn run_reader(shared: &Shared, connection: ConnectionId, mut socket: &TcpStream) -> Ending {
    #[cfg(feature = "tls")]
    let mut sealed = vec![0; SEALED];
    let mut state = shared.lock();
    loop {
        if let Some(link) = state.links.get_mut(&connection) {
            link.failed |= link.transport.feed().is_err();
        }
        state.process(shared.clock.now(), connection);
        shared.notice(&state);
        state = flush(shared, state, connection);
        let Some(link) = state.links.get_mut(&connection) else {
            return Ending::Clean;
        };
        if link.is_over() {
            return Ending::Clean;
        }
        let mut step = match link.failed {
            true => Step::Blocked,
            false => link.transport.step(&mut link.server),
        };
        let into = match &mut step {
            Step::Read(buffer) => buffer.unfilled(),
            #[cfg(feature = "tls")]
            Step::ReadSealed => &mut *sealed,
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
        let Some(link) = state.links.get_mut(&connection) else {
            return Ending::Clean;
        };
        let Ok(n) = read else {
            return Ending::Reset;
        };
        if n == 0 {
            link.server.handle_eof();
        }
        match step {
            Step::Read(mut buffer) => {
                buffer.advance(n);
                link.server.handle_input(buffer);
            }
            #[cfg(feature = "tls")]
            _ => link.transport.receive(sealed.get(..n).unwrap_or_default()),
            #[cfg(not(feature = "tls"))]
            Step::Blocked => {}
        }
    }
}

fn run_writer(shared: &Shared, connection: ConnectionId) {
    let mut state = shared.lock();
    loop {
        state = flush(shared, state, connection);
        let Some(link) = state.links.get(&connection) else {
            return;
        };
        if link.is_over() {
            // Unblocks the reader, which cleans up.
            let _ = link.socket.shutdown(Shutdown::Both);
        }
        let wake = Arc::clone(&link.wake);
        state = wake.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Writes until nothing is left to write, or another thread is at it.
fn flush<'a>(shared: &'a Shared, mut state: MutexGuard<'a, State>, connection: ConnectionId) -> MutexGuard<'a, State> {
    loop {
        let Some(link) = state.links.get_mut(&connection) else {
            return state;
        };
        let Some(mut claim) = link.claim() else {
            return state;
        };
        let socket = Arc::clone(&link.socket);
        drop(state);
        let written = write_all(&socket, shared, connection, &mut claim);
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
        state.pushes_written(shared.clock.now(), connection, claim.pushes);
    }
}

fn read_some(socket: &mut &TcpStream, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn write_all(mut socket: &TcpStream, shared: &Shared, connection: ConnectionId, claim: &mut Claim) -> io::Result<()> {
    let transmit = match &mut claim.bytes {
        Outgoing::Plain(transmit) => transmit,
        #[cfg(feature = "tls")]
        Outgoing::Sealed(bytes) => return socket.write_all(bytes),
    };
    while !transmit.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let written = match socket.write_vectored(transmit.slices(&mut slices)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if let Some(link) = shared.lock().links.get_mut(&connection) {
            link.server.transmitted(transmit, written);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use fibp_proto::server::{RequestId, ServerConfig, ServerEvent};
    use fibp_proto::{AdminRevision, Dialect, Op, Received, Response};

    use super::*;

    /// A link whose client has just asked to consume.
    fn consuming() -> (Link, RequestId) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let config = ServerConfig::new([Dialect::Preamble(AdminRevision::P1)]);
        let mut link = Link::new(ServerConnection::new(config), Transport::Plain, Arc::new(socket));
        let mut buffer = link.server.take_read_buffer().unwrap();
        let bytes = b"FIBP\x01\x00\x00\x00\x00\x0d\x00\x02\x00\x00\x00\x07\x00\x01q\x00\x00\x00\x09";
        buffer.unfilled()[..bytes.len()].copy_from_slice(bytes);
        buffer.advance(bytes.len());
        link.server.handle_input(buffer);
        assert!(matches!(link.server.poll_event(), Some(ServerEvent::Opened { .. })));
        let Some(ServerEvent::Request { id, .. }) = link.server.poll_event() else {
            panic!("no request");
        };
        assert_eq!(id.op, Op::Consume);
        (link, id)
    }

    #[test]
    fn pushes_share_a_segment_with_the_answer_unless_held() {
        for (hold, first) in [(false, 2), (true, 1)] {
            let (mut link, id) = consuming();
            link.server
                .respond(id, &Response::Consume { consumer_id: None })
                .unwrap();
            if hold {
                link.hold_pushes();
            }
            let delivery = Received::new("m".into(), "q", Default::default(), "x", "default", 0);
            let deliveries = vec![delivery];
            link.queue_push(7, Push { deliveries });
            let claim = link.claim().unwrap();
            let frames = 1 + claim.pushes;
            assert_eq!(frames, first, "held: {hold}");
        }
    }
}
