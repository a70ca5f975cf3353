//! Consumers: subscribing, credit, deliveries, pauses.

use fibp_proto::config::ConsumerSettings;
use fibp_proto::fault::FaultKind;
use fibp_proto::frame::{Limits, Transmit};
use fibp_proto::machine::Reply;
use fibp_proto::machine::{ChannelId, Machine};
use fibp_proto::response::ServerError;
use fibp_proto::{Dialect, ErrorKind, Fault, Request, Response};

use crate::harness::{ConsumerSim, MODES, Mode, P1, P3, Sim, Token, config, deliveries, in_every_mode};
use crate::host::{Act, End, Host, obliging};

pub(crate) fn subscribed(settings: ConsumerSettings, dialect: Dialect, mode: Mode) -> ConsumerSim {
    let mut sim = Sim::consumer(config().dialect(dialect).no_heartbeat(), mode, settings);
    sim.dialed = Box::new(move |_, _| Host::of(dialect));
    sim.settle();
    assert!(sim.opened().is_ok());
    sim
}

pub(crate) fn prefetch(n: usize) -> ConsumerSettings {
    ConsumerSettings::default().prefetch(n)
}

fn drain(sim: &mut ConsumerSim) -> Token {
    let token = sim.token();
    sim.machine.stop_consuming(sim.now, token);
    sim.settle();
    token
}

#[test]
fn what_is_held_keeps_its_bytes_while_more_arrives() {
    for dialect in [P1, P3, Dialect::Handshake] {
        in_every_mode(|mode| {
            let mut sim = subscribed(prefetch(1_000), dialect, mode);
            let mut held = Vec::new();
            for round in 0..6 {
                // Enough to fill a read buffer, which is lent to them then.
                let payloads: Vec<_> = (0..24).map(|n| format!("{round}.{n} ").repeat(150)).collect();
                let payloads: Vec<_> = payloads.iter().map(String::as_str).collect();
                sim.push(&payloads);
                sim.settle();
                let mut leases = sim.take(100);
                assert_eq!(leases.len(), 24);
                // Their places serve again, those of the others do not.
                if round % 2 == 0 {
                    leases.truncate(1);
                }
                held.push(leases);
            }
            for (round, leases) in held.iter().enumerate() {
                for (n, lease) in leases.iter().enumerate() {
                    let expected = format!("{round}.{n} ").repeat(150);
                    assert_eq!(lease.received.payload, expected, "message {n} of round {round}");
                }
            }
            sim
        });
    }
}

#[test]
fn deliveries_arrive_whole_and_in_order() {
    for dialect in [P1, P3, Dialect::Handshake] {
        in_every_mode(|mode| {
            let mut sim = subscribed(prefetch(100), dialect, mode);
            assert!(!sim.wait_delivery());
            sim.push(&["1", "2", "3"]);
            sim.push(&["4"]);
            assert!(sim.wait_delivery(), "deliverable at once");
            let leases = sim.take(2);
            assert_eq!(leases[0].received.id.as_str(), "id-1");
            assert_eq!(&*leases[0].received.queue, "orders");
            assert_eq!((leases[0].sequence, leases[1].sequence), (1, 2));
            assert_eq!(sim.payloads(100), ["3", "4"]);
            assert!(sim.take(10).is_empty());
            assert!(sim.machine.poll_end().is_none());
            sim
        });
    }
}

#[test]
fn the_confirmation_and_the_first_push_in_one_segment() {
    for dialect in [P1, Dialect::Handshake] {
        for mode in MODES {
            let mut sim = Sim::consumer(config().dialect(dialect), mode, prefetch(10));
            sim.dialed = Box::new(move |_, _| Host::of(dialect));
            sim.serve = Box::new(|_, _| Act::Silence);
            sim.settle();
            let asked = sim.last_asked();
            sim.answer(
                &asked,
                &Response::Consume {
                    consumer_id: Some("c".to_owned()),
                },
            );
            sim.push(&["1", "2"]);
            sim.settle();
            assert!(sim.opened().is_ok());
            assert_eq!(sim.payloads(10), ["1", "2"]);
            sim.finish();
        }
    }
}

#[test]
fn a_push_before_the_confirmation() {
    for mode in MODES {
        let mut sim = Sim::consumer(config().dialect(P1), mode, prefetch(10));
        sim.serve = Box::new(|_, _| Act::Silence);
        sim.settle();
        sim.push(&["early"]);
        sim.settle();
        assert!(sim.is_open(sim.opened), "not confirmed yet");
        let asked = sim.last_asked();
        sim.answer(&asked, &Response::Consume { consumer_id: None });
        sim.settle();
        assert!(sim.opened().is_ok());
        assert_eq!(sim.payloads(10), ["early"]);
        sim.finish();
    }
}

#[test]
fn a_refusal_is_the_result_of_opening() {
    for (kind, text) in [
        (
            ErrorKind::Forbidden,
            "permission denied: key does not have consume permission on queue \"orders\"",
        ),
        (ErrorKind::InvalidArgument, "queue name must not be empty"),
        (ErrorKind::QueueNotFound, "invalid payload: queue not found"),
        (ErrorKind::Auth, "authentication required: send OP_AUTH frame first"),
    ] {
        in_every_mode(|mode| {
            let mut sim = Sim::consumer(config().dialect(P1), mode, prefetch(10));
            sim.serve = Box::new(move |_, _| Act::error(kind, text));
            let waiting = sim.token();
            sim.machine.wait_delivery(sim.now, waiting);
            sim.advance_secs(20);
            let error = sim.opened().unwrap_err();
            assert_eq!((error.kind(), error.server_text()), (kind, Some(text)));
            assert!(matches!(sim.reply(waiting), Reply::Ready));
            let end = sim.machine.poll_end();
            assert_eq!(end.unwrap().unwrap().kind(), kind, "one error");
            assert!(matches!(sim.machine.poll_end(), Some(None)), "then the end");
            assert_eq!(sim.dials.len(), 1);
            sim
        });
    }
}

#[test]
fn an_overloaded_server_is_asked_again_until_the_connect_timeout() {
    let mut sim = Sim::consumer(config().dialect(P1), Mode::Whole, prefetch(10));
    sim.serve = Box::new(|_, connection| {
        if connection < 3 {
            Act::error(
                ErrorKind::Overloaded,
                "broker unavailable: scheduler command channel full",
            )
        } else {
            obliging(&Request::Consume {
                queue: "orders".into(),
                credit: 1,
            })
        }
    });
    sim.advance_secs(5);
    assert!(sim.opened().is_ok());
    sim.finish();

    let mut sim = Sim::consumer(config().dialect(P1), Mode::Whole, prefetch(10));
    sim.serve = Box::new(|_, _| {
        Act::error(
            ErrorKind::Overloaded,
            "broker unavailable: scheduler command channel full",
        )
    });
    sim.advance_secs(6);
    assert!(sim.opened().is_err());
    sim.finish();
}

#[test]
fn a_consume_that_is_never_confirmed() {
    let mut sim = Sim::consumer(config().dialect(P1), Mode::Whole, prefetch(10));
    sim.serve = Box::new(|_, connection| match connection {
        2 => Act::Silence,
        _ => obliging(&Request::Consume {
            queue: "orders".into(),
            credit: 1,
        }),
    });
    sim.settle();
    assert!(sim.opened().is_ok());
    sim.socket().end(End::Reset);
    sim.advance_secs(4);
    assert_eq!(sim.dials.len(), 2);
    sim.advance_secs(4);
    assert_eq!(sim.dials.len(), 3, "not waited for for ever");
    sim.push(&["m"]);
    sim.settle();
    assert_eq!(sim.payloads(1), ["m"]);
    sim.finish();

    let mut sim = Sim::consumer(config().dialect(P1), Mode::Whole, prefetch(10));
    sim.serve = Box::new(|_, _| Act::Silence);
    sim.advance_secs(5);
    assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::Timeout);
    sim.finish();
}

#[test]
fn what_arrived_before_a_loss_is_delivered() {
    for end in [End::Eof, End::Reset] {
        let mut sim = subscribed(prefetch(2), P1, Mode::Whole);
        for n in 0..6 {
            sim.push(&[&n.to_string()]);
        }
        sim.settle();
        assert_eq!(sim.shared.stats().deliveries, 2, "the rest is in the client, undecoded");
        match end {
            End::Eof => sim.machine.handle_eof(sim.now, ChannelId::MAIN),
            End::Reset => {
                let fault = Fault::new(FaultKind::Reset, "reset");
                sim.machine.handle_transport_error(sim.now, ChannelId::MAIN, fault);
            }
        }
        sim.settle();
        let mut seen = Vec::new();
        while sim.wait_delivery() {
            seen.extend(sim.payloads(2));
        }
        assert_eq!(seen, ["0", "1", "2", "3", "4", "5"]);
        sim.finish();
    }
}

#[test]
fn a_delivery_that_cannot_be_decoded_ends_the_consumer_and_loses_no_other() {
    for mode in MODES {
        let mut sim = subscribed(prefetch(10), P1, mode);
        sim.push(&["1", "2"]);
        sim.settle();
        // A message id that is not UTF-8.
        sim.socket().say(b"\0\0\0\x0b\x04\x02\0\0\0\0\0\x01\0\x01\xff");
        sim.settle();
        assert_eq!(sim.payloads(10), ["1", "2"]);
        let error = sim.machine.poll_end().unwrap().unwrap();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains("\"orders\""), "{error}");
        assert!(matches!(sim.machine.poll_end(), Some(None)));
        assert_eq!(sim.dials.len(), 1, "it would come again and again");
        sim.finish();
    }
    // What arrived with it, before it and after it, is there too.
    let mut sim = subscribed(prefetch(10), P1, Mode::Whole);
    sim.push(&["1", "2"]);
    sim.push(&["3"]);
    sim.socket().say(b"\0\0\0\x0b\x04\x02\0\0\0\0\0\x01\0\x01\xff");
    sim.push(&["after"]);
    sim.settle();
    assert_eq!(sim.payloads(10), ["1", "2", "3", "after"]);
    assert!(matches!(sim.machine.poll_end(), Some(Some(_))));
    sim.finish();
}

#[test]
fn an_oversized_push_ends_the_consumer() {
    let mut sim = Sim::consumer(
        config().dialect(P1).max_frame_size(4096, 4096),
        Mode::Whole,
        prefetch(10),
    );
    sim.settle();
    assert!(sim.opened().is_ok());
    sim.push(&["1"]);
    sim.push(&[&"x".repeat(5_000)]);
    sim.settle();
    assert_eq!(sim.payloads(10), ["1"]);
    let error = sim.machine.poll_end().unwrap().unwrap();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().contains("max_frame_size"), "{error}");
    sim.finish();
}

#[test]
fn draining_keeps_what_was_received_and_ends_cleanly() {
    for dialect in [P1, Dialect::Handshake] {
        in_every_mode(|mode| {
            let mut sim = subscribed(prefetch(10), dialect, mode);
            sim.push(&["1", "2"]);
            sim.settle();
            let token = drain(&mut sim);
            assert!(matches!(sim.reply(token), Reply::Drained));
            assert!(sim.machine.poll_end().is_none(), "deliveries first");
            assert_eq!(sim.payloads(9), ["1", "2"]);
            assert!(matches!(sim.machine.poll_end(), Some(None)));
            assert!(sim.wait_delivery(), "nobody waits for ever");
            assert_eq!(sim.half_closes, usize::from(dialect == Dialect::Handshake));
            assert_eq!(sim.hangups, 1);
            sim
        });
    }
}

#[test]
fn draining_takes_in_what_comes_before_the_servers_end() {
    let mut sim = subscribed(prefetch(10), Dialect::Handshake, Mode::Whole);
    sim.socket().closes_after_client = false;
    sim.serve = Box::new(|_, _| Act::Silence);
    let token = sim.token();
    sim.machine.stop_consuming(sim.now, token);
    // Still on its way when the client said goodbye.
    sim.push(&["late"]);
    sim.settle();
    sim.advance_secs(1);
    assert!(matches!(sim.reply(token), Reply::Drained));
    assert_eq!(sim.payloads(9), ["late"]);
    assert!(matches!(sim.machine.poll_end(), Some(None)));
    sim.finish();
}

#[test]
fn what_arrived_is_handed_out_however_the_link_is_closed() {
    for dialect in [P1, Dialect::Handshake] {
        for aborted in [false, true] {
            let mut sim = subscribed(prefetch(1), dialect, Mode::Whole);
            // The first fills the room; the others are read together with it.
            for payload in ["1", "2", "3"] {
                sim.push(&[payload]);
            }
            sim.settle();
            if aborted {
                sim.machine.abort(sim.now);
            } else {
                let closing = sim.close(5_000);
                sim.settle();
                sim.closed(closing);
            }
            sim.advance_secs(1);
            assert_eq!(sim.payloads(9), ["1", "2", "3"]);
            assert!(matches!(sim.machine.poll_end(), Some(None)));
            sim.finish();
        }
    }
}

#[test]
fn stopping_at_any_stage_tells_everybody() {
    for stage in 0..4 {
        let mut sim = Sim::consumer(config().dialect(P1), Mode::Whole, prefetch(10));
        match stage {
            0 => sim.dialed = Box::new(|_, _| Host::Unreachable),
            1 => sim.dialed = Box::new(|_, _| Host::Raw(Vec::new(), None)),
            2 => sim.serve = Box::new(|_, _| Act::Silence),
            _ => {}
        }
        let waiting = sim.token();
        sim.machine.wait_delivery(sim.now, waiting);
        sim.settle();
        let token = drain(&mut sim);
        assert!(matches!(sim.reply(token), Reply::Drained));
        assert!(matches!(sim.reply(waiting), Reply::Ready));
        match sim.reply(sim.opened) {
            Reply::Opened(result) => assert_eq!(result.is_ok(), stage == 3),
            other => panic!("{other:?}"),
        }
        assert!(matches!(sim.machine.poll_end(), Some(None)));
        assert_eq!(sim.poll_timeout(), None);
        sim.finish();
    }
}

#[test]
fn abandoned_waits_come_back() {
    let mut sim = subscribed(prefetch(10), Dialect::Handshake, Mode::Whole);
    sim.socket().closes_after_client = false;
    let waiting = sim.token();
    let id = sim.machine.wait_delivery(sim.now, waiting);
    // A second wait takes the place of the first.
    let second = sim.token();
    let second_id = sim.machine.wait_delivery(sim.now, second);
    sim.settle();
    assert!(matches!(sim.reply(waiting), Reply::Ready));
    assert_eq!(sim.machine.abandon(id), None);
    sim.abandon(second, second_id);
    sim.finish();
}

#[test]
fn deliveries_without_a_consumer_are_a_protocol_error() {
    let mut sim = crate::calls::connected(config(), Mode::Whole, P1);
    let pending = sim.enqueue("orders", "m");
    sim.serve = Box::new(|_, _| Act::Silence);
    sim.settle();
    let push = deliveries(&["stray"]);
    sim.socket().server().push(&push).unwrap();
    sim.settle();
    assert_eq!(sim.enqueued(pending).unwrap_err().kind(), ErrorKind::Protocol);
    sim.finish();
}

#[test]
fn a_refusal_of_a_later_consume_is_terminal() {
    let mut sim = subscribed(prefetch(10), P1, Mode::Whole);
    sim.push(&["1"]);
    sim.settle();
    sim.serve = Box::new(|_, _| {
        Act::Answer(Response::Error(ServerError::new(
            ErrorKind::QueueNotFound,
            "invalid payload: queue raft group not found",
        )))
    });
    sim.socket().end(End::Eof);
    sim.advance_secs(5);
    assert_eq!(sim.payloads(9), ["1"], "earlier deliveries first");
    let error = sim.machine.poll_end().unwrap().unwrap();
    assert_eq!(error.kind(), ErrorKind::QueueNotFound);
    sim.finish();
}

/// On a single node nobody says that a queue was deleted: the consumer asks, after every loss and every renewal.
#[test]
fn a_consumer_that_verifies_its_queue_ends_when_it_is_deleted() {
    fn renewal(sim: &mut ConsumerSim) {
        sim.advance_secs(61);
    }
    fn loss(sim: &mut ConsumerSim) {
        sim.socket().end(End::Reset);
    }
    for dialect in [P1, P3, Dialect::Auto, Dialect::Handshake] {
        for lose in [renewal as fn(&mut ConsumerSim), loss] {
            let settings = prefetch(10).verify_queue(true);
            let mut sim = Sim::consumer(config().dialect(dialect), Mode::Whole, settings);
            sim.dialed = Box::new(move |_, _| match dialect {
                Dialect::Auto => Host::p1(),
                dialect => Host::of(dialect),
            });
            sim.settle();
            assert!(sim.opened().is_ok());
            lose(&mut sim);
            sim.advance_secs(5);
            let asked = |sim: &ConsumerSim, op: &str| sim.asked_ops().iter().filter(|asked| **asked == op).count();
            let subscriptions = asked(&sim, "Consume");
            assert!(subscriptions > 1, "subscribed again: {:?}", sim.asked_ops());
            assert_eq!(asked(&sim, "QueueStats"), subscriptions, "each time after a look");
            sim.push(&["1"]);
            sim.settle();

            sim.serve = Box::new(|request, _| match request {
                Request::QueueStats { queue } => Act::Answer(Response::Error(ServerError::queue_not_found(queue))),
                request => obliging(request),
            });
            lose(&mut sim);
            sim.advance_secs(5);
            assert_eq!(
                asked(&sim, "Consume"),
                subscriptions,
                "a deleted queue is not subscribed to"
            );
            assert_eq!(sim.payloads(9), ["1"], "earlier deliveries first");
            let error = sim.machine.poll_end().unwrap().unwrap();
            assert_eq!(error.kind(), ErrorKind::QueueNotFound);
            assert_eq!(error.queue(), Some("orders"));
            sim.finish();
        }
    }
}

#[test]
fn a_loss_that_room_brings_to_light_leaves_its_driver_in_peace() {
    for mode in MODES {
        let mut sim = subscribed(prefetch(1), P1, mode);
        sim.dialed = Box::new(|_, _| Host::Unreachable);
        let id = sim.last_asked().id.id;
        let push = |payload| deliveries(&[payload]).encode(P1, id, Limits::default());
        let frames = [push("1"), push("2")].map(|frame| frame.expect("encodes").to_vec());
        let goodbye = b"\0\0\0\x09\0\xff\0\0\0\0bye";
        // Behind the last delivery that there is room for.
        sim.socket().say(&[frames.concat(), goodbye.to_vec()].concat());
        sim.settle();
        assert_eq!(sim.payloads(1), ["1"]);
        assert!(sim.wait_delivery());
        assert_eq!(sim.payloads(1), ["2"]);
        sim.wait_delivery();
        // To the end of the pause: the next dial is under way, and nothing comes of it yet.
        sim.advance_secs(1);
        assert_eq!(sim.dials.len(), 2, "in {mode:?}");
        assert!(!sim.machine.needs_driver(ChannelId::MAIN), "in {mode:?}");
        sim.finish();
    }
}

#[test]
fn a_failed_write_of_a_consumer_is_a_loss() {
    let mut sim = Sim::consumer(config().dialect(P1), Mode::Whole, prefetch(1));
    sim.settle_until_socket();
    let mut transmit = Transmit::new();
    assert!(sim.machine.take_transmit(sim.now, ChannelId::MAIN, 1024, &mut transmit));
    let fault = Fault::new(FaultKind::Reset, "broken pipe");
    sim.machine.transmit_failed(sim.now, ChannelId::MAIN, transmit, fault);
    sim.advance_secs(1);
    assert!(sim.opened().is_ok());
    assert_eq!(sim.dials.len(), 2);
    sim.finish();
}

#[test]
fn every_frame_counts_for_the_length_of_a_turn() {
    let mut sim = subscribed(prefetch(10), P1, Mode::Whole);
    let before = sim.machine.frames_read(ChannelId::MAIN);
    sim.push(&["1", "2"]);
    sim.push(&["3"]);
    sim.settle();
    assert_eq!(sim.machine.frames_read(ChannelId::MAIN) - before, 2);
    sim.finish();
}
