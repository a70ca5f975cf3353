//! Tells what a packet capture, or the raw bytes of a connection, says in FIBP.
//!
//! ```text
//! fibp-dump [--json] [--port PORT] [--dialect NAME] CAPTURE        a pcap or pcapng file
//! fibp-dump [--json] [--dialect NAME] --raw CLIENT [SERVER]        files with what each side sent
//! ```
//!
//! One line for each event, then a summary of each operation. Payloads, header values and API keys are not printed.
//! Connections that are not FIBP are named in a line.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program, not the core"
)]

mod pcap;
#[path = "../shared/print.rs"]
mod print;
mod tcp;

use std::io::{self, Write as _};
use std::time::Duration;

use fibp_proto::Dialect;
use fibp_proto::observe::{Conversation, ObserverConfig, Side};
use print::Printer;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Default)]
struct Options {
    json: bool,
    port: Option<u16>,
    raw: bool,
    dialect: Dialect,
    files: Vec<String>,
}

fn main() -> std::process::ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // A reader that closed the pipe has seen enough.
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
            {
                return std::process::ExitCode::SUCCESS;
            }
            eprintln!("fibp-dump: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(mut args: impl Iterator<Item = String>) -> Result<()> {
    let mut options = Options::default();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" => options.json = true,
            "--raw" => options.raw = true,
            "--port" => options.port = Some(args.next().ok_or("--port needs a number")?.parse()?),
            "--dialect" => options.dialect = args.next().ok_or("--dialect needs a name")?.parse()?,
            other if other.starts_with("--") => return Err(format!("unknown option {other}").into()),
            _ => options.files.push(arg),
        }
    }
    let mut printer = Printer::new(options.json);
    match (&options.files[..], options.raw) {
        ([capture], false) => {
            let mut flows = tcp::Flows::new(options.port, options.dialect);
            let mut out = io::stdout().lock();
            let unread = pcap::read(capture, |at, packet| {
                flows.packet(at, packet, &mut |name, conversation| {
                    print_events(name, conversation, &mut printer, &mut out)
                })
            })?;
            flows.finish(&mut |name, conversation| print_events(name, conversation, &mut printer, &mut out))?;
            if unread > 0 {
                eprintln!("fibp-dump: {unread} packets were cut short or are not TCP over IP");
            }
        }
        ([client, rest @ ..], true) if rest.len() <= 1 => {
            let mut out = io::stdout().lock();
            let mut config = ObserverConfig::default();
            config.dialect = options.dialect;
            let mut conversation = Conversation::new(config);
            for (side, file) in [Side::Client, Side::Server]
                .into_iter()
                .zip([Some(client), rest.first()])
            {
                if let Some(file) = file {
                    for piece in std::fs::read(file)?.chunks(64 * 1024) {
                        conversation.input(side, Duration::ZERO, piece);
                        print_events("raw", &mut conversation, &mut printer, &mut out)?;
                    }
                }
            }
            for side in [Side::Client, Side::Server] {
                conversation.end(side, Duration::ZERO);
            }
            print_events("raw", &mut conversation, &mut printer, &mut out)?;
        }
        _ => {
            return Err(
                "usage: fibp-dump [--json] [--port PORT] [--dialect NAME] CAPTURE | --raw CLIENT [SERVER]".into(),
            );
        }
    }
    if let Some(summary) = printer.summary() {
        writeln!(io::stdout(), "\n{summary}")?;
    }
    Ok(())
}

fn print_events(
    name: &str,
    conversation: &mut Conversation,
    printer: &mut Printer,
    out: &mut impl io::Write,
) -> Result<()> {
    while let Some(seen) = conversation.poll_event() {
        writeln!(out, "{}", printer.line(name, &seen))?;
    }
    Ok(())
}
