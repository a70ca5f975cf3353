//! Opcodes (docs/protocol/framed.md 3).

use crate::request::Op;

/// Opens a connection; everything else comes after it.
pub(super) const HANDSHAKE: u8 = 0x01;
/// Accepts it.
pub(super) const HANDSHAKE_OK: u8 = 0x02;
pub(super) const PING: u8 = 0x03;
pub(super) const PONG: u8 = 0x04;
pub(super) const DISCONNECT: u8 = 0x05;
pub(super) const ERROR: u8 = 0xFE;

/// The opcode numbers of the data operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// Those of a few early builds.
    F1,
    /// Those of current servers.
    F2,
}

impl Numbers {
    /// The opcode that asks for `op`, if the dialect has it.
    pub(super) const fn request(self, op: Op) -> Option<u8> {
        Some(match op {
            Op::Handshake => HANDSHAKE,
            Op::Heartbeat => PING,
            Op::Goodbye => DISCONNECT,
            Op::Enqueue => 0x10,
            Op::Consume => 0x12,
            Op::CancelConsume => self.either(0x14, 0x15),
            Op::Ack => self.either(0x15, 0x16),
            Op::Nack => self.either(0x17, 0x18),
            Op::CreateQueue => 0xFD,
            Op::DeleteQueue => 0xFB,
            Op::QueueStats => 0xF9,
            Op::ListQueues => 0xF7,
            Op::SetConfig => 0xF5,
            Op::GetConfig => 0xF3,
            Op::ListConfig => 0xF1,
            Op::Redrive => 0xEF,
            Op::CreateApiKey => 0xED,
            Op::RevokeApiKey => 0xEB,
            Op::ListApiKeys => 0xE9,
            Op::SetAcl => 0xE7,
            Op::GetAcl => 0xE5,
            Op::Flow | Op::Authenticate | Op::ProbeAdmin => return None,
        })
    }

    /// The opcode of the answer to `op`, if it is answered.
    pub(super) const fn answer(self, op: Op) -> Option<u8> {
        Some(match op {
            Op::Heartbeat => PONG,
            Op::Enqueue => 0x11,
            Op::Consume => self.either(0x19, 0x13),
            Op::Ack => self.either(0x16, 0x17),
            Op::Nack => self.either(0x18, 0x19),
            Op::CreateQueue => 0xFC,
            Op::DeleteQueue => 0xFA,
            Op::QueueStats => 0xF8,
            Op::ListQueues => 0xF6,
            Op::SetConfig => 0xF4,
            Op::GetConfig => 0xF2,
            Op::ListConfig => 0xF0,
            Op::Redrive => 0xEE,
            Op::CreateApiKey => 0xEC,
            Op::RevokeApiKey => 0xEA,
            Op::ListApiKeys => 0xE8,
            Op::SetAcl => 0xE6,
            Op::GetAcl => 0xE4,
            Op::Handshake | Op::CancelConsume | Op::Goodbye | Op::Flow | Op::Authenticate | Op::ProbeAdmin => {
                return None;
            }
        })
    }

    /// The opcode of deliveries.
    pub(super) const fn delivery(self) -> u8 {
        self.either(0x13, 0x14)
    }

    /// What a client asks for with `opcode`.
    pub(super) fn op_of_request(self, opcode: u8) -> Option<Op> {
        Op::ALL.into_iter().find(|op| self.request(*op) == Some(opcode))
    }

    /// Whether a server answers with `opcode`.
    pub(super) fn is_answer(self, opcode: u8) -> bool {
        opcode == ERROR || Op::ALL.into_iter().any(|op| self.answer(op) == Some(opcode))
    }

    const fn either(self, f1: u8, f2: u8) -> u8 {
        match self {
            Self::F1 => f1,
            Self::F2 => f2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_opcode_means_two_things() {
        for numbers in [Numbers::F1, Numbers::F2] {
            let mut used: Vec<u8> = Op::ALL
                .into_iter()
                .flat_map(|op| [numbers.request(op), numbers.answer(op)])
                .flatten()
                .chain([HANDSHAKE_OK, ERROR, numbers.delivery()])
                .collect();
            let count = used.len();
            used.sort_unstable();
            used.dedup();
            assert_eq!(used.len(), count);
        }
    }

    #[test]
    fn the_seven_numbers_that_differ() {
        let data = |numbers: Numbers| {
            [
                Some(numbers.delivery()),
                numbers.request(Op::CancelConsume),
                numbers.request(Op::Ack),
                numbers.answer(Op::Ack),
                numbers.request(Op::Nack),
                numbers.answer(Op::Nack),
                numbers.answer(Op::Consume),
            ]
        };
        assert_eq!(data(Numbers::F1), [0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19].map(Some));
        assert_eq!(data(Numbers::F2), [0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x13].map(Some));
    }
}
