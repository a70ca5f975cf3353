//! Admin bodies of P3 (docs/protocol/preamble.md 2.3): no optionals, an empty string is none.

use crate::admin::{Acl, QueueList, QueueSpec, QueueStats};
use crate::dialect::EncodeError;
use crate::dialect::encode::{Body, Encoder};
use crate::dialect::records::{Record, encode_admin_request, encode_list16, read_admin_request, read_list16};
use crate::frame::{DecodeError, Reader};
use crate::prelude::*;
use crate::request::{Op, Request};
use crate::response::Response;

pub(super) struct RequestBody<'a>(pub(super) &'a Request);

impl Body for RequestBody<'_> {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        match self.0 {
            Request::CreateQueue(spec) => {
                to.str16("queue name", &spec.name)?;
                to.str16("on_enqueue script", spec.on_enqueue.as_deref().unwrap_or_default())?;
                to.str16("on_failure script", spec.on_failure.as_deref().unwrap_or_default())?;
                to.u64(spec.visibility_timeout_ms);
                Ok(())
            }
            request => encode_admin_request(to, request),
        }
    }
}

pub(super) fn decode_request(op: Op, body: &[u8]) -> Result<Request, DecodeError> {
    let mut body = Reader::new(body);
    if op != Op::CreateQueue {
        return read_admin_request(op, &mut body);
    }
    let mut spec = QueueSpec::new(body.str16()?);
    spec.on_enqueue = super::non_empty(body.str16()?);
    spec.on_failure = super::non_empty(body.str16()?);
    spec.visibility_timeout_ms = body.u64()?;
    Ok(Request::CreateQueue(spec))
}

pub(super) struct ResponseBody<'a>(pub(super) &'a Response);

impl Body for ResponseBody<'_> {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        match self.0 {
            Response::CreateQueue { queue_id } => to.str16("queue id", queue_id)?,
            Response::DeleteQueue | Response::SetConfig | Response::RevokeApiKey | Response::SetAcl => {}
            Response::QueueStats(stats) => {
                to.u64(stats.depth);
                to.u64(stats.in_flight);
                to.u64(stats.active_fairness_keys);
                to.u32(stats.active_consumers);
                to.u32(stats.quantum);
                encode_list16(to, &stats.per_key)?;
                encode_list16(to, &stats.per_throttle)?;
                to.u64(stats.leader_node_id);
                to.u32(stats.replication_count);
            }
            Response::ListQueues(list) => {
                encode_list16(to, &list.queues)?;
                to.u32(list.cluster_node_count);
            }
            Response::Redrive { redriven } => to.u64(*redriven),
            Response::GetConfig { value } => to.str16("config value", value)?,
            Response::ListConfig { entries } => {
                encode_list16(to, entries)?;
                to.count32("config entries", entries.len(), u32::MAX)?;
            }
            Response::CreateApiKey(created) => created.encode(to)?,
            Response::ListApiKeys(keys) => encode_list16(to, keys)?,
            Response::GetAcl(acl) => {
                to.str16("API key id", &acl.key_id)?;
                encode_list16(to, &acl.permissions)?;
                to.bool(acl.superadmin);
            }
            _ => return Err(EncodeError::Unsupported("not an admin response")),
        }
        Ok(())
    }
}

pub(super) fn decode_response(op: Op, body: &[u8]) -> Result<Response, DecodeError> {
    let mut body = Reader::new(body);
    Ok(match op {
        Op::CreateQueue => Response::CreateQueue {
            queue_id: body.str16()?.to_owned(),
        },
        Op::DeleteQueue => Response::DeleteQueue,
        Op::QueueStats => {
            let mut stats = QueueStats {
                depth: body.u64()?,
                in_flight: body.u64()?,
                active_fairness_keys: body.u64()?,
                active_consumers: body.u32()?,
                quantum: body.u32()?,
                ..QueueStats::default()
            };
            stats.per_key = read_list16(&mut body)?;
            stats.per_throttle = read_list16(&mut body)?;
            stats.leader_node_id = body.u64()?;
            stats.replication_count = body.u32()?;
            Response::QueueStats(stats)
        }
        Op::ListQueues => Response::ListQueues(QueueList {
            queues: read_list16(&mut body)?,
            cluster_node_count: body.u32()?,
        }),
        Op::Redrive => Response::Redrive { redriven: body.u64()? },
        Op::SetConfig => Response::SetConfig,
        Op::GetConfig => Response::GetConfig {
            value: body.str16()?.to_owned(),
        },
        Op::ListConfig => {
            let entries = read_list16(&mut body)?;
            // The total count says the same again.
            body.u32()?;
            Response::ListConfig { entries }
        }
        Op::CreateApiKey => Response::CreateApiKey(Record::read(&mut body)?),
        Op::RevokeApiKey => Response::RevokeApiKey,
        Op::ListApiKeys => Response::ListApiKeys(read_list16(&mut body)?),
        Op::SetAcl => Response::SetAcl,
        Op::GetAcl => Response::GetAcl(Acl {
            key_id: body.str16()?.to_owned(),
            permissions: read_list16(&mut body)?,
            superadmin: body.bool()?,
        }),
        _ => return Err(DecodeError::Invalid("admin operation")),
    })
}
