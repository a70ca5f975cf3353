//! Null servers in processes of their own, so that what this process uses is the client's alone.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crate::null_server::{self, Manner};
use crate::tls;

/// The hidden argument that makes this program a server.
pub const SERVE: &str = "--serve";

/// A server process; it ends with this.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    /// What the certificate of a TLS server is signed by; empty otherwise.
    pub(crate) ca_pem: String,
    child: Child,
    /// The server ends when this is closed.
    stdin: Option<ChildStdin>,
}

/// What a server process is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Answers.
    Null(Manner),
    /// Answers through TLS, frame by frame.
    Tls,
    /// Completes the opening, and nothing else.
    Idle,
}

impl Kind {
    fn args(self) -> Vec<String> {
        match self {
            Self::Null(manner) => vec![
                "null".into(),
                u8::from(manner.coalesce).to_string(),
                manner.service.as_micros().to_string(),
                manner.node_id.map_or_else(|| "-".into(), |node| node.to_string()),
            ],
            Self::Tls => vec!["tls".into()],
            Self::Idle => vec!["idle".into()],
        }
    }

    fn parse(args: &[impl AsRef<str>]) -> Option<Self> {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        Some(match args.as_slice() {
            ["null", coalesce, service, node] => Self::Null(Manner {
                coalesce: *coalesce == "1",
                service: Duration::from_micros(service.parse().ok()?),
                node_id: node.parse().ok(),
            }),
            ["tls"] => Self::Tls,
            ["idle"] => Self::Idle,
            _ => return None,
        })
    }
}

impl Server {
    /// # Panics
    ///
    /// This program cannot be started once more.
    pub(crate) fn start(kind: Kind) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a running program"))
            .arg(SERVE)
            .args(kind.args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a server process");
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut addr = String::new();
        stdout.read_line(&mut addr).expect("a server that says its address");
        let mut ca_pem = String::new();
        if matches!(kind, Kind::Tls) {
            while !ca_pem.ends_with("\n\n") {
                let read = stdout.read_line(&mut ca_pem);
                assert!(read.is_ok_and(|read| read > 0), "a server that says its authority");
            }
        }
        Self {
            addr: addr.trim().parse().expect("an address"),
            ca_pem,
            child,
            stdin,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stdin = None;
        let _ended = self.child.wait();
    }
}

/// Serves until the standard input is closed; false if the arguments make no sense.
///
/// # Panics
///
/// The standard streams are closed, or the loopback interface has no free port.
#[must_use]
pub fn serve(args: &[impl AsRef<str>]) -> bool {
    let Some(kind) = Kind::parse(args) else { return false };
    match kind {
        Kind::Null(manner) => println!("{}", null_server::start(manner)),
        Kind::Idle => println!("{}", null_server::start_idle()),
        Kind::Tls => {
            let (addr, ca_pem) = tls::start();
            // Up to an empty line.
            println!("{addr}\n{}\n", ca_pem.trim());
        }
    }
    let _closed = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    true
}
