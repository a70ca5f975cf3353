//! Leases, redelivery and dead letters (docs/protocol/preamble.md 1.8 and 1.14).

use std::time::Duration;

use fibp_proto::admin::QueueSpec;
use fibp_proto::message::MessageId;
use fibp_proto::request::AckItem;
use fibp_proto::response::ItemResult;
use fibp_proto::{Request, Response};
use fila_test_broker::Faults;

use crate::world::{P1, World};

fn text<T: std::fmt::Debug>(result: ItemResult<T>) -> (Option<u16>, String) {
    let refusal = result.expect_err("refused");
    (refusal.code(), refusal.text().to_owned())
}

#[test]
fn settling_what_is_not_leased_is_refused() {
    let mut world = World::orders();
    let client = world.connect(P1);
    let ids = world.enqueue(client, "orders", &["a"]);
    let no_lease = |queue: &str| (Some(1), format!("no lease for message {} in queue {queue}", ids[0]));
    // Not delivered yet, unknown queue.
    assert_eq!(text(world.ack(client, "orders", &ids[0])), no_lease("orders"));
    assert_eq!(text(world.nack(client, "nope", &ids[0])), no_lease("nope"));
    let bogus = MessageId::from("bogus");
    assert_eq!(
        text(world.ack(client, "orders", &bogus)),
        (Some(1), "invalid message_id: bogus".to_owned())
    );
    world.consume(client, "orders", 10);
    world.deliveries();
    // Anyone may settle.
    let other = world.connect(P1);
    assert_eq!(world.ack(other, "orders", &ids[0]), Ok(()));
    assert_eq!(text(world.ack(client, "orders", &ids[0])), no_lease("orders"));
    assert_eq!(world.figures("orders"), (0, 0, 1));
}

#[test]
fn items_are_settled_one_after_another() {
    let mut world = World::orders();
    let client = world.connect(P1);
    let ids = world.enqueue(client, "orders", &["a"]);
    world.consume(client, "orders", 10);
    world.deliveries();
    let item = AckItem {
        queue: "orders".into(),
        id: ids[0].clone(),
    };
    let Response::Ack(results) = world.call(client, Request::Ack(vec![item.clone(), item])) else {
        panic!("not an ack");
    };
    assert!(results[0].is_ok() && results[1].is_err());
    assert_eq!(world.call(client, Request::Ack(vec![])), Response::Ack(vec![]));
}

#[test]
fn a_nack_sends_to_the_back_with_one_more_attempt() {
    let mut world = World::orders();
    let client = world.connect(P1);
    let ids = world.enqueue(client, "orders", &["a"]);
    world.consume(client, "orders", 1);
    world.deliveries();
    // Without credit "b" waits in front of the nacked one.
    world.enqueue(client, "orders", &["b"]);
    assert_eq!(world.nack(client, "orders", &ids[0]), Ok(()));
    world.flow(client, 100);
    let again = world.deliveries();
    assert_eq!(&again[0].payload[..], b"b");
    assert_eq!((&again[1].id, again[1].attempt_count), (&ids[0], 1));
}

#[test]
fn leases_expire_after_30_seconds_by_default() {
    let mut world = World::orders();
    let client = world.connect(P1);
    let ids = world.enqueue(client, "orders", &["a"]);
    world.consume(client, "orders", 10);
    assert_eq!(world.deliveries().len(), 1);
    world.advance(Duration::from_millis(29_999));
    assert_eq!(world.deliveries().len(), 0);
    world.advance(Duration::from_millis(1));
    let again = world.deliveries();
    assert_eq!((&again[0].id, again[0].attempt_count), (&ids[0], 1));
    // The new lease counts.
    assert_eq!(world.ack(client, "orders", &ids[0]), Ok(()));
}

#[test]
fn queues_have_their_own_timeout() {
    let mut world = World::new();
    let client = world.connect(P1);
    world.create(
        client,
        QueueSpec::new("quick").visibility_timeout(Duration::from_secs(1)),
    );
    world.enqueue(client, "quick", &["a"]);
    world.consume(client, "quick", 10);
    world.deliveries();
    world.advance(Duration::from_secs(1));
    assert_eq!(world.deliveries().len(), 1);
}

#[test]
fn a_busy_scheduler_reclaims_nothing() {
    let mut world = World::orders();
    let client = world.connect(P1);
    world.enqueue(client, "orders", &["a"]);
    world.consume(client, "orders", 10);
    world.deliveries();
    for _ in 0..700 {
        world.advance(Duration::from_millis(50));
        world.call(client, Request::ListQueues);
    }
    assert_eq!(world.deliveries().len(), 0, "35 s, but never idle for 100 ms");
    // Heartbeats do not reach the scheduler.
    world.advance(Duration::from_millis(50));
    world.call(client, Request::Heartbeat);
    world.advance(Duration::from_millis(50));
    assert_eq!(world.deliveries().len(), 1);
}

#[test]
fn early_timeouts_do_nothing() {
    let mut world = World::orders();
    assert_eq!(world.machine.poll_timeout(), None);
    let client = world.connect(P1);
    world.enqueue(client, "orders", &["a"]);
    world.consume(client, "orders", 10);
    world.deliveries();
    assert_eq!(world.machine.poll_timeout(), Some(world.now + Duration::from_secs(30)));
    world.machine.handle_timeout(world.now);
    assert_eq!(world.outputs(), []);
}

#[test]
fn a_disconnect_keeps_leases() {
    let mut world = World::orders();
    let client = world.connect(P1);
    world.fill(client, "orders", 200);
    world.consume(client, "orders", 10);
    assert_eq!(world.deliveries().len(), 10);
    world.disconnect(client);
    let leased = world.figures("orders").1;
    assert!(leased >= 64, "{leased}");
    // A fresh consumer sees the rest at once, and the leased ones when they expire.
    let fresh = world.connect(P1);
    world.consume(fresh, "orders", 1000);
    assert_eq!(world.deliveries().len() as u64, 200 - leased);
    world.advance(Duration::from_secs(31));
    assert!(world.deliveries().iter().any(|delivery| delivery.attempt_count == 1));
}

#[test]
fn leases_may_return_on_disconnect() {
    let mut world = World::faulty(Faults::default().leases_kept(false));
    let client = world.connect(P1);
    world.fill(client, "orders", 5);
    world.consume(client, "orders", 1000);
    world.deliveries();
    world.disconnect(client);
    assert_eq!(world.figures("orders"), (5, 0, 0));
    let fresh = world.connect(P1);
    world.consume(fresh, "orders", 1000);
    let again = world.deliveries();
    assert_eq!(&again[0].payload[..], b"0");
    assert!(again.iter().all(|delivery| delivery.attempt_count == 0));
}

#[test]
fn a_snapshot_keeps_messages_and_leases() {
    let mut world = World::orders();
    let client = world.connect(P1);
    world.enqueue(client, "orders", &["leased"]);
    world.consume(client, "orders", 10);
    world.deliveries();
    world.disconnect(client);
    let mut kept = world.restarted(world.machine.snapshot());
    assert_eq!(kept.figures("orders"), (1, 1, 0));
    let client = kept.connect(P1);
    kept.consume(client, "orders", 10);
    kept.advance(Duration::from_secs(31));
    assert_eq!(kept.deliveries()[0].attempt_count, 1);

    world.machine.set_faults(Faults::default().leases_kept(false));
    let mut returned = world.restarted(world.machine.snapshot());
    let client = returned.connect(P1);
    returned.consume(client, "orders", 10);
    assert_eq!(returned.deliveries()[0].attempt_count, 0);
}

#[test]
fn messages_of_deleted_queues_reappear_after_a_restart() {
    let mut world = World::orders();
    let client = world.connect(P1);
    world.enqueue(client, "orders", &["a"]);
    let queue = "orders".into();
    world.call(client, Request::DeleteQueue { queue });
    world.machine.create_queue("orders");
    assert_eq!(world.figures("orders").0, 0);
    let world = world.restarted(world.machine.snapshot());
    assert_eq!(world.figures("orders").0, 1);
}

#[test]
fn redrive_moves_what_is_not_leased() {
    let mut world = World::with(|settings| settings.dead_letter_after = Some(2));
    world.machine.create_queue("orders");
    let client = world.connect(P1);
    let ids = world.enqueue(client, "orders", &["a", "b", "c"]);
    world.consume(client, "orders", 1000);
    world.deliveries();
    for _ in 0..2 {
        for id in &ids {
            world.nack(client, "orders", id).expect("leased");
            world.deliveries();
        }
    }
    assert_eq!(world.figures("orders").0, 0);
    assert_eq!(world.figures("orders.dlq"), (3, 0, 0));
    // The attempt count is kept in the dead-letter queue, and a leased message stays there.
    let watcher = world.connect(P1);
    world.consume(watcher, "orders.dlq", 1);
    assert_eq!(world.deliveries()[0].attempt_count, 2);
    world.disconnect(watcher);
    assert_eq!(world.figures("orders.dlq"), (3, 3, 0));
    world.advance(Duration::from_secs(31));
    let redrive = |count| Request::Redrive {
        dlq: "orders.dlq".into(),
        count,
    };
    assert_eq!(world.call(client, redrive(1)), Response::Redrive { redriven: 1 });
    let again = world.deliveries();
    assert_eq!((&again[0].id, again[0].attempt_count), (&ids[0], 0));
    assert_eq!(world.call(client, redrive(0)), Response::Redrive { redriven: 2 });
}
