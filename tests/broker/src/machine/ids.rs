//! Ids and tokens, derived from a seed: two brokers with the same seed and clock hand out the same ones.

use fibp_proto::MessageId;

/// A UUID in its numeric form: cheaper to look up than its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Uuid(u128);

const HEX: &[u8; 16] = b"0123456789abcdef";

impl Uuid {
    /// Reads the hyphenated form, and the plain one of 32 digits, as real servers do.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let hyphenated = text.len() == 36;
        if !hyphenated && text.len() != 32 {
            return None;
        }
        let mut value = 0_u128;
        for (at, byte) in text.bytes().enumerate() {
            if hyphenated && matches!(at, 8 | 13 | 18 | 23) {
                if byte != b'-' {
                    return None;
                }
                continue;
            }
            value = value << 4 | u128::from(char::from(byte).to_digit(16)?);
        }
        Some(Self(value))
    }

    fn text(self) -> [u8; 36] {
        let mut text = [b'-'; 36];
        let mut shift = 128;
        for (at, place) in text.iter_mut().enumerate() {
            if !matches!(at, 8 | 13 | 18 | 23) {
                shift -= 4;
                *place = HEX[(self.0 >> shift & 15) as usize];
            }
        }
        text
    }

    pub(super) fn message_id(self) -> MessageId {
        MessageId::from(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
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
        Uuid(
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
        let bits = self.bits();
        Uuid(bits & !(0xf << 76) & !(0b11 << 62) | 0x4 << 76 | 0b10 << 62)
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
        let id = Uuid::parse(text).unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.message_id().as_str(), text);
        assert_eq!(Uuid::parse("0195d3c85f2a7abc8def0123456789ab"), Some(id));
        for bad in [
            "",
            "bogus",
            "0195d3c8-5f2a-7abc-8def-0123456789ax",
            "0195d3c8+5f2a-7abc-8def-0123456789ab",
        ] {
            assert_eq!(Uuid::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_ascend_and_have_their_version() {
        let mut ids = IdSource::new(7);
        let mut last = ids.time_ordered(1_700_000_000_000);
        for step in 0..1000 {
            let next = ids.time_ordered(1_700_000_000_000 + step / 100);
            assert!(next > last);
            assert_eq!(&next.to_string()[14..15], "7");
            assert!("89ab".contains(&next.to_string()[19..20]));
            last = next;
        }
        assert_eq!(&ids.random().to_string()[14..15], "4");
        assert_eq!(ids.token().len(), 32);
        assert_ne!(ids.token(), ids.token());
    }
}
