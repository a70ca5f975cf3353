//! Typed answers and pushes, free of any dialect.

use std::fmt;

use crate::admin::{Acl, ApiKeyInfo, CreatedApiKey, QueueList, QueueStats};
use crate::error::ErrorKind;
use crate::message::{MessageId, Received};
use crate::request::Op;

/// The result of one item of a batched request.
pub type ItemResult<T> = Result<T, Box<ServerError>>;

/// Everything a server can answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Response {
    /// Results of an enqueue, in request order. A server may send fewer than there were messages.
    Enqueue(Vec<ItemResult<MessageId>>),
    /// The consumer is registered.
    Consume {
        /// The server's name for the consumer, where the dialect has one.
        consumer_id: Option<String>,
    },
    /// Results of an ack, in request order.
    Ack(Vec<ItemResult<()>>),
    /// Results of a nack, in request order.
    Nack(Vec<ItemResult<()>>),
    /// A sign of life.
    Heartbeat,
    /// The key was accepted.
    Authenticated,
    /// The queue was created.
    CreateQueue {
        /// Its id (its name, on every known server).
        queue_id: String,
    },
    /// The queue was deleted.
    DeleteQueue,
    /// A queue's figures.
    QueueStats(QueueStats),
    /// All queues.
    ListQueues(QueueList),
    /// Messages were moved.
    Redrive {
        /// How many.
        redriven: u64,
    },
    /// The value was set.
    SetConfig,
    /// A configuration value; empty if unset.
    GetConfig {
        /// The value.
        value: String,
    },
    /// Configuration values in key order.
    ListConfig {
        /// Keys and values.
        entries: Vec<(String, String)>,
    },
    /// The API key.
    CreateApiKey(CreatedApiKey),
    /// The API key was revoked.
    RevokeApiKey,
    /// All API keys.
    ListApiKeys(Vec<ApiKeyInfo>),
    /// The grants were replaced.
    SetAcl,
    /// An API key's grants.
    GetAcl(Acl),
    /// The request as a whole was refused.
    Error(ServerError),
}

impl Response {
    /// Which operation it answers; `None` for a refusal, which may answer any.
    #[must_use]
    pub const fn op(&self) -> Option<Op> {
        Some(match self {
            Self::Enqueue(_) => Op::Enqueue,
            Self::Consume { .. } => Op::Consume,
            Self::Ack(_) => Op::Ack,
            Self::Nack(_) => Op::Nack,
            Self::Heartbeat => Op::Heartbeat,
            Self::Authenticated => Op::Authenticate,
            Self::CreateQueue { .. } => Op::CreateQueue,
            Self::DeleteQueue => Op::DeleteQueue,
            Self::QueueStats(_) => Op::QueueStats,
            Self::ListQueues(_) => Op::ListQueues,
            Self::Redrive { .. } => Op::Redrive,
            Self::SetConfig => Op::SetConfig,
            Self::GetConfig { .. } => Op::GetConfig,
            Self::ListConfig { .. } => Op::ListConfig,
            Self::CreateApiKey(_) => Op::CreateApiKey,
            Self::RevokeApiKey => Op::RevokeApiKey,
            Self::ListApiKeys(_) => Op::ListApiKeys,
            Self::SetAcl => Op::SetAcl,
            Self::GetAcl(_) => Op::GetAcl,
            Self::Error(_) => return None,
        })
    }
}

/// Deliveries that the server pushed.
#[derive(Debug, Clone, PartialEq)]
pub struct Push {
    /// The deliveries, in order.
    pub deliveries: Vec<Received>,
}

/// A refusal in the server's own words.
///
/// `kind` and `leader` are what the dialect's table makes of code and text; only code, text and metadata
/// travel.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerError {
    kind: ErrorKind,
    code: Option<u16>,
    text: String,
    metadata: Vec<(String, String)>,
    leader: Option<String>,
}

/// How servers tell that they lost track of a request between their parts or nodes: it may have been executed
/// (docs/protocol/preamble.md 2.4, docs/protocol/framed.md 4). In the preamble dialect some follow `invalid payload: `.
const LOST_TRACK: [&str; 4] = [
    "raft error:",
    "forward error:",
    "scheduler reply dropped",
    "unexpected cluster response",
];

impl ServerError {
    /// A refusal of the given kind.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            code: None,
            text: text.into(),
            metadata: Vec::new(),
            leader: None,
        }
    }

    /// With the dialect's numeric code.
    #[must_use]
    pub fn with_code(mut self, code: u16) -> Self {
        self.code = Some(code);
        self
    }

    /// With metadata (framed dialect).
    #[must_use]
    pub fn with_metadata(mut self, metadata: Vec<(String, String)>) -> Self {
        self.metadata = metadata;
        self
    }

    /// With the address of the node that leads the queue.
    #[must_use]
    pub fn with_leader(mut self, leader: impl Into<String>) -> Self {
        self.leader = Some(leader.into());
        self
    }

    /// What the refusal means.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The numeric code, where there was one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        self.code
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The metadata.
    #[must_use]
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// Whether the request may have been executed although it was answered with this.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        let text = self.text.strip_prefix("invalid payload: ").unwrap_or(&self.text);
        // Names that callers chose are the texts of other kinds.
        matches!(self.kind, ErrorKind::Server | ErrorKind::Overloaded)
            && LOST_TRACK.iter().any(|prefix| text.starts_with(prefix))
    }

    /// The address of the leader, if the server named one.
    #[must_use]
    pub fn leader(&self) -> Option<&str> {
        self.leader.as_deref()
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerError({:?}, {:?}, {:?}", self.kind, self.code, self.text)?;
        if !self.metadata.is_empty() {
            write!(f, ", {:?}", self.metadata)?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) if self.text.is_empty() => write!(f, "server code {code}"),
            _ => write!(f, "server says \"{}\"", self.text),
        }
    }
}
