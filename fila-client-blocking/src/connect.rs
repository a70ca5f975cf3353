//! Sockets: resolving, connecting, reading, writing.

use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use fibp_proto::Endpoint;
use fibp_proto::config::Settings;
use fibp_proto::dial::AddressRace;
use fibp_proto::fault::{Fault, FaultKind};
use fibp_proto::frame::{ReadBuffer, Transmit};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// How long one read or write may block, unless the reader thread has settled in.
pub(crate) const SLICE: Duration = Duration::from_millis(10);

/// The most chunks of one vectored write.
const MAX_SLICES: usize = 16;

/// Starts a thread.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Fault> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(body).map(drop).map_err(fault)
}

/// Opens a connection, by `deadline` at the latest. Whatever hangs longer than that is left behind on a
/// thread of its own.
pub(crate) fn connect(
    endpoint: &Endpoint,
    deadline: Instant,
    settings: &Settings,
    receive_buffer: Option<u32>,
) -> Result<TcpStream, Fault> {
    let addresses = match endpoint.ip() {
        Some(ip) => vec![SocketAddr::new(ip, endpoint.port)],
        None => resolve(endpoint, deadline)?,
    };
    let keepalive = settings.keepalive;
    let mut race = AddressRace::new(Instant::now(), addresses, settings.happy_eyeballs_delay, Some(deadline));
    let (results, arrivals) = mpsc::channel();
    loop {
        let now = Instant::now();
        while let Some(address) = race.poll_attempt(now) {
            let results = results.clone();
            let attempt = move || {
                // The race may be over.
                let _ = results.send((address, open(address, deadline, keepalive, receive_buffer)));
            };
            if let Err(fault) = spawn("fila-connect", attempt) {
                race.handle_failed(now, address, fault);
            }
        }
        if let Some(fault) = race.poll_fault(now) {
            return Err(fault);
        }
        let pause = race.poll_timeout().unwrap_or(deadline).saturating_duration_since(now);
        match arrivals.recv_timeout(pause) {
            Ok((_, Ok(stream))) => return Ok(stream),
            Ok((address, Err(error))) => race.handle_failed(Instant::now(), address, fault(error)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}

fn resolve(endpoint: &Endpoint, deadline: Instant) -> Result<Vec<SocketAddr>, Fault> {
    let (result, arrival) = mpsc::sync_channel(1);
    let name = (endpoint.host.clone(), endpoint.port);
    spawn("fila-resolve", move || {
        // The caller may have given up.
        let _ = result.send(name.to_socket_addrs());
    })?;
    match arrival.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(Fault::from_source(FaultKind::Resolve, error)),
        Err(_) => Err(Fault::new(
            FaultKind::TimedOut,
            format!("the name \"{}\" was not resolved in time", endpoint.host),
        )),
    }
}

fn open(
    address: SocketAddr,
    deadline: Instant,
    keepalive: Option<Duration>,
    receive_buffer: Option<u32>,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(bytes) = receive_buffer.and_then(|bytes| usize::try_from(bytes).ok()) {
        // Before connecting: the window scale is announced then.
        socket.set_recv_buffer_size(bytes)?;
    }
    let time = deadline.saturating_duration_since(Instant::now());
    socket.connect_timeout(&address.into(), time.max(Duration::from_millis(1)))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(idle) = keepalive {
        SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))?;
    }
    socket.set_read_timeout(Some(SLICE))?;
    socket.set_write_timeout(Some(SLICE))?;
    Ok(socket.into())
}

/// Reads once; `None` if nothing came in time, 0 at the end.
pub(crate) fn read(mut stream: &TcpStream, buffer: &mut ReadBuffer) -> io::Result<Option<usize>> {
    let n = in_time(|| stream.read(buffer.unfilled()))?;
    buffer.advance(n.unwrap_or(0));
    Ok(n)
}

/// Writes once; how many bytes were taken, and whether the socket would not take more in time.
pub(crate) fn write(mut stream: &TcpStream, transmit: &Transmit) -> io::Result<(usize, bool)> {
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let slices = transmit.slices(&mut slices);
    let offered: usize = slices.iter().map(|slice| slice.len()).sum();
    let n = in_time(|| match slices {
        [one] => stream.write(one),
        many => stream.write_vectored(many),
    })?;
    match n {
        Some(0) if offered > 0 => Err(io::ErrorKind::WriteZero.into()),
        taken => Ok((taken.unwrap_or(0), taken.is_none_or(|taken| taken < offered))),
    }
}

/// A system call that may time out.
fn in_time(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Ok(n) => return Ok(Some(n)),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(None),
                _ => return Err(error),
            },
        }
    }
}

/// The core's name for a failure.
pub(crate) fn fault(error: io::Error) -> Fault {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            FaultKind::Reset
        }
        io::ErrorKind::ConnectionRefused => FaultKind::Refused,
        io::ErrorKind::TimedOut => FaultKind::TimedOut,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => FaultKind::Unreachable,
        _ => FaultKind::Other,
    };
    Fault::from_source(kind, error)
}
