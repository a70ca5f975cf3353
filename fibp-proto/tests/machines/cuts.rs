//! Connections that are cut at every byte of a session, in both directions.

use fibp_proto::admin::QueueSpec;
use fibp_proto::config::{ConsumerSettings, ProducerSettings, Replay};
use fibp_proto::typed::{CreateQueue, GetQueueStats};
use fibp_proto::{Dialect, Message, Outcome, Request};

use crate::harness::{Mode, P1, Sim, config};
use crate::host::{Act, End, Host, obliging};

/// Where the first connection is cut.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// After the client read so many bytes.
    Inbound(usize),
    /// After the client wrote so many bytes.
    Outbound(usize),
}

/// A session with a bit of everything; returns how many bytes went each way on the first connection.
fn session(dialect: Dialect, cut: Option<Cut>, end: End) -> (usize, usize) {
    let mut sim = Sim::requests(
        config().dialect(dialect).api_key("key").replay(Replay::SafeOps),
        Mode::Chunks(3),
    );
    sim.dialed = Box::new(move |_, _| Host::of(dialect));
    let mut confirmed = Vec::new();
    sim.settle_until_socket();
    match cut {
        Some(Cut::Inbound(at)) => {
            sim.socket().cut_at = Some(at);
            sim.socket().cut_end = end;
        }
        Some(Cut::Outbound(at)) => sim.socket().budget = Some(at),
        None => {}
    }
    let producer = sim.producer(ProducerSettings::default());
    let create = sim.call(CreateQueue {
        spec: QueueSpec::new("orders"),
    });
    let one = sim.enqueue("orders", "one");
    let many = sim.enqueue_many(vec![Message::new("orders", "two"), Message::new("other", "three")]);
    sim.settle();
    let (admitted, receipt, _) = sim.send(producer, "four");
    let flush = sim.flush(producer);
    let ack = sim.ack("id");
    let stats = sim.call(GetQueueStats { queue: "orders".into() });
    sim.settle();
    if let Some(Cut::Outbound(_)) = cut {
        // The writer is stuck: then the connection goes.
        if let Some(socket) = &mut sim.socket {
            socket.end(end);
        }
    }
    let bytes = sim
        .socket
        .as_ref()
        .map_or((0, 0), |socket| (socket.received, socket.sent));
    sim.advance_secs(5);

    // Everything that can be is done on a second connection; what is not says why.
    assert!(sim.opened().is_ok(), "{cut:?}");
    assert!(sim.response(create).is_ok(), "{cut:?}");
    assert!(sim.response(stats).is_ok(), "{cut:?}");
    assert!(sim.settled(ack).is_ok(), "{cut:?}");
    assert!(sim.room(admitted).is_ok(), "{cut:?}");
    let mut results = vec![(sim.enqueued(one), "one"), (sim.enqueued(receipt), "four")];
    let mut parts = sim.enqueued_many(many).into_iter();
    results.push((parts.next().unwrap(), "two"));
    results.push((parts.next().unwrap(), "three"));
    let failures = results.iter().filter(|(result, _)| result.is_err()).count();
    for (result, payload) in results {
        match result {
            Ok(_) => confirmed.push(payload),
            Err(failed) => {
                assert_eq!(failed.outcome(), Outcome::Unknown, "{cut:?}: {failed}");
                assert_eq!(&failed.message.payload[..], payload.as_bytes());
            }
        }
    }
    assert!(cut.is_some() || failures == 0);
    // A flush reports what failed before it.
    let flushed = sim.flushed(flush);
    assert!(flushed.is_ok() || failures > 0, "{cut:?}");
    // What was confirmed reached the server exactly once.
    for payload in confirmed {
        let stored = sim
            .asked
            .iter()
            .filter_map(|asked| match &asked.request {
                Request::Enqueue(messages) => Some(messages),
                _ => None,
            })
            .flatten()
            .filter(|message| &message.payload[..] == payload.as_bytes())
            .count();
        assert_eq!(stored, 1, "{payload} at {cut:?}");
    }
    sim.finish();
    bytes
}

#[test]
fn requests_survive_a_cut_at_every_byte() {
    for dialect in [P1, Dialect::Handshake] {
        let (received, sent) = session(dialect, None, End::Eof);
        assert!(received > 100 && sent > 100);
        for end in [End::Eof, End::Reset] {
            for at in 0..=received {
                session(dialect, Some(Cut::Inbound(at)), end);
            }
            for at in 0..=sent {
                session(dialect, Some(Cut::Outbound(at)), end);
            }
        }
    }
}

#[test]
fn deliveries_survive_a_cut_at_every_byte() {
    for dialect in [P1, Dialect::Handshake] {
        for end in [End::Eof, End::Reset] {
            let mut at = 0;
            loop {
                let mut sim = Sim::consumer(config().dialect(dialect), Mode::Chunks(9), ConsumerSettings::default());
                sim.dialed = Box::new(move |_, _| Host::of(dialect));
                sim.settle_until_socket();
                sim.socket().cut_at = Some(at);
                sim.socket().cut_end = end;
                sim.settle();
                let cut_in_opening = sim.dials.len() > 1 || sim.socket.is_none();
                if !cut_in_opening {
                    sim.push(&["1"]);
                    sim.push(&["2", "3"]);
                    sim.settle();
                }
                let survived = sim.socket.is_some() && sim.dials.len() == 1;
                if survived {
                    sim.socket().cut_at = None;
                }
                sim.advance_secs(2);
                assert!(sim.opened().is_ok(), "cut at {at}");
                assert!(sim.machine.poll_end().is_none(), "cut at {at}");
                sim.push(&["4"]);
                sim.settle();
                let seen = sim.payloads(10);
                assert_eq!(seen.last().map(String::as_str), Some("4"), "cut at {at}");
                assert!(seen.is_sorted(), "{seen:?}");
                sim.finish();
                if survived {
                    assert_eq!(seen, ["1", "2", "3", "4"]);
                    break;
                }
                at += 1;
            }
            assert!(at > 50, "{at}");
        }
    }
}

#[test]
fn a_server_that_closes_without_a_word() {
    // How preamble servers answer malformed bodies and overload.
    let mut sim = crate::calls::connected(config(), Mode::Whole, P1);
    sim.serve = Box::new(|request, connection| match connection {
        1 => Act::Close(End::Eof),
        _ => obliging(request),
    });
    let message = sim.enqueue("orders", "m");
    let ack = sim.ack("id");
    sim.advance_secs(1);
    assert_eq!(sim.enqueued(message).unwrap_err().outcome(), Outcome::Unknown);
    assert!(sim.settled(ack).is_ok());
    sim.finish();
}
