//! Raw bytes as frames, and every decoder on every frame.

use fibp_proto::frame::{self, Decoder, Frame, Item, Layout, Limits, Oversize};
use fibp_proto::{Dialect, Op, Push, QueueName, Request, Response};

use crate::DIALECTS;
use crate::identity;
use crate::input::Input;
use crate::reference::{self, Part};

/// Every operation that has an answer.
pub(crate) const ANSWERED: [Op; 19] = [
    Op::Enqueue,
    Op::Consume,
    Op::Ack,
    Op::Nack,
    Op::Heartbeat,
    Op::Authenticate,
    Op::CreateQueue,
    Op::DeleteQueue,
    Op::QueueStats,
    Op::ListQueues,
    Op::Redrive,
    Op::SetConfig,
    Op::GetConfig,
    Op::ListConfig,
    Op::CreateApiKey,
    Op::RevokeApiKey,
    Op::ListApiKeys,
    Op::SetAcl,
    Op::GetAcl,
];

/// Cuts the input into frames and decodes each as anything it could be.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let limit = 6 + input.word() % 100_000;
    let oversize = if input.flag() { Oversize::Skip } else { Oversize::Refuse };
    let portion = 1 + input.below(255);
    let stream = input.rest();
    let limits = Limits::new(limit, limit);
    for dialect in DIALECTS {
        let mut decoder = Decoder::new(dialect.layout(), limits).oversize(oversize);
        let mut fed = 0;
        let (mut parts, mut failed) = (Vec::new(), None);
        for piece in stream.chunks(portion) {
            decoder.feed(piece);
            fed += piece.len();
            loop {
                match decoder.next_item() {
                    Ok(Some(item)) => {
                        if let Item::Frame(frame) = &item {
                            decode(dialect, frame);
                        }
                        parts.push(Part::from(item));
                    }
                    Ok(None) => break,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            // A declared length allocates nothing by itself.
            assert!(
                decoder.capacity() <= 5 * fed + 2 * 64 * 1024,
                "{} for {fed}",
                decoder.capacity()
            );
        }
        assert_eq!(
            (parts, failed),
            reference::cut(dialect.layout(), limit, oversize, stream)
        );
        parse(dialect.layout(), stream);
    }
}

/// What is parsed without a decoder is what a decoder without a limit finds first.
fn parse(layout: Layout, stream: &[u8]) {
    let (parts, failed) = reference::cut(layout, u32::MAX, Oversize::Refuse, stream);
    match (frame::parse(layout, stream), parts.first()) {
        (Ok(Some(parsed)), Some(Part::Frame(_, body))) => assert_eq!(parsed.body, body),
        (Ok(None), None) => assert_eq!(failed, None),
        (Err(error), None) => assert_eq!(failed, Some(error)),
        (parsed, first) => panic!("{parsed:?}, but {first:?}"),
    }
}

/// What one side can read the other can write, to the same bytes.
fn decode(dialect: Dialect, frame: &Frame) {
    let limits = Limits::new(u32::MAX, u32::MAX);
    let id = frame.header.id;
    if let Ok(request) = Request::decode(dialect, frame) {
        let bytes = request
            .encode(dialect, id, limits)
            .unwrap_or_else(|error| panic!("{dialect} {request:?}: {error}"));
        let again = only_frame(dialect, &bytes);
        let read = Request::decode(dialect, &again).expect("was written by us");
        assert_eq!(format!("{read:?}"), format!("{request:?}"), "{dialect}");
        identity::assert_request(dialect, &request, frame, &again);
    }
    for op in ANSWERED {
        if let Ok(response) = Response::decode(dialect, op, frame) {
            let bytes = response
                .encode(dialect, id, op)
                .unwrap_or_else(|error| panic!("{dialect} {response:?}: {error}"));
            let again = only_frame(dialect, &bytes);
            let read = Response::decode(dialect, op, &again).expect("was written by us");
            let [read, meant] = [&read, &response].map(|response| identity::meaning(dialect, response));
            assert_eq!(read, meant, "{dialect}");
            identity::assert_response(dialect, op, &response, frame, &again);
        }
    }
    let queue = QueueName::from("queue");
    // What is to be found out first names no wire format.
    assert!(Request::decode(Dialect::Auto, frame).is_err());
    assert!(Response::decode(Dialect::Auto, Op::Enqueue, frame).is_err());
    assert!(Push::decode(Dialect::Auto, &queue, frame).is_err());
    let push = Push::decode(dialect, &queue, frame);
    if Push::is_push(dialect, frame)
        && let Ok(push) = push
    {
        let bytes = push
            .encode(dialect, id, limits)
            .unwrap_or_else(|error| panic!("{dialect} {push:?}: {error}"));
        let again = only_frame(dialect, &bytes);
        assert_eq!(Push::decode(dialect, &queue, &again).as_ref(), Ok(&push), "{dialect}");
        identity::assert_push(dialect, frame, &again);
    }
}

/// The frame that `bytes` are.
pub(crate) fn only_frame(dialect: Dialect, bytes: &[u8]) -> Frame {
    let limits = Limits::new(u32::MAX, u32::MAX);
    let mut decoder = Decoder::new(dialect.layout(), limits);
    decoder.feed(bytes);
    let Ok(Some(Item::Frame(frame))) = decoder.next_item() else {
        panic!("{} bytes are not one frame", bytes.len());
    };
    assert!(decoder.pending().is_empty(), "more than one frame");
    frame
}
