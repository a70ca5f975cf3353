//! Header maps: owned when built by a caller, a validated slice of the wire when received.

use alloc::collections::BTreeMap;
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
    Owned(OwnedHeaders),
    Wire(WireHeaders),
}

impl Default for Repr {
    fn default() -> Self {
        Self::Owned(OwnedHeaders::new())
    }
}

/// With more pairs than this, they have an index.
const INDEXED: usize = 16;

/// Pairs with different keys.
#[derive(Clone)]
struct OwnedHeaders {
    pairs: Vec<(String, String)>,
    /// Apart, so that a message without headers is no larger for it.
    index: Option<Box<Index>>,
}

/// What is known of more pairs than [`INDEXED`] without a look at each.
#[derive(Clone, Default)]
struct Index {
    /// The first pair with each hash of a key.
    places: BTreeMap<u64, usize>,
    /// Bytes of all keys and values.
    len: usize,
}

impl OwnedHeaders {
    const fn new() -> Self {
        Self {
            pairs: Vec::new(),
            index: None,
        }
    }

    fn insert(&mut self, key: String, value: String) {
        let known = self.find(&key);
        if let Some((_, place)) = known.and_then(|place| self.pairs.get_mut(place)) {
            if let Some(index) = &mut self.index {
                index.len = index.len - place.len() + value.len();
            }
            *place = value;
            return;
        }
        if let Some(index) = &mut self.index {
            index.add(self.pairs.len(), &key, &value);
        }
        self.pairs.push((key, value));
        if self.index.is_none() && self.pairs.len() > INDEXED {
            self.index_pairs();
        }
    }

    /// Bytes of all keys and values.
    fn len(&self) -> usize {
        match &self.index {
            Some(index) => index.len,
            None => self.pairs.iter().map(|(key, value)| key.len() + value.len()).sum(),
        }
    }

    fn remove(&mut self, key: &str) -> Option<String> {
        let place = self.find(key)?;
        let (_, value) = self.pairs.remove(place);
        self.index_pairs();
        Some(value)
    }

    /// Makes the index, if there are many pairs.
    fn index_pairs(&mut self) {
        self.index = (self.pairs.len() > INDEXED).then(|| {
            let mut index = Box::<Index>::default();
            for (place, (key, value)) in self.pairs.iter().enumerate() {
                index.add(place, key, value);
            }
            index
        });
    }

    fn find(&self, key: &str) -> Option<usize> {
        let is_it = |(known, _): &(String, String)| known == key;
        if let Some(index) = &self.index {
            let place = *index.places.get(&hash(key))?;
            if self.pairs.get(place).is_some_and(is_it) {
                return Some(place);
            }
            // Another key with the same hash came first.
        }
        self.pairs.iter().position(is_it)
    }
}

impl Index {
    fn add(&mut self, place: usize, key: &str, value: &str) {
        self.len += key.len() + value.len();
        self.places.entry(hash(key)).or_insert(place);
    }
}

/// FNV-1a. Keys with the same hash only cost more, and they are the caller's own.
fn hash(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
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
        Self(Repr::Owned(OwnedHeaders::new()))
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

    /// Holds its own bytes only from now on.
    pub(crate) fn detach(&mut self) {
        if let Repr::Wire(headers) = &mut self.0 {
            headers.pairs = Bytes::copy_from_slice(&headers.pairs);
        }
    }

    /// Bytes of all keys and values.
    #[inline]
    pub(crate) fn content_len(&self) -> usize {
        match &self.0 {
            Repr::Owned(owned) if owned.pairs.is_empty() => 0,
            Repr::Owned(owned) => owned.len(),
            Repr::Wire(headers) => headers.pairs.len().saturating_sub(4 * headers.count),
        }
    }

    /// Sets `key` to `value`, replacing an earlier value.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.make_owned().insert(key.into(), value.into());
    }

    /// Removes `key`, and returns its value; of duplicate keys, the last.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        self.get(key)?;
        self.make_owned().remove(key)
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
            Repr::Owned(owned) => owned.pairs.len(),
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
            Repr::Owned(owned) => IterRepr::Owned(owned.pairs.iter()),
            Repr::Wire(headers) => IterRepr::Wire(&headers.pairs),
        })
    }

    fn make_owned(&mut self) -> &mut OwnedHeaders {
        if let Repr::Wire(_) = self.0 {
            let mut owned = OwnedHeaders::new();
            for (key, value) in self.iter() {
                owned.insert(key.to_owned(), value.to_owned());
            }
            self.0 = Repr::Owned(owned);
        }
        match &mut self.0 {
            Repr::Owned(owned) => owned,
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

    #[test]
    #[cfg_attr(miri, ignore = "takes long without showing more")]
    fn a_key_has_one_value_however_many_there_are() {
        let mut headers = Headers::new();
        for round in 0..2 {
            for n in 0..1_000 {
                headers.insert(format!("key-{n}"), format!("{}-{round}", n * 7));
            }
        }
        assert_eq!(headers.len(), 1_000);
        let inserted: Vec<_> = headers.iter().map(|(key, _)| key.to_owned()).collect();
        assert!(
            inserted.iter().enumerate().all(|(n, key)| *key == format!("key-{n}")),
            "in order"
        );
        assert_eq!(headers.get("key-999"), Some("6993-1"));
        let lens = headers.iter().map(|(key, value)| key.len() + value.len());
        assert_eq!(headers.content_len(), lens.sum::<usize>());
        assert_eq!(headers.remove("key-500").as_deref(), Some("3500-1"));
        headers.insert("key-999", "last");
        assert_eq!((headers.len(), headers.get("key-999")), (999, Some("last")));
    }

    #[test]
    fn keys_with_the_same_hash_are_kept_apart() {
        let mut owned = OwnedHeaders::new();
        for n in 0..=INDEXED {
            owned.insert(format!("key-{n}"), "old".into());
        }
        // As if they all had the hash of the first.
        let index = owned.index.as_mut().expect("there are many");
        for n in 1..=INDEXED {
            index.places.insert(hash(&format!("key-{n}")), 0);
        }
        owned.insert("key-5".into(), "new".into());
        assert_eq!(owned.pairs.len(), INDEXED + 1);
        assert_eq!(owned.find("key-5"), Some(5));
        assert_eq!(owned.pairs[5].1, "new");
        assert_eq!(
            owned.len(),
            Headers(Repr::Owned(owned.clone()))
                .iter()
                .map(|(k, v)| k.len() + v.len())
                .sum::<usize>()
        );
    }

    #[test]
    fn a_message_without_headers_is_no_larger_for_the_index() {
        assert_eq!(size_of::<Headers>(), size_of::<WireHeaders>());
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes long without showing more")]
    fn many_headers_are_built_in_one_go() {
        // Would take minutes in a debug build if each were compared with all before it.
        let headers: Headers = (0..100_000).map(|n| (format!("{n:0>64}"), "")).collect();
        assert_eq!(headers.len(), 100_000);
    }
}
