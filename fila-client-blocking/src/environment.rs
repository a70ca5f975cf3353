//! Configuration from the environment, which the core does not read.

use fibp_proto::{Config, Error};

/// Adds `Config::from_env()`.
///
/// ```no_run
/// use fila_client_blocking::{Client, Config, FromEnv};
///
/// # fn example() -> Result<(), fila_client_blocking::Error> {
/// let config = Config::from_env()?.max_redirects(2); // whatever the program adds
/// let client = Client::connect(config)?;
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
        Self::from_vars(|name| std::env::var_os(name), |file| std::fs::read(file))
    }
}
