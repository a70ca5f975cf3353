//! The server that `FILA_URL` and its companions name.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::OnceLock;
use std::time::Duration;

use fibp_proto::config::Config;
use fibp_proto::tls::TlsContext;
use fibp_proto::{Dialect, Error, ErrorKind};

use crate::broker::{FRAMED, P1, P2, P3};
use crate::env::MAX_ELECTIONS;
use crate::front::Back;
use crate::script::{PREAMBLE, frame_bytes};

/// How to reach it; `instead` are other addresses than those of the URL, by which it is reached, too.
///
/// # Panics
///
/// The variables are malformed.
pub fn config(instead: Option<&str>) -> Config {
    let config = read(None);
    let Some(addresses) = instead else { return config };
    let server = &config.settings().endpoints[0];
    let mut proxied = read(Some(addresses));
    // Its certificate is for the host in the URL.
    if let Some(tls) = &proxied.settings().tls
        && !url().contains("server_name=")
    {
        let tls = tls.clone().server_name(server.host.as_str());
        proxied = proxied.tls(tls);
    }
    // Which dialect is spoken is not what connections that break are to be asked about.
    if proxied.settings().tls.is_none() {
        proxied = proxied.dialect(dialect());
    }
    proxied
}

/// Its first address.
///
/// # Panics
///
/// The URL names no server, or its name cannot be resolved.
pub fn addr() -> SocketAddr {
    static ADDR: OnceLock<SocketAddr> = OnceLock::new();
    *ADDR.get_or_init(|| {
        let config = read(None);
        let server = &config.settings().endpoints[0];
        let mut found = (server.host.as_str(), server.port)
            .to_socket_addrs()
            .expect("the server's name");
        found.next().expect("an address of the server")
    })
}

/// A proxy before it that speaks TLS in the client's place; `None` if it has no TLS.
///
/// # Panics
///
/// The variables are malformed, or name files that cannot be read.
pub fn back() -> Option<Back> {
    back_for(&read(None), dialect())
}

/// The same for one dialect, which is what ALPN asks for.
fn back_for(config: &Config, dialect: Dialect) -> Option<Back> {
    let settings = config.settings();
    let context = TlsContext::new(settings.tls.as_ref()?, dialect).expect("the TLS that FILA_URL asks for");
    Some(Back::start(addr(), &settings.endpoints[0].host, context))
}

/// How to reach it by a proxy at these addresses that speaks TLS in the client's place.
///
/// # Panics
///
/// The variables are malformed.
pub fn plain(addresses: String) -> Config {
    let lookup = |name: &str| match name {
        "FILA_URL" => Some(without_tls(&with_addresses(&url(), &addresses)).into()),
        "FILA_CA_FILE" | "FILA_CLIENT_CERT_FILE" | "FILA_CLIENT_KEY_FILE" => None,
        _ => std::env::var_os(name),
    };
    let config = Config::from_vars(lookup, |path| std::fs::read(path)).expect("FILA_URL and its companions");
    config.dialect(dialect())
}

/// The dialect it speaks.
pub fn dialect() -> Dialect {
    static DIALECT: OnceLock<Dialect> = OnceLock::new();
    *DIALECT.get_or_init(|| {
        let config = read(None);
        match config.settings().dialect {
            Dialect::Auto => probe(&config).or_else(|_| probe_framed(&config)).unwrap_or(FRAMED),
            chosen => chosen,
        }
    })
}

/// What a preamble server says to the probe of docs/protocol/revisions.md; an error from any other.
fn probe(config: &Config) -> io::Result<Dialect> {
    let back = back_for(config, P1);
    let mut socket = TcpStream::connect(back.as_ref().map_or_else(addr, Back::addr))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.write_all(&PREAMBLE)?;
    let mut opening = PREAMBLE;
    socket.read_exact(&mut opening)?;
    if opening != PREAMBLE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let key = config.settings().credentials.key().map_err(io::Error::other)?;
    if let Some(key) = key {
        socket.write_all(&frame_bytes(0, 0x30, 1, key.expose().as_bytes()))?;
        read_body(&mut socket)?;
    }
    socket.write_all(&frame_bytes(0, 0x14, 2, &[]))?;
    let answer = read_body(&mut socket)?;
    Ok(if answer.starts_with(b"wire decode error") {
        P3
    } else if answer.starts_with(b"invalid payload: dlq_queue") {
        P2
    } else {
        P1
    })
}

/// What a framed server says to the probe of docs/protocol/framed.md 3.
fn probe_framed(config: &Config) -> io::Result<Dialect> {
    let back = back_for(config, FRAMED);
    let mut socket = TcpStream::connect(back.as_ref().map_or_else(addr, Back::addr))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut handshake = vec![0, 1];
    match config.settings().credentials.key().map_err(io::Error::other)? {
        Some(key) => {
            let length = u16::try_from(key.expose().len()).map_err(io::Error::other)?;
            handshake.push(1);
            handshake.extend(length.to_be_bytes());
            handshake.extend(key.expose().as_bytes());
        }
        None => handshake.push(0),
    }
    socket.write_all(&frame_bytes(0x01, 0, 0, &handshake))?;
    read_frame(&mut socket)?;
    socket.write_all(&frame_bytes(0x16, 0, 1, &[0; 4]))?;
    let (head, _) = read_frame(&mut socket)?;
    Ok(match head[4] {
        0x17 => FRAMED,
        _ => Dialect::HandshakeEarly,
    })
}

fn read_body(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    Ok(read_frame(socket)?.1)
}

fn read_frame(socket: &mut TcpStream) -> io::Result<([u8; 10], Vec<u8>)> {
    let mut head = [0; 10];
    socket.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let mut body = vec![0; usize::try_from(length).map_err(io::Error::other)?.saturating_sub(6)];
    socket.read_exact(&mut body)?;
    Ok((head, body))
}

/// Whether it is a cluster, as far as it says so.
pub fn is_cluster() -> bool {
    static CLUSTER: OnceLock<bool> = OnceLock::new();
    *CLUSTER.get_or_init(|| {
        let list = fila_client_blocking::Client::connect(read(None)).and_then(|client| client.admin().list_queues());
        list.is_ok_and(|list| list.cluster_node_count > 1)
    })
}

/// The number of its first node, of a cluster: it leads a queue whose consumers are not sent on from there.
///
/// # Panics
///
/// It cannot be asked, or is not elected.
pub fn first_node() -> u64 {
    static NODE: OnceLock<u64> = OnceLock::new();
    *NODE.get_or_init(|| {
        let config = config(Some(&addr().to_string()));
        let queues = (0..MAX_ELECTIONS).map(|n| format!("ct-first-node-{}-{n}", std::process::id()));
        let mut leaders = queues.filter_map(|queue| leader_at(config.clone(), &queue).expect("a node that answers"));
        leaders.next().expect("a queue that the first node leads")
    })
}

/// The leader of a queue that is created for the purpose, if that is the node which the client connects to.
fn leader_at(config: Config, queue: &str) -> Result<Option<u64>, Error> {
    let client = fila_client_blocking::Client::connect(config)?;
    let admin = client.admin();
    admin.create_queue(queue)?;
    let leader = admin.queue_stats(queue)?.leader_node_id;
    let before = client.stats().redirects;
    let consumer = client.consume(queue)?;
    let sent_on = client.stats().redirects > before;
    drop(consumer);
    admin.delete_queue(queue)?;
    Ok((!sent_on).then_some(leader))
}

/// The key to present to it, if it refuses others.
pub fn required_key() -> Option<String> {
    static KEY: OnceLock<Option<String>> = OnceLock::new();
    KEY.get_or_init(|| {
        let config = read(None);
        let key = config.settings().credentials.key().ok().flatten()?;
        let strange = fila_client_blocking::Client::connect(config.api_key("not the key"));
        let refused = strange.and_then(|client| client.admin().queue_stats("none"));
        (refused.err()?.kind() == ErrorKind::Auth).then(|| key.expose().to_owned())
    })
    .clone()
}

/// How to reach it without a key.
///
/// # Panics
///
/// The variables are malformed.
pub fn without_key() -> Config {
    let lookup = |name: &str| match name {
        "FILA_API_KEY" => None,
        "FILA_URL" => Some(without_authority_key(&url()).into()),
        _ => std::env::var_os(name),
    };
    Config::from_vars(lookup, |path| std::fs::read(path)).expect("FILA_URL and its companions")
}

fn url() -> String {
    crate::env::external_url().expect("FILA_URL is set")
}

fn read(instead: Option<&str>) -> Config {
    let lookup = |name: &str| match instead {
        Some(addresses) if name == "FILA_URL" => Some(with_addresses(&url(), addresses).into()),
        _ => std::env::var_os(name),
    };
    Config::from_vars(lookup, |path| std::fs::read(path)).expect("FILA_URL and its companions")
}

/// The same URL with other addresses.
fn with_addresses(url: &str, addresses: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("fila", url));
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, options) = rest.split_at(end);
    let key = authority.rsplit_once('@').map(|(key, _)| format!("{key}@"));
    format!("{scheme}://{}{addresses}{options}", key.unwrap_or_default())
}

/// The same URL without what concerns TLS.
fn without_tls(url: &str) -> String {
    const OPTIONS: [&str; 5] = [
        "tls_roots",
        "server_name",
        "ca_file",
        "client_cert_file",
        "client_key_file",
    ];
    let url = url.replacen("fila+tls://", "fila://", 1);
    let Some((server, options)) = url.split_once('?') else {
        return url;
    };
    let left = options.split('&').filter(|option| {
        let name = option.split_once('=').map_or(*option, |(name, _)| name);
        !OPTIONS.contains(&name)
    });
    let left: Vec<_> = left.collect();
    match left.is_empty() {
        true => server.to_owned(),
        false => format!("{server}?{}", left.join("&")),
    }
}

/// The same URL without a key.
fn without_authority_key(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
    match url[start..end].rfind('@') {
        Some(at) => format!("{}{}", &url[..start], &url[start + at + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_loses_its_key_and_nothing_else() {
        for (url, without) in [
            ("fila://key@a:1,b:2?x=@", "fila://a:1,b:2?x=@"),
            ("fila+tls://a?heartbeat=1s", "fila+tls://a?heartbeat=1s"),
            ("key@a:1", "a:1"),
        ] {
            assert_eq!(without_authority_key(url), without);
        }
    }

    #[test]
    fn a_url_loses_its_tls_and_nothing_else() {
        for (url, without) in [
            ("fila+tls://k@a:1,b:2", "fila://k@a:1,b:2"),
            ("fila+tls://a?heartbeat=1s&ca_file=x", "fila://a?heartbeat=1s"),
            ("fila+tls://a?server_name=b&tls_roots=webpki", "fila://a"),
            ("fila://a?heartbeat=1s", "fila://a?heartbeat=1s"),
        ] {
            assert_eq!(without_tls(url), without);
        }
    }

    #[test]
    fn only_the_addresses_of_a_url_are_replaced() {
        for (url, replaced) in [
            ("fila://a:1,b:2", "fila://c:3"),
            ("fila+tls://key@a?heartbeat=1s", "fila+tls://key@c:3?heartbeat=1s"),
            ("a:1", "fila://c:3"),
        ] {
            assert_eq!(with_addresses(url, "c:3"), replaced);
        }
    }
}
