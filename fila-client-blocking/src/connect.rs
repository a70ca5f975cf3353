//! Sockets: resolving, connecting, reading, writing.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fibp_proto::Endpoint;
use fibp_proto::client::{Job, News, SLICE, SocketOptions};
use fibp_proto::config::Settings;
use fibp_proto::dial::AddressRace;
use fibp_proto::fault::{Fault, FaultKind};
use fibp_proto::frame::{ReadBuffer, Transmit};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::wait::{Notifier, lock};

/// The most chunks of one vectored write.
const MAX_SLICES: usize = 32;

/// Starts a thread.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Fault> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(body).map(drop).map_err(Fault::from)
}

/// Opens a connection. Addresses have until `deadline`, if there is one; names have no limit here, as the machine itself gives up then, and
/// leaves this thread behind.
pub(crate) fn connect(
    endpoint: &Endpoint,
    deadline: Option<Instant>,
    settings: &Settings,
    options: SocketOptions,
) -> Result<Stream, Fault> {
    let addresses = match endpoint.ip() {
        Some(ip) => vec![SocketAddr::new(ip, endpoint.port)],
        None => {
            let found = (endpoint.host.as_str(), endpoint.port).to_socket_addrs();
            found
                .map_err(|error| Fault::from_source(FaultKind::Resolve, error))?
                .collect()
        }
    };
    connect_to(addresses, deadline, settings.happy_eyeballs_delay, options)
}

/// Opens a connection to the address that answers first.
fn connect_to(
    addresses: Vec<SocketAddr>,
    deadline: Option<Instant>,
    delay: Duration,
    options: SocketOptions,
) -> Result<Stream, Fault> {
    let mut race = AddressRace::new(Instant::now(), addresses, delay, deadline);
    let (results, arrivals) = mpsc::channel();
    loop {
        let now = Instant::now();
        while let Some(address) = race.poll_attempt(now) {
            let results = results.clone();
            let attempt = move || {
                // The race may be over.
                let _ = results.send((address, open(address, deadline, options)));
            };
            if let Err(fault) = spawn("fila-connect", attempt) {
                race.handle_failed(now, address, fault);
            }
        }
        if let Some(fault) = race.poll_fault(now) {
            return Err(fault);
        }
        let arrival = match race.poll_timeout() {
            Some(at) => arrivals.recv_timeout(at.saturating_duration_since(now)).ok(),
            None => arrivals.recv().ok(),
        };
        match arrival {
            Some((_, Ok(stream))) => return Ok(stream),
            Some((address, Err(error))) => race.handle_failed(Instant::now(), address, error.into()),
            None => {}
        }
    }
}

fn open(address: SocketAddr, deadline: Option<Instant>, options: SocketOptions) -> io::Result<Stream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(bytes) = options.receive_buffer.and_then(|bytes| usize::try_from(bytes).ok()) {
        // Before connecting: the window scale is announced then.
        socket.set_recv_buffer_size(bytes)?;
    }
    match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
        Some(time) => socket.connect_timeout(&address.into(), time.max(Duration::from_millis(1)))?,
        None => socket.connect(&address.into())?,
    }
    socket.set_tcp_nodelay(true)?;
    if let Some(idle) = options.keepalive {
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))?;
    }
    socket.set_read_timeout(Some(SLICE))?;
    socket.set_write_timeout(Some(SLICE))?;
    Ok(Stream {
        tcp: socket.into(),
        patient: AtomicBool::new(false),
        callers: Mutex::default(),
    })
}

/// A connection's socket.
#[derive(Debug)]
pub(crate) struct Stream {
    tcp: TcpStream,
    /// Reads do not time out.
    patient: AtomicBool,
    /// For the callers of the next frame.
    callers: Mutex<Arc<Notifier>>,
}

impl Stream {
    /// What wakes the callers of the next frame.
    pub(crate) fn callers(&self) -> Arc<Notifier> {
        Arc::clone(&lock(&self.callers))
    }

    /// A frame is on its way: later callers travel in another one.
    pub(crate) fn begin_frame(&self) {
        let mut notifier = lock(&self.callers);
        if Arc::get_mut(&mut notifier).is_none() {
            *notifier = Arc::default();
        }
    }

    /// Does a job that is done with a socket alone.
    pub(crate) fn perform(job: Job<Self>) -> News<Self> {
        match job {
            Job::Read {
                socket,
                mut buffer,
                patient,
            } => {
                let result = socket.read(&mut buffer, patient);
                return News::Read { buffer, result };
            }
            Job::Write { socket, transmit } => {
                let result = socket.write(&transmit);
                return News::Written { transmit, result };
            }
            // These fail if the peer was faster.
            Job::HalfClose(socket) => drop(socket.tcp.shutdown(Shutdown::Write)),
            Job::Close(socket) => drop(socket.tcp.shutdown(Shutdown::Both)),
            _ => {}
        }
        News::Nothing
    }

    /// Reads once; `None` if nothing came in time, 0 at the end. Called by one thread at a time.
    fn read(&self, buffer: &mut ReadBuffer, patient: bool) -> Result<Option<usize>, Fault> {
        if self.patient.swap(patient, Ordering::Relaxed) != patient {
            // It fails if the connection is lost, which reading will tell.
            let _ = self.tcp.set_read_timeout(if patient { None } else { Some(SLICE) });
        }
        let n = in_time(|| (&self.tcp).read(buffer.unfilled()))?;
        buffer.advance(n.unwrap_or(0));
        Ok(n)
    }

    /// Writes once; how many bytes were taken in time.
    pub(crate) fn write(&self, transmit: &Transmit) -> Result<usize, Fault> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let taken = in_time(|| match transmit.slices(&mut slices) {
            [one] => (&self.tcp).write(one),
            many => (&self.tcp).write_vectored(many),
        })?;
        match taken {
            Some(0) => Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            taken => Ok(taken.unwrap_or(0)),
        }
    }
}

/// A system call that may time out.
fn in_time(mut call: impl FnMut() -> io::Result<usize>) -> Result<Option<usize>, Fault> {
    loop {
        match call() {
            Ok(n) => return Ok(Some(n)),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(None),
                _ => return Err(error.into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use fibp_proto::Config;

    use super::*;

    /// A listener that nobody accepts from, with all the connections that wait there.
    fn black_hole() -> (Socket, SocketAddr, Vec<TcpStream>) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any_port.into()).expect("a free port");
        socket.listen(0).expect("listening");
        let addr = socket.local_addr().expect("bound").as_socket().expect("an address");
        // On a busy machine one may be late before there is no room for more.
        let waiting = (0..8).filter_map(|_| TcpStream::connect_timeout(&addr, Duration::from_millis(50)).ok());
        let waiting = waiting.collect();
        (socket, addr, waiting)
    }

    #[test]
    fn addresses_are_dialed_one_after_another_as_configured() {
        let (_socket, hole, _waiting) = black_hole();
        let alive = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let addresses = || vec![hole, alive.local_addr().expect("bound")];
        for (delay, limit, kind) in [
            (Duration::from_millis(10), Duration::from_secs(30), None),
            // Longer than it takes by default.
            (
                Duration::from_secs(3600),
                Duration::from_secs(1),
                Some(FaultKind::TimedOut),
            ),
        ] {
            let config = Config::new("broker").happy_eyeballs_delay(delay);
            let deadline = Some(Instant::now() + limit);
            let delay = config.settings().happy_eyeballs_delay;
            let connected = connect_to(addresses(), deadline, delay, SocketOptions::default());
            assert_eq!(connected.err().map(|fault| fault.kind), kind, "after {delay:?}");
        }
    }
}
