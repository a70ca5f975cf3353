//! What all connections of a client share.

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::WantsClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;

use super::pem;
use super::settings::{Roots, Tls};
use crate::dialect::Dialect;
use crate::error::{Error, ErrorKind};

/// The ALPN names of the dialects (docs/protocol/revisions.md, "With TLS, ALPN decides for free").
const FRAMED: &[u8] = b"fila/1";
const PREAMBLE: &[u8] = b"fibp";
/// Offered to recognise a server that has gRPC only.
const GRPC: &[u8] = b"h2";

/// TLS made ready for a client: roots, identity and ALPN names. Cheap to clone.
///
/// Make one per client and keep it: it holds the sessions that later connections resume.
#[derive(Clone)]
pub struct TlsContext {
    pub(super) config: Arc<ClientConfig>,
    pub(super) presents_certificate: bool,
    server_name: Option<Arc<str>>,
}

impl TlsContext {
    /// Reads the certificates and prepares rustls, with the ALPN names of `dialect`.
    ///
    /// With platform roots this asks the operating system for them, which may read files.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for certificates or keys that cannot be read or do not belong together, and for
    /// roots or a crypto provider that this build lacks.
    pub fn new(tls: &Tls, dialect: Dialect) -> Result<Self, Error> {
        tls.validate()?;
        if tls.has_files() {
            return Err(unread());
        }
        let mut config = match &tls.roots {
            Roots::Ready(ready) => ClientConfig::clone(ready),
            Roots::Pem(text) => {
                let roots = pem::roots(text)?;
                with_identity(builder()?.with_root_certificates(roots), tls)?
            }
            Roots::File(_) => return Err(unread()),
            Roots::Platform => with_identity(platform(builder()?)?, tls)?,
            Roots::Webpki => with_identity(webpki(builder()?)?, tls)?,
        };
        config.alpn_protocols = match dialect {
            Dialect::Auto => vec![FRAMED.to_vec(), PREAMBLE.to_vec(), GRPC.to_vec()],
            Dialect::Preamble(_) => vec![PREAMBLE.to_vec()],
            Dialect::Handshake | Dialect::HandshakeEarly => vec![FRAMED.to_vec()],
        };
        Ok(Self {
            presents_certificate: config.client_auth_cert_resolver.has_certs(),
            config: Arc::new(config),
            server_name: tls.server_name.clone(),
        })
    }

    /// The name that the certificate must have: the host connected to, unless another is set.
    pub(super) fn verified_name(&self, host: &str) -> Result<ServerName<'static>, Error> {
        super::name::verified_name(self.server_name.as_deref().unwrap_or(host))
    }
}

impl fmt::Debug for TlsContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsContext")
            .field("presents_certificate", &self.presents_certificate)
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

type WantsVerifier = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;
type WantsIdentity = rustls::ConfigBuilder<ClientConfig, WantsClientCert>;

fn builder() -> Result<WantsVerifier, Error> {
    ClientConfig::builder_with_provider(provider()?)
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse("the crypto provider has no TLS 1.2 or 1.3", error))
}

/// The provider is always named: the default one of rustls panics when two are compiled in.
#[allow(clippy::unnecessary_wraps, reason = "fails in builds without a provider")]
fn provider() -> Result<Arc<CryptoProvider>, Error> {
    #[cfg(feature = "tls-ring")]
    return Ok(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(all(feature = "tls-aws-lc-rs", not(feature = "tls-ring")))]
    return Ok(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    #[cfg(not(any(feature = "tls-ring", feature = "tls-aws-lc-rs")))]
    return CryptoProvider::get_default().cloned().ok_or_else(|| {
        Error::new(
            ErrorKind::Config,
            "this build has no crypto provider: enable the feature \"tls-ring\" or \"tls-aws-lc-rs\", or install one",
        )
    });
}

#[cfg(feature = "tls-platform-roots")]
fn platform(builder: WantsVerifier) -> Result<WantsIdentity, Error> {
    use rustls_platform_verifier::BuilderVerifierExt as _;
    builder
        .with_platform_verifier()
        .map_err(|error| refuse("the platform's roots cannot be used", error))
}

#[cfg(not(feature = "tls-platform-roots"))]
fn platform(_: WantsVerifier) -> Result<WantsIdentity, Error> {
    Err(super::settings::lacks_platform_roots())
}

#[cfg(feature = "tls-webpki-roots")]
#[allow(clippy::unnecessary_wraps, reason = "fails in builds without these roots")]
fn webpki(builder: WantsVerifier) -> Result<WantsIdentity, Error> {
    let roots = rustls::RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    Ok(builder.with_root_certificates(roots))
}

#[cfg(not(feature = "tls-webpki-roots"))]
fn webpki(_: WantsVerifier) -> Result<WantsIdentity, Error> {
    Err(super::settings::lacks_webpki_roots())
}

fn with_identity(builder: WantsIdentity, tls: &Tls) -> Result<ClientConfig, Error> {
    let Some(identity) = &tls.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let (chain, key) = pem::identity(identity)?;
    builder.with_client_auth_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => refuse("the client certificate is not for the client key", error),
        _ => refuse("the client certificate or its key cannot be used", error),
    })
}

fn unread() -> Error {
    Error::new(
        ErrorKind::Config,
        "the configuration names files that were not read: call Config::load_files",
    )
}

fn refuse(message: &str, error: rustls::Error) -> Error {
    Error::new(ErrorKind::Config, format!("{message}: {error}")).with_source(Arc::new(error))
}
