//! TLS as bytes in, bytes out.

mod settings;

pub use settings::Tls;
