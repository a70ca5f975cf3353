//! Message ids.

use crate::dialect::records::shared_len;
use crate::frame::{DecodeError, Reader};
use crate::prelude::*;
use alloc::sync::Arc;
use core::convert::Infallible;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::str::FromStr;

/// The length of the ids of real servers, which are hyphenated UUIDs. They need no allocation.
const UUID: usize = 36;

/// Nor do ids up to this length.
const SHORT: usize = UUID - 1;

/// The server's id of a message: an opaque string of at most 65 535 bytes, in practice a UUIDv7.
#[derive(Clone)]
pub struct MessageId(Repr);

// Ids are moved often. Behind a tag of one byte they would be moved in pieces that overlap, and processors wait before they
// read what they have just written in other pieces. Behind one of four bytes the rest is moved in three pieces.
#[derive(Clone)]
#[repr(u32)]
enum Repr {
    Uuid([u8; UUID]),
    Short { len: u8, bytes: [u8; SHORT] },
    Shared(Arc<str>),
}

impl MessageId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Shared(id) => id,
            // Only whole strings are ever stored.
            Repr::Uuid(_) | Repr::Short { .. } => core::str::from_utf8(self.as_bytes()).unwrap_or_default(),
        }
    }
}

impl MessageId {
    /// The id as the text's bytes, which were validated once.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Uuid(bytes) => bytes,
            Repr::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Repr::Shared(id) => id.as_bytes(),
        }
    }

    /// The next `str16` of a body. What it holds is counted.
    #[inline]
    pub(crate) fn read(body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(IdText::read(body)?.into())
    }

    /// The next `str16` of a body.
    #[inline]
    pub(crate) fn read_uncounted(body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(IdText::read_uncounted(body)?.into())
    }

    /// Whether it holds no memory besides itself.
    pub(crate) fn is_inline(&self) -> bool {
        !matches!(self.0, Repr::Shared(_))
    }
}

/// An id in a body, known to be text. The id itself is large, and made where it is kept.
#[derive(Clone, Copy)]
pub(crate) struct IdText<'a>(&'a [u8]);

impl<'a> IdText<'a> {
    // `inline(always)`: see `dialect::contents`.
    /// The next `str16` of a body. What the id will hold is counted.
    #[inline(always)]
    pub(crate) fn read(body: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let text = Self::read_uncounted(body)?;
        if text.0.len() > UUID {
            body.hold(shared_len(text.0.len()))?;
        }
        Ok(text)
    }

    /// The next `str16` of a body.
    #[inline(always)]
    pub(crate) fn read_uncounted(body: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let text = body.bytes16()?;
        // As most are. That each of so many bytes is ASCII is seen sooner than that some bytes are text.
        let is_ascii =
            <&[u8; UUID]>::try_from(text).is_ok_and(|uuid| uuid.iter().fold(0, |all, byte| all | byte).is_ascii());
        if !is_ascii {
            core::str::from_utf8(text)?;
        }
        Ok(Self(text))
    }
}

impl From<IdText<'_>> for MessageId {
    #[inline(always)]
    fn from(IdText(text): IdText<'_>) -> Self {
        Self(match text.try_into() {
            Ok(uuid) => Repr::Uuid(uuid),
            Err(_) => Repr::other(text),
        })
    }
}

impl From<&str> for MessageId {
    fn from(id: &str) -> Self {
        IdText(id.as_bytes()).into()
    }
}

impl Repr {
    /// A text that is not as long as a UUID.
    fn other(text: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        if let (Some(place), Ok(len)) = (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            place.copy_from_slice(text);
            return Self::Short { len, bytes };
        }
        Self::Shared(core::str::from_utf8(text).unwrap_or_default().into())
    }
}

impl From<String> for MessageId {
    fn from(id: String) -> Self {
        Self::from(id.as_str())
    }
}

impl FromStr for MessageId {
    type Err = Infallible;

    /// Never fails: an id is an opaque text.
    fn from_str(id: &str) -> Result<Self, Infallible> {
        Ok(Self::from(id))
    }
}

impl PartialEq<str> for MessageId {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for MessageId {
    fn eq(&self, other: &&str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<MessageId> for str {
    fn eq(&self, other: &MessageId) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

/// As a text.
#[cfg(feature = "serde")]
impl serde::Serialize for MessageId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for MessageId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <alloc::borrow::Cow<'de, str>>::deserialize(deserializer).map(|id| Self::from(&*id))
    }
}

impl AsRef<str> for MessageId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for MessageId {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for MessageId {}

impl PartialOrd for MessageId {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MessageId {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for MessageId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({})", self.as_str())
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_with_text_and_is_read_from_it() {
        let id: MessageId = "0198-id".parse().unwrap();
        assert_eq!(id, "0198-id");
        assert_eq!(id, *"0198-id");
        assert_eq!(*"0198-id", id);
        assert_ne!(id, "other");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn is_a_text_to_serde() {
        let id = MessageId::from("a\"b");
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, r#""a\"b""#);
        assert_eq!(serde_json::from_str::<MessageId>(&json).unwrap(), id);
    }

    #[test]
    fn keeps_ids_of_any_length() {
        for len in [0, 1, 35, 36, 37, 38, 39, 300, 70_000] {
            let text = "x".repeat(len);
            assert_eq!(MessageId::from(text.as_str()).as_str(), text);
        }
    }
}
