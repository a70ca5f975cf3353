//! What lies between a connection's frames and its socket: nothing, or TLS.

use std::io;
use std::time::Instant;

use fibp_proto::frame::{ReadBuffer, Transmit};
use fibp_proto::server::ServerConnection;

#[cfg(feature = "tls")]
use super::tls::{TlsAcceptor, TlsTransport};
use crate::host::BrokerHost;
use crate::machine::ConnectionId;

/// What the reader does next.
pub(super) enum Step {
    /// Read from the socket into this.
    Read(ReadBuffer),
    /// Read from the socket, and hand the bytes to [`Transport::receive`].
    #[cfg(feature = "tls")]
    ReadSealed,
    /// Look at what arrived: there is more.
    #[cfg(feature = "tls")]
    Arrived,
    /// Wait until output was written.
    Blocked,
}

/// Bytes to write.
pub(super) enum Outgoing {
    /// Report what was written.
    Plain(Transmit),
    /// Reported already.
    #[cfg(feature = "tls")]
    Sealed(Vec<u8>),
}

#[derive(Debug)]
pub(super) enum Transport {
    Plain,
    #[cfg(feature = "tls")]
    Tls(Box<TlsTransport>),
}

impl Transport {
    pub(super) fn step(&mut self, server: &mut ServerConnection) -> Step {
        match self {
            Self::Plain => server.take_read_buffer().map_or(Step::Blocked, Step::Read),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.step(server),
        }
    }

    /// Takes bytes off the socket that are not for the server connection itself.
    #[cfg(feature = "tls")]
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        if let Self::Tls(tls) = self {
            tls.receive(bytes);
        }
    }

    /// Works on what was received. May lead to output.
    pub(super) fn feed(&mut self) -> io::Result<()> {
        match self {
            Self::Plain => Ok(()),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.feed(),
        }
    }

    /// Takes what is to be written.
    #[cfg_attr(
        not(feature = "tls"),
        expect(unused_variables, reason = "plain bytes are reported later")
    )]
    pub(super) fn take(
        &mut self,
        host: &mut BrokerHost,
        now: Instant,
        connection: ConnectionId,
    ) -> io::Result<Option<Outgoing>> {
        let mut transmit = Transmit::new();
        let taken = host.take_transmit(connection, &mut transmit);
        match self {
            Self::Plain => Ok(taken.then_some(Outgoing::Plain(transmit))),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => {
                while !transmit.is_empty() {
                    let chunk = transmit.chunk();
                    tls.write(chunk)?;
                    let written = chunk.len();
                    host.transmitted(now, connection, &mut transmit, written);
                }
                let sealed = tls.take_sealed(host.is_finished(connection))?;
                Ok((!sealed.is_empty()).then_some(Outgoing::Sealed(sealed)))
            }
        }
    }
}

/// Makes the transports of accepted connections.
#[derive(Debug, Clone)]
pub(super) enum Acceptor {
    Plain,
    #[cfg(feature = "tls")]
    Tls(TlsAcceptor),
}

impl Acceptor {
    pub(super) fn transport(&self) -> io::Result<Transport> {
        match self {
            Self::Plain => Ok(Transport::Plain),
            #[cfg(feature = "tls")]
            Self::Tls(acceptor) => acceptor.transport(),
        }
    }

    pub(super) fn scheme(&self) -> &'static str {
        match self {
            Self::Plain => "fila",
            #[cfg(feature = "tls")]
            Self::Tls(_) => "fila+tls",
        }
    }
}
