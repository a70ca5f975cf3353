//! The least that drives a machine: one thread, one blocking socket of `std::net`. It enqueues a message and prints its id:
//! `cargo run -p fibp-proto --example run_loop HOST:PORT QUEUE TEXT`
//!
//! All knowledge is in the machine: when to dial, what to write, what an answer means. A loop like this one moves bytes
//! and tells the time.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "not the core")]

use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use fibp_proto::frame::Transmit;
use fibp_proto::machine::{Action, ChannelId, Machine as _, Reply, Step};
use fibp_proto::requests::Requests;
use fibp_proto::{Config, Message, Shared};

/// The channel to the configured server. In a cluster the machine opens one to each node that leads a queue, too.
const MAIN: ChannelId = ChannelId::MAIN;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [server, queue, text] = &args[..] else {
        return Err("usage: run_loop HOST:PORT QUEUE TEXT".into());
    };
    let shared = Shared::new(Config::new(server.as_str()))?;
    // Who waits is `()`; a real adapter has a oneshot channel or a condition variable here. The seed varies the pauses
    // between attempts.
    let mut requests = Requests::new(&shared, Instant::now(), std::process::id().into(), Some(()));
    requests.enqueue(Instant::now(), Message::new(queue.as_str(), text.clone()), None, ());
    let (mut socket, mut transmit) = (None::<TcpStream>, Transmit::new());
    loop {
        let now = Instant::now();
        let left = |until: Instant| until.saturating_duration_since(now).max(Duration::from_millis(1));
        match (requests.next_step(now, MAIN, &mut transmit), &mut socket) {
            (Step::Complete(completions), _) => {
                for completion in completions {
                    match completion.reply {
                        Reply::Opened(result) => result?,
                        Reply::Enqueued(result) => {
                            println!("{}", result?);
                            requests.close(now, Duration::from_secs(1), ());
                        }
                        Reply::Closed(_) => return Ok(()),
                        other => return Err(format!("not expected: {other:?}").into()),
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
                let written = transmit.write_to(stream).map_err(Into::into);
                requests.handle_written(Instant::now(), MAIN, &mut transmit, written);
            }
            (Step::Read { mut buffer, until }, Some(stream)) => {
                stream.set_read_timeout(until.map(left))?;
                let read = buffer.read_from(stream).map_err(Into::into);
                requests.handle_read(Instant::now(), MAIN, buffer, read);
            }
            // Between two attempts to dial.
            (Step::Sleep(until), _) => std::thread::sleep(until.map_or(Duration::ZERO, left)),
            // A real adapter runs a loop like this one for each further channel.
            (Step::Serve(_), _) => return Err("the queue is led by another node".into()),
            (step, _) => return Err(format!("not expected: {step:?}").into()),
        }
    }
}

fn dial(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port))?;
    stream.set_nodelay(true)?;
    // A peer that does not read must not keep the loop from noticing that time is up.
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    Ok(stream)
}
