//! Consuming in the framed dialect (docs/protocol/framed.md 5).

use std::time::Duration;

use fibp_proto::{Request, Response};
use fila_test_broker::{Ending, Faults};

use crate::world::{FRAMED, World};

#[test]
fn one_message_per_delivery() {
    let mut world = World::orders();
    let client = world.connect(FRAMED);
    world.fill(client, "orders", 3);
    let consume = Request::Consume {
        queue: "orders".into(),
        credit: 0,
    };
    let Response::Consume { consumer_id } = world.call(client, consume) else {
        panic!("not consuming");
    };
    assert_eq!(consumer_id.expect("framed consumers have ids").len(), 36);
    let pushes = world.pushes();
    let sizes: Vec<usize> = pushes.iter().map(|(.., batch)| batch.len()).collect();
    assert_eq!(sizes, [1, 1, 1]);
    let delivery = &pushes[0].2[0];
    assert_eq!(
        (delivery.weight, delivery.throttle_keys.as_deref()),
        (Some(1), Some(&[][..]))
    );
    assert_eq!((delivery.enqueued_at_ms, delivery.leased_at_ms), (Some(0), Some(0)));
}

#[test]
fn deliveries_may_be_batched() {
    let mut world = World::faulty(Faults::default().deliveries_per_frame(10));
    let client = world.connect(FRAMED);
    world.fill(client, "orders", 25);
    world.consume(client, "orders", 0);
    let sizes: Vec<usize> = world.pushes().iter().map(|(.., batch)| batch.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 25);
    assert!(sizes.contains(&10), "{sizes:?}");
}

#[test]
fn unread_deliveries_end_at_320() {
    let mut world = World::orders();
    let client = world.connect(FRAMED);
    world.fill(client, "orders", 1000);
    world.consume(client, "orders", 0);
    assert_eq!(world.unwritten_pushes().len(), 256);
    assert_eq!(world.figures("orders").1, 256 + 64);
}

#[test]
fn unknown_queues_can_be_consumed_even_unnamed_ones() {
    let mut world = World::new();
    let client = world.connect(FRAMED);
    world.consume(client, "later", 0);
    world.consume(client, "", 0);
    assert_eq!(world.pushes(), []);
}

#[test]
fn a_second_consume_replaces_the_first_whose_deliveries_follow() {
    let mut world = World::orders();
    world.machine.create_queue("more");
    let client = world.connect(FRAMED);
    world.fill(client, "orders", 300);
    world.fill(client, "more", 1);
    world.consume(client, "orders", 0);
    let first = world.unwritten_pushes();
    let first_id = first[0].1;
    world.consume(client, "more", 0);
    assert_eq!(world.figures("orders"), (300, 300, 0));
    world.machine.pushes_written(world.now, client, first.len());
    let rest = world.pushes();
    let old = rest.iter().filter(|(_, id, _)| *id == first_id).count();
    assert_eq!((first.len() + old, rest.len() - old), (300, 1));
}

#[test]
fn deliveries_follow_a_cancel_unless_switched_off() {
    for (follow, expected) in [(true, 44), (false, 0)] {
        let mut world = World::faulty(Faults::default().deliveries_after_cancel(follow));
        let client = world.connect(FRAMED);
        world.fill(client, "orders", 300);
        world.consume(client, "orders", 0);
        let before = world.unwritten_pushes().len();
        assert_eq!(before, 256);
        world.send(client, Request::CancelConsume);
        world.machine.pushes_written(world.now, client, before);
        assert_eq!(world.pushes().len(), expected);
        let in_flight = 256 + expected as u64;
        assert_eq!(world.figures("orders"), (300, in_flight, 0), "leases are not returned");
        world.advance(Duration::from_secs(31));
        assert_eq!(world.figures("orders").1, 0);
    }
}

#[test]
fn after_a_reset_the_consumer_is_still_handed_messages() {
    let mut world = World::orders();
    let client = world.connect(FRAMED);
    world.consume(client, "orders", 0);
    world.machine.disconnect(world.now, client, Ending::Reset);
    assert_eq!(world.machine.connections(), 0);
    let producer = world.connect(FRAMED);
    world.fill(producer, "orders", 100);
    assert_eq!(world.pushes(), []);
    assert_eq!(world.figures("orders"), (100, 64, 0));
    // A clean end unregisters at once.
    let client = world.connect(FRAMED);
    world.consume(client, "orders", 0);
    assert_eq!(world.deliveries().len(), 36);
    world.disconnect(client);
    assert_eq!(world.figures("orders").2, 0);
}
