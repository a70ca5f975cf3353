//! Values that must never be printed.

use crate::prelude::*;
use core::fmt;

/// An API key. Its `Debug` is redacted in every build, and its buffer is overwritten when dropped.
///
/// The overwrite covers this value's own buffer; copies that the TLS library or the kernel made of it are
/// out of reach.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The key itself. Do not log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        // Only built from text.
        core::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// A secret that need not be text, as the PEM of a private key.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    #[cfg(feature = "tls")]
    pub(crate) fn expose_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the key is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(key: String) -> Self {
        Self(key.into_bytes())
    }
}

impl From<&str> for Secret {
    fn from(key: &str) -> Self {
        Self(key.as_bytes().to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // Keeps the compiler from proving the store dead.
        core::hint::black_box(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_redacted() {
        assert_eq!(format!("{:?}", Secret::from("hunter2")), "Secret(redacted)");
    }
}
