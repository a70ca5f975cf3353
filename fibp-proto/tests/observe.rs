//! The passive observer, and `ClientConnection` opposite `ServerConnection`, which make the conversations that it sees.

use std::time::{Duration, Instant};

use fibp_proto::admin::QueueList;
use fibp_proto::frame::{CONTINUATION, Limits, Transmit};
use fibp_proto::observe::{Conversation, Event, Greeting, Observed, ObserverConfig, Opening, Side};
use fibp_proto::response::ServerError;
use fibp_proto::server::{ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{
    AdminRevision, ClientConfig, ClientConnection, ClientEvent, Dialect, ErrorKind, Headers, Message, MessageId, Op,
    Push, Received, Request, Response,
};
use proptest::prelude::*;

const P1: Dialect = Dialect::Preamble(AdminRevision::Protobuf);
const P3: Dialect = Dialect::Preamble(AdminRevision::Binary);
const ALL: [Dialect; 5] = [
    P1,
    Dialect::Preamble(AdminRevision::ProtobufRenumbered),
    P3,
    Dialect::Handshake,
    Dialect::HandshakeEarly,
];

#[expect(clippy::disallowed_methods, reason = "tests need some instant to begin with")]
fn epoch() -> Instant {
    Instant::now()
}

/// Bytes of one side, in the order in which they passed.
type Passed = Vec<(Side, Vec<u8>)>;

/// A client and a server that talk in memory.
struct Pair {
    client: ClientConnection,
    server: ServerConnection,
    passed: Passed,
    events: Vec<ClientEvent>,
}

impl Pair {
    fn new(dialect: Dialect) -> Self {
        let mut config = ClientConfig::new(dialect);
        config.key = Some("hunter2".into());
        let mut pair = Self {
            client: ClientConnection::new(config).expect("a dialect"),
            server: ServerConnection::new(ServerConfig::new([dialect])),
            passed: Vec::new(),
            events: Vec::new(),
        };
        pair.run();
        assert!(matches!(pair.events[..], [ClientEvent::Opened]), "{:?}", pair.events);
        pair
    }

    fn run(&mut self) {
        loop {
            let mut moved = false;
            let mut transmit = Transmit::new();
            while self.client.take_transmit(&mut transmit) {
                let mut bytes = Vec::new();
                while !transmit.is_empty() {
                    let n = transmit.chunk().len();
                    bytes.extend_from_slice(transmit.chunk());
                    self.client.transmitted(&mut transmit, n);
                }
                assert_eq!(self.server.feed(&bytes), bytes.len());
                self.passed.push((Side::Client, bytes));
                moved = true;
            }
            while let Some(event) = self.server.poll_event() {
                moved = true;
                match event {
                    ServerEvent::Opened { .. } => self.server.accept(),
                    ServerEvent::Request { id, request } => {
                        if let Some(response) = answer(&request) {
                            self.server.respond(id, &response).expect("fits");
                        }
                        if let Request::Consume { .. } = request {
                            self.server.push(&push()).expect("fits");
                        }
                    }
                    _ => {}
                }
            }
            if self.server.buffered() > 0 {
                let mut bytes = Vec::new();
                self.server.write_to(&mut bytes).expect("it takes all");
                if let Some(mut buffer) = self.client.take_read_buffer() {
                    assert_eq!(buffer.copy_from(&bytes), bytes.len());
                    self.client.handle_input(epoch(), buffer);
                }
                self.passed.push((Side::Server, bytes));
                moved = true;
            }
            while let Some(event) = self.client.poll_event() {
                self.events.push(event);
            }
            if !moved {
                return;
            }
        }
    }

    fn ask(&mut self, request: &Request) {
        self.client.request(request, None).expect("open");
        self.run();
    }
}

fn push() -> Push {
    let id = MessageId::from("0195d3c8-5f2a-7abc-8def-0123456789ab");
    Push {
        deliveries: vec![Received::new(id, "orders", Headers::new(), &b"hello"[..], "default", 0)],
    }
}

fn answer(request: &Request) -> Option<Response> {
    Some(match request {
        Request::Authenticate(_) => Response::Authenticated,
        Request::Heartbeat => Response::Heartbeat,
        Request::Enqueue(messages) => Response::Enqueue(messages.iter().map(|_| Ok("m".into())).collect()),
        Request::Consume { .. } => Response::Consume {
            consumer_id: Some("c".into()),
        },
        Request::Ack(items) => Response::Ack(items.iter().map(|_| Ok(())).collect()),
        Request::ListQueues => Response::ListQueues(QueueList::default()),
        Request::CreateQueue(spec) => Response::CreateQueue {
            queue_id: spec.name.to_string(),
        },
        Request::QueueStats { queue } => Response::Error(ServerError::queue_not_found(queue)),
        _ => return None,
    })
}

/// What a client does, and what a server says to it.
fn session(dialect: Dialect) -> Pair {
    let mut pair = Pair::new(dialect);
    pair.ask(&Request::CreateQueue("orders".into()));
    pair.ask(&Request::Enqueue(vec![
        Message::new("orders", &b"hello"[..]).header("tenant", "acme"),
    ]));
    pair.ask(&Request::Consume {
        queue: "orders".into(),
        credit: 100,
    });
    pair.ask(&Request::Ack(vec![fibp_proto::request::AckItem {
        queue: "orders".into(),
        id: "m".into(),
    }]));
    if dialect.layout() == P1.layout() {
        pair.ask(&Request::Flow { credit: 5 });
    }
    pair.ask(&Request::Heartbeat);
    pair.ask(&Request::QueueStats {
        queue: "missing".into(),
    });
    pair
}

fn observe(config: ObserverConfig, passed: &Passed, piece: usize) -> (Conversation, Vec<Observed>) {
    let mut conversation = Conversation::new(config);
    let mut at = Duration::ZERO;
    for (side, bytes) in passed {
        at += Duration::from_millis(1);
        for piece in bytes.chunks(piece) {
            conversation.input(*side, at, piece);
        }
    }
    let mut events = Vec::new();
    while let Some(event) = conversation.poll_event() {
        events.push(event);
    }
    (conversation, events)
}

fn joined() -> ObserverConfig {
    let mut config = ObserverConfig::default();
    config.joined = true;
    config
}

fn requests(events: &[Observed]) -> Vec<Op> {
    events
        .iter()
        .filter_map(|seen| match &seen.event {
            Event::Request { request, .. } => Some(request.op()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_whole_conversation_is_told_in_every_dialect_and_in_pieces_of_any_size() {
    for dialect in ALL {
        let pair = session(dialect);
        let (conversation, events) = observe(ObserverConfig::default(), &pair.passed, usize::MAX);
        let framed = dialect.layout() != P1.layout();
        let opening = events
            .iter()
            .find_map(|seen| match &seen.event {
                Event::Opening(opening) => Some(opening.clone()),
                _ => None,
            })
            .expect("an opening");
        assert_eq!(matches!(opening, Opening::Handshake { key: Some(_), .. }), framed);
        let accepted = events.iter().any(|seen| match &seen.event {
            Event::Accepted { greeting, latency } => {
                assert_eq!(*latency, Some(Duration::from_millis(1)));
                matches!(greeting, Greeting::Handshake { .. }) == framed
            }
            _ => false,
        });
        assert!(accepted, "{events:?}");
        let mut expected = vec![
            Op::CreateQueue,
            Op::Enqueue,
            Op::Consume,
            Op::Ack,
            Op::Heartbeat,
            Op::QueueStats,
        ];
        if !framed {
            expected.insert(0, Op::Authenticate);
        }
        assert_eq!(requests(&events), expected, "{dialect} {events:?}");
        let answers: Vec<_> = events
            .iter()
            .filter_map(|seen| match &seen.event {
                Event::Answer {
                    op,
                    latency,
                    request_offset,
                    response,
                    ..
                } => {
                    assert_eq!(*latency, Some(Duration::from_millis(1)), "{seen:?}");
                    assert!(request_offset.is_some());
                    if *op == Some(Op::QueueStats) {
                        assert!(matches!(response, Response::Error(error) if error.kind() == ErrorKind::QueueNotFound));
                    }
                    *op
                }
                _ => None,
            })
            .collect();
        assert_eq!(answers, expected, "every answer meets its request");
        assert_eq!(conversation.outstanding(), 0);
        let pushes = events.iter().filter(|seen| match &seen.event {
            Event::Push { push, .. } => &*push.deliveries[0].queue == "orders",
            _ => false,
        });
        assert_eq!(pushes.count(), 1);
        let credits = events
            .iter()
            .filter(|seen| matches!(seen.event, Event::Credit { credit: 5 }));
        assert_eq!(credits.count(), usize::from(!framed));
        assert!(
            !events.iter().any(|seen| matches!(seen.event, Event::Malformed { .. })),
            "{events:?}"
        );
        assert!(!format!("{events:?}").contains("hunter2"), "the key is redacted");
        // P2 has P1's bodies and nothing here tells them apart.
        let found = conversation.dialect().expect("found").0;
        assert!(found == dialect || dialect == ALL[1], "{found} is not {dialect}");
        assert_eq!(
            conversation.dialect().expect("found").1,
            framed,
            "certain by the answer to Consume"
        );
        for piece in [1, 7] {
            let pieces = observe(ObserverConfig::default(), &pair.passed, piece).1;
            assert_eq!(format!("{pieces:?}"), format!("{events:?}"), "{dialect}");
        }
    }
}

#[test]
fn offsets_are_those_of_the_stream() {
    let pair = session(P1);
    let (_, events) = observe(ObserverConfig::default(), &pair.passed, 3);
    let client: Vec<u8> = pair
        .passed
        .iter()
        .filter(|(side, _)| *side == Side::Client)
        .flat_map(|(_, b)| b.clone())
        .collect();
    for seen in events.iter().filter(|seen| seen.from == Side::Client) {
        if let Event::Request { id, request } = &seen.event {
            let bytes = request.encode(P1, *id, Limits::default()).expect("fits");
            let at = usize::try_from(seen.offset).expect("small");
            assert_eq!(&client[at..at + bytes.len()], &bytes[..]);
        }
    }
}

#[test]
fn a_conversation_joined_in_the_middle_is_found_and_marked_as_a_guess() {
    for dialect in ALL {
        let pair = session(dialect);
        // The opening is gone, and half of the first frame on either side with it.
        let mut passed = pair.passed.clone();
        passed.drain(..4);
        for side in [Side::Client, Side::Server] {
            let first = passed.iter_mut().find(|(from, _)| *from == side).expect("bytes");
            first.1.drain(..5);
        }
        for piece in [1, usize::MAX] {
            let (conversation, events) = observe(joined(), &passed, piece);
            let seen = requests(&events);
            assert!(
                seen.ends_with(&[Op::Ack, Op::Heartbeat, Op::QueueStats]),
                "{dialect} {events:?}"
            );
            assert!(
                events
                    .iter()
                    .any(|seen| matches!(seen.event, Event::Dialect { certain: false, .. }))
            );
            let layout = conversation.dialect().expect("guessed").0.layout();
            assert_eq!(layout, dialect.layout(), "{dialect}");
        }
    }
}

#[test]
fn a_hole_inside_a_frame_loses_that_frame_alone() {
    for dialect in [P1, Dialect::Handshake] {
        let enqueue = Request::Enqueue(vec![Message::new("orders", vec![7; 1000])]);
        let bytes = enqueue.encode(dialect, 1, Limits::default()).expect("fits");
        let beat = Request::Heartbeat.encode(dialect, 2, Limits::default()).expect("fits");
        let mut config = ObserverConfig::default();
        config.dialect = dialect;
        config.joined = true;
        let mut conversation = Conversation::new(config);
        // In step by a first frame.
        conversation.input(Side::Client, Duration::ZERO, &beat);
        conversation.input(Side::Client, Duration::ZERO, &bytes[..100]);
        conversation.hole(Side::Client, Duration::ZERO, Some(500));
        conversation.input(Side::Client, Duration::ZERO, &bytes[600..]);
        conversation.input(Side::Client, Duration::ZERO, &beat);
        let mut events = Vec::new();
        while let Some(event) = conversation.poll_event() {
            events.push(event);
        }
        assert_eq!(requests(&events), [Op::Heartbeat, Op::Heartbeat], "{events:?}");
        assert!(
            events.iter().any(|seen| matches!(
                seen.event,
                Event::Hole {
                    len: Some(500),
                    header: Some(_),
                    in_step: true
                }
            )),
            "{events:?}"
        );
        let last = events.last().expect("events");
        assert_eq!(last.offset, (beat.len() + bytes.len()) as u64);

        // One of unknown length loses the boundary, and the next frame is found.
        conversation.input(Side::Client, Duration::ZERO, &bytes[..100]);
        conversation.hole(Side::Client, Duration::ZERO, None);
        conversation.input(Side::Client, Duration::ZERO, &bytes[600..]);
        conversation.input(
            Side::Client,
            Duration::ZERO,
            &enqueue.encode(dialect, 9, Limits::default()).expect("fits"),
        );
        let mut found = false;
        let mut asked = Vec::new();
        while let Some(seen) = conversation.poll_event() {
            found |= matches!(seen.event, Event::Found { skipped } if skipped > 0);
            if let Event::Request { id, .. } = seen.event {
                asked.push(id);
            }
        }
        assert!(found);
        assert_eq!(asked, [9]);
    }
}

#[test]
fn a_server_that_probes_as_p3_is_certain() {
    let passed = vec![
        (Side::Client, b"FIBP\x01\0\0\0\0\x06\0\x14\0\0\0\x01".to_vec()),
        (Side::Server, {
            let text = b"wire decode error: invalid payload: unexpected end of payload reading u16";
            let length = u32::try_from(6 + text.len()).expect("small").to_be_bytes();
            [b"FIBP\x01\0", &length[..], b"\0\xfe\0\0\0\x01", text].concat()
        }),
    ];
    let (conversation, events) = observe(ObserverConfig::default(), &passed, 1);
    assert_eq!(requests(&events), [Op::ProbeAdmin]);
    assert_eq!(conversation.dialect(), Some((P3, true)));
}

#[test]
fn continued_frames_are_told_part_by_part_and_whole() {
    let limits = Limits::new(100, 1000);
    let enqueue = Request::Enqueue(vec![Message::new("orders", vec![7; 250])]);
    let parts = enqueue.encode(Dialect::Handshake, 5, limits).expect("fits");
    assert_eq!(parts[5], CONTINUATION);
    let mut opening = b"\0\0\0\x09\x01\0\0\0\0\0\0\x01\0".to_vec();
    let began = opening.len() as u64;
    opening.extend_from_slice(&parts);
    let (_, events) = observe(ObserverConfig::default(), &vec![(Side::Client, opening)], 11);
    let told = events
        .iter()
        .filter(|seen| matches!(seen.event, Event::Continuation { .. }));
    assert_eq!(told.count(), 2);
    let whole = events.last().expect("events");
    assert_eq!(whole.offset, began);
    assert!(matches!(&whole.event, Event::Request { id: 5, request } if *request == enqueue));
}

#[test]
fn heartbeats_of_the_server_are_no_requests() {
    let passed = vec![
        (Side::Client, b"FIBP\x01\0".to_vec()),
        (Side::Server, b"FIBP\x01\0\0\0\0\x06\0\x21\0\0\0\x09".to_vec()),
        (Side::Client, b"\0\0\0\x06\0\x21\0\0\0\x09".to_vec()),
    ];
    let (conversation, events) = observe(ObserverConfig::default(), &passed, usize::MAX);
    assert!(matches!(
        events[events.len() - 2].event,
        Event::ServerHeartbeat { id: 9 }
    ));
    assert!(matches!(
        events[events.len() - 1].event,
        Event::HeartbeatAnswer { id: 9 }
    ));
    assert_eq!(conversation.outstanding(), 0);
}

#[test]
fn what_is_not_fibp_is_named() {
    for (bytes, name) in [
        (&b"\x16\x03\x01\x02\0\x01\0\x01\xfc"[..], "TLS ClientHello"),
        (b"PRI * HTTP/2.0\r\n", "HTTP/2"),
        (b"GET / HTTP/1.1\r\n", "47 45 54"),
    ] {
        let (_, events) = observe(
            ObserverConfig::default(),
            &vec![(Side::Client, bytes.to_vec())],
            usize::MAX,
        );
        match &events[..] {
            [
                Observed {
                    event: Event::NotFibp(what),
                    ..
                },
            ] => assert!(what.contains(name), "{what}"),
            other => panic!("{other:?}"),
        }
    }
    let passed = vec![
        (Side::Client, b"FIBP\x01\0".to_vec()),
        (Side::Server, b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80".to_vec()),
    ];
    let (mut conversation, events) = observe(ObserverConfig::default(), &passed, usize::MAX);
    let last = events.last().expect("events");
    assert!(
        matches!(&last.event, Event::Refused(error) if error.to_string().contains("gRPC")),
        "{last:?}"
    );
    // What was named is no rest of a frame.
    conversation.end(Side::Server, Duration::ZERO);
    let end = conversation.poll_event().map(|seen| seen.event);
    assert!(matches!(end, Some(Event::End { unfinished: 0, .. })), "{end:?}");
}

#[test]
fn a_connection_that_ends_tells_what_is_lost() {
    let mut conversation = Conversation::new(ObserverConfig::default());
    let beat = Request::Heartbeat.encode(P1, 2, Limits::default()).expect("fits");
    conversation.input(
        Side::Client,
        Duration::ZERO,
        &[b"FIBP\x01\0", &beat[..], &beat[..4]].concat(),
    );
    conversation.input(Side::Server, Duration::ZERO, b"FIBP\x01\0");
    conversation.end(Side::Client, Duration::ZERO);
    conversation.end(Side::Server, Duration::ZERO);
    let mut ends = Vec::new();
    while let Some(seen) = conversation.poll_event() {
        if let Event::End { unfinished, unanswered } = seen.event {
            ends.push((seen.from, unfinished, unanswered));
        }
    }
    assert_eq!(ends, [(Side::Client, 4, 0), (Side::Server, 0, 1)]);
}

#[test]
fn a_client_connection_loses_nothing_when_it_ends() {
    for dialect in ALL {
        let mut pair = Pair::new(dialect);
        pair.events.clear();
        let unsent = pair.client.request(&Request::ListQueues, None).expect("open");
        pair.client.handle_eof();
        pair.run();
        match &pair.events[..] {
            [
                ClientEvent::Answer {
                    id,
                    response: Err(lost),
                },
                ClientEvent::Closed(error),
            ] => {
                assert_eq!(*id, unsent);
                assert_eq!(lost.outcome(), fibp_proto::Outcome::NotSent);
                assert_eq!(error.kind(), ErrorKind::Disconnected);
            }
            other => panic!("{other:?}"),
        }
        assert!(pair.client.is_over());
        assert!(pair.client.request(&Request::ListQueues, None).is_err());
    }
    assert_eq!(
        ClientConnection::new(ClientConfig::new(Dialect::Auto))
            .unwrap_err()
            .kind(),
        ErrorKind::Config
    );
}

#[test]
fn a_request_of_a_client_connection_expires() {
    let mut pair = Pair::new(P1);
    pair.events.clear();
    let now = epoch();
    let deadline = now + Duration::from_secs(1);
    let id = pair
        .client
        .request(&Request::GetConfig { key: "k".into() }, Some(deadline))
        .expect("open");
    assert_eq!(pair.client.poll_timeout(), Some(deadline));
    pair.run();
    pair.client.handle_timeout(deadline);
    pair.run();
    match &pair.events[..] {
        [
            ClientEvent::Answer {
                id: late,
                response: Err(error),
            },
        ] => {
            assert_eq!((*late, error.kind()), (id, ErrorKind::Timeout));
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damaged_conversations_are_survived(
        dialect in proptest::sample::select(&ALL[..]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        hole in proptest::option::of((any::<prop::sample::Index>(), proptest::option::of(0..100_u64))),
        joined: bool,
        piece in 1..50_usize,
    ) {
        let mut passed = session(dialect).passed;
        for (at, byte) in damage {
            let count = passed.len();
            let bytes = &mut passed[at.index(count)].1;
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut config = ObserverConfig::default();
        config.joined = joined;
        let mut conversation = Conversation::new(config);
        let hole = hole.map(|(at, len)| (at.index(passed.len()), len));
        for (number, (side, bytes)) in passed.iter().enumerate() {
            for piece in bytes.chunks(piece) {
                conversation.input(*side, Duration::ZERO, piece);
                if let Some((at, len)) = hole && at == number {
                    conversation.hole(*side, Duration::ZERO, len);
                }
            }
        }
        conversation.end(Side::Client, Duration::ZERO);
        conversation.end(Side::Server, Duration::ZERO);
        let mut ends = 0;
        while let Some(seen) = conversation.poll_event() {
            ends += usize::from(matches!(seen.event, Event::End { .. }));
        }
        prop_assert_eq!(ends, 2);
    }
}
