//! A proxy over real sockets that breaks connections at chosen bytes, or when a test says so. It stands before any
//! server, and understands nothing of what passes: TLS or not, it is all the same.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

/// How much a [narrow](Proxy::narrow) proxy takes from a client ahead of passing it on, in bytes.
const NARROW: usize = 64 * 1024;

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
    /// Takes from the client `size` bytes every so often, once `after` bytes have passed.
    Trickle {
        /// How many bytes pass freely first.
        after: usize,
        /// How many pass at a time then.
        size: usize,
        /// How long it rests in between.
        every: Duration,
    },
    /// Passes nothing in this direction until [`Proxy::release`].
    Hold(Flow),
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
    _kept: Socket,
    shared: Arc<Shared>,
    /// Ends with the threads of the connections it accepted.
    accepting: Option<JoinHandle<Vec<JoinHandle<()>>>>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    /// The size of the receive buffer towards clients.
    narrow: Option<usize>,
    stopping: AtomicBool,
    door: Mutex<Door>,
    changed: Condvar,
    accepted: AtomicUsize,
    passed: Mutex<Vec<Passed>>,
    /// How many bytes were written on, by direction.
    written: [AtomicUsize; 2],
    links: Mutex<Vec<Weak<Link>>>,
    /// The longest time between bytes that a trickle took.
    longest_rest: Mutex<Duration>,
}

/// Whether connections are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    /// About to be closed by the accepting thread.
    Closing,
    /// Nobody listens.
    Closed,
    /// About to be opened by the accepting thread.
    Opening,
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
    gate: Mutex<Gate>,
    moved: Condvar,
}

/// What passes just now.
#[derive(Debug, Default)]
struct Gate {
    /// Nothing passes up, nothing passes down.
    held: [bool; 2],
    /// What may still pass, by direction, and what happens then.
    limits: [Option<(usize, Then)>; 2],
    closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Cut,
    Hold,
}

impl Proxy {
    /// Stands before `upstream`; `plan` says what to do to each connection, numbered from 0.
    ///
    /// # Panics
    ///
    /// The loopback interface has no free port.
    pub fn start(upstream: SocketAddr, plan: impl Fn(usize) -> Plan + Send + 'static) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), upstream, None, plan).expect("the loopback interface")
    }

    /// As [`start`](Self::start), on the IPv6 loopback; `None` on a machine without it.
    pub fn start_v6(upstream: SocketAddr, plan: impl Fn(usize) -> Plan + Send + 'static) -> Option<Self> {
        Self::start_at(Ipv6Addr::LOCALHOST.into(), upstream, None, plan)
    }

    /// As [`start`](Self::start); takes little from clients ahead of passing it on, so that their writes stall soon.
    ///
    /// # Panics
    ///
    /// The loopback interface has no free port.
    pub fn narrow(upstream: SocketAddr, plan: impl Fn(usize) -> Plan + Send + 'static) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), upstream, Some(NARROW), plan).expect("the loopback interface")
    }

    fn start_at(
        at: IpAddr,
        upstream: SocketAddr,
        narrow: Option<usize>,
        plan: impl Fn(usize) -> Plan + Send + 'static,
    ) -> Option<Self> {
        let (kept, addr) = keep((at, 0).into()).ok()?;
        let listener = listen(addr, narrow).ok()?;
        let shared = Arc::new(Shared {
            upstream,
            narrow,
            stopping: AtomicBool::new(false),
            door: Mutex::new(Door::Open),
            changed: Condvar::new(),
            accepted: AtomicUsize::new(0),
            passed: Mutex::new(Vec::new()),
            written: Default::default(),
            links: Mutex::new(Vec::new()),
            longest_rest: Mutex::default(),
        });
        let accepting = std::thread::spawn({
            let shared = shared.clone();
            move || accept_all(listener, addr, &shared, plan)
        });
        Some(Self {
            addr,
            _kept: kept,
            shared,
            accepting: Some(accepting),
        })
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections were made.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.links().len()
    }

    /// Passes nothing on any more in one direction, on the connections that are open now.
    pub fn hold(&self, flow: Flow) {
        for link in self.links() {
            link.change(|gate| gate.held[flow as usize] = true);
        }
    }

    /// Passes everything on again, and what was held back first.
    pub fn release(&self) {
        for link in self.links() {
            link.change(|gate| {
                gate.held = [false; 2];
                gate.limits = [None; 2];
            });
        }
    }

    /// Closes the connections that are open now, once `after` more bytes have passed in one direction.
    pub fn cut_after(&self, flow: Flow, after: usize) {
        for link in self.links() {
            link.change(|gate| gate.limits[flow as usize] = Some((after, Then::Cut)));
        }
    }

    /// As [`hold`](Self::hold), once `after` more bytes have passed.
    pub fn hold_after(&self, flow: Flow, after: usize) {
        for link in self.links() {
            link.change(|gate| gate.limits[flow as usize] = Some((after, Then::Hold)));
        }
    }

    /// Closes the connections that are open now.
    pub fn cut(&self) {
        for link in self.links() {
            link.close();
        }
    }

    /// Resets the connections that are open now.
    pub fn reset(&self) {
        for link in self.links() {
            link.reset();
        }
    }

    /// Ends the server's half of the connections that are open now, and holds back what it still sends.
    pub fn half_close(&self) {
        for link in self.links() {
            link.change(|gate| gate.held[Flow::Down as usize] = true);
            let _gone = link.client.shutdown(Shutdown::Write).is_err();
        }
    }

    /// Stops listening: connections are refused until [`accept`](Self::accept). Those that are open stay open.
    pub fn refuse(&self) {
        let mut door = lock(&self.shared.door);
        *door = Door::Closing;
        drop(TcpStream::connect(self.addr));
        while *door != Door::Closed {
            door = self.shared.changed.wait(door).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Listens again, at the same address.
    pub fn accept(&self) {
        let mut door = lock(&self.shared.door);
        *door = Door::Opening;
        self.shared.changed.notify_all();
        while *door != Door::Open {
            door = self.shared.changed.wait(door).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn links(&self) -> Vec<Arc<Link>> {
        lock(&self.shared.links).iter().filter_map(Weak::upgrade).collect()
    }

    /// How many bytes have passed in one direction: whatever becomes of their connection, they can be read.
    pub fn count(&self, flow: Flow) -> usize {
        self.shared.written[flow as usize].load(Ordering::SeqCst)
    }

    /// The longest time between bytes that a [trickle](Plan::Trickle) took: longer than planned where the machine is busy.
    pub fn longest_rest(&self) -> Duration {
        *lock(&self.shared.longest_rest)
    }

    /// What passed so far, by connection.
    pub fn passed(&self) -> Vec<Passed> {
        lock(&self.shared.passed).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
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

/// Binds a port without listening on it, so that no other socket is given it while the proxy refuses connections.
fn keep(at: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let kept = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    // As listeners of the standard library have it: without it they could not have the same port.
    kept.set_reuse_address(true)?;
    kept.bind(&at.into())?;
    let addr = kept.local_addr()?.as_socket().unwrap_or(at);
    Ok((kept, addr))
}

fn listen(at: SocketAddr, narrow: Option<usize>) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(at)?;
    if let Some(bytes) = narrow {
        // Those that are accepted inherit it.
        SockRef::from(&listener).set_recv_buffer_size(bytes)?;
    }
    Ok(listener)
}

fn accept_all(
    listener: TcpListener,
    addr: SocketAddr,
    shared: &Arc<Shared>,
    plan: impl Fn(usize) -> Plan,
) -> Vec<JoinHandle<()>> {
    let mut pumps = Vec::new();
    let mut listener = Some(listener);
    for number in 0.. {
        let Some(client) = next_client(&mut listener, addr, shared) else {
            break;
        };
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        lock(&shared.passed).push(Passed::default());
        // Without a server the client sees its connection closed.
        let Ok(server) = TcpStream::connect(shared.upstream) else {
            continue;
        };
        for socket in [&client, &server] {
            socket.set_nodelay(true).expect("a connected socket");
        }
        let plan = plan(number);
        let mut gate = Gate::default();
        if let Plan::Hold(flow) = plan {
            gate.held[flow as usize] = true;
        }
        let link = Arc::new(Link {
            number,
            client,
            server,
            plan,
            resetting: AtomicBool::new(false),
            gate: Mutex::new(gate),
            moved: Condvar::new(),
        });
        lock(&shared.links).push(Arc::downgrade(&link));
        for flow in [Flow::Up, Flow::Down] {
            let (shared, link) = (shared.clone(), link.clone());
            pumps.push(std::thread::spawn(move || link.pump(&shared, flow)));
        }
    }
    pumps
}

/// The next connection, while the door is open; `None` when the proxy ends.
fn next_client(listener: &mut Option<TcpListener>, addr: SocketAddr, shared: &Shared) -> Option<TcpStream> {
    loop {
        let client = match listener {
            Some(listener) => Some(listener.accept().ok()?.0),
            None => None,
        };
        let mut door = lock(&shared.door);
        if shared.stopping.load(Ordering::SeqCst) {
            return None;
        }
        match *door {
            Door::Open if client.is_some() => return client,
            Door::Closing => {
                *listener = None;
                *door = Door::Closed;
                shared.changed.notify_all();
            }
            Door::Opening => {
                *listener = Some(listen(addr, shared.narrow).expect("the same port again"));
                *door = Door::Open;
                shared.changed.notify_all();
            }
            Door::Open | Door::Closed => {
                // Looks up now and then: the proxy may end.
                let pause = Duration::from_millis(20);
                drop(shared.changed.wait_timeout(door, pause));
            }
        }
    }
}

impl Link {
    /// Where bytes of this direction come from and go to.
    fn ends(&self, flow: Flow) -> (&TcpStream, &TcpStream) {
        match flow {
            Flow::Up => (&self.client, &self.server),
            Flow::Down => (&self.server, &self.client),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Gate)) {
        change(&mut lock(&self.gate));
        self.moved.notify_all();
    }

    /// Waits while this direction is held. How many bytes may pass; `None` if the connection is closed.
    fn wait_open(&self, flow: Flow) -> Option<usize> {
        let mut gate = lock(&self.gate);
        while gate.held[flow as usize] && !gate.closed {
            gate = self.moved.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        (!gate.closed).then(|| gate.limits[flow as usize].map_or(usize::MAX, |(left, _)| left))
    }

    /// So many bytes pass now; what happens then, if anything.
    fn note_passed(&self, flow: Flow, passed: usize) -> Option<Then> {
        let mut gate = lock(&self.gate);
        let (left, then) = gate.limits[flow as usize].as_mut()?;
        *left = left.saturating_sub(passed);
        if *left > 0 {
            return None;
        }
        let then = *then;
        gate.limits[flow as usize] = None;
        gate.held[flow as usize] |= then == Then::Hold;
        Some(then)
    }

    fn close(&self) {
        self.change(|gate| gate.closed = true);
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
        let mut passed = 0;
        // What a trickle still takes before it rests again, and when it took something last.
        let (mut draught, mut taken) = (0, None);
        let mut bytes = [0; 16 * 1024];
        loop {
            if let (0, Some(fault)) = (left, fault) {
                return self.break_off(flow, fault);
            }
            if self.wait_open(flow).is_none() {
                return;
            }
            let mut room = left.min(bytes.len());
            let mut trickles = false;
            if let Plan::Trickle { after, size, every } = self.plan
                && flow == Flow::Up
            {
                trickles = passed >= after;
                if trickles && draught == 0 {
                    std::thread::sleep(every);
                    draught = size;
                }
                room = room.min(if trickles { draught } else { after - passed });
            }
            match from.read(&mut bytes[..room]) {
                Ok(0) => {
                    if !self.resetting.load(Ordering::SeqCst) {
                        let _gone = to.shutdown(Shutdown::Write).is_err();
                    }
                    return;
                }
                Ok(read) => {
                    if trickles {
                        draught -= read;
                        let now = Instant::now();
                        let rested = now - taken.replace(now).unwrap_or(now);
                        let mut longest = lock(&shared.longest_rest);
                        *longest = rested.max(*longest);
                    }
                    left -= if fault.is_some() { read } else { 0 };
                    passed += read;
                    let mut rest = &bytes[..read];
                    while !rest.is_empty() {
                        // What came while this direction was being held does not pass, either.
                        let Some(allowed) = self.wait_open(flow) else { return };
                        let (piece, later) = rest.split_at(rest.len().min(allowed));
                        self.record(shared, flow, piece);
                        // Counted before anybody can see it: a limit that is set upon its arrival is for what follows.
                        let then = self.note_passed(flow, piece.len());
                        if self.pass(to, piece).is_err() {
                            return self.close();
                        }
                        shared.written[flow as usize].fetch_add(piece.len(), Ordering::SeqCst);
                        if then == Some(Then::Cut) {
                            return self.close();
                        }
                        rest = later;
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
            Plan::Pass | Plan::Hold(_) | Plan::Trickle { .. } | Plan::Break { .. } => to.write_all(bytes),
        }
    }

    fn reset(&self) {
        for socket in [&self.client, &self.server] {
            let linger = SockRef::from(socket).set_linger(Some(Duration::ZERO));
            linger.expect("a connected socket");
        }
        // Wakes the pumps, which let go of the link; then the kernel sends the resets.
        self.resetting.store(true, Ordering::SeqCst);
        self.change(|gate| gate.closed = true);
        for socket in [&self.client, &self.server] {
            let _gone = socket.shutdown(Shutdown::Read).is_err();
        }
    }

    fn break_off(&self, flow: Flow, fault: Fault) {
        let (mut from, to) = self.ends(flow);
        match fault {
            Fault::Cut => self.close(),
            Fault::HalfClose => {
                let _gone = to.shutdown(Shutdown::Write).is_err();
            }
            Fault::Reset => self.reset(),
            // What still comes is thrown away, until the sender closes.
            Fault::Stall => while from.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {},
        }
    }
}
