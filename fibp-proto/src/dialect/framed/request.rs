//! Requests: which body belongs to which.

use super::handshake::Handshake;
use super::{admin, data};
use crate::dialect::EncodeError;
use crate::dialect::encode::{Body, Encoder};
use crate::dialect::records::{encode_admin_request, read_admin_request};
use crate::frame::{DecodeError, Frame, Reader};
use crate::message::Secret;
use crate::request::{Op, Request};

/// The body of a request that the dialect has an opcode for.
pub(super) struct RequestBody<'a>(pub(super) &'a Request);

impl Body for RequestBody<'_> {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        match self.0 {
            Request::Enqueue(messages) => data::encode_enqueue(to, messages),
            // Each message names its own queue here.
            Request::EnqueueNone { .. } => data::encode_enqueue(to, &[]),
            Request::Handshake { version, key } => {
                let key = key.as_ref().map(Secret::expose);
                Handshake { version: *version, key }.encode(to)
            }
            Request::Ack(items) => data::encode_settlements(to, items),
            Request::Nack(items) => data::encode_settlements(to, items),
            Request::Consume { queue, .. } => to.str16("queue name", queue),
            Request::CancelConsume | Request::Heartbeat | Request::Goodbye => Ok(()),
            Request::CreateQueue(spec) => admin::encode_queue_spec(to, spec),
            request => encode_admin_request(to, request),
        }
    }
}

/// Reads the body of a request for `op`.
pub(super) fn decode(op: Op, frame: &Frame) -> Result<Request, DecodeError> {
    let mut body = Reader::new(&frame.body);
    Ok(match op {
        Op::Enqueue => Request::Enqueue(data::read_enqueue(frame)?),
        Op::Ack => Request::Ack(data::read_settlements(frame)?),
        Op::Nack => Request::Nack(data::read_settlements(frame)?),
        Op::Consume => Request::Consume {
            queue: body.str16()?.into(),
            credit: 0,
        },
        Op::CancelConsume => Request::CancelConsume,
        Op::Heartbeat => Request::Heartbeat,
        Op::Goodbye => Request::Goodbye,
        Op::CreateQueue => Request::CreateQueue(admin::read_queue_spec(&mut body)?),
        op => read_admin_request(op, &mut body)?,
    })
}

/// What a server calls the frame when it cannot read it.
pub(super) const fn name(op: Op) -> &'static str {
    match op {
        Op::Enqueue => "enqueue",
        Op::Consume => "consume",
        Op::Ack => "ack",
        Op::Nack => "nack",
        Op::CreateQueue => "create_queue",
        Op::DeleteQueue => "delete_queue",
        Op::QueueStats => "get_stats",
        Op::Redrive => "redrive",
        Op::SetConfig => "set_config",
        Op::GetConfig => "get_config",
        Op::ListConfig => "list_config",
        Op::CreateApiKey => "create_api_key",
        Op::RevokeApiKey => "revoke_api_key",
        Op::SetAcl => "set_acl",
        // What has no body can be read, what is of the preamble dialect is unknown, and a Handshake opens.
        Op::Handshake
        | Op::CancelConsume
        | Op::Flow
        | Op::Heartbeat
        | Op::Authenticate
        | Op::Goodbye
        | Op::ProbeAdmin
        | Op::ListQueues
        | Op::ListApiKeys => "request",
        Op::GetAcl => "get_acl",
    }
}
