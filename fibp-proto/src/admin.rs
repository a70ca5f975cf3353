//! Arguments and results of administrative operations, free of any dialect.

use core::fmt;
use core::time::Duration;

use crate::message::{QueueName, Secret};
use crate::prelude::*;

/// A queue to create.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueSpec {
    /// The queue's name. Creating `q` also creates its dead-letter queue `q.dlq`.
    pub name: QueueName,
    /// Lua 5.4 source that defines `on_enqueue(msg)`.
    pub on_enqueue: Option<String>,
    /// Lua 5.4 source that defines `on_failure(msg)`.
    pub on_failure: Option<String>,
    /// How long a delivery stays leased, in milliseconds; 0 lets the server choose (30 000).
    pub visibility_timeout_ms: u64,
}

impl QueueSpec {
    /// A queue with the server's defaults.
    pub fn new(name: impl Into<QueueName>) -> Self {
        Self {
            name: name.into(),
            on_enqueue: None,
            on_failure: None,
            visibility_timeout_ms: 0,
        }
    }

    /// How long a delivery stays leased. Preamble servers refuse 1 to 999 ms.
    #[must_use]
    pub fn visibility_timeout(mut self, timeout: Duration) -> Self {
        self.visibility_timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Sets the `on_enqueue` script.
    #[must_use]
    pub fn on_enqueue(mut self, script: impl Into<String>) -> Self {
        self.on_enqueue = Some(script.into());
        self
    }

    /// Sets the `on_failure` script.
    #[must_use]
    pub fn on_failure(mut self, script: impl Into<String>) -> Self {
        self.on_failure = Some(script.into());
        self
    }
}

impl From<String> for QueueSpec {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl From<&String> for QueueSpec {
    fn from(name: &String) -> Self {
        Self::new(name.as_str())
    }
}

impl From<QueueName> for QueueSpec {
    fn from(name: QueueName) -> Self {
        Self::new(name)
    }
}

impl From<&str> for QueueSpec {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

/// What a queue holds and who consumes it.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Messages stored: pending plus leased.
    pub depth: u64,
    /// Messages leased.
    pub in_flight: u64,
    /// Fairness keys with pending messages.
    pub active_fairness_keys: u64,
    /// Registered consumers.
    pub active_consumers: u32,
    /// The scheduler's quantum.
    pub quantum: u32,
    /// The leading node (0 outside a cluster).
    pub leader_node_id: u64,
    /// The number of replicas (0 outside a cluster).
    pub replication_count: u32,
    /// Figures per fairness key.
    pub per_key: Vec<KeyStats>,
    /// Figures per throttle; global, not per queue.
    pub per_throttle: Vec<ThrottleStats>,
}

/// Figures of one fairness key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyStats {
    /// The fairness key.
    pub key: String,
    /// Messages pending under it.
    pub pending: u64,
    /// Its deficit in the round robin.
    pub deficit: i64,
    /// Its weight.
    pub weight: u32,
}

/// Figures of one throttle.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ThrottleStats {
    /// The throttle key.
    pub key: String,
    /// Tokens left.
    pub tokens: f64,
    /// Tokens added per second.
    pub rate_per_second: f64,
    /// The most tokens it holds.
    pub burst: f64,
}

/// One queue of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueInfo {
    /// The queue's name.
    pub name: String,
    /// Messages stored: pending plus leased.
    pub depth: u64,
    /// Messages leased.
    pub in_flight: u64,
    /// Registered consumers.
    pub active_consumers: u32,
    /// The leading node (0 outside a cluster).
    pub leader_node_id: u64,
}

/// All queues of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueList {
    /// The queues.
    pub queues: Vec<QueueInfo>,
    /// The cluster's size (0 outside a cluster).
    pub cluster_node_count: u32,
}

/// An API key to create.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiKeySpec {
    /// A name for humans.
    pub name: String,
    /// When it expires (milliseconds since the Unix epoch); 0 for never.
    pub expires_at_ms: u64,
    /// Whether it bypasses every permission check.
    pub superadmin: bool,
}

impl ApiKeySpec {
    /// A key that never expires and has no permission.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            expires_at_ms: 0,
            superadmin: false,
        }
    }

    /// Sets when it expires, in milliseconds since the Unix epoch; 0 for never.
    #[must_use]
    pub fn expires_at_ms(mut self, at: u64) -> Self {
        self.expires_at_ms = at;
        self
    }

    /// Makes it a superadmin key.
    #[must_use]
    pub fn superadmin(mut self, superadmin: bool) -> Self {
        self.superadmin = superadmin;
        self
    }
}

/// A freshly created API key. The server shows the key only here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CreatedApiKey {
    /// The id by which it is administered.
    pub key_id: String,
    /// The key itself.
    pub key: Secret,
    /// Whether it is a superadmin key.
    pub superadmin: bool,
}

impl CreatedApiKey {
    /// The answer to a creation.
    pub fn new(key_id: impl Into<String>, key: impl Into<Secret>, superadmin: bool) -> Self {
        Self {
            key_id: key_id.into(),
            key: key.into(),
            superadmin,
        }
    }
}

/// One API key of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiKeyInfo {
    /// The id by which it is administered.
    pub key_id: String,
    /// Its name.
    pub name: String,
    /// When it was created (milliseconds since the Unix epoch).
    pub created_at_ms: u64,
    /// When it expires (milliseconds since the Unix epoch); 0 for never.
    pub expires_at_ms: u64,
    /// Whether it is a superadmin key.
    pub superadmin: bool,
}

/// What a permission allows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PermissionKind {
    /// Enqueue.
    Produce,
    /// Consume, ack and nack.
    Consume,
    /// Administer.
    Admin,
    /// A kind this version does not know, as the server spelled it.
    Other(String),
}

impl PermissionKind {
    /// The kind as the wire spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Admin => "admin",
            Self::Other(kind) => kind,
        }
    }
}

impl From<&str> for PermissionKind {
    fn from(kind: &str) -> Self {
        match kind {
            "produce" => Self::Produce,
            "consume" => Self::Consume,
            "admin" => Self::Admin,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for PermissionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One grant of an access control list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Permission {
    /// What is allowed.
    pub kind: PermissionKind,
    /// On which queues: `*`, `prefix.*` or an exact name.
    pub pattern: String,
}

impl Permission {
    /// A grant.
    pub fn new(kind: impl Into<PermissionKind>, pattern: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            pattern: pattern.into(),
        }
    }
}

/// The access control list of an API key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Acl {
    /// The key's id.
    pub key_id: String,
    /// Its grants.
    pub permissions: Vec<Permission>,
    /// Whether it bypasses them.
    pub superadmin: bool,
}

/// Setters of records that grow with the protocol, so that servers and tests can build them: from `default()`.
macro_rules! setters {
    ($($record:ident { $($field:ident: $of:ty),* $(,)? })*) => {$(
        impl $record {
            $(
                #[doc = concat!("Sets `", stringify!($field), "`.")]
                #[must_use]
                pub fn $field(mut self, $field: $of) -> Self {
                    self.$field = $field;
                    self
                }
            )*
        }
    )*};
}

setters! {
    QueueStats {
        depth: u64,
        in_flight: u64,
        active_fairness_keys: u64,
        active_consumers: u32,
        quantum: u32,
        leader_node_id: u64,
        replication_count: u32,
        per_key: Vec<KeyStats>,
        per_throttle: Vec<ThrottleStats>,
    }
    KeyStats {
        key: String,
        pending: u64,
        deficit: i64,
        weight: u32,
    }
    ThrottleStats {
        key: String,
        tokens: f64,
        rate_per_second: f64,
        burst: f64,
    }
    QueueInfo {
        name: String,
        depth: u64,
        in_flight: u64,
        active_consumers: u32,
        leader_node_id: u64,
    }
    QueueList {
        queues: Vec<QueueInfo>,
        cluster_node_count: u32,
    }
    ApiKeyInfo {
        key_id: String,
        name: String,
        created_at_ms: u64,
        expires_at_ms: u64,
        superadmin: bool,
    }
    Acl {
        key_id: String,
        permissions: Vec<Permission>,
        superadmin: bool,
    }
}
