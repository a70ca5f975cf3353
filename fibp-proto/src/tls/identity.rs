//! A client certificate, as it was given.

use std::sync::Arc;

use crate::message::Secret;

/// Who to be: PEM texts.
#[derive(Clone)]
#[cfg_attr(
    not(feature = "tls"),
    allow(dead_code, reason = "nothing reads it in a build without TLS")
)]
pub(super) struct Identity {
    pub(super) certificates: Arc<[u8]>,
    pub(super) key: Arc<Secret>,
}
