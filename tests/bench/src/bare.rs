//! Bare loops over blocking sockets: the same bytes without a client.

use std::io::{Read, Write};
use std::net::TcpStream;

use fibp_proto::QueueName;

use crate::target::Peer;
use crate::{Rate, Slice, Start};

/// Counts whole frames in a stream of bytes by their length fields.
#[derive(Debug, Default)]
pub(super) struct FrameCounter {
    /// Bytes until the frame under way ends.
    left: usize,
    /// The frame's length field, header and the first bytes of its body, as far as they came.
    head: [u8; HEAD],
    have: usize,
}

/// Length field, header, and the largest count field.
const HEAD: usize = 4 + 6 + 4;

impl FrameCounter {
    /// How many frames end within these bytes.
    pub(super) fn count(&mut self, bytes: &[u8]) -> usize {
        let mut frames = 0;
        self.scan(bytes, |_| frames += 1);
        frames
    }

    /// How many deliveries the pushes that end within these bytes hold.
    pub(super) fn deliveries(&mut self, peer: &Peer, bytes: &[u8]) -> u64 {
        let mut deliveries = 0;
        self.scan(bytes, |head| {
            if peer.is_push(head) {
                deliveries += peer.deliveries(head.get(10..).unwrap_or_default());
            }
        });
        deliveries
    }

    /// Calls `end` with the first bytes of each frame that ends here.
    fn scan(&mut self, mut bytes: &[u8], mut end: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let wanted = if self.have < 4 {
                4
            } else {
                HEAD.min(self.have + self.left)
            };
            let take = if self.have < wanted {
                let take = (wanted - self.have).min(bytes.len());
                self.head[self.have..self.have + take].copy_from_slice(&bytes[..take]);
                let known = self.have >= 4;
                self.have += take;
                if known {
                    self.left -= take;
                } else if self.have == 4 {
                    let [a, b, c, d, ..] = self.head;
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                }
                take
            } else {
                let take = self.left.min(bytes.len());
                self.left -= take;
                take
            };
            bytes = &bytes[take..];
            if self.have >= 4 && self.left == 0 {
                end(&self.head[..self.have]);
                self.have = 0;
            }
        }
    }
}

/// A connection without a client.
#[derive(Debug)]
pub(super) struct Bare {
    peer: Peer,
    stream: TcpStream,
    counter: FrameCounter,
    buffer: Vec<u8>,
}

impl Bare {
    /// Connects and opens.
    ///
    /// # Panics
    ///
    /// The server refuses.
    pub(super) fn connect(peer: &Peer) -> Self {
        Self {
            peer: peer.clone(),
            stream: peer.open().expect("a server"),
            counter: FrameCounter::default(),
            buffer: vec![0; 256 * 1024],
        }
    }

    fn read(&mut self) -> usize {
        let read = self.stream.read(&mut self.buffer).expect("a server");
        assert!(read > 0, "the server closed");
        self.counter.count(&self.buffer[..read])
    }

    /// Keeps `window` copies of a frame of `messages` messages in flight; counts messages.
    ///
    /// # Panics
    ///
    /// The server closes.
    pub(super) fn pipeline(&mut self, frame: &[u8], messages: u64, window: usize, slice: Slice) -> Rate {
        let frames = frame.repeat(window);
        let start = Start::now();
        let mut answered = 0;
        self.stream.write_all(&frames).expect("a server");
        let mut in_flight = window;
        while in_flight > 0 {
            let done = self.read();
            answered += done as u64 * messages;
            if !slice.is_over(start.at, answered) {
                self.stream.write_all(&frames[..done * frame.len()]).expect("a server");
            } else {
                in_flight -= done;
            }
        }
        start.rate(answered)
    }

    /// Subscribes; then [`count`](Self::count) can be called.
    ///
    /// # Panics
    ///
    /// The server closes.
    pub(super) fn consume(&mut self, queue: &QueueName) {
        let frame = self.peer.consume_frame(queue);
        self.stream.write_all(&frame).expect("a server");
    }

    /// Reads and counts deliveries until the slice is over.
    pub(super) fn count(&mut self, slice: Slice) -> Rate {
        let start = Start::now();
        let mut deliveries = 0;
        while !slice.is_over(start.at, deliveries) {
            let read = self.stream.read(&mut self.buffer).expect("a server");
            assert!(read > 0, "the server closed");
            deliveries += self.counter.deliveries(&self.peer, &self.buffer[..read]);
        }
        start.rate(deliveries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_in_any_pieces() {
        let frames: Vec<u8> = [6usize, 7, 100, 6]
            .into_iter()
            .flat_map(|length| [(length as u32).to_be_bytes().to_vec(), vec![0; length]].concat())
            .collect();
        for size in 1..frames.len() {
            let mut counter = FrameCounter::default();
            let counted: usize = frames.chunks(size).map(|piece| counter.count(piece)).sum();
            assert_eq!(counted, 4, "in pieces of {size}");
        }
    }
}
