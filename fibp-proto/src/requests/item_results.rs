//! What a server says of the items of a batch.

use std::vec;

use super::work::BatchKind;
use crate::error::{Error, ErrorKind, Outcome};
use crate::message::MessageId;
use crate::response::{ItemResult, Response, ServerError};

/// What the server says of the items of a batch, in order, with something for every item however many it sent.
pub(super) struct ItemResults {
    kind: BatchKind,
    /// Of messages.
    enqueued: vec::IntoIter<ItemResult<MessageId>>,
    /// Of acks and nacks.
    settled: vec::IntoIter<ItemResult<()>>,
    /// For items that got none; `None` if the server should have said more.
    rest: Option<Error>,
}

impl ItemResults {
    pub(super) fn of(kind: BatchKind, response: Result<Response, Error>) -> Self {
        let (mut enqueued, mut settled) = (Vec::new(), Vec::new());
        let rest = match (kind, response) {
            (BatchKind::Enqueue, Ok(Response::Enqueue(results))) => {
                enqueued = results;
                whole_refusal(&enqueued)
            }
            (BatchKind::Ack | BatchKind::Nack, Ok(Response::Ack(results) | Response::Nack(results))) => {
                settled = results;
                whole_refusal(&settled)
            }
            (_, Ok(_)) => Some(missing("the answer belongs to another operation")),
            (_, Err(error)) => Some(error),
        };
        Self {
            kind,
            enqueued: enqueued.into_iter(),
            settled: settled.into_iter(),
            rest,
        }
    }

    /// For acks or nacks that are done whatever the server says: it has nothing to say of them.
    pub(super) fn none(kind: BatchKind) -> Self {
        Self {
            kind,
            enqueued: Vec::new().into_iter(),
            settled: Vec::new().into_iter(),
            rest: None,
        }
    }

    pub(super) fn kind(&self) -> BatchKind {
        self.kind
    }

    /// Whether it accepts the next items, so many.
    pub(super) fn accepts(&self, items: usize) -> bool {
        match self.kind {
            BatchKind::Enqueue => all_ok(self.enqueued.as_slice(), items),
            BatchKind::Ack | BatchKind::Nack => all_ok(self.settled.as_slice(), items),
        }
    }

    /// Passes the next items, all of which it accepts: their ids if they are messages.
    pub(super) fn ids(&mut self, items: usize) -> impl Iterator<Item = MessageId> {
        self.enqueued.by_ref().take(items).filter_map(Result::ok)
    }

    /// Passes the next item if it refuses that, and says why.
    pub(super) fn next_refusal(&mut self) -> Option<Error> {
        let refused = match self.kind {
            // The result stays: it holds the id, which `ids` takes out. Results of settles hold nothing.
            BatchKind::Enqueue if self.accepts(1) => return None,
            BatchKind::Enqueue => self.enqueued.next().and_then(Result::err),
            BatchKind::Ack | BatchKind::Nack => match self.settled.next() {
                Some(Ok(())) => return None,
                refused => refused.and_then(Result::err),
            },
        };
        Some(match refused {
            Some(error) => Error::from_server(*error),
            None => {
                // What was sent and not answered for may have been done: that is for the caller to find out.
                let fewer = || missing("the server answered fewer results than there were items");
                self.rest.get_or_insert_with(fewer).clone()
            }
        })
    }
}

/// Whether the first of them, so many, are good. What a server says of more items than there were is nobody's.
fn all_ok<R>(results: &[ItemResult<R>], items: usize) -> bool {
    results
        .get(..items)
        .is_some_and(|results| results.iter().all(Result::is_ok))
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
