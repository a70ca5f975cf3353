//! Bare loops over blocking sockets: the same bytes without a client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::null_server::{PUSHED, consume_frame, enqueue_frame};
use super::{PAYLOAD, Rate};
use crate::script::PREAMBLE;

/// Counts whole frames in a stream of bytes by their length fields.
#[derive(Debug, Default)]
pub(super) struct FrameCounter {
    /// Bytes until the frame under way ends.
    left: usize,
    head: [u8; 4],
    have: usize,
}

impl FrameCounter {
    /// How many frames end within these bytes.
    pub(super) fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut frames = 0;
        while !bytes.is_empty() {
            if self.left == 0 {
                let take = (4 - self.have).min(bytes.len());
                self.head[self.have..self.have + take].copy_from_slice(&bytes[..take]);
                self.have += take;
                bytes = &bytes[take..];
                if self.have == 4 {
                    self.left = u32::from_be_bytes(self.head) as usize;
                    self.have = 0;
                }
            } else {
                let take = self.left.min(bytes.len());
                self.left -= take;
                bytes = &bytes[take..];
                if self.left == 0 {
                    frames += 1;
                }
            }
        }
        frames
    }
}

/// A connection without a client.
#[derive(Debug)]
pub(super) struct Bare {
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
    pub(super) fn connect(addr: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(addr).expect("a server");
        stream.set_nodelay(true).expect("a connected socket");
        stream.write_all(&PREAMBLE).expect("a server");
        stream.read_exact(&mut [0; PREAMBLE.len()]).expect("a server");
        Self {
            stream,
            counter: FrameCounter::default(),
            buffer: vec![0; 256 * 1024],
        }
    }

    fn read(&mut self) -> usize {
        let read = self.stream.read(&mut self.buffer).expect("a server");
        assert!(read > 0, "the server closed");
        self.counter.count(&self.buffer[..read])
    }

    /// One message at a time.
    pub(super) fn ping_pong(&mut self, slice: Duration) -> Rate {
        self.pipeline(&enqueue_frame("bench", 1), 1, 1, slice)
    }

    /// Keeps `window` copies of a frame of `messages` messages in flight; counts messages.
    ///
    /// # Panics
    ///
    /// The server closes.
    pub(super) fn pipeline(&mut self, frame: &[u8], messages: u64, window: usize, slice: Duration) -> Rate {
        let frames = frame.repeat(window);
        let start = Instant::now();
        let mut answered = 0;
        self.stream.write_all(&frames).expect("a server");
        let mut in_flight = window;
        while in_flight > 0 {
            let done = self.read();
            answered += done as u64 * messages;
            if start.elapsed() < slice {
                self.stream.write_all(&frames[..done * frame.len()]).expect("a server");
            } else {
                in_flight -= done;
            }
        }
        Rate::since(start, answered)
    }

    /// Subscribes; then [`count`](Self::count) can be called.
    ///
    /// # Panics
    ///
    /// The server closes.
    pub(super) fn consume(&mut self) {
        self.stream.write_all(&consume_frame("bench")).expect("a server");
    }

    /// Reads and counts deliveries.
    pub(super) fn count(&mut self, slice: Duration) -> Rate {
        let start = Instant::now();
        let mut deliveries = 0;
        while start.elapsed() < slice {
            deliveries += self.read() as u64 * u64::from(PUSHED);
        }
        Rate::since(start, deliveries)
    }
}

/// A message like those in [`enqueue_frame`].
pub(super) fn message() -> fibp_proto::Message {
    static PAYLOAD_BYTES: [u8; PAYLOAD] = [7; PAYLOAD];
    fibp_proto::Message::new(queue(), bytes::Bytes::from_static(&PAYLOAD_BYTES))
}

/// The queue's name, shared.
fn queue() -> fibp_proto::QueueName {
    static QUEUE: std::sync::LazyLock<fibp_proto::QueueName> = std::sync::LazyLock::new(|| "bench".into());
    QUEUE.clone()
}
