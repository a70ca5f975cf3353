//! Arbitrary requests, answers and pushes, as far as a dialect can say them.

use bytes::Bytes;
use fibp_proto::admin::{
    Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, KeyStats, Permission, QueueInfo, QueueList, QueueSpec, QueueStats,
    ThrottleStats,
};
use fibp_proto::request::{AckItem, NackItem};
use fibp_proto::response::ItemResult;
use fibp_proto::{
    Dialect, ErrorKind, Headers, Message, MessageId, Op, Push, QueueName, Received, Request, Response, Secret,
    ServerError,
};
use proptest::char::range;
use proptest::collection::{SizeRange, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::common::size;

fn is_framed(dialect: Dialect) -> bool {
    matches!(dialect, Dialect::Handshake | Dialect::HandshakeEarly)
}

/// Text of these characters. (Regular expressions do the same, but are parsed again for each value: minutes under Miri.)
fn chars(of: impl Strategy<Value = char>, count: impl Into<SizeRange>) -> impl Strategy<Value = String> {
    vec(of, count).prop_map(String::from_iter)
}

/// Printable ASCII.
fn ascii(count: impl Into<SizeRange>) -> impl Strategy<Value = String> {
    chars(range(' ', '~'), count)
}

/// Mostly short text, sometimes as long as the wire carries.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => ascii(0..=12),
        4 => chars(any::<char>(), 0..=8),
        1 => (0..=size(65_535)).prop_map(|len| "x".repeat(len)),
    ]
}

fn some_text() -> impl Strategy<Value = String> {
    prop_oneof![ascii(1..=12), chars(any::<char>(), 1..=8)]
}

fn queue() -> impl Strategy<Value = QueueName> {
    text().prop_map(QueueName::from)
}

fn id() -> impl Strategy<Value = MessageId> {
    prop_oneof![
        4 => any::<(u32, u16, u16, u64)>().prop_map(|(a, b, c, d)| {
            let (c, high, low) = (c & 0xFFF, d >> 48, d & 0xFFFF_FFFF_FFFF);
            format!("{a:08x}-{b:04x}-7{c:03x}-{high:04x}-{low:012x}")
        }),
        1 => text(),
    ]
    .prop_map(MessageId::from)
}

fn headers() -> impl Strategy<Value = Headers> {
    vec((text(), text()), 0..5).prop_map(Headers::from_iter)
}

/// Around the sizes at which buffers are treated differently, too.
fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..64).prop_map(Bytes::from),
        1 => (16 * 1024 - 2..16 * 1024 + 2_usize, any::<u8>()).prop_map(|(len, byte)| vec![byte; len].into()),
    ]
}

fn messages(dialect: Dialect) -> BoxedStrategy<Vec<Message>> {
    let contents = (headers(), payload());
    if is_framed(dialect) {
        return vec((queue(), contents), 0..6)
            .prop_map(|messages| {
                messages
                    .into_iter()
                    .map(|(queue, (headers, payload))| message(queue, headers, payload))
                    .collect()
            })
            .boxed();
    }
    (queue(), vec(contents, 0..6))
        .prop_map(|(queue, messages)| {
            messages
                .into_iter()
                .map(|(headers, payload)| message(queue.clone(), headers, payload))
                .collect()
        })
        .boxed()
}

fn message(queue: QueueName, headers: Headers, payload: Bytes) -> Message {
    let mut message = Message::new(queue, payload);
    message.headers = headers;
    message
}

fn permissions() -> impl Strategy<Value = Vec<Permission>> {
    let known = select(&["produce", "consume", "admin"][..]).prop_map(str::to_owned);
    let kind = prop_oneof![3 => known, 1 => chars(range('a', 'z'), 0..=9)];
    vec(
        (kind, text()).prop_map(|(kind, pattern)| Permission::new(kind.as_str(), pattern)),
        0..4,
    )
}

/// Every request that the dialect has and reads back.
pub(crate) fn request(dialect: Dialect) -> BoxedStrategy<Request> {
    let common = prop_oneof![
        messages(dialect).prop_map(Request::Enqueue),
        consume(dialect),
        vec((queue(), id()).prop_map(|(queue, id)| AckItem { queue, id }), 0..6).prop_map(Request::Ack),
        vec(
            (queue(), id(), text()).prop_map(|(queue, id, error)| NackItem { queue, id, error }),
            0..6
        )
        .prop_map(Request::Nack),
        Just(Request::Heartbeat),
        Just(Request::Goodbye),
    ];
    let own = if is_framed(dialect) {
        Just(Request::CancelConsume).boxed()
    } else {
        prop_oneof![
            any::<u32>().prop_map(|credit| Request::Flow { credit }),
            text().prop_map(|key| Request::Authenticate(Secret::from(key))),
        ]
        .boxed()
    };
    prop_oneof![3 => common, 1 => own, 3 => queue_request(), 3 => other_request()].boxed()
}

fn consume(dialect: Dialect) -> impl Strategy<Value = Request> {
    (queue(), any::<u32>()).prop_map(move |(queue, credit)| Request::Consume {
        queue,
        credit: if is_framed(dialect) { 0 } else { credit },
    })
}

fn queue_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (queue(), option::of(some_text()), option::of(some_text()), any::<u64>()).prop_map(
            |(name, on_enqueue, on_failure, timeout)| {
                let mut spec = QueueSpec::new(name);
                spec.on_enqueue = on_enqueue;
                spec.on_failure = on_failure;
                spec.visibility_timeout_ms = timeout;
                Request::CreateQueue(spec)
            }
        ),
        queue().prop_map(|queue| Request::DeleteQueue { queue }),
        queue().prop_map(|queue| Request::QueueStats { queue }),
        Just(Request::ListQueues),
        (queue(), any::<u64>()).prop_map(|(dlq, count)| Request::Redrive { dlq, count }),
    ]
}

fn other_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (text(), text()).prop_map(|(key, value)| Request::SetConfig { key, value }),
        text().prop_map(|key| Request::GetConfig { key }),
        text().prop_map(|prefix| Request::ListConfig { prefix }),
        (text(), any::<u64>(), any::<bool>()).prop_map(|(name, at, superadmin)| Request::CreateApiKey(
            ApiKeySpec::new(name).expires_at_ms(at).superadmin(superadmin)
        )),
        text().prop_map(|key_id| Request::RevokeApiKey { key_id }),
        Just(Request::ListApiKeys),
        (text(), permissions()).prop_map(|(key_id, permissions)| Request::SetAcl { key_id, permissions }),
        text().prop_map(|key_id| Request::GetAcl { key_id }),
    ]
}

/// Results of items whose refusals are as the dialect spells them.
fn results<T: std::fmt::Debug + 'static>(
    ok: BoxedStrategy<T>,
    refusal: BoxedStrategy<ServerError>,
) -> impl Strategy<Value = Vec<ItemResult<T>>> {
    let item = prop_oneof![3 => ok.prop_map(Ok), 1 => refusal.prop_map(|refusal| Err(Box::new(refusal)))];
    vec(item, 0..8)
}

fn item_refusal(dialect: Dialect, op: Op) -> BoxedStrategy<ServerError> {
    let (kind, code) = if op == Op::Enqueue {
        (ErrorKind::QueueNotFound, 1)
    } else {
        let code = if is_framed(dialect) { 2 } else { 1 };
        (ErrorKind::MessageNotFound, code)
    };
    // Framed results of acks and nacks carry no text.
    let said = if is_framed(dialect) && op != Op::Enqueue {
        Just(String::new()).boxed()
    } else {
        chars(range('a', 'z'), 0..=20).boxed()
    };
    said.prop_map(move |text| ServerError::new(kind, text).with_code(code))
        .boxed()
}

fn refusal(dialect: Dialect) -> BoxedStrategy<ServerError> {
    if is_framed(dialect) {
        let refusal = prop_oneof![
            Just((ErrorKind::QueueNotFound, 0x01)),
            Just((ErrorKind::Auth, 0x0A)),
            Just((ErrorKind::NotLeader, 0x0C)),
            Just((ErrorKind::Server, 0xFF)),
        ];
        return (refusal, text(), vec((text(), text()), 0..3))
            .prop_map(|((kind, code), text, metadata)| {
                ServerError::new(kind, text).with_code(code).with_metadata(metadata)
            })
            .boxed();
    }
    let refusal = prop_oneof![
        Just((ErrorKind::Forbidden, "permission denied: ")),
        Just((ErrorKind::QueueNotFound, "invalid payload: queue not found: ")),
        Just((ErrorKind::Overloaded, "broker unavailable: ")),
        Just((ErrorKind::InvalidArgument, "invalid payload: key ")),
    ];
    (refusal, ascii(0..=30))
        .prop_map(|((kind, prefix), rest)| ServerError::new(kind, format!("{prefix}{rest}")))
        .boxed()
}

fn stats() -> impl Strategy<Value = QueueStats> {
    let key = (text(), any::<u64>(), any::<i64>(), any::<u32>()).prop_map(|(key, pending, deficit, weight)| {
        KeyStats::default()
            .key(key)
            .pending(pending)
            .deficit(deficit)
            .weight(weight)
    });
    let number = || -1e9..1e9_f64;
    let throttle = (text(), number(), number(), number()).prop_map(|(key, tokens, rate_per_second, burst)| {
        ThrottleStats::default()
            .key(key)
            .tokens(tokens)
            .rate_per_second(rate_per_second)
            .burst(burst)
    });
    (
        any::<[u64; 4]>(),
        any::<[u32; 3]>(),
        vec(key, 0..4),
        vec(throttle, 0..4),
    )
        .prop_map(|(large, small, per_key, per_throttle)| {
            QueueStats::default()
                .depth(large[0])
                .in_flight(large[1])
                .active_fairness_keys(large[2])
                .active_consumers(small[0])
                .quantum(small[1])
                .leader_node_id(large[3])
                .replication_count(small[2])
                .per_key(per_key)
                .per_throttle(per_throttle)
        })
}

fn queue_list() -> impl Strategy<Value = QueueList> {
    let queue = (text(), any::<[u64; 3]>(), any::<u32>()).prop_map(|(name, figures, active_consumers)| {
        QueueInfo::default()
            .name(name)
            .depth(figures[0])
            .in_flight(figures[1])
            .active_consumers(active_consumers)
            .leader_node_id(figures[2])
    });
    (vec(queue, 0..5), any::<u32>()).prop_map(|(queues, cluster_node_count)| {
        QueueList::default()
            .queues(queues)
            .cluster_node_count(cluster_node_count)
    })
}

fn api_keys() -> impl Strategy<Value = Vec<ApiKeyInfo>> {
    let key = (text(), text(), any::<[u64; 2]>(), any::<bool>()).prop_map(|(key_id, name, times, superadmin)| {
        ApiKeyInfo::default()
            .key_id(key_id)
            .name(name)
            .created_at_ms(times[0])
            .expires_at_ms(times[1])
            .superadmin(superadmin)
    });
    vec(key, 0..5)
}

/// Every answer that the dialect has and reads back, with what it answers.
pub(crate) fn response(dialect: Dialect) -> BoxedStrategy<(Op, Response)> {
    let consumer_id = if is_framed(dialect) {
        text().prop_map(Some).boxed()
    } else {
        Just(None).boxed()
    };
    let data = prop_oneof![
        results(id().boxed(), item_refusal(dialect, Op::Enqueue)).prop_map(Response::Enqueue),
        results(Just(()).boxed(), item_refusal(dialect, Op::Ack)).prop_map(Response::Ack),
        results(Just(()).boxed(), item_refusal(dialect, Op::Nack)).prop_map(Response::Nack),
        consumer_id.prop_map(|consumer_id| Response::Consume { consumer_id }),
    ];
    let mut empty = vec![
        Response::Heartbeat,
        Response::DeleteQueue,
        Response::SetConfig,
        Response::RevokeApiKey,
        Response::SetAcl,
    ];
    if !is_framed(dialect) {
        empty.push(Response::Authenticated);
    }
    let entries = vec((text(), text()), 0..5);
    let acl = (text(), permissions(), any::<bool>()).prop_map(|(key_id, permissions, superadmin)| {
        Acl::default()
            .key_id(key_id)
            .permissions(permissions)
            .superadmin(superadmin)
    });
    let admin = prop_oneof![
        text().prop_map(|queue_id| Response::CreateQueue { queue_id }),
        stats().prop_map(Response::QueueStats),
        queue_list().prop_map(Response::ListQueues),
        any::<u64>().prop_map(|redriven| Response::Redrive { redriven }),
        text().prop_map(|value| Response::GetConfig { value }),
        entries.prop_map(|entries| Response::ListConfig { entries }),
        (text(), text(), any::<bool>())
            .prop_map(|(key_id, key, superadmin)| Response::CreateApiKey(CreatedApiKey::new(key_id, key, superadmin))),
        api_keys().prop_map(Response::ListApiKeys),
        acl.prop_map(Response::GetAcl),
    ];
    let refused = refusal(dialect).prop_map(|refusal| (Op::QueueStats, Response::Error(refusal)));
    let answered = prop_oneof![4 => data, 1 => select(empty), 4 => admin]
        .prop_map(|response| (response.op().expect("no refusal"), response));
    prop_oneof![8 => answered, 1 => refused].boxed()
}

/// A push of deliveries from `queue`.
pub(crate) fn push(dialect: Dialect, queue: QueueName) -> BoxedStrategy<Push> {
    let delivery = (
        id(),
        headers(),
        payload(),
        prop_oneof![Just("default".to_owned()), text()],
        any::<u32>(),
    )
        .prop_map(move |(id, headers, payload, key, attempts)| {
            Received::new(id, queue.clone(), headers, payload, key, attempts)
        });
    if !is_framed(dialect) {
        return vec(delivery, 0..6).prop_map(|deliveries| Push { deliveries }).boxed();
    }
    // A timestamp of 0 is none.
    let time = || option::of(1..=u64::MAX);
    let more = (any::<u32>(), vec(text(), 0..3), time(), time());
    let delivery = (delivery, more).prop_map(|(mut delivery, (weight, throttle_keys, enqueued, leased))| {
        delivery.weight = Some(weight);
        delivery.throttle_keys = Some(throttle_keys);
        delivery.enqueued_at_ms = enqueued;
        delivery.leased_at_ms = leased;
        delivery
    });
    vec(delivery, 0..6).prop_map(|deliveries| Push { deliveries }).boxed()
}
