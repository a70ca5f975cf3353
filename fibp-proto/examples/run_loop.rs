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
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use fibp_proto::frame::Transmit;
use fibp_proto::machine::{Action, ChannelId, Machine as _, Reply, Step};
use fibp_proto::requests::Requests;
use fibp_proto::{Config, Message, MessageId, Shared};

/// The channel to the configured server. In a cluster the machine opens one to each node that leads a queue, too.
const MAIN: ChannelId = ChannelId::MAIN;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Who waits; a real adapter has a oneshot channel or a condition variable here.
#[derive(Debug, Clone, Copy)]
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
    let message = Message::new(queue.as_str(), text.clone());
    requests.enqueue(Instant::now(), message, None, Waiter::Enqueued);
    println!("{}", run(&mut requests, &shared)?);
    Ok(())
}

fn run(requests: &mut Requests<Waiter>, shared: &Shared) -> Result<MessageId> {
    let (mut socket, mut transmit): (Option<TcpStream>, _) = (None, Transmit::new());
    let mut sent = None;
    loop {
        match (requests.next_step(Instant::now(), MAIN, &mut transmit), &mut socket) {
            (Step::Complete(completions), _) => {
                for completion in completions {
                    match completion.reply {
                        Reply::Opened(result) => result?,
                        Reply::Enqueued(result) => {
                            sent = Some(result);
                            requests.close(Instant::now(), Duration::from_secs(1), Waiter::Closed);
                        }
                        Reply::Closed(_) => return Ok(sent.ok_or("closed before the answer")??),
                        other => return Err(format!("{:?}: {other:?}", completion.token).into()),
                    }
                }
            }
            (Step::Act(Action::Dial { id, endpoint, .. }), _) => match dial(&endpoint.host, endpoint.port) {
                Ok(stream) => {
                    socket = Some(stream);
                    let key = shared.config().settings().credentials.key();
                    requests.handle_dialed(Instant::now(), MAIN, id, key);
                }
                Err(error) => requests.handle_dial_failed(Instant::now(), MAIN, id, error.into()),
            },
            (Step::Act(Action::HalfClose), Some(stream)) => stream.shutdown(Shutdown::Write)?,
            // Forget the socket, and go on: `transmit` is empty again, and a buffer that is out belongs to the connection
            // that is gone. The machine knows it by its epoch and drops what it holds, whether it is given back or not.
            (Step::Act(Action::Hangup), _) => socket = None,
            (Step::Write, Some(stream)) => {
                let result = stream.write(transmit.chunk()).or_else(none_yet(0));
                requests.handle_written(Instant::now(), MAIN, &mut transmit, result.map_err(Into::into));
            }
            (Step::Read { mut buffer, until }, Some(stream)) => {
                stream.set_read_timeout(until.map(|at| from_now(at).max(Duration::from_millis(1))))?;
                let read = stream.read(buffer.unfilled()).map(Some).or_else(none_yet(None));
                buffer.advance(read.as_ref().map_or(0, |read| read.unwrap_or(0)));
                requests.handle_read(Instant::now(), MAIN, buffer, read.map_err(Into::into));
            }
            // Between two attempts to dial.
            (Step::Sleep(until), _) => std::thread::sleep(until.map_or(Duration::ZERO, from_now)),
            // A real adapter runs a loop like this one for each further channel.
            (Step::Serve(_), _) => return Err("the queue is led by another node".into()),
            (step, _) => return Err(format!("not expected: {step:?}").into()),
        }
    }
}

fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port))?;
    stream.set_nodelay(true)?;
    // A peer that does not read must not keep the loop from noticing that time is up.
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    Ok(stream)
}

/// What a read or write that ran out of time means: nothing yet.
fn none_yet<T>(none: T) -> impl FnOnce(io::Error) -> io::Result<T> {
    move |error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => Ok(none),
        _ => Err(error),
    }
}

fn from_now(at: Instant) -> Duration {
    at.saturating_duration_since(Instant::now())
}
