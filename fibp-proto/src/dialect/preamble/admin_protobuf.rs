//! Admin bodies of P1 and P2 (docs/protocol/preamble.md 1.10).

use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::protobuf as pb;
use crate::admin::{
    Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, KeyStats, Permission, QueueInfo, QueueList, QueueSpec, QueueStats,
    ThrottleStats,
};
use crate::dialect::EncodeError;
use crate::dialect::records::Record;
use crate::frame::{Budget, DecodeError};
use crate::prelude::*;
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

pub(super) fn decode_request(op: Op, body: &[u8]) -> Result<Request, DecodeError> {
    Ok(match op {
        Op::CreateQueue => Request::CreateQueue(decode::<pb::CreateQueueRequest>(body)?.into()),
        Op::DeleteQueue => Request::DeleteQueue {
            queue: decode::<pb::DeleteQueueRequest>(body)?.queue.into(),
        },
        Op::QueueStats => Request::QueueStats {
            queue: decode::<pb::GetStatsRequest>(body)?.queue.into(),
        },
        Op::ListQueues => {
            decode::<pb::Empty>(body)?;
            Request::ListQueues
        }
        Op::Redrive => {
            let redrive = decode::<pb::RedriveRequest>(body)?;
            Request::Redrive {
                dlq: redrive.dlq_queue.into(),
                count: redrive.count,
            }
        }
        Op::SetConfig => {
            let entry = decode::<pb::SetConfigRequest>(body)?;
            Request::SetConfig {
                key: entry.key,
                value: entry.value,
            }
        }
        Op::GetConfig => Request::GetConfig {
            key: decode::<pb::GetConfigRequest>(body)?.key,
        },
        Op::ListConfig => Request::ListConfig {
            prefix: decode::<pb::ListConfigRequest>(body)?.prefix,
        },
        Op::CreateApiKey => {
            let spec = decode::<pb::CreateApiKeyRequest>(body)?;
            Request::CreateApiKey(
                ApiKeySpec::new(spec.name)
                    .expires_at_ms(spec.expires_at_ms)
                    .superadmin(spec.is_superadmin),
            )
        }
        Op::RevokeApiKey => Request::RevokeApiKey {
            key_id: decode::<pb::RevokeApiKeyRequest>(body)?.key_id,
        },
        Op::ListApiKeys => {
            decode::<pb::Empty>(body)?;
            Request::ListApiKeys
        }
        Op::SetAcl => {
            let (acl, permissions) = read_list::<pb::SetAclRequest, _>(body, 2)?;
            Request::SetAcl {
                key_id: acl.key_id,
                permissions,
            }
        }
        Op::GetAcl => Request::GetAcl {
            key_id: decode::<pb::GetAclRequest>(body)?.key_id,
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

pub(super) fn decode_response(op: Op, body: &[u8]) -> Result<Response, DecodeError> {
    Ok(match op {
        Op::CreateQueue => Response::CreateQueue {
            queue_id: decode::<pb::CreateQueueResponse>(body)?.queue_id,
        },
        Op::DeleteQueue => Response::DeleteQueue,
        Op::QueueStats => {
            let (mut per_key, mut per_throttle) = (List::new(), List::new());
            let stats: pb::GetStatsResponse = read_lists(body, &mut [(6, &mut per_key), (7, &mut per_throttle)])?;
            let mut stats = QueueStats::from(stats);
            (stats.per_key, stats.per_throttle) = (per_key.items, per_throttle.items);
            Response::QueueStats(stats)
        }
        Op::ListQueues => {
            let (list, queues) = read_list::<pb::ListQueuesResponse, _>(body, 1)?;
            Response::ListQueues(QueueList {
                queues,
                cluster_node_count: list.cluster_node_count,
            })
        }
        Op::Redrive => Response::Redrive {
            redriven: decode::<pb::RedriveResponse>(body)?.redriven,
        },
        Op::SetConfig => Response::SetConfig,
        Op::GetConfig => Response::GetConfig {
            value: decode::<pb::GetConfigResponse>(body)?.value,
        },
        Op::ListConfig => Response::ListConfig {
            entries: read_list::<pb::ListConfigResponse, _>(body, 1)?.1,
        },
        Op::CreateApiKey => {
            let created = decode::<pb::CreateApiKeyResponse>(body)?;
            Response::CreateApiKey(CreatedApiKey::new(created.key_id, created.key, created.is_superadmin))
        }
        Op::RevokeApiKey => Response::RevokeApiKey,
        Op::ListApiKeys => Response::ListApiKeys(read_list::<pb::ListApiKeysResponse, _>(body, 1)?.1),
        Op::SetAcl => Response::SetAcl,
        Op::GetAcl => {
            let (acl, permissions) = read_list::<pb::GetAclResponse, _>(body, 2)?;
            Response::GetAcl(Acl {
                key_id: acl.key_id,
                permissions,
                superadmin: acl.is_superadmin,
            })
        }
        _ => return Err(DecodeError::Invalid("admin operation")),
    })
}

fn decode<M: Message + Default>(body: &[u8]) -> Result<M, DecodeError> {
    M::decode(body).map_err(malformed)
}

/// The error in protobuf's own words, which servers send on: no type of `prost` is part of the interface.
fn malformed(error: prost::DecodeError) -> DecodeError {
    DecodeError::Protobuf(error.to_string())
}

fn list<'a, T, M: From<&'a T>>(items: &'a [T]) -> Vec<M> {
    items.iter().map(M::from).collect()
}

/// The wire's form of a record.
trait Wire: Record + From<Self::Message> {
    type Message: Message + Default;
}

impl Wire for KeyStats {
    type Message = pb::PerFairnessKeyStats;
}

impl Wire for ThrottleStats {
    type Message = pb::PerThrottleKeyStats;
}

impl Wire for QueueInfo {
    type Message = pb::QueueInfo;
}

impl Wire for (String, String) {
    type Message = pb::ConfigEntry;
}

impl Wire for ApiKeyInfo {
    type Message = pb::ApiKeyInfo;
}

impl Wire for Permission {
    type Message = pb::AclPermission;
}

/// A repeated field as it is read.
trait Elements {
    /// Makes room for so many elements.
    fn reserve(&mut self, count: usize, budget: &mut Budget) -> Result<(), DecodeError>;
    fn read(&mut self, element: &[u8], budget: &mut Budget) -> Result<(), DecodeError>;
}

struct List<T> {
    items: Vec<T>,
}

impl<T> List<T> {
    fn new() -> Self {
        Self { items: Vec::new() }
    }
}

impl<T: Wire> Elements for List<T> {
    fn reserve(&mut self, count: usize, budget: &mut Budget) -> Result<(), DecodeError> {
        budget.hold(count.saturating_mul(size_of::<T>()))?;
        self.items.reserve_exact(count);
        Ok(())
    }

    fn read(&mut self, element: &[u8], budget: &mut Budget) -> Result<(), DecodeError> {
        let item = T::from(decode::<T::Message>(element)?);
        budget.hold(item.held())?;
        self.items.push(item);
        Ok(())
    }
}

/// Reads a message whose only repeated field is `tag`.
fn read_list<M: Message + Default, T: Wire>(body: &[u8], tag: u32) -> Result<(M, Vec<T>), DecodeError> {
    let mut list = List::new();
    let message = read_lists(body, &mut [(tag, &mut list)])?;
    Ok((message, list.items))
}

/// Reads a message element by element, so that its lists (by their fields) exist once, in places of the right size and
/// within the budget of the body. All other fields are those of `M`.
fn read_lists<M: Message + Default>(body: &[u8], lists: &mut [(u32, &mut dyn Elements)]) -> Result<M, DecodeError> {
    let mut budget = Budget::of(body);
    for (tag, list) in &mut *lists {
        let (mut count, mut rest) = (0, body);
        while let Some(field) = next_field(&mut rest)? {
            count += usize::from(field.tag == *tag);
        }
        list.reserve(count, &mut budget)?;
    }
    let mut message = M::default();
    let mut rest = body;
    while let Some(field) = next_field(&mut rest)? {
        match (lists.iter_mut().find(|(tag, _)| *tag == field.tag), field.element) {
            (Some((_, list)), Some(element)) => list.read(element, &mut budget)?,
            _ => message.merge(field.whole).map_err(malformed)?,
        }
    }
    Ok(message)
}

struct Field<'a> {
    tag: u32,
    /// What a field of variable length holds.
    element: Option<&'a [u8]>,
    /// The field with its key.
    whole: &'a [u8],
}

/// The next field of a message.
fn next_field<'a>(rest: &mut &'a [u8]) -> Result<Option<Field<'a>>, DecodeError> {
    if rest.is_empty() {
        return Ok(None);
    }
    let whole = *rest;
    let (tag, wire_type) = decode_key(rest).map_err(malformed)?;
    let mut content = *rest;
    skip_field(wire_type, tag, rest, DecodeContext::default()).map_err(malformed)?;
    let used = whole.len().saturating_sub(rest.len());
    let element = match wire_type {
        WireType::LengthDelimited => {
            let len = usize::try_from(decode_varint(&mut content).map_err(malformed)?).unwrap_or(usize::MAX);
            content.get(..len)
        }
        _ => None,
    };
    Ok(Some(Field {
        tag,
        element,
        whole: whole.get(..used).unwrap_or_default(),
    }))
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
            per_key: Vec::new(),
            per_throttle: Vec::new(),
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
