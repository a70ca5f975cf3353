//! Lost connections: when and where to dial again, and when not.

use std::time::Duration;

use fibp_proto::config::{Backoff, ConsumerSettings, Reconnect};
use fibp_proto::event::State;
use fibp_proto::fault::FaultKind;
use fibp_proto::frame::Transmit;
use fibp_proto::machine::{ChannelId, Machine};
use fibp_proto::response::ServerError;
use fibp_proto::typed::Heartbeat;
use fibp_proto::{Config, ErrorKind, Event, Fault, Op, Outcome, Response};

use crate::calls::connected;
use crate::consumers::subscribed;
use crate::harness::{Mode, P1, Sim, config, in_every_mode};
use crate::host::{Act, End, Host, obliging};

fn backoff(initial_ms: u64, max_ms: u64, max_attempts: Option<u32>) -> Config {
    config().reconnect(Reconnect::Backoff(Backoff {
        initial: Duration::from_millis(initial_ms),
        max: Duration::from_millis(max_ms),
        max_attempts,
    }))
}

/// Connected, then cut off from everything.
fn cut_off(config: Config) -> Sim {
    let mut sim = connected(config, Mode::Whole, P1);
    sim.dialed = Box::new(|_, _| Host::Refused(FaultKind::Refused));
    sim.socket().end(End::Reset);
    sim.settle();
    sim
}

fn delays(sim: &Sim) -> Vec<(u32, Duration)> {
    sim.events
        .iter()
        .filter_map(|event| match event {
            Event::Reconnecting { attempt, delay, .. } => Some((*attempt, *delay)),
            _ => None,
        })
        .collect()
}

#[test]
fn pauses_are_drawn_between_zero_and_a_doubling_bound() {
    let mut seen = Vec::new();
    for seed in 0..20 {
        let shared_config = backoff(100, 3_000, None).dialect(P1);
        let mut sim = Sim::new(shared_config, Mode::Whole, |shared, now, token| {
            fibp_proto::requests::Requests::new(shared, now, seed, Some(token))
        });
        sim.settle();
        assert!(sim.opened().is_ok());
        sim.dialed = Box::new(|_, _| Host::Refused(FaultKind::Refused));
        sim.socket().end(End::Eof);
        sim.advance_secs(60);
        let delays = delays(&sim);
        assert!(delays.len() > 10, "{}", delays.len());
        for (n, (attempt, delay)) in delays.iter().enumerate() {
            assert_eq!(*attempt as usize, n + 1);
            let bound = Duration::from_millis((100_u64 << n.min(20)).min(3_000));
            assert!(*delay <= bound, "attempt {attempt} waits {delay:?}");
        }
        seen.push(delays[5].1);
        sim.finish();
    }
    seen.sort_unstable();
    assert!(
        seen[0] < Duration::from_millis(900) && seen[19] > Duration::from_millis(2_100),
        "{seen:?}"
    );
    seen.dedup();
    assert!(seen.len() > 15, "every seed draws its own");
}

#[test]
fn the_first_pause_is_bounded_as_configured() {
    for initial in [10, 20_000] {
        let mut longest = Duration::ZERO;
        for seed in 0..20 {
            let mut sim = Sim::new(
                backoff(initial, 30_000, None).dialect(P1),
                Mode::Whole,
                |shared, now, token| fibp_proto::requests::Requests::new(shared, now, seed, Some(token)),
            );
            sim.settle();
            assert!(sim.opened().is_ok());
            sim.dialed = Box::new(|_, _| Host::Refused(FaultKind::Refused));
            sim.socket().end(End::Eof);
            sim.settle();
            longest = longest.max(delays(&sim)[0].1);
            sim.finish();
        }
        let bound = Duration::from_millis(initial);
        assert!(longest <= bound && longest > bound / 2, "{longest:?} of {bound:?}");
    }
}

#[test]
fn the_same_seed_draws_the_same_pauses() {
    let [first, second] = [0, 1].map(|_| {
        let mut sim = cut_off(backoff(100, 3_000, None));
        sim.advance_secs(20);
        let delays = delays(&sim);
        sim.finish();
        delays
    });
    assert_eq!(first, second);
}

#[test]
fn state_and_events_tell_the_story() {
    let mut sim = cut_off(backoff(100, 100, None));
    assert_eq!(sim.shared.state(), State::Reconnecting);
    sim.dialed = Box::new(|_, _| Host::p1());
    sim.advance_secs(1);
    assert_eq!(sim.shared.state(), State::Connected);
    let story: Vec<_> = sim
        .events
        .iter()
        .map(|event| match event {
            Event::Connected { .. } => "connected",
            Event::Disconnected { .. } => "disconnected",
            Event::Reconnecting { .. } => "reconnecting",
            _ => "other",
        })
        .collect();
    assert_eq!(story.first(), Some(&"connected"));
    assert_eq!(&story[1..3], ["disconnected", "reconnecting"]);
    assert_eq!(story.last(), Some(&"connected"));
    let stats = sim.shared.stats();
    assert_eq!((stats.connections, stats.disconnects), (2, 1));
    sim.finish();
}

#[test]
fn servers_are_tried_in_turn() {
    let servers = Config::new("a:1,b:2,c:3").reconnect(Reconnect::Backoff(Backoff {
        initial: Duration::from_millis(100),
        max: Duration::from_millis(100),
        max_attempts: None,
    }));
    let mut sim = connected(servers, Mode::Whole, P1);
    sim.dialed = Box::new(|_, _| Host::Refused(FaultKind::Refused));
    sim.socket().end(End::Eof);
    sim.advance_secs(1);
    let hosts: Vec<_> = sim.dials.iter().map(|(_, endpoint)| endpoint.host.as_str()).collect();
    assert_eq!(&hosts[..7], ["a", "b", "c", "a", "b", "c", "a"]);
    let at: Vec<_> = sim.dials.iter().map(|(at, _)| *at).collect();
    assert_eq!(at[1], at[2], "the others of the list at once");
    sim.finish();
}

#[test]
fn a_server_that_drops_every_connection_is_not_dialed_without_a_pause() {
    for servers in ["a:1", "a:1,b:2"] {
        let mut sim = Sim::requests(
            Config::new(servers).dialect(P1).reconnect(Reconnect::Backoff(Backoff {
                initial: Duration::from_millis(100),
                max: Duration::from_secs(30),
                max_attempts: None,
            })),
            Mode::Whole,
        );
        sim.dialed = Box::new(|_, _| Host::Raw(b"FIBP\x01\0".to_vec(), Some(End::Eof)));
        sim.advance_secs(60);
        assert!(sim.opened().is_ok());
        assert!(sim.dials.len() < 40, "{} dials in a minute", sim.dials.len());
        sim.finish();
    }
}

#[test]
fn success_resets_the_pauses() {
    let mut sim = connected(backoff(100, 30_000, None), Mode::Whole, P1);
    for _ in 0..20 {
        let sent = sim.enqueue("orders", "m");
        sim.settle();
        assert!(sim.enqueued(sent).is_ok());
        sim.socket().end(End::Eof);
        sim.advance_ms(150);
        assert!(sim.socket.is_some(), "back within the first bound");
    }
    assert!(delays(&sim).iter().all(|(attempt, _)| *attempt == 1));
    sim.finish();
}

#[test]
fn calls_made_while_disconnected_wait_until_their_deadline() {
    let mut sim = cut_off(backoff(100, 1_000, None));
    let (early, _) = sim.enqueue_within("orders", "early", Some(2_000));
    let late = sim.enqueue("orders", "late");
    let (call, _) = sim.call_within(Heartbeat {}, Some(2_000));
    sim.advance_secs(2);
    let failed = sim.enqueued(early).unwrap_err();
    assert_eq!(
        (failed.kind(), failed.outcome()),
        (ErrorKind::Timeout, Outcome::NotSent)
    );
    assert!(failed.to_string().contains("scripted"), "it says why: {failed}");
    assert_eq!(sim.response(call).unwrap_err().outcome(), Outcome::NotSent);
    assert!(sim.is_open(late));
    sim.dialed = Box::new(|_, _| Host::p1());
    sim.advance_secs(1);
    assert!(sim.enqueued(late).is_ok());
    assert_eq!(sim.asked_ops(), ["Enqueue"], "what timed out is not sent");
    sim.finish();
}

#[test]
fn never_means_that_the_first_loss_closes_the_client() {
    in_every_mode(|mode| {
        let mut sim = connected(config().reconnect(Reconnect::Never), mode, P1);
        sim.serve = Box::new(|_, _| Act::Silence);
        let pending = sim.enqueue("orders", "m");
        sim.settle();
        sim.socket().end(End::Eof);
        sim.advance_secs(60);
        assert_eq!(sim.enqueued(pending).unwrap_err().outcome(), Outcome::Unknown);
        let late = sim.enqueue("orders", "late");
        sim.settle();
        let failed = sim.enqueued(late).unwrap_err();
        assert_eq!((failed.kind(), failed.outcome()), (ErrorKind::Closed, Outcome::NotSent));
        assert!(!failed.is_retryable());
        let text = failed.to_string();
        assert!(
            text.contains("gave up 60 s ago: ") && text.contains("the server closed"),
            "{text}"
        );
        assert_eq!(sim.shared.state(), State::Closed);
        assert_eq!(sim.dials.len(), 1);
        sim
    });
}

#[test]
fn never_still_tries_every_server_for_the_first_connection() {
    let mut sim = Sim::requests(
        Config::new("a:1,b:2,c:3").dialect(P1).reconnect(Reconnect::Never),
        Mode::Whole,
    );
    sim.dialed = Box::new(|endpoint, _| match endpoint.host.as_str() {
        "c" => Host::p1(),
        _ => Host::Refused(FaultKind::Refused),
    });
    sim.settle();
    assert!(sim.opened().is_ok());
    sim.finish();

    let mut sim = Sim::requests(Config::new("a:1,b:2").reconnect(Reconnect::Never), Mode::Whole);
    sim.dialed = Box::new(|_, _| Host::Refused(FaultKind::Refused));
    sim.settle();
    assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::Connect);
    assert_eq!(sim.dials.len(), 2);
    sim.finish();
}

#[test]
fn attempts_can_be_bounded() {
    let mut sim = cut_off(backoff(10, 10, Some(3)));
    let waiting = sim.enqueue("orders", "m");
    sim.advance_secs(2);
    assert_eq!(sim.shared.state(), State::Closed);
    let failed = sim.enqueued(waiting).unwrap_err();
    assert_eq!(failed.outcome(), Outcome::NotSent);
    assert!(failed.to_string().contains("(2 attempts)"), "{failed}");
    assert_eq!(sim.dials.len(), 1 + 2, "three failures in a row, the loss among them");
    sim.advance_secs(60);
    let late = sim.enqueue("orders", "late");
    sim.settle();
    let failed = sim.enqueued(late).unwrap_err();
    assert_eq!((failed.kind(), failed.is_retryable()), (ErrorKind::Closed, false));
    let text = failed.to_string();
    assert!(
        text.contains(" s ago: connect to ") && text.contains("(2 attempts)"),
        "{text}"
    );
    assert_eq!(sim.dials.len(), 1 + 2);
    sim.finish();
}

#[test]
fn a_failed_link_tries_once_more_for_a_later_call() {
    let mut sim = connected(config().api_key("key"), Mode::Whole, P1);
    sim.serve = Box::new(|request, _| match request.op() {
        Op::Authenticate => Act::AnswerAndClose(Response::Error(ServerError::new(
            ErrorKind::Auth,
            "invalid or missing api key",
        ))),
        _ => obliging(request),
    });
    sim.socket().end(End::Reset);
    sim.advance_secs(2);
    assert_eq!(sim.shared.state(), State::Failed, "the key was revoked");
    let dials = sim.dials.len();
    assert_eq!(dials, 2, "a wrong key is not tried for ever");
    sim.advance_secs(60);
    assert_eq!(sim.dials.len(), dials, "nor by itself");

    for tried in 1..=2 {
        let again = sim.enqueue("orders", "again");
        sim.advance_secs(1);
        assert_eq!(sim.dials.len(), dials + tried, "each call tries once");
        assert_eq!(sim.enqueued(again).unwrap_err().kind(), ErrorKind::Auth);
        assert_eq!(sim.shared.state(), State::Failed);
    }

    sim.advance_secs(10);
    sim.serve = Box::new(|request, _| obliging(request));
    let good = sim.enqueue("orders", "good");
    sim.settle();
    assert!(sim.enqueued(good).is_ok(), "the key is good again");
    assert_eq!(sim.shared.state(), State::Connected);
    sim.finish();
}

#[test]
fn names_that_resolved_once_may_do_so_again() {
    let mut sim = Sim::requests(config(), Mode::Whole);
    sim.dialed = Box::new(|_, _| Host::Refused(FaultKind::Resolve));
    sim.advance_secs(1);
    assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::Resolve, "a typing error");
    assert_eq!(sim.dials.len(), 1);
    sim.finish();

    let mut sim = connected(config(), Mode::Whole, P1);
    sim.dialed = Box::new(|_, n| {
        if n < 5 {
            Host::Refused(FaultKind::Resolve)
        } else {
            Host::p1()
        }
    });
    sim.socket().end(End::Reset);
    sim.advance_secs(10);
    assert_eq!(sim.shared.state(), State::Connected);
    sim.finish();
}

#[test]
fn a_server_that_is_down_beside_one_that_is_wrong() {
    // One will not mend, the other may come back.
    let mut sim = connected(Config::new("a:1,b:2"), Mode::Whole, P1);
    sim.dialed = Box::new(|endpoint, n| match endpoint.host.as_str() {
        "a" if n > 12 => Host::p1(),
        "a" => Host::Refused(FaultKind::Refused),
        _ => Host::Raw(b"HTTP/1.1 400\r\n\r\n".to_vec(), Some(End::Eof)),
    });
    sim.socket().end(End::Reset);
    sim.advance_secs(120);
    assert_eq!(sim.shared.state(), State::Connected);
    sim.finish();
}

#[test]
fn consumers_resubscribe_after_a_loss() {
    for end in [End::Eof, End::Reset] {
        in_every_mode(|mode| {
            let mut sim = subscribed(ConsumerSettings::default(), P1, mode);
            sim.push(&["1"]);
            sim.settle();
            sim.socket().end(end);
            sim.advance_secs(1);
            assert!(
                sim.events
                    .iter()
                    .any(|event| matches!(event, Event::Resubscribed { .. }))
            );
            sim.push(&["2"]);
            sim.settle();
            let leases = sim.take(9);
            assert_eq!((leases.len(), leases[1].sequence), (2, 2));
            assert!(sim.machine.poll_end().is_none(), "a loss is an event, not an item");
            sim
        });
    }
}

#[test]
fn consumers_can_be_told_not_to() {
    let mut sim = subscribed(ConsumerSettings::default().resubscribe(false), P1, Mode::Whole);
    sim.push(&["1"]);
    sim.settle();
    sim.socket().end(End::Eof);
    sim.advance_secs(60);
    assert_eq!(sim.dials.len(), 1);
    assert_eq!(sim.payloads(9), ["1"]);
    let error = sim.machine.poll_end().unwrap().unwrap();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    assert!(matches!(sim.machine.poll_end(), Some(None)));
    sim.finish();
}

#[test]
fn a_consumer_that_cannot_come_back_ends_with_one_error() {
    let mut sim = subscribed(ConsumerSettings::default(), P1, Mode::Whole);
    sim.dialed = Box::new(|_, _| Host::Raw(b"HTTP/1.1 400\r\n\r\n".to_vec(), Some(End::Eof)));
    sim.socket().end(End::Eof);
    let waiting = sim.token();
    sim.machine.wait_delivery(sim.now, waiting);
    sim.advance_secs(5);
    assert!(!sim.is_open(waiting));
    let error = sim.machine.poll_end().unwrap().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFila);
    sim.finish();
}

#[test]
fn what_belongs_to_an_earlier_connection_is_ignored() {
    let mut sim = connected(config(), Mode::Whole, P1);
    let pending = sim.call(Heartbeat {});
    let mut transmit = Transmit::new();
    assert!(sim.machine.take_transmit(sim.now, ChannelId::MAIN, 1024, &mut transmit));
    let mut second = Transmit::new();
    assert!(
        !sim.machine.take_transmit(sim.now, ChannelId::MAIN, 1024, &mut second),
        "one writer at a time"
    );
    let mut buffer = sim.take_buffer(ChannelId::MAIN).unwrap();
    assert!(
        sim.machine.take_read_buffer(ChannelId::MAIN).is_none(),
        "one reader at a time"
    );
    buffer.unfilled()[..4].copy_from_slice(b"\0\0\0\0");
    buffer.advance(4);

    sim.machine.handle_eof(sim.now, ChannelId::MAIN);
    sim.advance_secs(1);
    assert_eq!(sim.dials.len(), 2);
    // The driver of the first connection comes late.
    let sent = sim.shared.stats().bytes_sent;
    sim.machine.handle_input(sim.now, ChannelId::MAIN, buffer);
    let len = transmit.len();
    sim.machine.transmitted(sim.now, ChannelId::MAIN, &mut transmit, len);
    assert!(transmit.is_empty());
    sim.machine
        .transmit_failed(sim.now, ChannelId::MAIN, transmit, Fault::new(FaultKind::Reset, "late"));
    sim.settle();
    assert_eq!(sim.shared.stats().bytes_sent, sent);
    assert_eq!(sim.shared.state(), State::Connected);
    assert!(sim.response(pending).is_ok(), "replayed");
    let next = sim.enqueue("orders", "m");
    sim.settle();
    assert!(sim.enqueued(next).is_ok());
    sim.finish();
}

#[test]
fn inputs_nobody_asked_for_do_nothing() {
    let mut sim = Sim::requests(config(), Mode::Whole);
    sim.dialed = Box::new(|_, _| Host::Unreachable);
    sim.machine.handle_eof(sim.now, ChannelId::MAIN);
    sim.machine
        .handle_transport_error(sim.now, ChannelId::MAIN, Fault::new(FaultKind::Reset, "of nothing"));
    sim.settle();
    assert_eq!(sim.dials.len(), 1);
    assert!(sim.is_open(sim.opened));
    sim.finish();
}

#[test]
fn a_late_dial_result_of_an_earlier_attempt_is_ignored() {
    let mut sim = Sim::requests(config().connect_timeout(Duration::from_secs(2)), Mode::Whole);
    let mut ids = Vec::new();
    while let Some(action) = sim.machine.poll_action(ChannelId::MAIN) {
        if let fibp_proto::machine::Action::Dial { id, .. } = action {
            ids.push(id);
        }
    }
    sim.machine.handle_dial_failed(
        sim.now,
        ChannelId::MAIN,
        ids[0],
        Fault::new(FaultKind::Refused, "first"),
    );
    sim.dialed = Box::new(|_, _| Host::Unreachable);
    sim.advance_ms(500);
    sim.machine.handle_dialed(sim.now, ChannelId::MAIN, ids[0], Ok(None));
    sim.machine.handle_dial_failed(
        sim.now,
        ChannelId::MAIN,
        ids[0],
        Fault::new(FaultKind::Refused, "again"),
    );
    assert!(!sim.machine.wants_read(ChannelId::MAIN));
    sim.advance_secs(2);
    assert_eq!(sim.opened().unwrap_err().kind(), ErrorKind::Timeout);
    sim.finish();
}

#[test]
fn a_failed_write_is_a_loss() {
    let mut sim = connected(config(), Mode::Whole, P1);
    let pending = sim.enqueue("orders", "m");
    let mut transmit = Transmit::new();
    assert!(sim.machine.take_transmit(sim.now, ChannelId::MAIN, 1024, &mut transmit));
    sim.machine.transmitted(sim.now, ChannelId::MAIN, &mut transmit, 3);
    sim.machine.transmit_failed(
        sim.now,
        ChannelId::MAIN,
        transmit,
        Fault::new(FaultKind::Reset, "broken pipe"),
    );
    sim.advance_secs(1);
    assert!(
        sim.enqueued(pending).is_ok(),
        "its last byte was not written: sent again"
    );
    assert_eq!(sim.dials.len(), 2);
    sim.finish();
}
