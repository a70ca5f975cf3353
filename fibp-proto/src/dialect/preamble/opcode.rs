//! Opcodes (docs/protocol/preamble.md 1.3 and 2.1).

use crate::dialect::AdminRevision;
use crate::request::Op;

pub(super) const CONSUME: u8 = 0x02;
pub(super) const HEARTBEAT: u8 = 0x21;
pub(super) const PROBE: u8 = 0x14;
pub(super) const ERROR: u8 = 0xFE;
pub(super) const GOAWAY: u8 = 0xFF;

/// Operations that P1 servers know of without having them: PAUSE and RESUME.
pub(super) const STUBS_OF_P1: [u8; 2] = [PROBE, 0x15];

/// What has the same opcode in every revision.
const COMMON: [(u8, Op); 17] = [
    (0x01, Op::Enqueue),
    (CONSUME, Op::Consume),
    (0x03, Op::Ack),
    (0x04, Op::Nack),
    (0x10, Op::CreateQueue),
    (0x11, Op::DeleteQueue),
    (0x12, Op::QueueStats),
    (0x13, Op::ListQueues),
    (0x20, Op::Flow),
    (HEARTBEAT, Op::Heartbeat),
    (0x30, Op::Authenticate),
    (0x31, Op::CreateApiKey),
    (0x32, Op::RevokeApiKey),
    (0x33, Op::ListApiKeys),
    (0x34, Op::SetAcl),
    (0x35, Op::GetAcl),
    (GOAWAY, Op::Goodbye),
];

const P1: [(u8, Op); 4] = [
    (0x16, Op::Redrive),
    (0x17, Op::SetConfig),
    (0x18, Op::GetConfig),
    (0x19, Op::ListConfig),
];

/// P2 and P3.
const COMPACT: [(u8, Op); 4] = [
    (0x14, Op::Redrive),
    (0x15, Op::SetConfig),
    (0x16, Op::GetConfig),
    (0x17, Op::ListConfig),
];

fn table(revision: AdminRevision) -> impl Iterator<Item = &'static (u8, Op)> {
    let own = match revision {
        AdminRevision::Protobuf => &P1,
        AdminRevision::ProtobufRenumbered | AdminRevision::Binary => &COMPACT,
    };
    COMMON.iter().chain(own)
}

/// The opcode of an operation; `None` if the dialect has no such operation.
pub(super) fn of(revision: AdminRevision, op: Op) -> Option<u8> {
    if op == Op::ProbeAdmin {
        return Some(PROBE);
    }
    table(revision).find(|(_, known)| *known == op).map(|(code, _)| *code)
}

/// The operation of an opcode that a client sends; `None` if servers of the revision know none.
pub(super) fn operation(revision: AdminRevision, opcode: u8) -> Option<Op> {
    table(revision).find(|(code, _)| *code == opcode).map(|(_, op)| *op)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_both_ways() {
        for revision in [
            AdminRevision::Protobuf,
            AdminRevision::ProtobufRenumbered,
            AdminRevision::Binary,
        ] {
            for op in Op::ALL {
                match of(revision, op) {
                    Some(code) if op != Op::ProbeAdmin => assert_eq!(operation(revision, code), Some(op)),
                    Some(code) => assert_eq!(code, 0x14),
                    None => assert!(matches!(op, Op::CancelConsume | Op::Handshake), "{op:?}"),
                }
            }
            let known = (0..=u8::MAX).filter(|code| operation(revision, *code).is_some());
            assert_eq!(known.count(), 21);
        }
    }

    #[test]
    fn the_revisions_differ_where_the_spec_says() {
        let codes = |revision| [Op::Redrive, Op::SetConfig, Op::GetConfig, Op::ListConfig].map(|op| of(revision, op));
        assert_eq!(codes(AdminRevision::Protobuf), [0x16, 0x17, 0x18, 0x19].map(Some));
        assert_eq!(
            codes(AdminRevision::ProtobufRenumbered),
            [0x14, 0x15, 0x16, 0x17].map(Some)
        );
        assert_eq!(codes(AdminRevision::Binary), [0x14, 0x15, 0x16, 0x17].map(Some));
        assert_eq!(operation(AdminRevision::Protobuf, 0x14), None);
        assert_eq!(operation(AdminRevision::Binary, 0x18), None);
    }
}
