//! The one error type of the core and of every adapter.

use std::fmt;
use std::sync::Arc;

use crate::response::ServerError;

/// What went wrong, in terms a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is missing, contradictory or malformed. Nothing was attempted.
    Config,
    /// A host name could not be resolved.
    Resolve,
    /// No TCP connection could be opened.
    Connect,
    /// TLS could not be established: certificate, host name, version or alert.
    Tls,
    /// The API key is missing, wrong or expired.
    Auth,
    /// The API key lacks the permission.
    Forbidden,
    /// The peer does not speak FIBP.
    NotFila,
    /// The peer speaks FIBP (or another Fila protocol), but not the configured dialect or version.
    WrongDialect,
    /// The queue does not exist.
    QueueNotFound,
    /// The queue exists already.
    QueueExists,
    /// The message is not there, or not leased.
    MessageNotFound,
    /// The lease of a delivery is gone: it expired, or the message was settled elsewhere.
    LeaseLost,
    /// Redrive was asked of a queue that is no dead-letter queue.
    NotADeadLetterQueue,
    /// The API key id does not exist.
    ApiKeyNotFound,
    /// An argument was refused, by the client or by the server.
    InvalidArgument,
    /// A Lua script was refused.
    Lua,
    /// The node does not lead the queue, and no leader could be followed to.
    NotLeader,
    /// The server, or a local bound (buffer, in-flight limit), has no room.
    Overloaded,
    /// A message, request or answer exceeds a size limit.
    TooLarge,
    /// The deadline passed.
    Timeout,
    /// The connection was lost, or there was none.
    Disconnected,
    /// The client, producer or consumer was closed.
    Closed,
    /// The peer broke the protocol.
    Protocol,
    /// The server does not know this operation.
    Unsupported,
    /// The server failed for a reason of its own (storage, cluster).
    Server,
}

impl ErrorKind {
    const fn phrase(self) -> &'static str {
        match self {
            Self::Config => "invalid configuration",
            Self::Resolve => "name resolution failed",
            Self::Connect => "connect failed",
            Self::Tls => "TLS failed",
            Self::Auth => "authentication failed",
            Self::Forbidden => "permission denied",
            Self::NotFila => "not a Fila server",
            Self::WrongDialect => "wrong FIBP dialect",
            Self::QueueNotFound => "queue not found",
            Self::QueueExists => "queue already exists",
            Self::MessageNotFound => "message not found",
            Self::LeaseLost => "lease lost",
            Self::NotADeadLetterQueue => "not a dead-letter queue",
            Self::ApiKeyNotFound => "API key not found",
            Self::InvalidArgument => "invalid argument",
            Self::Lua => "Lua script refused",
            Self::NotLeader => "not the leader",
            Self::Overloaded => "overloaded",
            Self::TooLarge => "too large",
            Self::Timeout => "timed out",
            Self::Disconnected => "disconnected",
            Self::Closed => "closed",
            Self::Protocol => "protocol violation",
            Self::Unsupported => "not supported by this server",
            Self::Server => "server error",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.phrase())
    }
}

/// What is known of a failed request's effect on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The request never left this process in full: it had no effect.
    NotSent,
    /// The server answered and refused: it had no effect.
    Rejected,
    /// The request was sent and no answer came, or one that says that the server lost track of it
    /// ([`ServerError::is_in_doubt`]): it may or may not have been executed.
    Unknown,
}

/// The error of every fallible operation. Cheap to clone: one loss may fail many waiters.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    outcome: Outcome,
    message: String,
    server: Option<ServerError>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A new error with [`Outcome::NotSent`].
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            outcome: Outcome::NotSent,
            message: message.into(),
            server: None,
            source: None,
        }))
    }

    /// The error that a server's refusal amounts to: [`Outcome::Rejected`], unless the server itself is
    /// [in doubt](ServerError::is_in_doubt).
    #[must_use]
    pub fn from_server(error: ServerError) -> Self {
        Self(Arc::new(Inner {
            kind: error.kind(),
            outcome: if error.is_in_doubt() {
                Outcome::Unknown
            } else {
                Outcome::Rejected
            },
            message: String::new(),
            server: Some(error),
            source: None,
        }))
    }

    /// The same error with another outcome.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Self {
        if self.0.outcome != outcome {
            Arc::make_mut(&mut self.0).outcome = outcome;
        }
        self
    }

    /// The same error with words of ours before the server's.
    pub(crate) fn with_message(mut self, message: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).message = message.into();
        self
    }

    /// The same error of another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        if self.0.kind != kind {
            Arc::make_mut(&mut self.0).kind = kind;
        }
        self
    }

    /// The same error with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: Arc<dyn std::error::Error + Send + Sync>) -> Self {
        Arc::make_mut(&mut self.0).source = Some(source);
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What is known of the request's effect.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// Whether the same request may succeed when tried again later, here or on another connection.
    ///
    /// This says nothing of duplicates: see [`Error::outcome`].
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Resolve
                | ErrorKind::Connect
                | ErrorKind::NotLeader
                | ErrorKind::Overloaded
                | ErrorKind::Timeout
                | ErrorKind::Disconnected
        )
    }

    /// The numeric code the server sent, if its dialect has codes.
    #[must_use]
    pub fn server_code(&self) -> Option<u16> {
        self.0.server.as_ref().and_then(ServerError::code)
    }

    /// The refusal itself.
    pub(crate) fn server(&self) -> Option<&ServerError> {
        self.0.server.as_ref()
    }

    /// The text the server sent.
    #[must_use]
    pub fn server_text(&self) -> Option<&str> {
        self.0.server.as_ref().map(ServerError::text)
    }

    /// The metadata the server sent (framed dialect), unknown keys included.
    #[must_use]
    pub fn metadata(&self) -> &[(String, String)] {
        self.0.server.as_ref().map_or(&[], ServerError::metadata)
    }

    /// The address of the queue's leader, when the server named one.
    #[must_use]
    pub fn leader(&self) -> Option<&str> {
        self.0.server.as_ref().and_then(ServerError::leader)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.kind, f)?;
        if !self.0.message.is_empty() {
            write!(f, ": {}", self.0.message)?;
        }
        if let Some(server) = &self.0.server {
            write!(f, ": {server}")?;
        }
        if self.0.outcome == Outcome::Unknown {
            f.write_str(" (outcome unknown)")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("outcome", &self.0.outcome)
            .field("message", &self.0.message)
            .field("server", &self.0.server)
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| {
            let source: &(dyn std::error::Error + 'static) = source.as_ref();
            source
        })
    }
}

/// Why a message was not confirmed, with the message itself: nothing is lost.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{error}")]
pub struct SendError {
    /// The message, as it was given.
    pub message: crate::Message,
    /// Why it was not confirmed.
    #[source]
    pub error: Error,
}

impl SendError {
    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// What is known of the message's outcome.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.error.outcome()
    }
}

impl From<SendError> for Error {
    fn from(failed: SendError) -> Self {
        failed.error
    }
}

/// Why an ack or a nack is not confirmed, with what it was tried on: nothing is lost.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{error}")]
pub struct AckError<D> {
    /// The delivery, or whatever settles it, to try again with.
    pub delivery: D,
    /// Why it is not confirmed.
    #[source]
    pub error: Error,
}

impl<D> AckError<D> {
    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }
}

impl<D> From<AckError<D>> for Error {
    fn from(failed: AckError<D>) -> Self {
        failed.error
    }
}
