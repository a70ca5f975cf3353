//! Many threads on one connection.

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::{Script, Server, answer, id_of, within};
use fibp_proto::server::{RequestId, ServerConnection};
use fibp_proto::{AdminRevision, Request, Response};
use fila_client_blocking::{Batching, Client, Dialect, ErrorKind, Message, Outcome};

const LIMIT: Duration = Duration::from_secs(120);
const PREAMBLE: Dialect = Dialect::Preamble(AdminRevision::Protobuf);

/// A payload that tells whose it is at both ends.
fn payload(thread: usize, n: usize, len: usize) -> Vec<u8> {
    let mut payload = format!("{thread:03}-{n:04}").into_bytes();
    payload.resize(payload.len().max(len), b'.');
    payload
}

fn enqueue_and_check(client: &Client, thread: usize, n: usize, len: usize) {
    let payload = payload(thread, n, len);
    let expected = id_of(&payload);
    let queue = format!("q{}", thread % 3);
    let id = client.enqueue(Message::new(queue, payload)).unwrap();
    assert_eq!(id, expected, "another message's answer");
}

#[test]
fn frames_never_interleave() {
    for dialect in [PREAMBLE, Dialect::Handshake] {
        for batching in [Batching::Auto, Batching::Disabled] {
            let server = Server::start(dialect, || answer);
            let client = Client::connect(server.config().batching(batching)).unwrap();
            within(LIMIT, move || {
                thread::scope(|scope| {
                    for thread in 0..24 {
                        let client = &client;
                        scope.spawn(move || {
                            for n in 0..60 {
                                // Small ones, large ones, and some that no socket takes at once.
                                let len = [10, 700, 40_000, 3][(thread + n) % 4];
                                let len = if n == thread { 3_000_000 } else { len };
                                enqueue_and_check(client, thread, n, len);
                            }
                        });
                    }
                });
                assert_eq!(client.stats().messages_confirmed, 24 * 60);
            });
        }
    }
}

#[test]
fn a_reader_is_always_found() {
    // Short lives on purpose: most of the work is taking and leaving the leader's role.
    let server = Server::start(PREAMBLE, || answer);
    within(LIMIT, move || {
        for round in 0..40 {
            let client = server.client();
            let producer = client.producer().build().unwrap();
            thread::scope(|scope| {
                for thread in 0..8 {
                    let (client, producer) = (client.clone(), producer.clone());
                    scope.spawn(move || {
                        for n in 0..60 {
                            match (thread + n + round) % 4 {
                                0 => {
                                    let mut receipt = producer.send(Message::new("q", payload(thread, n, 9))).unwrap();
                                    let soon = Duration::from_micros((n % 40) as u64 * 50);
                                    if receipt.wait_timeout(soon).is_none() {
                                        assert_eq!(receipt.wait().unwrap(), id_of(&payload(thread, n, 9)));
                                    }
                                }
                                1 => drop(producer.send(Message::new("q", payload(thread, n, 9)))),
                                2 => thread::yield_now(),
                                _ => enqueue_and_check(&client, thread, n, 9),
                            }
                        }
                    });
                }
            });
            producer.flush().unwrap();
        }
    });
}

/// Answers nothing; tells what it saw.
struct Silent {
    seen: mpsc::Sender<usize>,
    closed: mpsc::Sender<()>,
}

impl Script for Silent {
    fn request(&mut self, _: &mut ServerConnection, _: RequestId, request: Request) {
        if let Request::Enqueue(messages) = request {
            self.seen.send(messages.len()).unwrap();
        }
    }

    fn closed(&mut self) {
        // The test may be over.
        let _ = self.closed.send(());
    }
}

fn silent() -> (Server, mpsc::Receiver<usize>, mpsc::Receiver<()>) {
    let (seen, arrivals) = mpsc::channel();
    let (closed, ends) = mpsc::channel();
    let script = move || Silent {
        seen: seen.clone(),
        closed: closed.clone(),
    };
    (Server::start(PREAMBLE, script), arrivals, ends)
}

#[test]
fn closing_ends_pending_calls() {
    let (server, arrivals, ends) = silent();
    let client = server.client();
    within(LIMIT, move || {
        let calls: Vec<_> = (0..6)
            .map(|n| {
                let client = client.clone();
                thread::spawn(move || client.enqueue(Message::new("q", payload(0, n, 9))))
            })
            .collect();
        arrivals.recv().unwrap();
        let report = client.close(Duration::from_millis(100));
        assert_eq!(report.flushed, 0);
        assert!(report.unknown >= 1, "{report:?}");
        for call in calls {
            let failed = call.join().unwrap().unwrap_err();
            assert_eq!(failed.kind(), ErrorKind::Closed);
            assert_eq!(&failed.message.queue[..], "q", "the message comes back");
        }
        ends.recv().unwrap();
        let refused = client.enqueue(Message::new("q", "late")).unwrap_err();
        assert_eq!(
            (refused.kind(), refused.outcome()),
            (ErrorKind::Closed, Outcome::NotSent)
        );
    });
}

#[test]
fn dropping_with_calls_pending_neither_blocks_nor_leaks() {
    let (server, arrivals, ends) = silent();
    within(LIMIT, move || {
        let client = server.client().with_timeout(Duration::from_millis(300));
        let producer = client.producer().build().unwrap();
        for n in 0..10 {
            drop(producer.try_send(Message::new("q", payload(0, n, 9))));
        }
        arrivals.recv().unwrap();
        drop((client, producer));
        // What was under way ends with its deadline, and the threads with it.
        ends.recv().unwrap();
    });
}

#[test]
fn what_producers_were_given_is_sent_after_the_last_drop() {
    let (messages, arrivals) = mpsc::channel();
    let server = Server::start(PREAMBLE, move || {
        let messages = messages.clone();
        move |server: &mut ServerConnection, id, request: Request| {
            if let Request::Enqueue(batch) = &request {
                messages.send(batch.len()).unwrap();
            }
            answer(server, id, request);
        }
    });
    within(LIMIT, move || {
        let client = server.client();
        let producer = client.producer().build().unwrap();
        for n in 0..500 {
            drop(producer.send(Message::new("q", payload(0, n, 300))).unwrap());
        }
        drop((client, producer));
        let mut arrived = 0;
        while arrived < 500 {
            arrived += arrivals.recv().unwrap();
        }
        assert_eq!(arrived, 500);
    });
}

#[test]
fn timeouts_hold_while_nobody_answers() {
    let (server, _arrivals, _ends) = silent();
    let client = server.client().with_timeout(Duration::from_millis(50));
    within(LIMIT, move || {
        thread::scope(|scope| {
            for n in 0..8 {
                let client = &client;
                scope.spawn(move || {
                    let failed = client.enqueue(Message::new("q", payload(n, 0, 9))).unwrap_err();
                    assert_eq!(failed.kind(), ErrorKind::Timeout);
                });
            }
        });
    });
}

/// Answers a listing only when a flood of messages has begun, with a flood of its own, during which it does not read.
struct Flood {
    listing: Option<RequestId>,
    asked: mpsc::Sender<()>,
}

const FLOOD: usize = 10 * 1024 * 1024;

impl Script for Flood {
    fn request(&mut self, server: &mut ServerConnection, id: RequestId, request: Request) {
        match request {
            Request::ListConfig { .. } => {
                self.listing = Some(id);
                self.asked.send(()).unwrap();
            }
            Request::Enqueue(_) => {
                if let Some(listing) = self.listing.take() {
                    let entries = (0..FLOOD / 1024)
                        .map(|n| (format!("key {n}"), "v".repeat(1024)))
                        .collect();
                    server.respond(listing, &Response::ListConfig { entries }).unwrap();
                }
                answer(server, id, request);
            }
            other => answer(server, id, other),
        }
    }
}

#[test]
fn ten_mebibytes_both_ways_at_once() {
    for dialect in [PREAMBLE, Dialect::Handshake] {
        let (asked, listings) = mpsc::channel();
        let server = Server::start(dialect, move || Flood {
            listing: None,
            asked: asked.clone(),
        });
        let client = server.client();
        within(LIMIT, move || {
            let lister = client.clone();
            let listing = thread::spawn(move || lister.admin().list_config("").unwrap());
            // Sent after the listing, or the server would not hold it.
            listings.recv().unwrap();
            let messages = (0..FLOOD / 65_536).map(|n| Message::new("q", payload(0, n, 65_536)));
            for (n, result) in client.enqueue_many(messages.collect()).into_iter().enumerate() {
                assert_eq!(result.unwrap(), id_of(&payload(0, n, 9)));
            }
            assert_eq!(listing.join().unwrap().len(), FLOOD / 1024);
        });
    }
}
