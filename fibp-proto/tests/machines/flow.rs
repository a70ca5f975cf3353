//! The flow of deliveries: credit, prefetch, pauses and silence.

use std::time::Duration;

use fibp_proto::config::Credit;
use fibp_proto::machine::Reply;
use fibp_proto::machine::{ChannelId, Machine};
use fibp_proto::{Dialect, Request};

use crate::consumers::{prefetch, subscribed};
use crate::harness::{ConsumerSim, Mode, P1, P3, Sim, config, in_every_mode};
use crate::host::{Act, End, obliging};

/// What was granted so far, the initial credit first.
fn grants(sim: &ConsumerSim) -> Vec<u32> {
    sim.asked
        .iter()
        .filter_map(|asked| match asked.request {
            Request::Consume { credit, .. } | Request::Flow { credit } => Some(credit),
            _ => None,
        })
        .collect()
}

#[test]
fn standing_credit_is_large_and_topped_up_by_what_was_received() {
    for (dialect, credit) in [(P1, Credit::Auto), (P3, Credit::Standing)] {
        let mut sim = subscribed(prefetch(1_000_000).credit(credit), dialect, Mode::Whole);
        assert_eq!(grants(&sim), [1 << 30]);
        // Received, not taken: a consumer that takes nothing is paused by not being read.
        for _ in 0..100 {
            sim.push(&["m"; 64]);
            sim.settle();
        }
        assert_eq!(grants(&sim), [1 << 30], "far from used up");
        sim.finish();
    }
}

#[test]
fn a_window_is_topped_up_by_what_was_settled_or_dropped() {
    for (dialect, credit) in [(P3, Credit::Auto), (P1, Credit::Window)] {
        in_every_mode(|mode| {
            let mut sim = subscribed(prefetch(10).credit(credit), dialect, mode);
            assert_eq!(grants(&sim), [10]);
            sim.push(&["m"; 10]);
            sim.settle();
            let leases = sim.take(10);
            assert_eq!(leases.len(), 10);
            assert!(leases.iter().all(|lease| lease.is_counted));
            assert!(!sim.wait_delivery());
            assert_eq!(grants(&sim), [10], "what was taken is leased as before");
            sim.release(&leases[..4]);
            assert_eq!(grants(&sim), [10]);
            sim.release(&leases[3..5]);
            assert_eq!(grants(&sim), [10, 5], "from half of the window on, each once");
            sim.release(&leases);
            assert_eq!(grants(&sim), [10, 5, 5]);
            sim.release(&leases);
            sim.machine.release_delivery(1_000);
            sim.settle();
            assert_eq!(grants(&sim), [10, 5, 5]);
            sim
        });
    }
}

#[test]
fn what_is_held_for_long_does_not_stop_the_rest() {
    let mut sim = subscribed(prefetch(10), P3, Mode::Whole);
    sim.push(&["m"; 10]);
    sim.settle();
    let held = sim.take(10);
    // Eight are held for ever. The other two are less than half of the window, but the consumer waits.
    let waiting = sim.token();
    sim.machine.wait_delivery(sim.now, waiting);
    sim.release(&held[..1]);
    assert_eq!(grants(&sim), [10, 1]);
    sim.release(&held[1..2]);
    assert_eq!(grants(&sim), [10, 1, 1]);
    sim.push(&["n"; 2]);
    sim.settle();
    let next = sim.take(10);
    sim.release(&next);
    assert_eq!(grants(&sim), [10, 1, 1], "the consumer is busy");
    assert!(!sim.wait_delivery());
    assert_eq!(grants(&sim), [10, 1, 1, 2], "now it waits");
    sim.finish();
}

#[test]
fn a_window_counts_what_is_held_from_an_earlier_connection() {
    let mut sim = subscribed(prefetch(10), P3, Mode::Whole);
    sim.push(&["old"; 10]);
    sim.settle();
    sim.socket().end(End::Reset);
    // Paused: the loss shows when it reads again.
    let held = sim.take(5);
    assert!(sim.wait_delivery());
    sim.advance_secs(1);
    assert_eq!(sim.dials.len(), 2);
    assert_eq!(sim.take(10).len(), 5, "what was received stays");
    sim.settle();
    assert_eq!(grants(&sim), [10, 0], "all of the window is leased");
    sim.release(&held);
    assert_eq!(grants(&sim), [10, 0, 5]);
    sim.finish();
}

#[test]
fn a_small_window_never_stops() {
    let mut sim = subscribed(prefetch(1), P3, Mode::Whole);
    for n in 0..50 {
        sim.push(&[&n.to_string()]);
        assert!(sim.wait_delivery());
        assert_eq!(sim.payloads(1), [n.to_string()]);
        sim.settle();
        let granted: u32 = grants(&sim).iter().sum();
        assert_eq!(granted, n + 2);
    }
    sim.finish();
}

#[test]
fn dialects_without_credit_grant_none() {
    for credit in [Credit::Auto, Credit::Standing, Credit::Window] {
        let mut sim = subscribed(prefetch(10).credit(credit), Dialect::Handshake, Mode::Whole);
        for _ in 0..20 {
            sim.push(&["m"]);
            sim.settle();
            assert_eq!(sim.take(1).len(), 1);
        }
        assert!(
            sim.asked
                .iter()
                .all(|asked| !matches!(asked.request, Request::Flow { .. }))
        );
        sim.finish();
    }
}

#[test]
fn prefetch_bounds_what_is_decoded() {
    in_every_mode(|mode| {
        let mut sim = subscribed(prefetch(5), P1, mode);
        for n in 0..20 {
            sim.push(&[&n.to_string()]);
        }
        sim.settle();
        assert_eq!(sim.shared.stats().deliveries, 5);
        assert!(!sim.machine.wants_read(ChannelId::MAIN), "the rest waits in the socket");
        let mut seen = Vec::new();
        while sim.wait_delivery() {
            let some = sim.payloads(3);
            // What was handed out last counts until more is asked for.
            sim.advance_ms(0);
            let waiting = usize::try_from(sim.shared.stats().deliveries).unwrap() - seen.len();
            assert!(waiting <= 5, "{waiting}");
            seen.extend(some);
        }
        let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
        assert_eq!(seen, expected, "none lost, in order");
        sim
    });
}

#[test]
fn a_push_of_many_comes_in_whole() {
    // A frame is decoded as a whole: the bound may be passed by the rest of one push.
    let mut sim = subscribed(prefetch(2), P1, Mode::Whole);
    let payloads: Vec<_> = (0..64).map(|n| n.to_string()).collect();
    let payloads: Vec<_> = payloads.iter().map(String::as_str).collect();
    sim.push(&payloads);
    sim.push(&payloads);
    sim.settle();
    assert_eq!(sim.shared.stats().deliveries, 64);
    let mut seen = 0;
    while sim.wait_delivery() {
        seen += sim.take(7).len();
    }
    assert_eq!(seen, 128);
    sim.finish();
}

#[test]
fn a_paused_consumer_is_not_dead() {
    let beating = config().dialect(P1).heartbeat(Duration::from_secs(1), 1);
    let mut sim = Sim::consumer(
        beating,
        Mode::Whole,
        prefetch(2).idle_resubscribe(Duration::from_secs(10)),
    );
    sim.settle();
    assert!(sim.opened().is_ok());
    sim.push(&["1"]);
    sim.push(&["2"]);
    sim.push(&["3"]);
    sim.serve = Box::new(|request, _| match request {
        Request::Heartbeat => Act::Silence,
        _ => obliging(request),
    });
    sim.advance_secs(3_600);
    assert_eq!(sim.dials.len(), 1, "neither heartbeats nor the idle watchdog run");
    assert!(sim.asked.iter().all(|asked| asked.request != Request::Heartbeat));
    sim.serve = Box::new(|request, _| obliging(request));
    assert!(sim.wait_delivery());
    assert_eq!(sim.payloads(9), ["1", "2"]);
    assert!(sim.wait_delivery());
    assert_eq!(sim.payloads(9), ["3"]);
    assert!(!sim.wait_delivery());
    sim.advance_ms(9_500);
    assert_eq!(sim.dials.len(), 1, "silence counts from the end of the pause");
    sim.advance_secs(1);
    assert_eq!(sim.dials.len(), 2);
    sim.finish();
}

#[test]
fn silence_leads_to_a_new_subscription() {
    in_every_mode(|mode| {
        let mut sim = subscribed(prefetch(10).idle_resubscribe(Duration::from_secs(60)), P1, mode);
        sim.advance_secs(59);
        sim.push(&["m"]);
        sim.settle();
        assert_eq!(sim.take(1).len(), 1);
        sim.advance_secs(59);
        assert_eq!(sim.dials.len(), 1, "counted from the last delivery");
        sim.advance_secs(1);
        assert_eq!(sim.dials.len(), 2);
        let connected = |event: &fibp_proto::Event| matches!(event, fibp_proto::Event::Connected { .. });
        assert!(sim.events.iter().all(connected), "no loss: {:?}", sim.events);
        assert!(sim.events.len() <= 1, "the first connection only: {:?}", sim.events);
        assert!(sim.machine.poll_end().is_none());
        sim.push(&["n"]);
        assert!(sim.wait_delivery());
        sim
    });
}

#[test]
fn a_silent_connection_is_left_with_a_goodbye() {
    in_every_mode(|mode| {
        let settings = prefetch(10).idle_resubscribe(Duration::from_secs(60));
        let mut sim = subscribed(settings, Dialect::Handshake, mode);
        sim.advance_secs(59);
        // The goodbye is on its way for long.
        sim.socket().budget = Some(0);
        sim.advance_secs(1);
        assert_eq!((sim.hangups, sim.dials.len()), (0, 1));
        sim.push(&["late"]);
        sim.advance_ms(999);
        assert_eq!(sim.payloads(9), ["late"]);
        assert_eq!((sim.hangups, sim.dials.len()), (0, 1));
        sim.advance_ms(1);
        assert_eq!((sim.hangups, sim.dials.len()), (1, 2), "a second at most");
        sim.push(&["new"]);
        assert!(sim.wait_delivery());
        assert_eq!(sim.payloads(9), ["new"]);
        assert!(sim.machine.poll_end().is_none());
        sim
    });
}

#[test]
fn a_silent_connection_is_left_as_soon_as_the_server_has_closed() {
    let settings = prefetch(10).idle_resubscribe(Duration::from_secs(60));
    let mut sim = subscribed(settings, Dialect::Handshake, Mode::Whole);
    sim.advance_secs(60);
    assert_eq!((sim.half_closes, sim.hangups, sim.dials.len()), (1, 1, 2));
    assert_eq!(sim.at(), Duration::from_secs(60));
    sim.finish();
}

#[test]
fn a_consumer_that_stops_while_it_leaves_a_silent_connection_dials_no_more() {
    let settings = prefetch(10).idle_resubscribe(Duration::from_secs(60));
    let mut sim = subscribed(settings, Dialect::Handshake, Mode::Whole);
    sim.advance_secs(59);
    sim.socket().budget = Some(0);
    sim.advance_secs(1);
    let token = sim.token();
    sim.machine.stop_consuming(sim.now, token);
    sim.advance_secs(1);
    assert!(matches!(sim.reply(token), Reply::Drained));
    assert_eq!((sim.hangups, sim.dials.len()), (1, 1));
    assert!(matches!(sim.machine.poll_end(), Some(None)));
    sim.finish();
}

#[test]
fn silence_can_be_trusted() {
    let mut sim = subscribed(prefetch(10).idle_resubscribe(None), P1, Mode::Whole);
    sim.advance_secs(86_400);
    assert_eq!(sim.dials.len(), 1);
    sim.finish();
}

#[test]
fn a_consumer_that_is_full_reconnects_and_then_waits() {
    let beating = config().dialect(P1).heartbeat(Duration::from_secs(1), 1);
    let mut sim = Sim::consumer(beating, Mode::Whole, prefetch(2));
    sim.settle();
    assert!(sim.opened().is_ok());
    sim.push(&["1"]);
    sim.settle();
    sim.push(&["2", "3"]);
    // The loss is seen while there is room; what came before it fills the room.
    sim.socket().end(End::Eof);
    sim.advance_secs(600);
    assert_eq!(sim.dials.len(), 1, "not seen while it does not read");
    assert!(sim.wait_delivery());
    assert_eq!(sim.payloads(1), ["1"]);
    sim.advance_secs(600);
    assert!(sim.wait_delivery());
    assert_eq!(sim.payloads(9), ["2", "3"]);
    assert!(!sim.wait_delivery());
    sim.advance_secs(5);
    assert_eq!(sim.dials.len(), 2);
    sim.push(&["4"]);
    assert!(sim.wait_delivery());
    assert_eq!(sim.payloads(9), ["4"]);
    sim.finish();
}

#[test]
fn a_new_connection_is_opened_however_full_the_consumer_is() {
    let mut sim = subscribed(prefetch(2), P1, Mode::Whole);
    sim.push(&["1"]);
    sim.settle();
    // A write that fails shows the loss even though the second delivery filled the room.
    sim.push(&["2"]);
    sim.settle();
    let fault = fibp_proto::Fault::new(fibp_proto::FaultKind::Reset, "write failed");
    sim.machine.handle_transport_error(sim.now, ChannelId::MAIN, fault);
    sim.advance_secs(30);
    assert_eq!(sim.dials.len(), 2, "opened once, not again and again");
    assert_eq!(sim.asked_ops(), ["Consume", "Consume"]);
    assert!(sim.wait_delivery());
    assert_eq!(sim.payloads(9), ["1", "2"]);
    assert!(!sim.wait_delivery());
    sim.push(&["3"]);
    assert!(sim.wait_delivery());
    assert_eq!(sim.payloads(9), ["3"]);
    sim.finish();
}

#[test]
fn taking_again_and_again_needs_no_waiting() {
    let mut sim = subscribed(prefetch(2), P1, Mode::Whole);
    for n in 0..7 {
        sim.push(&[&n.to_string()]);
    }
    sim.settle();
    let mut seen = Vec::new();
    for _ in 0..10 {
        seen.extend(sim.payloads(2));
        sim.settle();
    }
    assert_eq!(seen, ["0", "1", "2", "3", "4", "5", "6"]);
    sim.finish();
}

#[test]
fn a_pause_is_no_silence() {
    for waits in [false, true] {
        let mut sim = subscribed(prefetch(1).idle_resubscribe(Duration::from_secs(10)), P1, Mode::Whole);
        sim.push(&["1"]);
        sim.advance_secs(3_600);
        assert_eq!(sim.payloads(1), ["1"]);
        if waits {
            assert!(!sim.wait_delivery());
        } else {
            assert!(sim.take(1).is_empty());
        }
        sim.advance_ms(9_999);
        assert_eq!(sim.dials.len(), 1);
        sim.advance_ms(1);
        assert_eq!(sim.dials.len(), 2);
        sim.finish();
    }
}
