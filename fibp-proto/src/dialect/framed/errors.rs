//! Error codes and Error frames (docs/protocol/framed.md 4).

use crate::dialect::EncodeError;
use crate::dialect::encode::{Body, Encoder};
use crate::dialect::records::read_list16;
use crate::error::ErrorKind;
use crate::frame::{DecodeError, Reader};
use crate::prelude::*;
use crate::request::Op;
use crate::response::ServerError;

pub(super) const OK: u8 = 0x00;
const QUEUE_NOT_FOUND: u8 = 0x01;
const MESSAGE_NOT_FOUND: u8 = 0x02;
const QUEUE_EXISTS: u8 = 0x03;
const LUA: u8 = 0x04;
const STORAGE: u8 = 0x05;
const NOT_A_DLQ: u8 = 0x06;
const PARENT_QUEUE_NOT_FOUND: u8 = 0x07;
const INVALID_CONFIG_VALUE: u8 = 0x08;
const CHANNEL_FULL: u8 = 0x09;
const UNAUTHORIZED: u8 = 0x0A;
const FORBIDDEN: u8 = 0x0B;
const NOT_LEADER: u8 = 0x0C;
pub(super) const UNSUPPORTED_VERSION: u8 = 0x0D;
pub(super) const INVALID_FRAME: u8 = 0x0E;
const API_KEY_NOT_FOUND: u8 = 0x0F;
const NODE_NOT_READY: u8 = 0x10;
const INTERNAL: u8 = 0xFF;

/// The metadata key of the leader's address.
const LEADER: &str = "leader_addr";

/// How servers answer an opcode that they do not know; the opcode follows.
pub(super) const UNKNOWN_OPCODE: &str = "unknown or unsupported opcode: ";

/// The refusal that a code and a text amount to.
pub(super) fn from_code(code: u8, text: impl Into<String>) -> ServerError {
    let text = text.into();
    let kind = match code {
        QUEUE_NOT_FOUND | PARENT_QUEUE_NOT_FOUND => ErrorKind::QueueNotFound,
        MESSAGE_NOT_FOUND => ErrorKind::MessageNotFound,
        QUEUE_EXISTS => ErrorKind::QueueExists,
        LUA => ErrorKind::Lua,
        NOT_A_DLQ => ErrorKind::NotADeadLetterQueue,
        INVALID_CONFIG_VALUE => ErrorKind::InvalidArgument,
        CHANNEL_FULL => ErrorKind::Overloaded,
        UNAUTHORIZED => ErrorKind::Auth,
        FORBIDDEN => ErrorKind::Forbidden,
        // Both say: retry elsewhere or later.
        NOT_LEADER | NODE_NOT_READY => ErrorKind::NotLeader,
        UNSUPPORTED_VERSION => ErrorKind::WrongDialect,
        INVALID_FRAME if text.starts_with(UNKNOWN_OPCODE) => ErrorKind::Unsupported,
        INVALID_FRAME => ErrorKind::Protocol,
        API_KEY_NOT_FOUND => ErrorKind::ApiKeyNotFound,
        // STORAGE, INTERNAL and what later servers add.
        _ => ErrorKind::Server,
    };
    let error = ServerError::new(kind, text).with_code(code.into());
    match meaning(code) {
        Some(meaning) => error.with_meaning(meaning),
        None => error,
    }
}

/// What a code says beyond its kind: items of a single node come with no text.
fn meaning(code: u8) -> Option<&'static str> {
    Some(match code {
        PARENT_QUEUE_NOT_FOUND => "the parent queue of the dead-letter queue is not there",
        STORAGE => "the storage failed",
        CHANNEL_FULL => "the server's internal queue is full",
        NODE_NOT_READY => "the node is not ready",
        INTERNAL => "internal error",
        0x11..=0xFE => "a code that this client does not know",
        _ => return None,
    })
}

/// The code to send for a refusal: its own, or the one that its kind calls for.
pub(super) fn code_of(error: &ServerError) -> u8 {
    if let Some(code) = error.code().and_then(|code| u8::try_from(code).ok()) {
        return code;
    }
    match error.kind() {
        ErrorKind::QueueNotFound => QUEUE_NOT_FOUND,
        ErrorKind::MessageNotFound | ErrorKind::LeaseLost => MESSAGE_NOT_FOUND,
        ErrorKind::QueueExists => QUEUE_EXISTS,
        ErrorKind::Lua => LUA,
        ErrorKind::NotADeadLetterQueue => NOT_A_DLQ,
        ErrorKind::Config | ErrorKind::InvalidArgument => INVALID_CONFIG_VALUE,
        ErrorKind::Overloaded => CHANNEL_FULL,
        ErrorKind::Auth => UNAUTHORIZED,
        ErrorKind::Forbidden => FORBIDDEN,
        ErrorKind::NotLeader => NOT_LEADER,
        ErrorKind::WrongDialect => UNSUPPORTED_VERSION,
        ErrorKind::Protocol | ErrorKind::Unsupported | ErrorKind::TooLarge => INVALID_FRAME,
        ErrorKind::ApiKeyNotFound => API_KEY_NOT_FOUND,
        ErrorKind::Server if error.text().starts_with("storage error: ") => STORAGE,
        _ => INTERNAL,
    }
}

/// Reads the body of an Error frame.
pub(super) fn decode(body: &[u8]) -> Result<ServerError, DecodeError> {
    let mut body = Reader::new(body);
    let code = body.u8()?;
    let text = body.str16()?;
    let metadata: Vec<(String, String)> = read_list16(&mut body)?;
    let leader = metadata
        .iter()
        .find(|(key, _)| key == LEADER)
        .map(|(_, address)| address.clone());
    let error = from_code(code, text).with_metadata(metadata);
    Ok(match leader {
        Some(leader) => error.with_leader(leader),
        None => error,
    })
}

/// The body of an Error frame.
pub(super) struct ErrorBody<'a>(pub(super) &'a ServerError);

impl Body for ErrorBody<'_> {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        let error = self.0;
        to.u8(code_of(error));
        // What says that an opcode is unknown is told by its text alone.
        if error.kind() == ErrorKind::Unsupported && error.code().is_none() && !error.text().starts_with(UNKNOWN_OPCODE)
        {
            to.str16("error text", &format!("{UNKNOWN_OPCODE}{}", error.text()))?;
        } else {
            to.str16("error text", error.text())?;
        }
        // Servers do not announce a leader that listens on every address.
        let leader = error
            .leader()
            .filter(|address| !address.starts_with("0.0.0.0"))
            .filter(|_| error.metadata().iter().all(|(key, _)| key != LEADER));
        let count = error.metadata().len().saturating_add(usize::from(leader.is_some()));
        to.count16("metadata entries", count)?;
        for (key, value) in error.metadata() {
            to.str16("metadata key", key)?;
            to.str16("metadata value", value)?;
        }
        if let Some(leader) = leader {
            to.str16("metadata key", LEADER)?;
            to.str16("metadata value", leader)?;
        }
        Ok(())
    }
}

/// The code of an item that failed.
pub(super) fn item_code(error: &ServerError) -> u8 {
    code_of(error)
}

/// What the message id of a failed item says: nothing on a single node; the text for codes that only
/// clusters give to items, and wherever the caller chose the code himself.
pub(super) fn item_text(error: &ServerError) -> &str {
    match code_of(error) {
        NOT_LEADER | INTERNAL => error.text(),
        _ if error.code().is_some() => error.text(),
        _ => "",
    }
}

/// The code of a refusal that real servers report inside the result of `op` instead of an Error frame.
pub(super) fn inline_code(op: Op, error: &ServerError) -> Option<u8> {
    let code = code_of(error);
    matches!(
        (op, code),
        (Op::CreateQueue, QUEUE_EXISTS | LUA)
            | (Op::DeleteQueue, QUEUE_NOT_FOUND)
            | (Op::SetConfig, INVALID_CONFIG_VALUE)
            | (Op::RevokeApiKey | Op::SetAcl | Op::GetAcl, API_KEY_NOT_FOUND)
    )
    .then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::OutBuf;
    use bytes::Bytes;

    fn encode(error: &ServerError) -> Bytes {
        let mut out = OutBuf::new();
        ErrorBody(error).encode(&mut out).expect("fits");
        out.take_bytes()
    }

    #[test]
    fn every_code_survives_and_has_a_kind() {
        for code in 0..=u8::MAX {
            let error = from_code(code, "text").with_metadata(vec![("unknown".into(), "kept".into())]);
            assert_eq!(decode(&encode(&error)), Ok(error.clone()));
            // A code that came from a kind leads back to the same kind.
            let again = from_code(code_of(&ServerError::new(error.kind(), "text")), "text");
            assert_eq!(again.kind(), error.kind(), "code {code:#04x}");
        }
    }

    #[test]
    fn the_leader_travels_in_metadata() {
        let error =
            ServerError::new(ErrorKind::NotLeader, "not the leader for this queue").with_leader("10.0.0.2:5555");
        let decoded = decode(&encode(&error)).expect("well formed");
        assert_eq!(decoded.leader(), Some("10.0.0.2:5555"));
        assert_eq!(
            decoded.metadata(),
            [("leader_addr".to_owned(), "10.0.0.2:5555".to_owned())]
        );
        assert_eq!(encode(&decoded), encode(&error), "not added twice");

        let everywhere = ServerError::new(ErrorKind::NotLeader, "x").with_leader("0.0.0.0:5555");
        assert_eq!(decode(&encode(&everywhere)).expect("well formed").leader(), None);
    }

    #[test]
    fn truncation_is_an_error_everywhere() {
        let whole = encode(&from_code(1, "queue not found").with_metadata(vec![("k".into(), "v".into())]));
        for len in 0..whole.len() {
            assert!(decode(&whole.slice(..len)).is_err(), "{len}");
        }
    }
}
