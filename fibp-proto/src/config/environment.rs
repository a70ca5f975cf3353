//! Configuration by variables.

use std::ffi::OsString;
use std::fmt;

use super::options::{Load, Pem};
use super::{Config, Credentials, url};
use crate::error::{Error, ErrorKind};
use crate::message::Secret;

/// The URL of the server. `fila://127.0.0.1:5555` if unset.
const URL: &str = "FILA_URL";
const DEFAULT_URL: &str = "fila://127.0.0.1:5555";
const API_KEY: &str = "FILA_API_KEY";
const CA_FILE: &str = "FILA_CA_FILE";
const CLIENT_CERT_FILE: &str = "FILA_CLIENT_CERT_FILE";
const CLIENT_KEY_FILE: &str = "FILA_CLIENT_KEY_FILE";

impl Config {
    /// Reads `FILA_URL` (`fila://127.0.0.1:5555` if unset), `FILA_API_KEY`, `FILA_CA_FILE`,
    /// `FILA_CLIENT_CERT_FILE` and `FILA_CLIENT_KEY_FILE` through `lookup`, and the files they name through
    /// `load`. An empty variable counts as unset.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] as for [`Config::from_url`], for a variable that is not valid UTF-8 or repeats what the URL says, for
    /// files given with a URL that means no TLS, and for a certificate without its key or the reverse.
    pub fn from_vars<E: fmt::Display>(
        lookup: impl Fn(&str) -> Option<OsString>,
        load: impl Fn(&str) -> Result<Vec<u8>, E>,
    ) -> Result<Self, Error> {
        let load: Load<'_> = &|name| {
            let text = load(name).map_err(|error| format!("cannot read \"{name}\": {error}"))?;
            Ok(Pem::Text(text))
        };
        let lookup = |name| match lookup(name).map(OsString::into_string) {
            Some(Ok(value)) => Ok(Some(value).filter(|value| !value.is_empty())),
            // The value may be a key.
            Some(Err(_)) => Err(Error::new(ErrorKind::Config, format!("{name} is not valid UTF-8"))),
            None => Ok(None),
        };

        let url = lookup(URL)?;
        let (mut draft, encrypted) = url::parse(url.as_deref().unwrap_or(DEFAULT_URL), load)?;
        if let Some(key) = lookup(API_KEY)? {
            if !draft.settings.credentials.is_none() {
                return Err(repeated(API_KEY));
            }
            draft.settings.credentials = Credentials::fixed(Secret::from(key));
            draft.settings.credentials.validate()?;
        }
        for (name, slot) in [
            (CA_FILE, &mut draft.tls.ca),
            (CLIENT_CERT_FILE, &mut draft.tls.cert),
            (CLIENT_KEY_FILE, &mut draft.tls.key),
        ] {
            let Some(file) = lookup(name)? else { continue };
            if slot.is_some() {
                return Err(repeated(name));
            }
            let content = load(&file).map_err(|problem| Error::new(ErrorKind::Config, format!("{name}: {problem}")))?;
            *slot = Some(content);
        }
        url::finish(draft, encrypted)
    }
}

fn repeated(name: &str) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("{name} is set, but {URL} sets the same option"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Config, Error> {
        Config::from_vars(
            |name| {
                let found = vars.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(*value))
            },
            |file| match file {
                "good.pem" => Ok(b"pem".to_vec()),
                _ => Err("no such file"),
            },
        )
    }

    #[test]
    fn nothing_set_means_the_local_server() {
        for vars in [&[][..], &[("FILA_URL", ""), ("FILA_API_KEY", ""), ("FILA_CA_FILE", "")]] {
            let config = read(vars).unwrap();
            assert_eq!(config.to_url(), "fila://127.0.0.1:5555");
            assert!(config.settings().credentials.is_none());
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_that_is_not_utf_8_is_an_error() {
        use std::os::unix::ffi::OsStringExt as _;

        for name in [URL, API_KEY, CA_FILE, CLIENT_CERT_FILE, CLIENT_KEY_FILE] {
            let lookup = |asked: &str| (asked == name).then(|| OsString::from_vec(b"hunter2\xff".to_vec()));
            let error = Config::from_vars(lookup, |_| Err("no such file")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(name) && shown.contains("UTF-8"), "{shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn url_and_key() {
        let config = read(&[("FILA_URL", "fila://a?max_redirects=1"), ("FILA_API_KEY", "hunter2")]).unwrap();
        assert_eq!(config.to_url(), "fila://a:5555?max_redirects=1");
        let key = config.settings().credentials.key().unwrap();
        assert_eq!(key.unwrap().expose(), "hunter2");
    }

    #[test]
    fn contradictions_are_refused() {
        let tls = ("FILA_URL", "fila+tls://a");
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("FILA_URL", "fila://k@a"), ("FILA_API_KEY", "k")], "FILA_API_KEY"),
            (&[("FILA_API_KEY", "k\n")], "white space"),
            (&[("FILA_CA_FILE", "good.pem")], "fila+tls://"),
            (
                &[
                    ("FILA_CLIENT_CERT_FILE", "good.pem"),
                    ("FILA_CLIENT_KEY_FILE", "good.pem"),
                ],
                "fila+tls://",
            ),
            (&[("FILA_CA_FILE", "bad.pem")], "FILA_CA_FILE: cannot read \"bad.pem\""),
            #[cfg(feature = "tls")]
            (&[tls, ("FILA_CLIENT_CERT_FILE", "good.pem")], "without its key"),
            #[cfg(feature = "tls")]
            (&[tls, ("FILA_CLIENT_KEY_FILE", "good.pem")], "without its certificate"),
            #[cfg(not(feature = "tls"))]
            (&[tls], "tls-ring"),
        ];
        for (vars, says) in cases {
            let error = read(vars).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(says), "{error} does not say {says:?}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn files_make_tls() {
        let config = read(&[
            ("FILA_URL", "fila+tls://a"),
            ("FILA_CA_FILE", "good.pem"),
            ("FILA_CLIENT_CERT_FILE", "good.pem"),
            ("FILA_CLIENT_KEY_FILE", "good.pem"),
        ])
        .unwrap();
        assert!(config.settings().tls.is_some());
        let repeated = read(&[
            ("FILA_URL", "fila+tls://a?ca_file=good.pem"),
            ("FILA_CA_FILE", "good.pem"),
        ]);
        assert!(repeated.unwrap_err().to_string().contains("FILA_CA_FILE"));
    }
}
