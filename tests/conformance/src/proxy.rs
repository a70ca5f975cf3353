//! A proxy over real sockets that breaks connections at chosen bytes.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// Which way bytes flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What happens once a number of bytes has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Both sides are closed.
    Cut,
    /// Both sides are reset.
    Reset,
    /// Nothing more passes this way; the connection stays open.
    Stall,
    /// This way ends as if its sender had shut it down; the other goes on.
    HalfClose,
}

/// What the proxy does to one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Passes everything on.
    Pass,
    /// Passes everything on in pieces of at most this many bytes, each in a segment of its own.
    Split(usize),
    /// Passes at most this many bytes per millisecond.
    Throttle(usize),
    /// Passes `after` bytes in one direction, then does `fault`.
    Break {
        /// Which direction counts.
        flow: Flow,
        /// How many of its bytes still pass.
        after: usize,
        /// What happens then.
        fault: Fault,
    },
}

/// The bytes of one connection, as they passed.
#[derive(Debug, Clone, Default)]
pub struct Passed {
    /// From the client.
    pub up: Vec<u8>,
    /// From the server.
    pub down: Vec<u8>,
}

/// A running proxy. Dropping it closes everything.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    /// Ends with the threads of the connections it accepted.
    accepting: Option<JoinHandle<Vec<JoinHandle<()>>>>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    stopping: AtomicBool,
    accepted: AtomicUsize,
    passed: Mutex<Vec<Passed>>,
    links: Mutex<Vec<Weak<Link>>>,
}

/// Both sides of one connection. Each socket has one descriptor only, so that the last one to let go of the link
/// closes it, and a reset is one.
#[derive(Debug)]
struct Link {
    number: usize,
    client: TcpStream,
    server: TcpStream,
    plan: Plan,
    resetting: AtomicBool,
}

impl Proxy {
    /// Stands before `upstream`; `plan` says what to do to each connection, numbered from 0.
    ///
    /// # Panics
    ///
    /// The loopback interface has no free port.
    pub fn start(upstream: SocketAddr, plan: impl Fn(usize) -> Plan + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on the loopback interface");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            upstream,
            stopping: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            passed: Mutex::new(Vec::new()),
            links: Mutex::new(Vec::new()),
        });
        let accepting = std::thread::spawn({
            let shared = shared.clone();
            move || accept_all(&listener, &shared, plan)
        });
        Self {
            addr,
            shared,
            accepting: Some(accepting),
        }
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections were made.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// What passed so far, by connection.
    pub fn passed(&self) -> Vec<Passed> {
        lock(&self.shared.passed).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.addr));
        // Only when no more are accepted are all connections known.
        let pumps = self.accepting.take().map(JoinHandle::join);
        for link in lock(&self.shared.links).drain(..) {
            if let Some(link) = link.upgrade() {
                link.close();
            }
        }
        for pump in pumps.into_iter().flat_map(Result::unwrap_or_default) {
            let _panicked = pump.join().is_err();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>, plan: impl Fn(usize) -> Plan) -> Vec<JoinHandle<()>> {
    let mut pumps = Vec::new();
    for number in 0.. {
        let Ok((client, _)) = listener.accept() else { break };
        if shared.stopping.load(Ordering::SeqCst) {
            break;
        }
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        lock(&shared.passed).push(Passed::default());
        // Without a server the client sees its connection closed.
        let Ok(server) = TcpStream::connect(shared.upstream) else {
            continue;
        };
        for socket in [&client, &server] {
            socket.set_nodelay(true).expect("a connected socket");
        }
        let link = Arc::new(Link {
            number,
            client,
            server,
            plan: plan(number),
            resetting: AtomicBool::new(false),
        });
        lock(&shared.links).push(Arc::downgrade(&link));
        for flow in [Flow::Up, Flow::Down] {
            let (shared, link) = (shared.clone(), link.clone());
            pumps.push(std::thread::spawn(move || link.pump(&shared, flow)));
        }
    }
    pumps
}

impl Link {
    /// Where bytes of this direction come from and go to.
    fn ends(&self, flow: Flow) -> (&TcpStream, &TcpStream) {
        match flow {
            Flow::Up => (&self.client, &self.server),
            Flow::Down => (&self.server, &self.client),
        }
    }

    fn close(&self) {
        for socket in [&self.client, &self.server] {
            let _gone = socket.shutdown(Shutdown::Both).is_err();
        }
    }

    /// Passes one direction on until it ends or breaks.
    fn pump(&self, shared: &Shared, flow: Flow) {
        let (mut from, to) = self.ends(flow);
        let (mut left, fault) = match self.plan {
            Plan::Break { flow: of, after, fault } if of == flow => (after, Some(fault)),
            _ => (usize::MAX, None),
        };
        let mut bytes = [0; 16 * 1024];
        loop {
            if let (0, Some(fault)) = (left, fault) {
                return self.break_off(flow, fault);
            }
            let room = left.min(bytes.len());
            match from.read(&mut bytes[..room]) {
                Ok(0) => {
                    if !self.resetting.load(Ordering::SeqCst) {
                        let _gone = to.shutdown(Shutdown::Write).is_err();
                    }
                    return;
                }
                Ok(read) => {
                    left -= if fault.is_some() { read } else { 0 };
                    self.record(shared, flow, &bytes[..read]);
                    if self.pass(to, &bytes[..read]).is_err() {
                        return self.close();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(),
            }
        }
    }

    fn record(&self, shared: &Shared, flow: Flow, bytes: &[u8]) {
        if let Some(passed) = lock(&shared.passed).get_mut(self.number) {
            match flow {
                Flow::Up => passed.up.extend_from_slice(bytes),
                Flow::Down => passed.down.extend_from_slice(bytes),
            }
        }
    }

    fn pass(&self, mut to: &TcpStream, bytes: &[u8]) -> io::Result<()> {
        match self.plan {
            Plan::Split(size) => bytes.chunks(size.max(1)).try_for_each(|piece| to.write_all(piece)),
            Plan::Throttle(size) => bytes.chunks(size.max(1)).try_for_each(|piece| {
                std::thread::sleep(Duration::from_millis(1));
                to.write_all(piece)
            }),
            Plan::Pass | Plan::Break { .. } => to.write_all(bytes),
        }
    }

    fn break_off(&self, flow: Flow, fault: Fault) {
        let (mut from, to) = self.ends(flow);
        match fault {
            Fault::Cut => self.close(),
            Fault::HalfClose => {
                let _gone = to.shutdown(Shutdown::Write).is_err();
            }
            Fault::Reset => {
                for socket in [&self.client, &self.server] {
                    let linger = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
                    linger.expect("a connected socket");
                }
                // Wakes the other pump, which lets go of the link; then the kernel sends the resets.
                self.resetting.store(true, Ordering::SeqCst);
                for socket in [&self.client, &self.server] {
                    let _gone = socket.shutdown(Shutdown::Read).is_err();
                }
            }
            // What still comes is thrown away, until the sender closes.
            Fault::Stall => while from.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {},
        }
    }
}
