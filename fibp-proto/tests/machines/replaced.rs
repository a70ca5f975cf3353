//! Another server at the same address, and proxies whose server is away.

use std::time::Duration;

use fibp_proto::config::ConsumerSettings;
use fibp_proto::event::State;
use fibp_proto::fault::FaultKind;
use fibp_proto::typed::{DeleteQueue, ListConfig, ListQueues, Redrive, SetConfig};
use fibp_proto::{AdminRevision, Config, Dialect, ErrorKind, Event, Request};

use crate::harness::{Mode, P1, Sim, config, in_every_mode};
use crate::host::{End, Host};

const REVISIONS: [AdminRevision; 3] = [
    AdminRevision::Protobuf,
    AdminRevision::ProtobufRenumbered,
    AdminRevision::Binary,
];

/// A remote server, whose key would be read on its way.
fn remote() -> Config {
    Config::new("10.0.0.1:5555").api_key("secret")
}

/// A proxy that accepts, and closes because its server is away.
fn proxy(end: End) -> Host {
    Host::Raw(Vec::new(), Some(end))
}

/// A framed server's answer to a handshake without a key.
fn refusal() -> Vec<u8> {
    let text = b"API key required";
    let mut frame = vec![0, 0, 0, 6 + 1 + 2 + 16 + 2, 0xFE, 0, 0, 0, 0, 0, 0x0A, 0, 16];
    frame.extend_from_slice(text);
    frame.extend_from_slice(&[0, 0]);
    frame
}

/// One of each operation whose opcode means something else to another revision.
fn administrate(sim: &mut Sim) {
    sim.asked.clear();
    let set = sim.call(SetConfig {
        key: "k".to_owned(),
        value: "v".to_owned(),
    });
    let redrive = sim.call(Redrive {
        dlq: "orders.dlq".into(),
        count: 5,
    });
    let list = sim.call(ListConfig { prefix: "k".to_owned() });
    sim.settle();
    assert!(sim.output::<SetConfig>(set).is_ok());
    assert_eq!(sim.output::<Redrive>(redrive).unwrap(), 5);
    assert!(sim.output::<ListConfig>(list).unwrap().is_empty());
    let asked: Vec<_> = sim.asked.iter().map(|asked| &asked.request).collect();
    // To P2 the probe looks like a redrive of nothing.
    let asked: Vec<_> = asked
        .into_iter()
        .filter(|request| !matches!(request, Request::Redrive { dlq, .. } if dlq.is_empty()))
        .collect();
    assert!(
        matches!(
            asked[..],
            [
                Request::SetConfig { key, value },
                Request::Redrive { count: 5, .. },
                Request::ListConfig { prefix },
            ] if key == "k" && value == "v" && prefix == "k"
        ),
        "{asked:?}"
    );
}

#[test]
fn another_revision_at_the_same_address_is_asked_in_its_own_words() {
    for old in REVISIONS {
        for new in REVISIONS {
            in_every_mode(|mode| {
                let mut sim = Sim::requests(config(), mode);
                sim.dialed = Box::new(move |_, n| Host::of(Dialect::Preamble(if n == 1 { old } else { new })));
                sim.settle();
                administrate(&mut sim);
                sim.socket().end(End::Reset);
                sim.advance_secs(1);
                assert_eq!(sim.dials.len(), 2);
                administrate(&mut sim);
                sim
            });
        }
    }
}

#[test]
fn what_one_connection_learned_does_not_spare_another_the_probe() {
    let mut first = Sim::requests(config(), Mode::Whole);
    first.dialed = Box::new(|_, _| Host::of(Dialect::Preamble(AdminRevision::ProtobufRenumbered)));
    first.settle();
    administrate(&mut first);
    let mut second = first.requests_beside();
    second.dialed = Box::new(|_, _| Host::p1());
    second.settle();
    administrate(&mut second);
    second.finish();
    first.finish();
}

#[test]
fn admin_calls_that_waited_for_a_lost_probe_ask_the_next_server() {
    let mut sim = Sim::requests(config(), Mode::Whole);
    sim.dialed = Box::new(|_, n| Host::of(Dialect::Preamble(REVISIONS[n % 3])));
    sim.settle();
    // The connection is lost before the probe is answered.
    sim.socket().cut_at = Some(sim.socket().received);
    let list = sim.call(ListQueues {});
    let delete = sim.call(DeleteQueue { queue: "orders".into() });
    sim.advance_secs(1);
    assert_eq!(sim.dials.len(), 2);
    assert!(sim.output::<ListQueues>(list).is_ok());
    assert!(sim.output::<DeleteQueue>(delete).is_ok());
    sim.finish();
}

#[test]
fn a_restart_behind_a_proxy_ends_nobody() {
    for end in [End::Eof, End::Reset] {
        for dialect in [P1, Dialect::Handshake] {
            // With the framed dialect configured for loopback: there the key may go.
            let config = if dialect == P1 {
                remote()
            } else {
                config().api_key("secret")
            };
            let away = move |n: usize| (4..12).contains(&n);
            let dialed = move |_: &_, n: usize| if away(n) { proxy(end) } else { Host::of(dialect) };
            let mut calls = Sim::requests(config.clone(), Mode::Whole);
            calls.dialed = Box::new(dialed);
            calls.settle();
            assert!(calls.opened().is_ok());
            // The first attempt in the wrong dialect counts as a dial, too.
            while calls.dials.len() < 3 {
                calls.socket().end(End::Reset);
                calls.advance_secs(1);
            }
            let mut consumer = Sim::new(config, Mode::Whole, |shared, now, token| {
                fibp_proto::consumer::Consumer::new(
                    shared,
                    "orders".into(),
                    ConsumerSettings::default(),
                    now,
                    7,
                    Some(token),
                )
            });
            consumer.dialed = Box::new(dialed);
            consumer.settle();
            assert!(consumer.opened().is_ok());
            while consumer.dials.len() < 3 {
                consumer.socket().end(End::Reset);
                consumer.advance_secs(1);
            }

            calls.socket().end(end);
            consumer.socket().end(end);
            calls.settle();
            let (waiting, _) = calls.enqueue_within("orders", "m", Some(120_000));
            calls.advance_secs(60);
            consumer.advance_secs(60);
            assert!(
                calls.dials.len() >= 12 && consumer.dials.len() >= 12,
                "{} dials",
                calls.dials.len()
            );
            assert!(calls.enqueued(waiting).is_ok(), "{end:?} {dialect:?}");
            assert_eq!(calls.shared.state(), State::Connected);
            assert!(consumer.machine.poll_end().is_none());
            consumer.push(&["1"]);
            consumer.settle();
            assert_eq!(consumer.payloads(9), ["1"]);
            calls.finish();
            consumer.finish();
        }
    }
}

#[test]
fn the_dialect_that_worked_is_tried_first_after_any_number_of_guesses() {
    let mut sim = Sim::requests(config(), Mode::Whole);
    sim.dialed = Box::new(|_, n| match n {
        1..=2 => Host::framed(),
        3..=20 if n % 2 == 1 => proxy(End::Reset),
        3..=20 => Host::Refused(FaultKind::Refused),
        _ => Host::framed(),
    });
    sim.settle();
    assert!(sim.opened().is_ok());
    sim.socket().end(End::Reset);
    sim.advance_secs(60);
    assert_eq!(sim.shared.state(), State::Connected);
    assert_eq!(
        sim.dials.len(),
        21,
        "at once in the dialect that worked, though others were guessed since"
    );
    sim.finish();
}

#[test]
fn a_first_connection_waits_for_the_server_behind_a_proxy() {
    for end in [End::Eof, End::Reset] {
        let mut sim = Sim::requests(remote(), Mode::Whole);
        sim.dialed = Box::new(move |_, n| if n < 7 { proxy(end) } else { Host::p1() });
        sim.advance_secs(5);
        assert!(sim.opened().is_ok());
        sim.finish();

        let mut sim = Sim::requests(remote(), Mode::Whole);
        sim.dialed = Box::new(move |_, _| proxy(end));
        let waiting = sim.enqueue("orders", "m");
        sim.advance_secs(6);
        assert!(!sim.opened().unwrap_err().to_string().contains("plaintext"));
        assert!(sim.enqueued(waiting).is_err());
        assert!(sim.dials.len() > 6, "{}", sim.dials.len());
        sim.finish();
    }
}

#[test]
fn a_guess_never_carries_the_key_over_a_network() {
    // Neither an eavesdropper nor whoever answers in the dialect that was guessed sees it.
    let mut sim = Sim::requests(remote(), Mode::Whole);
    sim.dialed = Box::new(|_, n| match n {
        1 => proxy(End::Eof),
        _ => Host::Raw(Vec::new(), None),
    });
    sim.settle();
    assert_eq!(sim.dials.len(), 2);
    let handshake = sim.socket().raw_received.clone();
    assert!(handshake.starts_with(b"\0\0\0\x09\x01\0"), "{handshake:?}");
    assert!(!handshake.windows(6).any(|part| part == b"secret"));
    sim.finish();
}

#[test]
fn a_framed_server_that_proves_to_be_one_is_a_clear_error_for_a_key_in_plaintext() {
    for refuses in [false, true] {
        // From the beginning, and after it took the place of a preamble server.
        for first_framed in [1, 2] {
            let mut sim = Sim::requests(remote(), Mode::Whole);
            sim.dialed = Box::new(move |_, n| match n {
                n if n < first_framed => Host::p1(),
                n if n > first_framed && refuses => Host::Raw(refusal(), Some(End::Eof)),
                _ => Host::framed(),
            });
            sim.settle();
            if first_framed == 2 {
                assert!(sim.opened().is_ok());
                sim.socket().end(End::Reset);
                sim.advance_secs(1);
            }
            let dials = sim.dials.len();
            assert_eq!(dials, first_framed + 1);
            let late = sim.enqueue("orders", "m");
            sim.settle();
            let error = sim.enqueued(late).unwrap_err();
            if first_framed == 2 {
                assert_eq!(error.kind(), ErrorKind::Config, "{error}");
                assert!(sim.dials.len() > dials, "a client that has failed tries once more");
            } else {
                assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                assert_eq!(sim.dials.len(), dials);
            }
            assert!(error.to_string().contains("plaintext"), "{error}");
            let connected = |event: &&Event| matches!(event, Event::Connected { .. });
            assert_eq!(sim.events.iter().filter(connected).count(), first_framed - 1);
            sim.finish();
        }
    }
}

#[test]
fn a_name_that_is_gone_between_two_guesses_may_come_back() {
    let mut sim = Sim::requests(config(), Mode::Whole);
    sim.dialed = Box::new(|_, n| match n {
        1 => proxy(End::Eof),
        2 => Host::Refused(FaultKind::Resolve),
        _ => Host::p1(),
    });
    sim.advance(Duration::from_secs(3));
    assert!(sim.opened().is_ok());
    sim.finish();
}
