//! The preamble dialect (docs/protocol/preamble.md): data operations in a binary form of their own, admin bodies by revision.

mod admin_binary;
#[cfg_attr(not(feature = "protobuf"), path = "admin_absent.rs")]
mod admin_protobuf;
mod data;
mod errors;
mod opcode;
#[cfg(feature = "protobuf")]
mod protobuf;

use bytes::Bytes;

use super::contents::{Arena, Source};
use super::encode::{Body, Measure, encode_frame};
use super::opening::{MAGIC, PREAMBLE_MAJOR};
use super::{AdminRevision, Codec, Dialect, EncodeError, Incoming, Malformed, MalformedRequest, Rules};
use crate::frame::{self, DecodeError, Frame, FrameHeader, FrameRef, Layout, OutBuf};
use crate::message::{Message, QueueName, Received, Secret};
use crate::prelude::*;
use crate::request::{Op, Request};
#[cfg(feature = "std")]
use crate::requests::Settle;
use crate::response::{Push, Response, ServerError};

/// The flag of a push, the only one there is.
const PUSH: u8 = 0x04;

/// The id of what answers nothing.
const UNSOLICITED: u32 = 0;

const EMPTY: &[u8] = &[];

/// Servers do not limit their answers; the length field does.
const NO_LIMIT: u32 = u32::MAX;

pub(crate) fn codec(revision: AdminRevision) -> &'static dyn Codec {
    match revision {
        AdminRevision::Protobuf => &Preamble(AdminRevision::Protobuf),
        AdminRevision::ProtobufRenumbered => &Preamble(AdminRevision::ProtobufRenumbered),
        AdminRevision::Binary => &Preamble(AdminRevision::Binary),
    }
}

#[derive(Debug)]
struct Preamble(AdminRevision);

impl Preamble {
    fn opcode(&self, op: Op) -> Result<u8, EncodeError> {
        opcode::of(self.0, op).ok_or(EncodeError::Unsupported(match op {
            Op::Handshake => "the preamble dialect opens with six bytes, not with a frame",
            _ => "the preamble dialect cannot cancel a consumer: close its connection",
        }))
    }

    fn decode_known(&self, op: Op, body: &Bytes) -> Result<Request, DecodeError> {
        match op {
            Op::Enqueue => data::decode_enqueue(body),
            Op::Consume => data::decode_consume(body),
            Op::Flow => data::decode_flow(body),
            Op::Ack => data::decode_ack(body),
            Op::Nack => data::decode_nack(body),
            Op::Heartbeat => Ok(Request::Heartbeat),
            Op::Authenticate => Ok(Request::Authenticate(Secret::from(core::str::from_utf8(body)?))),
            Op::Goodbye => Ok(Request::Goodbye),
            op => match self.0 {
                AdminRevision::Protobuf | AdminRevision::ProtobufRenumbered => admin_protobuf::decode_request(op, body),
                AdminRevision::Binary => admin_binary::decode_request(op, body),
            },
        }
    }
}

impl Codec for Preamble {
    fn dialect(&self) -> Dialect {
        Dialect::Preamble(self.0)
    }

    fn layout(&self) -> Layout {
        Layout::FlagsFirst
    }

    fn rules(&self) -> Rules {
        Rules {
            max_items: u16::MAX.into(),
            continuation: false,
            credit: true,
            credit_window: self.0 == AdminRevision::Binary,
            goodbye: false,
            authenticate: true,
            admin_revisions: true,
        }
    }

    fn encode_opening(&self, _: Option<&str>, out: &mut OutBuf) -> Result<(), EncodeError> {
        out.put_slice(&MAGIC);
        out.put_slice(&[PREAMBLE_MAJOR, 0]);
        Ok(())
    }

    fn encode_request(&self, id: u32, request: &Request, limit: u32, out: &mut OutBuf) -> Result<(), EncodeError> {
        if let Request::Enqueue(messages) = request {
            return self.encode_enqueue(id, messages, None, limit, out);
        }
        let opcode = self.opcode(request.op())?;
        let to = To { opcode, id, limit, out };
        match request {
            Request::EnqueueNone { queue } => to.write(&data::EnqueueBody::none(queue)),
            Request::Consume { queue, credit } => to.write(&data::ConsumeBody { queue, credit: *credit }),
            Request::Flow { credit } => to.write(&credit.to_be_bytes()[..]),
            Request::Ack(items) => to.write(items.as_slice()),
            Request::Nack(items) => to.write(items.as_slice()),
            Request::Authenticate(key) => to.write(key.expose().as_bytes()),
            Request::Heartbeat | Request::Goodbye | Request::ProbeAdmin => to.write(EMPTY),
            admin => match self.0 {
                AdminRevision::Protobuf | AdminRevision::ProtobufRenumbered => {
                    to.write(&admin_protobuf::encode_request(admin)?[..])
                }
                AdminRevision::Binary => to.write(&admin_binary::RequestBody(admin)),
            },
        }
    }

    fn encode_enqueue(
        &self,
        id: u32,
        messages: &[Message],
        items_len: Option<usize>,
        limit: u32,
        out: &mut OutBuf,
    ) -> Result<(), EncodeError> {
        let opcode = self.opcode(Op::Enqueue)?;
        To { opcode, id, limit, out }.write(&data::EnqueueBody::new(messages, items_len)?)
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
        let opcode = self.opcode(op)?;
        To { opcode, id, limit, out }.write(&data::SettlesBody { settles, items_len })
    }

    fn enqueue_base_len(&self, queue: &str) -> usize {
        data::enqueue_base_len(queue)
    }

    fn enqueue_item_len(&self, message: &Message) -> Result<usize, EncodeError> {
        Measure::of(|to| data::encode_message(to, message))
    }

    fn settle_base_len(&self) -> usize {
        data::SETTLE_BASE_LEN
    }

    fn classify(&self, header: FrameHeader) -> Incoming {
        match header.opcode {
            opcode::CONSUME if header.flags & PUSH != 0 => Incoming::Push,
            opcode::HEARTBEAT => Incoming::Heartbeat,
            opcode::GOAWAY => Incoming::Goodbye,
            _ => Incoming::Answer,
        }
    }

    fn decode_response(&self, op: Op, frame: FrameRef<'_>) -> Result<Response, DecodeError> {
        let body = frame.body;
        match frame.header.opcode {
            opcode::ERROR => return Ok(Response::Error(errors::refusal(String::from_utf8_lossy(body)))),
            opcode if op == Op::ProbeAdmin || opcode::of(self.0, op) != Some(opcode) => {
                return Err(DecodeError::UnexpectedOpcode { opcode });
            }
            _ => {}
        }
        match op {
            Op::Enqueue => Ok(Response::Enqueue(data::decode_results(op, body)?)),
            Op::Consume => Ok(Response::Consume { consumer_id: None }),
            Op::Ack => Ok(Response::Ack(data::decode_results(op, body)?)),
            Op::Nack => Ok(Response::Nack(data::decode_results(op, body)?)),
            Op::Heartbeat => Ok(Response::Heartbeat),
            Op::Authenticate => Ok(Response::Authenticated),
            op => match self.0 {
                AdminRevision::Protobuf | AdminRevision::ProtobufRenumbered => {
                    admin_protobuf::decode_response(op, body)
                }
                AdminRevision::Binary => admin_binary::decode_response(op, body),
            },
        }
    }

    fn decode_push(
        &self,
        queue: &QueueName,
        _: FrameHeader,
        from: Source<'_>,
        arena: &mut Arena,
        into: &mut Vec<Received>,
    ) -> Result<(), DecodeError> {
        data::decode_push(queue, from, arena, into)
    }

    fn says_not_yet(&self, error: &ServerError) -> bool {
        errors::says_not_yet(error)
    }

    fn opcode_of(&self, op: Op) -> Option<u8> {
        opcode::of(self.0, op)
    }

    fn answer_opcode_of(&self, op: Op) -> Option<u8> {
        opcode::of(self.0, op).filter(|_| op.is_answered() && op != Op::ProbeAdmin)
    }

    fn decode_request(&self, frame: &Frame) -> Result<Request, MalformedRequest> {
        let opcode = frame.header.opcode;
        if self.0 == AdminRevision::Protobuf && opcode::STUBS_OF_P1.contains(&opcode) {
            return Err(MalformedRequest {
                op: (opcode == opcode::PROBE).then_some(Op::ProbeAdmin),
                reason: Malformed::UnknownOpcode { opcode },
                answer: Some(errors::not_implemented(opcode)),
            });
        }
        let Some(op) = opcode::operation(self.0, opcode) else {
            return Err(MalformedRequest {
                op: None,
                reason: Malformed::UnknownOpcode { opcode },
                answer: Some(errors::unknown_operation(opcode)),
            });
        };
        self.decode_known(op, &frame.body).map_err(|error| MalformedRequest {
            op: Some(op),
            // Only admin bodies are complained about; for all others the connection is closed.
            answer: op.is_admin().then(|| errors::malformed_admin_body(&error)),
            reason: Malformed::Body(error),
        })
    }

    fn encode_response(&self, id: u32, op: Op, response: &Response, out: &mut OutBuf) -> Result<(), EncodeError> {
        let (opcode, limit) = match response {
            Response::Error(_) => (opcode::ERROR, NO_LIMIT),
            response if response.op() == Some(op) => (self.opcode(op)?, NO_LIMIT),
            _ => return Err(EncodeError::Unsupported("the response is not one to this operation")),
        };
        let to = To { opcode, id, limit, out };
        match response {
            Response::Error(refusal) => to.write(refusal.text().as_bytes()),
            Response::Enqueue(results) => to.write(results.as_slice()),
            Response::Ack(results) | Response::Nack(results) => to.write(results.as_slice()),
            Response::Consume { .. } | Response::Heartbeat | Response::Authenticated => to.write(EMPTY),
            admin => match self.0 {
                AdminRevision::Protobuf | AdminRevision::ProtobufRenumbered => {
                    to.write(&admin_protobuf::encode_response(admin)?[..])
                }
                AdminRevision::Binary => to.write(&admin_binary::ResponseBody(admin)),
            },
        }
    }

    fn encode_push(&self, _: u32, push: &Push, limit: u32, out: &mut OutBuf) -> Result<(), EncodeError> {
        let header = FrameHeader {
            opcode: opcode::CONSUME,
            flags: PUSH,
            id: UNSOLICITED,
        };
        encode_frame(Layout::FlagsFirst, header, push, limit, out)
    }

    fn encode_goodbye(&self, text: &str, out: &mut OutBuf) {
        encode_plain(opcode::GOAWAY, UNSOLICITED, text.as_bytes(), out);
    }

    fn encode_server_heartbeat(&self, id: u32, out: &mut OutBuf) {
        encode_plain(opcode::HEARTBEAT, id, EMPTY, out);
    }
}

/// A frame to be written, all but its body.
struct To<'a> {
    opcode: u8,
    id: u32,
    limit: u32,
    out: &'a mut OutBuf,
}

impl To<'_> {
    fn write<B: Body + ?Sized>(self, body: &B) -> Result<(), EncodeError> {
        let header = FrameHeader {
            opcode: self.opcode,
            flags: 0,
            id: self.id,
        };
        encode_frame(Layout::FlagsFirst, header, body, self.limit, self.out)
    }
}

/// Writes a frame of bytes.
fn encode_plain(opcode: u8, id: u32, body: &[u8], out: &mut OutBuf) {
    let header = FrameHeader { opcode, flags: 0, id };
    frame::encode_header(Layout::FlagsFirst, header, body.len(), out);
    out.put_slice(body);
}

/// Text of which an empty one means none.
fn non_empty(text: impl Into<String>) -> Option<String> {
    Some(text.into()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{HEADER_LEN, PREFIX_LEN};
    use crate::request::{AckItem, NackItem};

    const REVISIONS: [AdminRevision; 3] = [
        AdminRevision::Protobuf,
        AdminRevision::ProtobufRenumbered,
        AdminRevision::Binary,
    ];

    #[test]
    fn frames_are_told_apart_by_their_header() {
        for revision in REVISIONS {
            for opcode in 0..=u8::MAX {
                for flags in [0, PUSH, 0xFF] {
                    let expected = match opcode {
                        0x02 if flags != 0 => Incoming::Push,
                        0x21 => Incoming::Heartbeat,
                        0xFF => Incoming::Goodbye,
                        _ => Incoming::Answer,
                    };
                    let header = FrameHeader { opcode, flags, id: 5 };
                    assert_eq!(codec(revision).classify(header), expected, "{header:?}");
                }
            }
        }
    }

    #[test]
    fn only_p3_has_a_credit_window() {
        for revision in REVISIONS {
            let codec = codec(revision);
            assert_eq!(codec.dialect(), Dialect::Preamble(revision));
            assert_eq!(codec.rules().credit_window, revision == AdminRevision::Binary);
        }
    }

    #[test]
    fn the_opening_carries_no_key() {
        let mut out = OutBuf::new();
        assert_eq!(
            codec(AdminRevision::Protobuf).encode_opening(Some("key"), &mut out),
            Ok(())
        );
        assert_eq!(&out.take_bytes()[..], b"FIBP\x01\0");
    }

    #[test]
    fn lengths_add_up_to_the_frame() {
        let codec = codec(AdminRevision::Protobuf);
        let len = |request: &Request| {
            let mut out = OutBuf::new();
            codec.encode_request(1, request, NO_LIMIT, &mut out).expect("fits");
            out.len() - PREFIX_LEN - HEADER_LEN
        };
        let messages = vec![
            Message::new("orders", &b"hello"[..]).header("tenant", "acme"),
            Message::new("orders", vec![0; 70_000]),
        ];
        let items = messages
            .iter()
            .map(|message| codec.enqueue_item_len(message).expect("fits"));
        let sum = codec.enqueue_base_len("orders") + items.sum::<usize>();
        assert_eq!(sum, len(&Request::Enqueue(messages)));

        let ack = AckItem {
            queue: "q".into(),
            id: "id".into(),
        };
        let nack = NackItem {
            queue: "q".into(),
            id: "id".into(),
            error: "boom".into(),
        };
        let item_len = |error| codec.settle_item_len("q", &"id".into(), error).expect("fits");
        assert_eq!(
            codec.settle_base_len() + 2 * item_len(None),
            len(&Request::Ack(vec![ack; 2]))
        );
        assert_eq!(
            codec.settle_base_len() + 3 * item_len(Some("boom")),
            len(&Request::Nack(vec![nack; 3]))
        );
    }

    #[test]
    fn goodbyes_and_heartbeats_of_servers() {
        let codec = codec(AdminRevision::ProtobufRenumbered);
        let mut out = OutBuf::new();
        codec.encode_goodbye("invalid magic", &mut out);
        assert_eq!(&out.take_bytes()[..], b"\0\0\0\x13\0\xff\0\0\0\0invalid magic");
        codec.encode_server_heartbeat(7, &mut out);
        assert_eq!(&out.take_bytes()[..], b"\0\0\0\x06\0\x21\0\0\0\x07");
        let goodbye = Frame {
            header: FrameHeader {
                opcode: opcode::GOAWAY,
                flags: 0,
                id: 0,
            },
            body: Bytes::from_static(b"bye\xff"),
        };
        assert_eq!(codec.decode_goodbye(goodbye.as_frame_ref()), "bye\u{fffd}");
    }
}
