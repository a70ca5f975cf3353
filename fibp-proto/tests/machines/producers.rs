//! Producers: buffers, receipts, flushes.

use std::time::Duration;

use fibp_proto::config::{Batching, OnFull, ProducerSettings};
use fibp_proto::{ErrorKind, Event, Message, Outcome, Request, Response};

use crate::batching::{frames, mute, oblige};
use crate::harness::{Mode, config, in_every_mode};
use crate::host::{Act, End, obliging};

fn linger(secs: u64) -> ProducerSettings {
    ProducerSettings::default().batching(Batching::Linger {
        delay: Duration::from_secs(secs),
        max_messages: 1_000,
    })
}

/// Room for two messages of this payload.
fn narrow(on_full: OnFull) -> ProducerSettings {
    ProducerSettings::default().buffer(300).on_full(on_full)
}

#[test]
fn a_producer_batches_by_its_own_settings() {
    in_every_mode(|mode| {
        let mut sim = mute(config().request_timeout(None), mode);
        let slow = sim.producer(linger(5));
        let quick = sim.producer(ProducerSettings::default().batching(Batching::Disabled));
        let (admitted, receipt, _) = sim.send(slow, "slow");
        sim.send(quick, "q1");
        sim.send(quick, "q2");
        sim.settle();
        assert!(sim.room(admitted).is_ok(), "in the buffer at once");
        assert_eq!(frames(&sim), [["q1"], ["q2"]]);
        sim.advance_secs(5);
        assert_eq!(frames(&sim).len(), 3);
        let asked = sim.last_asked();
        oblige(&mut sim, &asked);
        assert_eq!(sim.enqueued(receipt).unwrap().as_str(), "of-slow");
        sim
    });
}

#[test]
fn a_new_producer_in_an_old_ones_place_has_its_own_settings() {
    let mut sim = mute(config(), Mode::Whole);
    sim.serve = Box::new(|request, _| obliging(request));
    let first = sim.producer(ProducerSettings::default().batching(Batching::Disabled));
    sim.send(first, "1");
    sim.settle();
    sim.machine.close_producer(first);
    let second = sim.producer(linger(1));
    sim.asked.clear();
    sim.send(second, "2");
    sim.settle();
    assert!(sim.asked.is_empty(), "it lingers");
    sim.advance_secs(1);
    assert_eq!(frames(&sim), [["2"]]);
    sim.finish();
}

#[test]
fn sending_waits_for_room_in_order() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let producer = sim.producer(narrow(OnFull::Wait));
        let sent: Vec<_> = (0..4).map(|n| sim.send(producer, &n.to_string())).collect();
        sim.settle();
        let admitted: Vec<_> = sent.iter().map(|(admitted, ..)| !sim.is_open(*admitted)).collect();
        assert_eq!(admitted, [true, true, false, false]);
        assert_eq!(frames(&sim), [["0", "1"]]);
        let asked = sim.last_asked();
        oblige(&mut sim, &asked);
        assert_eq!(frames(&sim).last().unwrap(), &["2", "3"]);
        let asked = sim.last_asked();
        oblige(&mut sim, &asked);
        for (admitted, receipt, _) in sent {
            assert!(sim.room(admitted).is_ok());
            assert!(sim.enqueued(receipt).is_ok());
        }
        sim
    });
}

#[test]
fn room_is_kept_for_whoever_waited_for_it() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let producer = sim.producer(narrow(OnFull::Wait));
        sim.send(producer, "0");
        sim.send(producer, "1");
        let (used, used_room) = sim.reserve(producer, "2");
        let (dropped, dropped_room) = sim.reserve(producer, "never");
        let (last, last_room) = sim.reserve(producer, "4");
        sim.settle();
        assert!(sim.is_open(used), "there is no room yet");
        let asked = sim.last_asked();
        oblige(&mut sim, &asked);
        assert!(sim.room(used).is_ok());
        assert!(sim.room(dropped).is_ok());
        assert!(sim.is_open(last), "the room is taken, though nothing was sent into it");
        assert_eq!(
            frames(&sim).len(),
            1,
            "a caller who has not looked yet has sent nothing"
        );

        let flushed = sim.flush(producer);
        sim.settle();
        assert!(sim.flushed(flushed).is_ok(), "nothing was handed over");
        let receipt = sim.send_reserved(producer, used_room, "2").unwrap();
        // The one that has room is dropped: the next in line has it.
        assert_eq!(sim.machine.abandon(dropped_room), None, "its token came back already");
        sim.settle();
        assert!(sim.room(last).is_ok());
        assert_eq!(frames(&sim).last().unwrap(), &["2"]);
        let refused = sim.send_reserved(producer, dropped_room, "never").unwrap_err();
        assert_eq!(
            (refused.kind(), refused.message.payload.as_ref()),
            (ErrorKind::Closed, &b"never"[..])
        );
        let asked = sim.last_asked();
        oblige(&mut sim, &asked);
        assert!(sim.enqueued(receipt).is_ok());
        sim.send_reserved(producer, last_room, "4").unwrap();
        sim.settle();
        assert_eq!(frames(&sim).last().unwrap(), &["4"]);
        let asked = sim.last_asked();
        oblige(&mut sim, &asked);
        sim
    });
}

#[test]
fn waiting_for_room_ends_with_the_deadline_or_the_client() {
    let mut sim = mute(config().request_timeout(Some(Duration::from_secs(10))), Mode::Whole);
    let producer = sim.producer(narrow(OnFull::Wait));
    sim.send(producer, "0");
    sim.send(producer, "1");
    let (late, _) = sim.reserve(producer, "late");
    let failing = sim.producer(narrow(OnFull::Fail));
    sim.send(failing, "2");
    sim.send(failing, "3");
    let (refused, _) = sim.reserve(failing, "refused");
    sim.settle();
    let refused = sim.room(refused).unwrap_err();
    assert_eq!(
        (refused.kind(), refused.queue()),
        (ErrorKind::Overloaded, Some("orders"))
    );
    sim.advance_secs(10);
    let late = sim.room(late).unwrap_err();
    assert_eq!((late.kind(), late.queue()), (ErrorKind::Timeout, Some("orders")));

    let (given, room) = sim.reserve(producer, "4");
    sim.settle();
    assert!(sim.room(given).is_ok());
    let closing = sim.close(1_000);
    sim.settle();
    assert!(sim.is_open(closing), "a send that has room comes before the end");
    sim.advance_secs(1);
    sim.closed(closing);
    let refused = sim.send_reserved(producer, room, "4").unwrap_err();
    assert_eq!(
        (refused.kind(), refused.outcome()),
        (ErrorKind::Closed, Outcome::NotSent)
    );
    sim.finish();
}

#[test]
fn what_waited_for_room_does_not_linger_while_its_client_closes() {
    let mut sim = mute(config(), Mode::Whole);
    let producer = sim.producer(linger(3_600).buffer(300));
    sim.send(producer, "0");
    sim.send(producer, "1");
    let (given, room) = sim.reserve(producer, "2");
    let closing = sim.close(5_000);
    sim.settle();
    let asked = sim.last_asked();
    oblige(&mut sim, &asked);
    assert!(sim.room(given).is_ok());
    let receipt = sim.send_reserved(producer, room, "2").unwrap();
    sim.settle();
    assert_eq!(frames(&sim).last().unwrap(), &["2"]);
    let asked = sim.last_asked();
    oblige(&mut sim, &asked);
    assert!(sim.enqueued(receipt).is_ok());
    assert_eq!(sim.closed(closing).flushed, 3);
    sim.finish();
}

#[test]
fn a_full_buffer_can_refuse() {
    let mut sim = mute(config(), Mode::Whole);
    let producer = sim.producer(narrow(OnFull::Fail));
    sim.send(producer, "1");
    sim.send(producer, "2");
    let (refused, receipt, _) = sim.send(producer, "3");
    sim.settle();
    let failed = sim.room(refused).unwrap_err();
    assert_eq!(
        (failed.kind(), failed.outcome()),
        (ErrorKind::Overloaded, Outcome::NotSent)
    );
    assert!(!sim.is_open(receipt), "its sender has the message");
    sim.finish();
}

#[test]
fn trying_never_waits() {
    let mut sim = mute(config(), Mode::Whole);
    let producer = sim.producer(narrow(OnFull::Wait));
    let mut receipts = Vec::new();
    for n in 0..3 {
        let token = sim.token();
        let result = sim
            .machine
            .try_send(sim.now, producer, Message::new("orders", n.to_string()), None, token);
        match result {
            Ok(_) => receipts.push(token),
            Err((failed, back)) => {
                assert_eq!((n, failed.kind(), back), (2, ErrorKind::Overloaded, token));
                assert_eq!(&*failed.message.payload, b"2");
                sim.give_back(back);
            }
        }
    }
    sim.settle();
    assert_eq!(receipts.len(), 2);
    let asked = sim.last_asked();
    oblige(&mut sim, &asked);
    for receipt in receipts {
        assert!(sim.enqueued(receipt).is_ok());
    }
    // A closed client refuses too.
    let closing = sim.close(0);
    sim.settle();
    sim.closed(closing);
    let token = sim.token();
    let (failed, back) = sim
        .machine
        .try_send(sim.now, producer, Message::new("orders", "late"), None, token)
        .unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Closed);
    sim.give_back(back);
    sim.finish();
}

#[test]
fn an_abandoned_receipts_message_still_goes() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let producer = sim.producer(linger(1));
        let (admitted, receipt, id) = sim.send(producer, "kept");
        sim.settle();
        assert!(sim.room(admitted).is_ok());
        sim.abandon(receipt, id);
        sim.advance_secs(1);
        assert_eq!(frames(&sim), [["kept"]]);
        let asked = sim.last_asked();
        oblige(&mut sim, &asked);
        assert!(
            !sim.events
                .iter()
                .any(|event| matches!(event, Event::Unconfirmed { .. }))
        );

        // And when it fails, an event says so.
        let (_, receipt, id) = sim.send(producer, "lost");
        sim.abandon(receipt, id);
        sim.advance_secs(1);
        let asked = sim.last_asked();
        let refusal = fibp_proto::ServerError::new(ErrorKind::QueueNotFound, "orders").with_code(1);
        sim.answer(&asked, &Response::Enqueue(vec![Err(Box::new(refusal))]));
        sim.settle();
        assert!(
            matches!(sim.events.last(), Some(Event::Unconfirmed { error, .. }) if error.kind() == ErrorKind::QueueNotFound)
        );
        sim
    });
}

#[test]
fn an_abandoned_send_in_line_is_not_sent() {
    let mut sim = mute(config(), Mode::Whole);
    let producer = sim.producer(narrow(OnFull::Wait));
    sim.send(producer, "1");
    sim.send(producer, "2");
    let (admitted, receipt, id) = sim.send(producer, "withdrawn");
    let (next, _, _) = sim.send(producer, "next");
    sim.settle();
    sim.abandon(admitted, id);
    sim.settle();
    assert!(!sim.is_open(receipt), "its sender has the message");
    let asked = sim.last_asked();
    oblige(&mut sim, &asked);
    assert!(sim.room(next).is_ok());
    assert_eq!(frames(&sim), [vec!["1", "2"], vec!["next"]]);
    sim.finish();
}

#[test]
fn flushing_does_not_linger_and_reports_failures() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let producer = sim.producer(linger(60));
        let idle = sim.flush(producer);
        sim.settle();
        assert!(sim.flushed(idle).is_ok(), "nothing to wait for");

        let (_, receipt, _) = sim.send(producer, "1");
        let flush = sim.flush(producer);
        let (_, later, _) = sim.send(producer, "2");
        sim.settle();
        assert_eq!(frames(&sim), [["1", "2"]]);
        let asked = sim.last_asked();
        oblige(&mut sim, &asked);
        assert!(sim.flushed(flush).is_ok());
        assert!(sim.enqueued(receipt).is_ok() && sim.enqueued(later).is_ok());

        sim.send(producer, "3");
        let flush = sim.flush(producer);
        sim.settle();
        let asked = sim.last_asked();
        let refusal = fibp_proto::ServerError::new(ErrorKind::QueueNotFound, "orders").with_code(1);
        sim.answer(&asked, &Response::Enqueue(vec![Err(Box::new(refusal))]));
        sim.settle();
        assert_eq!(sim.flushed(flush).unwrap_err().kind(), ErrorKind::QueueNotFound);
        sim
    });
}

#[test]
fn a_flush_waits_for_its_producers_messages_only() {
    let mut sim = mute(config(), Mode::Whole);
    let one = sim.producer(ProducerSettings::default());
    let other = sim.producer(linger(60));
    sim.send(one, "1");
    sim.send(other, "2");
    let flush = sim.flush(one);
    sim.settle();
    let asked = sim.last_asked();
    oblige(&mut sim, &asked);
    assert!(sim.flushed(flush).is_ok());
    assert_eq!(frames(&sim), [["1"]]);
    sim.finish();
}

#[test]
fn a_flush_has_a_deadline() {
    let mut sim = mute(config(), Mode::Whole);
    let producer = sim.producer(ProducerSettings::default());
    let (_, receipt, _) = sim.send(producer, "1");
    let flush = sim.token();
    sim.machine
        .flush(sim.now, producer, Some(Duration::from_secs(1)), flush);
    sim.advance_secs(1);
    assert_eq!(sim.flushed(flush).unwrap_err().kind(), ErrorKind::Timeout);
    assert!(sim.is_open(receipt));
    sim.finish();
}

#[test]
fn an_abandoned_flush_comes_back() {
    let mut sim = mute(config(), Mode::Whole);
    let producer = sim.producer(ProducerSettings::default());
    sim.send(producer, "1");
    let flush = sim.token();
    let id = sim.machine.flush(sim.now, producer, None, flush);
    sim.settle();
    sim.abandon(flush, id);
    sim.finish();
}

#[test]
fn a_closed_producer_still_sends_what_it_holds() {
    in_every_mode(|mode| {
        let mut sim = mute(config(), mode);
        let producer = sim.producer(linger(3_600).buffer(300));
        let sent: Vec<_> = (0..4).map(|n| sim.send(producer, &n.to_string())).collect();
        sim.machine.close_producer(producer);
        sim.settle();
        assert_eq!(frames(&sim), [["0", "1"]], "without lingering");
        let asked = sim.last_asked();
        oblige(&mut sim, &asked);
        assert_eq!(frames(&sim).len(), 2, "and what waited for room");
        let asked = sim.last_asked();
        oblige(&mut sim, &asked);
        for (admitted, receipt, _) in sent {
            assert!(sim.room(admitted).is_ok());
            assert!(sim.enqueued(receipt).is_ok());
        }
        sim
    });
}

#[test]
fn a_flush_survives_a_reconnect_without_lingering_again() {
    let mut sim = mute(config().request_timeout(Duration::from_secs(600)), Mode::Whole);
    let producer = sim.producer(linger(300));
    // Held back by a stalled socket, so that it is not sent when the connection is lost.
    sim.socket().budget = Some(0);
    let blocker = sim.call(fibp_proto::typed::Heartbeat {});
    sim.settle();
    let (_, receipt, _) = sim.send(producer, "1");
    let flush = sim.flush(producer);
    sim.settle();
    sim.serve = Box::new(|request, _| obliging(request));
    sim.socket().end(End::Reset);
    sim.advance_secs(1);
    assert!(sim.flushed(flush).is_ok());
    assert!(sim.enqueued(receipt).is_ok());
    assert!(sim.response(blocker).is_ok());
    sim.finish();
}

#[test]
fn what_no_server_takes_is_refused_at_the_door() {
    let mut sim = mute(config().max_frame_size(4096, 4096), Mode::Whole);
    let producer = sim.producer(ProducerSettings::default());
    let token = sim.token();
    let message = Message::new("orders", "x".repeat(5_000));
    let (failed, back) = sim
        .machine
        .try_send(sim.now, producer, message.clone(), None, token)
        .unwrap_err();
    assert_eq!(
        (failed.kind(), failed.outcome()),
        (ErrorKind::TooLarge, Outcome::NotSent)
    );
    assert_eq!((failed.message, back), (message, token));
    sim.give_back(back);
    sim.settle();
    assert!(
        sim.asked
            .iter()
            .all(|asked| !matches!(asked.request, Request::Enqueue(_)))
    );
    sim.finish();
}

#[test]
fn receipts_fail_with_their_deadline() {
    let mut sim = mute(config().request_timeout(Duration::from_secs(2)), Mode::Whole);
    let producer = sim.producer(linger(60));
    let (_, lingering, _) = sim.send(producer, "lingering");
    sim.advance_secs(2);
    let failed = sim.enqueued(lingering).unwrap_err();
    assert_eq!(
        (failed.kind(), failed.outcome()),
        (ErrorKind::Timeout, Outcome::NotSent)
    );
    sim.finish();
}

#[test]
fn silence_is_an_unconfirmed_message_too() {
    let mut sim = mute(config().request_timeout(Duration::from_secs(2)), Mode::Whole);
    sim.serve = Box::new(|_, _| Act::Silence);
    let producer = sim.producer(ProducerSettings::default());
    let (_, receipt, id) = sim.send(producer, "m");
    sim.settle();
    sim.abandon(receipt, id);
    sim.machine.close_producer(producer);
    sim.advance_secs(2);
    assert!(matches!(
        sim.events.last(),
        Some(Event::Unconfirmed { error, .. }) if error.kind() == ErrorKind::Timeout
    ));
    sim.finish();
}
