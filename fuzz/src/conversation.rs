//! A client's codec and a server's connection in conversation, in any dialect, with frames split at any limit and bytes cut
//! anywhere: each side hears what the other said, in order.

use std::collections::VecDeque;

use arbitrary::{Arbitrary, Unstructured};
use fibp_proto::frame::{Decoder, Frame, Item, Limits, Transmit};
use fibp_proto::server::{RequestId, ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{Dialect, Push, QueueName, Request, Response};

use crate::frame_decode::only_frame;
use crate::identity::is_framed;
use crate::input::Input;
use crate::values::{self, AnyDialect, AnyPush, AnyRequest};

#[derive(Debug, Arbitrary)]
struct Case {
    dialect: AnyDialect,
    /// The client's limit, in the framed dialect.
    limit: u16,
    portions: Vec<u8>,
    turns: Vec<Turn>,
}

#[derive(Debug, Arbitrary)]
enum Turn {
    Ask(u32, AnyRequest),
    /// Answers the oldest request in the way that the bytes say.
    Answer(Vec<u8>),
    Push(AnyPush),
}

/// What the client is to hear.
#[derive(Debug)]
enum Said {
    Answer(RequestId, Response),
    Push(Push),
}

struct Talk {
    dialect: Dialect,
    server: ServerConnection,
    portions: Vec<u8>,
    heard: VecDeque<ServerEvent>,
    /// What is on its way to the client.
    wire: Decoder,
    open: bool,
}

/// Lets both sides talk.
pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let AnyDialect(dialect) = case.dialect;
    let limits = Limits::new(u32::MAX, u32::MAX);
    let mut talk = Talk {
        dialect,
        server: ServerConnection::new(ServerConfig::new([dialect])),
        portions: case.portions,
        heard: VecDeque::new(),
        wire: Decoder::new(dialect.layout(), limits),
        open: false,
    };
    talk.open();
    let mut asked: VecDeque<RequestId> = VecDeque::new();
    let mut said = VecDeque::new();
    for turn in case.turns.into_iter().take(30) {
        match turn {
            Turn::Ask(id, AnyRequest(request)) => {
                let Ok(whole) = request.encode(dialect, id, limits) else {
                    continue;
                };
                let send = if is_framed(dialect) {
                    u32::from(case.limit).max(7 + u32::try_from(whole.len() / 200).expect("small"))
                } else {
                    u32::MAX
                };
                let (send, receive) = (send, send);
                let bytes = request
                    .encode(dialect, id, Limits::new(send, receive))
                    .expect("can be split");
                talk.tell_server(&bytes);
                if matches!(request, Request::Goodbye) {
                    assert_eq!(talk.heard.pop_front(), Some(ServerEvent::Closed));
                    break;
                }
                match (
                    talk.heard.pop_front(),
                    Request::decode(dialect, &only_frame(dialect, &whole)),
                ) {
                    (Some(ServerEvent::Request { id: heard, request }), Ok(meant)) => {
                        assert_eq!((heard.id, &request), (id, &meant));
                        asked.push_back(heard);
                    }
                    // A second handshake is refused.
                    (Some(ServerEvent::Malformed { id: heard, .. }), Err(_) | Ok(Request::Handshake { .. })) => {
                        assert_eq!(heard, id);
                    }
                    (heard, meant) => panic!("{heard:?} of {meant:?}"),
                }
                assert!(talk.heard.is_empty(), "{:?}", talk.heard);
            }
            Turn::Answer(bytes) => {
                let Some(id) = asked.pop_front() else { continue };
                let response = values::response(&mut Input::new(&bytes), id.op);
                if talk.server.respond(id, &response).is_ok() {
                    said.push_back(Said::Answer(id, response));
                }
            }
            Turn::Push(AnyPush(push)) => {
                if talk.server.push(&push).is_ok() {
                    said.push_back(Said::Push(push));
                }
            }
        }
        talk.tell_client(&mut said);
    }
    talk.server.handle_eof();
    talk.listen();
    assert!(said.is_empty(), "{said:?}");
}

impl Talk {
    fn open(&mut self) {
        if !is_framed(self.dialect) {
            self.tell_server(b"FIBP\x01\0");
        } else {
            self.tell_server(b"\0\0\0\x09\x01\0\0\0\0\0\0\x01\0");
        }
        let opened = self.heard.pop_front();
        assert!(matches!(opened, Some(ServerEvent::Opened { .. })), "{opened:?}");
        // The echo, or the acceptance.
        let mut transmit = Transmit::new();
        while self.server.take_transmit(&mut transmit) {
            let n = transmit.len();
            self.server.transmitted(&mut transmit, n);
        }
        self.open = true;
    }

    fn tell_server(&mut self, mut bytes: &[u8]) {
        let portions = self.portions.clone();
        let mut portions = portions.iter().cycle().map(|n| 1 + usize::from(*n));
        while !bytes.is_empty() {
            self.listen();
            let portion = portions.next().unwrap_or(usize::MAX).min(bytes.len());
            match self.server.feed(&bytes[..portion]) {
                0 => break,
                n => bytes = &bytes[n..],
            }
        }
        self.listen();
    }

    fn listen(&mut self) {
        while let Some(event) = self.server.poll_event() {
            if matches!(event, ServerEvent::Opened { .. }) {
                self.server.accept();
            }
            self.heard.push_back(event);
        }
    }

    /// What the server wrote is what it was to say.
    fn tell_client(&mut self, said: &mut VecDeque<Said>) {
        let mut transmit = Transmit::new();
        while self.server.take_transmit(&mut transmit) {
            while !transmit.is_empty() {
                let n = transmit.chunk().len();
                self.wire.feed(transmit.chunk());
                self.server.transmitted(&mut transmit, n);
            }
        }
        while let Ok(Some(Item::Frame(frame))) = self.wire.next_item() {
            self.compare(&frame, said.pop_front().expect("nothing was said"));
        }
    }

    fn compare(&self, frame: &Frame, said: Said) {
        let queue = QueueName::from("queue");
        match said {
            Said::Answer(id, response) => {
                assert!(!Push::is_push(self.dialect, frame));
                assert_eq!(frame.header.id, id.id);
                let bytes = response.encode(self.dialect, id.id, id.op).expect("was sent");
                assert_eq!(*frame, only_frame(self.dialect, &bytes));
                Response::decode(self.dialect, id.op, frame).expect("was written by us");
            }
            Said::Push(push) => {
                assert!(Push::is_push(self.dialect, frame));
                let heard = Push::decode(self.dialect, &queue, frame).expect("was written by us");
                assert_eq!(heard.deliveries.len(), push.deliveries.len());
            }
        }
    }
}
