//! Answers: which body belongs to which, and where refusals stand.

use super::errors::{self, ErrorBody};
use super::opcode::{ERROR, Numbers};
use super::{admin, data};
use crate::dialect::EncodeError;
use crate::dialect::encode::{Body, Encoder};
use crate::dialect::records::{Record, encode_list16, read_list16};
use crate::frame::{DecodeError, FrameRef, Reader};
use crate::prelude::*;
use crate::request::Op;
use crate::response::{Response, ServerError};

/// An answer with the operation that its frame belongs to.
pub(super) enum ResponseBody<'a> {
    /// A result.
    Result(&'a Response),
    /// A refusal inside the result of the operation.
    Inline(Op, u8, &'a ServerError),
    /// A refusal in a frame of its own.
    Error(&'a ServerError),
}

impl<'a> ResponseBody<'a> {
    /// The opcode and the body of an answer to `op`.
    pub(super) fn of(numbers: Numbers, op: Op, response: &'a Response) -> Result<(u8, Self), EncodeError> {
        if let Response::Error(error) = response {
            let inline = match error.was_inline() {
                // What came from a server goes out in the form it had.
                Some(inline) => (inline && op.is_admin()).then(|| errors::code_of(error)),
                None => errors::inline_code(op, error),
            };
            return Ok(match (inline, numbers.answer(op)) {
                (Some(code), Some(opcode)) => (opcode, Self::Inline(op, code, error)),
                _ => (ERROR, Self::Error(error)),
            });
        }
        match numbers.answer(op) {
            Some(opcode) if response.op() == Some(op) => Ok((opcode, Self::Result(response))),
            _ => Err(EncodeError::Unsupported("the response is not one to this operation")),
        }
    }
}

impl Body for ResponseBody<'_> {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        match self {
            Self::Error(error) => ErrorBody(error).encode(to),
            Self::Inline(op, code, error) => encode_inline(to, *op, *code, error),
            Self::Result(response) => encode_result(to, response),
        }
    }
}

fn encode_inline<E: Encoder>(to: &mut E, op: Op, code: u8, error: &ServerError) -> Result<(), EncodeError> {
    to.u8(code);
    match op {
        Op::CreateQueue => to.str16("error text", error.text()),
        // The text of the refusal is the id that was asked for.
        Op::GetAcl => {
            let acl = crate::admin::Acl {
                key_id: error.text().to_owned(),
                ..Default::default()
            };
            admin::encode_acl(to, &acl)
        }
        _ => Ok(()),
    }
}

fn encode_result<E: Encoder>(to: &mut E, response: &Response) -> Result<(), EncodeError> {
    match response {
        // Results of data operations carry no code of their own.
        Response::Enqueue(results) => return data::encode_enqueue_results(to, results),
        Response::Ack(results) | Response::Nack(results) => return data::encode_settle_results(to, results),
        Response::Consume { consumer_id } => {
            return to.str16("consumer id", consumer_id.as_deref().unwrap_or_default());
        }
        Response::Heartbeat | Response::Authenticated => return Ok(()),
        Response::Error(error) => return ErrorBody(error).encode(to),
        _ => to.u8(errors::OK),
    }
    match response {
        Response::CreateQueue { queue_id } => to.str16("queue id", queue_id),
        Response::QueueStats(stats) => admin::encode_queue_stats(to, stats),
        Response::ListQueues(list) => admin::encode_queue_list(to, list),
        Response::Redrive { redriven } => {
            to.u64(*redriven);
            Ok(())
        }
        Response::GetConfig { value } => to.str16("configuration value", value),
        Response::ListConfig { entries } => encode_list16(to, entries),
        Response::CreateApiKey(key) => key.encode(to),
        Response::ListApiKeys(keys) => encode_list16(to, keys),
        Response::GetAcl(acl) => admin::encode_acl(to, acl),
        _ => Ok(()),
    }
}

/// Reads the answer to `op`.
pub(super) fn decode(numbers: Numbers, op: Op, frame: FrameRef<'_>) -> Result<Response, DecodeError> {
    let opcode = frame.header.opcode;
    if opcode == ERROR {
        return errors::decode(frame.body).map(|error| Response::Error(error.arrived(false)));
    }
    if numbers.answer(op) != Some(opcode) {
        return Err(DecodeError::UnexpectedOpcode { opcode });
    }
    match op {
        Op::Enqueue => data::read_enqueue_results(frame).map(Response::Enqueue),
        Op::Ack => data::read_settle_results(frame).map(Response::Ack),
        Op::Nack => data::read_settle_results(frame).map(Response::Nack),
        Op::Consume => {
            let consumer_id = Some(Reader::new(frame.body).str16()?.to_owned());
            Ok(Response::Consume { consumer_id })
        }
        Op::Heartbeat => Ok(Response::Heartbeat),
        _ => decode_admin(op, frame),
    }
}

fn decode_admin(op: Op, frame: FrameRef<'_>) -> Result<Response, DecodeError> {
    let mut body = Reader::new(frame.body);
    let code = body.u8()?;
    if code != errors::OK {
        // The name of the queue that exists, or what Lua says; other results have no place for a text.
        let text = match op {
            Op::CreateQueue => body.str16()?,
            _ => "",
        };
        return Ok(Response::Error(errors::from_code(code, text).arrived(true)));
    }
    let body = &mut body;
    Ok(match op {
        Op::CreateQueue => Response::CreateQueue {
            queue_id: body.str16()?.to_owned(),
        },
        Op::DeleteQueue => Response::DeleteQueue,
        Op::QueueStats => Response::QueueStats(admin::read_queue_stats(body)?),
        Op::ListQueues => Response::ListQueues(admin::read_queue_list(body)?),
        Op::Redrive => Response::Redrive { redriven: body.u64()? },
        Op::SetConfig => Response::SetConfig,
        Op::GetConfig => Response::GetConfig {
            value: body.str16()?.to_owned(),
        },
        Op::ListConfig => Response::ListConfig {
            entries: read_list16(body)?,
        },
        Op::CreateApiKey => Response::CreateApiKey(Record::read(body)?),
        Op::RevokeApiKey => Response::RevokeApiKey,
        Op::ListApiKeys => Response::ListApiKeys(read_list16(body)?),
        Op::SetAcl => Response::SetAcl,
        Op::GetAcl => Response::GetAcl(admin::read_acl(body)?),
        _ => return Err(DecodeError::Invalid("operation")),
    })
}
