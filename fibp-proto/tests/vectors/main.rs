//! Frames recorded from real servers: each is read as what it is known to mean, and written again to the
//! same bytes.

#[path = "../common/mod.rs"]
mod common;
mod meaning;

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::{PREAMBLES, bytes, frame};
use fibp_proto::frame::{Limits, Transmit};
use fibp_proto::server::{ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{Dialect, Op, Push, QueueName, Request, Response};
use serde_json::Value;

/// The recordings of one file.
#[expect(clippy::disallowed_methods, reason = "tests read recordings")]
fn recordings(file: &str) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/vectors")
        .join(file);
    let text = std::fs::read_to_string(&path).expect("a recording");
    let mut file: Value = serde_json::from_str(&text).expect("JSON");
    match file["vectors"].take() {
        Value::Array(vectors) => vectors,
        other => panic!("no vectors but {other}"),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn wire(vector: &Value) -> Vec<u8> {
    bytes(text(vector, "hex"))
}

/// Whether the bytes come before the connection is open.
fn is_opening(vector: &Value) -> bool {
    let name = text(vector, "name");
    ["handshake", "goaway", "request before handshake"]
        .iter()
        .any(|begin| name.starts_with(begin))
}

/// Replays one conversation: every frame is accounted for.
fn replay(dialect: Dialect, file: &str) {
    let vectors = recordings(file);
    assert!(vectors.len() > 60, "{} recordings", vectors.len());
    let mut asked: BTreeMap<u64, Op> = BTreeMap::new();
    for (at, vector) in vectors.iter().enumerate().filter(|(_, vector)| !is_opening(vector)) {
        let name = text(vector, "name");
        match text(vector, "direction") {
            "client" => {
                let (id, op) = replay_request(dialect, vector, vectors.get(at + 1));
                asked.insert(id, op);
            }
            "server" if vector["means"]["op"] == "delivery" => replay_push(dialect, vector),
            "server" => {
                let id = meaning::id(&vector["means"]);
                let op = *asked.get(&id).unwrap_or_else(|| panic!("{name}: nothing was asked"));
                replay_response(dialect, op, vector);
            }
            other => panic!("{name}: from the {other}?"),
        }
    }
    let openings: Vec<&Value> = vectors.iter().filter(|vector| is_opening(vector)).collect();
    for pair in openings.chunks(2) {
        let answer = first_answer(ServerConfig::new([dialect]), &wire(pair[0]));
        assert_eq!(answer, wire(pair[1]), "{}", text(pair[0], "name"));
    }
}

/// Reads and writes a request; one that servers cannot read must lead to the answer that follows.
fn replay_request(dialect: Dialect, vector: &Value, next: Option<&Value>) -> (u64, Op) {
    let (name, means, wire) = (text(vector, "name"), &vector["means"], wire(vector));
    let frame = frame(dialect, &wire);
    let id = frame.header.id;
    if means["op"] == "probe" {
        let probe = Request::ProbeAdmin.encode(dialect, id, Limits::default());
        assert_eq!(probe.as_deref(), Ok(&wire[..]), "{name}");
    }
    let request = match Request::decode(dialect, &frame) {
        Ok(request) => request,
        Err(fault) => {
            let refusal = Response::Error(fault.answer.expect("answered"));
            let answer = refusal.encode(dialect, id, Op::Heartbeat).expect("fits");
            let next = next.map(self::wire).expect("an answer follows");
            assert_eq!(&answer[..], next, "{name}");
            return (id.into(), Op::Heartbeat);
        }
    };
    meaning::assert_contains(name, &meaning::of_request(id, &request), means);
    let again = request.encode(dialect, id, Limits::default());
    assert_eq!(again.as_deref(), Ok(&wire[..]), "{name}");
    (id.into(), request.op())
}

fn replay_response(dialect: Dialect, op: Op, vector: &Value) {
    let (name, means, wire) = (text(vector, "name"), &vector["means"], wire(vector));
    let frame = frame(dialect, &wire);
    let response = Response::decode(dialect, op, &frame).unwrap_or_else(|error| panic!("{name}: {error}"));
    let described = meaning::of_response(frame.header.id, op, frame.header.opcode == 0xFE, &response);
    meaning::assert_contains(name, &described, means);
    let again = response.encode(dialect, frame.header.id, op);
    assert_eq!(again.as_deref(), Ok(&wire[..]), "{name}");
}

fn replay_push(dialect: Dialect, vector: &Value) {
    let (name, wire) = (text(vector, "name"), wire(vector));
    let frame = frame(dialect, &wire);
    assert!(Push::is_push(dialect, &frame), "{name}");
    let push = Push::decode(dialect, &QueueName::from("orders"), &frame).expect("well formed");
    let described = meaning::of_push(&frame.header, &push);
    meaning::assert_contains(name, &described, &vector["means"]);
    let again = push.encode(dialect, frame.header.id, Limits::default());
    assert_eq!(again.as_deref(), Ok(&wire[..]), "{name}");
}

/// What a server answers to the first bytes of a client.
fn first_answer(config: ServerConfig, opening: &[u8]) -> Vec<u8> {
    let mut server = ServerConnection::new(config);
    assert_eq!(server.feed(opening), opening.len());
    while let Some(event) = server.poll_event() {
        if matches!(event, ServerEvent::Opened { .. }) {
            server.accept();
        }
    }
    let mut transmit = Transmit::new();
    let mut answer = Vec::new();
    while server.take_transmit(&mut transmit) {
        let n = transmit.chunk().len();
        answer.extend_from_slice(transmit.chunk());
        server.transmitted(&mut transmit, n);
    }
    answer
}

#[test]
fn a_server_of_p1() {
    replay(PREAMBLES[0], "preamble-protobuf.json");
}

#[test]
fn a_server_of_p3() {
    replay(PREAMBLES[2], "preamble-binary.json");
}

#[test]
fn a_framed_server() {
    replay(Dialect::Handshake, "framed.json");
}

#[test]
fn nodes_of_a_cluster() {
    for vector in &recordings("cluster.json") {
        let dialect = match text(vector, "dialect") {
            "preamble" => PREAMBLES[0],
            "framed" => Dialect::Handshake,
            other => panic!("dialect {other}?"),
        };
        if vector["means"]["op"] == "handshake_ok" {
            let mut config = ServerConfig::new([dialect]);
            config.node_id = vector["means"]["node_id"].as_u64().expect("number");
            let handshake = bytes("00 00 00 09 01 00 00 00 00 00 00 01 00");
            assert_eq!(first_answer(config, &handshake), wire(vector));
            continue;
        }
        replay_response(dialect, Op::Consume, vector);
        let frame = frame(dialect, &wire(vector));
        let Ok(Response::Error(refusal)) = Response::decode(dialect, Op::Consume, &frame) else {
            panic!("a refusal");
        };
        assert_eq!(refusal.kind(), fibp_proto::ErrorKind::NotLeader);
        let hinted = text(&vector["means"], "text").strip_prefix("leader_hint:");
        let named = vector["means"]["metadata"]["leader_addr"].as_str();
        assert_eq!(refusal.leader(), hinted.or(named));
    }
}
