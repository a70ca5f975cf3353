//! A passive observer of conversations, good and bad, with holes: however the bytes are cut, the same events at the same
//! offsets, none of which prints the key; what waits for answers is bounded.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use fibp_proto::frame::Limits;
use fibp_proto::observe::{Conversation, Event, ObserverConfig, Side};
use fibp_proto::{Dialect, Request, Secret};

use crate::identity::is_framed;
use crate::values::{AnyDialect, AnyPush, AnyRequest, AnyResponse};

/// No input is likely to hold it.
const KEY: &str = "s3cr3t-kEy";

#[derive(Debug, Arbitrary)]
struct Case {
    speaks: AnyDialect,
    knows: Option<AnyDialect>,
    joined: bool,
    portion: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Open,
    Authenticate,
    Request(u8, AnyRequest),
    Response(u8, AnyResponse),
    Push(u8, AnyPush),
    Bytes(bool, Vec<u8>),
    Hole(bool, Option<u16>),
    End(bool),
}

/// Observes what the input describes, once whole and once in pieces.
pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let mut whole = observe(&case, usize::MAX);
    assert!(whole.iter().all(|event| !event.contains(KEY)));
    let mut pieces = observe(&case, 1 + usize::from(case.portion));
    // After a refusal nothing is read, nor counted.
    for events in [&mut whole, &mut pieces] {
        let end = events.iter().position(|event| event.starts_with("refused"));
        events.truncate(end.map_or(usize::MAX, |end| end + 1));
    }
    // Where a frame begins in the middle of a stream is guessed from what is there.
    if !case.joined && !case.steps.iter().any(|step| matches!(step, Step::Hole(..))) {
        assert_eq!(pieces, whole);
    }
}

fn observe(case: &Case, portion: usize) -> Vec<String> {
    let mut config = ObserverConfig::default();
    config.dialect = case.knows.as_ref().map_or(Dialect::Auto, |dialect| dialect.0);
    config.joined = case.joined;
    config.max_outstanding = 4;
    let mut conversation = Conversation::new(config);
    let mut events = Vec::new();
    // How much each side sent, as far as that is known.
    let mut sent = [Some(0_u64); 2];
    let mut ended = [false; 2];
    for step in case.steps.iter().take(40) {
        let (from, bytes) = match step {
            Step::Hole(client, len) => {
                let from = side(*client);
                let len = len.map(u64::from);
                conversation.hole(from, Duration::ZERO, len);
                sent[from as usize] = sent[from as usize].zip(len).map(|(sent, len)| sent + len);
                (from, Vec::new())
            }
            Step::End(client) => {
                conversation.end(side(*client), Duration::ZERO);
                (side(*client), Vec::new())
            }
            other => bytes(case.speaks.0, other),
        };
        // Nothing comes after the end of a side.
        if ended[from as usize] && !bytes.is_empty() {
            continue;
        }
        ended[from as usize] |= matches!(step, Step::End(_));
        sent[from as usize] = sent[from as usize].map(|sent| sent + bytes.len() as u64);
        for piece in bytes.chunks(portion.min(bytes.len().max(1))) {
            conversation.input(from, Duration::ZERO, piece);
        }
        while let Some(event) = conversation.poll_event() {
            let most = sent[event.from as usize].unwrap_or(u64::MAX);
            assert!(event.offset <= most, "{event:?}: {most} bytes were sent");
            events.push(match &event.event {
                // Their texts show the first bytes, however many those are.
                Event::Refused(_) | Event::NotFibp(_) => format!("refused {:?} {}", event.from, event.offset),
                _ => format!("{event:?}"),
            });
        }
        assert!(conversation.outstanding() <= 4);
    }
    events
}

fn side(client: bool) -> Side {
    if client { Side::Client } else { Side::Server }
}

fn bytes(dialect: Dialect, step: &Step) -> (Side, Vec<u8>) {
    let limits = Limits::default();
    let encode = |request: &Request, id| request.encode(dialect, id, limits).unwrap_or_default().to_vec();
    let key = || Secret::from(KEY);
    match step {
        Step::Open if is_framed(dialect) => {
            let key = Some(key());
            (Side::Client, encode(&Request::Handshake { version: 1, key }, 0))
        }
        Step::Open => (Side::Client, b"FIBP\x01\0".to_vec()),
        Step::Authenticate => (Side::Client, encode(&Request::Authenticate(key()), 1)),
        Step::Request(id, request) => (Side::Client, encode(&request.0, u32::from(id % 8))),
        Step::Response(id, AnyResponse(op, response)) => {
            let bytes = response.encode(dialect, u32::from(id % 8), *op).unwrap_or_default();
            (Side::Server, bytes.to_vec())
        }
        Step::Push(id, AnyPush(push)) => {
            let bytes = push.encode(dialect, u32::from(id % 8), limits).unwrap_or_default();
            (Side::Server, bytes.to_vec())
        }
        Step::Bytes(client, bytes) => (side(*client), bytes.clone()),
        Step::Hole(..) | Step::End(_) => (Side::Client, Vec::new()),
    }
}
