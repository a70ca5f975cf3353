//! Decisions drawn from the fuzzer's bytes.

use fibp_proto::Dialect;

use crate::DIALECTS;

/// Reads values off the front. When nothing is left, everything is zero or empty.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    data: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { data }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    pub(crate) fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.data.split_at(n.min(self.data.len()));
        self.data = rest;
        taken
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.data)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    pub(crate) fn number(&mut self) -> u64 {
        let mut all = [0; 8];
        for (to, from) in all.iter_mut().zip(self.bytes(8)) {
            *to = *from;
        }
        u64::from_be_bytes(all)
    }

    pub(crate) fn word(&mut self) -> u32 {
        let mut all = [0; 4];
        for (to, from) in all.iter_mut().zip(self.bytes(4)) {
            *to = *from;
        }
        u32::from_be_bytes(all)
    }

    /// A short text, or seldom one about as long as a length field can say.
    pub(crate) fn text(&mut self) -> String {
        let choice = self.byte();
        if choice < 0xF0 {
            let n = usize::from(choice) % 20;
            return String::from_utf8_lossy(self.bytes(n)).into_owned();
        }
        let n = 65_532 + usize::from(choice & 7);
        // Characters of two bytes in half of them: a length that cuts one in two is noticed.
        if choice & 8 == 0 {
            "x".repeat(n)
        } else {
            format!("{}{}", "x".repeat(n % 2), "é".repeat(n / 2))
        }
    }

    pub(crate) fn dialect(&mut self) -> Dialect {
        let choice = self.below(DIALECTS.len());
        DIALECTS.get(choice).copied().unwrap_or(Dialect::Handshake)
    }

    pub(crate) fn list<T>(&mut self, most: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let n = self.below(most + 1);
        (0..n).map(|_| one(self)).collect()
    }
}
