//! When leases end, and what becomes of deliveries whose lease has ended.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use fibp_proto::config::{ConsumerSettings, Expired};
use fibp_proto::machine::{ChannelId, Machine};
use fibp_proto::{Dialect, Event};

use crate::consumers::{prefetch, subscribed};
use crate::harness::{ConsumerSim, Mode, P1, P3, in_every_mode};

const LEASE: Duration = Duration::from_secs(3);

fn stated(deliveries: usize) -> ConsumerSettings {
    prefetch(deliveries).visibility_timeout(LEASE).idle_resubscribe(None)
}

/// A consumer that is handed everything.
fn handed_all(deliveries: usize) -> ConsumerSettings {
    stated(deliveries).expired(Expired::Deliver)
}

fn deadlines(sim: &mut ConsumerSim, max: usize) -> Vec<Duration> {
    let base = sim.base;
    sim.take(max)
        .iter()
        .map(|lease| lease.deadline.unwrap() - base)
        .collect()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn after_silence_a_lease_begins_when_the_reader_is_woken() {
    for dialect in [P1, P3, Dialect::Handshake] {
        in_every_mode(|mode| {
            let mut sim = subscribed(handed_all(10), dialect, mode);
            for at in [5, 10, 300] {
                sim.advance(secs(at) - sim.at());
                sim.push(&["m"; 3]);
                assert!(sim.wait_delivery());
                let taken = sim.take(9);
                assert!(taken.iter().all(|lease| lease.deadline == Some(sim.now + LEASE)));
                assert_eq!(taken.len(), 3);
                sim.release(&taken);
            }
            sim
        });
    }
}

#[test]
fn what_may_have_arrived_in_a_pause_began_with_the_pause() {
    // In other modes the socket is not empty after a short read, as real ones are.
    let mut sim = subscribed(handed_all(2), P1, Mode::Whole);
    sim.advance_secs(10);
    sim.push(&["1", "2"]);
    sim.settle();
    assert!(!sim.machine.wants_read(ChannelId::MAIN));
    sim.advance_secs(1);
    sim.push(&["3"]);
    sim.advance_secs(4);
    assert_eq!(deadlines(&mut sim, 2), [secs(10) + LEASE; 2]);
    assert!(sim.wait_delivery());
    let early = deadlines(&mut sim, 2);
    assert_eq!(early, [secs(10) + LEASE], "it may be as old as the pause");

    // The reader finds the socket empty again, and sleeps.
    assert!(!sim.wait_delivery());
    sim.advance_secs(100);
    sim.push(&["4"]);
    assert!(sim.wait_delivery());
    assert_eq!(deadlines(&mut sim, 2), [secs(115) + LEASE]);
    sim.finish();
}

#[test]
fn a_pause_without_news_does_not_age_what_comes_after_it() {
    let mut sim = subscribed(handed_all(2), P1, Mode::Whole);
    sim.push(&["1", "2"]);
    sim.settle();
    sim.advance_secs(20);
    assert_eq!(sim.take(2).len(), 2);
    assert!(!sim.wait_delivery(), "reads again, and finds nothing");
    sim.advance_secs(20);
    sim.push(&["3"]);
    assert!(sim.wait_delivery());
    assert_eq!(deadlines(&mut sim, 2), [secs(40) + LEASE]);
    sim.finish();
}

#[test]
fn all_of_a_burst_shares_its_beginning() {
    let mut sim = subscribed(handed_all(3), P1, Mode::Whole);
    sim.advance_secs(5);
    for _ in 0..4 {
        sim.push(&["m"; 3]);
    }
    let mut seen = 0;
    while sim.wait_delivery() {
        for deadline in deadlines(&mut sim, 3) {
            assert_eq!(deadline, secs(5) + LEASE);
            seen += 1;
        }
        sim.advance_secs(1);
    }
    assert_eq!(seen, 12);
    sim.finish();
}

#[test]
fn what_expired_before_it_is_handed_out_is_skipped() {
    in_every_mode(|mode| {
        let mut sim = subscribed(stated(100), P1, mode);
        sim.push(&["m"; 10]);
        sim.settle();
        assert_eq!(sim.take(4).len(), 4);
        sim.advance(LEASE);
        assert!(sim.take(4).is_empty());
        assert!(!sim.wait_delivery());
        assert_eq!(sim.shared.stats().expired, 6);
        sim.push(&["n"; 2]);
        assert!(sim.wait_delivery());
        assert_eq!(sim.take(4).len(), 2, "the next burst is fresh");
        let events: Vec<_> = sim
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Expired { skipped, .. } => Some(*skipped),
                _ => None,
            })
            .collect();
        assert_eq!(events, [6], "one for the burst");
        sim
    });
}

#[test]
fn without_a_stated_timeout_or_by_choice_everything_is_handed_out() {
    let unstated = prefetch(100).idle_resubscribe(None);
    for settings in [unstated, handed_all(100)] {
        let mut sim = subscribed(settings, P1, Mode::Whole);
        sim.push(&["m"; 10]);
        sim.settle();
        sim.advance_secs(60);
        assert_eq!(sim.take(100).len(), 10);
        assert_eq!(sim.shared.stats().expired, 0);
        sim.finish();
    }
}

#[test]
fn what_is_skipped_gives_its_credit_back() {
    let mut sim = subscribed(stated(10), P3, Mode::Whole);
    sim.push(&["m"; 10]);
    sim.settle();
    sim.advance(LEASE);
    assert!(sim.take(10).is_empty());
    sim.settle();
    let flow = sim.asked_ops().iter().filter(|op| *op == "Flow").count();
    assert_eq!(flow, 1);
    sim.finish();
}

#[test]
fn a_handler_that_was_slow_once_is_given_fresh_deliveries() {
    let mut sim = subscribed(stated(10), P1, Mode::Whole);
    sim.push(&["slow"]);
    sim.settle();
    assert_eq!(sim.take(1).len(), 1);
    sim.advance_secs(100);
    sim.push(&["next"]);
    sim.settle();
    assert_eq!(sim.take(1).len(), 1);
    sim.finish();
}

/// A queue of 40 messages whose leases last a second.
struct Work {
    waiting: VecDeque<String>,
    leased: BTreeMap<String, Instant>,
    /// The most that the server leases to a consumer.
    window: usize,
}

impl Work {
    /// The server hands out what it has, in pushes of up to ten, and again what was not acked within its lease.
    fn push(&mut self, sim: &mut ConsumerSim) {
        let now = sim.now;
        let expired = self.leased.iter().filter(|(_, ends)| **ends <= now);
        let expired: Vec<_> = expired.map(|(name, _)| name.clone()).collect();
        for name in expired {
            self.leased.remove(&name);
            self.waiting.push_back(name);
        }
        while !self.waiting.is_empty() && self.leased.len() < self.window {
            let n = self.waiting.len().min(10).min(self.window - self.leased.len());
            let names: Vec<_> = self.waiting.drain(..n).collect();
            let ends = now + secs(1);
            self.leased.extend(names.iter().map(|name| (name.clone(), ends)));
            sim.push(&names.iter().map(String::as_str).collect::<Vec<_>>());
        }
        sim.settle();
    }
}

#[test]
fn a_slow_handler_works_on_what_it_still_holds() {
    for dialect in [P1, P3, Dialect::Handshake] {
        for window in [256, 8] {
            let settings = prefetch(window).visibility_timeout(secs(1));
            let mut sim = subscribed(settings, dialect, Mode::Whole);
            let mut work = Work {
                waiting: (0..40).map(|n| format!("{n}")).collect(),
                leased: BTreeMap::new(),
                window: if dialect == P3 { window } else { 256 },
            };
            let (mut handled, mut done) = (0, 0);
            while done < 40 {
                assert!(sim.at() < secs(60), "{done} of 40 done");
                work.push(&mut sim);
                let Some(lease) = sim.take(1).pop() else {
                    sim.wait_delivery();
                    sim.advance_ms(10);
                    continue;
                };
                // The server goes on while the message is handled.
                for _ in 0..15 {
                    sim.advance_ms(10);
                    work.push(&mut sim);
                }
                handled += 1;
                let name = String::from_utf8_lossy(&lease.received.payload).into_owned();
                done += usize::from(work.leased.remove(&name).is_some());
                sim.release(&[lease]);
            }
            assert!(handled <= 44, "{handled} handled with prefetch {window} on {dialect}");
            sim.finish();
        }
    }
}
