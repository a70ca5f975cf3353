//! Deadlines, callers that are gone, and callers in line for room.

use std::time::Duration;

use fibp_proto::config::OnFull;
use fibp_proto::machine::Machine;
use fibp_proto::typed::{GetConfig, Heartbeat};
use fibp_proto::{ErrorKind, Message, Op, Outcome, Request, Response};

use crate::calls::{mute, stats};
use crate::harness::{Mode, P2, Sim, config, in_every_mode};
use crate::host::{Act, Host, obliging};

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
        assert_eq!(sim.in_flight(), 0);
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
        assert_eq!(sim.in_flight(), 0);
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
        assert_eq!(sim.in_flight(), 1);
        sim.abandon(token, id);
        assert_eq!(sim.in_flight(), 0);
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
        let id = sim.machine.enqueue_many(sim.now, messages, None, many);
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
fn timeouts_that_come_early_late_or_often_do_nothing() {
    let mut sim = mute(config(), Mode::Whole);
    let (token, _) = sim.call_within(stats(), Some(1_000));
    sim.settle();
    for _ in 0..10 {
        sim.machine.handle_timeout(sim.now);
    }
    assert!(sim.is_open(token));
    sim.now += Duration::from_secs(8);
    sim.machine.handle_timeout(sim.now);
    sim.machine.handle_timeout(sim.base);
    sim.settle();
    assert!(sim.response(token).is_err());
    sim.finish();
}
