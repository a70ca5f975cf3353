//! What a server knows of a connection's consumer, and the requests of a server that leaves the rest to its connection.

use super::{RequestId, ServerConnection, ServerEvent};
use crate::message::QueueName;
use crate::request::Request;
use crate::response::{Push, Response};

/// The consumer of a connection. One at a time: in the framed dialect a further Consume replaces the former, and servers of
/// the preamble dialect have one consumer per connection.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// The consume that was asked for last, until it is answered.
    asked: Option<Open>,
    /// The one that was accepted last, until it is cancelled.
    open: Option<Open>,
}

#[derive(Debug, Clone)]
struct Open {
    /// The id of the request.
    id: u32,
    queue: QueueName,
    /// Messages that may still be pushed; `None` where the dialect has no credit.
    credit: Option<u32>,
}

impl Subscription {
    pub(super) fn note_request(&mut self, id: u32, request: &Request, has_credit: bool) {
        match request {
            Request::Consume { queue, credit } => {
                self.asked = Some(Open {
                    id,
                    queue: queue.clone(),
                    credit: has_credit.then_some(*credit),
                });
            }
            Request::Flow { credit: more } => {
                // A client may grant before it has its answer.
                for credit in [&mut self.asked, &mut self.open].into_iter().flatten() {
                    credit.credit = credit.credit.map(|credit| credit.saturating_add(*more));
                }
            }
            Request::CancelConsume => *self = Self::default(),
            _ => {}
        }
    }

    pub(super) fn note_response(&mut self, id: u32, response: &Response) {
        if let Some(asked) = self.asked.take_if(|asked| asked.id == id)
            && let Response::Consume { .. } = response
        {
            self.open = Some(asked);
        }
    }

    pub(super) fn note_push(&mut self, consume: u32, push: &Push) {
        let open = self.open.as_mut().filter(|open| open.id == consume);
        if let Some(credit) = open.and_then(|open| open.credit.as_mut()) {
            *credit = credit.saturating_sub(u32::try_from(push.deliveries.len()).unwrap_or(u32::MAX));
        }
    }
}

impl ServerConnection {
    /// The next request to be answered, for servers that decide on nothing else: as real servers without keys do, handshakes
    /// and keys are accepted, heartbeats answered, requests that cannot be read refused (or the connection closed), and what
    /// is never answered is noted for [`consumer_queue`](Self::consumer_queue). Use this or
    /// [`poll_event`](Self::poll_event).
    #[must_use]
    pub fn poll_request(&mut self) -> Option<(RequestId, Request)> {
        while let Some(event) = self.poll_event() {
            match event {
                ServerEvent::Opened { .. } => self.accept(),
                ServerEvent::Malformed {
                    id,
                    answer: Some(refusal),
                    ..
                } => self.respond_error(id, &refusal),
                ServerEvent::Malformed { answer: None, .. } => self.close(),
                ServerEvent::Request {
                    request: Request::CancelConsume | Request::Flow { .. },
                    ..
                }
                | ServerEvent::Closed => {}
                ServerEvent::Request { id, request } => match routine(&request) {
                    // Never fails: neither answer has a body.
                    Some(response) => drop(self.respond(id, &response)),
                    None => return Some((id, request)),
                },
            }
        }
        None
    }

    /// The queue whose next delivery can be [pushed](Self::push) now: a consume was answered and is not cancelled, the
    /// client granted credit (preamble dialect), and not too much output waits.
    #[must_use]
    pub fn consumer_queue(&self) -> Option<&QueueName> {
        let open = self.subscription.open.as_ref()?;
        let may_push = self.open_codec().is_some() && !self.is_blocked() && open.credit != Some(0);
        may_push.then_some(&open.queue)
    }
}

/// The answer to what every server without keys answers alike.
fn routine(request: &Request) -> Option<Response> {
    match request {
        Request::Heartbeat => Some(Response::Heartbeat),
        Request::Authenticate(_) => Some(Response::Authenticated),
        _ => None,
    }
}
