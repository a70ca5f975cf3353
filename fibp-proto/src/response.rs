//! Typed answers and pushes, free of any dialect.

use alloc::sync::Arc;
use core::fmt;

use crate::admin::{Acl, ApiKeyInfo, CreatedApiKey, QueueList, QueueStats};
use crate::error::{ErrorKind, quoted};
use crate::message::{MessageId, Received};
use crate::prelude::*;
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

/// The answer, or the refusal as one: for servers that handle a request in a function that may fail.
impl From<ItemResult<Self>> for Response {
    fn from(result: ItemResult<Self>) -> Self {
        result.unwrap_or_else(|refusal| Self::Error(*refusal))
    }
}

/// Deliveries that the server pushed.
#[derive(Debug, Clone, PartialEq)]
pub struct Push {
    /// The deliveries, in order.
    pub deliveries: Vec<Received>,
}

/// One delivery.
impl From<Received> for Push {
    fn from(delivery: Received) -> Self {
        Self {
            deliveries: vec![delivery],
        }
    }
}

/// A refusal in the server's own words.
///
/// `kind` and `leader` are what the dialect's table makes of code and text; only code, text and metadata
/// travel.
#[derive(Clone)]
pub struct ServerError(Arc<Refusal>);

/// Shared, as an answer may refuse a million items with the same words.
#[derive(Clone)]
struct Refusal {
    kind: ErrorKind,
    code: Option<u16>,
    text: String,
    metadata: Vec<(String, String)>,
    leader: Option<String>,
    /// Whether it arrived inside the result of an operation (framed dialect), so that it can be sent on in the same form.
    inline: Option<bool>,
    /// What the code means, in words of ours: for people only.
    meaning: Option<&'static str>,
}

/// Equal when they say the same, in whatever form they arrived.
impl PartialEq for ServerError {
    fn eq(&self, other: &Self) -> bool {
        let Refusal {
            kind,
            code,
            text,
            metadata,
            leader,
            inline: _,
            meaning: _,
        } = &*self.0;
        let other = &*other.0;
        (kind, code, text, metadata, leader) == (&other.kind, &other.code, &other.text, &other.metadata, &other.leader)
    }
}

impl Eq for ServerError {}

/// How servers say that they lost track of a request between their parts or nodes: it may have been executed
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
        Self(Arc::new(Refusal {
            kind,
            code: None,
            text: text.into(),
            metadata: Vec::new(),
            leader: None,
            inline: None,
            meaning: None,
        }))
    }

    /// It arrived inside a result, or in a frame of its own.
    pub(crate) fn arrived(mut self, inline: bool) -> Self {
        Arc::make_mut(&mut self.0).inline = Some(inline);
        self
    }

    /// Bytes of memory that it holds, itself and what it shares included; metadata are counted where they are read.
    pub(crate) fn held(&self) -> usize {
        (size_of::<Self>() + 2 * size_of::<usize>() + size_of::<Refusal>()).saturating_add(self.0.text.len())
    }

    /// How it arrived, if it did.
    pub(crate) fn was_inline(&self) -> Option<bool> {
        self.0.inline
    }

    /// With the dialect's numeric code.
    #[must_use]
    pub fn with_code(mut self, code: u16) -> Self {
        Arc::make_mut(&mut self.0).code = Some(code);
        self
    }

    /// With what the code means.
    pub(crate) fn with_meaning(mut self, meaning: &'static str) -> Self {
        Arc::make_mut(&mut self.0).meaning = Some(meaning);
        self
    }

    /// What the code means, where the kind does not tell.
    pub(crate) fn meaning(&self) -> Option<&'static str> {
        self.0.meaning
    }

    /// With metadata (framed dialect).
    #[must_use]
    pub fn with_metadata(mut self, metadata: Vec<(String, String)>) -> Self {
        Arc::make_mut(&mut self.0).metadata = metadata;
        self
    }

    /// With the address of the node that leads the queue.
    #[must_use]
    pub fn with_leader(mut self, leader: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).leader = Some(leader.into());
        self
    }

    /// What the refusal means.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The numeric code, where there was one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        self.0.code
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The metadata.
    #[must_use]
    pub fn metadata(&self) -> &[(String, String)] {
        &self.0.metadata
    }

    /// Whether the request may have been executed although it was answered with this.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        let text = self.0.text.strip_prefix("invalid payload: ").unwrap_or(&self.0.text);
        // Names that callers chose are the texts of other kinds.
        matches!(self.0.kind, ErrorKind::Server | ErrorKind::Overloaded)
            && LOST_TRACK.iter().any(|prefix| text.starts_with(prefix))
    }

    /// The address of the leader, if the server named one.
    #[must_use]
    pub fn leader(&self) -> Option<&str> {
        self.0.leader.as_deref()
    }
}

/// Refusals that arrive as the same kind in every dialect, as the refusal of a whole request and, where said, of an item.
///
/// The preamble dialect distinguishes kinds by the text (docs/protocol/preamble.md 1.11), the framed one by a code
/// (docs/protocol/framed.md 4): what [`new`](Self::new) makes of a kind and a free text may arrive as another kind in
/// the preamble dialect.
impl ServerError {
    /// [`ErrorKind::QueueNotFound`]; of an item of an enqueue too.
    #[must_use]
    pub fn queue_not_found(queue: &str) -> Self {
        Self::new(
            ErrorKind::QueueNotFound,
            format!("invalid payload: queue not found: {queue}"),
        )
    }

    /// [`ErrorKind::QueueExists`].
    #[must_use]
    pub fn queue_exists(queue: &str) -> Self {
        Self::new(
            ErrorKind::QueueExists,
            format!("invalid payload: queue already exists: {queue}"),
        )
    }

    /// [`ErrorKind::MessageNotFound`]; of an item of an ack or nack only.
    #[must_use]
    pub fn message_not_found(queue: &str, id: &str) -> Self {
        Self::new(
            ErrorKind::MessageNotFound,
            format!("no lease for message {id} in queue {queue}"),
        )
    }

    /// [`ErrorKind::NotADeadLetterQueue`].
    #[must_use]
    pub fn not_a_dead_letter_queue(queue: &str) -> Self {
        Self::new(
            ErrorKind::NotADeadLetterQueue,
            format!("invalid payload: not a dead-letter queue: {queue}"),
        )
    }

    /// [`ErrorKind::ApiKeyNotFound`].
    #[must_use]
    pub fn api_key_not_found(key_id: &str) -> Self {
        Self::new(
            ErrorKind::ApiKeyNotFound,
            format!("invalid payload: api key not found: {key_id}"),
        )
    }

    /// [`ErrorKind::Lua`]: a script does not compile.
    #[must_use]
    pub fn lua(reason: &str) -> Self {
        Self::new(
            ErrorKind::Lua,
            format!("invalid payload: lua script compilation failed: {reason}"),
        )
    }

    /// [`ErrorKind::InvalidArgument`].
    #[must_use]
    pub fn invalid_argument(reason: &str) -> Self {
        Self::new(
            ErrorKind::InvalidArgument,
            format!("invalid payload: invalid argument: {reason}"),
        )
    }

    /// [`ErrorKind::Auth`]: the API key is missing or invalid.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(ErrorKind::Auth, "invalid or missing api key")
    }

    /// [`ErrorKind::Forbidden`].
    #[must_use]
    pub fn forbidden(reason: &str) -> Self {
        Self::new(ErrorKind::Forbidden, format!("permission denied: {reason}"))
    }

    /// [`ErrorKind::NotLeader`] with the leader's address as `host:port`, or without one while none is elected.
    #[must_use]
    pub fn not_leader(leader: Option<&str>) -> Self {
        match leader {
            Some(leader) => Self::new(ErrorKind::NotLeader, format!("leader_hint:{leader}")).with_leader(leader),
            None => Self::new(ErrorKind::NotLeader, "no leader available"),
        }
    }

    /// [`ErrorKind::Overloaded`].
    #[must_use]
    pub fn overloaded(reason: &str) -> Self {
        Self::new(ErrorKind::Overloaded, format!("broker unavailable: {reason}"))
    }

    /// [`ErrorKind::Unsupported`]: the server has no such operation.
    #[must_use]
    pub fn unsupported(opcode: u8) -> Self {
        Self::new(ErrorKind::Unsupported, format!("unknown operation 0x{opcode:02X}"))
    }

    /// [`ErrorKind::Server`]: storage failed; of any item too.
    #[must_use]
    pub fn storage(reason: &str) -> Self {
        Self::new(ErrorKind::Server, format!("storage error: {reason}"))
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerError({:?}, {:?}, {:?}", self.0.kind, self.0.code, self.0.text)?;
        if !self.0.metadata.is_empty() {
            write!(f, ", {:?}", self.0.metadata)?;
        }
        f.write_str(")")
    }
}

/// The server's own words, escaped, or what its code means.
impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.text.is_empty() {
            match self.0.meaning {
                Some(meaning) => f.write_str(meaning)?,
                None => write!(f, "{}", self.0.kind)?,
            }
        } else {
            write!(f, "the server says {}", quoted(&self.0.text))?;
        }
        match self.0.code {
            Some(code) => write!(f, " (server code {code})"),
            None => Ok(()),
        }
    }
}
