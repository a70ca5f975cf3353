//! The least that drives a machine: one thread, one blocking socket of `std::net`. It enqueues a message and prints its id:
//! `cargo run -p fibp-proto --example run_loop HOST:PORT QUEUE TEXT`
//!
//! All knowledge is in the machine: when to dial, what to write, what an answer means. A loop like this one moves bytes
//! and tells the time.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program, not the core"
)]

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fibp_proto::frame::Transmit;
use fibp_proto::machine::{Action, ChannelId, Machine as _, Reply};
use fibp_proto::requests::Requests;
use fibp_proto::{Config, Error, Fault, FaultKind, Message, MessageId, Shared};

/// The channel to the configured server. In a cluster the machine opens one to each node that leads a queue, too.
const MAIN: ChannelId = ChannelId::MAIN;

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
    let seed = std::process::id().into();
    let mut requests = Requests::new(&shared, Instant::now(), seed, Some(Waiter::Opened));
    requests.enqueue(
        Instant::now(),
        Message::new(queue.as_str(), text.clone()),
        None,
        Waiter::Enqueued,
    );
    let sent = run(&mut requests, &shared)?;
    println!("{}", sent?);
    Ok(())
}

fn run(requests: &mut Requests<Waiter>, shared: &Shared) -> Result<std::result::Result<MessageId, Error>> {
    let (mut socket, mut transmit): (Option<TcpStream>, _) = (None, Transmit::new());
    let (mut completions, mut sent) = (Vec::new(), None);
    loop {
        while let Some(action) = requests.poll_action(MAIN) {
            match action {
                Action::Dial { id, endpoint, .. } => match TcpStream::connect((&*endpoint.host, endpoint.port)) {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        socket = Some(stream);
                        requests.handle_dialed(Instant::now(), MAIN, id, shared.config().settings().credentials.key());
                    }
                    Err(error) => requests.handle_dial_failed(Instant::now(), MAIN, id, fault(&error)),
                },
                Action::HalfClose => socket
                    .iter()
                    .try_for_each(|socket| socket.shutdown(std::net::Shutdown::Write))?,
                // Buffers that are out belong to the connection that is gone: the machine knows them by their epoch and
                // drops what they hold, whether they are given back or not. Forget the socket, and go on.
                Action::Hangup => socket = None,
                _ => return Err("this loop is older than the core".into()),
            }
        }
        // A real adapter runs a loop like this one for each further channel, too.
        if requests.poll_new_channel().is_some() {
            return Err("the queue is led by another node".into());
        }
        requests.drain_completions(&mut completions);
        for completion in completions.drain(..) {
            match completion.reply {
                Reply::Opened(result) => result?,
                Reply::Enqueued(result) => {
                    sent = Some(result.map_err(|failed| failed.error));
                    requests.close(Instant::now(), Duration::from_secs(1), Waiter::Closed);
                }
                Reply::Closed(_) => return sent.ok_or_else(|| "closed before the answer".into()),
                other => return Err(format!("{:?}: {other:?}", completion.token).into()),
            }
        }
        let Some(stream) = &mut socket else {
            // Between two attempts: wait until the machine wants to dial.
            let until = requests.poll_timeout(MAIN);
            requests.note_sleep(MAIN, until);
            std::thread::sleep(until.map_or(Duration::ZERO, from_now));
            requests.handle_timeout(Instant::now());
            continue;
        };
        if !transmit.is_empty() || requests.take_transmit(Instant::now(), MAIN, 64 * 1024, &mut transmit) {
            match stream.write(transmit.chunk()) {
                Ok(n) => requests.transmitted(Instant::now(), MAIN, &mut transmit, n),
                Err(error) => {
                    requests.transmit_failed(Instant::now(), MAIN, std::mem::take(&mut transmit), fault(&error));
                }
            }
            continue;
        }
        let Some(mut buffer) = requests.take_read_buffer(MAIN) else {
            requests.handle_timeout(Instant::now());
            continue;
        };
        let until = requests.poll_timeout(MAIN);
        requests.note_sleep(MAIN, until);
        stream.set_read_timeout(until.map(|at| from_now(at).max(Duration::from_millis(1))))?;
        let read = stream.read(buffer.unfilled());
        if let Ok(n) = read {
            buffer.advance(n);
        }
        // The buffer goes back whatever happened: only then does the machine hand it out again.
        requests.handle_input(Instant::now(), MAIN, buffer);
        match read {
            Ok(0) => requests.handle_eof(Instant::now(), MAIN),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                requests.handle_timeout(Instant::now());
            }
            Err(error) => requests.handle_transport_error(Instant::now(), MAIN, fault(&error)),
        }
    }
}

fn from_now(at: Instant) -> Duration {
    at.saturating_duration_since(Instant::now())
}

fn fault(error: &io::Error) -> Fault {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionReset => FaultKind::Reset,
        io::ErrorKind::ConnectionRefused => FaultKind::Refused,
        _ => FaultKind::Other,
    };
    Fault::new(kind, error.to_string())
}
