//! A machine driven by its steps alone, as by a program with one thread and one blocking socket.

#![allow(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]

use std::time::{Duration, Instant};

use fibp_proto::config::Replay;
use fibp_proto::frame::Transmit;
use fibp_proto::machine::{Action, ChannelId, Machine as _, Reply, Step};
use fibp_proto::requests::Requests;
use fibp_proto::server::{ServerConfig, ServerConnection};
use fibp_proto::{Config, Dialect, Fault, FaultKind, Message, Request, Response, Shared};

const MAIN: ChannelId = ChannelId::MAIN;

/// What ends the first connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Eof,
    ReadFault,
    WriteFault,
}

/// The other side of one socket. The first takes half a write of the request, then ends.
struct Peer {
    server: ServerConnection,
    end: Option<End>,
}

impl Peer {
    fn write(&mut self, chunk: &[u8], is_request: bool) -> Result<usize, Fault> {
        let mut n = chunk.len();
        if is_request && self.end.is_some() {
            if self.end == Some(End::WriteFault) {
                return Err(Fault::new(FaultKind::Reset, "reset"));
            }
            n /= 2;
        }
        let mut left = &chunk[..n];
        while !left.is_empty() {
            let taken = self.server.feed(left);
            assert!(taken > 0, "it reads");
            left = &left[taken..];
            while let Some((id, request)) = self.server.poll_request() {
                let Request::Enqueue(messages) = request else {
                    panic!("{request:?}");
                };
                let ids = messages.iter().map(|message| Ok(text(message).into()));
                self.server
                    .respond(id, &Response::Enqueue(ids.collect()))
                    .expect("fits");
            }
        }
        Ok(n)
    }

    fn read(&mut self, room: &mut [u8]) -> usize {
        let mut transmit = Transmit::new();
        if !self.server.take_transmit(&mut transmit) {
            return 0;
        }
        let chunk = transmit.chunk();
        let n = chunk.len();
        room[..n].copy_from_slice(chunk);
        self.server.transmitted(&mut transmit, n);
        assert!(transmit.is_empty());
        n
    }
}

fn text(message: &Message) -> String {
    String::from_utf8(message.payload.to_vec()).expect("text")
}

/// Sends one message over a connection that ends in the middle of it, and then over another; returns how many were dialed.
fn send(end: End) -> usize {
    let config = Config::new("broker:1")
        .dialect(Dialect::Handshake)
        .replay(Replay::IncludingEnqueue);
    let shared = Shared::new(config).expect("valid");
    let mut now = Instant::now();
    let mut requests = Requests::new(&shared, now, 1, Some("opened"));
    let (mut peer, mut transmit, mut dialed, mut opened) = (None::<Peer>, Transmit::new(), 0, false);
    let mut replies = Vec::new();
    for _ in 0..200 {
        match requests.next_step(now, MAIN, &mut transmit) {
            Step::Complete(completions) => {
                for completion in completions {
                    match completion.reply {
                        Reply::Opened(result) => {
                            result.expect("a server");
                            opened = true;
                            requests.enqueue(now, Message::new("orders", "hello"), None, "sent");
                        }
                        Reply::Enqueued(result) => {
                            replies.push(result.expect("sent").to_string());
                            requests.close(now, Duration::from_secs(1), "closed");
                        }
                        Reply::Closed(_) => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            Step::Act(Action::Dial { id, .. }) => {
                dialed += 1;
                peer = Some(Peer {
                    server: ServerConnection::new(ServerConfig::new([Dialect::Handshake])),
                    end: (dialed == 1).then_some(end),
                });
                requests.handle_dialed(now, MAIN, id, Ok(None));
            }
            Step::Act(Action::Hangup) => {
                assert!(
                    transmit.is_empty(),
                    "what is left of a write must not reach the next connection"
                );
                peer = None;
            }
            Step::Act(_) => {}
            Step::Write => {
                let peer = peer.as_mut().expect("a socket");
                let result = peer.write(transmit.chunk(), opened);
                requests.handle_written(now, MAIN, &mut transmit, result);
                if let Some(End::Eof | End::ReadFault) = peer.end.filter(|_| opened) {
                    // Half the request is written: the end is read before the other half is.
                    let mut buffer = requests.take_read_buffer(MAIN).expect("reading");
                    let _ = buffer.unfilled();
                    let result = match end {
                        End::Eof => Ok(Some(0)),
                        _ => Err(Fault::new(FaultKind::Reset, "reset")),
                    };
                    requests.handle_read(now, MAIN, buffer, result);
                }
            }
            Step::Read { mut buffer, until } => {
                let peer = peer.as_mut().expect("a socket");
                let n = peer.read(buffer.unfilled());
                buffer.advance(n);
                requests.handle_read(now, MAIN, buffer, Ok(Some(n).filter(|n| *n > 0)));
                if n == 0 {
                    now = until.expect("something is waited for");
                }
            }
            Step::Sleep(until) => now = until.expect("it dials again"),
            Step::End => {
                assert_eq!(replies, ["hello"]);
                return dialed;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("it goes on for ever");
}

#[test]
fn a_connection_that_ends_in_mid_write_leaves_nothing_to_the_next() {
    for end in [End::Eof, End::ReadFault, End::WriteFault] {
        assert_eq!(send(end), 2, "{end:?}");
    }
}
