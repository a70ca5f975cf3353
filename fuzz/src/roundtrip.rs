//! Values of every kind: what is written means the same when it is read, and what cannot be written is refused for the
//! reason that it is said to be refused for.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use fibp_proto::dialect::EncodeError;
use fibp_proto::frame::Limits;
use fibp_proto::{AdminRevision, Dialect, Message, Op, Push, QueueName, Request, Response, ServerError};

use crate::frame_decode::only_frame;
use crate::identity::{is_framed, meaning};
use crate::values::{AnyDialect, AnyPush, AnyRequest, AnyResponse};

#[derive(Debug, Arbitrary)]
struct Case {
    dialect: AnyDialect,
    id: u32,
    values: Vec<Value>,
}

#[derive(Debug, Arbitrary)]
enum Value {
    Request(AnyRequest),
    Response(AnyResponse),
    Push(AnyPush),
}

/// Writes and reads values drawn from the input.
pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let AnyDialect(dialect) = case.dialect;
    for value in case.values.into_iter().take(8) {
        match value {
            Value::Request(AnyRequest(value)) => request(dialect, case.id, &value),
            Value::Response(AnyResponse(op, value)) => response(dialect, case.id, op, &value),
            Value::Push(AnyPush(mut value)) => {
                push(dialect, case.id, &value);
                // From this size on a payload stays a slice of the frame that it came in.
                if let [delivery] = &mut value.deliveries[..] {
                    delivery.payload = vec![7; 64 * 1024].into();
                    push(dialect, case.id, &value);
                }
            }
        }
    }
}

fn limits(send: u32) -> Limits {
    Limits::new(send, send)
}

fn request(dialect: Dialect, id: u32, request: &Request) {
    let encoded = request.encode(dialect, id, limits(u32::MAX));
    let known = match request.op() {
        Op::Flow | Op::Authenticate | Op::ProbeAdmin => !is_framed(dialect),
        Op::CancelConsume | Op::Handshake => is_framed(dialect),
        _ => true,
    };
    let mixed = |messages: &[Message]| messages.iter().any(|message| message.queue != messages[0].queue);
    let is_mixed = matches!(request, Request::Enqueue(messages) if !is_framed(dialect) && mixed(messages));
    let bytes = match encoded {
        Ok(bytes) => bytes,
        Err(EncodeError::MixedQueues) if is_mixed => return,
        Err(error) => return assert_refusal(&error, known),
    };
    assert!(known && !is_mixed, "{request:?} has no place in {dialect}");
    let frame = only_frame(dialect, &bytes);
    assert_eq!(frame.header.id, id);
    match Request::decode(dialect, &frame) {
        Ok(read) => assert_eq!(read, as_carried(dialect, request.clone()), "{dialect}"),
        // It is refused by every server, on purpose.
        Err(_) => assert!(matches!(request, Request::ProbeAdmin), "{request:?} in {dialect}"),
    }
    // At the limit, and one below it.
    let length = u32::try_from(bytes.len() - 4).expect("small");
    let at_limit = request.encode(dialect, id, limits(length));
    assert_eq!(at_limit, Ok(Bytes::clone(&bytes)), "{dialect} {request:?}");
    match request.encode(dialect, id, limits(length - 1)) {
        Ok(bytes) => {
            assert!(is_framed(dialect) && length > 7, "{dialect} {request:?}");
            assert!(bytes.len() >= length as usize + 14, "split");
        }
        Err(EncodeError::FrameTooLarge { len, limit }) => {
            assert_eq!((len, limit), (length as usize, length - 1));
            assert!(!is_framed(dialect) || length <= 7);
        }
        Err(error) => panic!("{error}"),
    }
}

/// A refusal has a reason.
fn assert_refusal(error: &EncodeError, known: bool) {
    match error {
        EncodeError::StringTooLong { len, limit, .. } => assert!(len > limit && *limit == 65_535, "{error}"),
        EncodeError::TooMany { count, limit, .. } => assert!(count > limit, "{error}"),
        EncodeError::Unsupported(_) => assert!(!known, "{error}"),
        _ => panic!("{error}"),
    }
}

/// What the dialect carries of a request.
fn as_carried(dialect: Dialect, mut request: Request) -> Request {
    match &mut request {
        Request::Consume { credit, .. } if is_framed(dialect) => *credit = 0,
        // The framed dialect names queues in messages only.
        Request::EnqueueNone { queue } if is_framed(dialect) || queue.is_empty() => {
            request = Request::Enqueue(Vec::new());
        }
        Request::CreateQueue(spec) if !is_framed(dialect) => {
            spec.on_enqueue.take_if(|script| script.is_empty());
            spec.on_failure.take_if(|script| script.is_empty());
        }
        // Where the probe's opcode is that of a redrive, its empty body names no queue.
        Request::ProbeAdmin => {
            request = Request::Redrive {
                dlq: "".into(),
                count: 0,
            };
        }
        _ => {}
    }
    request
}

fn response(dialect: Dialect, id: u32, op: Op, response: &Response) {
    let bytes = match response.encode(dialect, id, op) {
        Ok(bytes) => bytes,
        Err(error) => {
            let known = op != Op::Authenticate || !is_framed(dialect);
            return assert_refusal(&error, known);
        }
    };
    let frame = only_frame(dialect, &bytes);
    assert_eq!(frame.header.id, id);
    let read =
        Response::decode(dialect, op, &frame).unwrap_or_else(|error| panic!("{response:?} in {dialect}: {error}"));
    assert_eq!(read.encode(dialect, id, op), Ok(bytes), "{response:?}");
    match (response, &read) {
        (Response::Error(sent), Response::Error(read)) => {
            assert_same_refusal(dialect, sent, read, frame.header.opcode == 0xFE);
        }
        (Response::Enqueue(sent), Response::Enqueue(read)) => {
            assert_eq!(sent.len(), read.len());
            for (sent, read) in sent.iter().zip(read) {
                match (sent, read) {
                    (Ok(sent), Ok(read)) => assert_eq!(sent, read),
                    (Err(sent), Err(read)) => assert_same_refusal(dialect, sent, read, true),
                    _ => panic!("{sent:?} became {read:?}"),
                }
            }
        }
        (Response::Ack(sent), Response::Ack(read)) | (Response::Nack(sent), Response::Nack(read)) => {
            assert_eq!(sent.len(), read.len());
            for (sent, read) in sent.iter().zip(read) {
                match (sent, read) {
                    (Ok(()), Ok(())) => {}
                    (Err(sent), Err(read)) => assert_same_refusal(dialect, sent, read, !is_framed(dialect)),
                    _ => panic!("{sent:?} became {read:?}"),
                }
            }
        }
        (Response::Consume { .. }, Response::Consume { .. }) => {}
        (Response::CreateApiKey(sent), Response::CreateApiKey(read)) => assert_eq!(sent, read),
        (sent, read) => assert_eq!(meaning(dialect, sent), meaning(dialect, read)),
    }
}

fn assert_same_refusal(dialect: Dialect, sent: &ServerError, read: &ServerError, has_text: bool) {
    if has_text {
        assert_eq!(sent.text(), read.text(), "{dialect}");
    }
    // Errors of whole requests have no code in the preamble dialect.
    if is_framed(dialect) || read.code().is_some() {
        assert_eq!(sent.code(), read.code(), "{dialect}");
    }
}

fn push(dialect: Dialect, id: u32, push: &Push) {
    let queue: QueueName = "queue".into();
    let bytes = match push.encode(dialect, id, limits(u32::MAX)) {
        Ok(bytes) => bytes,
        Err(error) => return assert_refusal(&error, true),
    };
    let frame = only_frame(dialect, &bytes);
    assert!(Push::is_push(dialect, &frame));
    let read = Push::decode(dialect, &queue, &frame).unwrap_or_else(|error| panic!("{push:?} in {dialect}: {error}"));
    assert_eq!(
        read.encode(dialect, id, limits(u32::MAX)),
        Ok(bytes.clone()),
        "{push:?}"
    );
    assert_eq!(read.deliveries.len(), push.deliveries.len());
    for (read, sent) in read.deliveries.iter().zip(&push.deliveries) {
        assert_eq!(
            (&read.id, &read.queue, &read.headers),
            (&sent.id, &sent.queue, &sent.headers)
        );
        assert_eq!((&read.payload, &read.fairness_key), (&sent.payload, &sent.fairness_key));
        assert_eq!(read.attempt_count, sent.attempt_count);
    }
    if dialect != Dialect::Preamble(AdminRevision::Protobuf) {
        return;
    }
    let length = u32::try_from(bytes.len() - 4).expect("small");
    assert_eq!(push.encode(dialect, id, limits(length)), Ok(bytes));
    let (len, limit) = (length as usize, length - 1);
    let refused = push.encode(dialect, id, limits(limit));
    assert_eq!(refused, Err(EncodeError::FrameTooLarge { len, limit }));
}
