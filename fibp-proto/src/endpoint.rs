//! Addresses of servers.

use core::fmt;
use core::str::FromStr;

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::error::{Error, ErrorKind};
use crate::prelude::*;

/// The port of a Fila server unless another is given.
pub const DEFAULT_PORT: u16 = 5555;

/// The longest host name that can be resolved, in bytes.
const MAX_HOST_LEN: usize = 255;

/// A server's address: a host name or IP address, and a port.
///
/// Parsed from and shown as `host:port`, IPv6 addresses in brackets (`[::1]:5555`). Without a port,
/// [`DEFAULT_PORT`] is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Endpoint {
    /// An address from its parts. `host` may have the brackets of an IPv6 address.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the host cannot be one or the port is zero.
    pub fn new(host: &str, port: u16) -> Result<Self, Error> {
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(host);
        if let Some(problem) = host_problem(bare) {
            return Err(refused(host, problem));
        }
        if port == 0 {
            return Err(refused(host, "port 0 is not valid"));
        }
        Ok(Self {
            host: bare.to_owned(),
            port,
        })
    }

    /// The IP address, if the host is one and needs no resolution.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether the host is this machine by definition: a loopback address or a name under `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        if let Some(ip) = self.ip() {
            return ip.to_canonical().is_loopback();
        }
        let name = self.host.trim_end_matches('.').to_ascii_lowercase();
        name == "localhost" || name.ends_with(".localhost")
    }

    /// The address that a server's leader hint means (docs/protocol/preamble.md 2.4, docs/protocol/framed.md 4).
    ///
    /// Servers repeat their listen address verbatim, and that may be one which only they can use. A hint
    /// without a usable host (`0.0.0.0`, `[::]`, none) is taken as the host of `via`, the endpoint that gave
    /// the hint, with the port of the hint.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`] if the hint is no address at all.
    pub fn from_leader_hint(hint: &str, via: &Self) -> Result<Self, Error> {
        let hint = hint.trim();
        let (host, port) = match hint.rsplit_once(':') {
            Some((host, port)) => (host, port.parse::<u16>().ok().filter(|port| *port != 0)),
            None => (hint, None),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let everywhere = bare
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_unspecified());
        let endpoint = match port {
            Some(port) if bare.is_empty() || bare == "*" || everywhere => Ok(Self {
                host: via.host.clone(),
                port,
            }),
            // Unlike a person's, a server's IPv6 address without brackets is taken as meant.
            Some(port) if bare.parse::<Ipv6Addr>().is_ok() => Self::new(bare, port),
            _ => hint.parse(),
        };
        endpoint.map_err(|error| {
            Error::new(ErrorKind::Protocol, "the server named a leader at an unusable address")
                .with_source(alloc::sync::Arc::new(error))
        })
    }
}

/// What makes a host impossible. Whether it exists is for the resolver to say.
fn host_problem(host: &str) -> Option<&'static str> {
    let is_foreign = |c: char| c.is_whitespace() || c.is_control() || "/\\@?#,[]\"<>".contains(c);
    if host.is_empty() {
        Some("the host is missing")
    } else if host.len() > MAX_HOST_LEN {
        Some("the host is longer than 255 bytes")
    } else if host.contains(is_foreign) {
        Some("the host contains a character that no host has")
    } else if host.contains(':') && !is_ipv6(host) {
        Some("the host contains ':' but is no IPv6 address")
    } else {
        None
    }
}

fn is_ipv6(host: &str) -> bool {
    // A zone ("fe80::1%eth0") is the resolver's business.
    let address = host.split_once('%').map_or(host, |(address, _)| address);
    address.parse::<Ipv6Addr>().is_ok()
}

fn refused(text: &str, problem: &str) -> Error {
    // What stands before an '@' may be an API key.
    let message = if text.contains('@') {
        format!("address: {problem}")
    } else {
        format!("address \"{}\": {problem}", text.escape_debug())
    };
    Error::new(ErrorKind::Config, message)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.contains("://") {
            return Err(refused(
                text,
                "a URL stands where host:port is expected; parse URLs with Config::from_str",
            ));
        }
        if text.contains('@') {
            return Err(refused(
                text,
                "'@' stands where host:port is expected; set the API key with Config::api_key or in a fila:// URL",
            ));
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            match rest.split_once(']') {
                Some((host, port)) if is_ipv6(host) => (host, port),
                _ => return Err(refused(text, "no IPv6 address in the brackets")),
            }
        } else if text.matches(':').count() > 1 {
            return Err(refused(text, "put IPv6 addresses in brackets, as in [::1]:5555"));
        } else {
            text.split_at(text.find(':').unwrap_or(text.len()))
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .map_err(|_| refused(text, "the port must be a number from 1 to 65535"))?,
            None if port.is_empty() => DEFAULT_PORT,
            _ => return Err(refused(text, "the port must be a number from 1 to 65535")),
        };
        Self::new(host, port)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            _ => address.ip().to_string(),
        };
        Self {
            host,
            port: address.port(),
        }
    }
}

/// What [`Config::new`](crate::Config::new) takes as the addresses of one server or of a cluster.
///
/// Text may name several addresses with commas between them.
pub trait IntoEndpoints {
    /// The addresses.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for the first one that is none.
    fn into_endpoints(self) -> Result<Vec<Endpoint>, Error>;
}

impl IntoEndpoints for &str {
    fn into_endpoints(self) -> Result<Vec<Endpoint>, Error> {
        self.split(',').map(str::parse).collect()
    }
}

impl IntoEndpoints for String {
    fn into_endpoints(self) -> Result<Vec<Endpoint>, Error> {
        self.as_str().into_endpoints()
    }
}

impl IntoEndpoints for &String {
    fn into_endpoints(self) -> Result<Vec<Endpoint>, Error> {
        self.as_str().into_endpoints()
    }
}

impl IntoEndpoints for Endpoint {
    fn into_endpoints(self) -> Result<Vec<Endpoint>, Error> {
        Self::new(&self.host, self.port).map(|checked| vec![checked])
    }
}

impl IntoEndpoints for SocketAddr {
    fn into_endpoints(self) -> Result<Vec<Endpoint>, Error> {
        Endpoint::from(self).into_endpoints()
    }
}

impl IntoEndpoints for (&str, u16) {
    fn into_endpoints(self) -> Result<Vec<Endpoint>, Error> {
        Endpoint::new(self.0, self.1).map(|endpoint| vec![endpoint])
    }
}

impl IntoEndpoints for (String, u16) {
    fn into_endpoints(self) -> Result<Vec<Endpoint>, Error> {
        (self.0.as_str(), self.1).into_endpoints()
    }
}

impl IntoEndpoints for (IpAddr, u16) {
    fn into_endpoints(self) -> Result<Vec<Endpoint>, Error> {
        SocketAddr::from(self).into_endpoints()
    }
}

impl<T: IntoEndpoints> IntoEndpoints for Vec<T> {
    fn into_endpoints(self) -> Result<Vec<Endpoint>, Error> {
        collect(self)
    }
}

impl<T: IntoEndpoints, const N: usize> IntoEndpoints for [T; N] {
    fn into_endpoints(self) -> Result<Vec<Endpoint>, Error> {
        collect(self)
    }
}

impl<T: IntoEndpoints + Clone> IntoEndpoints for &[T] {
    fn into_endpoints(self) -> Result<Vec<Endpoint>, Error> {
        collect(self.iter().cloned())
    }
}

fn collect<T: IntoEndpoints>(parts: impl IntoIterator<Item = T>) -> Result<Vec<Endpoint>, Error> {
    let mut all = Vec::new();
    for part in parts {
        all.append(&mut part.into_endpoints()?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str, port: u16) -> Endpoint {
        Endpoint {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn text_round_trips() {
        for (text, host, port) in [
            ("broker:5555", "broker", 5555),
            ("10.0.0.1:1", "10.0.0.1", 1),
            ("[::1]:65535", "::1", 65535),
            ("[fe80::1%eth0]:5555", "fe80::1%eth0", 5555),
        ] {
            let parsed: Endpoint = text.parse().unwrap();
            assert_eq!(parsed, endpoint(host, port));
            assert_eq!(parsed.to_string(), text);
        }
        assert_eq!("broker".parse::<Endpoint>().unwrap(), endpoint("broker", DEFAULT_PORT));
        assert_eq!("[::1]".parse::<Endpoint>().unwrap(), endpoint("::1", DEFAULT_PORT));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            ":5555",
            "broker:",
            "broker:0",
            "broker:65536",
            "broker:+1",
            "broker:x",
            "::1:5555",
            "[::1",
            "[::1]x",
            "[broker]:1",
            "a b:1",
            "a/b",
            "a:1:2",
            "[]:1",
            "fila://broker:1",
            "\u{7}:1",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
        }
        assert!(Endpoint::new(&"h".repeat(256), 1).is_err());
    }

    #[test]
    fn a_key_before_an_at_sign_is_not_shown() {
        let error = "hunter2@broker:1".parse::<Endpoint>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn everything_that_names_endpoints() {
        let one = vec![endpoint("h", 1)];
        let two = vec![endpoint("h", 1), endpoint("::1", 2)];
        assert_eq!("h:1".into_endpoints().unwrap(), one);
        assert_eq!(String::from("h:1").into_endpoints().unwrap(), one);
        assert_eq!(("h", 1).into_endpoints().unwrap(), one);
        assert_eq!((String::from("h"), 1).into_endpoints().unwrap(), one);
        assert_eq!("h:1, [::1]:2".into_endpoints().unwrap(), two);
        assert_eq!(["h:1", "[::1]:2"].into_endpoints().unwrap(), two);
        assert_eq!(vec![("h", 1), ("::1", 2)].into_endpoints().unwrap(), two);
        assert_eq!([String::from("h:1")].as_slice().into_endpoints().unwrap(), one);
        let socket: SocketAddr = "[::1]:2".parse().unwrap();
        assert_eq!(socket.into_endpoints().unwrap(), two[1..]);
        assert_eq!((socket.ip(), 2).into_endpoints().unwrap(), two[1..]);
    }

    #[test]
    fn loopback_by_definition_only() {
        for host in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
        ] {
            assert!(endpoint(host, 1).is_loopback(), "{host}");
        }
        for host in ["10.0.0.1", "::2", "localhost.example", "mylocalhost"] {
            assert!(!endpoint(host, 1).is_loopback(), "{host}");
        }
    }

    #[test]
    fn leader_hints() {
        let via = endpoint("broker-1", 5555);
        for (hint, expected) in [
            ("0.0.0.0:6000", endpoint("broker-1", 6000)),
            ("[::]:6000", endpoint("broker-1", 6000)),
            (":::6000", endpoint("broker-1", 6000)),
            ("[::ffff:0.0.0.0]:6000", endpoint("broker-1", 6000)),
            (":6000", endpoint("broker-1", 6000)),
            ("10.0.0.2:5555", endpoint("10.0.0.2", 5555)),
            ("[fd00::2]:5555", endpoint("fd00::2", 5555)),
            ("fd00::2:3:5555", endpoint("fd00::2:3", 5555)),
            (" broker-2:7000\n", endpoint("broker-2", 7000)),
        ] {
            assert_eq!(Endpoint::from_leader_hint(hint, &via).unwrap(), expected, "{hint}");
        }
        for hint in ["", "0.0.0.0:0", "a b:1", "0.0.0.0:99999", "http://x:1"] {
            let error = Endpoint::from_leader_hint(hint, &via).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{hint}");
        }
    }
}
