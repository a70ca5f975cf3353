//! Encodes and decodes every body of the data operations: `cargo bench -p fila-bench --bench codec`.
//!
//! divan prints bytes and messages per second beside the times.

use std::hint::black_box;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, Divan};
use fibp_proto::frame::{Decoder, Frame, Item, Limits};
use fibp_proto::request::{AckItem, NackItem};
use fibp_proto::{Dialect, Message, Op, Push, QueueName, Request, Response};
use fila_bench::machine::{delivery, message_id};
use fila_bench::{P1, message};

fn main() {
    Divan::from_args().main();
}

/// A body of a data operation.
#[derive(Debug, Clone, Copy)]
enum Body {
    EnqueueOne,
    Enqueue100,
    Enqueue100With4Headers,
    Enqueued100,
    Push64,
    Ack64,
    Acked64,
    Nack64,
    Nacked64,
}

const BODIES: [(Body, &str); 18] = {
    use Body::*;
    [
        (EnqueueOne, PREAMBLE),
        (EnqueueOne, FRAMED),
        (Enqueue100, PREAMBLE),
        (Enqueue100, FRAMED),
        (Enqueue100With4Headers, PREAMBLE),
        (Enqueue100With4Headers, FRAMED),
        (Enqueued100, PREAMBLE),
        (Enqueued100, FRAMED),
        (Push64, PREAMBLE),
        (Push64, FRAMED),
        (Ack64, PREAMBLE),
        (Ack64, FRAMED),
        (Acked64, PREAMBLE),
        (Acked64, FRAMED),
        (Nack64, PREAMBLE),
        (Nack64, FRAMED),
        (Nacked64, PREAMBLE),
        (Nacked64, FRAMED),
    ]
};

const PREAMBLE: &str = "preamble";
const FRAMED: &str = "framed";

fn dialect(name: &str) -> Dialect {
    if name == FRAMED { Dialect::Handshake } else { P1 }
}

fn queue() -> QueueName {
    "bench".into()
}

/// What a body says.
enum Said {
    Request(Request),
    Response(Response),
    Push(Push),
}

impl Body {
    fn messages(self) -> usize {
        match self {
            Self::EnqueueOne => 1,
            Self::Enqueue100 | Self::Enqueue100With4Headers | Self::Enqueued100 => 100,
            Self::Push64 | Self::Ack64 | Self::Acked64 | Self::Nack64 | Self::Nacked64 => 64,
        }
    }

    fn said(self) -> Said {
        let n = self.messages();
        let ids = (0..n as u32).map(message_id);
        match self {
            Self::EnqueueOne | Self::Enqueue100 => Said::Request(Request::Enqueue(vec![message(&queue()); n])),
            Self::Enqueue100With4Headers => Said::Request(Request::Enqueue(vec![with_headers(); n])),
            Self::Enqueued100 => Said::Response(Response::Enqueue(ids.map(Ok).collect())),
            Self::Push64 => Said::Push(Push {
                deliveries: (0..n as u32).map(|n| delivery(&queue(), n)).collect(),
            }),
            Self::Ack64 => Said::Request(Request::Ack(ids.map(|id| AckItem { queue: queue(), id }).collect())),
            Self::Acked64 => Said::Response(Response::Ack(vec![Ok(()); n])),
            Self::Nack64 => Said::Request(Request::Nack(ids.map(nack).collect())),
            Self::Nacked64 => Said::Response(Response::Nack(vec![Ok(()); n])),
        }
    }
}

fn with_headers() -> Message {
    (0..4).fold(message(&queue()), |message, n| {
        message.header(format!("header-{n}"), format!("value-{n}"))
    })
}

fn nack(id: fibp_proto::MessageId) -> NackItem {
    NackItem {
        queue: queue(),
        id,
        error: "out of apples".to_owned(),
    }
}

impl Said {
    fn encode(&self, dialect: Dialect) -> bytes::Bytes {
        let limits = Limits::default();
        match self {
            Self::Request(request) => request.encode(dialect, 1, limits),
            Self::Response(response) => response.encode(dialect, 1, response.op().unwrap_or(Op::Enqueue)),
            Self::Push(push) => push.encode(dialect, 1, limits),
        }
        .expect("a body that fits a frame")
    }

    fn decode(&self, dialect: Dialect, queue: &QueueName, frame: &Frame) {
        match self {
            Self::Request(_) => drop(black_box(Request::decode(dialect, frame).expect("a request"))),
            Self::Response(response) => {
                let op = response.op().unwrap_or(Op::Enqueue);
                drop(black_box(Response::decode(dialect, op, frame).expect("an answer")));
            }
            Self::Push(_) => drop(black_box(Push::decode(dialect, queue, frame).expect("a push"))),
        }
    }
}

#[divan::bench(args = BODIES)]
fn encode(bencher: Bencher<'_, '_>, (body, name): (Body, &str)) {
    let (said, dialect) = (body.said(), dialect(name));
    let bytes = said.encode(dialect).len();
    bencher
        .counter(BytesCount::new(bytes))
        .counter(ItemsCount::new(body.messages()))
        .bench_local(|| black_box(&said).encode(dialect));
}

#[divan::bench(args = BODIES)]
fn decode(bencher: Bencher<'_, '_>, (body, name): (Body, &str)) {
    let (said, dialect, queue) = (body.said(), dialect(name), queue());
    let bytes = said.encode(dialect);
    let mut decoder = Decoder::new(dialect.layout(), Limits::default());
    decoder.feed(&bytes);
    let Ok(Some(Item::Frame(frame))) = decoder.next_item() else {
        panic!("no frame")
    };
    bencher
        .counter(BytesCount::new(bytes.len()))
        .counter(ItemsCount::new(body.messages()))
        .bench_local(|| said.decode(dialect, &queue, black_box(&frame)));
}
