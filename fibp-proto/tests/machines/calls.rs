//! Requests, their answers, their deadlines, and callers that are gone.

use std::time::Duration;

use fibp_proto::admin::{ApiKeySpec, Permission, QueueSpec};
use fibp_proto::frame::Limits;
use fibp_proto::machine::Reply;
use fibp_proto::machine::{ChannelId, Machine};
use fibp_proto::typed::*;
use fibp_proto::{AdminRevision, Config, Dialect, ErrorKind, Outcome, Request, Response};

use crate::harness::{MODES, Mode, P2, Sim, config, in_every_mode};
use crate::host::{Act, End, Host, obliging};

pub(crate) fn connected(config: Config, mode: Mode, dialect: Dialect) -> Sim {
    let mut sim = Sim::requests(config.dialect(dialect), mode);
    sim.dialed = Box::new(move |_, _| Host::of(dialect));
    sim.settle();
    assert!(sim.opened().is_ok());
    sim
}

/// A server that answers nothing by itself.
pub(crate) fn mute(config: Config, mode: Mode) -> Sim {
    let mut sim = connected(config.no_heartbeat(), mode, P2);
    sim.serve = Box::new(|_, _| Act::Silence);
    sim
}

pub(crate) fn stats() -> GetQueueStats {
    GetQueueStats { queue: "orders".into() }
}

#[test]
fn every_operation_in_every_dialect() {
    for dialect in [
        Dialect::Preamble(AdminRevision::Protobuf),
        P2,
        Dialect::Preamble(AdminRevision::Binary),
        Dialect::Handshake,
        Dialect::HandshakeEarly,
    ] {
        in_every_mode(|mode| {
            let mut sim = connected(config(), mode, dialect);
            let create = sim.call(CreateQueue {
                spec: QueueSpec::new("orders"),
            });
            let delete = sim.call(DeleteQueue { queue: "orders".into() });
            let figures = sim.call(stats());
            let list = sim.call(ListQueues {});
            let redrive = sim.call(Redrive {
                dlq: "orders.dlq".into(),
                count: 7,
            });
            let set = sim.call(SetConfig {
                key: "k".to_owned(),
                value: "v".to_owned(),
            });
            let get = sim.call(GetConfig { key: "k".to_owned() });
            let entries = sim.call(ListConfig { prefix: String::new() });
            let key = sim.call(CreateApiKey {
                spec: ApiKeySpec::new("svc"),
            });
            let revoke = sim.call(RevokeApiKey {
                key_id: "id".to_owned(),
            });
            let keys = sim.call(ListApiKeys {});
            let grant = sim.call(SetAcl {
                key_id: "id".to_owned(),
                permissions: vec![Permission::new("produce", "*")],
            });
            let acl = sim.call(GetAcl {
                key_id: "id".to_owned(),
            });
            let beat = sim.call(Heartbeat {});
            assert_eq!(sim.in_flight(), 0, "nothing is encoded before the driver writes");
            sim.settle();
            assert_eq!(sim.output::<CreateQueue>(create).unwrap(), "orders");
            sim.output::<DeleteQueue>(delete).unwrap();
            assert_eq!(sim.output::<GetQueueStats>(figures).unwrap().depth, 3);
            assert!(sim.output::<ListQueues>(list).unwrap().queues.is_empty());
            assert_eq!(sim.output::<Redrive>(redrive).unwrap(), 7);
            sim.output::<SetConfig>(set).unwrap();
            assert_eq!(sim.output::<GetConfig>(get).unwrap(), "k");
            assert!(sim.output::<ListConfig>(entries).unwrap().is_empty());
            assert_eq!(sim.output::<CreateApiKey>(key).unwrap().key.expose(), "secret");
            sim.output::<RevokeApiKey>(revoke).unwrap();
            assert!(sim.output::<ListApiKeys>(keys).unwrap().is_empty());
            sim.output::<SetAcl>(grant).unwrap();
            assert_eq!(sim.output::<GetAcl>(acl).unwrap().key_id, "id");
            sim.output::<Heartbeat>(beat).unwrap();
            sim
        });
    }
}

#[test]
fn what_is_no_call_is_refused() {
    let mut sim = connected(config(), Mode::Whole, P2);
    for request in [
        Request::Enqueue(Vec::new()),
        Request::Consume {
            queue: "orders".into(),
            credit: 1,
        },
        Request::Flow { credit: 1 },
        Request::Goodbye,
        Request::Authenticate("key".into()),
    ] {
        let token = sim.token();
        sim.machine.call(sim.now, request, None, token);
        sim.settle();
        assert_eq!(sim.response(token).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    assert!(sim.asked.is_empty());
    sim.finish();
}

#[test]
fn answers_match_by_id_in_any_order() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let tokens: Vec<_> = (0..5).map(|n| sim.call(GetConfig { key: n.to_string() })).collect();
        sim.settle();
        assert_eq!(sim.in_flight(), 5);
        let asked = std::mem::take(&mut sim.asked);
        for asked in asked.iter().rev() {
            let Request::GetConfig { key } = &asked.request else {
                panic!()
            };
            sim.answer(asked, &Response::GetConfig { value: key.clone() });
        }
        sim.settle();
        for (n, token) in tokens.into_iter().enumerate() {
            assert_eq!(sim.output::<GetConfig>(token).unwrap(), n.to_string());
        }
        sim
    });
}

#[test]
fn unknown_and_repeated_answers_are_answers_to_nobody() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let first = sim.call(stats());
        sim.settle();
        let asked = sim.last_asked();
        let mut stranger = asked.clone();
        stranger.id.id = 0xDEAD;
        let answer = Response::QueueStats(Default::default());
        sim.answer(&stranger, &answer);
        sim.answer(&asked, &answer);
        sim.answer(
            &asked,
            &Response::Error(fibp_proto::ServerError::new(ErrorKind::Server, "twice")),
        );
        sim.settle();
        assert!(sim.response(first).is_ok());
        let second = sim.call(stats());
        sim.settle();
        let asked = sim.last_asked();
        sim.answer(&asked, &answer);
        sim.settle();
        assert!(sim.response(second).is_ok(), "the connection stays");
        sim
    });
}

#[test]
fn heartbeats_of_the_server_are_answered() {
    for dialect in [P2, Dialect::Handshake] {
        in_every_mode(|mode| {
            let mut sim = connected(config(), mode, dialect);
            sim.serve = Box::new(|_, _| Act::Silence);
            let open = sim.call(stats());
            sim.settle();
            let id = sim.last_asked().id.id;
            // One of its own, and one whose id we use for something else.
            sim.socket().server().heartbeat(77);
            // (Real framed servers refuse a Pong, echoing its id: that would be an answer.)
            sim.socket().server().heartbeat(if dialect == P2 { id } else { 78 });
            sim.asked.clear();
            let before = sim.socket().sent;
            sim.settle();
            assert!(sim.is_open(open), "not taken for an answer");
            assert_eq!(sim.socket().sent - before, 20, "two empty frames");
            sim
        });
    }
}

#[test]
fn answers_to_answered_heartbeats_are_not_answered() {
    in_every_mode(|mode| {
        let mut sim = connected(config().no_heartbeat(), mode, P2);
        sim.asked.clear();
        // All of them are under way before the first is answered.
        for id in 77..80 {
            sim.socket().server().heartbeat(id);
        }
        sim.settle();
        assert_eq!(sim.asked_ops(), ["Heartbeat"; 3]);
        sim.socket().server().heartbeat(77);
        sim.settle();
        assert_eq!(sim.asked_ops(), ["Heartbeat"; 4], "a new one");
        sim
    });
}

#[test]
fn a_second_preamble_is_a_protocol_error() {
    for mode in MODES {
        let mut sim = mute(config(), mode);
        let open = sim.enqueue("orders", "m");
        sim.settle();
        sim.socket().say(b"FIBP\x01\0");
        sim.settle();
        let failed = sim.enqueued(open).unwrap_err();
        assert_eq!(
            (failed.kind(), failed.outcome()),
            (ErrorKind::Protocol, Outcome::Unknown)
        );
        sim.finish();
    }
}

#[test]
fn bytes_that_are_no_frame_end_the_connection() {
    for mode in MODES {
        for bytes in [&b"\0\0\0\x05"[..], b"\0\0\0\0"] {
            let mut sim = mute(config(), mode);
            let open = sim.enqueue("orders", "m");
            sim.settle();
            sim.socket().say(bytes);
            sim.settle();
            assert_eq!(sim.enqueued(open).unwrap_err().kind(), ErrorKind::Protocol);
            sim.finish();
        }
    }
}

#[test]
fn an_oversized_answer_fails_its_call_alone() {
    in_every_mode(|mode| {
        let mut sim = mute(config().max_frame_size(4096, 4096), mode);
        let big = sim.call(GetConfig { key: "big".to_owned() });
        let small = sim.call(GetConfig {
            key: "small".to_owned(),
        });
        sim.settle();
        let asked = std::mem::take(&mut sim.asked);
        sim.answer(
            &asked[0],
            &Response::GetConfig {
                value: "x".repeat(5000),
            },
        );
        sim.answer(&asked[1], &Response::GetConfig { value: "y".to_owned() });
        sim.settle();
        let error = sim.response(big).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::Unknown));
        assert_eq!(sim.output::<GetConfig>(small).unwrap(), "y");
        sim
    });
}

#[test]
fn the_body_of_an_oversized_answer_may_hold_anything_anywhere() {
    // Read in one piece, the skipped body begins with what looks like a preamble, or a frame.
    for magic in [
        &b"FIBP\x01\0"[..],
        b"\0\0\0\x01",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut sim = mute(config().max_frame_size(4096, 4096), Mode::Whole);
        let big = sim.call(GetConfig { key: "big".to_owned() });
        let small = sim.call(GetConfig {
            key: "small".to_owned(),
        });
        sim.settle();
        let asked = std::mem::take(&mut sim.asked);
        let value = "x".repeat(5_000);
        sim.answer(&asked[0], &Response::GetConfig { value });
        sim.socket().arrivals = Some(1_000);
        sim.settle();
        for (place, byte) in magic.iter().enumerate() {
            sim.socket().to_client[place] = *byte;
        }
        sim.socket().arrivals = None;
        sim.settle();
        sim.answer(&asked[1], &Response::GetConfig { value: "y".to_owned() });
        sim.settle();
        assert_eq!(sim.response(big).unwrap_err().kind(), ErrorKind::TooLarge);
        assert_eq!(sim.output::<GetConfig>(small).unwrap(), "y");
        assert_eq!(sim.dials.len(), 1);
        sim.finish();
    }
}

#[test]
fn an_oversized_answer_to_a_call_that_is_gone_is_passed_over() {
    in_every_mode(|mode| {
        let mut sim = mute(config().max_frame_size(4096, 4096), mode);
        let (big, id) = sim.call_within(GetConfig { key: "big".to_owned() }, None);
        sim.settle();
        sim.abandon(big, id);
        let asked = sim.last_asked();
        sim.answer(
            &asked,
            &Response::GetConfig {
                value: "x".repeat(5000),
            },
        );
        sim.serve = Box::new(|request, _| obliging(request));
        let next = sim.call(GetConfig { key: "next".to_owned() });
        sim.settle();
        assert_eq!(sim.output::<GetConfig>(next).unwrap(), "next");
        sim
    });
}

#[test]
fn an_answer_that_cannot_be_read_fails_its_call_alone() {
    in_every_mode(|mode| {
        let mut sim = connected(config(), mode, Dialect::Preamble(AdminRevision::Binary));
        sim.serve = Box::new(|_, _| Act::Silence);
        let bad = sim.call(stats());
        let wrong = sim.call(stats());
        let good = sim.call(stats());
        sim.settle();
        let asked = std::mem::take(&mut sim.asked);
        let [a, b, c, d] = asked[0].id.id.to_be_bytes();
        sim.socket().say(&[0, 0, 0, 7, 0, 0x12, a, b, c, d, 9]);
        // The answer to another operation.
        let [a, b, c, d] = asked[1].id.id.to_be_bytes();
        sim.socket().say(&[0, 0, 0, 6, 0, 0x11, a, b, c, d]);
        sim.answer(&asked[2], &Response::QueueStats(Default::default()));
        sim.settle();
        for token in [bad, wrong] {
            let error = sim.response(token).unwrap_err();
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Protocol, Outcome::Unknown));
        }
        assert!(sim.response(good).is_ok());
        sim
    });
}

#[test]
fn what_cannot_be_encoded_fails_before_anything_is_sent() {
    let mut sim = connected(config().max_frame_size(80_000, 80_000), Mode::Whole, P2);
    let long = sim.call(GetConfig {
        key: "k".repeat(90_000),
    });
    let queue = sim.enqueue(&"q".repeat(70_000), "m");
    let unknown = sim.call(SetConfig {
        key: "k".to_owned(),
        value: "v".to_owned(),
    });
    sim.settle();
    assert_eq!(sim.response(long).unwrap_err().kind(), ErrorKind::TooLarge);
    let refused = sim.enqueued(queue).unwrap_err();
    assert_eq!(
        (refused.kind(), refused.outcome()),
        (ErrorKind::InvalidArgument, Outcome::NotSent)
    );
    assert_eq!(&*refused.message.payload, b"m", "the message comes back");
    assert!(sim.response(unknown).is_ok());
    assert_eq!(sim.asked_ops(), ["SetConfig"]);
    sim.finish();
}

#[test]
fn a_goodbye_of_the_server_fails_or_moves_what_is_pending() {
    for dialect in [P2, Dialect::Handshake] {
        for mode in MODES {
            let mut sim = connected(config(), mode, dialect);
            sim.serve = Box::new(|request, connection| match connection {
                1 => Act::Silence,
                _ => obliging(request),
            });
            let message = sim.enqueue("orders", "m");
            let safe = sim.call(stats());
            sim.settle();
            sim.socket().server().goodbye("going down");
            sim.advance_secs(1);
            let failed = sim.enqueued(message).unwrap_err();
            assert_eq!(
                (failed.kind(), failed.outcome()),
                (ErrorKind::Disconnected, Outcome::Unknown)
            );
            assert!(failed.error.is_retryable());
            assert!(sim.response(safe).is_ok(), "safe to repeat");
            assert_eq!(sim.dials.len(), 2);
            sim.finish();
        }
    }
}

#[test]
fn heartbeats_keep_a_silent_connection_and_end_a_dead_one() {
    let alive = config().heartbeat(Duration::from_secs(1), 2);
    let mut sim = connected(alive, Mode::Whole, P2);
    sim.advance_secs(10);
    assert_eq!(sim.asked.len(), 10);
    assert_eq!(sim.dials.len(), 1);
    assert_eq!(sim.in_flight(), 0);
    sim.serve = Box::new(|_, connection| {
        if connection == 1 {
            Act::Silence
        } else {
            obliging(&Request::Heartbeat)
        }
    });
    let pending = sim.enqueue("orders", "m");
    sim.advance_ms(2_500);
    assert!(sim.is_open(pending));
    sim.advance_secs(1);
    let failed = sim.enqueued(pending).unwrap_err();
    assert!(failed.to_string().contains("heartbeat"), "{failed}");
    assert_eq!(failed.outcome(), Outcome::Unknown);
    assert!(sim.dials.len() > 1);
    sim.finish();

    // A slow opening is the connect timeout's business.
    let mut sim = Sim::requests(
        config().heartbeat(Duration::from_millis(100), 1).api_key("k"),
        Mode::Whole,
    );
    sim.serve = Box::new(|_, _| Act::Silence);
    sim.advance_ms(4_999);
    assert_eq!(sim.dials.len(), 1);
    sim.finish();
}

#[test]
fn as_many_heartbeats_may_be_missed_as_configured() {
    for missed in [1, 5] {
        let mut sim = connected(config().heartbeat(Duration::from_secs(1), missed), Mode::Whole, P2);
        sim.serve = Box::new(|_, _| Act::Silence);
        let pending = sim.enqueue("orders", "m");
        sim.advance_ms(u64::from(missed) * 1_000 + 500);
        assert!(sim.is_open(pending), "{missed} were missed");
        sim.advance_secs(1);
        assert_eq!(sim.enqueued(pending).unwrap_err().kind(), ErrorKind::Disconnected);
        sim.finish();
    }
}

#[test]
fn needs_driver_says_when_there_is_something_to_do() {
    let mut sim = mute(config(), Mode::Whole);
    assert!(!sim.machine.needs_driver(ChannelId::MAIN));
    let (token, id) = sim.call_within(stats(), Some(5_000));
    assert!(sim.machine.needs_driver(ChannelId::MAIN), "something to write");
    sim.settle();
    sim.abandon(token, id);
    assert!(
        !sim.machine.needs_driver(ChannelId::MAIN),
        "only a timeout that may come early"
    );
    sim.enqueue_within("orders", "m", Some(10));
    sim.settle();
    let refused = sim.token();
    sim.machine.call(sim.now, Request::Goodbye, None, refused);
    assert!(sim.machine.needs_driver(ChannelId::MAIN), "a completion");
    sim.settle();
    assert!(matches!(sim.reply(refused), Reply::Response(Err(_))));
    sim.finish();
}

#[test]
fn answers_cut_short_are_unknown() {
    for (end, kind) in [
        (End::Eof, ErrorKind::Disconnected),
        (End::Reset, ErrorKind::Disconnected),
    ] {
        for mode in MODES {
            let mut sim = connected(config(), mode, P2);
            let received = sim.socket().received;
            // In the middle of the answer.
            sim.socket().cut_at = Some(received + 12);
            sim.socket().cut_end = end;
            let message = sim.enqueue("orders", "m");
            sim.settle();
            let failed = sim.enqueued(message).unwrap_err();
            assert_eq!((failed.kind(), failed.outcome()), (kind, Outcome::Unknown));
            sim.finish();
        }
    }
}

#[test]
fn frame_limits_default_as_documented() {
    let limits = Limits::default();
    assert_eq!((limits.send, limits.receive), (16 << 20, 32 << 20));
}
