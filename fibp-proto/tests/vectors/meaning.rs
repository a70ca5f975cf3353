//! Typed values in the vocabulary of the recordings. What is said here may be more than a recording says.

use fibp_proto::admin::{ApiKeyInfo, KeyStats, Permission, QueueInfo, ThrottleStats};
use fibp_proto::frame::FrameHeader;
use fibp_proto::response::ItemResult;
use fibp_proto::{Headers, MessageId, Op, Push, Request, Response};
use serde_json::{Map, Value, json};

/// The id that a recording names.
pub(crate) fn id(means: &Value) -> u64 {
    [&means["correlation_id"], &means["request_id"]]
        .into_iter()
        .find_map(Value::as_u64)
        .expect("an id")
}

/// Asserts that everything `means` says is so.
#[track_caller]
pub(crate) fn assert_contains(name: &str, described: &Value, means: &Value) {
    const COMMENTS: [&str; 2] = ["note", "then"];
    match (described, means) {
        (Value::Object(described), Value::Object(means)) => {
            for (key, expected) in means.iter().filter(|(key, _)| !COMMENTS.contains(&key.as_str())) {
                let found = described.get(key).unwrap_or(&Value::Null);
                assert_contains(&format!("{name}.{key}"), found, expected);
            }
        }
        (Value::Array(described), Value::Array(means)) => {
            assert_eq!(described.len(), means.len(), "{name}");
            for (found, expected) in described.iter().zip(means) {
                assert_contains(name, found, expected);
            }
        }
        // Both dialects' words for the same.
        (Value::String(described), Value::String(means)) if name.ends_with(".op") => {
            let means = means.strip_suffix("_result").unwrap_or(means);
            let means = match means {
                "ping" => "heartbeat",
                "consume_ok" => "consume",
                "disconnect" => "goodbye",
                "probe" => "redrive",
                other => other,
            };
            assert_eq!(described, means, "{name}");
        }
        _ => assert_eq!(described, means, "{name}"),
    }
}

/// What a value of `op` with this id says besides.
fn described(id: u32, op: &str, more: Value) -> Value {
    let mut all = Map::from_iter([
        ("op".to_owned(), json!(op)),
        ("correlation_id".to_owned(), json!(id)),
        ("request_id".to_owned(), json!(id)),
        ("code".to_owned(), json!(0)),
    ]);
    if let Value::Object(more) = more {
        all.extend(more);
    }
    Value::Object(all)
}

fn op_name(op: Op) -> &'static str {
    match op {
        Op::Enqueue => "enqueue",
        Op::Consume => "consume",
        Op::CancelConsume => "cancel_consume",
        Op::Flow => "flow",
        Op::Ack => "ack",
        Op::Nack => "nack",
        Op::Heartbeat => "heartbeat",
        Op::Authenticate => "auth",
        Op::Goodbye => "goodbye",
        Op::CreateQueue => "create_queue",
        Op::DeleteQueue => "delete_queue",
        Op::QueueStats => "queue_stats",
        Op::ListQueues => "list_queues",
        Op::Redrive => "redrive",
        Op::SetConfig => "config_set",
        Op::GetConfig => "config_get",
        Op::ListConfig => "config_list",
        Op::CreateApiKey => "create_api_key",
        Op::RevokeApiKey => "revoke_api_key",
        Op::ListApiKeys => "list_api_keys",
        Op::SetAcl => "set_acl",
        Op::GetAcl => "get_acl",
        other => panic!("{other:?} is not recorded"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn map(headers: &Headers) -> Value {
    headers
        .iter()
        .map(|(key, value)| (key.to_owned(), json!(value)))
        .collect::<Map<_, _>>()
        .into()
}

fn grants(permissions: &[Permission]) -> Value {
    permissions
        .iter()
        .map(|permission| json!([permission.kind.as_str(), permission.pattern]))
        .collect()
}

pub(crate) fn of_request(id: u32, request: &Request) -> Value {
    let more = match request {
        Request::Enqueue(messages) => {
            let described = messages.iter().map(|message| {
                json!({"queue": &*message.queue, "headers": map(&message.headers), "payload": hex(&message.payload)})
            });
            let queue = messages.first().map_or("", |message| &*message.queue);
            json!({"queue": queue, "messages": described.collect::<Value>()})
        }
        Request::EnqueueNone { queue } => json!({"queue": &**queue, "messages": []}),
        Request::Consume { queue, credit } => json!({"queue": &**queue, "initial_credits": credit}),
        Request::Flow { credit } => json!({"credits": credit}),
        Request::Ack(items) => {
            let items = items
                .iter()
                .map(|item| json!({"queue": &*item.queue, "id": item.id.as_str()}));
            json!({"items": items.collect::<Value>()})
        }
        Request::Nack(items) => {
            let items = items
                .iter()
                .map(|item| json!({"queue": &*item.queue, "id": item.id.as_str(), "error": item.error}));
            json!({"items": items.collect::<Value>()})
        }
        Request::Authenticate(key) => json!({"api_key": key.expose()}),
        Request::CreateQueue(spec) => json!({
            "queue": &*spec.name,
            "on_enqueue": spec.on_enqueue,
            "on_failure": spec.on_failure,
            "visibility_timeout_ms": spec.visibility_timeout_ms,
        }),
        Request::DeleteQueue { queue } | Request::QueueStats { queue } => json!({"queue": &**queue}),
        Request::Redrive { dlq, count } => json!({"dlq_queue": &**dlq, "count": count}),
        Request::SetConfig { key, value } => json!({"key": key, "value": value}),
        Request::GetConfig { key } => json!({"key": key}),
        Request::ListConfig { prefix } => json!({"prefix": prefix}),
        Request::CreateApiKey(spec) => json!({
            "name": spec.name,
            "expires_at_ms": spec.expires_at_ms,
            "is_superadmin": spec.superadmin,
        }),
        Request::RevokeApiKey { key_id } | Request::GetAcl { key_id } => json!({"key_id": key_id}),
        Request::SetAcl { key_id, permissions } => json!({"key_id": key_id, "permissions": grants(permissions)}),
        _ => Value::Null,
    };
    described(id, op_name(request.op()), more)
}

/// `own_frame`: a refusal came in an error frame, not inside the result of the operation.
pub(crate) fn of_response(id: u32, op: Op, own_frame: bool, response: &Response) -> Value {
    let name = if own_frame { "error" } else { op_name(op) };
    described(id, name, response_fields(response))
}

fn response_fields(response: &Response) -> Value {
    match response {
        Response::Enqueue(results) => json!({"results": results.iter().map(enqueued).collect::<Value>()}),
        Response::Ack(results) | Response::Nack(results) => json!({
            "results": results.iter().map(settled).collect::<Value>(),
            "codes": results
                .iter()
                .map(|result| json!(result.as_ref().err().map_or(Some(0), |refusal| refusal.code())))
                .collect::<Value>(),
        }),
        Response::Consume { consumer_id } => json!({"consumer_id": consumer_id}),
        Response::CreateQueue { queue_id } => json!({"queue_id": queue_id}),
        Response::QueueStats(stats) => json!({
            "depth": stats.depth,
            "in_flight": stats.in_flight,
            "active_fairness_keys": stats.active_fairness_keys,
            "active_consumers": stats.active_consumers,
            "quantum": stats.quantum,
            "leader_node_id": stats.leader_node_id,
            "replication_count": stats.replication_count,
            "per_key": stats.per_key.iter().map(key).collect::<Value>(),
            "per_throttle": stats.per_throttle.iter().map(throttle).collect::<Value>(),
        }),
        Response::ListQueues(list) => json!({
            "queues": list.queues.iter().map(queue).collect::<Value>(),
            "cluster_node_count": list.cluster_node_count,
        }),
        Response::Redrive { redriven } => json!({"redriven": redriven}),
        Response::GetConfig { value } => json!({"value": value}),
        Response::ListConfig { entries } => json!({"entries": entries, "total_count": entries.len()}),
        Response::CreateApiKey(created) => json!({
            "key_id": created.key_id,
            "key": created.key.expose(),
            "is_superadmin": created.superadmin,
        }),
        Response::ListApiKeys(keys) => json!({"keys": keys.iter().map(api_key).collect::<Value>()}),
        Response::GetAcl(acl) => json!({
            "key_id": acl.key_id,
            "permissions": grants(&acl.permissions),
            "is_superadmin": acl.superadmin,
        }),
        Response::Error(refusal) => json!({
            "code": refusal.code(),
            "text": refusal.text(),
            "message": refusal.text(),
            // Where the result of a creation says why it failed.
            "queue_id": refusal.text(),
            "metadata": refusal
                .metadata()
                .iter()
                .map(|(key, value)| (key.clone(), json!(value)))
                .collect::<Map<_, _>>(),
        }),
        _ => Value::Null,
    }
}

fn enqueued(result: &ItemResult<MessageId>) -> Value {
    match result {
        Ok(id) => json!({"ok": id.as_str(), "code": 0, "message_id": id.as_str()}),
        Err(refusal) => json!({"code": refusal.code(), "text": refusal.text(), "message_id": refusal.text()}),
    }
}

fn settled(result: &ItemResult<()>) -> Value {
    match result {
        Ok(()) => json!("ok"),
        Err(refusal) => json!({"code": refusal.code(), "text": refusal.text()}),
    }
}

fn key(stats: &KeyStats) -> Value {
    json!({"key": stats.key, "pending": stats.pending, "deficit": stats.deficit, "weight": stats.weight})
}

fn throttle(stats: &ThrottleStats) -> Value {
    json!({"key": stats.key, "tokens": stats.tokens, "rate": stats.rate_per_second, "burst": stats.burst})
}

fn queue(queue: &QueueInfo) -> Value {
    json!({
        "name": queue.name,
        "depth": queue.depth,
        "in_flight": queue.in_flight,
        "active_consumers": queue.active_consumers,
        "leader_node_id": queue.leader_node_id,
    })
}

fn api_key(key: &ApiKeyInfo) -> Value {
    json!({
        "key_id": key.key_id,
        "name": key.name,
        "created_at_ms": key.created_at_ms,
        "expires_at_ms": key.expires_at_ms,
        "is_superadmin": key.superadmin,
    })
}

pub(crate) fn of_push(header: &FrameHeader, push: &Push) -> Value {
    let deliveries = push.deliveries.iter().map(|delivery| {
        json!({
            "id": delivery.id.as_str(),
            "queue": &*delivery.queue,
            "headers": map(&delivery.headers),
            "payload": hex(&delivery.payload),
            "fairness_key": &*delivery.fairness_key,
            "attempt_count": delivery.attempt_count,
            "weight": delivery.weight,
            "throttle_keys": delivery.throttle_keys,
            "enqueued_at_ms": delivery.enqueued_at_ms.unwrap_or(0),
            "leased_at_ms": delivery.leased_at_ms.unwrap_or(0),
        })
    });
    described(
        header.id,
        "delivery",
        json!({"flags": header.flags, "messages": deliveries.collect::<Value>()}),
    )
}
