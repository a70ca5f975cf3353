//! The one error type of the core and of every adapter.

mod context;
mod display;
mod failed;
mod text;

use alloc::borrow::Cow;
use alloc::sync::Arc;
use core::fmt;

use crate::endpoint::Endpoint;
use crate::message::MessageId;
use crate::prelude::*;
use crate::request::Op;
use crate::response::ServerError;

pub(crate) use context::Doing;
pub use failed::{AckError, SendError};
pub(crate) use text::quoted;

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
#[non_exhaustive]
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
///
/// Its text says what was being done, to which queue or message, at which address, what happened and what to do about
/// it, each once. Texts of the server are quoted and escaped. What caused it is part of that text, and therefore not
/// [`source`](std::error::Error::source) but [`get_ref`](Self::get_ref): printing the chain of sources repeats nothing.
///
/// Errors are equal when they say the same; [`get_ref`](Self::get_ref) is not compared.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    outcome: Outcome,
    message: Arc<str>,
    server: Option<ServerError>,
    source: Option<Arc<dyn core::error::Error + Send + Sync>>,
    /// What was being done, as far as it is known.
    doing: Option<Doing>,
    /// With whom.
    at: Option<Endpoint>,
    /// There was no connection ready for requests yet.
    connecting: bool,
    /// How often that was tried; 0: not told.
    attempts: u32,
    /// What to do, where the kind alone does not tell.
    remedy: Option<Cow<'static, str>>,
}

impl Inner {
    fn new(kind: ErrorKind, outcome: Outcome, message: String, server: Option<ServerError>) -> Self {
        Self {
            kind,
            outcome,
            message: message.into(),
            server,
            source: None,
            doing: None,
            at: None,
            connecting: false,
            attempts: 0,
            remedy: None,
        }
    }
}

impl PartialEq for Inner {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            kind,
            outcome,
            message,
            server,
            source: _,
            doing,
            at,
            connecting,
            attempts,
            remedy,
        } = self;
        (*kind, *outcome, *connecting, *attempts) == (other.kind, other.outcome, other.connecting, other.attempts)
            && (message, server, doing, at, remedy)
                == (&other.message, &other.server, &other.doing, &other.at, &other.remedy)
    }
}

impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Error {}

impl Error {
    /// A new error with [`Outcome::NotSent`].
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner::new(kind, Outcome::NotSent, message.into(), None)))
    }

    /// The error that a server's refusal amounts to: [`Outcome::Rejected`], unless the server itself is
    /// [in doubt](ServerError::is_in_doubt).
    #[must_use]
    pub fn from_server(error: ServerError) -> Self {
        let outcome = if error.is_in_doubt() {
            Outcome::Unknown
        } else {
            Outcome::Rejected
        };
        Self(Arc::new(Inner::new(error.kind(), outcome, String::new(), Some(error))))
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
        Arc::make_mut(&mut self.0).message = message.into().into();
        self
    }

    /// The same error, of this operation unless another one is known.
    pub(crate) fn during(mut self, doing: impl FnOnce() -> Doing) -> Self {
        if self.0.doing.is_none() {
            Arc::make_mut(&mut self.0).doing = Some(doing());
        }
        self
    }

    /// The same error, at this server unless another one is known.
    pub(crate) fn at(mut self, endpoint: Option<&Endpoint>) -> Self {
        if let (None, Some(endpoint)) = (&self.0.at, endpoint) {
            Arc::make_mut(&mut self.0).at = Some(endpoint.clone());
        }
        self
    }

    /// The same error, of an attempt to connect.
    pub(crate) fn connecting(mut self) -> Self {
        if !self.0.connecting {
            Arc::make_mut(&mut self.0).connecting = true;
        }
        self
    }

    /// The same error, with what happened before it.
    pub(crate) fn after(mut self, before: &str) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.message = format!("{}; before that: {before}", inner.message).into();
        self
    }

    /// The same error as that of several servers, which `causes` lists.
    pub(crate) fn of_many_servers(mut self, causes: String) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.message = causes.into();
        inner.server = None;
        inner.at = None;
        self
    }

    /// The same error after so many attempts to connect.
    pub(crate) fn with_attempts(mut self, attempts: u32) -> Self {
        if self.0.attempts != attempts {
            Arc::make_mut(&mut self.0).attempts = attempts;
        }
        self
    }

    /// The same error with this remedy, unless it has one.
    pub(crate) fn with_remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        if self.0.remedy.is_none() {
            Arc::make_mut(&mut self.0).remedy = Some(remedy.into());
        }
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

    /// The same error with the error that caused it, whose text the message includes: see [`get_ref`](Self::get_ref).
    #[must_use]
    pub fn with_source(mut self, source: Arc<dyn core::error::Error + Send + Sync>) -> Self {
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

    /// What was being done, if it was an operation of a caller's.
    #[must_use]
    pub fn operation(&self) -> Option<Op> {
        self.0.doing.as_ref().map(|doing| doing.op)
    }

    /// The queue that it was done to.
    #[must_use]
    pub fn queue(&self) -> Option<&str> {
        self.0.doing.as_ref()?.queue().map(|queue| &**queue)
    }

    /// The message that it was done to, for acks and nacks.
    #[must_use]
    pub fn message_id(&self) -> Option<&MessageId> {
        self.0.doing.as_ref()?.message_id()
    }

    /// The server that answered, was lost, or was not reached.
    #[must_use]
    pub fn address(&self) -> Option<&Endpoint> {
        self.0.at.as_ref()
    }

    /// The operating system's or a library's own error that caused this one, for downcasting. Its text is part of this
    /// error's text.
    #[must_use]
    pub fn get_ref(&self) -> Option<&(dyn core::error::Error + Send + Sync + 'static)> {
        self.0.source.as_deref()
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

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("outcome", &self.0.outcome)
            .field("message", &self.0.message)
            .field("server", &self.0.server)
            .field("doing", &self.0.doing)
            .field("at", &self.0.at)
            .field("attempts", &self.0.attempts)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl core::error::Error for Error {
    /// The first of the causes of [`get_ref`](Self::get_ref) that says something which this error's own text does not.
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        let said = self.to_string();
        let mut source = self.get_ref()?.source();
        while let Some(cause) = source
            && said.contains(&cause.to_string())
        {
            source = cause.source();
        }
        source
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use core::error::Error as _;

    use super::*;

    /// An error with the text of its cause in its own, as some libraries have, or without.
    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Self>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl core::error::Error for Layer {
        fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
            let cause = self.1.as_ref()?;
            Some(&**cause)
        }
    }

    #[test]
    fn the_chain_of_sources_repeats_nothing() {
        let cause = Layer("no route", Some(Box::new(Layer("no route", None))));
        let fault = crate::Fault::from_source(
            crate::FaultKind::Other,
            Layer("connect: no route", Some(Box::new(cause))),
        );
        assert_eq!(fault.text, "connect: no route");
        assert!(fault.into_dial_error().source().is_none());
        let cause = Layer("no such host", None);
        let fault = crate::Fault::from_source(crate::FaultKind::Resolve, Layer("no address", Some(Box::new(cause))));
        assert_eq!(fault.text, "no address: no such host");
        assert!(fault.into_dial_error().source().is_none());

        // A text of ours that leaves out what the cause says.
        let news = Layer("cable unplugged", None);
        let source = Arc::new(Layer("no route", Some(Box::new(news))));
        let error = Error::new(ErrorKind::Connect, "no route").with_source(source);
        assert_eq!(error.source().unwrap().to_string(), "cable unplugged");
        let failed = SendError {
            message: crate::Message::new("orders", ""),
            error,
        };
        assert_eq!(failed.to_string(), failed.error.to_string());
        assert_eq!(failed.source().unwrap().to_string(), "cable unplugged");
    }

    #[test]
    fn errors_are_equal_when_they_say_the_same() {
        let error = || Error::new(ErrorKind::Timeout, "late");
        assert_eq!(error(), error().with_source(Arc::new(fmt::Error)));
        assert_ne!(error(), error().with_outcome(Outcome::Unknown));
        assert_ne!(error(), error().connecting());
    }
}
