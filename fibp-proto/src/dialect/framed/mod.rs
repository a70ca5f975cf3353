//! The framed dialect (docs/protocol/framed.md).

mod admin;
mod data;
mod errors;
mod handshake;
mod opcode;
mod request;
mod response;

pub(crate) use handshake::{FirstFrame, HandshakeOk, read_first_frame};
pub(crate) use opcode::Numbers;

use super::contents::{Arena, Source};
use super::encode::{Body, Encoder, Measure, encode_frame, measure_items};
use super::opening::FRAMED_VERSION;
use super::*;
use crate::frame::{HEADER_LEN, MAX_REASSEMBLED, Splitter, max_body};
use crate::prelude::*;
use errors::{INVALID_FRAME, UNKNOWN_OPCODE, UNSUPPORTED_VERSION};
use handshake::Handshake;
use opcode::{DISCONNECT, HANDSHAKE, HANDSHAKE_OK, PING, PONG};
use request::RequestBody;
use response::ResponseBody;

pub(crate) fn codec(numbers: Numbers) -> &'static dyn Codec {
    match numbers {
        Numbers::F1 => &Framed { numbers: Numbers::F1 },
        Numbers::F2 => &Framed { numbers: Numbers::F2 },
    }
}

const LAYOUT: Layout = Layout::OpcodeFirst;

#[derive(Debug)]
struct Framed {
    numbers: Numbers,
}

fn header(opcode: u8, id: u32) -> FrameHeader {
    FrameHeader { opcode, flags: 0, id }
}

impl Framed {
    fn request_header(&self, op: Op, id: u32) -> Result<FrameHeader, EncodeError> {
        let opcode = self.numbers.request(op);
        let none = EncodeError::Unsupported("the framed dialect has no such request");
        Ok(header(opcode.ok_or(none)?, id))
    }
}

impl Codec for Framed {
    fn dialect(&self) -> Dialect {
        match self.numbers {
            Numbers::F1 => Dialect::HandshakeEarly,
            Numbers::F2 => Dialect::Handshake,
        }
    }

    fn layout(&self) -> Layout {
        LAYOUT
    }

    fn rules(&self) -> Rules {
        Rules {
            max_items: data::MAX_ITEMS as usize,
            continuation: true,
            credit: false,
            credit_window: false,
            goodbye: true,
            authenticate: false,
            admin_revisions: false,
        }
    }

    fn encode_opening(&self, key: Option<&str>, out: &mut OutBuf) -> Result<(), EncodeError> {
        encode_frame(
            LAYOUT,
            header(HANDSHAKE, 0),
            &Handshake {
                version: FRAMED_VERSION,
                key,
            },
            u32::MAX,
            out,
        )
    }

    fn encode_request(&self, id: u32, request: &Request, limit: u32, out: &mut OutBuf) -> Result<(), EncodeError> {
        encode_continued(
            self.request_header(request.op(), id)?,
            &RequestBody(request),
            limit,
            out,
        )
    }

    fn encode_enqueue(
        &self,
        id: u32,
        messages: &[Message],
        items_len: Option<usize>,
        limit: u32,
        out: &mut OutBuf,
    ) -> Result<(), EncodeError> {
        let body = Messages { messages, items_len };
        encode_continued(self.request_header(Op::Enqueue, id)?, &body, limit, out)
    }

    #[cfg(feature = "std")]
    fn encode_settles(
        &self,
        id: u32,
        op: Op,
        settles: &[Settle],
        items_len: usize,
        limit: u32,
        out: &mut OutBuf,
    ) -> Result<(), EncodeError> {
        let body = data::SettlesBody { settles, items_len };
        encode_continued(self.request_header(op, id)?, &body, limit, out)
    }

    fn enqueue_base_len(&self, _queue: &str) -> usize {
        data::COUNT_LEN
    }

    fn enqueue_item_len(&self, message: &Message) -> Result<usize, EncodeError> {
        Measure::of(|to| data::encode_message(to, message))
    }

    fn settle_base_len(&self) -> usize {
        data::COUNT_LEN
    }

    fn classify(&self, header: FrameHeader) -> Incoming {
        match header.opcode {
            opcode if opcode == self.numbers.delivery() => Incoming::Push,
            PING => Incoming::Ping,
            PONG => Incoming::Answer,
            DISCONNECT => Incoming::Goodbye,
            opcode if self.numbers.is_answer(opcode) => Incoming::Answer,
            _ => Incoming::Unknown,
        }
    }

    fn decode_response(&self, op: Op, frame: FrameRef<'_>) -> Result<Response, DecodeError> {
        response::decode(self.numbers, op, frame)
    }

    fn decode_push(
        &self,
        queue: &QueueName,
        header: FrameHeader,
        from: Source<'_>,
        arena: &mut Arena,
        into: &mut Vec<Received>,
    ) -> Result<(), DecodeError> {
        let opcode = header.opcode;
        if opcode != self.numbers.delivery() {
            return Err(DecodeError::UnexpectedOpcode { opcode });
        }
        data::read_deliveries(queue, from, arena, into)
    }

    /// The handshake says whether it is a cluster; no text is needed.
    fn says_not_yet(&self, _: &ServerError) -> bool {
        false
    }

    fn opcode_of(&self, op: Op) -> Option<u8> {
        self.numbers.request(op)
    }

    fn answer_opcode_of(&self, op: Op) -> Option<u8> {
        self.numbers.answer(op)
    }

    fn decode_opening(&self, frame: &Frame) -> Option<Result<Request, DecodeError>> {
        (frame.header.opcode == HANDSHAKE).then(|| handshake::read(frame))
    }

    fn decode_request(&self, frame: &Frame) -> Result<Request, MalformedRequest> {
        let opcode = frame.header.opcode;
        // An open connection is not opened again.
        let known = self.numbers.op_of_request(opcode).filter(|op| *op != Op::Handshake);
        let Some(op) = known else {
            let text = unknown_opcode(opcode);
            return Err(malformed(None, Malformed::UnknownOpcode { opcode }, text));
        };
        request::decode(op, frame).map_err(|error| {
            let reason = match &error {
                DecodeError::UnexpectedEnd { needed, available, .. } => {
                    format!("incomplete frame: need {needed} bytes, have {available}")
                }
                other => other.to_string(),
            };
            let text = format!("invalid {} frame: {reason}", request::name(op));
            malformed(Some(op), Malformed::Body(error), text)
        })
    }

    fn encode_response(&self, id: u32, op: Op, response: &Response, out: &mut OutBuf) -> Result<(), EncodeError> {
        let (opcode, body) = ResponseBody::of(self.numbers, op, response)?;
        encode_frame(LAYOUT, header(opcode, id), &body, u32::MAX, out)
    }

    fn encode_push(&self, id: u32, push: &Push, _limit: u32, out: &mut OutBuf) -> Result<(), EncodeError> {
        // Servers emit one frame of any size, never a continued one.
        encode_frame(
            LAYOUT,
            header(self.numbers.delivery(), id),
            &Deliveries(push),
            u32::MAX,
            out,
        )
    }

    fn encode_goodbye(&self, _text: &str, out: &mut OutBuf) {
        encode_empty(DISCONNECT, 0, out);
    }

    fn encode_server_heartbeat(&self, id: u32, out: &mut OutBuf) {
        encode_empty(PING, id, out);
    }
}

struct Messages<'a> {
    messages: &'a [Message],
    /// Their bytes, if they are known to be right by themselves.
    items_len: Option<usize>,
}

impl Body for Messages<'_> {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        data::encode_enqueue(to, self.messages)
    }

    fn measure(&self) -> Result<usize, EncodeError> {
        measure_items(self, self.items_len, |to| data::encode_count(to, self.messages))
    }
}

struct Deliveries<'a>(&'a Push);

impl Body for Deliveries<'_> {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        data::encode_deliveries(to, self.0)
    }
}

impl Encoder for Splitter<'_> {
    fn write(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }

    fn write_shared(&mut self, bytes: &Bytes) {
        Self::put_shared(self, bytes);
    }
}

/// Writes a frame, or several if the body is too long for one. On an error nothing is written.
fn encode_continued<B: Body>(header: FrameHeader, body: &B, limit: u32, out: &mut OutBuf) -> Result<(), EncodeError> {
    let max_body = max_body(limit);
    match encode_frame(LAYOUT, header, body, limit, out) {
        Err(EncodeError::FrameTooLarge { len, .. }) if max_body > 0 => {
            let body_len = len.saturating_sub(HEADER_LEN);
            if body_len as u64 > MAX_REASSEMBLED {
                return Err(EncodeError::FrameTooLarge { len, limit: u32::MAX });
            }
            body.encode(&mut Splitter::new(LAYOUT, header, body_len, max_body, out))
        }
        written => written,
    }
}

fn encode_empty(opcode: u8, id: u32, out: &mut OutBuf) {
    crate::frame::encode_header(LAYOUT, header(opcode, id), 0, out);
}

fn malformed(op: Option<Op>, reason: Malformed, text: String) -> MalformedRequest {
    MalformedRequest {
        op,
        reason,
        answer: Some(errors::from_code(INVALID_FRAME, text)),
    }
}

/// Whether an answer to `op`, asked with the numbers of F2, can only come from a server with those of F1.
pub(crate) fn is_answer_of_f1(op: Op, frame: FrameRef<'_>) -> bool {
    (op == Op::Consume && Numbers::F1.answer(op) == Some(frame.header.opcode)) || refuses_f2_number(op, frame)
}

/// Whether a server with the numbers of F1 refuses the number that F2 has for `op`.
pub(crate) fn refuses_f2_number(op: Op, frame: FrameRef<'_>) -> bool {
    let Some(number) = Numbers::F2.request(op).filter(|_| matches!(op, Op::Ack | Op::Nack)) else {
        return false;
    };
    frame.header.opcode == opcode::ERROR
        && errors::decode(frame.body)
            .is_ok_and(|error| error.code() == Some(INVALID_FRAME.into()) && error.text() == unknown_opcode(number))
}

/// How servers refuse a number they do not know.
fn unknown_opcode(opcode: u8) -> String {
    format!("{UNKNOWN_OPCODE}0x{opcode:02x}")
}

/// The refusal of a Handshake of another version.
pub(crate) fn unsupported_version() -> ServerError {
    let text = format!("only protocol version {FRAMED_VERSION} is supported");
    errors::from_code(UNSUPPORTED_VERSION, text)
        .with_metadata(vec![("max_version".to_owned(), FRAMED_VERSION.to_string())])
}

/// The refusal of a first frame that is no Handshake.
pub(crate) fn expected_handshake() -> ServerError {
    errors::from_code(INVALID_FRAME, "expected Handshake frame")
}

/// Writes the acceptance of a Handshake.
pub(crate) fn encode_handshake_ok(ok: HandshakeOk, out: &mut OutBuf) {
    // Never fails: the body has a fixed size.
    let _ = encode_frame(LAYOUT, header(HANDSHAKE_OK, 0), &ok, u32::MAX, out);
}
