//! The least that drives a link: one thread, one blocking socket of `std::net`. It enqueues a message and prints its id:
//! `cargo run -p fibp-proto --example run_loop HOST:PORT QUEUE TEXT`
//!
//! All knowledge is in the link: when to dial, what to write, what an answer means. A loop like this one moves bytes and
//! tells the time.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program, not the core"
)]

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fibp_proto::frame::Transmit;
use fibp_proto::link::{Action, Reply};
use fibp_proto::{Config, Error, Fault, FaultKind, Link, Message, MessageId, Shared};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Who waits; a real adapter has a oneshot channel or a condition variable here.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Waiter {
    Opened,
    Enqueued,
    Closed,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [server, queue, text] = &args[..] else {
        return Err("usage: run_loop HOST:PORT QUEUE TEXT".into());
    };
    let shared = Shared::new(Config::new(server.as_str()))?;
    // The seed varies the pauses between attempts.
    let mut link = Link::requests(&shared, Instant::now(), std::process::id().into(), Some(Waiter::Opened));
    link.enqueue(
        Instant::now(),
        Message::new(queue.as_str(), text.clone()),
        None,
        Waiter::Enqueued,
    );
    let sent = run(&mut link, &shared)?;
    println!("{}", sent?);
    Ok(())
}

fn run(link: &mut Link<Waiter>, shared: &Shared) -> Result<std::result::Result<MessageId, Error>> {
    let (mut socket, mut transmit): (Option<TcpStream>, _) = (None, Transmit::new());
    let (mut completions, mut sent) = (Vec::new(), None);
    loop {
        while let Some(action) = link.poll_action() {
            match action {
                Action::Dial { id, endpoint, .. } => match TcpStream::connect((&*endpoint.host, endpoint.port)) {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        socket = Some(stream);
                        link.handle_dialed(Instant::now(), id, shared.config().settings().credentials.key());
                    }
                    Err(error) => link.handle_dial_failed(Instant::now(), id, fault(&error)),
                },
                Action::HalfClose => socket
                    .iter()
                    .try_for_each(|socket| socket.shutdown(std::net::Shutdown::Write))?,
                // Buffers that are out belong to the connection that is gone: the link knows them by their epoch and
                // drops what they hold, whether they are given back or not. Forget the socket, and go on.
                Action::Hangup => socket = None,
                // Work for another node of a cluster, which would have a link and a loop of its own.
                _ => return Err("the queue is led by another node".into()),
            }
        }
        link.drain_completions(&mut completions);
        for completion in completions.drain(..) {
            match completion.reply {
                Reply::Opened(result) => result?,
                Reply::Enqueued(result) => {
                    sent = Some(result.map_err(|failed| failed.error));
                    link.close(Instant::now(), Duration::from_secs(1), Waiter::Closed);
                }
                Reply::Closed(_) => return sent.ok_or_else(|| "closed before the answer".into()),
                other => return Err(format!("{:?}: {other:?}", completion.token).into()),
            }
        }
        let Some(stream) = &mut socket else {
            // Between two attempts: wait until the link wants to dial.
            let wait = link
                .poll_timeout()
                .map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
            std::thread::sleep(wait);
            link.handle_timeout(Instant::now());
            continue;
        };
        if !transmit.is_empty() || link.take_transmit(Instant::now(), 64 * 1024, &mut transmit) {
            match stream.write(transmit.chunk()) {
                Ok(n) => link.transmitted(Instant::now(), &mut transmit, n),
                Err(error) => link.transmit_failed(Instant::now(), std::mem::take(&mut transmit), fault(&error)),
            }
            continue;
        }
        let Some(mut buffer) = link.take_read_buffer() else {
            link.handle_timeout(Instant::now());
            continue;
        };
        let wait = link
            .poll_timeout()
            .map(|at| at.saturating_duration_since(Instant::now()));
        stream.set_read_timeout(wait.map(|wait| wait.max(Duration::from_millis(1))))?;
        let read = stream.read(buffer.unfilled());
        if let Ok(n) = read {
            buffer.advance(n);
        }
        // The buffer goes back whatever happened: only then does the link hand it out again.
        link.handle_input(Instant::now(), buffer);
        match read {
            Ok(0) => link.handle_eof(Instant::now()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                link.handle_timeout(Instant::now());
            }
            Err(error) => link.handle_transport_error(Instant::now(), fault(&error)),
        }
    }
}

fn fault(error: &io::Error) -> Fault {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionReset => FaultKind::Reset,
        io::ErrorKind::ConnectionRefused => FaultKind::Refused,
        _ => FaultKind::Other,
    };
    Fault::new(kind, error.to_string())
}
