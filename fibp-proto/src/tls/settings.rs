//! What to trust and who to be.

use std::fmt;
use std::sync::Arc;

use super::identity::Identity;
use crate::error::{Error, ErrorKind};
use crate::message::Secret;

/// TLS settings: which certificates to trust, and optionally a client certificate and another server name.
///
/// Certificates are checked when a client connects. `Debug` shows none of them.
#[derive(Clone)]
pub struct Tls {
    pub(super) roots: Roots,
    pub(super) identity: Option<Identity>,
    /// The files of the identity, until they are read.
    pub(super) identity_files: Option<(Arc<str>, Arc<str>)>,
    pub(super) server_name: Option<Arc<str>>,
}

/// Whom to trust.
#[derive(Clone)]
#[cfg_attr(
    not(feature = "tls"),
    allow(dead_code, reason = "nothing reads it in a build without TLS")
)]
pub(super) enum Roots {
    Platform,
    Webpki,
    Pem(Arc<[u8]>),
    /// Not read yet.
    File(Arc<str>),
    #[cfg(feature = "tls")]
    Ready(Arc<rustls::ClientConfig>),
}

impl Tls {
    fn with_roots(roots: Roots) -> Self {
        Self {
            roots,
            identity: None,
            identity_files: None,
            server_name: None,
        }
    }

    /// Trusts what the operating system trusts. Needs the feature `tls-platform-roots`.
    #[must_use]
    pub fn platform() -> Self {
        Self::with_roots(Roots::Platform)
    }

    /// Trusts the Mozilla roots built into this program. Needs the feature `tls-webpki-roots`.
    #[must_use]
    pub fn webpki() -> Self {
        Self::with_roots(Roots::Webpki)
    }

    /// Trusts the CA certificates of a PEM text, and nothing else.
    #[must_use]
    pub fn ca_pem(pem: impl AsRef<[u8]>) -> Self {
        Self::with_roots(Roots::Pem(pem.as_ref().into()))
    }

    /// Trusts the CA certificates of a PEM file, and nothing else. It is read when a client connects.
    #[must_use]
    pub fn ca_file(path: impl Into<String>) -> Self {
        Self::with_roots(Roots::File(path.into().into()))
    }

    /// Uses a ready configuration. It is copied; only its ALPN names are replaced in the copy.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn config(config: Arc<rustls::ClientConfig>) -> Self {
        Self::with_roots(Roots::Ready(config))
    }

    /// Presents a client certificate: a PEM text with the chain, the client's own certificate first, and one
    /// with its private key (PKCS#8, PKCS#1 or SEC1).
    #[must_use]
    pub fn identity_pem(mut self, certificates: impl AsRef<[u8]>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some(Identity {
            certificates: certificates.as_ref().into(),
            key: Arc::new(Secret::from_bytes(key.into())),
        });
        self.identity_files = None;
        self
    }

    /// As [`identity_pem`](Self::identity_pem), from PEM files that are read when a client connects.
    #[must_use]
    pub fn identity_files(mut self, certificates: impl Into<String>, key: impl Into<String>) -> Self {
        self.identity_files = Some((certificates.into().into(), key.into().into()));
        self.identity = None;
        self
    }

    pub(crate) fn with_ca_file(mut self, path: String) -> Self {
        self.roots = Roots::File(path.into());
        self
    }

    pub(crate) fn ca_path(&self) -> Option<&str> {
        match &self.roots {
            Roots::File(path) => Some(path),
            _ => None,
        }
    }

    pub(crate) fn cert_path(&self) -> Option<&str> {
        self.identity_files.as_ref().map(|(certificates, _)| &**certificates)
    }

    pub(crate) fn key_path(&self) -> Option<&str> {
        self.identity_files.as_ref().map(|(_, key)| &**key)
    }

    /// Whether files are still to be read.
    pub(crate) fn has_files(&self) -> bool {
        self.ca_path().is_some() || self.identity_files.is_some()
    }

    pub(crate) fn load_files(mut self, load: impl Fn(&str) -> Result<Vec<u8>, Error>) -> Result<Self, Error> {
        if let Roots::File(path) = &self.roots {
            self.roots = Roots::Pem(load(path)?.into());
        }
        if let Some((certificates, key)) = self.identity_files.take() {
            let (certificates, key) = (load(&certificates)?, load(&key)?);
            self = self.identity_pem(certificates, key);
        }
        Ok(self)
    }

    /// Expects the server's certificate to be for this DNS name or IP address, instead of the host that is
    /// connected to.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into().into());
        self
    }

    pub(crate) fn is_webpki(&self) -> bool {
        matches!(self.roots, Roots::Webpki)
    }

    pub(crate) fn server_name_override(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Whether this build has TLS at all.
    pub(crate) fn validate_support() -> Result<(), Error> {
        if cfg!(feature = "tls") {
            Ok(())
        } else {
            Err(unsupported())
        }
    }

    /// Checks all that can be checked without a crypto provider.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        Self::validate_support()?;
        match &self.roots {
            Roots::Platform if !cfg!(feature = "tls-platform-roots") => return Err(lacks_platform_roots()),
            Roots::Webpki if !cfg!(feature = "tls-webpki-roots") => return Err(lacks_webpki_roots()),
            #[cfg(feature = "tls")]
            Roots::Pem(text) => drop(super::pem::roots(text)?),
            #[cfg(feature = "tls")]
            Roots::Ready(_) if self.identity.is_some() || self.identity_files.is_some() => {
                return Err(refuse(
                    "identity_pem and a ready rustls configuration cannot be combined: put the identity into it",
                ));
            }
            _ => {}
        }
        #[cfg(feature = "tls")]
        {
            self.identity.as_ref().map(super::pem::identity).transpose()?;
            self.server_name
                .as_deref()
                .map(super::name::verified_name)
                .transpose()?;
        }
        Ok(())
    }
}

fn refuse(message: &str) -> Error {
    Error::new(ErrorKind::Config, message)
}

pub(super) fn unsupported() -> Error {
    refuse("TLS is asked for, but this build has none: enable the feature \"tls-ring\" or \"tls-aws-lc-rs\"")
}

pub(super) fn lacks_platform_roots() -> Error {
    refuse("this build has no platform roots: enable the feature \"tls-platform-roots\", or set a CA file")
}

pub(super) fn lacks_webpki_roots() -> Error {
    refuse("this build has no webpki roots: enable the feature \"tls-webpki-roots\", or set a CA file")
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots = match &self.roots {
            Roots::Platform => "platform",
            Roots::Webpki => "webpki",
            Roots::Pem(_) => "pem",
            Roots::File(_) => "file",
            #[cfg(feature = "tls")]
            Roots::Ready(_) => "ready configuration",
        };
        f.debug_struct("Tls")
            .field("roots", &roots)
            .field(
                "identity",
                &(self.identity.is_some() || self.identity_files.is_some()).then_some("redacted"),
            )
            .field("server_name", &self.server_name)
            .finish()
    }
}
