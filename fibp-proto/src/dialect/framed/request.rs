//! Requests: which body belongs to which.

use super::{admin, hot};
use crate::dialect::EncodeError;
use crate::dialect::put::{Body, Put};
use crate::frame::{DecodeError, Frame, Reader};
use crate::request::{Op, Request};

/// The body of a request that the dialect has an opcode for.
pub(super) struct RequestBody<'a>(pub(super) &'a Request);

impl Body for RequestBody<'_> {
    fn put<P: Put>(&self, to: &mut P) -> Result<(), EncodeError> {
        match self.0 {
            Request::Enqueue(messages) => hot::put_enqueue(to, messages),
            Request::Ack(items) => hot::put_ack(to, items),
            Request::Nack(items) => hot::put_nack(to, items),
            Request::Consume { queue, .. } | Request::DeleteQueue { queue } | Request::QueueStats { queue } => {
                to.str16("queue name", queue)
            }
            Request::CreateQueue(spec) => admin::put_queue_spec(to, spec),
            Request::Redrive { dlq, count } => {
                to.str16("queue name", dlq)?;
                to.u64(*count);
                Ok(())
            }
            Request::SetConfig { key, value } => {
                to.str16("configuration key", key)?;
                to.str16("configuration value", value)
            }
            Request::GetConfig { key } => to.str16("configuration key", key),
            Request::ListConfig { prefix } => to.str16("configuration prefix", prefix),
            Request::CreateApiKey(spec) => admin::put_api_key_spec(to, spec),
            Request::RevokeApiKey { key_id } | Request::GetAcl { key_id } => to.str16("API key id", key_id),
            Request::SetAcl { key_id, permissions } => {
                to.str16("API key id", key_id)?;
                admin::put_permissions(to, permissions)
            }
            Request::CancelConsume
            | Request::Heartbeat
            | Request::Goodbye
            | Request::ListQueues
            | Request::ListApiKeys
            | Request::Flow { .. }
            | Request::Authenticate(_)
            | Request::ProbeAdmin => Ok(()),
        }
    }
}

/// Reads the body of a request for `op`.
pub(super) fn decode(op: Op, frame: &Frame) -> Result<Request, DecodeError> {
    let mut body = Reader::new(&frame.body);
    Ok(match op {
        Op::Enqueue => hot::read_enqueue(frame)?,
        Op::Ack => hot::read_ack(frame)?,
        Op::Nack => hot::read_nack(frame)?,
        Op::Consume => Request::Consume {
            queue: body.str16()?.into(),
            credit: 0,
        },
        Op::CancelConsume => Request::CancelConsume,
        Op::Heartbeat => Request::Heartbeat,
        Op::Goodbye => Request::Goodbye,
        Op::CreateQueue => Request::CreateQueue(admin::read_queue_spec(&mut body)?),
        Op::DeleteQueue => Request::DeleteQueue {
            queue: body.str16()?.into(),
        },
        Op::QueueStats => Request::QueueStats {
            queue: body.str16()?.into(),
        },
        Op::ListQueues => Request::ListQueues,
        Op::Redrive => Request::Redrive {
            dlq: body.str16()?.into(),
            count: body.u64()?,
        },
        Op::SetConfig => Request::SetConfig {
            key: admin::text(&mut body)?,
            value: admin::text(&mut body)?,
        },
        Op::GetConfig => Request::GetConfig {
            key: admin::text(&mut body)?,
        },
        Op::ListConfig => Request::ListConfig {
            prefix: admin::text(&mut body)?,
        },
        Op::CreateApiKey => Request::CreateApiKey(admin::read_api_key_spec(&mut body)?),
        Op::RevokeApiKey => Request::RevokeApiKey {
            key_id: admin::text(&mut body)?,
        },
        Op::ListApiKeys => Request::ListApiKeys,
        Op::SetAcl => Request::SetAcl {
            key_id: admin::text(&mut body)?,
            permissions: admin::read_permissions(&mut body)?,
        },
        Op::GetAcl => Request::GetAcl {
            key_id: admin::text(&mut body)?,
        },
        Op::Flow | Op::Authenticate | Op::ProbeAdmin => return Err(DecodeError::Invalid("operation")),
    })
}

/// What a server calls the frame when it cannot read it.
pub(super) const fn name(op: Op) -> &'static str {
    match op {
        Op::Enqueue => "enqueue",
        Op::Consume => "consume",
        Op::CancelConsume => "cancel_consume",
        Op::Flow => "flow",
        Op::Ack => "ack",
        Op::Nack => "nack",
        Op::Heartbeat => "ping",
        Op::Authenticate => "authenticate",
        Op::Goodbye => "disconnect",
        Op::ProbeAdmin => "probe",
        Op::CreateQueue => "create_queue",
        Op::DeleteQueue => "delete_queue",
        Op::QueueStats => "get_stats",
        Op::ListQueues => "list_queues",
        Op::Redrive => "redrive",
        Op::SetConfig => "set_config",
        Op::GetConfig => "get_config",
        Op::ListConfig => "list_config",
        Op::CreateApiKey => "create_api_key",
        Op::RevokeApiKey => "revoke_api_key",
        Op::ListApiKeys => "list_api_keys",
        Op::SetAcl => "set_acl",
        Op::GetAcl => "get_acl",
    }
}
