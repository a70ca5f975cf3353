//! What was decoded is encoded to the same bytes. The exceptions are those that `fibp_proto::dialect` states; a push of the
//! preamble dialect has no id of its own.

use fibp_proto::frame::Frame;
use fibp_proto::{AdminRevision, Dialect, Op, Request, Response};

/// How bytes may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The bytes begin with those that were written again.
    Prefix,
    /// And a 1 may have been another number that is not 0.
    Bools,
    /// The meaning is the same, which was compared already.
    Meaning,
}

/// What an answer says, as text, as NaN is not equal to itself. Protobuf leaves out every zero, and with it the sign of one.
pub(crate) fn meaning(dialect: Dialect, response: &Response) -> String {
    let mut response = response.clone();
    if let Response::QueueStats(stats) = &mut response
        && is_protobuf(dialect)
    {
        for throttle in &mut stats.per_throttle {
            for number in [&mut throttle.tokens, &mut throttle.rate_per_second, &mut throttle.burst] {
                *number += 0.0;
            }
        }
    }
    format!("{response:?}")
}

pub(crate) fn assert_request(dialect: Dialect, request: &Request, frame: &Frame, again: &Frame) {
    let rule = match request.op() {
        op if op.is_admin() && is_protobuf(dialect) => Rule::Meaning,
        Op::Handshake | Op::CreateQueue | Op::CreateApiKey => Rule::Bools,
        _ => Rule::Prefix,
    };
    assert_same(rule, frame, again);
}

pub(crate) fn assert_response(dialect: Dialect, op: Op, response: &Response, frame: &Frame, again: &Frame) {
    let is_framed = is_framed(dialect);
    let rule = match response {
        Response::Error(_) if is_framed && frame.header.opcode != 0xFE => Rule::Meaning,
        Response::Error(_) if !is_framed && std::str::from_utf8(&frame.body).is_err() => Rule::Meaning,
        _ if op.is_admin() && is_protobuf(dialect) && frame.header.opcode != 0xFE => Rule::Meaning,
        Response::ListConfig { .. } if dialect == Dialect::Preamble(AdminRevision::Binary) => Rule::Meaning,
        Response::CreateApiKey(_) | Response::ListApiKeys(_) | Response::GetAcl(_) => Rule::Bools,
        _ => Rule::Prefix,
    };
    assert_same(rule, frame, again);
}

pub(crate) fn assert_push(dialect: Dialect, frame: &Frame, again: &Frame) {
    let mut frame = frame.clone();
    if !is_framed(dialect) {
        frame.header.id = again.header.id;
    }
    assert_same(Rule::Prefix, &frame, again);
}

pub(crate) fn is_framed(dialect: Dialect) -> bool {
    matches!(dialect, Dialect::Handshake | Dialect::HandshakeEarly)
}

fn is_protobuf(dialect: Dialect) -> bool {
    matches!(
        dialect,
        Dialect::Preamble(AdminRevision::Protobuf | AdminRevision::ProtobufRenumbered)
    )
}

fn assert_same(rule: Rule, frame: &Frame, again: &Frame) {
    assert_eq!(
        (frame.header.opcode, frame.header.id),
        (again.header.opcode, again.header.id)
    );
    if rule == Rule::Meaning {
        return;
    }
    let same = |(was, is): (&u8, &u8)| was == is || (rule == Rule::Bools && *is == 1 && *was != 0);
    assert!(
        again.body.len() <= frame.body.len() && frame.body.iter().zip(&again.body).all(same),
        "{frame:?} {:?} became {:?}",
        frame.body,
        again.body
    );
}
