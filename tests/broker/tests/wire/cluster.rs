//! A cluster on sockets (docs/protocol/clusters.md).

use std::net::TcpStream;
use std::time::Duration;

use fila_test_broker::{Broker, Dialect, ManualClock};

use crate::raw::{PATIENCE, Raw, bytes32, frame, hex, str16};

const HANDSHAKE: &str = "00000009 01 00 00000000 0001 00";

fn cluster() -> Broker {
    Broker::cluster(3)
        .dialect(Dialect::Handshake)
        .manual_clock(ManualClock::new())
        .queue("orders")
        .start()
        .expect("loopback is there")
}

fn node(broker: &Broker, node: u64) -> Raw {
    let mut raw = Raw::connect(broker.addr_of(node).expect("there are three"));
    raw.send(&hex(HANDSHAKE));
    let ok = [
        hex("00000014 02 00 00000000 0001"),
        node.to_be_bytes().to_vec(),
        hex("01000000"),
    ];
    assert_eq!(raw.frame(), ok.concat());
    raw
}

fn enqueue(queue: &str) -> Vec<u8> {
    [hex("00000001"), str16(queue), hex("0000"), bytes32(b"hello")].concat()
}

fn item(code: u8, text: &str) -> (u8, Vec<u8>) {
    (0x11, [hex("00000001"), vec![code], str16(text)].concat())
}

/// Section 7: the frames of a real cluster, byte for byte.
#[test]
fn a_new_queue_is_refused_as_recorded() {
    let broker = cluster();
    let (mut creator, mut other) = (node(&broker, 3), node(&broker, 2));
    let body = [str16("new"), hex("00 00 0000000000000000")].concat();
    assert_eq!(creator.call_framed(0xfd, &body).0, 0xfc);
    assert_eq!(
        creator.call_framed(0x10, &enqueue("new")),
        item(0x0c, "no leader available")
    );
    assert_eq!(
        other.call_framed(0x10, &enqueue("new")),
        item(0x01, "queue raft group not found")
    );
    let clock = broker.clock().expect("a manual clock");
    clock.advance(Duration::from_millis(40));
    let not_ready = "node not ready for this queue — retry on another node or wait";
    assert_eq!(not_ready.len(), 0x3f);
    assert_eq!(other.call_framed(0x10, &enqueue("new")), item(0x0c, not_ready));
    clock.advance(Duration::from_millis(40));
    for raw in [&mut creator, &mut other] {
        let (opcode, body) = raw.call_framed(0x10, &enqueue("new"));
        assert_eq!((opcode, &body[..5]), (0x11, &hex("00000001 00")[..]));
    }
}

#[test]
fn consuming_is_referred_to_the_leader_and_its_ack_says_not_found() {
    let broker = cluster();
    let leader = broker.leader("orders").expect("it has one");
    let mut other = node(&broker, leader % 3 + 1);
    let (opcode, body) = other.call_framed(0x12, &str16("orders"));
    let addr = broker.addr_of(leader).expect("it is a node").to_string();
    let expected = [
        hex("0c"),
        str16("not the leader for this queue"),
        hex("0001"),
        str16("leader_addr"),
        str16(&addr),
    ];
    assert_eq!((opcode, body), (0xfe, expected.concat()));

    let (_, body) = other.call_framed(0x10, &enqueue("orders"));
    let id = &body[7..];
    let mut at_leader = node(&broker, leader);
    assert_eq!(at_leader.call_framed(0x12, &str16("orders")).0, 0x13);
    assert_eq!(at_leader.frame()[4], 0x14);
    let ack = [hex("00000001"), str16("orders"), hex("0024"), id.to_vec()].concat();
    assert_eq!(at_leader.call_framed(0x16, &ack), (0x17, hex("00000001 02")));
    assert_eq!(broker.queue_depth("orders"), 0, "and yet done");
}

#[test]
fn a_killed_node_refuses_and_resets_and_comes_back_at_its_address() {
    let broker = cluster();
    let leader = broker.leader("orders").expect("it has one");
    let addr = broker.addr_of(leader).expect("it is a node");
    let mut raw = node(&broker, leader);
    let mut survivor = node(&broker, leader % 3 + 1);
    broker.kill_node(leader);
    raw.closed();
    assert!(TcpStream::connect(addr).is_err(), "nobody listens");
    assert_eq!((broker.leader("orders"), broker.is_up(leader)), (None, false));
    assert_eq!(
        survivor.call_framed(0x10, &enqueue("orders")),
        item(0x0c, "no leader available")
    );
    broker.clock().expect("a manual clock").advance(Duration::from_secs(1));
    let elected = broker.leader("orders").expect("another is elected");
    assert_ne!(elected, leader);
    let (_, body) = survivor.call_framed(0x10, &enqueue("orders"));
    assert_eq!(body[4], 0);

    broker.start_node(leader).expect("its port is free");
    broker.start_node(leader).expect("it runs");
    node(&broker, leader);
    assert!(broker.elect("orders", leader));
    assert_eq!(broker.leader("orders"), Some(leader));
    assert_eq!(broker.queue_depth("orders"), 1);
}

#[test]
fn a_cluster_restarts_as_a_whole() {
    let broker = cluster();
    broker.kill_node(2);
    let mut raw = node(&broker, 1);
    raw.call_framed(0x10, &enqueue("orders"));
    let (addrs, leader) = (broker.addrs().to_vec(), broker.leader("orders"));
    broker.restart().expect("the ports are free");
    raw.closed();
    for id in 1..=3 {
        node(&broker, id);
    }
    assert_eq!((broker.addrs(), broker.leader("orders")), (&addrs[..], leader));
    assert_eq!(broker.queue_depth("orders"), 1);
    assert!(broker.wait_until(PATIENCE, |machine| machine.is_up(2)));
}

#[test]
fn urls_name_one_node_or_all() {
    let broker = cluster();
    let all: Vec<String> = broker.addrs().iter().map(ToString::to_string).collect();
    assert_eq!(broker.url(), format!("fila://{}", all.join(",")));
    assert_eq!(broker.node_url(2), format!("fila://{}", all[1]));
    assert_eq!((broker.nodes(), broker.addr_of(4), broker.addr_of(0)), (3, None, None));
}

/// A ping to each node; a frame for one is nobody else's.
#[test]
fn nodes_answer_for_themselves() {
    let broker = cluster();
    let mut nodes: Vec<Raw> = (1..=3).map(|id| node(&broker, id)).collect();
    for raw in &mut nodes {
        raw.send(&frame([0x03, 0], 9, &[]));
    }
    for raw in &mut nodes {
        assert_eq!(raw.frame(), frame([0x04, 0], 9, &[]));
    }
}
