//! Opcode numbers of a framed server that turn out to be those of F1 (docs/protocol/framed.md 3), where the dialect is a
//! guess.

use fibp_proto::requests::Settle;
use fibp_proto::{Dialect, ErrorKind, MessageId, Request};

use crate::consumers::prefetch;
use crate::harness::{Mode, Sim, config, in_every_mode};
use crate::host::{Act, Host, obliging};

/// The dial of a client that guesses: the preamble meets EOF, then the Handshake is accepted.
fn f1() -> Host {
    Host::of(Dialect::HandshakeEarly)
}

#[test]
fn a_consumer_learns_f1_from_its_consume_ok() {
    in_every_mode(|mode| {
        let mut sim = Sim::consumer(config().no_heartbeat(), mode, prefetch(10));
        sim.dialed = Box::new(|_, _| f1());
        sim.advance_secs(1);
        assert!(sim.opened().is_ok());
        assert_eq!(sim.asked_ops(), ["Consume"], "not sent again: it had its effect");
        sim.push(&["1", "2"]);
        sim.settle();
        assert_eq!(sim.payloads(10), ["1", "2"]);
        sim
    });
}

#[test]
fn acks_and_nacks_that_taught_f1_are_sent_again_and_confirmed_once() {
    in_every_mode(|mode| {
        let mut sim = Sim::requests(config().no_heartbeat(), mode);
        sim.dialed = Box::new(|_, _| f1());
        sim.advance_secs(1);
        let id = MessageId::from("m");
        let ack = sim.settle_one(Settle::ack("orders", &id));
        let nack = sim.settle_one(Settle::nack("orders", &id, "why"));
        sim.settle();
        assert!(sim.settled(ack).is_ok());
        assert!(sim.settled(nack).is_ok());
        let mut ops = sim.asked_ops();
        ops.sort();
        assert_eq!(ops, ["Ack", "Nack"], "the server executed each once");
        let sent = sim.socket().sent;
        let ack = sim.settle_one(Settle::ack("orders", &id));
        sim.settle();
        assert!(sim.settled(ack).is_ok());
        assert_eq!(sim.socket().sent - sent, 25, "one frame: the numbers are known");
        sim
    });
}

#[test]
fn the_numbers_are_learned_again_for_each_connection() {
    in_every_mode(|mode| {
        let mut sim = Sim::requests(config().no_heartbeat(), mode);
        // Another server stands at the address later.
        sim.dialed = Box::new(|_, number| if number < 4 { f1() } else { Host::of(Dialect::Handshake) });
        sim.advance_secs(1);
        let id = MessageId::from("m");
        for _ in 0..4 {
            let ack = sim.settle_one(Settle::ack("orders", &id));
            sim.settle();
            assert!(sim.settled(ack).is_ok());
            sim.socket().end(crate::host::End::Eof);
            sim.advance_secs(2);
        }
        assert!(sim.dials.len() >= 4, "{:?}", sim.dials);
        assert_eq!(sim.socket().server().dialect(), Some(Dialect::Handshake));
        sim
    });
}

#[test]
fn a_configured_dialect_is_not_changed() {
    let mut sim = Sim::requests(config().dialect(Dialect::Handshake).no_heartbeat(), Mode::Whole);
    sim.dialed = Box::new(|_, _| f1());
    sim.settle();
    let ack = sim.settle_one(Settle::ack("orders", &MessageId::from("m")));
    sim.settle();
    assert_eq!(sim.settled(ack).unwrap_err().kind(), ErrorKind::Unsupported);
    sim.finish();
}

#[test]
fn a_server_that_refuses_the_learned_number_too_is_not_asked_for_ever() {
    let mut sim = Sim::requests(config().no_heartbeat(), Mode::Whole);
    sim.dialed = Box::new(|_, _| f1());
    let mut refused = 0;
    sim.serve = Box::new(move |request, _| match request {
        Request::Ack(_) => {
            refused += 1;
            assert!(refused < 3, "asked again and again");
            Act::error(ErrorKind::Unsupported, "unknown or unsupported opcode: 0x16")
        }
        _ => obliging(request),
    });
    sim.advance_secs(1);
    let ack = sim.settle_one(Settle::ack("orders", &MessageId::from("m")));
    sim.settle();
    assert_eq!(sim.settled(ack).unwrap_err().kind(), ErrorKind::Unsupported);
    sim.finish();
}

#[test]
fn a_nack_result_of_f2_teaches_nothing() {
    // 0x19 is F1's ConsumeOk, and F2's answer to a nack.
    let mut sim = Sim::requests(config().no_heartbeat(), Mode::Whole);
    sim.dialed = Box::new(|_, _| Host::of(Dialect::Handshake));
    sim.advance_secs(1);
    let id = MessageId::from("m");
    let nack = sim.settle_one(Settle::nack("orders", &id, "why"));
    let ack = sim.settle_one(Settle::ack("orders", &id));
    sim.settle();
    assert!(sim.settled(nack).is_ok() && sim.settled(ack).is_ok());
    assert_eq!(sim.socket().server().dialect(), Some(Dialect::Handshake));
    sim.finish();
}
