//! Opening TCP connections.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use fibp_proto::client::{Sources, race};
use fibp_proto::config::{Config, Endpoint};
use fibp_proto::dial::AddressRace;
use fibp_proto::{Error, Fault, FaultKind, Secret};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{sleep_until, timeout_at};

/// A connection, and the API key to present on it.
pub(crate) type Dialed = (TcpStream, Result<Option<Secret>, Error>);

/// Resolves `endpoint` and connects to the address that answers first. Dropping the future gives up.
pub(crate) async fn dial(
    config: Config,
    endpoint: Endpoint,
    deadline: Option<Instant>,
    receive_buffer: Option<u32>,
) -> Result<Dialed, Fault> {
    let settings = config.settings();
    let key = settings.credentials.key();
    let addresses = resolve(&endpoint, deadline).await?;
    let addresses = AddressRace::new(Instant::now(), addresses, settings.happy_eyeballs_delay, deadline);
    let open = |address| open(address, receive_buffer);
    let stream = race(addresses, Instant::now, open, |until| sleep_until(until.into())).await?;
    stream.set_nodelay(true).map_err(fault)?;
    if let Some(idle) = settings.keepalive_idle() {
        SockRef::from(&stream)
            .set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))
            .map_err(fault)?;
    }
    Ok((stream, key))
}

async fn resolve(endpoint: &Endpoint, deadline: Option<Instant>) -> Result<Vec<SocketAddr>, Fault> {
    if let Some(ip) = endpoint.ip() {
        return Ok(vec![SocketAddr::new(ip, endpoint.port)]);
    }
    let lookup = lookup_host((endpoint.host.as_str(), endpoint.port));
    let found = match deadline {
        Some(deadline) => timeout_at(deadline.into(), lookup).await,
        None => Ok(lookup.await),
    };
    match found {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(Fault::from_source(FaultKind::Resolve, error)),
        Err(_) => Err(Fault::new(
            FaultKind::TimedOut,
            format!("no answer in time for the name \"{}\"", endpoint.host),
        )),
    }
}

async fn open(address: SocketAddr, receive_buffer: Option<u32>) -> Result<TcpStream, Fault> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
    .map_err(fault)?;
    if let Some(size) = receive_buffer {
        // Before connecting, so that the window is scaled to it.
        socket.set_recv_buffer_size(size).map_err(fault)?;
    }
    socket.connect(address).await.map_err(fault)
}

/// What an operating system's error means to the core.
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

/// The clock, and seeds that differ in every process and for every link.
pub(crate) const SOURCES: Sources = Sources {
    now: Instant::now,
    seed: || RandomState::new().build_hasher().finish(),
};
