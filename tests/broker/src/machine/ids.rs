//! Ids and tokens, derived from a seed: two brokers with the same seed and clock hand out the same ones.

use fibp_proto::MessageId;
use uuid::Uuid;

/// A UUID as the text that clients know a message by.
pub(super) fn message_id(id: Uuid) -> MessageId {
    let text = id.hyphenated();
    MessageId::from(&*text.encode_lower(&mut Uuid::encode_buffer()))
}

/// Reads a message id, as real servers do.
pub(super) fn parse(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok()
}

/// Hands out ids.
#[derive(Debug, Clone)]
pub(super) struct IdSource {
    seed: u64,
    counter: u64,
}

impl IdSource {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, counter: 0 }
    }

    /// A UUIDv7 greater than all before it, as long as `wall_ms` does not go back.
    pub(super) fn time_ordered(&mut self, wall_ms: u64) -> Uuid {
        self.counter = self.counter.wrapping_add(1);
        let count = u128::from(self.counter);
        let noise = u128::from(mix(self.seed ^ self.counter));
        let time = u128::from(wall_ms) & 0xffff_ffff_ffff;
        Uuid::from_u128(
            time << 80
                | 0x7 << 76
                | (count >> 32 & 0xfff) << 64
                | 0b10 << 62
                | (count & 0xffff_ffff) << 30
                | (noise & 0x3fff_ffff),
        )
    }

    /// A UUIDv4.
    pub(super) fn random(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(self.bits().to_be_bytes()).into_uuid()
    }

    /// An API key: 32 lower-case hex digits.
    pub(super) fn token(&mut self) -> String {
        format!("{:032x}", self.bits())
    }

    fn bits(&mut self) -> u128 {
        self.counter = self.counter.wrapping_add(1);
        let high = mix(self.seed ^ self.counter.rotate_left(32));
        u128::from(high) << 64 | u128::from(mix(high ^ self.seed))
    }
}

/// The finaliser of SplitMix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_agree() {
        let text = "0195d3c8-5f2a-7abc-8def-0123456789ab";
        let id = parse(text).unwrap();
        assert_eq!(message_id(id).as_str(), text);
        assert_eq!(parse("0195d3c85f2a7abc8def0123456789ab"), Some(id));
        for bad in [
            "",
            "bogus",
            "0195d3c8-5f2a-7abc-8def-0123456789ax",
            "0195d3c8+5f2a-7abc-8def-0123456789ab",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_ascend_and_have_their_version() {
        let mut ids = IdSource::new(7);
        let mut last = ids.time_ordered(1_700_000_000_000);
        for step in 0..1000 {
            let next = ids.time_ordered(1_700_000_000_000 + step / 100);
            assert!(next > last);
            assert_eq!(next.get_version_num(), 7);
            assert_eq!(next.get_variant(), uuid::Variant::RFC4122);
            last = next;
        }
        assert_eq!(ids.random().get_version_num(), 4);
        assert_eq!(ids.token().len(), 32);
        assert_ne!(ids.token(), ids.token());
    }
}
