//! The protobuf messages of admin bodies (package `fila.v1`, docs/protocol/preamble.md 1.10).
//!
//! Servers name message and field in the text of a decode error, so the names are those of the wire.

use crate::prelude::*;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CreateQueueRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) config: Option<QueueConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct QueueConfig {
    #[prost(string, tag = "1")]
    pub(super) on_enqueue_script: String,
    #[prost(string, tag = "2")]
    pub(super) on_failure_script: String,
    #[prost(uint64, tag = "3")]
    pub(super) visibility_timeout_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CreateQueueResponse {
    #[prost(string, tag = "1")]
    pub(super) queue_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeleteQueueRequest {
    #[prost(string, tag = "1")]
    pub(super) queue: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetStatsRequest {
    #[prost(string, tag = "1")]
    pub(super) queue: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetStatsResponse {
    #[prost(uint64, tag = "1")]
    pub(super) depth: u64,
    #[prost(uint64, tag = "2")]
    pub(super) in_flight: u64,
    #[prost(uint64, tag = "3")]
    pub(super) active_fairness_keys: u64,
    #[prost(uint32, tag = "4")]
    pub(super) active_consumers: u32,
    #[prost(uint32, tag = "5")]
    pub(super) quantum: u32,
    #[prost(message, repeated, tag = "6")]
    pub(super) per_key_stats: Vec<PerFairnessKeyStats>,
    #[prost(message, repeated, tag = "7")]
    pub(super) per_throttle_stats: Vec<PerThrottleKeyStats>,
    #[prost(uint64, tag = "8")]
    pub(super) leader_node_id: u64,
    #[prost(uint32, tag = "9")]
    pub(super) replication_count: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PerFairnessKeyStats {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(uint64, tag = "2")]
    pub(super) pending_count: u64,
    #[prost(int64, tag = "3")]
    pub(super) current_deficit: i64,
    #[prost(uint32, tag = "4")]
    pub(super) weight: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PerThrottleKeyStats {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(double, tag = "2")]
    pub(super) tokens: f64,
    #[prost(double, tag = "3")]
    pub(super) rate_per_second: f64,
    #[prost(double, tag = "4")]
    pub(super) burst: f64,
}

/// Of LIST_QUEUES and LIST_KEYS, and the empty responses.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListQueuesResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) queues: Vec<QueueInfo>,
    #[prost(uint32, tag = "2")]
    pub(super) cluster_node_count: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct QueueInfo {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(uint64, tag = "2")]
    pub(super) depth: u64,
    #[prost(uint64, tag = "3")]
    pub(super) in_flight: u64,
    #[prost(uint32, tag = "4")]
    pub(super) active_consumers: u32,
    #[prost(uint64, tag = "5")]
    pub(super) leader_node_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RedriveRequest {
    #[prost(string, tag = "1")]
    pub(super) dlq_queue: String,
    #[prost(uint64, tag = "2")]
    pub(super) count: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RedriveResponse {
    #[prost(uint64, tag = "1")]
    pub(super) redriven: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SetConfigRequest {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetConfigRequest {
    #[prost(string, tag = "1")]
    pub(super) key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetConfigResponse {
    #[prost(string, tag = "1")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListConfigRequest {
    #[prost(string, tag = "1")]
    pub(super) prefix: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListConfigResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) entries: Vec<ConfigEntry>,
    #[prost(uint32, tag = "2")]
    pub(super) total_count: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ConfigEntry {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CreateApiKeyRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(uint64, tag = "2")]
    pub(super) expires_at_ms: u64,
    #[prost(bool, tag = "3")]
    pub(super) is_superadmin: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CreateApiKeyResponse {
    #[prost(string, tag = "1")]
    pub(super) key_id: String,
    #[prost(string, tag = "2")]
    pub(super) key: String,
    #[prost(bool, tag = "3")]
    pub(super) is_superadmin: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RevokeApiKeyRequest {
    #[prost(string, tag = "1")]
    pub(super) key_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListApiKeysResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) keys: Vec<ApiKeyInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ApiKeyInfo {
    #[prost(string, tag = "1")]
    pub(super) key_id: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(uint64, tag = "3")]
    pub(super) created_at_ms: u64,
    #[prost(uint64, tag = "4")]
    pub(super) expires_at_ms: u64,
    #[prost(bool, tag = "5")]
    pub(super) is_superadmin: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SetAclRequest {
    #[prost(string, tag = "1")]
    pub(super) key_id: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) permissions: Vec<AclPermission>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AclPermission {
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(string, tag = "2")]
    pub(super) pattern: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetAclRequest {
    #[prost(string, tag = "1")]
    pub(super) key_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetAclResponse {
    #[prost(string, tag = "1")]
    pub(super) key_id: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) permissions: Vec<AclPermission>,
    #[prost(bool, tag = "3")]
    pub(super) is_superadmin: bool,
}
