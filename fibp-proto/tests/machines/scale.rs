//! Many callers at once: to let one of them go costs the same however many there are.
//!
//! Each of these would take minutes if it looked at all the others.

use fibp_proto::config::{Batching, ProducerSettings};
use fibp_proto::machine::CallId;
use fibp_proto::{Config, Message};

use crate::batching::mute;
use crate::calls::stats;
use crate::harness::{Mode, Sim, Token, config};

const CALLS: usize = 100_000;

fn roomy() -> Config {
    config().request_timeout(None).max_in_flight(CALLS + 1, usize::MAX)
}

/// Every second of them from the middle outwards, then the rest: no end of any line is near.
fn drop_all(sim: &mut Sim, calls: Vec<(Token, CallId)>) {
    let half = calls.len() / 2;
    let (front, back) = calls.split_at(half);
    let outwards = || front.iter().rev().zip(back).flat_map(|(before, after)| [before, after]);
    for parity in 0..2 {
        for (token, id) in outwards().skip(parity).step_by(2) {
            sim.abandon(*token, *id);
        }
    }
}

fn enqueue_all(sim: &mut Sim, calls: usize) -> Vec<(Token, CallId)> {
    (0..calls).map(|_| sim.enqueue_within("orders", "", None)).collect()
}

#[test]
fn a_hundred_thousand_messages_in_flight_are_dropped() {
    let mut sim = mute(roomy().batching(Batching::Disabled), Mode::Whole);
    let calls = enqueue_all(&mut sim, CALLS);
    sim.settle();
    assert_eq!(sim.in_flight(), CALLS);
    drop_all(&mut sim, calls);
    sim.finish();
}

#[test]
fn a_hundred_thousand_messages_in_line_are_dropped() {
    let mut sim = mute(roomy(), Mode::Whole);
    let first = enqueue_all(&mut sim, 1);
    sim.settle();
    let calls = enqueue_all(&mut sim, CALLS);
    drop_all(&mut sim, calls);
    sim.settle();
    assert_eq!(sim.in_flight(), 1, "the others were not sent");
    for (token, id) in first {
        sim.abandon(token, id);
    }
    sim.finish();
}

#[test]
fn a_hundred_thousand_messages_in_line_for_room_are_dropped() {
    let mut sim = mute(roomy().max_in_flight(1, usize::MAX), Mode::Whole);
    let calls = enqueue_all(&mut sim, CALLS);
    sim.settle();
    assert_eq!(sim.in_flight(), 1);
    drop_all(&mut sim, calls);
    sim.finish();
}

#[test]
fn fifty_thousand_calls_are_dropped_in_flight_and_in_line() {
    let mut sim = mute(roomy(), Mode::Whole);
    let calls = |sim: &mut Sim| (0..CALLS / 2).map(|_| sim.call_within(stats(), None)).collect();
    let sent: Vec<_> = calls(&mut sim);
    sim.settle();
    assert_eq!(sim.in_flight(), sent.len());
    let unsent = calls(&mut sim);
    drop_all(&mut sim, unsent);
    drop_all(&mut sim, sent);
    assert_eq!(sim.in_flight(), 0);
    sim.finish();
}

#[test]
fn fifty_thousand_lists_are_dropped() {
    let mut sim = mute(roomy(), Mode::Whole);
    let lists = (0..CALLS / 2).map(|_| {
        let token = sim.token();
        let list = vec![Message::new("orders", ""), Message::new("orders", "")];
        (token, sim.machine.enqueue_many(sim.now, list, None, token))
    });
    let lists = lists.collect();
    drop_all(&mut sim, lists);
    sim.settle();
    assert_eq!(sim.in_flight(), 0, "nothing was sent");
    sim.finish();
}

#[test]
fn ten_thousand_producers_wait_for_flushes_and_drop_them() {
    let mut sim = mute(roomy().batching(Batching::Disabled), Mode::Whole);
    let producers: Vec<_> = (0..10_000).map(|_| sim.producer(ProducerSettings::default())).collect();
    let mut receipts = Vec::new();
    let mut flushes = Vec::new();
    for producer in producers {
        let (admitted, receipt, _) = sim.send(producer, "x");
        sim.settle();
        assert!(sim.room(admitted).is_ok());
        receipts.push(receipt);
        let token = sim.token();
        flushes.push((token, sim.machine.flush(sim.now, producer, None, token)));
    }
    drop_all(&mut sim, flushes);
    assert_eq!(sim.in_flight(), receipts.len(), "the messages are not withdrawn");
    sim.advance_secs(3_600);
    sim.finish();
}
