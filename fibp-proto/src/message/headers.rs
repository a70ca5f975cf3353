//! Header maps: owned when built by a caller, a validated slice of the wire when received.

use core::fmt;

use crate::prelude::*;
use bytes::{Buf, Bytes};

/// Header keys and values of a message.
///
/// Received headers are validated once and kept as they came; they are turned into text on access. The
/// server keeps no order, and of duplicate keys it keeps the last.
#[derive(Clone, Default)]
pub struct Headers(Repr);

#[derive(Clone)]
enum Repr {
    Owned(Vec<(String, String)>),
    Wire(WireHeaders),
}

impl Default for Repr {
    fn default() -> Self {
        Self::Owned(Vec::new())
    }
}

/// `count` pairs of `str16`, known to be well formed.
#[derive(Clone)]
pub(crate) struct WireHeaders {
    pub(crate) count: usize,
    pub(crate) pairs: Bytes,
}

impl Headers {
    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self(Repr::Owned(Vec::new()))
    }

    /// Headers whose wire form was validated by the dialect's decoder.
    pub(crate) fn from_wire(headers: WireHeaders) -> Self {
        if headers.count == 0 {
            Self::new()
        } else {
            Self(Repr::Wire(headers))
        }
    }

    /// The wire form, if these headers have it already.
    pub(crate) fn wire(&self) -> Option<&WireHeaders> {
        match &self.0 {
            Repr::Wire(headers) => Some(headers),
            Repr::Owned(_) => None,
        }
    }

    /// Sets `key` to `value`, replacing an earlier value.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let (key, value) = (key.into(), value.into());
        let pairs = self.make_owned();
        match pairs.iter_mut().find(|(known, _)| *known == key) {
            Some((_, place)) => *place = value,
            None => pairs.push((key, value)),
        }
    }

    /// Removes `key`, and returns its value; of duplicate keys, the last.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        self.get(key)?;
        let mut removed = None;
        self.make_owned().retain_mut(|(known, value)| {
            let stays = known != key;
            if !stays {
                removed = Some(core::mem::take(value));
            }
            stays
        });
        removed
    }

    /// The value of `key`; of duplicate keys, the last.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter()
            .filter(|(known, _)| *known == key)
            .map(|(_, value)| value)
            .last()
    }

    /// How many pairs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::Owned(pairs) => pairs.len(),
            Repr::Wire(headers) => headers.count,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pairs, in the order in which they were added or received.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter(match &self.0 {
            Repr::Owned(pairs) => IterRepr::Owned(pairs.iter()),
            Repr::Wire(headers) => IterRepr::Wire(&headers.pairs),
        })
    }

    fn make_owned(&mut self) -> &mut Vec<(String, String)> {
        if let Repr::Wire(_) = self.0 {
            let pairs = self
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            self.0 = Repr::Owned(pairs);
        }
        match &mut self.0 {
            Repr::Owned(pairs) => pairs,
            Repr::Wire(_) => unreachable!("made owned above"),
        }
    }
}

/// Iterator over header pairs; see [`Headers::iter`].
#[derive(Debug, Clone)]
pub struct Iter<'a>(IterRepr<'a>);

#[derive(Debug, Clone)]
enum IterRepr<'a> {
    Owned(core::slice::Iter<'a, (String, String)>),
    Wire(&'a [u8]),
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            IterRepr::Owned(pairs) => pairs.next().map(|(key, value)| (&**key, &**value)),
            IterRepr::Wire(rest) => Some((take_str16(rest)?, take_str16(rest)?)),
        }
    }
}

fn take_str16<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    if rest.remaining() < 2 {
        return None;
    }
    let len = usize::from(rest.get_u16());
    let (text, after) = rest.split_at_checked(len)?;
    *rest = after;
    core::str::from_utf8(text).ok()
}

impl<'a> IntoIterator for &'a Headers {
    type Item = (&'a str, &'a str);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut headers = Self::new();
        headers.extend(pairs);
        headers
    }
}

impl<K: Into<String>, V: Into<String>> Extend<(K, V)> for Headers {
    /// Sets every key to its value, replacing earlier values.
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        for (key, value) in pairs {
            self.insert(key, value);
        }
    }
}

/// Equal when they map the same keys to the same values: servers keep no order.
impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        let contains = |of: &Self, other: &Self| of.iter().all(|(key, _)| of.get(key) == other.get(key));
        contains(self, other) && contains(other, self)
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_removed_and_added_in_both_forms() {
        let wire = WireHeaders {
            count: 3,
            pairs: Bytes::from_static(b"\0\x01a\0\x011\0\x01b\0\x012\0\x01a\0\x013"),
        };
        let owned: Headers = [("a", "3"), ("b", "2")].into_iter().collect();
        for mut headers in [Headers::from_wire(wire), owned] {
            assert_eq!(headers.remove("c"), None);
            assert_eq!(headers.remove("a").as_deref(), Some("3"), "the last of duplicates");
            assert_eq!(
                headers.iter().collect::<Vec<_>>(),
                [("b", "2")],
                "and every one of them is gone"
            );
            headers.extend([("b", "4"), ("d", "5")]);
            assert_eq!(headers.iter().collect::<Vec<_>>(), [("b", "4"), ("d", "5")]);
        }
    }
}
