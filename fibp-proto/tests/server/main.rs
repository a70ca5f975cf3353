//! The server machine: every opening and refusal, whole and in pieces, backpressure, and hostile bytes.

#[path = "../common/mod.rs"]
mod common;
mod continuation;
mod hostile;
mod openings;
mod output;
mod requests;
mod stream;
mod subscription;

use bytes::Bytes;
use common::ALL;
use fibp_proto::dialect::{EncodeError, Malformed};
use fibp_proto::frame::{
    self, CONTINUATION, DecodeError, Decoder, Frame, FrameHeader, Item, Layout, Limits, OutBuf, Transmit,
};
use fibp_proto::request::{AckItem, NackItem};
use fibp_proto::server::{RequestId, ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{
    Dialect, ErrorKind, Headers, Message, Op, Push, QueueName, Received, Request, Response, Secret, ServerError,
};

const PREAMBLE: &[u8] = b"FIBP\x01\x00";
const HANDSHAKE: &[u8] = b"\0\0\0\x09\x01\0\0\0\0\0\0\x01\0";
const HANDSHAKE_WITH_KEY: &[u8] = b"\0\0\0\x13\x01\0\0\0\0\0\0\x01\x01\0\x08test-key";
const HANDSHAKE_OK: &[u8] = b"\0\0\0\x14\x02\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\x01\0\0\0";

const P1: Dialect = ALL[0];

fn is_framed(dialect: Dialect) -> bool {
    dialect.layout() == Layout::OpcodeFirst
}

fn opening(dialect: Dialect) -> &'static [u8] {
    if is_framed(dialect) { HANDSHAKE } else { PREAMBLE }
}

fn config(dialects: &[Dialect]) -> ServerConfig {
    ServerConfig::new(dialects)
}

/// A connection with what it reported and wrote. Handshakes are accepted, requests answered by `answer`.
struct Peer {
    server: ServerConnection,
    events: Vec<ServerEvent>,
    written: Vec<u8>,
}

impl Peer {
    fn new(config: ServerConfig) -> Self {
        Self {
            server: ServerConnection::new(config),
            events: Vec::new(),
            written: Vec::new(),
        }
    }

    /// A connection that was opened in `dialect`, with nothing to be read or written.
    fn open(dialect: Dialect) -> Self {
        let mut peer = Self::new(config(&[dialect]));
        peer.receive(opening(dialect));
        assert_eq!(peer.events, [ServerEvent::Opened { dialect, key: None }]);
        peer.events.clear();
        peer.written.clear();
        peer
    }

    /// Hands over bytes as fast as they are taken; returns how many were.
    fn receive(&mut self, mut bytes: &[u8]) -> usize {
        let all = bytes.len();
        loop {
            self.turn();
            if bytes.is_empty() {
                return all;
            }
            match self.server.feed(bytes) {
                0 => return all - bytes.len(),
                n => bytes = &bytes[n..],
            }
        }
    }

    fn eof(&mut self) {
        self.server.handle_eof();
        self.turn();
    }

    /// Takes events, answers them, and writes.
    fn turn(&mut self) {
        loop {
            while let Some(event) = self.server.poll_event() {
                match &event {
                    ServerEvent::Opened { .. } => self.server.accept(),
                    ServerEvent::Request { id, request } => answer(&mut self.server, *id, request),
                    ServerEvent::Malformed {
                        id,
                        answer: Some(error),
                        ..
                    } => self.server.respond_error(*id, error),
                    ServerEvent::Malformed { answer: None, .. } => self.server.close(),
                    _ => {}
                }
                self.events.push(event);
            }
            if !self.write() {
                return;
            }
        }
    }

    fn write(&mut self) -> bool {
        let mut transmit = Transmit::new();
        if !self.server.take_transmit(&mut transmit) {
            return false;
        }
        while !transmit.is_empty() {
            let n = transmit.chunk().len().min(7000);
            self.written.extend_from_slice(&transmit.chunk()[..n]);
            self.server.transmitted(&mut transmit, n);
        }
        true
    }
}

/// An answer of the right kind to whatever is asked.
fn answer(server: &mut ServerConnection, id: RequestId, request: &Request) {
    let response = match request {
        Request::Enqueue(messages) => Response::Enqueue(messages.iter().map(|_| Ok("id".into())).collect()),
        Request::Consume { .. } => Response::Consume { consumer_id: None },
        Request::Ack(items) => Response::Ack(items.iter().map(|_| Ok(())).collect()),
        Request::Nack(items) => Response::Nack(items.iter().map(|_| Ok(())).collect()),
        Request::Heartbeat => Response::Heartbeat,
        Request::Authenticate(_) => Response::Authenticated,
        Request::SetConfig { .. } => Response::SetConfig,
        _ if !id.op.is_answered() => return,
        _ => Response::Error(ServerError::new(ErrorKind::Forbidden, "permission denied")),
    };
    server.respond(id, &response).expect("fits");
}

fn requests() -> Vec<Request> {
    let queue = QueueName::from("orders");
    vec![
        Request::Authenticate(Secret::from("key")),
        Request::Heartbeat,
        Request::Enqueue(vec![
            Message::new("orders", &b"hello"[..]).header("tenant", "acme"),
            Message::new("orders", vec![7; 40_000]),
        ]),
        Request::Consume {
            queue: queue.clone(),
            credit: 0,
        },
        Request::Flow { credit: 5 },
        Request::CancelConsume,
        Request::Ack(vec![AckItem {
            queue: queue.clone(),
            id: "a".into(),
        }]),
        Request::Nack(vec![NackItem {
            queue: queue.clone(),
            id: "b".into(),
            error: "boom".into(),
        }]),
        Request::QueueStats { queue: queue.clone() },
        Request::DeleteQueue { queue },
        Request::ListQueues,
        Request::SetConfig {
            key: "k".into(),
            value: "v".into(),
        },
        Request::GetAcl { key_id: "k1".into() },
    ]
}

/// What the dialect has of [`requests`], with ids from 1 on, and their bytes.
fn script(dialect: Dialect) -> (Vec<ServerEvent>, Vec<u8>) {
    let (mut events, mut bytes) = (Vec::new(), Vec::new());
    for (request, id) in requests().into_iter().zip(1..) {
        if let Ok(frame) = request.encode(dialect, id, Limits::default()) {
            bytes.extend_from_slice(&frame);
            let id = RequestId { id, op: request.op() };
            events.push(ServerEvent::Request { id, request });
        }
    }
    (events, bytes)
}

fn raw(dialect: Dialect, opcode: u8, flags: u8, id: u32, body: impl Into<Bytes>) -> Bytes {
    let header = FrameHeader { opcode, flags, id };
    let body = body.into();
    let mut out = OutBuf::new();
    frame::encode(dialect.layout(), &Frame { header, body }, u32::MAX, &mut out).expect("fits");
    out.take_bytes()
}

/// The frames that a server wrote.
fn frames(dialect: Dialect, bytes: &[u8]) -> Vec<Frame> {
    let mut decoder = Decoder::new(dialect.layout(), Limits::default());
    decoder.feed(bytes);
    let mut frames = Vec::new();
    while let Some(item) = decoder.next_item().expect("well formed") {
        match item {
            Item::Frame(frame) => frames.push(frame),
            other => panic!("{other:?}"),
        }
    }
    assert!(decoder.pending().is_empty());
    frames
}
