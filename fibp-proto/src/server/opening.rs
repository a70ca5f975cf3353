//! How a server finds out what it is spoken to in (docs/protocol/revisions.md, "First bytes"; docs/protocol/preamble.md 1.1;
//! docs/protocol/framed.md 2). After this, the dialect makes no difference.

use super::{ServerConnection, ServerEvent, State, encode_error};
use crate::dialect::framed::{self, FirstFrame, HandshakeOk};
use crate::dialect::opening::{ClientOpening, PREAMBLE_MAJOR, recognise_client};
use crate::dialect::{Codec, Dialect};
use crate::frame::Item;
use crate::response::ServerError;

/// Bytes of the preamble.
pub(super) const PREAMBLE_LEN: usize = 6;

impl ServerConnection {
    /// The opening, or `None` when more bytes are needed or the connection is over.
    pub(super) fn poll_opening(&mut self) -> Option<ServerEvent> {
        if self.state == State::Opening {
            let preamble = self.accepted(|dialect| matches!(dialect, Dialect::Preamble(_)));
            let framed = self.accepted(|dialect| matches!(dialect, Dialect::Handshake | Dialect::HandshakeEarly));
            match (preamble, framed) {
                (Some(preamble), framed) => match (recognise_client(self.decoder.pending()), framed) {
                    (ClientOpening::Incomplete, _) => return None,
                    (ClientOpening::Preamble { major, .. }, _) => return self.open_preamble(preamble, major),
                    (_, Some(framed)) => self.begin_handshake(framed),
                    (_, None) => {
                        preamble.encode_goodbye("invalid magic", &mut self.out);
                        self.end();
                    }
                },
                // A preamble is a frame of 1 179 206 224 bytes to such a server.
                (None, Some(framed)) => self.begin_handshake(framed),
                (None, None) => self.end(),
            }
        }
        if self.state == State::Handshake {
            return self.poll_handshake();
        }
        None
    }

    fn accepted(&self, is: impl Fn(Dialect) -> bool) -> Option<&'static dyn Codec> {
        self.config
            .dialects
            .iter()
            .find(|dialect| is(**dialect))
            .and_then(|dialect| dialect.codec())
    }

    fn open_preamble(&mut self, codec: &'static dyn Codec, major: u8) -> Option<ServerEvent> {
        self.decoder.consume(PREAMBLE_LEN);
        if major != PREAMBLE_MAJOR {
            let text = format!("unsupported protocol version {major}.x (server supports {PREAMBLE_MAJOR}.x)");
            codec.encode_goodbye(&text, &mut self.out);
            self.end();
            return None;
        }
        // The echo is what clients open with; without a key, nothing in it can be too long.
        let _ = codec.encode_opening(None, &mut self.out);
        self.set_codec(codec);
        self.state = State::Open;
        Some(ServerEvent::Opened {
            dialect: codec.dialect(),
            key: None,
        })
    }

    fn begin_handshake(&mut self, codec: &'static dyn Codec) {
        self.set_codec(codec);
        self.state = State::Handshake;
    }

    fn set_codec(&mut self, codec: &'static dyn Codec) {
        self.decoder.set_layout(codec.layout());
        self.codec = Some(codec);
    }

    fn poll_handshake(&mut self) -> Option<ServerEvent> {
        let codec = self.codec?;
        let frame = match self.decoder.next_item() {
            Ok(Some(Item::Frame(frame))) => frame,
            Ok(None) => return None,
            // Too long or too short: real servers close without a frame.
            Ok(Some(Item::Oversized { .. })) | Err(_) => {
                self.end();
                return None;
            }
        };
        match framed::read_first_frame(&frame) {
            FirstFrame::Handshake(key) => {
                self.state = State::Deciding;
                return Some(ServerEvent::Opened {
                    dialect: codec.dialect(),
                    key,
                });
            }
            FirstFrame::OtherVersion => self.refuse_opening(0, &framed::unsupported_version()),
            FirstFrame::NoHandshake => self.refuse_opening(frame.header.id, &framed::expected_handshake()),
            FirstFrame::Malformed => self.end(),
        }
        None
    }

    pub(super) fn accept_handshake(&mut self) {
        let ok = HandshakeOk {
            node_id: self.config.node_id,
            max_frame_size: self.config.limits.receive,
        };
        framed::encode_handshake_ok(ok, &mut self.out);
        self.state = State::Open;
    }

    pub(super) fn refuse_opening(&mut self, id: u32, error: &ServerError) {
        if let Some(codec) = self.codec {
            encode_error(codec, id, error, &mut self.out);
        }
        self.end();
    }
}
