//! Refusals as the dialects put them: texts (docs/protocol/preamble.md 1.11) and codes (docs/protocol/framed.md 4).

use fibp_proto::{AdminRevision, Dialect, ErrorKind, Op, ServerError};

use super::refusal::{Forbidden, ItemRefusal, Refusal, ThrottleFault};

const STORAGE: &str = "storage engine error: simulated failure";
const SCRIPTS: &str = "lua compilation error: scripts are not supported by the test broker";
const NO_LEADER: &str = "no leader available";
const NODE_NOT_READY: &str = "node not ready for this queue — retry on another node or wait";
const NO_RAFT_GROUP: &str = "queue raft group not found";
const RAFT: &str = "raft error: fatal: when Read Snapshot(None): snapshot not found";

/// Who words the refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Preamble {
        revision: AdminRevision,
        /// The short texts of the handler behind TLS.
        quirks: bool,
    },
    Framed,
}

impl Style {
    pub(super) fn new(dialect: Dialect, quirks: bool) -> Self {
        match dialect {
            Dialect::Preamble(revision) => Self::Preamble { revision, quirks },
            _ => Self::Framed,
        }
    }

    pub(super) fn is_framed(self) -> bool {
        self == Self::Framed
    }

    pub(super) fn has_quirks(self) -> bool {
        matches!(self, Self::Preamble { quirks: true, .. })
    }

    /// The opcode of an operation that the handler behind TLS does not know.
    pub(super) fn quirky_unknown(self, op: Op) -> Option<u8> {
        let Self::Preamble { revision, quirks: true } = self else {
            return None;
        };
        let config = if revision == AdminRevision::Protobuf {
            0x17
        } else {
            0x15
        };
        Some(match op {
            Op::SetConfig => config,
            Op::GetConfig => config + 1,
            Op::ListConfig => config + 2,
            Op::CreateApiKey => 0x31,
            Op::RevokeApiKey => 0x32,
            Op::ListApiKeys => 0x33,
            Op::SetAcl => 0x34,
            Op::GetAcl => 0x35,
            _ => return None,
        })
    }

    pub(super) fn refusal(self, refusal: &Refusal) -> ServerError {
        let kind = kind(refusal);
        match self {
            Self::Preamble { quirks, .. } => {
                let error = ServerError::new(kind, preamble_text(refusal, quirks));
                match refusal {
                    Refusal::NotLeader(leader) => error.with_leader(leader),
                    _ => error,
                }
            }
            Self::Framed => {
                let (code, text) = framed(refusal);
                let error = ServerError::new(kind, text).with_code(u16::from(code));
                match refusal {
                    // Real servers keep an address that means nothing to others to themselves.
                    Refusal::NotLeader(leader) if !leader.starts_with("0.0.0.0") => error
                        .with_leader(leader)
                        .with_metadata(vec![("leader_addr".to_owned(), leader.clone())]),
                    _ => error,
                }
            }
        }
    }

    pub(super) fn item(self, refusal: &ItemRefusal) -> Box<ServerError> {
        use ItemRefusal as R;
        // (preamble code, framed code, kind, preamble text, framed text)
        let (preamble, framed, kind, long, short) = match refusal {
            R::EmptyQueueName => (1, 0x01, ErrorKind::InvalidArgument, empty_name(), String::new()),
            R::QueueNotFound(queue) => (1, 0x01, ErrorKind::QueueNotFound, queue.to_string(), String::new()),
            R::BadMessageId(id) => (
                1,
                0x02,
                ErrorKind::MessageNotFound,
                format!("invalid message_id: {id}"),
                String::new(),
            ),
            R::NoLease { id, queue } => (
                1,
                0x02,
                ErrorKind::MessageNotFound,
                format!("no lease for message {id} in queue {queue}"),
                String::new(),
            ),
            R::Storage => (2, 0x05, ErrorKind::Server, STORAGE.to_owned(), String::new()),
            R::NotLeader | R::NoLeader => {
                let text = NO_LEADER.to_owned();
                (2, 0x0C, ErrorKind::NotLeader, text.clone(), text)
            }
            R::NodeNotReady => {
                let text = NODE_NOT_READY.to_owned();
                (2, 0x0C, ErrorKind::NotLeader, text.clone(), text)
            }
            R::RaftGroupNotFound => {
                let text = NO_RAFT_GROUP.to_owned();
                (2, 0x01, ErrorKind::QueueNotFound, text.clone(), text)
            }
            R::Raft => (2, 0xFF, ErrorKind::Server, RAFT.to_owned(), RAFT.to_owned()),
        };
        Box::new(match self {
            Self::Preamble { .. } => ServerError::new(kind, long).with_code(preamble),
            Self::Framed => ServerError::new(kind, short).with_code(framed),
        })
    }
}

fn empty_name() -> String {
    "queue name must not be empty".to_owned()
}

fn kind(refusal: &Refusal) -> ErrorKind {
    match refusal {
        Refusal::AuthenticationRequired | Refusal::MissingApiKey | Refusal::InvalidApiKey => ErrorKind::Auth,
        Refusal::Forbidden(_) => ErrorKind::Forbidden,
        Refusal::QueueExists(_) => ErrorKind::QueueExists,
        Refusal::QueueNotFound(_) | Refusal::ParentNotFound(_) | Refusal::NoSuchGroup => ErrorKind::QueueNotFound,
        Refusal::NotADeadLetterQueue(_) => ErrorKind::NotADeadLetterQueue,
        Refusal::ScriptsUnsupported => ErrorKind::Lua,
        Refusal::ApiKeyNotFound(_) => ErrorKind::ApiKeyNotFound,
        Refusal::Storage { .. } => ErrorKind::Server,
        Refusal::Overloaded => ErrorKind::Overloaded,
        Refusal::NotImplemented(_) | Refusal::UnknownOperation(_) => ErrorKind::Unsupported,
        Refusal::NotLeader(_) | Refusal::NoLeader | Refusal::NoLeaderYet | Refusal::NodeNotReady => {
            ErrorKind::NotLeader
        }
        Refusal::EmptyBody | Refusal::MalformedData => ErrorKind::Protocol,
        Refusal::ConsumeActive
        | Refusal::EmptyConsumeName
        | Refusal::Empty(_)
        | Refusal::VisibilityTooShort
        | Refusal::Throttle(_)
        | Refusal::PermissionKind(_) => ErrorKind::InvalidArgument,
    }
}

fn preamble_text(refusal: &Refusal, quirks: bool) -> String {
    let invalid = |what: &str| format!("invalid payload: {what}");
    match refusal {
        Refusal::AuthenticationRequired => "authentication required: send OP_AUTH frame first".to_owned(),
        Refusal::MissingApiKey | Refusal::InvalidApiKey => "invalid or missing api key".to_owned(),
        Refusal::Forbidden(_) if quirks => "permission denied".to_owned(),
        Refusal::Forbidden(forbidden) => match forbidden {
            Forbidden::Queue(kind, queue) => {
                format!("permission denied: key does not have {kind} permission on queue \"{queue}\"")
            }
            Forbidden::Admin => "permission denied: key does not have admin permission".to_owned(),
            Forbidden::SuperadminOnly => {
                "permission denied: only superadmin keys can create superadmin keys".to_owned()
            }
            Forbidden::OutsideScope => {
                "permission denied: cannot grant permissions outside your admin scope".to_owned()
            }
        },
        Refusal::ConsumeActive if quirks => "consume session already active".to_owned(),
        Refusal::ConsumeActive => "consume session already active on this connection".to_owned(),
        Refusal::EmptyConsumeName => empty_name(),
        Refusal::Empty(field) => invalid(&format!("{field} must not be empty")),
        Refusal::VisibilityTooShort => invalid("visibility_timeout_ms must be at least 1000 (1 second)"),
        Refusal::QueueExists(queue) => invalid(&format!("queue already exists: {queue}")),
        Refusal::QueueNotFound(queue) => invalid(&format!("queue not found: {queue}")),
        Refusal::NotADeadLetterQueue(queue) => invalid(&format!("not a dead-letter queue: {queue}")),
        Refusal::ParentNotFound(queue) => invalid(&format!("parent queue not found: {queue}")),
        Refusal::ScriptsUnsupported => invalid(&format!("lua script compilation failed: {SCRIPTS}")),
        Refusal::Throttle(fault) => invalid(&throttle_text(fault)),
        Refusal::ApiKeyNotFound(id) => invalid(&format!("api key not found: {id}")),
        Refusal::PermissionKind(kind) => invalid(&format!("invalid permission kind: {kind}")),
        Refusal::Storage { in_scheduler: true } => invalid(STORAGE),
        Refusal::Storage { in_scheduler: false } => format!("storage error: {STORAGE}"),
        Refusal::Overloaded => "broker unavailable: scheduler command channel full".to_owned(),
        Refusal::NotImplemented(opcode) => format!("operation 0x{opcode:02X} not implemented"),
        Refusal::UnknownOperation(opcode) => format!("unknown operation 0x{opcode:02X}"),
        Refusal::EmptyBody => "wire decode error: invalid payload: unexpected end of payload reading u16".to_owned(),
        Refusal::NotLeader(leader) => format!("leader_hint:{leader}"),
        Refusal::NoLeader | Refusal::NoLeaderYet => invalid("no leader available for queue"),
        Refusal::NodeNotReady => invalid(NODE_NOT_READY),
        Refusal::NoSuchGroup => invalid(NO_RAFT_GROUP),
        Refusal::MalformedData => invalid("malformed frame"),
    }
}

fn throttle_text(fault: &ThrottleFault) -> String {
    match fault {
        ThrottleFault::NoName => "throttle key name must not be empty".to_owned(),
        ThrottleFault::NoPair(value) => format!("throttle value must be 'rate_per_second,burst', got: {value}"),
        ThrottleFault::RateUnparsable(rate) => format!("invalid rate_per_second: {rate}"),
        ThrottleFault::RateOutOfRange(rate) => {
            format!("rate_per_second must be a finite non-negative number, got: {rate}")
        }
        ThrottleFault::BurstUnparsable(burst) => format!("invalid burst: {burst}"),
        ThrottleFault::BurstOutOfRange(burst) => format!("burst must be a finite non-negative number, got: {burst}"),
    }
}

fn framed(refusal: &Refusal) -> (u8, String) {
    let not_leader = || (0x0C, "not the leader for this queue".to_owned());
    match refusal {
        Refusal::AuthenticationRequired | Refusal::MissingApiKey => (0x0A, "API key required".to_owned()),
        Refusal::InvalidApiKey => (0x0A, "invalid API key".to_owned()),
        Refusal::Forbidden(forbidden) => {
            let text = match forbidden {
                Forbidden::Queue(kind, queue) => format!("no {kind} permission on queue \"{queue}\""),
                Forbidden::Admin => "key does not have admin permission".to_owned(),
                Forbidden::SuperadminOnly => "only superadmin keys can create other superadmin keys".to_owned(),
                Forbidden::OutsideScope => "one or more permissions exceed the caller's admin scope".to_owned(),
            };
            (0x0B, text)
        }
        // The texts of these three take the place of the id in the result.
        Refusal::ApiKeyNotFound(id) => (0x0F, id.clone()),
        Refusal::QueueExists(queue) => (0x03, queue.to_string()),
        Refusal::ScriptsUnsupported => (0x04, SCRIPTS.to_owned()),
        Refusal::QueueNotFound(_) => (0x01, "queue not found".to_owned()),
        Refusal::NotADeadLetterQueue(_) => (0x06, "not a dead-letter queue".to_owned()),
        Refusal::ParentNotFound(_) => (0x07, "parent queue not found".to_owned()),
        Refusal::Throttle(fault) => (0x08, throttle_text(fault)),
        Refusal::PermissionKind(kind) => (
            0x08,
            format!("invalid permission kind \"{kind}\": expected produce, consume, or admin"),
        ),
        Refusal::Storage { .. } => (0x05, format!("storage error: {STORAGE}")),
        Refusal::Overloaded => (0x09, "scheduler overloaded".to_owned()),
        Refusal::NotLeader(_) | Refusal::NoLeader => not_leader(),
        Refusal::NoLeaderYet => (0x0C, NO_LEADER.to_owned()),
        Refusal::NodeNotReady => (0x0C, NODE_NOT_READY.to_owned()),
        Refusal::NoSuchGroup => (0x01, NO_RAFT_GROUP.to_owned()),
        Refusal::UnknownOperation(opcode) | Refusal::NotImplemented(opcode) => {
            (0x0E, format!("unknown or unsupported opcode: 0x{opcode:02x}"))
        }
        Refusal::ConsumeActive
        | Refusal::EmptyConsumeName
        | Refusal::Empty(_)
        | Refusal::VisibilityTooShort
        | Refusal::EmptyBody
        | Refusal::MalformedData => (0x0E, preamble_text(refusal, false)),
    }
}
