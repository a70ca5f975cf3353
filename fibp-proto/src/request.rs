//! Typed requests, free of any dialect.

use crate::admin::{ApiKeySpec, Permission, QueueSpec};
use crate::message::{Message, MessageId, QueueName, Secret};
use crate::prelude::*;

/// Everything a client can ask.
///
/// Enqueues, acks and nacks carry many items in one frame; the preamble dialect allows only one queue per
/// enqueue frame (docs/protocol/preamble.md 1.5), the framed dialect any mix.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Request {
    /// Open a connection (framed dialect; the preamble is no frame). A [`ServerConnection`](crate::server::ServerConnection)
    /// reports it as `Opened`, and refuses it on a connection that is open.
    Handshake {
        /// The version that the client speaks: 1.
        version: u16,
        /// The API key.
        key: Option<Secret>,
    },
    /// Store messages.
    Enqueue(Vec<Message>),
    /// Store no message: what the preamble dialect's enqueue of an empty batch decodes to, which names a queue all the
    /// same. Answered with an empty [`Response::Enqueue`](crate::Response::Enqueue).
    EnqueueNone {
        /// The queue; not empty.
        queue: QueueName,
    },
    /// Start receiving deliveries from a queue.
    Consume {
        /// The queue.
        queue: QueueName,
        /// Initial credit, one per message; dialects without credit ignore it.
        credit: u32,
    },
    /// Stop the consumer of this connection (framed dialect only). Never answered.
    CancelConsume,
    /// Grant more credit (preamble dialect only). Never answered.
    Flow {
        /// Messages to add to the server-side balance.
        credit: u32,
    },
    /// Settle deliveries as done.
    Ack(Vec<AckItem>),
    /// Give deliveries back as failed.
    Nack(Vec<NackItem>),
    /// Ask for a sign of life.
    Heartbeat,
    /// Present an API key (preamble dialect; the framed handshake carries it itself).
    Authenticate(Secret),
    /// Say goodbye. Never answered; the server closes.
    Goodbye,
    /// Find out which admin revision a preamble server speaks (docs/protocol/revisions.md). Has no effect, and is
    /// always answered with an error.
    ProbeAdmin,
    /// Create a queue.
    CreateQueue(QueueSpec),
    /// Delete a queue and its dead-letter queue.
    DeleteQueue {
        /// The queue.
        queue: QueueName,
    },
    /// Ask for a queue's figures.
    QueueStats {
        /// The queue.
        queue: QueueName,
    },
    /// List all queues.
    ListQueues,
    /// Move messages from a dead-letter queue back to its parent.
    Redrive {
        /// The dead-letter queue, `.dlq` included.
        dlq: QueueName,
        /// At most how many; 0 for all.
        count: u64,
    },
    /// Set a configuration value.
    SetConfig {
        /// The key.
        key: String,
        /// The value; empty deletes.
        value: String,
    },
    /// Ask for a configuration value.
    GetConfig {
        /// The key.
        key: String,
    },
    /// List configuration values.
    ListConfig {
        /// What the keys start with.
        prefix: String,
    },
    /// Create an API key.
    CreateApiKey(ApiKeySpec),
    /// Revoke an API key.
    RevokeApiKey {
        /// Its id.
        key_id: String,
    },
    /// List API keys.
    ListApiKeys,
    /// Replace the grants of an API key.
    SetAcl {
        /// Its id.
        key_id: String,
        /// The grants.
        permissions: Vec<Permission>,
    },
    /// Ask for the grants of an API key.
    GetAcl {
        /// Its id.
        key_id: String,
    },
}

/// One delivery to ack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckItem {
    /// Its queue.
    pub queue: QueueName,
    /// Its id.
    pub id: MessageId,
}

/// One delivery to nack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NackItem {
    /// Its queue.
    pub queue: QueueName,
    /// Its id.
    pub id: MessageId,
    /// Why it failed.
    pub error: String,
}

/// The name of an operation, without what a request says in it: the key to its opcode and to how its answer is read.
/// [`TypedRequest`](crate::TypedRequest) is a request together with the type of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "named like the variants of `Request`")]
pub enum Op {
    Handshake,
    Enqueue,
    Consume,
    CancelConsume,
    Flow,
    Ack,
    Nack,
    Heartbeat,
    Authenticate,
    Goodbye,
    ProbeAdmin,
    CreateQueue,
    DeleteQueue,
    QueueStats,
    ListQueues,
    Redrive,
    SetConfig,
    GetConfig,
    ListConfig,
    CreateApiKey,
    RevokeApiKey,
    ListApiKeys,
    SetAcl,
    GetAcl,
}

impl Op {
    /// Every operation.
    pub const ALL: [Self; 24] = [
        Self::Handshake,
        Self::Enqueue,
        Self::Consume,
        Self::CancelConsume,
        Self::Flow,
        Self::Ack,
        Self::Nack,
        Self::Heartbeat,
        Self::Authenticate,
        Self::Goodbye,
        Self::ProbeAdmin,
        Self::CreateQueue,
        Self::DeleteQueue,
        Self::QueueStats,
        Self::ListQueues,
        Self::Redrive,
        Self::SetConfig,
        Self::GetConfig,
        Self::ListConfig,
        Self::CreateApiKey,
        Self::RevokeApiKey,
        Self::ListApiKeys,
        Self::SetAcl,
        Self::GetAcl,
    ];

    /// Whether the server answers it at all.
    #[must_use]
    pub const fn is_answered(self) -> bool {
        !matches!(self, Self::Handshake | Self::CancelConsume | Self::Flow | Self::Goodbye)
    }

    /// Whether sending it a second time changes nothing that the first one did not: an answer of "not there" to
    /// the second ack, deletion or revocation means that the first one worked.
    #[must_use]
    pub const fn is_safe_to_replay(self) -> bool {
        matches!(
            self,
            Self::Ack
                | Self::Heartbeat
                | Self::CreateQueue
                | Self::DeleteQueue
                | Self::QueueStats
                | Self::ListQueues
                | Self::SetConfig
                | Self::GetConfig
                | Self::ListConfig
                | Self::RevokeApiKey
                | Self::ListApiKeys
                | Self::SetAcl
                | Self::GetAcl
        )
    }

    /// Whether its opcode or body depends on the admin revision of a preamble server.
    #[must_use]
    pub const fn is_admin(self) -> bool {
        matches!(
            self,
            Self::CreateQueue
                | Self::DeleteQueue
                | Self::QueueStats
                | Self::ListQueues
                | Self::Redrive
                | Self::SetConfig
                | Self::GetConfig
                | Self::ListConfig
                | Self::CreateApiKey
                | Self::RevokeApiKey
                | Self::ListApiKeys
                | Self::SetAcl
                | Self::GetAcl
        )
    }
}

impl Request {
    /// Which operation this is.
    #[must_use]
    pub const fn op(&self) -> Op {
        match self {
            Self::Handshake { .. } => Op::Handshake,
            Self::Enqueue(_) | Self::EnqueueNone { .. } => Op::Enqueue,
            Self::Consume { .. } => Op::Consume,
            Self::CancelConsume => Op::CancelConsume,
            Self::Flow { .. } => Op::Flow,
            Self::Ack(_) => Op::Ack,
            Self::Nack(_) => Op::Nack,
            Self::Heartbeat => Op::Heartbeat,
            Self::Authenticate(_) => Op::Authenticate,
            Self::Goodbye => Op::Goodbye,
            Self::ProbeAdmin => Op::ProbeAdmin,
            Self::CreateQueue(_) => Op::CreateQueue,
            Self::DeleteQueue { .. } => Op::DeleteQueue,
            Self::QueueStats { .. } => Op::QueueStats,
            Self::ListQueues => Op::ListQueues,
            Self::Redrive { .. } => Op::Redrive,
            Self::SetConfig { .. } => Op::SetConfig,
            Self::GetConfig { .. } => Op::GetConfig,
            Self::ListConfig { .. } => Op::ListConfig,
            Self::CreateApiKey(_) => Op::CreateApiKey,
            Self::RevokeApiKey { .. } => Op::RevokeApiKey,
            Self::ListApiKeys => Op::ListApiKeys,
            Self::SetAcl { .. } => Op::SetAcl,
            Self::GetAcl { .. } => Op::GetAcl,
        }
    }
}
