//! `fila://` URLs, read and written.
//!
//! Errors never repeat a part of the URL that may belong to the key.

use std::fmt;
use std::str::FromStr;

use super::options::{Arguments, Draft, Load, OPTIONS, Pem, known};
use super::{Config, Credentials, Endpoint, IntoEndpoints, Settings};
use crate::error::{Error, ErrorKind};
use crate::message::Secret;
use crate::tls::Tls;

const PLAIN: &str = "fila";
const ENCRYPTED: &str = "fila+tls";

fn refuse(message: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Config, format!("URL: {message}"))
}

/// A URL in its parts, percent-encoding still in place.
struct Parts<'a> {
    encrypted: bool,
    key: Option<&'a str>,
    addresses: &'a str,
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn split(url: &'a str) -> Result<Self, Error> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| refuse("expected fila://host:port or fila+tls://host:port"))?;
        let encrypted = if scheme.eq_ignore_ascii_case(ENCRYPTED) {
            true
        } else if scheme.eq_ignore_ascii_case(PLAIN) {
            false
        } else {
            return Err(refuse("the scheme must be fila:// or fila+tls://"));
        };
        if rest.contains('#') {
            return Err(refuse("unexpected '#'; in a key write it as %23"));
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        if query.contains('@') {
            return Err(refuse(
                "'@' after '?'; in a key '?' is written %3F, in a value '@' is written %40",
            ));
        }
        let place = place.strip_suffix('/').unwrap_or(place);
        if place.contains('/') {
            return Err(refuse("unexpected path; in a key write '/' as %2F"));
        }
        let (key, addresses) = match place.split_once('@') {
            Some((key, addresses)) => (Some(key), addresses),
            None => (None, place),
        };
        if addresses.contains('@') {
            return Err(refuse("more than one '@'; in a key it is written %40"));
        }
        Ok(Self {
            encrypted,
            key,
            addresses,
            query,
        })
    }
}

pub(super) fn parse(url: &str, load: Load<'_>) -> Result<(Draft, bool), Error> {
    let parts = Parts::split(url)?;
    let mut draft = Draft::default();
    draft.settings.endpoints = decode(parts.addresses)
        .ok_or_else(|| refuse("the address has a broken percent-encoding"))?
        .into_endpoints()?;
    if let Some(key) = parts.key {
        let key = decode(key).ok_or_else(|| refuse("the key has a broken percent-encoding"))?;
        draft.settings.credentials = Credentials::fixed(Secret::from(key));
        draft.settings.credentials.validate()?;
    }
    let mut seen = Vec::new();
    for pair in parts.query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let option = OPTIONS.iter().find(|option| option.name == name).ok_or_else(|| {
            refuse(format_args!(
                "unknown option \"{}\"; known are {}",
                name.escape_debug(),
                known()
            ))
        })?;
        if seen.contains(&name) {
            return Err(refuse(format_args!(
                "option {name} is given twice; known are {}",
                known()
            )));
        }
        seen.push(name);
        let at = |problem: String| refuse(format_args!("option {name}: {problem}"));
        let value = decode(value).ok_or_else(|| at("broken percent-encoding".to_owned()))?;
        if value.is_empty() {
            return Err(at("a value is missing".to_owned()));
        }
        let mut values = Arguments::new(&value);
        (option.set)(&mut draft, &mut values, load).map_err(at)?;
        values.finish().map_err(at)?;
    }
    Ok((draft, parts.encrypted))
}

/// Completes a draft: TLS is asked for by the scheme alone.
pub(super) fn finish(draft: Draft, encrypted: bool) -> Result<Config, Error> {
    let Draft { mut settings, tls } = draft;
    if encrypted {
        let tls = tls.build().map_err(|problem| Error::new(ErrorKind::Config, problem))?;
        Tls::validate_support()?;
        settings.tls = Some(tls);
    } else if let Some(part) = tls.first_set() {
        return Err(Error::new(
            ErrorKind::Config,
            format!("{part} is given, but fila:// does not use TLS; use fila+tls://"),
        ));
    }
    Ok(Config {
        settings: std::sync::Arc::new(settings),
        defect: None,
    })
}

/// Undoes percent-encoding; `None` if it is broken or the result is no UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high << 4 | low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

/// Text with everything percent-encoded that has a meaning in URLs.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~,:[]".contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

impl Config {
    /// Reads a URL whose options may name files, which `load` reads.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for a malformed URL, an unknown, repeated or malformed option (the text lists the
    /// known ones), or a file that `load` refuses. The text never shows the key.
    pub fn from_url<E: fmt::Display>(url: &str, load: impl Fn(&str) -> Result<Vec<u8>, E>) -> Result<Self, Error> {
        let (draft, encrypted) = parse(url, &|name| {
            let text = load(name).map_err(|error| format!("cannot read \"{name}\": {error}"))?;
            Ok(Pem::Text(text))
        })?;
        finish(draft, encrypted)
    }

    /// The settings as a URL, which has every option that is not at its default.
    ///
    /// Left out is what must not or cannot be shown: the key, certificates and ready TLS configurations.
    #[must_use]
    pub fn to_url(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Config {
    /// The same as [`Config::to_url`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.settings();
        write!(f, "{}://", if settings.tls.is_some() { ENCRYPTED } else { PLAIN })?;
        for (index, endpoint) in settings.endpoints.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", Encoded(&Endpoint::to_string(endpoint)))?;
        }
        let defaults = Settings::default();
        let mut separator = '?';
        for option in OPTIONS {
            let Some(value) = (option.show)(settings) else { continue };
            if (option.show)(&defaults).as_ref() != Some(&value) {
                write!(f, "{separator}{}={}", option.name, Encoded(&value))?;
                separator = '&';
            }
        }
        Ok(())
    }
}

impl FromStr for Config {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        // Files are read when a client connects.
        let (draft, encrypted) = parse(url, &|name| Ok(Pem::File(name.to_owned())))?;
        finish(draft, encrypted)
    }
}

impl TryFrom<&str> for Config {
    type Error = Error;

    fn try_from(url: &str) -> Result<Self, Error> {
        url.parse()
    }
}

impl TryFrom<String> for Config {
    type Error = Error;

    fn try_from(url: String) -> Result<Self, Error> {
        url.parse()
    }
}

impl TryFrom<&String> for Config {
    type Error = Error;

    fn try_from(url: &String) -> Result<Self, Error> {
        url.parse()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::options::UrlOption;
    use super::super::{Backoff, Batching, OnFull, Reconnect, Replay};
    use super::*;
    use crate::dialect::Dialect;

    fn refused(url: &str) -> String {
        let error = Config::from_str(url).expect_err(url);
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
        error.to_string()
    }

    #[test]
    fn every_option_round_trips() {
        let linger = Batching::Linger {
            delay: Duration::from_millis(5),
            max_messages: 10,
        };
        let backoff = Backoff {
            initial: Duration::from_millis(1),
            max: Duration::from_millis(1500),
            max_attempts: Some(7),
        };
        let config = Config::new("a:1,[fe80::1%eth0]:2")
            .dialect(Dialect::Handshake)
            .connect_timeout(Duration::from_millis(1))
            .request_timeout(None)
            .heartbeat(Duration::from_secs(90), 3)
            .reconnect(Reconnect::Backoff(backoff))
            .max_in_flight(1, 2)
            .on_full(OnFull::Fail)
            .replay(Replay::IncludingEnqueue)
            .max_frame_size(1 << 20, 1_048_577)
            .batching(linger)
            .batch_max_messages(3)
            .batch_max_bytes(4)
            .buffer(5)
            .keepalive(None)
            .happy_eyeballs_delay(Duration::from_millis(20))
            .max_redirects(0)
            .queue_ready_timeout(Duration::from_millis(300));
        let url = config.to_url();
        let read: Config = url.parse().unwrap();
        assert_eq!(format!("{:?}", read.settings()), format!("{:?}", config.settings()));
        assert_eq!(read.to_url(), url);
        let shown = |option: &&UrlOption| (option.show)(&Settings::default()).is_some();
        for option in OPTIONS.iter().filter(shown) {
            assert!(
                url.contains(&format!("{}=", option.name)),
                "{} is not tried",
                option.name
            );
        }
    }

    #[test]
    fn other_values_round_trip() {
        for url in [
            "fila://a:1?heartbeat=off&reconnect=never",
            "fila://a:1?batching=disabled",
            "fila://a:1?replay=never",
            "fila://a:1?dialect=preamble-binary",
            "fila://a:1?request_timeout=1500us&reconnect=backoff,1s,1s",
        ] {
            assert_eq!(Config::from_str(url).unwrap().to_url(), url);
        }
    }

    #[test]
    fn defaults_are_defaults() {
        let config: Config = "FILA://broker/?".parse().unwrap();
        assert_eq!(config.to_url(), "fila://broker:5555");
        let built = Config::new("broker");
        assert_eq!(format!("{config:?}"), format!("{built:?}"));
        let config: Config = "fila://h?heartbeat=1s&max_in_flight=9&reconnect=backoff&max_frame_size=1MiB"
            .parse()
            .unwrap();
        let settings = config.settings();
        assert_eq!(settings.heartbeat.unwrap().missed, 2);
        assert_eq!((settings.in_flight.requests, settings.in_flight.bytes), (9, 32 << 20));
        assert_eq!(settings.reconnect, Reconnect::default());
        assert_eq!(settings.frame_limits.receive, 32 << 20);
    }

    #[test]
    fn the_key_is_read_and_never_shown() {
        let config = Config::try_from("fila://hun%40ter%2f2:x@a:1,b:2").unwrap();
        let key = config.settings().credentials.key().unwrap().unwrap();
        assert_eq!(key.expose(), "hun@ter/2:x");
        assert_eq!(config.to_url(), "fila://a:1,b:2");
        for shown in [format!("{config}"), format!("{config:?}")] {
            assert!(!shown.contains("hun"), "{shown}");
        }
        for url in [
            "fila://hunter2",
            "fila://hunter2/x@a",
            "fila://hun?ter2@a",
            "fila://hun#ter2@a",
            "fila://x@hunter2@a",
            "fila://hunter2%zz@a",
            "fila://hunter2%ff@a",
            "fila://hunter2@",
            "fila://hunter2@a:x",
            "fila://hunter2@a?b=c",
            "hunter2://x@a",
            "hunter2@a:5",
            "fila://hunter2%0a@a",
        ] {
            if let Err(error) = Config::from_str(url) {
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains("hun") && !shown.contains("ter2"), "{url}: {shown}");
            }
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for (url, names) in [
            ("broker:5555", "fila://"),
            ("http://broker", "fila+tls://"),
            ("fila://", "host is missing"),
            ("fila://@broker", "API key is empty"),
            ("fila://broker/path", "path"),
            ("fila://broker#x", "'#'"),
            ("fila://bro%ker", "percent-encoding"),
            ("fila://broker?color=red", "known are dialect, connect_timeout"),
            ("fila://broker?max_redirects=1&max_redirects=1", "given twice"),
            ("fila://broker?max_redirects", "value is missing"),
            ("fila://broker?max_redirects=x", "invalid number"),
            ("fila://broker?max_redirects=1,2", "too many values"),
            ("fila://broker?connect_timeout=5", "unit"),
            ("fila://broker?replay=always", "including_enqueue"),
            ("fila://broker?on_full=panic", "wait, fail"),
            ("fila://broker?batching=linger,5ms", "value is missing"),
            ("fila://broker?dialect=grpc", "unknown dialect"),
            ("fila://broker?max_frame_size=8GiB", "size"),
            ("fila://broker?server_name=x", "fila+tls://"),
        ] {
            let text = refused(url);
            assert!(text.contains(names), "{url}: {text:?} does not say {names:?}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_options() {
        let config: Config = "fila+tls://k@broker?tls_roots=webpki&server_name=other"
            .parse()
            .unwrap();
        assert_eq!(
            config.to_url(),
            "fila+tls://broker:5555?tls_roots=webpki&server_name=other"
        );
        let files = "fila+tls://broker:5555?ca_file=ca.pem&client_cert_file=me.pem&client_key_file=me.key";
        let config: Config = files.parse().unwrap();
        assert_eq!(config.to_url(), files, "read later");
        config.validate().unwrap();
        let error = crate::Shared::new(config.clone()).unwrap_err();
        assert!(error.to_string().contains("load_files"), "{error}");
        let error = config.clone().load_files(|_| Err("no such file")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(
            error.to_string().contains("cannot read \"ca.pem\": no such file"),
            "{error}"
        );
        let read = std::cell::RefCell::new(Vec::new());
        let loaded = config.load_files(|name| {
            read.borrow_mut().push(name.to_owned());
            Ok::<_, String>(b"pem".to_vec())
        });
        assert_eq!(loaded.unwrap().to_url(), "fila+tls://broker:5555");
        assert_eq!(*read.borrow(), ["ca.pem", "me.pem", "me.key"]);
        let built = Config::new("broker").ca_file("ca.pem").client_files("me.pem", "me.key");
        assert_eq!(built.to_url(), files);

        let load = |name: &str| {
            if name == "a,b.pem" {
                Ok(b"pem".to_vec())
            } else {
                Err("no such file")
            }
        };
        let config = Config::from_url("fila+tls://broker?ca_file=a,b.pem", load).unwrap();
        assert!(format!("{config:?}").contains("pem"));
        for (query, says) in [
            ("ca_file=c.pem", "cannot read \"c.pem\": no such file"),
            ("ca_file=a,b.pem&tls_roots=webpki", "cannot be combined"),
            ("client_cert_file=a,b.pem", "without its key"),
            ("client_key_file=a,b.pem", "without its certificate"),
        ] {
            let error = Config::from_url(&format!("fila+tls://broker?{query}"), load).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn a_build_without_tls_says_so() {
        assert!(refused("fila+tls://broker").contains("tls-ring"));
        let error = Config::new("broker").tls(Tls::platform()).validate().unwrap_err();
        assert!(error.to_string().contains("tls-ring"));
    }

    #[test]
    fn certificates_are_left_out() {
        let tls = Tls::ca_pem("secret").identity_pem("secret", "secret");
        let config = Config::new("a").tls(tls);
        assert_eq!(config.to_url(), "fila+tls://a:5555");
        assert!(!format!("{config:?}").contains("secret"));
    }
}
