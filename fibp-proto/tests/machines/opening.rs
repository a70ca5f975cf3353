//! From a dial to a connection that is ready.

use std::time::Duration;

use fibp_proto::config::{Backoff, Reconnect};
use fibp_proto::event::State;
use fibp_proto::fault::FaultKind;
use fibp_proto::response::ServerError;
use fibp_proto::server::ServerConfig;
use fibp_proto::typed::{GetQueueStats, ListQueues, Redrive};
use fibp_proto::{AdminRevision, Config, Dialect, Error, ErrorKind, Event, Op, Outcome};

use crate::harness::{MODES, Mode, Sim, config, framed, in_every_mode};
use crate::host::{Act, End, Host, obliging};

const SETTINGS: &[u8] = b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80\0\x04\0\x01\0\0\0\x05\0\xff\xff\0\0\0\0\0";
const TLS_ALERT: &[u8] = b"\x15\x03\x03\0\x02\x02\x32";

fn goaway(text: &str) -> Vec<u8> {
    let mut frame = u32::try_from(6 + text.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(&[0, 0xFF, 0, 0, 0, 0]);
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// What opening ends with at a server that says only this.
fn refused(config: &Config, mode: Mode, bytes: &[u8], end: Option<End>) -> (Error, Sim) {
    let mut sim = Sim::requests(config.clone(), mode);
    let bytes = bytes.to_vec();
    sim.dialed = Box::new(move |_, _| Host::Raw(bytes.clone(), end));
    sim.advance_secs(6);
    (sim.opened().unwrap_err(), sim)
}

#[test]
fn first_bytes_that_another_attempt_will_not_mend() {
    let preamble = config().dialect(Dialect::Preamble(AdminRevision::Protobuf));
    for (config, bytes, kind, text) in [
        (&preamble, SETTINGS, ErrorKind::WrongDialect, "gRPC"),
        (&preamble, TLS_ALERT, ErrorKind::Tls, "fila+tls://"),
        (&preamble, b"FIBP\x02\0", ErrorKind::WrongDialect, "FIBP 2.x"),
        (
            &preamble,
            b"HTTP/1.1 400 Bad Request\r\n",
            ErrorKind::NotFila,
            "48 54 54 50",
        ),
        (&preamble, b"SSH-2.0-OpenSSH_9.6\r\n", ErrorKind::NotFila, "SSH-"),
        (&preamble, b"\x16\x03\x01\x02\0\x01", ErrorKind::NotFila, "TLS client"),
        (
            &preamble,
            &goaway("unsupported protocol version 2.x (server supports 1.x)"),
            ErrorKind::WrongDialect,
            "unsupported protocol version 2.x",
        ),
        (&framed(), SETTINGS, ErrorKind::WrongDialect, "gRPC"),
        (&framed(), TLS_ALERT, ErrorKind::Tls, "fila+tls://"),
        (
            &framed(),
            &goaway("invalid magic"),
            ErrorKind::WrongDialect,
            "invalid magic",
        ),
        (&config(), SETTINGS, ErrorKind::WrongDialect, "gRPC"),
        (&config(), TLS_ALERT, ErrorKind::Tls, "fila+tls://"),
    ] {
        for mode in MODES {
            for end in [Some(End::Eof), None] {
                let (error, sim) = refused(config, mode, bytes, end);
                assert_eq!(error.kind(), kind, "{error}");
                assert!(error.to_string().contains(text), "{error}");
                assert_eq!(error.outcome(), Outcome::NotSent);
                assert_eq!(sim.dials.len(), 1, "not tried again: {error}");
                assert_eq!(sim.shared.state(), State::Closed);
                sim.finish();
            }
        }
    }
}

#[test]
fn a_reset_in_place_of_a_goaway_is_named() {
    let preamble = config().dialect(Dialect::Preamble(AdminRevision::Protobuf));
    for end in [End::Reset, End::Eof] {
        let (error, sim) = refused(&preamble, Mode::Whole, b"", Some(end));
        assert!(
            error.to_string().contains("without answering the FIBP preamble"),
            "{error}"
        );
        assert!(sim.dials.len() > 1, "the server may not be ready yet");
        sim.finish();
    }
}

#[test]
fn silence_ends_with_the_connect_timeout() {
    for host in [Host::Raw(Vec::new(), None), Host::Unreachable] {
        let mut host = Some(host);
        let mut sim = Sim::requests(config().connect_timeout(Duration::from_secs(3)), Mode::Whole);
        sim.dialed = Box::new(move |_, _| host.take().unwrap_or(Host::Unreachable));
        let waiting = sim.enqueue("orders", "m");
        sim.advance_ms(2_999);
        assert!(sim.is_open(sim.opened) && sim.is_open(waiting));
        sim.advance_ms(1);
        let error = sim.opened().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert_eq!(sim.enqueued(waiting).unwrap_err().outcome(), Outcome::NotSent);
        sim.finish();
    }
}

#[test]
fn the_connect_timeout_spans_dial_greeting_and_authentication() {
    let mut sim = Sim::requests(
        config().api_key("key").connect_timeout(Duration::from_secs(3)),
        Mode::Whole,
    );
    sim.serve = Box::new(|request, _| match request.op() {
        Op::Authenticate => Act::Silence,
        _ => obliging(request),
    });
    sim.advance_ms(2_999);
    assert_eq!(sim.asked_ops(), ["Authenticate"]);
    assert!(sim.is_open(sim.opened));
    sim.advance_ms(1);
    assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::Timeout);
    sim.finish();
}

#[test]
fn refused_dials_are_retried_until_the_connect_timeout_which_says_why() {
    let mut sim = Sim::requests(config(), Mode::Whole);
    sim.dialed = Box::new(|_, _| Host::Refused(FaultKind::Refused));
    sim.advance_secs(6);
    let error = sim.opened().unwrap_err();
    assert!(error.to_string().contains("scripted"), "{error}");
    assert!(sim.dials.len() > 3, "{}", sim.dials.len());
    assert!(sim.dials.last().unwrap().0 < Duration::from_secs(5));
    sim.finish();
}

#[test]
fn a_server_that_comes_up_late_is_found() {
    let mut sim = Sim::requests(config(), Mode::Whole);
    sim.dialed = Box::new(|_, n| {
        if n < 4 {
            Host::Refused(FaultKind::Refused)
        } else {
            Host::p1()
        }
    });
    sim.advance_secs(5);
    assert!(sim.opened().is_ok());
    assert_eq!(sim.shared.state(), State::Connected);
    sim.finish();
}

#[test]
fn authentication_is_awaited_before_anything_else() {
    in_every_mode(|mode| {
        let mut sim = Sim::requests(config().api_key("test-key"), mode);
        sim.serve = Box::new(|request, _| match request.op() {
            Op::Authenticate => Act::Silence,
            _ => obliging(request),
        });
        let waiting = sim.enqueue("orders", "m");
        sim.settle();
        assert_eq!(sim.asked_ops(), ["Authenticate"]);
        assert!(sim.is_open(sim.opened), "opened only when the key was accepted");
        let asked = sim.last_asked();
        assert_eq!(asked.request, fibp_proto::Request::Authenticate("test-key".into()));
        sim.answer(&asked, &fibp_proto::Response::Authenticated);
        sim.settle();
        assert!(sim.opened().is_ok());
        assert_eq!(sim.enqueued(waiting).unwrap().as_str(), "of-m");
        sim
    });
}

#[test]
fn a_refused_key_is_not_tried_again() {
    in_every_mode(|mode| {
        let mut sim = Sim::requests(config().api_key("wrong"), mode);
        sim.serve = Box::new(|_, _| {
            Act::AnswerAndClose(fibp_proto::Response::Error(ServerError::new(
                ErrorKind::Auth,
                "invalid or missing api key",
            )))
        });
        let waiting = sim.enqueue("orders", "m");
        sim.advance_secs(20);
        let error = sim.opened().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Auth);
        assert_eq!(error.server_text(), Some("invalid or missing api key"));
        assert!(!error.is_retryable());
        let failed = sim.enqueued(waiting).unwrap_err();
        assert_eq!((failed.kind(), failed.outcome()), (ErrorKind::Auth, Outcome::NotSent));
        assert_eq!(&*failed.message.payload, b"m");
        assert_eq!(sim.dials.len(), 1);
        sim
    });
}

#[test]
fn a_framed_server_refuses_in_its_handshake() {
    in_every_mode(|mode| {
        let mut sim = Sim::requests(framed().api_key("wrong"), mode);
        sim.dialed = Box::new(|_, _| Host::framed());
        sim.settle_until_socket();
        sim.socket().refuse_handshake = Some(ServerError::new(ErrorKind::Auth, "invalid API key").with_code(0x0A));
        sim.advance_secs(20);
        let error = sim.opened().unwrap_err();
        assert_eq!((error.kind(), error.server_code()), (ErrorKind::Auth, Some(0x0A)));
        assert_eq!(sim.dials.len(), 1);
        sim
    });
}

#[test]
fn a_framed_handshake_carries_the_key() {
    in_every_mode(|mode| {
        let mut sim = Sim::requests(framed().api_key("test-key"), mode);
        sim.dialed = Box::new(|_, _| Host::framed());
        let sent = sim.enqueue("orders", "m");
        sim.settle();
        assert!(sim.opened().is_ok());
        assert!(sim.enqueued(sent).is_ok());
        assert_eq!(sim.socket().handshake_key.as_deref(), Some("test-key"));
        sim
    });
}

#[test]
fn auto_falls_back_to_framed_and_remembers_it() {
    in_every_mode(|mode| {
        let mut sim = Sim::requests(config(), mode);
        sim.dialed = Box::new(|_, _| Host::framed());
        sim.settle();
        assert!(sim.opened().is_ok());
        assert_eq!(sim.dials.len(), 2, "the preamble, then the handshake");
        assert_eq!(sim.at(), Duration::ZERO, "without a pause");
        assert!(matches!(
            sim.events[..],
            [Event::Connected {
                dialect: Dialect::Handshake,
                ..
            }]
        ));

        sim.socket().end(End::Reset);
        sim.advance_secs(1);
        assert_eq!(sim.dials.len(), 3, "at once in the dialect that was learned");
        assert_eq!(sim.shared.state(), State::Connected);
        sim
    });
}

#[test]
fn auto_goes_back_to_the_preamble_when_the_server_changed() {
    for end in [None, Some(End::Eof), Some(End::Reset)] {
        let mut sim = Sim::requests(config(), Mode::Whole);
        sim.dialed = Box::new(move |_, n| match n {
            1 | 2 => Host::framed(),
            3 => Host::Raw(goaway("invalid magic"), end),
            _ => Host::p1(),
        });
        sim.settle();
        assert!(sim.opened().is_ok());
        sim.socket().end(End::Reset);
        sim.advance_secs(1);
        assert_eq!(sim.dials.len(), 4);
        assert!(matches!(
            sim.events.last(),
            Some(Event::Connected {
                dialect: Dialect::Preamble(_),
                ..
            })
        ));
        sim.finish();
    }
}

#[test]
fn the_fallback_is_tried_once_per_attempt() {
    let mut sim = Sim::requests(config(), Mode::Whole);
    sim.dialed = Box::new(|_, _| Host::Raw(Vec::new(), Some(End::Reset)));
    sim.advance_ms(0);
    assert_eq!(sim.dials.len(), 2, "one of each, then a pause");
    sim.advance_secs(6);
    assert!(sim.opened().is_err());
    sim.finish();
}

#[test]
fn an_explicit_dialect_is_not_second_guessed() {
    let mut sim = Sim::requests(
        config().dialect(Dialect::Preamble(AdminRevision::ProtobufRenumbered)),
        Mode::Whole,
    );
    sim.dialed = Box::new(|_, _| Host::framed());
    sim.advance_secs(6);
    assert!(sim.opened().is_err());
    assert!(sim.events.iter().all(|event| !matches!(event, Event::Connected { .. })));
    sim.finish();
}

#[test]
fn a_key_is_not_given_to_a_guessed_framed_server_in_the_clear() {
    let remote = |dialect| Config::new("10.0.0.1:5555").api_key("secret").dialect(dialect);
    let mut sim = Sim::requests(remote(Dialect::Auto), Mode::Whole);
    sim.dialed = Box::new(|_, _| Host::framed());
    sim.advance_secs(6);
    let error = sim.opened().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("plaintext"), "{error}");
    assert_eq!(sim.dials.len(), 2);
    sim.finish();

    let mut sim = Sim::requests(remote(Dialect::Handshake), Mode::Whole);
    sim.dialed = Box::new(|_, _| Host::framed());
    sim.settle();
    assert!(sim.opened().is_ok(), "asked for");
    assert!(matches!(sim.events[0], Event::KeyOverPlaintext { .. }), "and warned of");
    sim.finish();

    let mut sim = Sim::requests(config().api_key("secret"), Mode::Whole);
    sim.dialed = Box::new(|_, _| Host::framed());
    sim.settle();
    assert!(sim.opened().is_ok(), "loopback is no network");
    assert!(!matches!(sim.events[0], Event::KeyOverPlaintext { .. }));
    sim.finish();
}

#[test]
fn a_key_that_cannot_be_had_fails_the_opening() {
    let mut sim = Sim::requests(config().credentials(|| "".into()), Mode::Whole);
    sim.advance_secs(6);
    assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(sim.dials.len(), 1);
    sim.finish();
}

#[test]
fn the_admin_revision_is_probed_before_the_first_admin_call_and_only_then() {
    for revision in [
        AdminRevision::Protobuf,
        AdminRevision::ProtobufRenumbered,
        AdminRevision::Binary,
    ] {
        in_every_mode(|mode| {
            let mut sim = Sim::requests(config(), mode);
            sim.dialed = Box::new(move |_, _| Host::of(Dialect::Preamble(revision)));
            let message = sim.enqueue("orders", "m");
            sim.settle();
            assert!(sim.enqueued(message).is_ok());
            let before = sim.socket().sent;
            let first = sim.call(GetQueueStats { queue: "orders".into() });
            let second = sim.call(ListQueues {});
            sim.settle();
            assert_eq!(sim.output::<GetQueueStats>(first).unwrap().depth, 3);
            assert!(sim.output::<ListQueues>(second).is_ok());
            assert!(sim.socket().sent > before + 10, "the probe went first");

            sim.asked.clear();
            let redrive = sim.call(Redrive {
                dlq: "orders.dlq".into(),
                count: 5,
            });
            sim.settle();
            assert_eq!(sim.output::<Redrive>(redrive).unwrap(), 5);
            assert_eq!(sim.asked_ops(), ["Redrive"], "not probed again");

            sim.socket().end(End::Eof);
            sim.advance_secs(1);
            sim.asked.clear();
            let before = sim.socket().sent;
            let again = sim.call(ListQueues {});
            sim.settle();
            assert!(sim.output::<ListQueues>(again).is_ok());
            assert_eq!(sim.socket().sent - before, 20, "probed again: it may be another server");
            sim
        });
    }
}

#[test]
fn a_configured_revision_is_not_probed() {
    let mut sim = Sim::requests(
        config().dialect(Dialect::Preamble(AdminRevision::ProtobufRenumbered)),
        Mode::Whole,
    );
    sim.dialed = Box::new(|_, _| Host::of(Dialect::Preamble(AdminRevision::ProtobufRenumbered)));
    let stats = sim.call(GetQueueStats { queue: "orders".into() });
    sim.settle();
    assert!(sim.output::<GetQueueStats>(stats).is_ok());
    assert_eq!(sim.asked_ops(), ["QueueStats"]);
    sim.finish();
}

#[test]
fn a_probe_that_tells_nothing_fails_admin_calls_alone() {
    let mut sim = Sim::requests(config(), Mode::Whole);
    sim.dialed = Box::new(|_, _| Host::of(Dialect::Preamble(AdminRevision::ProtobufRenumbered)));
    let mut probes = 0;
    sim.serve = Box::new(move |request, _| match request {
        fibp_proto::Request::Redrive { .. } => {
            probes += 1;
            if probes == 1 {
                Act::error(ErrorKind::Server, "storage error: store not found: x")
            } else {
                obliging(request)
            }
        }
        fibp_proto::Request::Enqueue(_) => Act::Silence,
        _ => obliging(request),
    });
    let message = sim.enqueue("orders", "m");
    let stats = sim.call(GetQueueStats { queue: "orders".into() });
    sim.settle();
    let error = sim.response(stats).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Server, Outcome::NotSent));
    assert!(sim.is_open(message), "the connection stays");
    let stats = sim.call(GetQueueStats { queue: "orders".into() });
    sim.settle();
    assert!(sim.output::<GetQueueStats>(stats).is_ok(), "asked again");
    sim.finish();
}

#[test]
fn all_servers_of_the_list_are_tried_before_a_pause() {
    let backoff = Backoff {
        initial: Duration::from_secs(1),
        max: Duration::from_secs(1),
        max_attempts: None,
    };
    let mut sim = Sim::requests(
        Config::new("a:1,b:2,c:3").reconnect(Reconnect::Backoff(backoff)),
        Mode::Whole,
    );
    sim.dialed = Box::new(|endpoint, _| {
        if endpoint.host == "c" {
            Host::p1()
        } else {
            Host::Refused(FaultKind::Refused)
        }
    });
    sim.settle();
    assert!(sim.opened().is_ok());
    let hosts: Vec<_> = sim.dials.iter().map(|(_, endpoint)| endpoint.host.as_str()).collect();
    assert_eq!(hosts, ["a", "b", "c"]);
    sim.finish();
}

#[test]
fn a_wrong_server_among_good_ones_is_passed_over() {
    let mut sim = Sim::requests(Config::new("a:1,b:2"), Mode::Whole);
    sim.dialed = Box::new(|endpoint, _| {
        if endpoint.host == "a" {
            Host::Raw(b"HTTP/1.1 400\r\n\r\n".to_vec(), Some(End::Eof))
        } else {
            Host::p1()
        }
    });
    sim.settle();
    assert!(sim.opened().is_ok());
    sim.finish();
}

#[test]
fn a_hostile_handshake_limit_harms_only_what_does_not_fit() {
    for limit in [0, 5, 6, 7, 40, u32::MAX] {
        let mut sim = Sim::requests(framed(), Mode::Whole);
        sim.dialed = Box::new(move |_, _| {
            let mut ok = b"\0\0\0\x14\x02\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x03".to_vec();
            ok.extend_from_slice(&u32::to_be_bytes(limit));
            Host::Raw(ok, None)
        });
        let sent = sim.enqueue("orders", &"x".repeat(300));
        sim.advance_secs(11);
        assert!(sim.enqueued(sent).is_err());
        sim.finish();
    }
}

#[test]
fn limits_of_a_server_are_kept() {
    // The announced limit is below what the client would send.
    let mut config = ServerConfig::new([Dialect::Handshake]);
    config.limits.receive = 256;
    let mut sim = Sim::requests(framed(), Mode::Whole);
    sim.dialed = Box::new(move |_, _| Host::Fila(config.clone()));
    let sent = sim.enqueue("orders", &"x".repeat(1_000));
    sim.settle();
    assert!(sim.enqueued(sent).is_ok(), "in continued frames");
    sim.finish();
}
