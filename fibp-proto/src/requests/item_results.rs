//! What a server says of the items of a batch.

use super::work::BatchKind;
use crate::error::{Error, ErrorKind, Outcome};
use crate::message::MessageId;
use crate::response::{Response, ServerError};

/// What the server says of the items of a batch, in order, with something for every item however many it sent.
pub(super) struct ItemResults {
    said: Said,
    /// For items that got none; `None` if the server should have said more.
    rest: Option<Error>,
}

enum Said {
    Enqueued(std::vec::IntoIter<Result<MessageId, Box<ServerError>>>),
    Settled(std::vec::IntoIter<Result<(), Box<ServerError>>>),
    Nothing,
}

impl ItemResults {
    pub(super) fn of(kind: BatchKind, response: Result<Response, Error>) -> Self {
        let (rest, said) = match (kind, response) {
            (BatchKind::Enqueue, Ok(Response::Enqueue(results))) => {
                (whole_refusal(&results), Said::Enqueued(results.into_iter()))
            }
            (BatchKind::Ack | BatchKind::Nack, Ok(Response::Ack(results) | Response::Nack(results))) => {
                (whole_refusal(&results), Said::Settled(results.into_iter()))
            }
            (_, Ok(_)) => (Some(missing("the answer belongs to another operation")), Said::Nothing),
            (_, Err(error)) => (Some(error), Said::Nothing),
        };
        Self { said, rest }
    }

    /// The id of an enqueued message; none for what was settled.
    pub(super) fn next(&mut self) -> Result<Option<MessageId>, Error> {
        let said = match &mut self.said {
            Said::Enqueued(results) => results.next().map(|result| result.map(Some)),
            Said::Settled(results) => results.next().map(|result| result.map(|()| None)),
            Said::Nothing => None,
        };
        match said {
            Some(Ok(id)) => Ok(id),
            Some(Err(error)) => Err(Error::from_server(*error)),
            None => {
                let fewer = || missing("the server answered fewer results than there were items");
                Err(self.rest.get_or_insert_with(fewer).clone())
            }
        }
    }
}

fn missing(text: &str) -> Error {
    Error::new(ErrorKind::Protocol, text).with_outcome(Outcome::Unknown)
}

/// One refusal for a whole frame is how an empty queue name is answered (docs/protocol/preamble.md 1.5).
fn whole_refusal<R>(results: &[Result<R, Box<ServerError>>]) -> Option<Error> {
    match results {
        [Err(only)] if only.kind() == ErrorKind::InvalidArgument => Some(Error::from_server((**only).clone())),
        _ => None,
    }
}
