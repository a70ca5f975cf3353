//! What the texts of refusals mean (docs/protocol/preamble.md 1.11).
//!
//! ERROR frames carry no code. Queue names and scripts appear in the texts, so only full prefixes are
//! compared, in the order of the specification.

use crate::error::ErrorKind;
use crate::frame::DecodeError;
use crate::prelude::*;
use crate::request::Op;
use crate::response::ServerError;

/// Item code: the queue (of an enqueue) or the message (of an ack or nack) was not found.
pub(super) const ITEM_NOT_FOUND: u16 = 1;

/// Item code: storage or cluster trouble.
pub(super) const ITEM_STORAGE: u16 = 2;

const EMPTY_QUEUE_NAME: &str = "queue name must not be empty";
const LEADER_HINT: &str = "leader_hint:";

/// Refusals of whole requests.
const PREFIXES: [(&str, ErrorKind); 32] = [
    ("permission denied", ErrorKind::Forbidden),
    ("authentication required", ErrorKind::Auth),
    ("invalid or missing api key", ErrorKind::Auth),
    ("invalid payload: queue already exists: ", ErrorKind::QueueExists),
    ("invalid payload: queue not found", ErrorKind::QueueNotFound),
    ("invalid payload: parent queue not found: ", ErrorKind::QueueNotFound),
    ("invalid payload: queue raft group not found", ErrorKind::QueueNotFound),
    ("queue raft group not found", ErrorKind::QueueNotFound),
    ("invalid payload: api key not found: ", ErrorKind::ApiKeyNotFound),
    (
        "invalid payload: not a dead-letter queue: ",
        ErrorKind::NotADeadLetterQueue,
    ),
    ("invalid payload: lua script compilation failed: ", ErrorKind::Lua),
    ("invalid payload: no leader available", ErrorKind::NotLeader),
    ("invalid payload: node not ready", ErrorKind::NotLeader),
    ("no leader available", ErrorKind::NotLeader),
    ("node not ready", ErrorKind::NotLeader),
    ("broker unavailable: ", ErrorKind::Overloaded),
    ("scheduler reply dropped", ErrorKind::Overloaded),
    ("storage error: ", ErrorKind::Server),
    ("invalid payload: storage engine error: ", ErrorKind::Server),
    ("invalid payload: serialization error: ", ErrorKind::Server),
    ("invalid payload: store not found: ", ErrorKind::Server),
    ("invalid payload: corrupt data: ", ErrorKind::Server),
    ("consume session already active", ErrorKind::InvalidArgument),
    ("unknown operation 0x", ErrorKind::Unsupported),
    ("operation 0x", ErrorKind::Unsupported),
    ("protobuf decode error", ErrorKind::WrongDialect),
    ("wire decode error", ErrorKind::WrongDialect),
    // Cluster failures of a queue's creation or deletion, which is no fault of the argument (2.4).
    ("invalid payload: raft error: ", ErrorKind::Server),
    ("invalid payload: forward error: ", ErrorKind::Server),
    ("invalid payload: unexpected cluster response", ErrorKind::Server),
    ("invalid payload: ", ErrorKind::InvalidArgument),
    (EMPTY_QUEUE_NAME, ErrorKind::InvalidArgument),
];

/// Texts that cluster nodes put under item code 2 (2.4).
const CLUSTER_PREFIXES: [(&str, ErrorKind); 3] = [
    ("queue raft group not found", ErrorKind::QueueNotFound),
    ("no leader available", ErrorKind::NotLeader),
    ("node not ready", ErrorKind::NotLeader),
];

/// Whether a refusal is one of [`CLUSTER_PREFIXES`]. Under the item code of what was not found the text is a name that
/// the caller chose.
pub(super) fn says_not_yet(error: &ServerError) -> bool {
    let text = error.text();
    let text = text.strip_prefix("invalid payload: ").unwrap_or(text);
    error.code() != Some(ITEM_NOT_FOUND) && CLUSTER_PREFIXES.iter().any(|(prefix, _)| text.starts_with(prefix))
}

fn kind_by(prefixes: &[(&str, ErrorKind)], text: &str) -> ErrorKind {
    prefixes
        .iter()
        .find(|(prefix, _)| text.starts_with(prefix))
        .map_or(ErrorKind::Server, |(_, kind)| *kind)
}

/// The refusal that the text of an ERROR frame is.
pub(super) fn refusal(text: impl Into<String>) -> ServerError {
    let text = text.into();
    match text.strip_prefix(LEADER_HINT) {
        Some(leader) => {
            let leader = leader.to_owned();
            ServerError::new(ErrorKind::NotLeader, text).with_leader(leader)
        }
        None => ServerError::new(kind_by(&PREFIXES, &text), text),
    }
}

/// The refusal of one item of a batched request.
pub(super) fn item_refusal(op: Op, code: u16, text: &str) -> ServerError {
    let kind = match code {
        ITEM_NOT_FOUND if text == EMPTY_QUEUE_NAME => ErrorKind::InvalidArgument,
        ITEM_NOT_FOUND if op == Op::Enqueue => ErrorKind::QueueNotFound,
        ITEM_NOT_FOUND => ErrorKind::MessageNotFound,
        _ => kind_by(&CLUSTER_PREFIXES, text),
    };
    ServerError::new(kind, text).with_code(code)
}

/// The code under which a server reports the refusal of one item.
pub(super) fn item_code(refusal: &ServerError) -> u16 {
    refusal.code().unwrap_or_else(|| match refusal.kind() {
        ErrorKind::QueueNotFound | ErrorKind::MessageNotFound | ErrorKind::InvalidArgument => ITEM_NOT_FOUND,
        _ => ITEM_STORAGE,
    })
}

/// What servers answer to an opcode they do not have.
pub(super) fn unknown_operation(opcode: u8) -> ServerError {
    refusal(format!("unknown operation 0x{opcode:02X}"))
}

/// What P1 servers answer to an opcode that they have no more than the name of.
pub(super) fn not_implemented(opcode: u8) -> ServerError {
    refusal(format!("operation 0x{opcode:02X} not implemented"))
}

/// What servers answer to a malformed admin body: protobuf's own words, or those of the P3 reader.
pub(super) fn malformed_admin_body(error: &DecodeError) -> ServerError {
    refusal(match error {
        DecodeError::Protobuf(error) => format!("protobuf decode error: {error}"),
        DecodeError::UnexpectedEnd {
            field: "string",
            needed,
            available,
        } => {
            format!("wire decode error: invalid payload: string length {needed} exceeds remaining {available} bytes")
        }
        DecodeError::UnexpectedEnd { field, .. } => {
            format!("wire decode error: invalid payload: unexpected end of payload reading {field}")
        }
        DecodeError::Utf8(error) => format!("wire decode error: invalid payload: invalid utf8: {error}"),
        other => format!("wire decode error: invalid payload: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_of_the_table_is_understood() {
        use ErrorKind::*;
        for (text, kind) in [
            ("authentication required: send OP_AUTH frame first", Auth),
            ("invalid or missing api key", Auth),
            ("permission denied", Forbidden),
            (
                "permission denied: key does not have produce permission on queue \"queue not found\"",
                Forbidden,
            ),
            (
                "permission denied: only superadmin keys can create superadmin keys",
                Forbidden,
            ),
            ("consume session already active on this connection", InvalidArgument),
            ("consume session already active", InvalidArgument),
            ("queue name must not be empty", InvalidArgument),
            ("operation 0x14 not implemented", Unsupported),
            ("unknown operation 0x77", Unsupported),
            (
                "protobuf decode error: failed to decode Protobuf message: invalid varint",
                WrongDialect,
            ),
            (
                "wire decode error: invalid payload: unexpected end of payload reading u16",
                WrongDialect,
            ),
            ("invalid payload: queue name must not be empty", InvalidArgument),
            ("invalid payload: dlq_queue name must not be empty", InvalidArgument),
            (
                "invalid payload: visibility_timeout_ms must be at least 1000 (1 second)",
                InvalidArgument,
            ),
            ("invalid payload: queue already exists: queue not found: q", QueueExists),
            (
                "invalid payload: lua script compilation failed: lua compilation error: x",
                Lua,
            ),
            ("invalid payload: queue not found: q", QueueNotFound),
            ("invalid payload: queue not found", QueueNotFound),
            ("invalid payload: parent queue not found: p", QueueNotFound),
            ("invalid payload: queue raft group not found", QueueNotFound),
            ("queue raft group not found", QueueNotFound),
            ("invalid payload: not a dead-letter queue: q", NotADeadLetterQueue),
            ("invalid payload: api key not found: k9", ApiKeyNotFound),
            ("invalid payload: invalid permission kind: fly", InvalidArgument),
            ("invalid payload: invalid rate_per_second: x", InvalidArgument),
            ("invalid payload: no leader available for queue", NotLeader),
            ("invalid payload: node not ready for this queue", NotLeader),
            ("no leader available", NotLeader),
            ("node not ready for this queue", NotLeader),
            ("broker unavailable: scheduler command channel full", Overloaded),
            ("scheduler reply dropped", Overloaded),
            ("storage error: corrupt data: x", Server),
            ("invalid payload: storage engine error: x", Server),
            ("invalid payload: serialization error: x", Server),
            ("invalid payload: store not found: x", Server),
            ("invalid payload: corrupt data: x", Server),
            ("invalid payload: raft error: x", Server),
            ("raft error: x", Server),
            ("forward error: x", Server),
            ("never heard of", Server),
            ("", Server),
        ] {
            let refusal = refusal(text);
            assert_eq!(refusal.kind(), kind, "{text}");
            assert_eq!(
                (refusal.text(), refusal.code(), refusal.leader()),
                (text, None, None),
                "{text}"
            );
        }
    }

    #[test]
    fn a_server_that_lost_track_leaves_the_outcome_open() {
        for text in ["raft error: x", "forward error: x", "unexpected cluster response"] {
            for text in [text.to_owned(), format!("invalid payload: {text}")] {
                assert!(refusal(text.as_str()).is_in_doubt(), "{text}");
            }
            assert!(item_refusal(Op::Enqueue, 2, text).is_in_doubt(), "{text}");
            assert!(
                !item_refusal(Op::Enqueue, 1, text).is_in_doubt(),
                "a queue of that name"
            );
        }
        let dropped = refusal("scheduler reply dropped");
        assert!(dropped.is_in_doubt());
        assert_eq!(crate::Error::from_server(dropped).outcome(), crate::Outcome::Unknown);
        for text in ["storage error: x", "broker unavailable: x", "invalid payload: x", ""] {
            assert_eq!(
                crate::Error::from_server(refusal(text)).outcome(),
                crate::Outcome::Rejected,
                "{text}"
            );
        }
    }

    #[test]
    fn a_leader_hint_names_the_leader() {
        let refusal = refusal("leader_hint:[::1]:5555");
        assert_eq!(refusal.kind(), ErrorKind::NotLeader);
        assert_eq!(refusal.leader(), Some("[::1]:5555"));
    }

    #[test]
    fn item_codes_depend_on_the_operation() {
        use ErrorKind::*;
        for (op, code, text, kind) in [
            (Op::Enqueue, 1, "orders", QueueNotFound),
            (Op::Enqueue, 1, "no leader available", QueueNotFound),
            (Op::Enqueue, 1, "queue name must not be empty", InvalidArgument),
            (Op::Ack, 1, "no lease for message m in queue q", MessageNotFound),
            (Op::Nack, 1, "message m not found in queue q", MessageNotFound),
            (Op::Ack, 1, "invalid message_id: bogus", MessageNotFound),
            (Op::Enqueue, 2, "storage engine error: x", Server),
            (Op::Enqueue, 2, "queue raft group not found", QueueNotFound),
            (Op::Ack, 2, "node not ready for this queue", NotLeader),
            (Op::Nack, 2, "no leader available", NotLeader),
            (Op::Nack, 2, "raft error: x", Server),
            (Op::Ack, 2, "forward error: x", Server),
            (Op::Ack, 7, "new", Server),
        ] {
            let refusal = item_refusal(op, code, text);
            assert_eq!(refusal.kind(), kind, "{op:?} {code} {text}");
            assert_eq!(item_code(&refusal), code);
        }
    }
}
