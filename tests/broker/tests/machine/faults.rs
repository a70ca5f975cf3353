//! Faults that no healthy server has.

use fibp_proto::{Message, Op, Request, Response, ServerError};
use fila_test_broker::{Faults, Output};

use crate::world::{P1, World};

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
    let answer = ServerError::new(fibp_proto::ErrorKind::Unsupported, "unknown operation 0x77");
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
