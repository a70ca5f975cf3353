//! Durations beyond the clock's range mean "no limit", whichever setting they are given to.

use std::time::Duration;

use fibp_proto::config::{Backoff, Batching, ConsumerSettings, ProducerSettings, Reconnect};
use fibp_proto::fault::FaultKind;
use fibp_proto::requests::Settle;
use fibp_proto::typed::Heartbeat;
use fibp_proto::{Config, Dialect, ErrorKind, Event};

use crate::calls::connected;
use crate::consumers::subscribed;
use crate::harness::{Mode, P1, Sim, config};
use crate::host::{Act, End, Host};

const DAY: u64 = 24 * 3_600;

fn backoff(initial: Duration, max: Duration) -> Reconnect {
    Reconnect::Backoff(Backoff {
        initial,
        max,
        max_attempts: None,
    })
}

/// Every duration of a client's configuration, each set to more than any clock can tell.
fn settings() -> Vec<(&'static str, Config)> {
    let max = Duration::MAX;
    let linger = Batching::Linger {
        delay: max,
        max_messages: 2,
    };
    vec![
        ("connect_timeout", config().connect_timeout(max)),
        ("request_timeout", config().request_timeout(Some(max))),
        ("heartbeat", config().heartbeat(max, 2)),
        ("reconnect initial and max", config().reconnect(backoff(max, max))),
        (
            "reconnect max",
            config().reconnect(backoff(Duration::from_millis(1), max)),
        ),
        ("linger", config().batching(linger)),
        ("keepalive", config().keepalive(Some(max))),
        ("happy_eyeballs_delay", config().happy_eyeballs_delay(max)),
    ]
}

#[test]
fn a_client_works_with_every_duration_unlimited() {
    for (name, config) in settings() {
        for dialect in [P1, Dialect::Handshake] {
            let mut sim = connected(config.clone(), Mode::Whole, dialect);
            sim.advance_secs(DAY);
            // A pair, as linger waits for two.
            let sent = [sim.enqueue("orders", "1"), sim.enqueue("orders", "2")];
            let call = sim.call(Heartbeat {});
            sim.advance_secs(1);
            for token in sent {
                assert!(sim.enqueued(token).is_ok(), "{name}");
            }
            assert!(sim.response(call).is_ok(), "{name}");
            assert_eq!(sim.dials.len(), 1, "{name}");
            let alone = sim.enqueue("orders", "3");
            let closing = sim.close(10_000);
            sim.advance_secs(1);
            assert!(sim.enqueued(alone).is_ok(), "{name}");
            let report = sim.closed(closing);
            assert_eq!((report.flushed, report.failed, report.unknown), (1, 0, 0), "{name}");
            sim.check_inert();
            sim.finish();
        }
    }
}

#[test]
fn a_consumer_works_with_every_duration_unlimited() {
    let max = Duration::MAX;
    for (name, settings) in [
        (
            "visibility_timeout",
            ConsumerSettings::default().visibility_timeout(max),
        ),
        ("idle_resubscribe", ConsumerSettings::default().idle_resubscribe(max)),
    ] {
        let mut sim = subscribed(settings, P1, Mode::Whole);
        sim.advance_secs(if name == "idle_resubscribe" { DAY } else { 1 });
        sim.push(&["1"]);
        sim.settle();
        assert_eq!(sim.dials.len(), 1, "{name}");
        let leases = sim.take(9);
        assert_eq!(leases.len(), 1, "{name}");
        assert_eq!(leases[0].deadline.is_none(), name == "visibility_timeout", "{name}");
        sim.finish();
    }
}

#[test]
fn the_first_connection_is_awaited_without_a_limit() {
    let mut sim = Sim::requests(config().connect_timeout(Duration::MAX), Mode::Whole);
    sim.dialed = Box::new(|_, n| match n {
        1 => Host::Refused(FaultKind::Refused),
        2 => Host::Raw(Vec::new(), Some(End::Eof)),
        n if n < 20 => Host::Refused(FaultKind::Unreachable),
        _ => Host::p1(),
    });
    sim.advance_secs(3_600);
    assert!(sim.opened().is_ok());
    sim.finish();

    // Nobody answers the dial: the operating system ends it some day, no clock of ours.
    let mut sim = Sim::requests(config().connect_timeout(Duration::MAX), Mode::Whole);
    sim.dialed = Box::new(|_, _| Host::Unreachable);
    sim.advance_secs(DAY);
    assert!(sim.is_open(sim.opened));
    assert_eq!(sim.dials.len(), 1);
    sim.finish();
}

#[test]
fn a_request_without_a_limit_waits_for_its_answer() {
    let mut sim = connected(config().no_heartbeat(), Mode::Whole, P1);
    sim.serve = Box::new(|_, _| Act::Silence);
    let token = sim.token();
    let message = fibp_proto::Message::new("orders", "m");
    sim.machine.enqueue(sim.now, message, Some(Duration::MAX), token);
    sim.advance_secs(DAY);
    assert!(sim.is_open(token));
    sim.finish();
}

#[test]
fn an_endless_pause_ends_with_no_attempt_but_calls_keep_their_deadline() {
    // Backoff draws between zero and the bound: this one never ends in practice, and is no busy loop.
    let mut sim = connected(
        config().reconnect(backoff(Duration::MAX, Duration::MAX)),
        Mode::Whole,
        P1,
    );
    sim.dialed = Box::new(|_, _| Host::Refused(FaultKind::Refused));
    sim.socket().end(End::Eof);
    sim.settle();
    let (waiting, _) = sim.enqueue_within("orders", "m", Some(5_000));
    sim.advance_secs(60);
    assert_eq!(sim.dials.len(), 1);
    assert_eq!(sim.enqueued(waiting).unwrap_err().kind(), ErrorKind::Timeout);
    assert!(
        sim.events
            .iter()
            .any(|event| matches!(event, Event::Reconnecting { .. }))
    );
    sim.finish();
}

#[test]
fn close_without_a_limit_flushes_what_lingers() {
    let linger = ProducerSettings::default().batching(Batching::Linger {
        delay: Duration::MAX,
        max_messages: 1_000,
    });
    for dialect in [P1, Dialect::Handshake] {
        let mut sim = connected(config(), Mode::Whole, dialect);
        let producer = sim.producer(linger);
        let receipts: Vec<_> = (0..100).map(|n| sim.send(producer, &n.to_string()).1).collect();
        sim.advance_secs(5);
        assert!(receipts.iter().all(|receipt| sim.is_open(*receipt)));
        let closing = sim.token();
        sim.machine.close(sim.now, Duration::MAX, closing);
        sim.settle();
        for receipt in receipts {
            assert!(sim.enqueued(receipt).is_ok());
        }
        let report = sim.closed(closing);
        assert_eq!((report.flushed, report.failed, report.unknown), (100, 0, 0));
        sim.check_inert();
        sim.finish();
    }
}

#[test]
fn the_shortest_of_several_closes_counts() {
    let mut sim = connected(config().no_heartbeat(), Mode::Whole, P1);
    sim.serve = Box::new(|_, _| Act::Silence);
    let sent = sim.settle_one(Settle::ack("orders", &"id".into()));
    let first = sim.token();
    sim.machine.close(sim.now, Duration::MAX, first);
    sim.advance_secs(1);
    assert!(sim.is_open(first));
    let second = sim.close(2_000);
    sim.advance_ms(1_999);
    assert!(sim.is_open(first) && sim.is_open(second));
    sim.advance_ms(1);
    assert_eq!(sim.closed(first).unknown, 1);
    assert_eq!(sim.closed(second).unknown, 1);
    assert!(sim.settled(sent).is_err());
    sim.finish();
}

#[test]
fn every_subscriber_is_shown_first_what_is_not_in_force_as_asked_for() {
    let config = config().keepalive(Duration::MAX);
    let [warning] = config.warnings()[..] else {
        panic!("{:?}", config.warnings())
    };
    let sim = connected(config, Mode::Whole, P1);
    for _ in 0..2 {
        let mut cursor = sim.shared.subscribe();
        assert!(matches!(sim.shared.next_event(&mut cursor), Some(Event::Warning { text }) if text == warning));
        assert!(sim.shared.next_event(&mut cursor).is_none());
    }
    sim.finish();

    // A key in plaintext has an event of its own, when it is sent.
    let sim = Sim::requests(Config::new("10.0.0.1:5555").api_key("key"), Mode::Whole);
    let mut cursor = sim.shared.subscribe();
    assert!(sim.shared.next_event(&mut cursor).is_none());
    sim.finish();
}
