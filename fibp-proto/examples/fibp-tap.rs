//! A proxy on this machine that passes bytes on unchanged and tells what they say in FIBP.
//!
//! ```text
//! fibp-tap [--json] [--listen 127.0.0.1:PORT] HOST:PORT
//! ```
//!
//! Clients connect to the address that it prints. It listens on loopback only, as whoever reaches it reaches the server;
//! payloads, header values and API keys are not printed.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program, not the core"
)]

#[path = "shared/print.rs"]
mod print;

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use fibp_proto::observe::{Conversation, ObserverConfig, Side};
use print::Printer;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// One connection as it is observed.
struct Tap {
    name: String,
    begin: Instant,
    conversation: Mutex<Conversation>,
    printer: Arc<Mutex<Printer>>,
}

fn main() -> Result<()> {
    let (mut json, mut listen, mut server) = (false, "127.0.0.1:0".to_owned(), None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" => json = true,
            "--listen" => listen = args.next().ok_or("--listen needs an address")?,
            other if other.starts_with("--") => return Err(format!("unknown option {other}").into()),
            _ => server = Some(arg),
        }
    }
    let server = server.ok_or("usage: fibp-tap [--json] [--listen 127.0.0.1:PORT] HOST:PORT")?;
    let listen: SocketAddr = listen.parse()?;
    if !listen.ip().is_loopback() {
        return Err(format!("{listen} is not on loopback").into());
    }
    let listener = TcpListener::bind(listen)?;
    println!("listening on {}", listener.local_addr()?);
    let printer = Arc::new(Mutex::new(Printer::new(json)));
    let begin = Instant::now();
    for client in listener.incoming() {
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                eprintln!("fibp-tap: accepting: {error}");
                continue;
            }
        };
        let (server, printer) = (server.clone(), Arc::clone(&printer));
        thread::spawn(move || {
            if let Err(error) = serve(client, &server, begin, printer) {
                eprintln!("fibp-tap: {server}: {error}");
            }
        });
    }
    Ok(())
}

fn serve(client: TcpStream, server: &str, begin: Instant, printer: Arc<Mutex<Printer>>) -> io::Result<()> {
    let name = client.peer_addr()?.to_string();
    let server = TcpStream::connect(server)?;
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
    }
    let tap = Tap {
        name,
        begin,
        conversation: Mutex::new(Conversation::new(ObserverConfig::default())),
        printer,
    };
    thread::scope(|scope| {
        scope.spawn(|| tap.pass(Side::Client, &client, &server));
        tap.pass(Side::Server, &server, &client);
    });
    if let Some(summary) = tap.printer.lock().unwrap_or_else(PoisonError::into_inner).summary() {
        let _ = writeln!(io::stdout(), "{summary}");
    }
    Ok(())
}

impl Tap {
    /// Passes on what one side sends until it closes; a side that fails closes both.
    fn pass(&self, from: Side, mut source: &TcpStream, mut sink: &TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    self.observe(|conversation, now| conversation.input(from, now, &buffer[..n]));
                    if sink.write_all(&buffer[..n]).is_err() {
                        let _ = source.shutdown(Shutdown::Both);
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    let _ = sink.shutdown(Shutdown::Both);
                    break;
                }
            }
        }
        let _ = sink.shutdown(Shutdown::Write);
        self.observe(|conversation, now| conversation.end(from, now));
    }

    fn observe(&self, see: impl FnOnce(&mut Conversation, std::time::Duration)) {
        let mut conversation = self.conversation.lock().unwrap_or_else(PoisonError::into_inner);
        see(&mut conversation, self.begin.elapsed());
        let mut printer = self.printer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = io::stdout().lock();
        while let Some(seen) = conversation.poll_event() {
            let line = printer.line(&self.name, &seen);
            // Whoever reads it may be gone; the bytes pass all the same.
            let _ = writeln!(out, "{line}");
        }
    }
}
