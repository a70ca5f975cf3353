//! Failures on demand: what a request is refused with that was not even tried.

use fibp_proto::admin::PermissionKind;
use fibp_proto::{ErrorKind, QueueName, Request, Response};

use super::refusal::{Forbidden, ItemRefusal, Refusal, ThrottleFault};
use super::render::Style;
use super::{BrokerMachine, Reaction, reaches_scheduler};

impl BrokerMachine {
    /// The refusal of this kind, as servers word it for this request.
    pub(super) fn fail(&self, style: Style, kind: ErrorKind, request: &Request) -> Reaction {
        if let Some(response) = fail_items(style, kind, request) {
            return Reaction::Answer(response);
        }
        let op = request.op();
        let queue = queue_of(request);
        Reaction::Refuse(match kind {
            ErrorKind::Disconnected => return Reaction::Close,
            ErrorKind::Timeout => return Reaction::Silence,
            ErrorKind::Auth => Refusal::InvalidApiKey,
            ErrorKind::Forbidden => Refusal::Forbidden(match request {
                Request::Enqueue(_) => Forbidden::Queue(PermissionKind::Produce, queue),
                Request::Consume { .. } | Request::Ack(_) | Request::Nack(_) => {
                    Forbidden::Queue(PermissionKind::Consume, queue)
                }
                _ => Forbidden::Admin,
            }),
            ErrorKind::QueueNotFound => Refusal::QueueNotFound(queue),
            ErrorKind::QueueExists => Refusal::QueueExists(queue),
            ErrorKind::NotADeadLetterQueue => Refusal::NotADeadLetterQueue(queue),
            ErrorKind::Lua => Refusal::ScriptsUnsupported,
            ErrorKind::ApiKeyNotFound => Refusal::ApiKeyNotFound("unknown".to_owned()),
            ErrorKind::NotLeader => Refusal::NoLeader,
            ErrorKind::InvalidArgument => Refusal::Throttle(ThrottleFault::NoName),
            ErrorKind::Unsupported => Refusal::UnknownOperation(0),
            ErrorKind::Overloaded => return self.overload(style, op),
            _ => Refusal::Storage {
                in_scheduler: reaches_scheduler(op),
            },
        })
    }
}

/// The failure of every item, for kinds that servers report item by item.
fn fail_items(style: Style, kind: ErrorKind, request: &Request) -> Option<Response> {
    let failure = |queue: &QueueName, id: &str| {
        style.item(&match kind {
            ErrorKind::QueueNotFound => ItemRefusal::QueueNotFound(QueueName::clone(queue)),
            ErrorKind::NotLeader => ItemRefusal::NoLeader,
            ErrorKind::Server => ItemRefusal::Storage,
            _ => ItemRefusal::NoLease {
                id: id.to_owned(),
                queue: QueueName::clone(queue),
            },
        })
    };
    let itemised = matches!(
        kind,
        ErrorKind::QueueNotFound | ErrorKind::NotLeader | ErrorKind::Server
    );
    let unleased = matches!(kind, ErrorKind::MessageNotFound | ErrorKind::LeaseLost);
    match request {
        Request::Enqueue(messages) if itemised => {
            let results = messages.iter().map(|message| Err(failure(&message.queue, "")));
            Some(Response::Enqueue(results.collect()))
        }
        Request::Ack(items) if itemised || unleased => {
            let results = items.iter().map(|item| Err(failure(&item.queue, item.id.as_str())));
            Some(Response::Ack(results.collect()))
        }
        Request::Nack(items) if itemised || unleased => {
            let results = items.iter().map(|item| Err(failure(&item.queue, item.id.as_str())));
            Some(Response::Nack(results.collect()))
        }
        _ => None,
    }
}

/// The first queue that a request names.
fn queue_of(request: &Request) -> QueueName {
    let queue = match request {
        Request::Enqueue(messages) => messages.first().map(|message| &message.queue),
        Request::Ack(items) => items.first().map(|item| &item.queue),
        Request::Nack(items) => items.first().map(|item| &item.queue),
        Request::Consume { queue, .. } | Request::DeleteQueue { queue } | Request::QueueStats { queue } => Some(queue),
        Request::CreateQueue(spec) => Some(&spec.name),
        Request::Redrive { dlq, .. } => Some(dlq),
        _ => None,
    };
    queue.map_or_else(|| "".into(), QueueName::clone)
}
