//! The name that a server's certificate must be for.

use std::sync::Arc;

use rustls::pki_types::ServerName;

use crate::error::{Error, ErrorKind};

pub(super) fn verified_name(host: &str) -> Result<ServerName<'static>, Error> {
    // Certificates know neither the zone of a link-local address nor the dot that ends an absolute name.
    let name = host.split_once('%').map_or(host, |(address, _)| address);
    let name = name.strip_suffix('.').unwrap_or(name);
    ServerName::try_from(name.to_owned()).map_err(|error| {
        let shown = host.escape_debug();
        Error::new(
            ErrorKind::Config,
            format!("no certificate can be for the server name \"{shown}\""),
        )
        .with_source(Arc::new(error))
    })
}
