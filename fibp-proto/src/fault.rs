//! What happened to a transport, as reported by the adapter that owns the socket.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Outcome};

/// The causes of a transport failure that call for different treatment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The peer reset the connection, or it was aborted on this side. A reset is no end of file: bytes may be lost.
    Reset,
    /// Nothing listens at the address.
    Refused,
    /// The network, or the adapter's own deadline, gave up waiting.
    TimedOut,
    /// There is no route to the address.
    Unreachable,
    /// The host name could not be resolved.
    Resolve,
    /// TLS failed.
    Tls,
    /// Anything else; the text says what.
    Other,
}

impl FaultKind {
    /// The error kind of a dial that ended this way.
    #[must_use]
    pub fn dial_error_kind(self) -> ErrorKind {
        match self {
            Self::Resolve => ErrorKind::Resolve,
            Self::Tls => ErrorKind::Tls,
            Self::TimedOut => ErrorKind::Timeout,
            Self::Reset | Self::Refused | Self::Unreachable | Self::Other => ErrorKind::Connect,
        }
    }
}

/// A failed transport: a kind to decide by, a text to show and the error that caused it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Fault {
    /// What to decide by.
    pub kind: FaultKind,
    /// What to show.
    pub text: String,
    /// The operating system's or library's own error.
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Fault {
    /// A fault without a source.
    #[must_use]
    pub fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            source: None,
        }
    }

    /// A fault whose text is the source's own, with what its causes add.
    #[must_use]
    pub fn from_source<E>(kind: FaultKind, source: E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let mut text = source.to_string();
        let mut cause = source.source();
        while let Some(next) = cause {
            let said = next.to_string();
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            cause = next.source();
        }
        Self {
            kind,
            text,
            source: Some(Arc::new(source)),
        }
    }

    /// The error to report for it.
    #[must_use]
    pub fn into_error(self, kind: ErrorKind, outcome: Outcome) -> Error {
        let error = Error::new(kind, self.text).with_outcome(outcome);
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }

    /// The error to report for a dial that ended this way: nothing was sent.
    #[must_use]
    pub fn into_dial_error(self) -> Error {
        let kind = self.kind.dial_error_kind();
        self.into_error(kind, Outcome::NotSent)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                FaultKind::Reset
            }
            io::ErrorKind::ConnectionRefused => FaultKind::Refused,
            io::ErrorKind::TimedOut => FaultKind::TimedOut,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => FaultKind::Unreachable,
            _ => FaultKind::Other,
        };
        Self::from_source(kind, error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn the_source_survives() {
        let fault = Fault::from_source(FaultKind::Refused, fmt::Error);
        let error = fault.into_dial_error();
        assert_eq!(error.kind(), ErrorKind::Connect);
        assert_eq!(error.outcome(), Outcome::NotSent);
        assert!(error.get_ref().is_some_and(|source| source.is::<fmt::Error>()));
        assert!(error.source().is_none(), "its text is the error's own already");
        assert!(error.to_string().contains(&fmt::Error.to_string()));
    }

    #[test]
    fn each_kind_has_its_dial_error() {
        for (fault, error) in [
            (FaultKind::Resolve, ErrorKind::Resolve),
            (FaultKind::Tls, ErrorKind::Tls),
            (FaultKind::TimedOut, ErrorKind::Timeout),
            (FaultKind::Reset, ErrorKind::Connect),
            (FaultKind::Unreachable, ErrorKind::Connect),
        ] {
            assert_eq!(Fault::new(fault, "x").into_dial_error().kind(), error);
        }
    }
}
