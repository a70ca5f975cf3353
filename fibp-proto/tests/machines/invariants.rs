//! What nobody sees until it is missing: each case stands for a line of the core without which every other test passes.

use std::time::Duration;

use fibp_proto::config::{Backoff, Reconnect};
use fibp_proto::frame::Transmit;
use fibp_proto::machine::{ChannelId, Machine};
use fibp_proto::typed::Heartbeat;
use fibp_proto::{Dialect, ErrorKind, Event, MessageId, Outcome, Response};

use crate::calls::{connected, mute};
use crate::consumers::{prefetch, subscribed};
use crate::harness::{ConsumerSim, Mode, P1, P2, config};
use crate::host::{Act, End};

#[test]
fn a_late_report_of_an_earlier_connection_frees_no_writer_slot() {
    let mut sim = connected(config().no_heartbeat(), Mode::Whole, P1);
    let first = sim.call(Heartbeat {});
    let mut earlier = Transmit::new();
    assert!(sim.machine.take_transmit(sim.now, ChannelId::MAIN, 1024, &mut earlier));
    // The next connection takes its opening and no more: its writer is stuck.
    sim.write_budget = Some(6);
    sim.machine.handle_eof(sim.now, ChannelId::MAIN);
    sim.advance_secs(1);
    assert_eq!(sim.dials.len(), 2);
    let stuck = sim.enqueue("orders", "stuck");
    sim.settle();
    assert!(!sim.transmit().is_empty());
    let behind = sim.enqueue("orders", "behind");
    let sent = sim.shared.stats().bytes_sent;

    let n = earlier.len();
    sim.machine.transmitted(sim.now, ChannelId::MAIN, &mut earlier, n);
    assert!(earlier.is_empty());
    assert_eq!(sim.shared.stats().bytes_sent, sent);
    let mut second = Transmit::new();
    assert!(
        !sim.machine.take_transmit(sim.now, ChannelId::MAIN, 1024, &mut second),
        "one writer at a time"
    );

    // Nor does it count as written what the new socket never took.
    sim.dialed = Box::new(|_, _| crate::host::Host::Unreachable);
    sim.socket().end(End::Reset);
    sim.settle();
    sim.advance_secs(60);
    for token in [stuck, behind] {
        assert_eq!(sim.enqueued(token).unwrap_err().outcome(), Outcome::NotSent);
    }
    assert!(sim.response(first).is_err());
    sim.finish();
}

#[test]
fn what_was_written_counts_before_it_is_answered() {
    let mut sim = connected(config().no_heartbeat(), Mode::Whole, P1);
    sim.serve = Box::new(|_, _| Act::Silence);
    let before = sim.shared.stats();
    let silent = sim.call(Heartbeat {});
    sim.settle();
    assert_eq!(sim.shared.stats().frames_sent - before.frames_sent, 1);
    sim.enqueue("others", "m");
    sim.settle();
    let after = sim.shared.stats();
    assert_eq!(after.frames_sent - before.frames_sent, 2);
    assert!(after.bytes_sent > before.bytes_sent);
    // A socket that is full in the middle of a frame.
    sim.socket().budget = Some(100);
    let stuck = sim.enqueue("orders", &"x".repeat(1_000));
    sim.settle();
    assert_eq!(sim.shared.stats().bytes_sent - after.bytes_sent, 100);
    sim.socket().budget = Some(50);
    let mut transmit = std::mem::take(sim.transmit());
    sim.machine.transmitted(sim.now, ChannelId::MAIN, &mut transmit, 50);
    assert_eq!(
        sim.shared.stats().bytes_sent - after.bytes_sent,
        150,
        "at once, while the writer is busy"
    );
    sim.machine.abort(sim.now);
    sim.settle();
    assert!(sim.response(silent).is_err() && sim.enqueued(stuck).is_err());
    sim.finish();
}

/// A framed consumer whose goodbye stalls while two frames arrive, of which only the first has room.
fn leaving_with_an_unread_delivery(leave: impl FnOnce(&mut ConsumerSim)) -> ConsumerSim {
    let settings = prefetch(1).idle_resubscribe(Duration::from_secs(60));
    let mut sim = subscribed(settings, Dialect::Handshake, Mode::Whole);
    sim.advance_secs(59);
    sim.socket().budget = Some(0);
    leave(&mut sim);
    assert_eq!((sim.hangups, sim.dials.len()), (0, 1));
    sim.push(&["first"]);
    sim.push(&["second"]);
    sim.settle();
    sim.advance_secs(1);
    assert_eq!(sim.hangups, 1);
    sim
}

#[test]
fn a_connection_that_is_renewed_leaves_no_delivery_behind() {
    let mut sim = leaving_with_an_unread_delivery(|sim| {
        sim.advance_secs(1);
    });
    assert_eq!(sim.payloads(9), ["first", "second"]);
    sim.finish();
}

#[test]
fn a_consumer_that_stops_leaves_no_delivery_behind() {
    let mut sim = leaving_with_an_unread_delivery(|sim| {
        let token = sim.token();
        sim.machine.stop_consuming(sim.now, token);
        sim.settle();
    });
    assert_eq!(sim.payloads(9), ["first", "second"]);
    sim.finish();
}

#[test]
fn what_was_told_early_is_not_counted_again_when_its_answer_comes() {
    let mut sim = mute(config(), Mode::Whole);
    let (late, _) = sim.enqueue_within("orders", "late", Some(1_000));
    let (patient, _) = sim.enqueue_within("orders", "patient", Some(5_000));
    sim.settle();
    assert_eq!(sim.asked_ops(), ["Enqueue"], "one frame for both");
    sim.advance_secs(1);
    assert_eq!(sim.enqueued(late).unwrap_err().kind(), ErrorKind::Timeout);
    let closing = sim.close(60_000);
    let asked = sim.last_asked();
    let ids = ["a", "b"].map(|id| Ok(MessageId::from(id)));
    sim.answer(&asked, &Response::Enqueue(ids.into()));
    sim.settle();
    assert!(sim.enqueued(patient).is_ok());
    let stats = sim.shared.stats();
    assert_eq!((stats.messages_confirmed, stats.timeouts), (1, 1));
    let report = sim.closed(closing);
    assert_eq!((report.flushed, report.failed, report.unknown), (1, 0, 0));
    sim.finish();
}

#[test]
fn a_connection_that_lasts_is_a_success_even_if_nothing_is_asked_on_it() {
    let backoff = Reconnect::Backoff(Backoff {
        initial: Duration::from_millis(100),
        max: Duration::from_secs(30),
        max_attempts: Some(3),
    });
    let mut sim = connected(config().no_heartbeat().reconnect(backoff), Mode::Whole, P1);
    for _ in 0..20 {
        sim.advance_secs(2);
        sim.socket().end(End::Eof);
        sim.settle();
    }
    sim.advance_secs(2);
    let attempts = sim.events.iter().filter_map(|event| match event {
        Event::Reconnecting { attempt, .. } => Some(*attempt),
        _ => None,
    });
    assert_eq!(attempts.collect::<Vec<_>>(), [1; 20]);
    sim.finish();
}

#[test]
fn heartbeats_of_a_server_that_does_not_read_take_no_memory() {
    for dialect in [P2, Dialect::Handshake] {
        let mut sim = connected(config().no_heartbeat(), Mode::Whole, dialect);
        sim.serve = Box::new(|_, _| Act::Silence);
        sim.socket().budget = Some(0);
        for id in 1..=20_000 {
            sim.socket().server().heartbeat(id);
            if id % 100 == 0 {
                sim.settle();
            }
        }
        sim.settle();
        let before = sim.socket().sent;
        sim.socket().budget = None;
        sim.settle();
        let echoed = sim.socket().sent - before;
        assert!((10..20 * 1024).contains(&echoed), "{dialect:?}: {echoed} bytes");
        sim.finish();
    }
}
