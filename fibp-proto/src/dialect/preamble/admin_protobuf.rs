//! Admin bodies of P1 and P2 (docs/protocol/preamble.md 1.10).

use bytes::Bytes;
use prost::Message;

use super::protobuf as pb;
use crate::admin::{
    Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, KeyStats, Permission, QueueInfo, QueueList, QueueSpec, QueueStats,
    ThrottleStats,
};
use crate::dialect::EncodeError;
use crate::frame::DecodeError;
use crate::request::{Op, Request};
use crate::response::Response;

pub(super) fn encode_request(request: &Request) -> Result<Vec<u8>, EncodeError> {
    Ok(match request {
        Request::CreateQueue(spec) => pb::CreateQueueRequest::from(spec).encode_to_vec(),
        Request::DeleteQueue { queue } => pb::DeleteQueueRequest {
            queue: queue.as_ref().into(),
        }
        .encode_to_vec(),
        Request::QueueStats { queue } => pb::GetStatsRequest {
            queue: queue.as_ref().into(),
        }
        .encode_to_vec(),
        Request::ListQueues | Request::ListApiKeys => Vec::new(),
        Request::Redrive { dlq, count } => pb::RedriveRequest {
            dlq_queue: dlq.as_ref().into(),
            count: *count,
        }
        .encode_to_vec(),
        Request::SetConfig { key, value } => pb::SetConfigRequest {
            key: key.clone(),
            value: value.clone(),
        }
        .encode_to_vec(),
        Request::GetConfig { key } => pb::GetConfigRequest { key: key.clone() }.encode_to_vec(),
        Request::ListConfig { prefix } => pb::ListConfigRequest { prefix: prefix.clone() }.encode_to_vec(),
        Request::CreateApiKey(spec) => pb::CreateApiKeyRequest {
            name: spec.name.clone(),
            expires_at_ms: spec.expires_at_ms,
            is_superadmin: spec.superadmin,
        }
        .encode_to_vec(),
        Request::RevokeApiKey { key_id } => pb::RevokeApiKeyRequest { key_id: key_id.clone() }.encode_to_vec(),
        Request::SetAcl { key_id, permissions } => pb::SetAclRequest {
            key_id: key_id.clone(),
            permissions: list(permissions),
        }
        .encode_to_vec(),
        Request::GetAcl { key_id } => pb::GetAclRequest { key_id: key_id.clone() }.encode_to_vec(),
        _ => return Err(EncodeError::Unsupported("not an admin request")),
    })
}

pub(super) fn decode_request(op: Op, body: &Bytes) -> Result<Request, DecodeError> {
    let body = body.as_ref();
    Ok(match op {
        Op::CreateQueue => Request::CreateQueue(pb::CreateQueueRequest::decode(body)?.into()),
        Op::DeleteQueue => Request::DeleteQueue {
            queue: pb::DeleteQueueRequest::decode(body)?.queue.into(),
        },
        Op::QueueStats => Request::QueueStats {
            queue: pb::GetStatsRequest::decode(body)?.queue.into(),
        },
        Op::ListQueues => {
            pb::Empty::decode(body)?;
            Request::ListQueues
        }
        Op::Redrive => {
            let redrive = pb::RedriveRequest::decode(body)?;
            Request::Redrive {
                dlq: redrive.dlq_queue.into(),
                count: redrive.count,
            }
        }
        Op::SetConfig => {
            let entry = pb::SetConfigRequest::decode(body)?;
            Request::SetConfig {
                key: entry.key,
                value: entry.value,
            }
        }
        Op::GetConfig => Request::GetConfig {
            key: pb::GetConfigRequest::decode(body)?.key,
        },
        Op::ListConfig => Request::ListConfig {
            prefix: pb::ListConfigRequest::decode(body)?.prefix,
        },
        Op::CreateApiKey => {
            let spec = pb::CreateApiKeyRequest::decode(body)?;
            Request::CreateApiKey(
                ApiKeySpec::new(spec.name)
                    .expires_at_ms(spec.expires_at_ms)
                    .superadmin(spec.is_superadmin),
            )
        }
        Op::RevokeApiKey => Request::RevokeApiKey {
            key_id: pb::RevokeApiKeyRequest::decode(body)?.key_id,
        },
        Op::ListApiKeys => {
            pb::Empty::decode(body)?;
            Request::ListApiKeys
        }
        Op::SetAcl => {
            let acl = pb::SetAclRequest::decode(body)?;
            Request::SetAcl {
                key_id: acl.key_id,
                permissions: taken(acl.permissions),
            }
        }
        Op::GetAcl => Request::GetAcl {
            key_id: pb::GetAclRequest::decode(body)?.key_id,
        },
        _ => return Err(DecodeError::Invalid("admin operation")),
    })
}

pub(super) fn encode_response(response: &Response) -> Result<Vec<u8>, EncodeError> {
    Ok(match response {
        Response::CreateQueue { queue_id } => pb::CreateQueueResponse {
            queue_id: queue_id.clone(),
        }
        .encode_to_vec(),
        Response::DeleteQueue | Response::SetConfig | Response::RevokeApiKey | Response::SetAcl => Vec::new(),
        Response::QueueStats(stats) => pb::GetStatsResponse {
            depth: stats.depth,
            in_flight: stats.in_flight,
            active_fairness_keys: stats.active_fairness_keys,
            active_consumers: stats.active_consumers,
            quantum: stats.quantum,
            per_key_stats: list(&stats.per_key),
            per_throttle_stats: list(&stats.per_throttle),
            leader_node_id: stats.leader_node_id,
            replication_count: stats.replication_count,
        }
        .encode_to_vec(),
        Response::ListQueues(queues) => pb::ListQueuesResponse {
            queues: list(&queues.queues),
            cluster_node_count: queues.cluster_node_count,
        }
        .encode_to_vec(),
        Response::Redrive { redriven } => pb::RedriveResponse { redriven: *redriven }.encode_to_vec(),
        Response::GetConfig { value } => pb::GetConfigResponse { value: value.clone() }.encode_to_vec(),
        Response::ListConfig { entries } => pb::ListConfigResponse {
            entries: list(entries),
            total_count: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        }
        .encode_to_vec(),
        Response::CreateApiKey(created) => pb::CreateApiKeyResponse {
            key_id: created.key_id.clone(),
            key: created.key.expose().to_owned(),
            is_superadmin: created.superadmin,
        }
        .encode_to_vec(),
        Response::ListApiKeys(keys) => pb::ListApiKeysResponse { keys: list(keys) }.encode_to_vec(),
        Response::GetAcl(acl) => pb::GetAclResponse {
            key_id: acl.key_id.clone(),
            permissions: list(&acl.permissions),
            is_superadmin: acl.superadmin,
        }
        .encode_to_vec(),
        _ => return Err(EncodeError::Unsupported("not an admin response")),
    })
}

pub(super) fn decode_response(op: Op, body: &Bytes) -> Result<Response, DecodeError> {
    let body = body.as_ref();
    Ok(match op {
        Op::CreateQueue => Response::CreateQueue {
            queue_id: pb::CreateQueueResponse::decode(body)?.queue_id,
        },
        Op::DeleteQueue => Response::DeleteQueue,
        Op::QueueStats => Response::QueueStats(pb::GetStatsResponse::decode(body)?.into()),
        Op::ListQueues => {
            let queues = pb::ListQueuesResponse::decode(body)?;
            Response::ListQueues(QueueList {
                queues: taken(queues.queues),
                cluster_node_count: queues.cluster_node_count,
            })
        }
        Op::Redrive => Response::Redrive {
            redriven: pb::RedriveResponse::decode(body)?.redriven,
        },
        Op::SetConfig => Response::SetConfig,
        Op::GetConfig => Response::GetConfig {
            value: pb::GetConfigResponse::decode(body)?.value,
        },
        Op::ListConfig => Response::ListConfig {
            entries: taken(pb::ListConfigResponse::decode(body)?.entries),
        },
        Op::CreateApiKey => {
            let created = pb::CreateApiKeyResponse::decode(body)?;
            Response::CreateApiKey(CreatedApiKey::new(created.key_id, created.key, created.is_superadmin))
        }
        Op::RevokeApiKey => Response::RevokeApiKey,
        Op::ListApiKeys => Response::ListApiKeys(taken(pb::ListApiKeysResponse::decode(body)?.keys)),
        Op::SetAcl => Response::SetAcl,
        Op::GetAcl => {
            let acl = pb::GetAclResponse::decode(body)?;
            Response::GetAcl(Acl {
                key_id: acl.key_id,
                permissions: taken(acl.permissions),
                superadmin: acl.is_superadmin,
            })
        }
        _ => return Err(DecodeError::Invalid("admin operation")),
    })
}

fn list<'a, T, M: From<&'a T>>(items: &'a [T]) -> Vec<M> {
    items.iter().map(M::from).collect()
}

fn taken<M, T: From<M>>(messages: Vec<M>) -> Vec<T> {
    messages.into_iter().map(T::from).collect()
}

impl From<&QueueSpec> for pb::CreateQueueRequest {
    fn from(spec: &QueueSpec) -> Self {
        let config = pb::QueueConfig {
            on_enqueue_script: spec.on_enqueue.clone().unwrap_or_default(),
            on_failure_script: spec.on_failure.clone().unwrap_or_default(),
            visibility_timeout_ms: spec.visibility_timeout_ms,
        };
        Self {
            name: spec.name.as_ref().into(),
            config: (config != pb::QueueConfig::default()).then_some(config),
        }
    }
}

impl From<pb::CreateQueueRequest> for QueueSpec {
    fn from(request: pb::CreateQueueRequest) -> Self {
        let config = request.config.unwrap_or_default();
        let mut spec = Self::new(request.name);
        spec.on_enqueue = super::non_empty(config.on_enqueue_script);
        spec.on_failure = super::non_empty(config.on_failure_script);
        spec.visibility_timeout_ms = config.visibility_timeout_ms;
        spec
    }
}

impl From<pb::GetStatsResponse> for QueueStats {
    fn from(stats: pb::GetStatsResponse) -> Self {
        Self {
            depth: stats.depth,
            in_flight: stats.in_flight,
            active_fairness_keys: stats.active_fairness_keys,
            active_consumers: stats.active_consumers,
            quantum: stats.quantum,
            leader_node_id: stats.leader_node_id,
            replication_count: stats.replication_count,
            per_key: taken(stats.per_key_stats),
            per_throttle: taken(stats.per_throttle_stats),
        }
    }
}

impl From<&KeyStats> for pb::PerFairnessKeyStats {
    fn from(stats: &KeyStats) -> Self {
        Self {
            key: stats.key.clone(),
            pending_count: stats.pending,
            current_deficit: stats.deficit,
            weight: stats.weight,
        }
    }
}

impl From<pb::PerFairnessKeyStats> for KeyStats {
    fn from(stats: pb::PerFairnessKeyStats) -> Self {
        Self {
            key: stats.key,
            pending: stats.pending_count,
            deficit: stats.current_deficit,
            weight: stats.weight,
        }
    }
}

impl From<&ThrottleStats> for pb::PerThrottleKeyStats {
    fn from(stats: &ThrottleStats) -> Self {
        Self {
            key: stats.key.clone(),
            tokens: stats.tokens,
            rate_per_second: stats.rate_per_second,
            burst: stats.burst,
        }
    }
}

impl From<pb::PerThrottleKeyStats> for ThrottleStats {
    fn from(stats: pb::PerThrottleKeyStats) -> Self {
        Self {
            key: stats.key,
            tokens: stats.tokens,
            rate_per_second: stats.rate_per_second,
            burst: stats.burst,
        }
    }
}

impl From<&QueueInfo> for pb::QueueInfo {
    fn from(queue: &QueueInfo) -> Self {
        Self {
            name: queue.name.clone(),
            depth: queue.depth,
            in_flight: queue.in_flight,
            active_consumers: queue.active_consumers,
            leader_node_id: queue.leader_node_id,
        }
    }
}

impl From<pb::QueueInfo> for QueueInfo {
    fn from(queue: pb::QueueInfo) -> Self {
        Self {
            name: queue.name,
            depth: queue.depth,
            in_flight: queue.in_flight,
            active_consumers: queue.active_consumers,
            leader_node_id: queue.leader_node_id,
        }
    }
}

impl From<&(String, String)> for pb::ConfigEntry {
    fn from((key, value): &(String, String)) -> Self {
        Self {
            key: key.clone(),
            value: value.clone(),
        }
    }
}

impl From<pb::ConfigEntry> for (String, String) {
    fn from(entry: pb::ConfigEntry) -> Self {
        (entry.key, entry.value)
    }
}

impl From<&ApiKeyInfo> for pb::ApiKeyInfo {
    fn from(key: &ApiKeyInfo) -> Self {
        Self {
            key_id: key.key_id.clone(),
            name: key.name.clone(),
            created_at_ms: key.created_at_ms,
            expires_at_ms: key.expires_at_ms,
            is_superadmin: key.superadmin,
        }
    }
}

impl From<pb::ApiKeyInfo> for ApiKeyInfo {
    fn from(key: pb::ApiKeyInfo) -> Self {
        Self {
            key_id: key.key_id,
            name: key.name,
            created_at_ms: key.created_at_ms,
            expires_at_ms: key.expires_at_ms,
            superadmin: key.is_superadmin,
        }
    }
}

impl From<&Permission> for pb::AclPermission {
    fn from(permission: &Permission) -> Self {
        Self {
            kind: permission.kind.as_str().to_owned(),
            pattern: permission.pattern.clone(),
        }
    }
}

impl From<pb::AclPermission> for Permission {
    fn from(permission: pb::AclPermission) -> Self {
        Self::new(permission.kind.as_str(), permission.pattern)
    }
}
