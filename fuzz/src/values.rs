//! Requests, answers and pushes of every kind, drawn from the fuzzer's bytes.

use arbitrary::{Arbitrary, Unstructured};
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

use crate::DIALECTS;
use crate::frame_decode::ANSWERED;
use crate::input::Input;

/// Any request; each is made of bytes of its own, so that a mutation changes one of many.
#[derive(Debug)]
pub(crate) struct AnyRequest(pub(crate) Request);

/// Any answer, and what it answers.
#[derive(Debug)]
pub(crate) struct AnyResponse(pub(crate) Op, pub(crate) Response);

/// Any deliveries of the queue `queue`.
#[derive(Debug)]
pub(crate) struct AnyPush(pub(crate) Push);

/// Any dialect.
#[derive(Debug)]
pub(crate) struct AnyDialect(pub(crate) Dialect);

fn part<'a>(u: &mut Unstructured<'a>) -> arbitrary::Result<Input<'a>> {
    let n = u.arbitrary_len::<u8>()?;
    Ok(Input::new(u.bytes(n)?))
}

impl<'a> Arbitrary<'a> for AnyRequest {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self(request(&mut part(u)?)))
    }
}

impl<'a> Arbitrary<'a> for AnyResponse {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let op = *u.choose(&ANSWERED)?;
        Ok(Self(op, response(&mut part(u)?, op)))
    }
}

impl<'a> Arbitrary<'a> for AnyPush {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self(push(&mut part(u)?, &"queue".into())))
    }
}

impl<'a> Arbitrary<'a> for AnyDialect {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self(*u.choose(&DIALECTS)?))
    }
}

pub(crate) fn queue(input: &mut Input<'_>) -> QueueName {
    input.text().into()
}

pub(crate) fn message(input: &mut Input<'_>) -> Message {
    let n = usize::from(input.byte()) * usize::from(1 + input.byte() % 4);
    let payload = input.bytes(n).to_vec();
    let mut message = Message::new(queue(input), payload);
    for (key, value) in input.list(3, |input| (input.text(), input.text())) {
        message = message.header(key, value);
    }
    message
}

/// Any request.
pub(crate) fn request(input: &mut Input<'_>) -> Request {
    match input.below(25) {
        0 => {
            let mut messages = input.list(4, message);
            // The preamble dialect has one queue per frame.
            if let Some(first) = messages.first().map(|message| QueueName::clone(&message.queue)) {
                for message in &mut messages {
                    message.queue = QueueName::clone(&first);
                }
            }
            Request::Enqueue(messages)
        }
        1 => Request::Consume {
            queue: queue(input),
            credit: input.word(),
        },
        2 => Request::CancelConsume,
        3 => Request::Flow { credit: input.word() },
        4 => Request::Ack(input.list(5, |input| AckItem {
            queue: queue(input),
            id: id(input),
        })),
        5 => Request::Nack(input.list(5, |input| NackItem {
            queue: queue(input),
            id: id(input),
            error: input.text(),
        })),
        6 => Request::Heartbeat,
        7 => Request::Authenticate(Secret::from(input.text().as_str())),
        8 => Request::Goodbye,
        9 => Request::CreateQueue(queue_spec(input)),
        10 => Request::DeleteQueue { queue: queue(input) },
        11 => Request::QueueStats { queue: queue(input) },
        12 => Request::ListQueues,
        13 => Request::Redrive {
            dlq: queue(input),
            count: input.number(),
        },
        14 => Request::SetConfig {
            key: input.text(),
            value: input.text(),
        },
        15 => Request::GetConfig { key: input.text() },
        16 => Request::ListConfig { prefix: input.text() },
        17 => Request::CreateApiKey(
            ApiKeySpec::new(input.text())
                .expires_at_ms(input.number())
                .superadmin(input.flag()),
        ),
        18 => Request::RevokeApiKey { key_id: input.text() },
        19 => Request::ListApiKeys,
        20 => Request::SetAcl {
            key_id: input.text(),
            permissions: input.list(3, permission),
        },
        21 => Request::GetAcl { key_id: input.text() },
        22 => Request::EnqueueNone { queue: queue(input) },
        23 => Request::Handshake {
            version: input.word().to_be_bytes()[3].into(),
            key: input.flag().then(|| Secret::from(input.text().as_str())),
        },
        _ => Request::ProbeAdmin,
    }
}

fn queue_spec(input: &mut Input<'_>) -> QueueSpec {
    let mut spec = QueueSpec::new(input.text());
    if input.flag() {
        spec = spec.on_enqueue(input.text());
    }
    if input.flag() {
        spec = spec.on_failure(input.text());
    }
    spec.visibility_timeout(std::time::Duration::from_millis(input.word().into()))
}

fn permission(input: &mut Input<'_>) -> Permission {
    let kind = ["produce", "consume", "admin"][input.below(3)];
    Permission::new(kind, input.text())
}

pub(crate) fn id(input: &mut Input<'_>) -> MessageId {
    MessageId::from(input.text())
}

fn refusal(input: &mut Input<'_>) -> ServerError {
    ServerError::new(ErrorKind::Server, input.text()).with_code(u16::from(1 + input.byte() % 2))
}

fn item<T>(input: &mut Input<'_>, mut one: impl FnMut(&mut Input<'_>) -> T) -> ItemResult<T> {
    if input.flag() {
        Ok(one(input))
    } else {
        Err(Box::new(refusal(input)))
    }
}

fn float(input: &mut Input<'_>) -> f64 {
    f64::from_bits(input.number())
}

/// Any answer to `op`.
pub(crate) fn response(input: &mut Input<'_>, op: Op) -> Response {
    if input.below(8) == 7 {
        return Response::Error(refusal(input));
    }
    match op {
        Op::Enqueue => Response::Enqueue(input.list(5, |input| item(input, id))),
        Op::Consume => Response::Consume { consumer_id: None },
        Op::Ack => Response::Ack(input.list(5, |input| item(input, |_| ()))),
        Op::Nack => Response::Nack(input.list(5, |input| item(input, |_| ()))),
        Op::Heartbeat => Response::Heartbeat,
        Op::Authenticate => Response::Authenticated,
        Op::CreateQueue => Response::CreateQueue { queue_id: input.text() },
        Op::DeleteQueue => Response::DeleteQueue,
        Op::QueueStats => Response::QueueStats(queue_stats(input)),
        Op::ListQueues => Response::ListQueues(
            QueueList::default()
                .queues(input.list(3, |input| {
                    QueueInfo::default()
                        .name(input.text())
                        .depth(input.number())
                        .in_flight(input.number())
                        .active_consumers(input.word())
                        .leader_node_id(input.number())
                }))
                .cluster_node_count(input.word()),
        ),
        Op::Redrive => Response::Redrive {
            redriven: input.number(),
        },
        Op::SetConfig => Response::SetConfig,
        Op::GetConfig => Response::GetConfig { value: input.text() },
        Op::ListConfig => Response::ListConfig {
            entries: input.list(3, |input| (input.text(), input.text())),
        },
        Op::CreateApiKey => Response::CreateApiKey(CreatedApiKey::new(
            input.text(),
            Secret::from(input.text().as_str()),
            input.flag(),
        )),
        Op::RevokeApiKey => Response::RevokeApiKey,
        Op::ListApiKeys => Response::ListApiKeys(input.list(3, |input| {
            ApiKeyInfo::default()
                .key_id(input.text())
                .name(input.text())
                .created_at_ms(input.number())
                .expires_at_ms(input.number())
                .superadmin(input.flag())
        })),
        Op::SetAcl => Response::SetAcl,
        Op::GetAcl => Response::GetAcl(
            Acl::default()
                .key_id(input.text())
                .permissions(input.list(3, permission))
                .superadmin(input.flag()),
        ),
        // The others have no answer, or only a refusal.
        _ => Response::Error(refusal(input)),
    }
}

fn queue_stats(input: &mut Input<'_>) -> QueueStats {
    QueueStats::default()
        .depth(input.number())
        .in_flight(input.number())
        .active_fairness_keys(input.number())
        .active_consumers(input.word())
        .quantum(input.word())
        .leader_node_id(input.number())
        .replication_count(input.word())
        .per_key(input.list(2, |input| {
            KeyStats::default()
                .key(input.text())
                .pending(input.number())
                .deficit(i64::from_be_bytes(input.number().to_be_bytes()))
                .weight(input.word())
        }))
        .per_throttle(input.list(2, |input| {
            ThrottleStats::default()
                .key(input.text())
                .tokens(float(input))
                .rate_per_second(float(input))
                .burst(float(input))
        }))
}

/// A delivery of `queue`.
pub(crate) fn received(input: &mut Input<'_>, queue: &QueueName) -> Received {
    let headers: Headers = input
        .list(2, |input| (input.text(), input.text()))
        .into_iter()
        .collect();
    let n = usize::from(input.byte());
    let payload = input.bytes(n).to_vec();
    Received::new(
        id(input),
        QueueName::clone(queue),
        headers,
        payload,
        input.text(),
        input.word(),
    )
}

/// Deliveries of `queue`.
pub(crate) fn push(input: &mut Input<'_>, queue: &QueueName) -> Push {
    Push {
        deliveries: input.list(5, |input| received(input, queue)),
    }
}
