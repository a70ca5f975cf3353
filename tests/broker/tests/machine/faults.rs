//! Faults that no healthy server has.

use std::time::Duration;

use fibp_proto::{ErrorKind, Message, Op, Request, Response, ServerError};
use fila_test_broker::{Faults, Output};

use crate::world::{FRAMED, P1, P3, World};

fn enqueue() -> Request {
    Request::Enqueue(vec![Message::new("orders", "x"), Message::new("orders", "y")])
}

#[test]
fn results_go_missing() {
    for (missing, expected) in [(0, 2), (1, 1), (5, 0)] {
        let mut world = World::faulty(Faults::default().missing_results(missing));
        let client = world.connect(P1);
        let Response::Enqueue(results) = world.call(client, enqueue()) else {
            panic!("not an answer to an enqueue");
        };
        assert_eq!(results.len(), expected);
    }
}

#[test]
fn connections_drop_before_the_answer() {
    let mut world = World::faulty(Faults::default().drop_before_answer(Op::Enqueue, 1));
    let client = world.connect(P1);
    assert_eq!(world.call(client, Request::Heartbeat), Response::Heartbeat);
    world.send(client, enqueue());
    assert_eq!(world.outputs(), [Output::Close { connection: client }]);
    assert_eq!(world.figures("orders").0, 2, "executed");
    // As often as asked.
    let client = world.connect(P1);
    assert!(matches!(world.call(client, enqueue()), Response::Enqueue(_)));
}

#[test]
fn stalled_answers_come_when_released() {
    let mut world = World::faulty(Faults::default().stall(Op::Enqueue));
    let client = world.connect(P1);
    let id = world.send(client, enqueue());
    assert_eq!(world.outputs(), []);
    assert_eq!(world.call(client, Request::Heartbeat), Response::Heartbeat, "overtakes");
    world.machine.set_faults(Faults::default());
    let outputs = world.outputs();
    assert!(
        matches!(&outputs[..], [Output::Answer { request, .. }] if *request == id),
        "{outputs:?}"
    );
    // A client that is gone gets none.
    world.machine.set_faults(Faults::default().stall(Op::Enqueue));
    world.send(client, enqueue());
    world.disconnect(client);
    world
        .machine
        .set_faults(Faults::default().stall(Op::Enqueue).release(Op::Enqueue));
    assert_eq!(world.outputs(), []);
}

#[test]
fn answers_come_twice_and_under_unknown_ids() {
    let faults = Faults::default()
        .unknown_answer_first(Op::Heartbeat)
        .duplicate_answer(Op::Heartbeat);
    let mut world = World::faulty(faults);
    let client = world.connect(P1);
    let id = world.send(client, Request::Heartbeat);
    let ids: Vec<u32> = world
        .outputs()
        .into_iter()
        .map(|output| match output {
            Output::Answer { request, .. } => request.id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids.len(), 3);
    assert_ne!(ids[0], id.id);
    assert_eq!(ids[1..], [id.id, id.id]);
}

#[test]
fn errors_may_close() {
    let mut world = World::faulty(Faults::default().errors_close(true));
    let client = world.connect(P1);
    world.send(client, Request::DeleteQueue { queue: "zz".into() });
    assert_eq!(world.outputs(), [Output::Close { connection: client }]);
    let client = world.connect(P1);
    let answer = ServerError::new(ErrorKind::Unsupported, "unknown operation 0x77");
    world.machine.handle_malformed(client, 1, None, Some(answer));
    assert_eq!(world.outputs(), [Output::Close { connection: client }]);
}

#[test]
fn malformed_bodies_may_be_answered() {
    for (closes, faults) in [
        (true, Faults::default()),
        (false, Faults::default().malformed_closes(false)),
    ] {
        let mut world = World::faulty(faults);
        let client = world.connect(P1);
        world.machine.handle_malformed(client, 1, Some(Op::Enqueue), None);
        let outputs = world.outputs();
        let closed = matches!(&outputs[..], [Output::Close { .. }]);
        let answered = matches!(&outputs[..], [Output::Refuse { id: 1, .. }]);
        assert_eq!((closed, answered), (closes, !closes), "{outputs:?}");
    }
}

#[test]
fn heartbeats_may_be_swallowed() {
    let mut world = World::faulty(Faults::default().heartbeats_ignored(true));
    let client = world.connect(P1);
    world.send(client, Request::Heartbeat);
    assert_eq!(world.outputs(), []);
}

#[test]
fn a_request_fails_once_and_is_not_executed() {
    for (dialect, code, text) in [
        (P1, Some(1), "orders"),
        (P3, Some(1), "orders"),
        (FRAMED, Some(0x01), ""),
    ] {
        let mut world = World::faulty(Faults::default().fail_once(Op::Enqueue, ErrorKind::QueueNotFound));
        let client = world.connect(dialect);
        let results = world.enqueue_results(client, vec![Message::new("orders", "x")]);
        let refused = results[0].as_ref().expect_err("refused");
        assert_eq!((refused.code(), refused.text()), (code, text));
        assert_eq!(world.machine.messages("orders"), []);
        world.enqueue(client, "orders", &["x"]);
    }
}

#[test]
fn failures_of_one_operation_come_in_turn() {
    let faults = Faults::default()
        .fail_once(Op::ListQueues, ErrorKind::Overloaded)
        .fail_once(Op::Consume, ErrorKind::Forbidden)
        .fail_once(Op::ListQueues, ErrorKind::Server)
        .fail_once(Op::ListQueues, ErrorKind::Timeout)
        .fail_once(Op::ListQueues, ErrorKind::Disconnected);
    let mut world = World::faulty(faults);
    let client = world.connect(FRAMED);
    assert_eq!(world.refused(client, Request::ListQueues).kind(), ErrorKind::Overloaded);
    assert_eq!(world.refused(client, Request::ListQueues).kind(), ErrorKind::Server);
    world.send(client, Request::ListQueues);
    assert_eq!(world.outputs(), [], "left unanswered");
    world.send(client, Request::ListQueues);
    assert_eq!(world.outputs(), [Output::Close { connection: client }]);
    let client = world.connect(FRAMED);
    assert!(matches!(
        world.call(client, Request::ListQueues),
        Response::ListQueues(_)
    ));
    let queue = "orders".into();
    let refusal = world.refused(client, Request::Consume { queue, credit: 0 });
    assert_eq!(refusal.text(), "no consume permission on queue \"orders\"");
}

#[test]
fn an_operation_is_executed_later_and_others_overtake_it() {
    let second = Duration::from_secs(1);
    let mut world = World::faulty(Faults::default().delay(Op::Enqueue, second));
    let client = world.connect(P1);
    world.send(client, enqueue());
    assert!(matches!(
        world.call(client, Request::ListQueues),
        Response::ListQueues(_)
    ));
    world.advance(second - Duration::from_millis(1));
    assert_eq!((world.outputs(), world.figures("orders").0), (vec![], 0));
    world.advance(Duration::from_millis(1));
    assert!(matches!(world.outputs()[..], [Output::Answer { .. }]));
    assert_eq!(world.figures("orders").0, 2);

    // One that its client did not wait for is not executed.
    world.send(client, enqueue());
    world.disconnect(client);
    world.advance(second * 2);
    assert_eq!(world.figures("orders").0, 2);
    world.machine.set_faults(
        Faults::default()
            .delay(Op::Enqueue, second)
            .delay(Op::Enqueue, Duration::ZERO),
    );
    let client = world.connect(P1);
    world.enqueue(client, "orders", &["at once"]);
}

#[test]
fn stored_messages_can_be_looked_at() {
    let mut world = World::orders();
    let client = world.connect(P1);
    let message = Message::new("orders", "a").header("tenant", "acme");
    let id = world.enqueue_results(client, vec![message])[0].clone().expect("stored");
    world.enqueue(client, "orders", &["b"]);
    world.consume(client, "orders", 1);
    world.pushes();
    let stored = world.machine.messages("orders");
    let first = &stored[0];
    assert_eq!(
        (&first.id, &first.payload[..], first.headers.get("tenant")),
        (&id, &b"a"[..], Some("acme"))
    );
    assert_eq!(
        (&*first.fairness_key, first.attempt_count, first.leased),
        ("default", 0, true)
    );
    world.nack(client, "orders", &id).expect("leased");
    let stored = world.machine.messages("orders");
    let attempts: Vec<u32> = stored.iter().map(|message| message.attempt_count).collect();
    assert_eq!(attempts, [1, 0], "by age");
    assert_eq!(world.machine.messages("nowhere"), []);
}
