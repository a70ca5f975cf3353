//! Requests, their answers, their deadlines, and callers that are gone.

use std::time::Duration;

use fibp_proto::admin::{ApiKeySpec, Permission, QueueSpec};
use fibp_proto::config::OnFull;
use fibp_proto::frame::Limits;
use fibp_proto::link::Reply;
use fibp_proto::operation::*;
use fibp_proto::{AdminRevision, Config, Dialect, ErrorKind, Message, Op, Outcome, Request, Response};

use crate::harness::{MODES, Mode, Sim, config, in_every_mode};
use crate::host::{Act, End, Host, obliging};

const P2: Dialect = Dialect::Preamble(AdminRevision::P2);

pub(crate) fn connected(config: Config, mode: Mode, dialect: Dialect) -> Sim {
    let mut sim = Sim::requests(config.dialect(dialect), mode);
    sim.dialed = Box::new(move |_, _| Host::of(dialect));
    sim.settle();
    assert!(sim.opened().is_ok());
    sim
}

/// A server that answers nothing by itself.
fn mute(config: Config, mode: Mode) -> Sim {
    let mut sim = connected(config.no_heartbeat(), mode, P2);
    sim.serve = Box::new(|_, _| Act::Silence);
    sim
}

fn stats() -> GetQueueStats {
    GetQueueStats { queue: "orders".into() }
}

#[test]
fn every_operation_in_every_dialect() {
    for dialect in [
        Dialect::Preamble(AdminRevision::P1),
        P2,
        Dialect::Preamble(AdminRevision::P3),
        Dialect::Framed,
        Dialect::FramedF1,
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
            assert_eq!(sim.link.in_flight(), 0, "nothing is encoded before the driver writes");
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
        sim.link.call(sim.now, request, None, token);
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
        assert_eq!(sim.link.in_flight(), 5);
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
    for dialect in [P2, Dialect::Framed] {
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
        let mut sim = connected(config(), mode, Dialect::Preamble(AdminRevision::P3));
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
fn deadlines_tell_what_was_sent() {
    in_every_mode(|mode| {
        let mut sim = mute(config().request_timeout(Duration::from_secs(3)), mode);
        let configured = sim.call(stats());
        let (own, _) = sim.call_within(stats(), Some(1_000));
        sim.settle();
        sim.socket().budget = Some(0);
        let queued = sim.call(stats());
        sim.advance_ms(999);
        assert!(sim.is_open(own));
        sim.advance_ms(1);
        let error = sim.response(own).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
        sim.advance_ms(1_999);
        assert!(sim.is_open(configured));
        sim.advance_ms(1);
        assert_eq!(sim.response(configured).unwrap_err().outcome(), Outcome::Unknown);
        // It is with the writer, who may finish any time.
        assert_eq!(sim.response(queued).unwrap_err().outcome(), Outcome::Unknown);
        assert_eq!(sim.shared.stats().timeouts, 3);
        sim
    });
}

#[test]
fn what_times_out_unsent_is_never_sent() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        sim.socket().budget = Some(0);
        let (stuck, _) = sim.call_within(stats(), Some(60_000));
        sim.settle();
        // The writer is busy: this one is not even encoded.
        let (late, _) = sim.call_within(GetConfig { key: "late".to_owned() }, Some(1_000));
        let (message, _) = sim.enqueue_within("orders", "m", Some(1_000));
        sim.advance_ms(1_000);
        for outcome in [
            sim.response(late).unwrap_err().outcome(),
            sim.enqueued(message).unwrap_err().outcome(),
        ] {
            assert_eq!(outcome, Outcome::NotSent);
        }
        sim.socket().budget = None;
        sim.serve = Box::new(|request, _| obliging(request));
        sim.settle();
        assert!(sim.response(stuck).is_ok());
        assert_eq!(sim.asked_ops(), ["QueueStats"]);
        sim
    });
}

#[test]
fn an_answer_after_the_deadline_harms_nobody() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let (early, _) = sim.call_within(stats(), Some(100));
        sim.settle();
        let first = sim.last_asked();
        sim.advance_ms(100);
        assert!(sim.response(early).is_err());
        assert_eq!(sim.link.in_flight(), 0);
        let later = sim.call(stats());
        sim.settle();
        let second = sim.last_asked();
        assert_ne!(first.id.id, second.id.id, "the id is still taken");
        sim.answer(&first, &Response::QueueStats(Default::default()));
        sim.settle();
        assert!(sim.is_open(later));
        sim.answer(&second, &Response::QueueStats(Default::default()));
        sim.settle();
        assert!(sim.response(later).is_ok());
        sim
    });
}

#[test]
fn a_frame_expires_message_by_message() {
    in_every_mode(|mode| {
        let mut sim = mute(config().request_timeout(None), mode);
        let blocker = sim.enqueue("orders", "0");
        sim.settle();
        let (short, _) = sim.enqueue_within("orders", "a", Some(1_000));
        let (long, _) = sim.enqueue_within("orders", "b", Some(5_000));
        let never = sim.enqueue("orders", "c");
        let asked = sim.last_asked();
        sim.answer(&asked, &Response::Enqueue(vec![Ok("0".into())]));
        sim.settle();
        assert!(sim.enqueued(blocker).is_ok());
        let asked = sim.last_asked();
        sim.advance_secs(1);
        let failed = sim.enqueued(short).unwrap_err();
        assert_eq!(&*failed.message.payload, b"a", "the message comes back");
        sim.advance_secs(4);
        assert!(sim.enqueued(long).is_err());
        sim.advance_secs(3_600);
        let results = vec![Ok("a".into()), Ok("b".into()), Ok("c".into())];
        sim.answer(&asked, &Response::Enqueue(results));
        sim.settle();
        assert_eq!(sim.enqueued(never).unwrap().as_str(), "c");
        assert_eq!(sim.link.in_flight(), 0);
        sim
    });
}

#[test]
fn a_call_can_be_abandoned_at_every_stage() {
    in_every_mode(|mode| {
        let mut sim = Sim::requests(config().max_in_flight(4, 1 << 20), mode);
        sim.dialed = Box::new(|_, _| Host::of(P2));
        sim.serve = Box::new(|request, _| match request.op() {
            Op::Redrive => obliging(request),
            _ => Act::Silence,
        });
        // Before the connection is there.
        let (token, id) = sim.call_within(stats(), None);
        sim.abandon(token, id);
        sim.settle();
        assert!(sim.opened().is_ok());
        // Encoded and unanswered; the table keeps the id only.
        let (token, id) = sim.call_within(stats(), None);
        sim.settle();
        assert_eq!(sim.link.in_flight(), 1);
        sim.abandon(token, id);
        assert_eq!(sim.link.in_flight(), 0);
        // In line for room.
        let busy: Vec<_> = (0..4).map(|_| sim.call_within(stats(), None)).collect();
        let (parked, parked_id) = sim.call_within(stats(), None);
        let (after, after_id) = sim.call_within(stats(), None);
        sim.settle();
        sim.abandon(parked, parked_id);
        let asked = sim.asked.len();
        let (token, id) = busy[0];
        sim.abandon(token, id);
        sim.settle();
        assert_eq!(sim.asked.len(), asked + 1, "its room goes to the next in line");
        sim.abandon(after, after_id);
        // A message of a batch in flight.
        let (token, id) = sim.enqueue_within("orders", "m", None);
        sim.settle();
        sim.abandon(token, id);
        // Many messages.
        let many = sim.token();
        let messages = vec![Message::new("a", "1"), Message::new("b", "2")];
        let id = sim.link.enqueue_many(sim.now, messages, None, many);
        sim.settle();
        sim.abandon(many, id);
        for (token, id) in &busy[1..] {
            sim.abandon(*token, *id);
        }
        sim.settle();
        sim
    });
}

#[test]
fn an_unsent_message_that_is_abandoned_is_not_sent() {
    let mut sim = mute(config(), Mode::Whole);
    let first = sim.enqueue("orders", "a");
    sim.settle();
    let (token, id) = sim.enqueue_within("orders", "withdrawn", None);
    let kept = sim.enqueue("orders", "kept");
    sim.abandon(token, id);
    sim.serve = Box::new(|request, _| obliging(request));
    let asked = sim.last_asked();
    sim.answer(&asked, &Response::Enqueue(vec![Ok("a".into())]));
    sim.settle();
    assert!(sim.enqueued(first).is_ok() && sim.enqueued(kept).is_ok());
    let Request::Enqueue(messages) = sim.last_asked().request else {
        panic!()
    };
    assert_eq!(messages.len(), 1);
    sim.finish();
}

#[test]
fn an_abandoned_admin_call_before_its_revision_is_known() {
    let mut sim = Sim::requests(config(), Mode::Whole);
    sim.serve = Box::new(|_, _| Act::Silence);
    sim.dialed = Box::new(|_, _| Host::of(P2));
    sim.settle();
    let (token, id) = sim.call_within(stats(), None);
    sim.settle();
    assert_eq!(sim.asked_ops(), ["Redrive"], "the probe");
    sim.abandon(token, id);
    sim.finish();
}

#[test]
fn a_server_that_never_answers_is_left() {
    // Tombstones are bounded.
    let mut sim = mute(config().max_in_flight(100_000, 1 << 30), Mode::Whole);
    for _ in 0..65_600 {
        sim.call_within(Heartbeat {}, Some(10));
    }
    sim.settle();
    let before = sim.dials.len();
    sim.advance_ms(200);
    assert!(sim.dials.len() > before, "another connection");
    sim.finish();
}

#[test]
fn calls_wait_in_line_for_room() {
    in_every_mode(|mode| {
        let mut sim = mute(config().max_in_flight(2, 1 << 20), mode);
        let tokens: Vec<_> = (0..5).map(|n| sim.call(GetConfig { key: n.to_string() })).collect();
        sim.settle();
        assert_eq!(sim.asked.len(), 2);
        for n in 0..5 {
            let asked = sim.asked[n].clone();
            let Request::GetConfig { key } = &asked.request else {
                panic!()
            };
            assert_eq!(*key, n.to_string(), "first come, first served");
            sim.answer(&asked, &Response::GetConfig { value: key.clone() });
            sim.settle();
            assert_eq!(sim.asked.len(), (n + 3).min(5));
        }
        for token in tokens {
            assert!(sim.response(token).is_ok());
        }
        sim
    });
}

#[test]
fn who_waits_for_room_waits_until_the_deadline() {
    let mut sim = mute(config().max_in_flight(1, 1 << 20), Mode::Whole);
    let first = sim.call(stats());
    let (second, _) = sim.call_within(stats(), Some(500));
    sim.advance_ms(500);
    let error = sim.response(second).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent));
    assert!(sim.is_open(first));
    assert_eq!(sim.asked.len(), 1);
    sim.finish();
}

#[test]
fn without_room_calls_can_fail_at_once() {
    let limits = config().max_in_flight(1, 1_000).on_full(OnFull::Fail);
    let mut sim = mute(limits, Mode::Whole);
    let first = sim.enqueue("orders", "m");
    let second = sim.enqueue("orders", "m");
    let third = sim.call(stats());
    sim.settle();
    assert!(sim.is_open(first));
    let refused = sim.enqueued(second).unwrap_err();
    assert_eq!(
        (refused.kind(), refused.outcome()),
        (ErrorKind::Overloaded, Outcome::NotSent)
    );
    assert_eq!(sim.response(third).unwrap_err().kind(), ErrorKind::Overloaded);
    sim.finish();
}

#[test]
fn bytes_are_bounded_and_the_largest_goes_alone() {
    let mut sim = mute(config().max_in_flight(100, 1_000), Mode::Whole);
    let large = sim.enqueue("orders", &"x".repeat(5_000));
    let small = sim.enqueue("orders", "s");
    sim.settle();
    assert_eq!(sim.asked.len(), 1, "larger than the bound: alone");
    let asked = sim.last_asked();
    sim.answer(&asked, &Response::Enqueue(vec![Ok("1".into())]));
    sim.settle();
    assert!(sim.enqueued(large).is_ok());
    assert_eq!(sim.asked.len(), 2);
    let another = sim.enqueue("orders", &"x".repeat(800));
    sim.settle();
    let asked = sim.last_asked();
    sim.answer(&asked, &Response::Enqueue(vec![Ok("2".into())]));
    sim.settle();
    assert!(sim.enqueued(small).is_ok());
    assert!(sim.is_open(another));
    sim.finish();
}

#[test]
fn a_goodbye_of_the_server_fails_or_moves_what_is_pending() {
    for dialect in [P2, Dialect::Framed] {
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
    assert_eq!(sim.link.in_flight(), 0);
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
fn timeouts_that_come_early_late_or_often_do_nothing() {
    let mut sim = mute(config(), Mode::Whole);
    let (token, _) = sim.call_within(stats(), Some(1_000));
    sim.settle();
    for _ in 0..10 {
        sim.link.handle_timeout(sim.now);
    }
    assert!(sim.is_open(token));
    sim.now += Duration::from_secs(8);
    sim.link.handle_timeout(sim.now);
    sim.link.handle_timeout(sim.base);
    sim.settle();
    assert!(sim.response(token).is_err());
    sim.finish();
}

#[test]
fn needs_driver_says_when_there_is_something_to_do() {
    let mut sim = mute(config(), Mode::Whole);
    let _ = sim.link.poll_timeout();
    assert!(!sim.link.needs_driver());
    let (token, id) = sim.call_within(stats(), Some(5_000));
    assert!(sim.link.needs_driver(), "something to write");
    sim.settle();
    let _ = sim.link.poll_timeout();
    sim.abandon(token, id);
    assert!(!sim.link.needs_driver(), "only a timeout that may come early");
    sim.enqueue_within("orders", "m", Some(10));
    sim.settle();
    let _ = sim.link.poll_timeout();
    let refused = sim.token();
    sim.link.call(sim.now, Request::Goodbye, None, refused);
    assert!(sim.link.needs_driver(), "a completion");
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
