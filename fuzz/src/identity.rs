//! What was decoded is encoded to the same bytes. The exceptions are all here:
//!
//! * Whatever follows the fields of a body is a later revision's, and is not kept.
//! * Flags other than those that the frame needs are not kept, nor the ids of pushes in the preamble dialect.
//! * Of the truth values, written 0 and 1, servers take everything but 0 for true.
//! * Protobuf bodies (P1 and P2, admin operations) have many spellings of one meaning: ours is the shortest one.
//! * The total count of P3's configuration lists says again how long the list is.
//! * An enqueue of no messages in the preamble dialect does not keep the queue's name.
//! * A refusal of the framed dialect is put where servers put it: some have a place in the result of the operation, with
//!   no text, others a frame of their own.
//! * Results with an error code have fields that say nothing. Errors of the preamble dialect are text, which is made
//!   valid UTF-8.

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

pub(crate) fn assert_request(dialect: Dialect, request: &Request, frame: &Frame, again: &Frame) {
    let rule = match request.op() {
        op if op.is_admin() && is_protobuf(dialect) => Rule::Meaning,
        Op::CreateQueue | Op::CreateApiKey => Rule::Bools,
        Op::Enqueue if !is_framed(dialect) && *request == Request::Enqueue(Vec::new()) => Rule::Meaning,
        _ => Rule::Prefix,
    };
    assert_same(rule, frame, again);
}

pub(crate) fn assert_response(dialect: Dialect, op: Op, response: &Response, frame: &Frame, again: &Frame) {
    let is_framed = is_framed(dialect);
    let rule = match response {
        Response::Error(_) if is_framed && frame.header.opcode != again.header.opcode => return,
        Response::Error(_) if is_framed && frame.header.opcode != 0xFE => Rule::Meaning,
        Response::Error(_) if !is_framed && std::str::from_utf8(&frame.body).is_err() => Rule::Meaning,
        _ if op.is_admin() && is_protobuf(dialect) && frame.header.opcode != 0xFE => Rule::Meaning,
        Response::ListConfig { .. } if dialect == Dialect::Preamble(AdminRevision::P3) => Rule::Meaning,
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
    matches!(dialect, Dialect::Framed | Dialect::FramedF1)
}

fn is_protobuf(dialect: Dialect) -> bool {
    matches!(dialect, Dialect::Preamble(AdminRevision::P1 | AdminRevision::P2))
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
