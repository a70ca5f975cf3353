//! What is at an address, and what to do about it: `cargo run --example doctor -- ADDRESS`.
//!
//! `ADDRESS` is `host:port`, which is tried without TLS and then with it, or a URL. `FILA_API_KEY`, `FILA_CA_FILE`,
//! `FILA_CLIENT_CERT_FILE` and `FILA_CLIENT_KEY_FILE` are used as by every client. Nothing is changed on the server.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fibp_proto::frame::Transmit;
use fibp_proto::observe::{Conversation, ObserverConfig, Side};
use fibp_proto::{ClientConfig, ClientConnection, ClientEvent, Request, Response};
use fila_client_blocking::{AdminRevision, Client, Config, Dialect, Error, ErrorKind, Event, Outcome, Reconnect};

const PATIENCE: Duration = Duration::from_secs(5);
/// Requests whose round trips are measured.
const ROUND_TRIPS: usize = 20;

/// Something is wrong, and has been said.
struct Unwell;

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1).filter(|argument| !argument.starts_with('-')) else {
        eprintln!("usage: doctor ADDRESS, for example: doctor 127.0.0.1:5555, or doctor fila+tls://broker.example.com");
        return ExitCode::from(2);
    };
    match examine(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Unwell) => ExitCode::FAILURE,
    }
}

fn examine(address: &str) -> Result<(), Unwell> {
    let urls = match address.contains("://") {
        true => vec![address.to_owned()],
        false => vec![format!("fila://{address}"), format!("fila+tls://{address}")],
    };
    let plain = config(urls.first().map_or("", String::as_str))?;
    for endpoint in &plain.settings().endpoints {
        reach(&endpoint.host, endpoint.port)?;
    }

    let mut connected = None;
    for url in &urls {
        let config = config(url)?;
        let tls = url.starts_with("fila+tls://");
        match connect(config, tls) {
            Ok(client) => {
                connected = Some((client, tls));
                break;
            }
            Err(error) if urls.len() > 1 && !tls && may_want_tls(&error) => {
                say("plaintext", &format!("no: {error}"));
            }
            Err(error) => return Err(explain(&error, tls)),
        }
    }
    let Some((client, tls)) = connected else {
        return Err(Unwell);
    };
    say(
        "TLS",
        match (tls, address.contains("://")) {
            (true, _) => "yes; the certificate is trusted, and is for this name",
            (false, true) => "no, as the URL asks for none",
            (false, false) => "no: the server answers without it",
        },
    );
    let url = if tls { urls.last() } else { urls.first() }.map_or("", String::as_str);
    let config = config(url)?;
    key(&client, &config)?;
    dialect(&client, &config);
    round_trips(&client)?;
    for warning in config.warnings() {
        say("warning", warning);
    }
    client.close(Duration::from_secs(1));
    Ok(())
}

fn say(what: &str, text: &str) {
    println!("{what:<12} {text}");
}

/// The configuration that the environment and the URL give.
fn config(url: &str) -> Result<Config, Unwell> {
    let variable = |name: &str| match name {
        "FILA_URL" => Some(OsString::from(url)),
        // Certificates belong to TLS alone.
        "FILA_CA_FILE" | "FILA_CLIENT_CERT_FILE" | "FILA_CLIENT_KEY_FILE" if url.starts_with("fila://") => None,
        _ => std::env::var_os(name),
    };
    Config::from_vars(variable, |file| std::fs::read(file))
        .map(|config| {
            config
                .connect_timeout(PATIENCE)
                .request_timeout(PATIENCE)
                .queue_ready_timeout(Duration::from_millis(1))
                .reconnect(Reconnect::Never)
        })
        .map_err(|error| {
            say("address", &error.to_string());
            Unwell
        })
}

/// Name and TCP.
fn reach(host: &str, port: u16) -> Result<(), Unwell> {
    let began = Instant::now();
    let addresses: Vec<SocketAddr> = match (host, port).to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            say(
                "name",
                &format!("{host} cannot be resolved: {error}. Check the spelling and this machine's DNS."),
            );
            return Err(Unwell);
        }
    };
    let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    say(
        "name",
        &format!("{host} is {} ({:.1?})", shown.join(", "), began.elapsed()),
    );
    let mut failures = Vec::new();
    for address in addresses {
        let began = Instant::now();
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => {
                say(
                    "TCP",
                    &format!("{address} accepts connections ({:.1?})", began.elapsed()),
                );
                return Ok(());
            }
            Err(error) => failures.push(format!("{address}: {error}")),
        }
    }
    say(
        "TCP",
        &format!(
            "{}. Is the server running, is this its port, and does a firewall let you through?",
            failures.join("; ")
        ),
    );
    Err(Unwell)
}

fn connect(config: Config, tls: bool) -> Result<Client, Error> {
    let began = Instant::now();
    let client = Client::connect(config)?;
    let what = if tls {
        "TLS, handshake and key"
    } else {
        "handshake and key"
    };
    say("Fila", &format!("yes: {what} took {:.1?}", began.elapsed()));
    Ok(client)
}

/// Whether a server that wants TLS may have answered so.
fn may_want_tls(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFila | ErrorKind::Tls | ErrorKind::Disconnected | ErrorKind::Timeout | ErrorKind::WrongDialect
    )
}

fn explain(error: &Error, tls: bool) -> Unwell {
    let what = match error.kind() {
        ErrorKind::Tls => "TLS",
        ErrorKind::Auth | ErrorKind::Forbidden => "key",
        _ => "Fila",
    };
    say(what, &format!("no: {error}"));
    let advice = match error.kind() {
        ErrorKind::Auth => "set FILA_API_KEY to a key of this server that has not expired",
        ErrorKind::Forbidden => "the key is known, but lacks a permission: ask for it, or use another key",
        ErrorKind::NotFila => "something else listens on this port: check the port",
        ErrorKind::WrongDialect => "state the dialect in the URL, for example ?dialect=framed, or use TLS",
        ErrorKind::Timeout | ErrorKind::Disconnected if tls => "try fila:// in case the port has no TLS",
        ErrorKind::Timeout | ErrorKind::Disconnected => "try fila+tls:// in case the port has TLS",
        _ => return Unwell,
    };
    say("advice", advice);
    Unwell
}

/// Whether the key is accepted, and what it may do; whether this is a cluster.
fn key(client: &Client, config: &Config) -> Result<(), Unwell> {
    // From the environment or the URL.
    let given = config.settings().credentials.key().is_ok_and(|key| key.is_some());
    match client.admin().list_queues() {
        Ok(list) => {
            let may = if given {
                "accepted, and it may list queues"
            } else {
                "none is needed"
            };
            say("key", may);
            say("queues", &list.queues.len().to_string());
            match list.cluster_node_count {
                0 | 1 => say("cluster", "no, a single node"),
                nodes if config.settings().endpoints.len() as u64 >= u64::from(nodes) => {
                    say("cluster", &format!("yes, {nodes} nodes, all of them in the URL"));
                }
                nodes => say(
                    "cluster",
                    &format!("yes, {nodes} nodes: name all of them in the URL (docs/guides/clusters.md)"),
                ),
            }
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::Forbidden => {
            say(
                "key",
                "accepted, but it may not list queues: whether this is a cluster stays unknown",
            );
            Ok(())
        }
        Err(error) => Err(explain(&error, false)),
    }
}

/// A consumer has a connection of its own, whose event says what is spoken there. It consumes a queue that no one has.
fn dialect(client: &Client, config: &Config) {
    let mut events = client.events();
    let queue = format!("doctor-{}", std::process::id());
    let consumer = client.consumer(&queue).open();
    let spoken = std::iter::from_fn(|| events.recv_timeout(Duration::from_millis(100))).find_map(|event| match event {
        Event::Connected { dialect, .. } => Some(dialect),
        _ => None,
    });
    drop(consumer);
    match spoken {
        Some(Dialect::Preamble(_)) => {
            let age = match revision(config) {
                Some(AdminRevision::Protobuf) => "protobuf, a server of 26 March 2026",
                Some(AdminRevision::ProtobufRenumbered) => "protobuf renumbered, a server of later on 26 March 2026",
                Some(AdminRevision::Binary) => "binary, a server of 27 March 2026",
                _ => "a server of 26 or 27 March 2026; its revisions differ in admin operations only",
            };
            say("dialect", &format!("preamble: {age}"));
        }
        Some(_) => say(
            "dialect",
            match is_early(config) {
                Some(true) => "handshake-early: one of a few builds of early April 2026",
                Some(false) => "handshake: a current server",
                None => "handshake: a current server, or one of a few builds of early April 2026",
            },
        ),
        None => say("dialect", "not found out: no second connection was possible"),
    }
}

/// Clients find the admin revision out for each connection, when an admin operation is asked for. So does this one, by the
/// same question, and an observer says what the answer means. Plaintext only.
fn revision(config: &Config) -> Option<AdminRevision> {
    let opening = Dialect::Preamble(AdminRevision::Protobuf);
    let (_, observer) = ask(config, opening, &Request::ProbeAdmin)?;
    match observer.dialect() {
        Some((Dialect::Preamble(revision), true)) => Some(revision),
        _ => None,
    }
}

/// Early builds have other numbers for acks, and know no such request as an ack of today. Plaintext only.
fn is_early(config: &Config) -> Option<bool> {
    match ask(config, Dialect::Handshake, &Request::Ack(Vec::new()))?.0 {
        Ok(Response::Ack(_)) => Some(false),
        Err(refusal) if refusal.kind() == ErrorKind::Unsupported => Some(true),
        _ => None,
    }
}

/// What is answered to one request, on a connection of its own, and an observer of that connection.
fn ask(config: &Config, dialect: Dialect, request: &Request) -> Option<(Result<Response, Error>, Conversation)> {
    let settings = config.settings();
    let endpoint = settings.endpoints.first().filter(|_| settings.tls.is_none())?;
    let mut socket = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut opening = ClientConfig::new(dialect);
    opening.key = settings.credentials.key().ok()?;
    let mut connection = ClientConnection::new(opening).ok()?;
    let mut observer = Conversation::new(ObserverConfig::default());
    let mut transmit = Transmit::new();
    loop {
        while connection.take_transmit(&mut transmit) {
            while !transmit.is_empty() {
                let written = socket.write(transmit.chunk()).ok().filter(|n| *n > 0)?;
                observer.input(Side::Client, Duration::ZERO, transmit.chunk().get(..written)?);
                connection.transmitted(&mut transmit, written);
            }
        }
        let mut buffer = connection.take_read_buffer()?;
        let read = socket.read(buffer.unfilled()).ok().filter(|n| *n > 0)?;
        observer.input(Side::Server, Duration::ZERO, buffer.unfilled().get(..read)?);
        buffer.advance(read);
        connection.handle_input(Instant::now(), buffer);
        while let Some(event) = connection.poll_event() {
            match event {
                ClientEvent::Opened => drop(connection.request(request, None).ok()?),
                ClientEvent::Answer { response, .. } => return Some((response, observer)),
                _ => return None,
            }
        }
    }
}

fn round_trips(client: &Client) -> Result<(), Unwell> {
    let queue = format!("doctor-{}", std::process::id());
    let mut times = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        match client.admin().queue_stats(&queue) {
            // A refusal is an answer too.
            Ok(_) => {}
            Err(error) if error.outcome() == Outcome::Rejected => {}
            Err(error) => return Err(explain(&error, false)),
        }
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let (Some(first), Some(middle), Some(last)) = (times.first(), times.get(ROUND_TRIPS / 2), times.last()) else {
        return Ok(());
    };
    say(
        "latency",
        &format!("{middle:.1?} for a request and its answer ({first:.1?} to {last:.1?} in {ROUND_TRIPS})"),
    );
    if *middle > Duration::from_millis(20) {
        say(
            "advice",
            "that is far: send in parallel or with a Producer, one call after the other waits for each answer",
        );
    }
    Ok(())
}
