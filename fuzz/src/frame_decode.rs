//! Raw bytes as frames, and every decoder on every frame.

use fibp_proto::frame::{Decoder, Frame, Item, Limits, Oversize};
use fibp_proto::{Dialect, Op, Push, QueueName, Request, Response};

use crate::DIALECTS;
use crate::input::Input;

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
    for dialect in DIALECTS {
        let limits = Limits {
            send: limit,
            receive: limit,
        };
        let mut decoder = Decoder::new(limits).layout(dialect.layout()).oversize(oversize);
        let mut fed = 0;
        for piece in stream.chunks(portion) {
            decoder.feed(piece);
            fed += piece.len();
            while let Ok(Some(item)) = decoder.next_item() {
                if let Item::Frame(frame) = item {
                    decode(dialect, &frame);
                }
            }
            // A declared length allocates nothing by itself.
            assert!(
                decoder.capacity() <= 5 * fed + 2 * 64 * 1024,
                "{} for {fed}",
                decoder.capacity()
            );
        }
    }
}

/// What can be read can be written, and reads the same again.
fn decode(dialect: Dialect, frame: &Frame) {
    let limits = Limits {
        send: u32::MAX / 2,
        receive: u32::MAX / 2,
    };
    let id = frame.header.id;
    if let Ok(request) = Request::decode(dialect, frame)
        && let Ok(bytes) = request.encode(dialect, id, limits)
    {
        let again = Request::decode(dialect, &only_frame(dialect, &bytes)).expect("was written by us");
        assert_eq!(again.encode(dialect, id, limits).as_ref(), Ok(&bytes), "{request:?}");
    }
    for op in ANSWERED {
        if let Ok(response) = Response::decode(dialect, op, frame)
            && let Ok(bytes) = response.encode(dialect, id, op)
        {
            let again = Response::decode(dialect, op, &only_frame(dialect, &bytes)).expect("was written by us");
            assert_eq!(again.encode(dialect, id, op).as_ref(), Ok(&bytes), "{response:?}");
        }
    }
    let queue = QueueName::from("queue");
    if Push::is_push(dialect, frame)
        && let Ok(push) = Push::decode(dialect, &queue, frame)
        && let Ok(bytes) = push.encode(dialect, id, limits)
    {
        let again = Push::decode(dialect, &queue, &only_frame(dialect, &bytes)).expect("was written by us");
        assert_eq!(again, push);
    }
}

/// The frame that `bytes` are.
pub(crate) fn only_frame(dialect: Dialect, bytes: &[u8]) -> Frame {
    let limits = Limits {
        send: u32::MAX,
        receive: u32::MAX,
    };
    let mut decoder = Decoder::new(limits).layout(dialect.layout());
    decoder.feed(bytes);
    let Ok(Some(Item::Frame(frame))) = decoder.next_item() else {
        panic!("{} bytes are not one frame", bytes.len());
    };
    assert!(decoder.pending().is_empty(), "more than one frame");
    frame
}
