//! Frames of deliveries: read where they lie in the read buffer, and passed on together. A full buffer is lent to them.

use super::{Arrival, Broken, Connection};
use crate::dialect::contents::Source;
use crate::frame::{DecodeError, Frame, FrameHeader};
use crate::message::QueueName;
use crate::response::Push;

/// Larger frames are taken out of the read buffer: their payloads may be large enough to stay where they are.
const MAX_IN_PLACE: usize = 128 * 1024;

/// About how many deliveries of several frames are passed on together.
const MAX_TOGETHER: usize = 64;

impl<W> Connection<W> {
    /// Whether a frame is read where it lies.
    pub(super) fn is_in_place(&self, header: FrameHeader, wire_len: usize) -> bool {
        wire_len <= MAX_IN_PLACE
            && self
                .reassembler
                .as_ref()
                .is_none_or(|reassembler| !reassembler.concerns(header))
    }

    /// Reads a frame of deliveries in the buffer, and those behind it as long as there is room.
    pub(super) fn take_pushes(
        &mut self,
        mut header: FrameHeader,
        mut wire_len: usize,
        queue: &QueueName,
        room: usize,
    ) -> Result<Arrival<W>, Broken> {
        let most = room.min(MAX_TOGETHER);
        self.decoder.lend();
        let mut deliveries = Vec::new();
        let mut frames = 0;
        loop {
            let before = deliveries.len();
            let behind = self.decoder.pending().len().saturating_sub(wire_len);
            if frames == 1 {
                // The next frames are likely to be as the first.
                let expected = (behind / wire_len.max(1) + 1).saturating_mul(before);
                deliveries.reserve_exact(expected.min(most.saturating_sub(before)));
            }
            self.arena.expect(behind);
            let lent = self.decoder.lent_body(wire_len);
            let from = match &lent {
                Some(body) => Source::lent(body),
                None => Source::borrowed(self.decoder.frame(header, wire_len).body),
            };
            let decoded = self
                .codec
                .decode_push(queue, header, from, &mut self.arena, &mut deliveries);
            if let Err(error) = decoded {
                if frames > 0 {
                    // Comes next, by itself.
                    deliveries.truncate(before);
                    self.frames = self.frames.wrapping_sub(1);
                    break;
                }
                // Passed, so that the pushes behind it are still found when the connection is over
                // (`Channel::poll_last_push`).
                self.decoder.pass(wire_len);
                return Err(undecodable_push(queue, &error));
            }
            self.decoder.pass(wire_len);
            frames += 1;
            // A frame is not divided, so this may be more than there is room for: by the rest of one frame.
            if deliveries.len() >= most {
                break;
            }
            match self.decoder.next_whole() {
                Some((next, len)) if self.is_in_place(next, len) && self.is_push(Some(next)) => {
                    (header, wire_len) = (next, len);
                    self.frames = self.frames.wrapping_add(1);
                }
                _ => break,
            }
        }
        let push = Push { deliveries };
        Ok(Arrival::Push { push, frames })
    }

    /// Reads a frame of deliveries that has a place of its own.
    pub(super) fn take_push(&mut self, frame: &Frame, queue: &QueueName) -> Result<Arrival<W>, Broken> {
        let mut deliveries = Vec::new();
        self.arena.expect(0);
        let from = Source::shared(&frame.body);
        self.codec
            .decode_push(queue, frame.header, from, &mut self.arena, &mut deliveries)
            .map_err(|error| undecodable_push(queue, &error))?;
        let push = Push { deliveries };
        Ok(Arrival::Push { push, frames: 1 })
    }
}

fn undecodable_push(queue: &QueueName, error: &DecodeError) -> Broken {
    Broken::protocol(format!("a delivery from queue \"{queue}\" cannot be decoded: {error}"))
}
