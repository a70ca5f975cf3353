//! Message ids.

use crate::dialect::records::id_len;
use crate::frame::{DecodeError, Reader};
use crate::prelude::*;
use alloc::sync::Arc;
use core::convert::Infallible;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::str::FromStr;

/// Ids of real servers are hyphenated UUIDs of 36 bytes; those need no allocation.
const INLINE: usize = 38;

/// The length of those.
const UUID: usize = 36;

/// The server's id of a message: an opaque string of at most 65 535 bytes, in practice a UUIDv7.
#[derive(Clone)]
pub struct MessageId(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE] },
    Shared(Arc<str>),
}

impl MessageId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // Only whole strings are ever stored.
            Repr::Inline { len, bytes } => bytes
                .get(..usize::from(*len))
                .and_then(|bytes| core::str::from_utf8(bytes).ok())
                .unwrap_or_default(),
            Repr::Shared(id) => id,
        }
    }
}

impl MessageId {
    /// The id as the text's bytes, which were validated once.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Repr::Shared(id) => id.as_bytes(),
        }
    }

    /// The next `str16` of a body. What it holds is counted.
    pub(crate) fn read(body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = Self::read_uncounted(body)?;
        body.hold(id_len(&id))?;
        Ok(id)
    }

    /// The next `str16` of a body.
    pub(crate) fn read_uncounted(body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let text = body.bytes16()?;
        // As most are. That each of so many bytes is ASCII is seen sooner than that some bytes are text.
        if let Ok(uuid) = <&[u8; UUID]>::try_from(text)
            && uuid.iter().fold(0, |all, byte| all | byte).is_ascii()
        {
            return Ok(Self(Repr::uuid(uuid)));
        }
        Ok(Self::from(core::str::from_utf8(text)?))
    }

    /// Whether it holds no memory besides itself.
    pub(crate) fn is_inline(&self) -> bool {
        matches!(self.0, Repr::Inline { .. })
    }
}

impl Repr {
    /// A text that needs no allocation.
    fn inline(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; INLINE];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        let len = u8::try_from(text.len()).ok()?;
        Some(Self::Inline { len, bytes })
    }

    /// A text of this length.
    fn uuid(text: &[u8; UUID]) -> Self {
        let mut bytes = [0; INLINE];
        if let Some((place, _)) = bytes.split_first_chunk_mut() {
            *place = *text;
        }
        let len = UUID as u8;
        Self::Inline { len, bytes }
    }
}

impl From<&str> for MessageId {
    fn from(id: &str) -> Self {
        Self(Repr::inline(id.as_bytes()).unwrap_or_else(|| Repr::Shared(id.into())))
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
        for len in [0, 1, 36, 37, 38, 39, 300, 70_000] {
            let text = "x".repeat(len);
            assert_eq!(MessageId::from(text.as_str()).as_str(), text);
        }
    }
}
