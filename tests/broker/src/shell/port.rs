//! Ports that stay a broker's own while nobody listens on them.

use std::io;
use std::net::{SocketAddr, TcpListener};

#[cfg(unix)]
use socket2::{Domain, Socket, Type};

/// A port that is kept: bound, though not listened on, so that no other socket is given it. Connections are refused unless
/// there is a [listener](Self::listen).
#[derive(Debug)]
pub(super) struct Port {
    addr: SocketAddr,
    /// On other systems a second socket could take connections away.
    #[cfg(unix)]
    _kept: Socket,
}

impl Port {
    /// Keeps a port, and listens on it.
    #[cfg(unix)]
    pub(super) fn bind(addr: SocketAddr) -> io::Result<(Self, TcpListener)> {
        let kept = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        // As listeners of the standard library have it: without it they could not have the same port.
        kept.set_reuse_address(true)?;
        kept.bind(&addr.into())?;
        let addr = kept.local_addr()?.as_socket().unwrap_or(addr);
        let port = Self { addr, _kept: kept };
        let listener = port.listen()?;
        Ok((port, listener))
    }

    /// Listens on a port.
    #[cfg(not(unix))]
    pub(super) fn bind(addr: SocketAddr) -> io::Result<(Self, TcpListener)> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        Ok((Self { addr }, listener))
    }

    /// Listens again.
    pub(super) fn listen(&self) -> io::Result<TcpListener> {
        TcpListener::bind(self.addr)
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }
}
