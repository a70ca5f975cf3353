//! What the examples have in common.

use fila_client_tokio::{Config, FromEnv};
use fila_test_broker::Broker;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The server that `FILA_URL` names (with `FILA_API_KEY`, `FILA_CA_FILE`, …), or else a broker in this process.
pub(crate) fn server() -> Result<(Option<Broker>, Config)> {
    if std::env::var_os("FILA_URL").is_some() {
        let config = Config::from_env()?;
        return Ok((None, config));
    }
    eprintln!("FILA_URL is not set: starting a broker in this process");
    let broker = Broker::builder().dead_letter_after(3).start()?;
    let config = Config::new(broker.addr());
    Ok((Some(broker), config))
}
