//! What the fuzz targets do with their input: ordinary functions, which stable tests run over the corpora.
//!
//! Each panics when something does not hold.

mod answer;
mod identity;
mod input;
#[path = "../../fibp-proto/tests/pair/mod.rs"]
mod pair;
mod reference;
mod stream;
mod values;
mod waiters;

pub mod chunking;
pub mod client_connection;
pub mod continuation;
pub mod conversation;
pub mod frame_decode;
pub mod framing;
pub mod machine_ops;
pub mod observer;
pub mod pem;
pub mod roundtrip;
pub mod seeds;
pub mod server_connection;
pub mod texts;
pub mod tls_pipe;

use fibp_proto::{AdminRevision, Dialect};

/// A target's body.
pub type Body = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Body); 13] = [
    ("frame_decode", frame_decode::run),
    ("framing", framing::run),
    ("continuation", continuation::run),
    ("conversation", conversation::run),
    ("observer", observer::run),
    ("texts", texts::run),
    ("pem", pem::run),
    ("tls_pipe", tls_pipe::run),
    ("client_connection", client_connection::run),
    ("server_connection", server_connection::run),
    ("roundtrip", roundtrip::run),
    ("chunking", chunking::run),
    ("machine_ops", machine_ops::run),
];

/// Every dialect that has a wire format.
pub const DIALECTS: [Dialect; 5] = [
    Dialect::Preamble(AdminRevision::Protobuf),
    Dialect::Preamble(AdminRevision::ProtobufRenumbered),
    Dialect::Preamble(AdminRevision::Binary),
    Dialect::Handshake,
    Dialect::HandshakeEarly,
];
