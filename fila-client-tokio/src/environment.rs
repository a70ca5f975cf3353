//! Configuration from the environment, which the core does not read.

use fibp_proto::client::Runtime;
use fibp_proto::{Config, Error};

use crate::Tokio;

/// Adds `Config::from_env()`.
///
/// ```no_run
/// use fila_client_tokio::{Client, Config, FromEnv};
///
/// # async fn example() -> Result<(), fila_client_tokio::Error> {
/// let config = Config::from_env()?.max_redirects(2); // whatever the program adds
/// let client = Client::connect(config).await?;
/// # Ok(())
/// # }
/// ```
pub trait FromEnv: Sized {
    /// What the environment says: `FILA_URL` (`fila://127.0.0.1:5555` if unset), `FILA_API_KEY`, `FILA_CA_FILE`,
    /// `FILA_CLIENT_CERT_FILE` and `FILA_CLIENT_KEY_FILE`. An empty variable counts as unset. The files are read now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a value that is malformed or contradicts another one, and for a file
    /// that cannot be read.
    fn from_env() -> Result<Self, Error>;
}

impl FromEnv for Config {
    fn from_env() -> Result<Self, Error> {
        Self::from_vars(Tokio::var, Tokio::read_file)
    }
}
