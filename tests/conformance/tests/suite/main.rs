//! The conformance suite: every case runs on every adapter.
//!
//! `FILA_URL` (with `FILA_API_KEY`, `FILA_CA_FILE`, `FILA_CLIENT_CERT_FILE`, `FILA_CLIENT_KEY_FILE`) runs it against an
//! external server instead of the embedded broker; what cannot run there is skipped by name. Cases that bring their own peer
//! are in `tests/peers`.

mod addresses;
mod breaking;
mod closing;
mod connecting;
mod connections;
mod consuming;
mod flow;
mod operations;
mod recovery;
mod settings;
mod stalls;
mod tls;
