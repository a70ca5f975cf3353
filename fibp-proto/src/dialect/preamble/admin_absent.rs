//! Admin bodies of P1 and P2 in a build without the feature `protobuf`: refused by name, in both directions.

use crate::dialect::EncodeError;
use crate::frame::DecodeError;
use crate::prelude::*;
use crate::request::{Op, Request};
use crate::response::Response;

const ENCODE: EncodeError =
    EncodeError::Unsupported("admin requests of P1 and P2 need the feature `protobuf` of fibp-proto");
const DECODE: DecodeError = DecodeError::Invalid("admin body: P1 and P2 need the feature `protobuf` of fibp-proto");

pub(super) fn encode_request(_: &Request) -> Result<Vec<u8>, EncodeError> {
    Err(ENCODE)
}

pub(super) fn decode_request(_: Op, _: &[u8]) -> Result<Request, DecodeError> {
    Err(DECODE)
}

pub(super) fn encode_response(_: &Response) -> Result<Vec<u8>, EncodeError> {
    Err(ENCODE)
}

pub(super) fn decode_response(_: Op, _: &[u8]) -> Result<Response, DecodeError> {
    Err(DECODE)
}
