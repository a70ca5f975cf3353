//! Seeded numbers: what they lead to can be replayed.

#![allow(dead_code, reason = "not everybody needs all of it")]

use std::time::Duration;

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// A number from 1 to `high`, small ones as likely as large ones.
    pub(crate) fn spread(&mut self, high: usize) -> usize {
        let bits = usize::BITS - high.max(1).leading_zeros();
        let bits = self.between(1, bits as usize);
        self.between(1, 1 << bits).min(high.max(1))
    }

    /// True in `percent` of a hundred cases.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A time in milliseconds from `low` to `high`, both included, with a fraction.
    pub(crate) fn millis(&mut self, low: usize, high: usize) -> Duration {
        let micros = self.between(low.saturating_mul(1000), high.saturating_mul(1000));
        Duration::from_micros(micros as u64)
    }

    /// One of `choices`.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        choices.get(self.below(choices.len())).copied()
    }
}
