//! The golden frames themselves, written by hand from docs/protocol/preamble.md. Hex, with ASCII in quotes.

use std::time::Duration;

use fibp_proto::admin::{
    Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, KeyStats, Permission, QueueInfo, QueueList, QueueSpec, QueueStats,
    ThrottleStats,
};
use fibp_proto::request::{AckItem, NackItem};
use fibp_proto::{
    Dialect, ErrorKind, Headers, Message, Op, Push, QueueName, Received, Request, Response, Secret, ServerError,
};

use crate::common::PREAMBLES;

pub(crate) const P1: &[Dialect] = &[PREAMBLES[0]];
pub(crate) const P2: &[Dialect] = &[PREAMBLES[1]];
pub(crate) const P3: &[Dialect] = &[PREAMBLES[2]];
pub(crate) const P1_P2: &[Dialect] = &[PREAMBLES[0], PREAMBLES[1]];
pub(crate) const P2_P3: &[Dialect] = &[PREAMBLES[1], PREAMBLES[2]];
pub(crate) const ANY: &[Dialect] = &PREAMBLES;

/// The message id of the specification's examples.
pub(crate) const ID: &str = "0195d3c8-5f2a-7abc-8def-0123456789ab";

fn message(queue: &str, headers: &[(&str, &str)], payload: &'static [u8]) -> Message {
    headers
        .iter()
        .fold(Message::new(queue, payload), |message, (key, value)| {
            message.header(*key, *value)
        })
}

fn ack(id: &str) -> AckItem {
    AckItem {
        queue: "orders".into(),
        id: id.into(),
    }
}

/// Every request: where it is spelled so, its frame, its meaning.
pub(crate) fn requests() -> Vec<(&'static [Dialect], String, Request)> {
    let mut all = data_requests();
    all.extend(queue_requests());
    all.extend(config_requests());
    all.extend(key_requests());
    all
}

fn data_requests() -> Vec<(&'static [Dialect], String, Request)> {
    vec![
        (
            ANY,
            "00 00 00 0e 00 30 00 00 00 01 'test-key'".into(),
            Request::Authenticate(Secret::from("test-key")),
        ),
        (
            ANY,
            "00 00 00 28 00 01 00 00 00 02 00 06 'orders' 00 01 01 00 06 'tenant' 00 04 'acme' 00 00 00 05 'hello'"
                .into(),
            Request::Enqueue(vec![message("orders", &[("tenant", "acme")], b"hello")]),
        ),
        (
            ANY,
            "00 00 00 1b 00 01 00 00 00 02 00 06 'orders' 00 02 00 00 00 00 01 'x' 00 00 00 00 00".into(),
            Request::Enqueue(vec![message("orders", &[], b"x"), message("orders", &[], b"")]),
        ),
        (
            ANY,
            "00 00 00 12 00 02 00 00 00 03 00 06 'orders' 00 00 01 00".into(),
            Request::Consume {
                queue: "orders".into(),
                credit: 256,
            },
        ),
        (
            ANY,
            "00 00 00 0a 00 20 00 00 00 00 00 00 00 40".into(),
            Request::Flow { credit: 64 },
        ),
        (
            ANY,
            format!("00 00 00 36 00 03 00 00 00 04 00 01 00 06 'orders' 00 24 '{ID}'"),
            Request::Ack(vec![ack(ID)]),
        ),
        (
            ANY,
            "00 00 00 1d 00 03 00 00 00 04 00 02 00 06 'orders' 00 01 'a' 00 06 'orders' 00 00".into(),
            Request::Ack(vec![ack("a"), ack("")]),
        ),
        (
            ANY,
            "00 00 00 08 00 03 00 00 00 04 00 00".into(),
            Request::Ack(Vec::new()),
        ),
        (
            ANY,
            format!("00 00 00 3c 00 04 00 00 00 05 00 01 00 06 'orders' 00 24 '{ID}' 00 04 'boom'"),
            Request::Nack(vec![NackItem {
                queue: "orders".into(),
                id: ID.into(),
                error: "boom".into(),
            }]),
        ),
        (ANY, "00 00 00 06 00 21 00 00 00 07".into(), Request::Heartbeat),
        (ANY, "00 00 00 06 00 ff 00 00 00 00".into(), Request::Goodbye),
    ]
}

fn queue_requests() -> Vec<(&'static [Dialect], String, Request)> {
    let mut all = vec![
        (
            P1_P2,
            "00 00 00 0e 00 10 00 00 00 06 0a 06 'orders'".into(),
            Request::CreateQueue(QueueSpec::new("orders")),
        ),
        (
            P1_P2,
            "00 00 00 13 00 10 00 00 00 06 0a 06 'orders' 12 03 18 88 27".into(),
            Request::CreateQueue(QueueSpec::new("orders").visibility_timeout(Duration::from_millis(5000))),
        ),
        (
            P1_P2,
            "00 00 00 16 00 10 00 00 00 06 0a 06 'orders' 12 06 0a 01 'e' 12 01 'f'".into(),
            Request::CreateQueue(QueueSpec::new("orders").on_enqueue("e").on_failure("f")),
        ),
        (
            P3,
            "00 00 00 1a 00 10 00 00 00 06 00 06 'orders' 00 00 00 00 00 00 00 00 00 00 13 88".into(),
            Request::CreateQueue(QueueSpec::new("orders").visibility_timeout(Duration::from_millis(5000))),
        ),
        (
            P3,
            "00 00 00 1c 00 10 00 00 00 06 00 06 'orders' 00 01 'e' 00 01 'f' 00 00 00 00 00 00 00 00".into(),
            Request::CreateQueue(QueueSpec::new("orders").on_enqueue("e").on_failure("f")),
        ),
        (ANY, "00 00 00 06 00 13 00 00 00 09".into(), Request::ListQueues),
    ];
    for (dialects, body) in [(P1_P2, "0a 06 'orders'"), (P3, "00 06 'orders'")] {
        let queue = || QueueName::from("orders");
        all.extend([
            (
                dialects,
                format!("00 00 00 0e 00 11 00 00 00 07 {body}"),
                Request::DeleteQueue { queue: queue() },
            ),
            (
                dialects,
                format!("00 00 00 0e 00 12 00 00 00 08 {body}"),
                Request::QueueStats { queue: queue() },
            ),
        ]);
    }
    let redrive = |count| Request::Redrive {
        dlq: "orders.dlq".into(),
        count,
    };
    all.extend([
        (
            P1,
            "00 00 00 12 00 16 00 00 00 0a 0a 0a 'orders.dlq'".to_owned(),
            redrive(0),
        ),
        (
            P1,
            "00 00 00 15 00 16 00 00 00 0a 0a 0a 'orders.dlq' 10 ac 02".to_owned(),
            redrive(300),
        ),
        (
            P2,
            "00 00 00 12 00 14 00 00 00 0a 0a 0a 'orders.dlq'".to_owned(),
            redrive(0),
        ),
        (
            P3,
            "00 00 00 1a 00 14 00 00 00 0a 00 0a 'orders.dlq' 00 00 00 00 00 00 00 00".to_owned(),
            redrive(0),
        ),
        (
            P3,
            "00 00 00 1a 00 14 00 00 00 0a 00 0a 'orders.dlq' 00 00 00 00 00 00 01 2c".to_owned(),
            redrive(300),
        ),
    ]);
    all
}

fn config_requests() -> Vec<(&'static [Dialect], String, Request)> {
    let mut all = Vec::new();
    for (dialects, set, list, get) in [(P1, "17", "19", "18"), (P2, "15", "17", "16")] {
        all.extend([
            (
                dialects,
                format!("00 00 00 1b 00 {set} 00 00 00 0b 0a 0c 'throttle.api' 12 05 '10,20'"),
                Request::SetConfig {
                    key: "throttle.api".into(),
                    value: "10,20".into(),
                },
            ),
            (
                dialects,
                format!("00 00 00 09 00 {get} 00 00 00 0b 0a 01 'k'"),
                Request::GetConfig { key: "k".into() },
            ),
            (
                dialects,
                format!("00 00 00 06 00 {list} 00 00 00 0b"),
                Request::ListConfig { prefix: String::new() },
            ),
        ]);
    }
    all.extend([
        (
            P3,
            "00 00 00 1b 00 15 00 00 00 0b 00 0c 'throttle.api' 00 05 '10,20'".to_owned(),
            Request::SetConfig {
                key: "throttle.api".into(),
                value: "10,20".into(),
            },
        ),
        (
            P3,
            "00 00 00 09 00 16 00 00 00 0b 00 01 'k'".to_owned(),
            Request::GetConfig { key: "k".into() },
        ),
        (
            P3,
            "00 00 00 08 00 17 00 00 00 0b 00 00".to_owned(),
            Request::ListConfig { prefix: String::new() },
        ),
    ]);
    all
}

fn key_requests() -> Vec<(&'static [Dialect], String, Request)> {
    let superadmin = || Request::CreateApiKey(ApiKeySpec::new("svc").superadmin(true));
    let grant = || Request::SetAcl {
        key_id: "k1".into(),
        permissions: vec![Permission::new("produce", "orders.*")],
    };
    let mut all = vec![
        (
            P1_P2,
            "00 00 00 0d 00 31 00 00 00 0d 0a 03 'svc' 18 01".to_owned(),
            superadmin(),
        ),
        (
            P3,
            "00 00 00 14 00 31 00 00 00 0d 00 03 'svc' 00 00 00 00 00 00 00 00 01".to_owned(),
            superadmin(),
        ),
        (
            P1_P2,
            "00 00 00 1f 00 34 00 00 00 0e 0a 02 'k1' 12 13 0a 07 'produce' 12 08 'orders.*'".to_owned(),
            grant(),
        ),
        (
            P3,
            "00 00 00 1f 00 34 00 00 00 0e 00 02 'k1' 00 01 00 07 'produce' 00 08 'orders.*'".to_owned(),
            grant(),
        ),
        (ANY, "00 00 00 06 00 33 00 00 00 0f".to_owned(), Request::ListApiKeys),
    ];
    for (dialects, body) in [(P1_P2, "0a 02 'k1'"), (P3, "00 02 'k1'")] {
        let key_id = || "k1".to_owned();
        all.extend([
            (
                dialects,
                format!("00 00 00 0a 00 32 00 00 00 10 {body}"),
                Request::RevokeApiKey { key_id: key_id() },
            ),
            (
                dialects,
                format!("00 00 00 0a 00 35 00 00 00 10 {body}"),
                Request::GetAcl { key_id: key_id() },
            ),
        ]);
    }
    all
}

fn refused(kind: ErrorKind, text: &str) -> Response {
    Response::Error(ServerError::new(kind, text))
}

fn item(kind: ErrorKind, code: u16, text: &str) -> Box<ServerError> {
    Box::new(ServerError::new(kind, text).with_code(code))
}

/// Every answer: where it is spelled so, what it answers, its frame, its meaning.
pub(crate) fn answers() -> Vec<(&'static [Dialect], Op, String, Response)> {
    let mut all = data_answers();
    all.extend(empty_answers());
    all.extend(queue_answers());
    all.extend(other_answers());
    all
}

fn data_answers() -> Vec<(&'static [Dialect], Op, String, Response)> {
    let no_lease = format!("no lease for message {ID} in queue orders");
    vec![
        (
            ANY,
            Op::Enqueue,
            format!("00 00 00 2f 00 01 00 00 00 02 00 01 01 00 24 '{ID}'"),
            Response::Enqueue(vec![Ok(ID.into())]),
        ),
        (
            ANY,
            Op::Enqueue,
            "00 00 00 13 00 01 00 00 00 02 00 01 00 00 01 00 06 'orders'".into(),
            Response::Enqueue(vec![Err(item(ErrorKind::QueueNotFound, 1, "orders"))]),
        ),
        (
            ANY,
            Op::Enqueue,
            "00 00 00 08 00 01 00 00 00 02 00 00".into(),
            Response::Enqueue(Vec::new()),
        ),
        (
            ANY,
            Op::Ack,
            "00 00 00 09 00 03 00 00 00 04 00 01 01".into(),
            Response::Ack(vec![Ok(())]),
        ),
        (
            ANY,
            Op::Nack,
            format!("00 00 00 56 00 04 00 00 00 04 00 01 00 00 01 00 49 '{no_lease}'"),
            Response::Nack(vec![Err(item(ErrorKind::MessageNotFound, 1, &no_lease))]),
        ),
        (
            ANY,
            Op::Ack,
            "00 00 00 27 00 03 00 00 00 04 00 02 01 00 00 02 00 19 'storage engine error: ful' ".into(),
            Response::Ack(vec![
                Ok(()),
                Err(item(ErrorKind::Server, 2, "storage engine error: ful")),
            ]),
        ),
        (
            ANY,
            Op::Authenticate,
            "00 00 00 20 00 fe 00 00 00 01 'invalid or missing api key'".into(),
            refused(ErrorKind::Auth, "invalid or missing api key"),
        ),
        (
            ANY,
            Op::Consume,
            "00 00 00 1f 00 fe 00 00 00 03 'leader_hint:10.0.0.2:5555' ".into(),
            Response::Error(
                ServerError::new(ErrorKind::NotLeader, "leader_hint:10.0.0.2:5555").with_leader("10.0.0.2:5555"),
            ),
        ),
    ]
}

fn empty_answers() -> Vec<(&'static [Dialect], Op, String, Response)> {
    let mut all = Vec::new();
    for (dialects, op, opcode, answer) in [
        (ANY, Op::Consume, "02", Response::Consume { consumer_id: None }),
        (ANY, Op::Heartbeat, "21", Response::Heartbeat),
        (ANY, Op::Authenticate, "30", Response::Authenticated),
        (ANY, Op::DeleteQueue, "11", Response::DeleteQueue),
        (ANY, Op::RevokeApiKey, "32", Response::RevokeApiKey),
        (ANY, Op::SetAcl, "34", Response::SetAcl),
        (P1, Op::SetConfig, "17", Response::SetConfig),
        (P2_P3, Op::SetConfig, "15", Response::SetConfig),
        (P1_P2, Op::ListQueues, "13", Response::ListQueues(QueueList::default())),
        (P1_P2, Op::QueueStats, "12", Response::QueueStats(QueueStats::default())),
        (P1, Op::Redrive, "16", Response::Redrive { redriven: 0 }),
        (P2, Op::GetConfig, "16", Response::GetConfig { value: String::new() }),
    ] {
        all.push((dialects, op, format!("00 00 00 06 00 {opcode} 00 00 00 09"), answer));
    }
    all
}

/// The statistics of the specification's example.
fn example_stats() -> QueueStats {
    QueueStats::default()
        .depth(3)
        .in_flight(1)
        .active_fairness_keys(1)
        .active_consumers(1)
        .quantum(1000)
        .per_key(vec![
            KeyStats::default()
                .key("default".into())
                .pending(2)
                .deficit(998)
                .weight(1),
        ])
}

/// Statistics in which nothing is zero.
fn full_stats() -> QueueStats {
    example_stats()
        .leader_node_id(5)
        .replication_count(6)
        .per_key(vec![
            KeyStats::default().key("k".into()).pending(2).deficit(-2).weight(7),
        ])
        .per_throttle(vec![
            ThrottleStats::default()
                .key("api".into())
                .tokens(20.0)
                .rate_per_second(10.0)
                .burst(0.5),
        ])
}

fn queue_answers() -> Vec<(&'static [Dialect], Op, String, Response)> {
    let created = || Response::CreateQueue {
        queue_id: "orders".into(),
    };
    let queue = |name: &str, depth| QueueInfo::default().name(name.into()).depth(depth);
    let zeros = |n: usize| "00".repeat(n);
    vec![
        (
            P1_P2,
            Op::CreateQueue,
            "00 00 00 0e 00 10 00 00 00 06 0a 06 'orders'".into(),
            created(),
        ),
        (
            P3,
            Op::CreateQueue,
            "00 00 00 0e 00 10 00 00 00 06 00 06 'orders'".into(),
            created(),
        ),
        (
            P1_P2,
            Op::QueueStats,
            "00 00 00 23 00 12 00 00 00 08 08 03 10 01 18 01 20 01 28 e8 07 32 10 0a 07 'default' 10 02 18 e6 07 20 01"
                .into(),
            Response::QueueStats(example_stats()),
        ),
        (
            P3,
            Op::QueueStats,
            format!(
                "00 00 00 53 00 12 00 00 00 08 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 01
                 00 00 00 01 00 00 03 e8 00 01 00 07 'default' 00 00 00 00 00 00 00 02 00 00 00 00 00 00 03 e6
                 00 00 00 01 00 00 {}",
                zeros(12)
            ),
            Response::QueueStats(example_stats()),
        ),
        (
            P1_P2,
            Op::QueueStats,
            "00 00 00 4b 00 12 00 00 00 08 08 03 10 01 18 01 20 01 28 e8 07
             32 12 0a 01 'k' 10 02 18 fe ff ff ff ff ff ff ff ff 01 20 07
             3a 20 0a 03 'api' 11 00 00 00 00 00 00 34 40 19 00 00 00 00 00 00 24 40 21 00 00 00 00 00 00 e0 3f
             40 05 48 06"
                .into(),
            Response::QueueStats(full_stats()),
        ),
        (
            P3,
            Op::QueueStats,
            "00 00 00 6a 00 12 00 00 00 08 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 01
             00 00 00 01 00 00 03 e8
             00 01 00 01 'k' 00 00 00 00 00 00 00 02 ff ff ff ff ff ff ff fe 00 00 00 07
             00 01 00 03 'api' 40 34 00 00 00 00 00 00 40 24 00 00 00 00 00 00 3f e0 00 00 00 00 00 00
             00 00 00 00 00 00 00 05 00 00 00 06"
                .into(),
            Response::QueueStats(full_stats()),
        ),
        (
            P1_P2,
            Op::ListQueues,
            "00 00 00 20 00 13 00 00 00 09 0a 0a 0a 06 'orders' 10 01 0a 0c 0a 0a 'orders.dlq'".into(),
            Response::ListQueues(
                QueueList::default()
                    .queues(vec![queue("orders", 1), queue("orders.dlq", 0)])
                    .cluster_node_count(0),
            ),
        ),
        (
            P3,
            Op::ListQueues,
            "00 00 00 0c 00 13 00 00 00 09 00 00 00 00 00 00".into(),
            Response::ListQueues(QueueList::default()),
        ),
        (
            P3,
            Op::ListQueues,
            format!(
                "00 00 00 30 00 13 00 00 00 09 00 01 00 06 'orders' 00 00 00 00 00 00 00 01 {}",
                zeros(24)
            ),
            Response::ListQueues(
                QueueList::default()
                    .queues(vec![queue("orders", 1)])
                    .cluster_node_count(0),
            ),
        ),
        (
            P1,
            Op::Redrive,
            "00 00 00 08 00 16 00 00 00 0a 08 02".into(),
            Response::Redrive { redriven: 2 },
        ),
        (
            P3,
            Op::Redrive,
            "00 00 00 0e 00 14 00 00 00 0a 00 00 00 00 00 00 00 02".into(),
            Response::Redrive { redriven: 2 },
        ),
    ]
}

fn other_answers() -> Vec<(&'static [Dialect], Op, String, Response)> {
    let entries = || Response::ListConfig {
        entries: vec![("a".into(), "1".into()), ("b".into(), String::new())],
    };
    let created = || Response::CreateApiKey(CreatedApiKey::new("k1", "token", true));
    let keys = || {
        Response::ListApiKeys(vec![
            ApiKeyInfo::default()
                .key_id("k1".into())
                .name("svc".into())
                .created_at_ms(258)
                .expires_at_ms(3)
                .superadmin(true),
        ])
    };
    let acl = || {
        Response::GetAcl(
            Acl::default()
                .key_id("k1".into())
                .permissions(vec![Permission::new("admin", "*")])
                .superadmin(true),
        )
    };
    vec![
        (
            P1,
            Op::GetConfig,
            "00 00 00 0d 00 18 00 00 00 0b 0a 05 '10,20'".into(),
            Response::GetConfig { value: "10,20".into() },
        ),
        (
            P3,
            Op::GetConfig,
            "00 00 00 0d 00 16 00 00 00 0b 00 05 '10,20'".into(),
            Response::GetConfig { value: "10,20".into() },
        ),
        (
            P1,
            Op::ListConfig,
            "00 00 00 15 00 19 00 00 00 0b 0a 06 0a 01 'a' 12 01 '1' 0a 03 0a 01 'b' 10 02".into(),
            entries(),
        ),
        (
            P3,
            Op::ListConfig,
            "00 00 00 17 00 17 00 00 00 0b 00 02 00 01 'a' 00 01 '1' 00 01 'b' 00 00 00 00 00 02".into(),
            entries(),
        ),
        (
            P1_P2,
            Op::CreateApiKey,
            "00 00 00 13 00 31 00 00 00 0d 0a 02 'k1' 12 05 'token' 18 01".into(),
            created(),
        ),
        (
            P3,
            Op::CreateApiKey,
            "00 00 00 12 00 31 00 00 00 0d 00 02 'k1' 00 05 'token' 01".into(),
            created(),
        ),
        (
            P1_P2,
            Op::ListApiKeys,
            "00 00 00 18 00 33 00 00 00 0f 0a 10 0a 02 'k1' 12 03 'svc' 18 82 02 20 03 28 01".into(),
            keys(),
        ),
        (
            P3,
            Op::ListApiKeys,
            "00 00 00 22 00 33 00 00 00 0f 00 01 00 02 'k1' 00 03 'svc' 00 00 00 00 00 00 01 02 00 00 00 00 00 00 00 03
             01"
            .into(),
            keys(),
        ),
        (
            P1_P2,
            Op::GetAcl,
            "00 00 00 18 00 35 00 00 00 10 0a 02 'k1' 12 0a 0a 05 'admin' 12 01 '*' 18 01".into(),
            acl(),
        ),
        (
            P3,
            Op::GetAcl,
            "00 00 00 17 00 35 00 00 00 10 00 02 'k1' 00 01 00 05 'admin' 00 01 '*' 01".into(),
            acl(),
        ),
    ]
}

pub(crate) fn delivery(
    id: &str,
    headers: &[(&str, &str)],
    payload: &'static [u8],
    key: &str,
    attempts: u32,
) -> Received {
    Received::new(
        id.into(),
        "orders",
        Headers::from_iter(headers.iter().copied()),
        payload,
        key,
        attempts,
    )
}

pub(crate) fn pushes() -> Vec<(String, Push)> {
    vec![
        (
            format!(
                "00 00 00 53 04 02 00 00 00 00 00 01 00 24 '{ID}' 00 07 'default' 00 00 00 00
                 01 00 06 'tenant' 00 04 'acme' 00 00 00 05 'hello'"
            ),
            Push {
                deliveries: vec![delivery(ID, &[("tenant", "acme")], b"hello", "default", 0)],
            },
        ),
        (
            "00 00 00 2c 04 02 00 00 00 00 00 02 00 01 'a' 00 03 'vip' 00 00 00 09 00 00 00 00 00
             00 01 'b' 00 03 'vip' 00 00 00 00 00 00 00 00 02 'hi'"
                .into(),
            Push {
                deliveries: vec![delivery("a", &[], b"", "vip", 9), delivery("b", &[], b"hi", "vip", 0)],
            },
        ),
    ]
}
