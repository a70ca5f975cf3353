//! Queues that another node leads (docs/protocol/preamble.md 2.4, docs/protocol/framed.md 4).

use fibp_proto::admin::QueueSpec;
use fibp_proto::{Message, Request, Response};
use fila_test_broker::{Faults, Leadership};

use crate::world::{FRAMED, P1, World};

fn led_by(leadership: Leadership) -> World {
    World::faulty(Faults::default().leader("orders", leadership))
}

fn consume() -> Request {
    Request::Consume {
        queue: "orders".into(),
        credit: 1,
    }
}

fn enqueued(world: &mut World, client: fila_test_broker::ConnectionId) -> Result<(), (u16, String)> {
    let results = world.enqueue_results(client, vec![Message::new("orders", "x")]);
    match &results[0] {
        Ok(_) => Ok(()),
        Err(refusal) => Err((refusal.code().expect("items have codes"), refusal.text().to_owned())),
    }
}

#[test]
fn consuming_elsewhere_is_hinted_at() {
    let mut world = led_by(Leadership::Elsewhere("10.0.0.2:5555".to_owned()));
    let client = world.connect(P1);
    let refusal = world.refused(client, consume());
    assert_eq!(refusal.text(), "leader_hint:10.0.0.2:5555");
    assert_eq!(refusal.leader(), Some("10.0.0.2:5555"));
    assert_eq!(enqueued(&mut world, client), Ok(()), "forwarded");

    let client = world.connect(FRAMED);
    let refusal = world.refused(client, consume());
    assert_eq!(
        (refusal.code(), refusal.text()),
        (Some(0x0C), "not the leader for this queue")
    );
    let leader = ("leader_addr".to_owned(), "10.0.0.2:5555".to_owned());
    assert_eq!(refusal.metadata(), [leader]);
    assert_eq!(enqueued(&mut world, client).expect_err("refused").0, 0x0C);
    let acked = world.ack(client, "orders", &"bogus".into());
    assert_eq!(acked.expect_err("refused").code(), Some(0x0C));
}

#[test]
fn an_address_that_means_nothing_is_hinted_at_by_preamble_servers_only() {
    let mut world = led_by(Leadership::Elsewhere("0.0.0.0:5555".to_owned()));
    let client = world.connect(P1);
    assert_eq!(world.refused(client, consume()).text(), "leader_hint:0.0.0.0:5555");
    let client = world.connect(FRAMED);
    assert_eq!(world.refused(client, consume()).metadata(), []);
}

#[test]
fn elections_have_no_leader() {
    let mut world = led_by(Leadership::Electing);
    let client = world.connect(P1);
    assert_eq!(
        world.refused(client, consume()).text(),
        "invalid payload: no leader available for queue"
    );
    let refused = enqueued(&mut world, client).expect_err("refused");
    assert_eq!(refused, (2, "no leader available".to_owned()));
    let client = world.connect(FRAMED);
    let refusal = world.refused(client, consume());
    assert_eq!((refusal.code(), refusal.metadata()), (Some(0x0C), &[][..]));
}

#[test]
fn in_a_cluster_unknown_queues_are_refused_and_creation_is_idempotent() {
    let mut world = World::new();
    world.machine.set_faults(Faults::default().cluster(true));
    let client = world.connect(P1);
    assert_eq!(
        world.refused(client, consume()).text(),
        "invalid payload: queue raft group not found"
    );
    let refused = enqueued(&mut world, client).expect_err("refused");
    assert_eq!(refused, (2, "queue raft group not found".to_owned()));
    for _ in 0..2 {
        let created = world.create(client, QueueSpec::new("orders"));
        assert!(matches!(created, Response::CreateQueue { .. }));
    }
    for _ in 0..2 {
        let queue = "orders".into();
        assert_eq!(
            world.call(client, Request::DeleteQueue { queue }),
            Response::DeleteQueue
        );
    }
    let client = world.connect(FRAMED);
    let refusal = world.refused(client, consume());
    assert_eq!(
        (refusal.code(), refusal.text()),
        (Some(0x01), "queue raft group not found")
    );
}
