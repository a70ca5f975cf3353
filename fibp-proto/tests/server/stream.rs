//! Servers whose connection reads and writes a stream of theirs.

use std::collections::VecDeque;
use std::io::{self, ErrorKind::*, Read, Write};

use super::*;

/// What happens at a client's socket.
enum Turn {
    Arrives(Vec<u8>),
    Fails(io::ErrorKind),
}

/// A socket without a client: what it reads is a script, at the end of which the client closes its side.
#[derive(Default)]
struct Socket {
    script: VecDeque<Turn>,
    written: Vec<u8>,
    /// How much it takes at a time, and what it says to every other write.
    room: usize,
    reluctant: Option<io::ErrorKind>,
    tried: usize,
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.script.pop_front() {
            None => Ok(0),
            Some(Turn::Fails(kind)) => Err(kind.into()),
            Some(Turn::Arrives(bytes)) => (&bytes[..]).read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tried += 1;
        match self.reluctant.filter(|_| self.tried % 2 == 1) {
            Some(kind) => Err(kind.into()),
            None => self.written.write(&bytes[..bytes.len().min(self.room)]),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn request(dialect: Dialect, id: u32, request: &Request) -> Turn {
    Turn::Arrives(request.encode(dialect, id, Limits::default()).expect("fits").to_vec())
}

fn delivery(n: usize) -> Received {
    Received::from_message(n.to_string().as_str().into(), Message::new("orders", "hello"))
}

#[test]
fn a_client_is_served_until_it_leaves() {
    for dialect in ALL {
        let consume = Request::Consume {
            queue: "orders".into(),
            credit: 9,
        };
        let mut socket = Socket {
            script: VecDeque::from([
                Turn::Arrives(opening(dialect).to_vec()),
                request(dialect, 1, &Request::ListQueues),
                Turn::Fails(WouldBlock),
                request(dialect, 2, &Request::DeleteQueue { queue: "gone".into() }),
                request(dialect, 3, &Request::Heartbeat),
                Turn::Fails(Interrupted),
                request(dialect, 4, &consume),
                Turn::Fails(TimedOut),
                // The client is silent, but there is more for it by now.
                Turn::Fails(TimedOut),
            ]),
            room: 7,
            ..Socket::default()
        };
        let mut asked = Vec::new();
        let answer = |request: Request| {
            asked.push(request.op());
            match request {
                Request::ListQueues => Ok(Response::ListQueues(Default::default())),
                Request::Consume { .. } => Ok(Response::Consume { consumer_id: None }),
                _ => Err(ServerError::queue_not_found("gone").into()),
            }
        };
        // One now, none, two later.
        let mut waiting = VecDeque::from([Some(1), None, Some(2), Some(3), None]);
        let deliver = |queue: &QueueName| {
            assert_eq!(&**queue, "orders");
            waiting.pop_front().flatten().map(delivery)
        };
        let mut server = ServerConnection::new(config(&[dialect]));
        server.serve(&mut socket, answer, deliver).expect("it leaves");
        assert!(server.is_finished());
        assert_eq!(asked, [Op::ListQueues, Op::DeleteQueue, Op::Consume]);

        let opening = if is_framed(dialect) { HANDSHAKE_OK } else { PREAMBLE };
        let written = socket.written.strip_prefix(opening).expect("the opening is answered");
        let frames = frames(dialect, written);
        let read = |at: usize, op| Response::decode(dialect, op, &frames[at]).expect("an answer");
        assert!(matches!(read(0, Op::ListQueues), Response::ListQueues(_)));
        match read(1, Op::DeleteQueue) {
            Response::Error(error) => assert_eq!(error.kind(), ErrorKind::QueueNotFound),
            other => panic!("{other:?}"),
        }
        assert_eq!(read(2, Op::Heartbeat), Response::Heartbeat);
        assert!(matches!(read(3, Op::Consume), Response::Consume { .. }));
        let pushed = frames[4..].iter().flat_map(|frame| {
            let push = Push::decode(dialect, &"orders".into(), frame).expect("a push");
            push.deliveries.into_iter().map(|delivery| delivery.id.to_string())
        });
        assert_eq!(pushed.collect::<Vec<_>>(), ["1", "2", "3"]);
    }
}

#[test]
fn what_a_socket_does_not_take_goes_first_the_next_time() {
    for kind in [WouldBlock, TimedOut, Interrupted] {
        let mut server = Peer::open(P1).server;
        for id in 0..10 {
            server.heartbeat(id);
        }
        let mut socket = Socket {
            room: 25,
            reluctant: Some(kind),
            ..Socket::default()
        };
        let mut calls = 0;
        while server.buffered() > 0 {
            server.write_to(&mut socket).expect("it will");
            calls += 1;
            // What is queued meanwhile comes after it.
            if calls == 2 {
                server.heartbeat(10);
            }
        }
        assert_eq!(calls, 6, "once for nothing, then 25 bytes at a time");
        let ids = frames(P1, &socket.written).into_iter().map(|frame| frame.header.id);
        assert!(ids.eq(0..=10));
    }
}

#[test]
fn a_socket_that_fails_ends_the_service() {
    let serve = |socket: &mut Socket| {
        let mut server = ServerConnection::new(config(&[P1]));
        let served = server.serve(socket, |_| Ok(Response::DeleteQueue), |_| None);
        served.expect_err("it fails").kind()
    };
    let read = &mut Socket {
        script: VecDeque::from([Turn::Fails(ConnectionReset)]),
        ..Socket::default()
    };
    assert_eq!(serve(read), ConnectionReset);
    let script = || VecDeque::from([Turn::Arrives(opening(P1).to_vec())]);
    let write = &mut Socket {
        script: script(),
        reluctant: Some(BrokenPipe),
        ..Socket::default()
    };
    assert_eq!(serve(write), BrokenPipe);
    let full = &mut Socket {
        script: script(),
        ..Socket::default()
    };
    assert_eq!(serve(full), WriteZero, "a socket without room would be tried for ever");
}

#[test]
fn what_cannot_be_encoded_ends_the_service() {
    let mut socket = Socket {
        script: VecDeque::from([
            Turn::Arrives(opening(P1).to_vec()),
            request(P1, 1, &Request::Enqueue(vec![Message::new("orders", "1")])),
        ]),
        room: 100,
        ..Socket::default()
    };
    let mut server = ServerConnection::new(config(&[P1]));
    let answer = |_| Ok(Response::Enqueue(vec![Ok("x".repeat(70_000).as_str().into())]));
    let error = server.serve(&mut socket, answer, |_| None).expect_err("a long id");
    assert_eq!(error.kind(), InvalidInput);
    assert!(error.to_string().contains("70000 bytes long"), "{error}");
}

#[test]
fn input_in_memory_is_fed_as_far_as_it_is_wanted() {
    let mut server = ServerConnection::new(config(&[Dialect::Handshake]));
    let bytes = HANDSHAKE.repeat(2);
    let taken = server.feed(&bytes);
    assert!((HANDSHAKE.len()..=bytes.len()).contains(&taken));
    assert_eq!(server.feed(&bytes), 0, "an event waits");
    assert!(server.poll_event().is_some());
    server.close();
    assert_eq!(server.feed(&bytes), 0, "it is over");
}
