//! What an error was about: the operation, its object and the server.

use alloc::sync::Arc;
use core::fmt;

use super::text::quoted;
use crate::message::{MessageId, QueueName};
use crate::request::{AckItem, NackItem, Op, Request};

/// What was being done, and to what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Doing {
    pub(super) op: Op,
    pub(super) object: Object,
}

/// What an operation is done to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Object {
    None,
    Queue(QueueName),
    Message(QueueName, MessageId),
    /// A configuration key, an API key's id or its label.
    Named(Arc<str>),
}

impl Doing {
    /// An operation on a queue.
    pub(crate) fn on_queue(op: Op, queue: &QueueName) -> Self {
        Self {
            op,
            object: Object::Queue(queue.clone()),
        }
    }

    /// An ack or a nack.
    pub(crate) fn on_message(op: Op, queue: &QueueName, id: &MessageId) -> Self {
        Self {
            op,
            object: Object::Message(queue.clone(), id.clone()),
        }
    }

    /// What a request does.
    pub(crate) fn request(request: &Request) -> Self {
        let object = match request {
            Request::Consume { queue, .. }
            | Request::EnqueueNone { queue }
            | Request::DeleteQueue { queue }
            | Request::QueueStats { queue } => Object::Queue(queue.clone()),
            Request::CreateQueue(spec) => Object::Queue(spec.name.clone()),
            Request::Redrive { dlq, .. } => Object::Queue(dlq.clone()),
            Request::Enqueue(messages) => match messages.as_slice() {
                [first, ..] => Object::Queue(first.queue.clone()),
                [] => Object::None,
            },
            Request::Ack(items) => match items.as_slice() {
                [AckItem { queue, id }] => Object::Message(queue.clone(), id.clone()),
                _ => Object::None,
            },
            Request::Nack(items) => match items.as_slice() {
                [NackItem { queue, id, .. }] => Object::Message(queue.clone(), id.clone()),
                _ => Object::None,
            },
            Request::SetConfig { key, .. } | Request::GetConfig { key } => Object::Named(key.as_str().into()),
            Request::CreateApiKey(spec) => Object::Named(spec.name.as_str().into()),
            Request::RevokeApiKey { key_id } | Request::SetAcl { key_id, .. } | Request::GetAcl { key_id } => {
                Object::Named(key_id.as_str().into())
            }
            _ => Object::None,
        };
        Self {
            op: request.op(),
            object,
        }
    }

    pub(super) fn queue(&self) -> Option<&QueueName> {
        match &self.object {
            Object::Queue(queue) | Object::Message(queue, _) => Some(queue),
            Object::None | Object::Named(_) => None,
        }
    }

    pub(super) fn message_id(&self) -> Option<&MessageId> {
        match &self.object {
            Object::Message(_, id) => Some(id),
            Object::None | Object::Queue(_) | Object::Named(_) => None,
        }
    }

    /// Whether a text says nothing but what the operation was done to.
    pub(super) fn is_object(&self, text: &str) -> bool {
        match &self.object {
            Object::None => false,
            Object::Queue(queue) => text == &**queue,
            Object::Message(queue, id) => {
                let [name, id] = [&**queue, id.as_ref()];
                [name, id].contains(&text) || text == format!("no lease for message {id} in queue {name}")
            }
            Object::Named(name) => text == &**name,
        }
    }
}

/// As in `enqueue to "orders"`.
impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.op {
            Op::Handshake | Op::Authenticate | Op::ProbeAdmin => "connect",
            Op::Enqueue => "enqueue to",
            Op::Consume => "consume from",
            Op::CancelConsume => "stop consuming",
            Op::Flow => "grant credit",
            Op::Ack => "ack",
            Op::Nack => "nack",
            Op::Heartbeat => "heartbeat",
            Op::Goodbye => "disconnect",
            Op::CreateQueue => "create queue",
            Op::DeleteQueue => "delete queue",
            Op::QueueStats => "read the statistics of queue",
            Op::ListQueues => "list queues",
            Op::Redrive => "redrive queue",
            Op::SetConfig => "set configuration value",
            Op::GetConfig => "read configuration value",
            Op::ListConfig => "list configuration values",
            Op::CreateApiKey => "create API key",
            Op::RevokeApiKey => "revoke API key",
            Op::ListApiKeys => "list API keys",
            Op::SetAcl => "set the permissions of API key",
            Op::GetAcl => "read the permissions of API key",
        })?;
        match &self.object {
            Object::None if self.op == Op::Enqueue => f.write_str(" a queue"),
            Object::None => Ok(()),
            Object::Queue(name) | Object::Named(name) => write!(f, " {}", quoted(name)),
            Object::Message(queue, id) => write!(f, " message {} of {}", quoted(id.as_ref()), quoted(queue)),
        }
    }
}
