//! Every way in which the broker refuses something, free of any dialect.

use fibp_proto::QueueName;
use fibp_proto::admin::PermissionKind;

/// Why a whole request is refused.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Refusal {
    AuthenticationRequired,
    MissingApiKey,
    InvalidApiKey,
    Forbidden(Forbidden),
    ConsumeActive,
    EmptyConsumeName,
    /// The field that is empty, as texts spell it ("queue name").
    Empty(&'static str),
    VisibilityTooShort,
    QueueExists(QueueName),
    QueueNotFound(QueueName),
    NotADeadLetterQueue(QueueName),
    ParentNotFound(QueueName),
    ScriptsUnsupported,
    Throttle(ThrottleFault),
    ApiKeyNotFound(String),
    PermissionKind(String),
    /// The storage engine failed, below the scheduler or beside it.
    Storage {
        in_scheduler: bool,
    },
    Overloaded,
    NotImplemented(u8),
    UnknownOperation(u8),
    /// An empty body where the admin revision wants a string.
    EmptyBody,
    NotLeader(String),
    /// A leader is being elected.
    NoLeader,
    /// The queue was created a moment ago through this node, and has no leader yet.
    NoLeaderYet,
    /// The queue was created a moment ago, and this node is not ready for it.
    NodeNotReady,
    /// A queue that the cluster does not know.
    NoSuchGroup,
    MalformedData,
}

/// What an API key may not do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Forbidden {
    Queue(PermissionKind, QueueName),
    Admin,
    SuperadminOnly,
    OutsideScope,
}

/// What is wrong with a throttle setting. Holds what the client sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ThrottleFault {
    NoName,
    NoPair(String),
    RateUnparsable(String),
    RateOutOfRange(String),
    BurstUnparsable(String),
    BurstOutOfRange(String),
}

/// Why one item of a batch is refused.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ItemRefusal {
    EmptyQueueName,
    QueueNotFound(QueueName),
    BadMessageId(String),
    NoLease {
        id: String,
        queue: QueueName,
    },
    Storage,
    NotLeader,
    NoLeader,
    NodeNotReady,
    RaftGroupNotFound,
    /// The leader cannot write to its Raft log.
    Raft,
}
