//! Clusters of several nodes (docs/protocol/clusters.md).

use std::collections::BTreeSet;
use std::time::Duration;

use fibp_proto::admin::{QueueSpec, QueueStats};
use fibp_proto::request::{AckItem, NackItem};
use fibp_proto::response::ItemResult;
use fibp_proto::{Dialect, Message, MessageId, Request, Response, ServerError};
use fila_test_broker::{ConnectionId, Faults};

use crate::world::{FRAMED, P1, P2, P3, World};

const VISIBILITY: Duration = Duration::from_secs(30);
/// Long enough for one lease to end, and not for two.
const LAPSE: Duration = Duration::from_secs(31);
const ELECTION: Duration = Duration::from_millis(300);

fn consume(queue: &str) -> Request {
    let queue = queue.into();
    Request::Consume { queue, credit: 100 }
}

fn stats(world: &mut World, client: ConnectionId, queue: &str) -> QueueStats {
    match world.call(client, Request::QueueStats { queue: queue.into() }) {
        Response::QueueStats(stats) => stats,
        other => panic!("{other:?}"),
    }
}

fn code_and_text(error: &ServerError) -> (u16, &str) {
    (error.code().unwrap_or(0), error.text())
}

fn enqueue_refused(world: &mut World, client: ConnectionId, queue: &str) -> (u16, String) {
    let results = world.enqueue_results(client, vec![Message::new(queue, "x")]);
    let error = results[0].as_ref().expect_err("refused");
    let (code, text) = code_and_text(error);
    (code, text.to_owned())
}

fn ack_many(world: &mut World, client: ConnectionId, queue: &str, ids: &[MessageId]) -> Vec<ItemResult<()>> {
    let item = |id: &MessageId| AckItem {
        queue: queue.into(),
        id: id.clone(),
    };
    match world.call(client, Request::Ack(ids.iter().map(item).collect())) {
        Response::Ack(results) => results,
        other => panic!("{other:?}"),
    }
}

fn nack_many(world: &mut World, client: ConnectionId, queue: &str, ids: &[MessageId]) -> Vec<ItemResult<()>> {
    let item = |id: &MessageId| NackItem {
        queue: queue.into(),
        id: id.clone(),
        error: String::new(),
    };
    match world.call(client, Request::Nack(ids.iter().map(item).collect())) {
        Response::Nack(results) => results,
        other => panic!("{other:?}"),
    }
}

/// Whether each item was answered Ok.
fn oks(results: &[ItemResult<()>]) -> Vec<bool> {
    results.iter().map(Result::is_ok).collect()
}

/// Consumes "orders" at its leader, node 1.
fn consumer(world: &mut World, dialect: Dialect) -> ConnectionId {
    let consumer = world.connect_to(1, dialect);
    world.consume(consumer, "orders", 1000);
    consumer
}

#[test]
fn lists_and_statistics_name_leaders_and_count_nodes() {
    let mut world = World::cluster();
    let client = world.connect_to(3, FRAMED);
    let Response::ListQueues(list) = world.call(client, Request::ListQueues) else {
        panic!("no list");
    };
    let leaders: Vec<(&str, u64)> = list
        .queues
        .iter()
        .map(|queue| (queue.name.as_str(), queue.leader_node_id))
        .collect();
    assert_eq!(list.cluster_node_count, 3);
    assert_eq!(
        leaders,
        [("more", 2), ("more.dlq", 2), ("orders", 1), ("orders.dlq", 1)]
    );
    let stats = stats(&mut world, client, "more");
    assert_eq!((stats.leader_node_id, stats.replication_count), (2, 3));
}

/// Section 2: what each node says right after a create, to an enqueue, a consume and a question for statistics.
#[test]
fn a_new_queue_is_not_there_at_once() {
    let texts = [
        "no leader available",
        "queue raft group not found",
        "node not ready for this queue — retry on another node or wait",
    ];
    for (dialect, codes) in [(FRAMED, [0x0C, 0x01, 0x0C]), (P3, [2, 2, 2]), (P2, [2, 2, 2])] {
        let mut world = World::cluster();
        let clients: Vec<ConnectionId> = (1..=3).map(|node| world.connect_to(node, dialect)).collect();
        world.create(clients[1], QueueSpec::new("new"));
        let says = |world: &mut World, client: ConnectionId, index: usize| {
            let expected = (codes[index], texts[index].to_owned());
            assert_eq!(enqueue_refused(world, client, "new"), expected, "{dialect}");
            let stats = Request::QueueStats { queue: "new".into() };
            for request in [consume("new"), stats] {
                let refusal = world.refused(client, request);
                if dialect == FRAMED {
                    assert_eq!(code_and_text(&refusal), (codes[index], texts[index]));
                    assert_eq!(refusal.metadata(), []);
                } else {
                    let text = refusal.text().strip_prefix("invalid payload: ").expect("a prefix");
                    assert!(text.starts_with(texts[index]), "{text}");
                }
            }
        };
        says(&mut world, clients[1], 0);
        says(&mut world, clients[0], 1);
        says(&mut world, clients[2], 1);
        world.advance(Duration::from_millis(40));
        says(&mut world, clients[1], 0);
        says(&mut world, clients[0], 2);
        world.advance(Duration::from_millis(25));
        for client in clients {
            world.enqueue(client, "new", &["x"]);
        }
    }
}

/// A queue that does not exist gets the text of one that is not known yet, for ever.
#[test]
fn an_unknown_queue_sounds_like_a_new_one() {
    let mut world = World::cluster();
    let client = world.connect_to(1, FRAMED);
    world.advance(Duration::from_secs(3600));
    let unknown = (0x01, "queue raft group not found".to_owned());
    assert_eq!(enqueue_refused(&mut world, client, "nope"), unknown);
    let refusal = world.refused(client, consume("nope"));
    assert_eq!(code_and_text(&refusal), (0x01, "queue raft group not found"));
}

#[test]
fn creating_again_does_not_take_a_queue_away() {
    let mut world = World::cluster();
    let client = world.connect_to(1, FRAMED);
    let created = world.create(client, QueueSpec::new("orders"));
    assert!(matches!(created, Response::CreateQueue { .. }));
    world.enqueue(client, "orders", &["x"]);
}

/// Section 3, a node that does not lead the queue: the rest of a list is confirmed and never there.
#[test]
fn a_list_at_a_follower_loses_all_but_its_first_item() {
    let mut world = World::cluster();
    let client = world.connect_to(2, FRAMED);
    let ids = world.enqueue(client, "orders", &["a", "b", "c"]);
    assert_eq!(ids.len(), 3, "all confirmed");
    consumer(&mut world, FRAMED);
    assert_eq!(world.payloads(), ["a"]);
}

/// Section 3, the leader: it delivers all; its followers know the first.
#[test]
fn a_list_at_the_leader_is_lost_with_it() {
    let mut world = World::cluster();
    let client = world.connect_to(1, FRAMED);
    world.enqueue(client, "orders", &["a", "b", "c", "d", "e"]);
    for alone in ["f", "g", "h"] {
        world.enqueue(client, "orders", &[alone]);
    }
    assert_eq!(world.machine.queue("orders").expect("it exists").depth, 8);
    world.machine.kill_node(world.now, 1);
    world.advance(ELECTION);
    assert_eq!(world.machine.leader("orders"), Some(2));
    let client = world.connect_to(2, FRAMED);
    world.consume(client, "orders", 0);
    assert_eq!(world.payloads(), ["a", "f", "g", "h"]);
}

#[test]
fn the_same_leader_elected_again_has_lost_nothing() {
    let mut world = World::cluster();
    let client = world.connect_to(1, FRAMED);
    world.enqueue(client, "orders", &["a", "b"]);
    assert!(world.machine.step_down(world.now, "orders"));
    assert!(world.machine.elect(world.now, "orders", 1));
    world.consume(client, "orders", 0);
    assert_eq!(world.payloads(), ["a", "b"]);
}

/// Section 3: items of different queues do not touch each other, nor do frames.
#[test]
fn one_item_per_queue_and_frame_is_safe_at_every_node() {
    let mut world = World::cluster();
    for node in 1..=3 {
        let client = world.connect_to(node, FRAMED);
        let messages = ["orders", "more"].map(|queue| Message::new(queue, format!("{node}")));
        let results = world.enqueue_results(client, messages.to_vec());
        assert!(results.iter().all(Result::is_ok));
    }
    for queue in ["orders", "more"] {
        assert!(world.machine.elect(world.now, queue, 3));
    }
    let client = world.connect_to(3, FRAMED);
    for queue in ["orders", "more"] {
        world.consume(client, queue, 0);
        assert_eq!(world.payloads(), ["1", "2", "3"]);
    }
}

/// Section 3: preamble servers carry each item by itself; nor is a list cut where the defect is switched off.
#[test]
fn lists_are_whole_in_other_dialects_and_without_the_defect() {
    for (dialect, cut) in [(P1, true), (P2, true), (P3, true), (FRAMED, false)] {
        for node in [1, 2] {
            let mut world = World::cluster_with(Faults::default().cluster_cuts_lists(cut));
            let client = world.connect_to(node, dialect);
            world.enqueue(client, "orders", &["a", "b", "c"]);
            assert!(world.machine.elect(world.now, "orders", 3));
            let client = world.connect_to(3, dialect);
            world.consume(client, "orders", 100);
            assert_eq!(world.payloads(), ["a", "b", "c"], "{dialect}");
        }
    }
}

/// Section 4, acks: done, whatever the answer; the leader's statistics go on counting.
#[test]
fn acks_are_done_and_answered_as_the_node_is() {
    for dialect in [FRAMED, P3] {
        for (node, answered_ok, counted) in [(2, true, 0), (1, false, 1)] {
            let mut world = World::cluster();
            let client = world.connect_to(node, dialect);
            let ids = world.enqueue(client, "orders", &["a"]);
            let consumer = consumer(&mut world, dialect);
            assert_eq!(world.payloads(), ["a"]);
            let results = ack_many(&mut world, client, "orders", &ids);
            assert_eq!(oks(&results), [answered_ok], "{dialect} {node}");
            if let Err(refusal) = &results[0] {
                let text = format!("no lease for message {} in queue orders", ids[0].as_str());
                let expected = match dialect {
                    FRAMED => (0x02, ""),
                    _ => (1, text.as_str()),
                };
                assert_eq!(code_and_text(refusal), expected);
            }
            world.advance(VISIBILITY * 7);
            assert_eq!(world.payloads(), [""; 0], "done");
            assert_eq!(world.figures("orders").0, 0);
            let stats = stats(&mut world, consumer, "orders");
            assert_eq!((stats.depth, stats.in_flight), (counted, counted), "{dialect} {node}");
            // Another leader counts afresh.
            world.machine.elect(world.now, "orders", 3);
            let stats = self::stats(&mut world, client, "orders");
            assert_eq!((stats.depth, stats.in_flight), (0, 0));
        }
    }
}

/// Section 4, nacks, by dialect and node: how they are answered, and whether the message comes back.
#[test]
fn nacks_are_answered_and_done_as_the_node_and_the_dialect_are() {
    for (dialect, node, answered_ok, again) in [
        (FRAMED, 2, true, false),
        (P3, 2, true, true),
        (FRAMED, 1, false, false),
        (P3, 1, false, false),
    ] {
        let mut world = World::cluster();
        let client = world.connect_to(node, dialect);
        let ids = world.enqueue(client, "orders", &["a"]);
        consumer(&mut world, dialect);
        assert_eq!(world.payloads(), ["a"]);
        let results = nack_many(&mut world, client, "orders", &ids);
        assert_eq!(oks(&results), [answered_ok], "{dialect} {node}");
        let mut attempts: Vec<u32> = Vec::new();
        for _ in 0..6 {
            attempts.extend(world.deliveries().iter().map(|delivery| delivery.attempt_count));
            if let [_, ..] = attempts[..] {
                break;
            }
            world.advance(VISIBILITY);
        }
        assert_eq!(attempts, if again { vec![1] } else { vec![] }, "{dialect} {node}");
        // It is stored, and another leader hands it out.
        assert_eq!(world.figures("orders").0, 1);
        world.machine.elect(world.now, "orders", 3);
        let client = world.connect_to(3, dialect);
        world.consume(client, "orders", 100);
        world.advance(LAPSE);
        assert_eq!(
            world
                .deliveries()
                .first()
                .map(|delivery| delivery.payload.as_ref() == b"a"),
            Some(true)
        );
    }
}

/// Section 3: lists of acks are cut, too. At the leader the rest is done there and unknown to its followers; at another
/// node it is not done at all.
#[test]
fn lists_of_acks_are_cut() {
    let mut world = World::cluster();
    let client = world.connect_to(1, FRAMED);
    let mut ids = Vec::new();
    for payload in ["a", "b", "c", "d"] {
        ids.extend(world.enqueue(client, "orders", &[payload]));
    }
    consumer(&mut world, FRAMED);
    assert_eq!(world.payloads(), ["a", "b", "c", "d"]);
    let follower = world.connect_to(2, FRAMED);
    assert_eq!(oks(&ack_many(&mut world, follower, "orders", &ids[..2])), [true, true]);
    assert_eq!(oks(&ack_many(&mut world, client, "orders", &ids[2..])), [false, true]);
    world.advance(LAPSE);
    assert_eq!(world.payloads(), ["b"]);
    world.machine.elect(world.now, "orders", 3);
    let client = world.connect_to(3, FRAMED);
    world.consume(client, "orders", 0);
    world.advance(LAPSE);
    // Their leases have ended once more meanwhile.
    let back: BTreeSet<String> = world.payloads().into_iter().collect();
    assert_eq!(Vec::from_iter(back), ["b", "d"]);
}

/// Section 4, last: what is not acked comes back, with one more attempt.
#[test]
fn without_the_defect_settling_is_as_on_a_single_node() {
    let mut world = World::cluster_with(Faults::default().cluster_acks_not_found(false));
    let client = world.connect_to(1, FRAMED);
    let a = world.enqueue(client, "orders", &["a"]);
    let b = world.enqueue(client, "orders", &["b"]);
    consumer(&mut world, FRAMED);
    assert_eq!(world.payloads(), ["a", "b"]);
    assert_eq!(world.ack(client, "orders", &a[0]), Ok(()));
    assert!(world.ack(client, "orders", &a[0]).is_err());
    assert_eq!(world.nack(client, "orders", &b[0]), Ok(()));
    assert_eq!(world.deliveries()[0].attempt_count, 1);
    world.advance(LAPSE);
    assert_eq!(world.deliveries()[0].attempt_count, 2);
}

/// Section 5.
#[test]
fn only_the_leader_accepts_a_consume() {
    let mut world = World::cluster();
    for (queue, leader) in [("orders", 1), ("more", 2)] {
        for node in 1..=3 {
            for dialect in [FRAMED, P2] {
                let client = world.connect_to(node, dialect);
                let answer = world.call(client, consume(queue));
                match answer {
                    Response::Consume { .. } => assert_eq!(node, leader),
                    Response::Error(refusal) => {
                        assert_ne!(node, leader);
                        let addr = format!("10.0.0.{leader}:5555");
                        if dialect == FRAMED {
                            assert_eq!(code_and_text(&refusal), (0x0C, "not the leader for this queue"));
                            assert_eq!(refusal.metadata(), [("leader_addr".to_owned(), addr)]);
                        } else {
                            assert_eq!(refusal.text(), format!("leader_hint:{addr}"));
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[test]
fn during_an_election_nobody_is_named() {
    let mut world = World::cluster();
    world.machine.kill_node(world.now, 1);
    let client = world.connect_to(2, FRAMED);
    let refusal = world.refused(client, consume("orders"));
    assert_eq!(code_and_text(&refusal), (0x0C, "not the leader for this queue"));
    assert_eq!(refusal.metadata(), []);
    let no_leader = (0x0C, "no leader available".to_owned());
    assert_eq!(enqueue_refused(&mut world, client, "orders"), no_leader);
    // Others go on.
    world.enqueue(client, "more", &["x"]);
    world.advance(ELECTION);
    world.consume(client, "orders", 0);
}

/// docs/protocol/preamble.md 2.4: a consumer whose node loses the lead just stops receiving.
#[test]
fn a_consumer_of_a_former_leader_hears_nothing() {
    let mut world = World::cluster();
    let former = consumer(&mut world, P3);
    assert!(world.machine.elect(world.now, "orders", 2));
    let client = world.connect_to(2, P3);
    world.enqueue(client, "orders", &["x"]);
    assert_eq!(world.outputs(), []);
    let again = world.refused(former, consume("orders"));
    assert_eq!(again.text(), "consume session already active on this connection");
    world.consume(client, "orders", 10);
    assert_eq!(world.payloads(), ["x"]);
}

/// Leases outlive their leader, or end with it.
#[test]
fn leases_are_kept_by_the_next_leader_unless_switched_off() {
    for (kept, attempts) in [(true, 1), (false, 0)] {
        let mut world = World::cluster_with(Faults::default().leases_kept(kept));
        let client = world.connect_to(1, FRAMED);
        world.enqueue(client, "orders", &["x"]);
        consumer(&mut world, FRAMED);
        assert_eq!(world.payloads(), ["x"]);
        world.machine.kill_node(world.now, 1);
        world.advance(ELECTION);
        let client = world.connect_to(2, FRAMED);
        world.consume(client, "orders", 0);
        assert_eq!(world.payloads(), if kept { vec![] } else { vec!["x"] });
        if kept {
            world.advance(LAPSE);
            assert_eq!(world.deliveries()[0].attempt_count, attempts);
        }
    }
}

#[test]
fn too_few_nodes_decide_nothing() {
    let mut world = World::cluster();
    world.machine.kill_node(world.now, 1);
    world.machine.kill_node(world.now, 3);
    world.advance(ELECTION * 10);
    assert_eq!(
        (world.machine.leader("orders"), world.machine.leader("more")),
        (None, None)
    );
    assert!(!world.machine.elect(world.now, "orders", 2));
    let client = world.connect_to(2, FRAMED);
    let refused = world.refused(client, Request::CreateQueue(QueueSpec::new("new")));
    assert_eq!(code_and_text(&refused), (0x0C, "no leader available"));
    world.machine.start_node(world.now, 3);
    world.advance(ELECTION);
    world.enqueue(client, "orders", &["x"]);
    assert!(!world.machine.is_up(1) && world.machine.is_up(3));
}

/// Section 6, a fault on demand.
#[test]
fn a_node_that_comes_back_may_break_the_leaders() {
    let mut world = World::cluster_with(Faults::default().snapshot_not_found(true));
    world.machine.kill_node(world.now, 3);
    world.machine.start_node(world.now, 3);
    for (dialect, code) in [(FRAMED, 0xFF), (P3, 2)] {
        for node in 1..=3 {
            let client = world.connect_to(node, dialect);
            let text = "raft error: fatal: when Read Snapshot(None): snapshot not found".to_owned();
            assert_eq!(enqueue_refused(&mut world, client, "orders"), (code, text));
        }
    }
    world.machine.kill_node(world.now, 1);
    world.advance(ELECTION);
    let client = world.connect_to(3, FRAMED);
    assert_eq!(world.machine.leader("orders"), Some(2), "which led another queue");
    assert_eq!(enqueue_refused(&mut world, client, "orders").0, 0xFF);
    assert!(world.machine.elect(world.now, "orders", 3));
    world.enqueue(client, "orders", &["x"]);
}

#[test]
fn nodes_may_refer_instead_of_forwarding() {
    let mut world = World::cluster_with(Faults::default().cluster_refers(true));
    let client = world.connect_to(2, FRAMED);
    let refused = world.refused(client, Request::Enqueue(vec![Message::new("orders", "x")]));
    assert_eq!(refused.leader(), Some("10.0.0.1:5555"));
    world.enqueue(client, "more", &["x"]);
}

#[test]
fn a_restart_of_all_nodes_keeps_leaders_and_finds_everything() {
    let mut world = World::cluster();
    let client = world.connect_to(1, FRAMED);
    let ids = world.enqueue(client, "orders", &["a"]);
    consumer(&mut world, FRAMED);
    assert_eq!(world.payloads(), ["a"]);
    assert!(world.nack(client, "orders", &ids[0]).is_err());
    world.machine.kill_node(world.now, 3);
    let mut world = world.restarted(world.machine.snapshot());
    assert!(world.machine.is_up(3));
    assert_eq!(
        (world.machine.leader("orders"), world.machine.leader("more")),
        (Some(1), Some(2))
    );
    consumer(&mut world, FRAMED);
    assert_eq!(world.deliveries()[0].attempt_count, 1);
}
