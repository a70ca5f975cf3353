//! What a caller makes of the reply it waited for.

use fibp_proto::link::{CloseReport, Reply};
use fibp_proto::{Error, ErrorKind, Message, MessageId, Outcome, Response, SendError};

use crate::waiter::Token;

/// A reply, or `None` if the link is gone and the reply with it.
#[derive(Debug)]
pub(crate) struct Answer(pub(crate) Option<Reply<Token>>);

impl Answer {
    pub(crate) fn opened(self) -> Result<(), Error> {
        match self.0 {
            Some(Reply::Opened(result)) => result,
            other => Err(missing(other)),
        }
    }

    pub(crate) fn response(self) -> Result<Response, Error> {
        match self.0 {
            Some(Reply::Response(result)) => result,
            other => Err(missing(other)),
        }
    }

    pub(crate) fn enqueued(self) -> Result<MessageId, SendError> {
        match self.0 {
            Some(Reply::Enqueued(result)) => result,
            other => Err(without_message(missing(other))),
        }
    }

    pub(crate) fn enqueued_many(self) -> Vec<Result<MessageId, SendError>> {
        match self.0 {
            Some(Reply::EnqueuedMany(results)) => results,
            other => vec![Err(without_message(missing(other)))],
        }
    }

    pub(crate) fn settled(self) -> Result<(), Error> {
        match self.0 {
            Some(Reply::Settled(result)) => result,
            other => Err(missing(other)),
        }
    }

    pub(crate) fn settled_many(self) -> Vec<Result<(), Error>> {
        match self.0 {
            Some(Reply::SettledMany(results)) => results,
            other => vec![Err(missing(other))],
        }
    }

    pub(crate) fn admitted(self) -> Result<(), SendError> {
        match self.0 {
            Some(Reply::Admitted(result)) => result.map_err(|(error, _receipt)| error),
            other => Err(without_message(missing(other))),
        }
    }

    pub(crate) fn flushed(self) -> Result<(), Error> {
        match self.0 {
            Some(Reply::Flushed(result)) => result,
            other => Err(missing(other)),
        }
    }

    pub(crate) fn closed(self) -> CloseReport {
        match self.0 {
            Some(Reply::Closed(report)) => report,
            _ => CloseReport::default(),
        }
    }
}

/// Neither happens unless the link itself is gone or wrong.
fn missing(reply: Option<Reply<Token>>) -> Error {
    let error = match reply {
        None => Error::new(ErrorKind::Closed, "the link is gone"),
        Some(_) => Error::new(ErrorKind::Protocol, "the link answered another question"),
    };
    error.with_outcome(Outcome::Unknown)
}

/// For a reply that is gone, and the message with it.
fn without_message(error: Error) -> SendError {
    SendError {
        message: Message::new("", ""),
        error,
    }
}
