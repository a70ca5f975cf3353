//! Errors that give back what failed.

use core::fmt;

use super::{Error, ErrorKind, Outcome};

/// Why a message was not confirmed, with the message itself: nothing is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendError {
    /// The message, as it was given.
    pub message: crate::Message,
    /// Why it was not confirmed.
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

    /// Whether the same message may be confirmed when it is sent again later: see [`Error::is_retryable`]. Where the
    /// [`outcome`](Self::outcome) is unknown, that may store it twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.error.is_retryable()
    }
}

/// The text of the error itself.
impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

/// The chain of the error itself, whose text is this one's.
impl core::error::Error for SendError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.error.source()
    }
}

impl From<SendError> for Error {
    fn from(failed: SendError) -> Self {
        failed.error
    }
}

/// Why an ack or a nack is not confirmed, with what it was tried on: nothing is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckError<D> {
    /// The delivery, or whatever settles it, to try again with.
    pub delivery: D,
    /// Why it is not confirmed.
    pub error: Error,
}

impl<D> AckError<D> {
    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// What is known of the ack's or nack's effect.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.error.outcome()
    }

    /// Whether the same ack or nack may be confirmed when it is tried again later: see [`Error::is_retryable`].
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.error.is_retryable()
    }
}

/// The text of the error itself.
impl<D> fmt::Display for AckError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

/// The chain of the error itself, whose text is this one's.
impl<D: fmt::Debug> core::error::Error for AckError<D> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.error.source()
    }
}

impl<D> From<AckError<D>> for Error {
    fn from(failed: AckError<D>) -> Self {
        failed.error
    }
}
