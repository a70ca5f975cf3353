//! The server's end of a simulated connection: bytes as they are, or inside TLS.
//!
//! TLS has randomness of its own, which no seed decides: keys, nonces, the order of extensions. No length depends on it,
//! since all keys are Ed25519 and all serial numbers equally long, and lengths are all that the network looks at. So a
//! seed replays also with TLS, except for the bytes themselves.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use fibp_proto::Dialect;
use fibp_proto::frame::Transmit;
use fila_test_broker::{BrokerHost, ConnectionId};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SerialNumber};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::network::{End, Pipe, Read};
use super::pair::random::Random;

/// The most that goes into one record.
const RECORD: usize = 16 * 1024;

/// What certificates are for.
const HOST: &str = "127.0.0.1";

/// Where records end: in the stream of ciphertext, and in that of what is inside.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Those that are not read.
    ends: VecDeque<(u64, u64)>,
    /// How much was inside those that are.
    read: u64,
    is_secure: bool,
}

impl Records {
    pub(super) fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// How much a peer has that read so much ciphertext.
    pub(super) fn plain(&mut self, sealed: u64) -> u64 {
        if !self.is_secure {
            return sealed;
        }
        while let Some((_, plain)) = self.ends.front().filter(|(end, _)| *end <= sealed) {
            self.read = *plain;
            self.ends.pop_front();
        }
        self.read
    }
}

/// The server's end of a connection.
#[derive(Debug)]
pub(super) enum Security {
    Plain(Plain),
    Tls(Box<Session>),
}

/// A connection without TLS.
#[derive(Debug, Default)]
pub(super) struct Plain {
    transmit: Transmit,
}

/// A connection with TLS.
#[derive(Debug)]
pub(super) struct Session {
    tls: rustls::ServerConnection,
    /// What arrived, and how much of it was looked at: no more while there is something to read.
    arrived: VecDeque<u8>,
    sealed: VecDeque<u8>,
    /// How much was sealed, and what was inside.
    sealed_total: u64,
    plain_total: u64,
    close_notify: bool,
}

impl Security {
    /// Hands over what arrived.
    pub(super) fn read(
        &mut self,
        now: Instant,
        random: &mut Random,
        up: &mut Pipe,
        host: &mut BrokerHost,
        id: ConnectionId,
    ) -> Result<Read, String> {
        match self {
            Self::Plain(_) if !up.is_readable(now) => Ok(Read::Nothing),
            Self::Plain(_) => {
                let Some(server) = host.connection(id) else {
                    return Ok(Read::Nothing);
                };
                let Some(mut buffer) = server.take_read_buffer() else {
                    return Ok(Read::Nothing);
                };
                let read = up.read(now, random, buffer.unfilled());
                if let Read::Data(n) = read {
                    buffer.advance(n);
                }
                server.handle_input(buffer);
                if read == Read::End(End::Fin) {
                    server.handle_eof();
                }
                Ok(read)
            }
            Self::Tls(session) => session.read(now, random, up, host, id),
        }
    }

    /// Writes what there is to write, as far as it fits; `Err` if the connection was reset.
    pub(super) fn write(
        &mut self,
        now: Instant,
        random: &mut Random,
        down: &mut Pipe,
        records: &mut Records,
        host: &mut BrokerHost,
        id: ConnectionId,
    ) -> Result<bool, End> {
        match self {
            Self::Plain(Plain { transmit }) => {
                let mut progress = false;
                if transmit.is_empty() {
                    let _ = host.take_transmit(id, transmit);
                }
                while !transmit.is_empty() {
                    let n = down.write(now, random, transmit.chunk())?;
                    if n == 0 {
                        break;
                    }
                    host.transmitted(now, id, transmit, n);
                    progress = true;
                }
                Ok(progress)
            }
            Self::Tls(session) => {
                session.seal(now, records, host, id);
                let mut progress = false;
                while !session.sealed.is_empty() {
                    let n = down.write(now, random, session.sealed.as_slices().0)?;
                    if n == 0 {
                        break;
                    }
                    session.sealed.drain(..n);
                    progress = true;
                }
                Ok(progress)
            }
        }
    }

    pub(super) fn is_writing(&self) -> bool {
        match self {
            Self::Plain(Plain { transmit }) => !transmit.is_empty(),
            Self::Tls(session) => !session.sealed.is_empty(),
        }
    }
}

impl Session {
    fn read(
        &mut self,
        now: Instant,
        random: &mut Random,
        up: &mut Pipe,
        host: &mut BrokerHost,
        id: ConnectionId,
    ) -> Result<Read, String> {
        let Some(server) = host.connection(id) else {
            return Ok(Read::Nothing);
        };
        let mut read = Read::Nothing;
        if self.arrived.is_empty() && up.is_readable(now) {
            let mut bytes = [0; 4096];
            read = up.read(now, random, &mut bytes);
            match read {
                Read::Data(n) => self.arrived.extend(bytes.iter().take(n)),
                Read::End(End::Fin) => server.handle_eof(),
                Read::Nothing | Read::End(End::Reset) => return Ok(read),
            }
        }
        loop {
            let state = self
                .tls
                .process_new_packets()
                .map_err(|error| format!("a client's TLS is refused: {error}"))?;
            if state.plaintext_bytes_to_read() > 0 {
                let Some(mut buffer) = server.take_read_buffer() else {
                    return Ok(read);
                };
                let n = self.tls.reader().read(buffer.unfilled()).unwrap_or(0);
                buffer.advance(n);
                server.handle_input(buffer);
                return Ok(Read::Data(n));
            }
            if state.peer_has_closed() {
                server.handle_eof();
            }
            if self.arrived.is_empty() || self.tls.read_tls(&mut self.arrived).unwrap_or(0) == 0 {
                return Ok(read);
            }
        }
    }

    /// Encrypts what there is to send.
    fn seal(&mut self, now: Instant, records: &mut Records, host: &mut BrokerHost, id: ConnectionId) {
        records.is_secure = true;
        self.take_sealed(records);
        if !self.sealed.is_empty() || self.tls.is_handshaking() {
            return;
        }
        let mut transmit = Transmit::new();
        let _ = host.take_transmit(id, &mut transmit);
        while !transmit.is_empty() {
            let chunk = transmit.chunk();
            let piece = chunk.get(..RECORD).unwrap_or(chunk);
            let n = self.tls.writer().write(piece).unwrap_or(0);
            self.plain_total += n as u64;
            self.take_sealed(records);
            host.transmitted(now, id, &mut transmit, n);
        }
        if host.is_finished(id) && std::mem::take(&mut self.close_notify) {
            self.tls.send_close_notify();
            self.take_sealed(records);
        }
    }

    fn take_sealed(&mut self, records: &mut Records) {
        let before = self.sealed.len();
        while self.tls.wants_write() {
            // Memory takes everything.
            let _ = self.tls.write_tls(&mut self.sealed);
        }
        let sealed = self.sealed.len() - before;
        if sealed > 0 {
            self.sealed_total += sealed as u64;
            records.ends.push_back((self.sealed_total, self.plain_total));
        }
    }
}

/// The TLS of a cluster's nodes.
#[derive(Debug)]
pub(super) struct Tls {
    config: Arc<rustls::ServerConfig>,
    close_notify: bool,
}

impl Tls {
    /// Offers this dialect by ALPN, or nothing.
    pub(super) fn new(alpn: Option<Dialect>, close_notify: bool) -> Result<Self, String> {
        let Certificates { leaf, key, .. } = certificates()?;
        let key = PrivateKeyDer::try_from(key.clone())?;
        let mut config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![leaf.clone()], key))
                .map_err(|error| error.to_string())?;
        let name = |dialect| match dialect {
            Dialect::Preamble(_) => b"fibp".to_vec(),
            _ => b"fila/1".to_vec(),
        };
        config.alpn_protocols = alpn.map(name).into_iter().collect();
        Ok(Self {
            config: Arc::new(config),
            close_notify,
        })
    }

    /// A connection that was just accepted; `None` if the library fails.
    pub(super) fn accept(&self) -> Option<Session> {
        let tls = rustls::ServerConnection::new(Arc::clone(&self.config)).ok()?;
        Some(Session {
            tls,
            arrived: VecDeque::new(),
            sealed: VecDeque::new(),
            sealed_total: 0,
            plain_total: 0,
            close_notify: self.close_notify,
        })
    }
}

/// What clients are to trust (PEM).
pub(super) fn authority() -> Result<&'static str, String> {
    certificates().map(|certificates| certificates.authority.as_str())
}

#[derive(Debug)]
struct Certificates {
    authority: String,
    leaf: CertificateDer<'static>,
    key: Vec<u8>,
}

/// Made once: they are good for any number of runs.
fn certificates() -> Result<&'static Certificates, String> {
    static MADE: OnceLock<Result<Certificates, String>> = OnceLock::new();
    let made = MADE.get_or_init(|| make().map_err(|error| error.to_string()));
    made.as_ref().map_err(Clone::clone)
}

fn make() -> Result<Certificates, rcgen::Error> {
    let key = || KeyPair::generate_for(&rcgen::PKCS_ED25519);
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.serial_number = Some(SerialNumber::from(1));
    let issuer = CertifiedIssuer::self_signed(params, key()?)?;
    let mut params = CertificateParams::new(vec![HOST.to_owned()])?;
    params.serial_number = Some(SerialNumber::from(2));
    let own = key()?;
    let leaf = params.signed_by(&own, &issuer)?;
    Ok(Certificates {
        authority: issuer.pem(),
        leaf: leaf.der().clone(),
        key: own.serialize_der(),
    })
}
