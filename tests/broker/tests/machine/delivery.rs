//! Who gets which message, and how credit paces it (docs/protocol/preamble.md 1.6, 1.7 and 1.14).

use fibp_proto::message::Message;
use fibp_proto::{Request, Response};
use fila_test_broker::{ConnectionId, Faults, Output};

use crate::world::{P1, P2, P3, WALL_MS, World};

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn ids_are_ascending_uuids_of_the_wall_clock() {
    let mut world = World::orders();
    let client = world.connect(P1);
    let ids = world.enqueue(client, "orders", &["a", "b"]);
    assert!(ids[0] < ids[1]);
    let time = format!("{WALL_MS:012x}");
    assert_eq!(ids[0].as_str()[..13], format!("{}-{}", &time[..8], &time[8..]));
}

#[test]
fn the_answer_comes_before_the_pushes_it_causes() {
    let mut world = World::orders();
    let client = world.connect(P1);
    world.consume(client, "orders", 10);
    world.send(client, Request::Enqueue(vec![Message::new("orders", "x")]));
    let outputs = world.outputs();
    assert!(
        matches!(
            &outputs[..],
            [
                Output::Answer {
                    response: Response::Enqueue(_),
                    ..
                },
                Output::Push { .. }
            ]
        ),
        "{outputs:?}"
    );
}

#[test]
fn batches_hold_at_most_64() {
    let mut world = World::orders();
    let client = world.connect(P1);
    world.fill(client, "orders", 150);
    world.consume(client, "orders", 1000);
    let sizes: Vec<usize> = world.pushes().iter().map(|(.., batch)| batch.len()).collect();
    assert_eq!(sizes, [64, 64, 22]);
}

#[test]
fn a_key_is_first_in_first_out() {
    let mut world = World::orders();
    let client = world.connect(P1);
    world.fill(client, "orders", 300);
    world.consume(client, "orders", 1000);
    assert_eq!(world.payloads(), numbers(0..300));
}

#[test]
fn keys_take_turns() {
    let mut world = World::with(|settings| {
        settings.fairness_header = Some("tenant".to_owned());
        settings.quantum = 2;
    });
    world.machine.create_queue("orders");
    let client = world.connect(P1);
    let message = |tenant: &str, payload: &'static str| Message::new("orders", payload).header("tenant", tenant);
    let messages = vec![
        message("a", "a1"),
        message("a", "a2"),
        message("a", "a3"),
        message("b", "b1"),
        Message::new("orders", "d1"),
        message("b", "b2"),
        message("b", "b3"),
    ];
    world.enqueue_results(client, messages);
    world.consume(client, "orders", 100);
    let deliveries = world.deliveries();
    let order: Vec<&[u8]> = deliveries.iter().map(|delivery| &delivery.payload[..]).collect();
    assert_eq!(order, [b"a1", b"a2", b"b1", b"b2", b"d1", b"a3", b"b3"]);
    assert_eq!(&*deliveries[0].fairness_key, "a");
    assert_eq!(&*deliveries[4].fairness_key, "default");
}

#[test]
fn consumers_take_turns() {
    let mut world = World::orders();
    let (first, second) = (world.connect(P1), world.connect(P1));
    world.consume(first, "orders", 100);
    world.consume(second, "orders", 100);
    world.fill(first, "orders", 4);
    let mut shares: Vec<(ConnectionId, Vec<String>)> = world
        .pushes()
        .into_iter()
        .map(|(consumer, _, batch)| {
            let payloads = batch
                .iter()
                .map(|delivery| String::from_utf8_lossy(&delivery.payload).into_owned());
            (consumer, payloads.collect())
        })
        .collect();
    shares.sort();
    assert_eq!(
        shares,
        [
            (first, vec!["0".to_owned(), "2".to_owned()]),
            (second, vec!["1".to_owned(), "3".to_owned()])
        ]
    );
}

#[test]
fn without_credit_128_are_leased_and_none_pushed() {
    let mut world = World::orders();
    let client = world.connect(P1);
    world.fill(client, "orders", 300);
    world.consume(client, "orders", 0);
    assert_eq!(world.pushes(), []);
    assert_eq!(world.figures("orders"), (300, 128, 1));
}

#[test]
fn unread_pushes_end_at_64_frames() {
    let mut world = World::orders();
    let client = world.connect(P1);
    world.fill(client, "orders", 10_000);
    world.consume(client, "orders", u32::MAX);
    assert_eq!(world.unwritten_pushes().len(), 64);
    assert_eq!(world.figures("orders").1, 64 * 64 + 128);
    world.machine.pushes_written(world.now, client, 1);
    assert_eq!(world.unwritten_pushes().len(), 1);
}

#[test]
fn credit_is_one_per_message_and_settling_returns_none() {
    let mut world = World::orders();
    let client = world.connect(P3);
    world.fill(client, "orders", 5);
    world.consume(client, "orders", 2);
    let delivered = world.deliveries();
    assert_eq!(delivered.len(), 2);
    world.ack(client, "orders", &delivered[0].id).expect("leased");
    world.nack(client, "orders", &delivered[1].id).expect("leased");
    assert_eq!(world.payloads(), [""; 0]);
    world.flow(client, 1);
    assert_eq!(world.payloads(), ["2"]);
}

#[test]
fn credit_wraps() {
    let mut world = World::orders();
    let client = world.connect(P3);
    world.consume(client, "orders", u32::MAX);
    world.flow(client, 3);
    world.fill(client, "orders", 5);
    assert_eq!(world.payloads(), numbers(0..2));
}

#[test]
fn bug_1_loses_the_surplus_until_its_leases_expire() {
    for (dialect, faults, lost) in [
        (P1, Faults::default(), true),
        (P2, Faults::default(), true),
        (P3, Faults::default(), false),
        (P1, Faults::default().credit_loss(false), false),
        (P3, Faults::default().credit_loss(true), true),
    ] {
        let mut world = World::faulty(faults);
        let client = world.connect(dialect);
        world.fill(client, "orders", 10);
        world.consume(client, "orders", 4);
        assert_eq!(world.payloads(), numbers(0..4));
        world.flow(client, 100);
        let expected = if lost { 0 } else { 6 };
        assert_eq!(world.payloads().len(), expected, "{dialect} {lost}");
        assert_eq!(world.figures("orders").1, 10);
        world.advance(std::time::Duration::from_secs(31));
        let again = world.deliveries();
        assert_eq!(again.len(), 10);
        assert!(again.iter().all(|delivery| delivery.attempt_count == 1));
    }
}

#[test]
fn bug_2_ends_the_session_silently() {
    let mut world = World::with(|settings| settings.max_frame_size = 1000);
    world.machine.create_queue("orders");
    let client = world.connect(P1);
    world.consume(client, "orders", 100);
    let payload = "x".repeat(300);
    world.enqueue(client, "orders", &[payload.as_str(); 3]);
    assert_eq!(world.pushes(), []);
    world.enqueue(client, "orders", &["small"]);
    assert_eq!(world.pushes(), [], "pushing has ended");
    let queue = "orders".into();
    let refusal = world.refused(client, Request::Consume { queue, credit: 1 });
    assert_eq!(refusal.text(), "consume session already active on this connection");

    // A frame of exactly the limit is pushed; a push costs 64 bytes besides the payload.
    let other = world.connect(P1);
    world.consume(other, "orders", 100);
    world.deliveries();
    let payload = "x".repeat(1000 - 64);
    world.enqueue(other, "orders", &[&payload]);
    assert_eq!(world.deliveries().len(), 1);
    world.enqueue(other, "orders", &[&format!("{payload}x")]);
    assert_eq!(world.deliveries().len(), 0);
}

#[test]
fn without_bug_2_batches_are_split() {
    let mut world = World::with(|settings| {
        settings.max_frame_size = 1000;
        settings.faults = Faults::default().oversized_push_kills(false);
    });
    world.machine.create_queue("orders");
    let client = world.connect(P1);
    world.consume(client, "orders", 100);
    let (payload, large) = ("x".repeat(300), "x".repeat(2000));
    world.enqueue(client, "orders", &[&payload, &payload, &payload, &large, "last"]);
    let sizes: Vec<usize> = world.pushes().iter().map(|(.., batch)| batch.len()).collect();
    assert_eq!(sizes, [2, 1, 1, 1]);
}

#[test]
fn unknown_queues_can_be_consumed_and_may_appear() {
    let mut world = World::new();
    let client = world.connect(P1);
    world.consume(client, "later", 10);
    world.machine.create_queue("later");
    world.enqueue(client, "later", &["a"]);
    assert_eq!(world.payloads(), ["a"]);
    // Deleting does not end the session.
    let queue = "later".into();
    assert_eq!(
        world.call(client, Request::DeleteQueue { queue }),
        Response::DeleteQueue
    );
    world.machine.create_queue("later");
    world.enqueue(client, "later", &["b"]);
    assert_eq!(world.payloads(), ["b"]);
}

#[test]
fn a_connection_consumes_once() {
    let mut world = World::orders();
    let client = world.connect(P1);
    let empty = Request::Consume {
        queue: "".into(),
        credit: 1,
    };
    assert_eq!(
        world.refused(client, empty.clone()).text(),
        "queue name must not be empty"
    );
    world.consume(client, "orders", 1);
    let active = "consume session already active on this connection";
    assert_eq!(world.refused(client, empty).text(), active);
}

#[test]
fn of_duplicate_headers_the_last_wins() {
    let mut world = World::orders();
    let client = world.connect(P1);
    let headers = [("k", "first"), ("other", "x"), ("k", "last")];
    let mut message = Message::new("orders", "x");
    message.headers = headers.into_iter().collect();
    world.enqueue_results(client, vec![message]);
    world.consume(client, "orders", 1);
    let delivery = world.deliveries().remove(0);
    assert_eq!(delivery.headers.len(), 2);
    assert_eq!(delivery.headers.get("k"), Some("last"));
}

#[test]
fn items_that_cannot_be_stored_say_so() {
    let mut world = World::orders();
    let client = world.connect(P1);
    let refusal = |results: Vec<fibp_proto::response::ItemResult<fibp_proto::MessageId>>| {
        let texts: Vec<(Option<u16>, String)> = results
            .into_iter()
            .map(|result| result.expect_err("refused"))
            .map(|refusal| (refusal.code(), refusal.text().to_owned()))
            .collect();
        texts
    };
    let nowhere = world.enqueue_results(client, vec![Message::new("nope", "x"), Message::new("nope", "y")]);
    assert_eq!(
        refusal(nowhere),
        [(Some(1), "nope".to_owned()), (Some(1), "nope".to_owned())]
    );
    let unnamed = world.enqueue_results(client, vec![Message::new("", "x"), Message::new("", "y")]);
    assert_eq!(
        refusal(unnamed),
        [(Some(1), "queue name must not be empty".to_owned())],
        "one result for two messages"
    );
    assert_eq!(world.enqueue_results(client, vec![]), []);
}

#[test]
fn slow_refill_waits_for_a_command_or_for_idleness() {
    let mut world = World::faulty(Faults::default().slow_refill(true));
    let client = world.connect(P1);
    world.fill(client, "orders", 300);
    world.consume(client, "orders", 1000);
    let mut received = world.payloads().len();
    assert!(received < 300, "{received}");
    world.advance(std::time::Duration::from_millis(99));
    assert_eq!(world.payloads().len(), 0);
    world.advance(std::time::Duration::from_millis(1));
    let refilled = world.payloads().len();
    assert!(refilled > 0);
    received += refilled;
    while received < 300 {
        world.send(client, Request::ListQueues);
        let answer = world.machine.poll_output();
        assert!(matches!(answer, Some(Output::Answer { .. })), "{answer:?}");
        let refilled = world.payloads().len();
        assert!(refilled > 0);
        received += refilled;
    }
    assert_eq!(received, 300);
}
