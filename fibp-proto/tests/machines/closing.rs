//! Closing: everything is flushed or answered, and gone by the deadline.

use std::time::Duration;

use fibp_proto::config::{Batching, ProducerSettings};
use fibp_proto::event::State;
use fibp_proto::machine::Reply;
use fibp_proto::machine::{ChannelId, Machine};
use fibp_proto::response::ServerError;
use fibp_proto::typed::Heartbeat;
use fibp_proto::{Dialect, ErrorKind, Message, Op, Outcome, Request, Response};

use crate::calls::connected;
use crate::harness::{Mode, P1, Sim, config, in_every_mode};
use crate::host::{Act, End, Host, obliging};

#[test]
fn closing_an_idle_link() {
    for dialect in [P1, Dialect::Handshake] {
        in_every_mode(|mode| {
            let mut sim = connected(config(), mode, dialect);
            let closing = sim.close(5_000);
            sim.settle();
            let report = sim.closed(closing);
            assert_eq!((report.flushed, report.failed, report.unknown), (0, 0, 0));
            assert_eq!(sim.shared.state(), State::Closed);
            assert_eq!(sim.hangups, 1);
            assert_eq!(sim.half_closes, usize::from(dialect == Dialect::Handshake));
            assert_eq!(sim.at(), Duration::ZERO);
            sim.check_inert();
            sim
        });
    }
}

#[test]
fn closing_flushes_then_reports() {
    in_every_mode(|mode| {
        let mut sim = connected(config(), mode, P1);
        let linger = ProducerSettings::default().batching(Batching::Linger {
            delay: Duration::from_secs(3_600),
            max_messages: 1_000,
        });
        let producer = sim.producer(linger);
        let (_, receipt, _) = sim.send(producer, "lingering");
        sim.serve = Box::new(|request, _| match request {
            Request::Enqueue(messages) if &*messages[0].queue == "missing" => {
                let refusal = ServerError::new(ErrorKind::QueueNotFound, "missing").with_code(1);
                Act::Answer(Response::Enqueue(vec![Err(Box::new(refusal))]))
            }
            _ => obliging(request),
        });
        let fine = sim.enqueue("orders", "m");
        let missing = sim.enqueue("missing", "m");
        let call = sim.call(Heartbeat {});
        let closing = sim.close(5_000);
        let late = sim.enqueue("orders", "late");
        let late_call = sim.call(Heartbeat {});
        sim.settle();
        assert!(sim.enqueued(receipt).is_ok());
        assert!(sim.enqueued(fine).is_ok());
        assert_eq!(sim.enqueued(missing).unwrap_err().kind(), ErrorKind::QueueNotFound);
        assert!(sim.response(call).is_ok());
        let refused = sim.enqueued(late).unwrap_err();
        assert_eq!(
            (refused.kind(), refused.outcome()),
            (ErrorKind::Closed, Outcome::NotSent)
        );
        assert_eq!(sim.response(late_call).unwrap_err().kind(), ErrorKind::Closed);
        let report = sim.closed(closing);
        assert_eq!((report.flushed, report.failed, report.unknown), (3, 1, 0));
        sim
    });
}

#[test]
fn closing_returns_by_its_deadline() {
    for dialect in [P1, Dialect::Handshake] {
        let mut sim = connected(config().no_heartbeat(), Mode::Whole, dialect);
        sim.serve = Box::new(|_, _| Act::Silence);
        let sent = sim.enqueue("orders", "sent");
        sim.settle();
        let waiting = sim.enqueue("orders", "waiting");
        sim.socket().budget = Some(0);
        let closing = sim.close(2_000);
        sim.advance_ms(1_999);
        assert!(sim.is_open(closing) && sim.is_open(sent));
        sim.advance_ms(1);
        let report = sim.closed(closing);
        assert_eq!(sim.enqueued(sent).unwrap_err().outcome(), Outcome::Unknown);
        let waiting = sim.enqueued(waiting).unwrap_err();
        assert_eq!(waiting.kind(), ErrorKind::Closed);
        // It was encoded in order to be flushed, and is with the writer.
        assert_eq!(waiting.outcome(), Outcome::Unknown);
        assert_eq!((report.flushed, report.failed, report.unknown), (0, 0, 2));
        sim.finish();
    }
}

#[test]
fn what_never_left_is_reported_as_failed() {
    let mut sim = connected(config(), Mode::Whole, P1);
    sim.dialed = Box::new(|_, _| Host::Unreachable);
    sim.socket().end(End::Reset);
    sim.settle();
    let message = sim.enqueue("orders", "m");
    let many = sim.enqueue_many(vec![Message::new("a", "1"), Message::new("b", "2")]);
    let closing = sim.close(1_000);
    sim.advance_secs(1);
    let failed = sim.enqueued(message).unwrap_err();
    assert_eq!((failed.kind(), failed.outcome()), (ErrorKind::Closed, Outcome::NotSent));
    assert!(sim.enqueued_many(many).iter().all(Result::is_err));
    let report = sim.closed(closing);
    assert_eq!((report.flushed, report.failed, report.unknown), (0, 3, 0));
    assert_eq!(sim.hangups, 2, "closing never waits for a dial");
    sim.finish();
}

/// Each message of a list counts, whether it waited for room or not.
#[test]
fn what_expires_during_a_close_is_reported_as_failed() {
    for request_timeout in [Some(Duration::from_millis(500)), None] {
        let config = config().max_in_flight(1, 1 << 20).request_timeout(request_timeout);
        let mut sim = connected(config, Mode::Whole, P1);
        sim.dialed = Box::new(|_, _| Host::Unreachable);
        sim.socket().end(End::Reset);
        sim.settle();
        for n in 0..3 {
            sim.enqueue("orders", &n.to_string());
        }
        sim.enqueue_many((0..3).map(|n| Message::new("orders", n.to_string())).collect());
        sim.call(Heartbeat {});
        let closing = sim.close(1_000);
        sim.advance_secs(2);
        let report = sim.closed(closing);
        assert_eq!(
            (report.flushed, report.failed, report.unknown),
            (0, 7, 0),
            "{request_timeout:?}"
        );
    }
}

#[test]
fn closing_reconnects_to_flush() {
    let mut sim = connected(config(), Mode::Whole, P1);
    sim.dialed = Box::new(|_, n| {
        if n < 4 {
            Host::Refused(fibp_proto::FaultKind::Refused)
        } else {
            Host::p1()
        }
    });
    sim.socket().end(End::Reset);
    sim.settle();
    let message = sim.enqueue("orders", "m");
    let closing = sim.close(60_000);
    sim.advance_secs(5);
    assert!(sim.enqueued(message).is_ok());
    assert_eq!(sim.closed(closing).flushed, 1);
    sim.finish();
}

#[test]
fn what_waits_for_room_is_flushed_too() {
    let mut sim = connected(config().max_in_flight(1, 1 << 20), Mode::Whole, P1);
    let linger = ProducerSettings::default().buffer(300).batching(Batching::Linger {
        delay: Duration::from_secs(3_600),
        max_messages: 1_000,
    });
    let producer = sim.producer(linger);
    let sent: Vec<_> = (0..5).map(|n| sim.send(producer, &n.to_string())).collect();
    let calls: Vec<_> = (0..3).map(|_| sim.call(Heartbeat {})).collect();
    let closing = sim.close(5_000);
    sim.settle();
    for (admitted, receipt, _) in sent {
        assert!(sim.room(admitted).is_ok());
        assert!(sim.enqueued(receipt).is_ok());
    }
    for call in calls {
        assert!(sim.response(call).is_ok());
    }
    assert_eq!(sim.closed(closing).flushed, 8);
    sim.finish();
}

#[test]
fn closing_twice_and_after_the_end() {
    let mut sim = connected(config().no_heartbeat(), Mode::Whole, P1);
    sim.serve = Box::new(|_, _| Act::Silence);
    let message = sim.enqueue("orders", "m");
    sim.settle();
    let patient = sim.close(60_000);
    let hasty = sim.close(1_000);
    sim.advance_secs(1);
    assert_eq!(sim.closed(hasty), sim.closed(patient), "the nearer deadline counts");
    assert!(sim.enqueued(message).is_err());
    let again = sim.close(1_000);
    sim.settle();
    assert_eq!(sim.closed(again).unknown, 1, "the same report");
    assert_eq!(sim.poll_timeout(), None);
    sim.finish();
}

#[test]
fn an_abandoned_close_still_closes() {
    for dialect in [P1, Dialect::Handshake] {
        let mut sim = connected(config().no_heartbeat(), Mode::Whole, dialect);
        sim.serve = Box::new(|_, _| Act::Silence);
        let message = sim.enqueue("orders", "m");
        sim.settle();
        let closing = sim.token();
        let id = sim.machine.close(sim.now, Duration::from_secs(2), closing);
        sim.settle();
        sim.abandon(closing, id);
        assert!(sim.is_open(message), "it goes on");
        sim.advance_secs(3);
        assert_eq!(sim.enqueued(message).unwrap_err().outcome(), Outcome::Unknown);
        sim.check_inert();
        sim.finish();
    }
}

#[test]
fn closing_before_the_link_is_open() {
    for host in 0..3 {
        let mut sim = Sim::requests(config(), Mode::Whole);
        sim.dialed = Box::new(move |_, _| match host {
            0 => Host::Unreachable,
            1 => Host::Raw(Vec::new(), None),
            _ => Host::Refused(fibp_proto::FaultKind::Refused),
        });
        sim.settle();
        let closing = sim.close(1_000);
        sim.advance_secs(1);
        sim.closed(closing);
        assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(sim.poll_timeout(), None);
        sim.finish();
    }
}

#[test]
fn heartbeats_do_not_hold_up_a_close() {
    let mut sim = connected(config().heartbeat(Duration::from_secs(1), 10), Mode::Whole, P1);
    sim.serve = Box::new(|_, _| Act::Silence);
    sim.advance_secs(3);
    assert!(sim.asked_ops().contains(&"Heartbeat".to_owned()));
    assert_eq!(sim.in_flight(), 0);
    let closing = sim.close(60_000);
    sim.settle();
    sim.closed(closing);
    sim.finish();
}

#[test]
fn framed_says_goodbye_and_waits_for_the_end() {
    let mut sim = connected(config(), Mode::Whole, Dialect::Handshake);
    sim.socket().closes_after_client = false;
    // This server reads a goodbye as the end; keep it from closing by stalling the write.
    sim.socket().budget = Some(0);
    let closing = sim.close(5_000);
    sim.settle();
    sim.closed(closing);
    assert!(!sim.is_terminated());
    assert_eq!(sim.hangups, 0);
    sim.advance_ms(999);
    assert_eq!(sim.hangups, 0);
    sim.advance_ms(1);
    assert_eq!(sim.hangups, 1, "a second at most");
    sim.check_inert();
    sim.finish();
}

#[test]
fn framed_ends_when_the_server_does() {
    for end in [End::Eof, End::Reset] {
        let mut sim = connected(config(), Mode::Whole, Dialect::Handshake);
        sim.socket().budget = Some(0);
        sim.close(5_000);
        sim.settle();
        sim.socket().budget = None;
        sim.socket().end(end);
        sim.settle();
        assert!(sim.is_terminated());
        assert_eq!(sim.at(), Duration::ZERO);
        sim.finish();
    }
}

#[test]
fn a_goodbye_goes_behind_what_is_being_written() {
    let mut sim = connected(config(), Mode::Whole, Dialect::Handshake);
    sim.serve = Box::new(|_, _| Act::Silence);
    sim.socket().budget = Some(7);
    let message = sim.enqueue("orders", "m");
    sim.settle();
    sim.machine.abort(sim.now);
    sim.socket().budget = None;
    sim.settle();
    assert_eq!(sim.asked_ops(), ["Enqueue"], "the frame is not torn");
    assert_eq!(
        sim.enqueued(message).unwrap_err().outcome(),
        Outcome::Unknown,
        "as it was said"
    );
    assert_eq!(sim.half_closes, 1);
    sim.finish();
}

#[test]
fn aborting_tells_everybody_at_once() {
    for dialect in [P1, Dialect::Handshake] {
        in_every_mode(|mode| {
            let mut sim = connected(config().max_in_flight(3, 1 << 20).no_heartbeat(), mode, dialect);
            sim.serve = Box::new(|_, _| Act::Silence);
            let producer = sim.producer(ProducerSettings::default().buffer(300));
            let sent = sim.enqueue("orders", "m");
            let call = sim.call(Heartbeat {});
            sim.settle();
            let queued = sim.enqueue("orders", "queued");
            let parked = sim.call(Heartbeat {});
            let (_, receipt, _) = sim.send(producer, "1");
            sim.send(producer, "2");
            let (line, _, _) = sim.send(producer, "in line");
            let flush = sim.flush(producer);
            let closing = sim.close(60_000);
            sim.machine.abort(sim.now);
            sim.settle();
            assert_eq!(sim.enqueued(sent).unwrap_err().outcome(), Outcome::Unknown);
            assert_eq!(sim.response(call).unwrap_err().outcome(), Outcome::Unknown);
            assert_eq!(sim.enqueued(queued).unwrap_err().outcome(), Outcome::NotSent);
            assert_eq!(sim.response(parked).unwrap_err().outcome(), Outcome::NotSent);
            assert_eq!(sim.enqueued(receipt).unwrap_err().kind(), ErrorKind::Closed);
            assert!(sim.room(line).is_err());
            assert!(sim.flushed(flush).is_err());
            sim.closed(closing);
            assert_eq!(sim.shared.state(), State::Closed);
            sim
        });
    }
}

#[test]
fn after_a_fatal_error_everything_is_inert() {
    let mut sim = Sim::requests(config(), Mode::Whole);
    sim.dialed = Box::new(|_, _| Host::Raw(b"HTTP/1.1 400\r\n\r\n".to_vec(), None));
    let message = sim.enqueue("orders", "m");
    sim.settle();
    assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::NotFila);
    assert!(sim.enqueued(message).is_err());
    sim.check_inert();
    sim.machine.handle_eof(sim.now, ChannelId::MAIN);
    sim.machine.handle_timeout(sim.now + Duration::from_secs(100));
    let late = sim.call(Heartbeat {});
    let flush = {
        let producer = sim.producer(ProducerSettings::default());
        let (admitted, _, _) = sim.send(producer, "m");
        let flush = sim.flush(producer);
        sim.settle();
        assert!(sim.room(admitted).is_err());
        flush
    };
    let closing = sim.close(1_000);
    sim.settle();
    let late = sim.response(late).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Closed);
    assert!(!late.is_retryable());
    let reason = ErrorKind::NotFila.to_string();
    assert!(late.to_string().contains(&reason), "the reason is kept: {late}");
    assert!(sim.flushed(flush).is_ok());
    assert!(matches!(sim.reply(closing), Reply::Closed(_)));
    assert_eq!(sim.dials.len(), 1);
    sim.finish();
}

#[test]
fn a_consumer_link_can_be_closed_too() {
    for pending in [false, true] {
        let mut sim = Sim::consumer(config().dialect(P1), Mode::Whole, Default::default());
        sim.serve = Box::new(move |request, _| match request.op() {
            Op::Consume if pending => Act::Silence,
            _ => obliging(request),
        });
        sim.settle();
        let waiting = sim.token();
        sim.machine.wait_delivery(sim.now, waiting);
        let closing = sim.close(60_000);
        sim.settle();
        sim.closed(closing);
        assert!(matches!(sim.reply(waiting), Reply::Ready));
        assert!(matches!(sim.machine.poll_end(), Some(None)));
        sim.finish();
    }
}
