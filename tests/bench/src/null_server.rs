//! A server that does the least a server can do: it finds the frames and answers each, one after another, as real
//! servers do (docs/protocol/preamble.md 1.2). Preamble dialect.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use fibp_proto::{Headers, Received};

use crate::target::{P1, PREAMBLE};

const ENQUEUE: u8 = 0x01;
const CONSUME: u8 = 0x02;
const ACK: u8 = 0x03;
const NACK: u8 = 0x04;
const FLOW: u8 = 0x20;

/// How many deliveries a push carries: the most that real servers put into one.
pub(super) const PUSHED: u32 = 64;

/// Starts a server that lives as long as the process, and returns its address.
///
/// # Panics
///
/// The loopback interface has no free port.
pub(super) fn start(coalesce: bool) -> SocketAddr {
    serve_with(move |stream| {
        let writer = stream.try_clone();
        if let Ok(mut writer) = writer {
            answer_all(stream, &mut writer, coalesce);
        }
    })
}

/// Starts a server that hands each connection to `serve`, on a thread of its own.
///
/// # Panics
///
/// The loopback interface has no free port.
pub(super) fn serve_with(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let addr = listener.local_addr().expect("a bound listener has an address");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            stream.set_nodelay(true).expect("a connected socket");
            std::thread::spawn(move || serve(stream));
        }
    });
    addr
}

/// Answers until the client closes: each frame with a write of its own, or all of a read with one.
pub(super) fn answer_all(mut from: impl Read, to: &mut impl Write, coalesce: bool) {
    let mut opening = [0; PREAMBLE.len()];
    if from.read_exact(&mut opening).is_err() || to.write_all(&PREAMBLE).is_err() {
        return;
    }
    let mut server = Answers::default();
    let mut buffer = vec![0; 256 * 1024];
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            buffer.resize(buffer.len() * 2, 0);
        }
        let read = match from.read(&mut buffer[filled..]) {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        filled += read;
        let mut used = 0;
        while let Some(length) = server.answer(&buffer[used..filled]) {
            used += length;
            if !coalesce && server.flush(to).is_err() {
                return;
            }
        }
        if server.flush(to).is_err() {
            return;
        }
        if server.consuming {
            return push_for_ever(to);
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
    }
}

fn push_for_ever(to: &mut impl Write) {
    let push = push_frame();
    while to.write_all(&push).is_ok() {}
}

/// One push of [`PUSHED`] deliveries.
///
/// # Panics
///
/// Never: the deliveries fit.
pub(super) fn push_frame() -> Vec<u8> {
    let deliveries = (1..=PUSHED)
        .map(|n| {
            let id = format!("0195d3c8-5f2a-7abc-8def-{n:012x}").as_str().into();
            Received::new(id, "bench", Headers::new(), vec![7; crate::PAYLOAD], "default", 0)
        })
        .collect();
    let push = fibp_proto::Push { deliveries };
    let bytes = push.encode(P1, 0, fibp_proto::frame::Limits::default());
    bytes.expect("a push that fits").to_vec()
}

#[derive(Default)]
struct Answers {
    out: Vec<u8>,
    consuming: bool,
}

impl Answers {
    fn flush(&mut self, to: &mut impl Write) -> std::io::Result<()> {
        to.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Answers the first frame; returns how many bytes it took, or `None` if it is not whole.
    fn answer(&mut self, bytes: &[u8]) -> Option<usize> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        if let [_, op, a, b, c, d, body @ ..] = rest.get(..length)? {
            self.answer_one(*op, [*a, *b, *c, *d], body);
        }
        Some(4 + length)
    }

    fn answer_one(&mut self, op: u8, id: [u8; 4], body: &[u8]) {
        let count = match (op, body) {
            (ENQUEUE, [a, b, rest @ ..]) => rest
                .get(usize::from(u16::from_be_bytes([*a, *b]))..)
                .unwrap_or_default(),
            (ACK | NACK, body) => body,
            _ => &[],
        };
        let count = count.first_chunk::<2>().map_or(0, |count| u16::from_be_bytes(*count));
        let item_len = if op == ENQUEUE { 39 } else { 1 };
        let body_len = match op {
            FLOW => return,
            ENQUEUE | ACK | NACK => 2 + usize::from(count) * item_len,
            _ => 0,
        };
        self.out.extend_from_slice(&((body_len + 6) as u32).to_be_bytes());
        self.out.extend_from_slice(&[0, op]);
        self.out.extend_from_slice(&id);
        match op {
            ENQUEUE => {
                self.out.extend_from_slice(&count.to_be_bytes());
                for _ in 0..count {
                    self.out.extend_from_slice(&[1, 0, 36]);
                    self.out.extend_from_slice(b"0195d3c8-5f2a-7abc-8def-0123456789ab");
                }
            }
            ACK | NACK => {
                self.out.extend_from_slice(&count.to_be_bytes());
                // An item that went well is one byte.
                self.out.resize(self.out.len() + usize::from(count), 1);
            }
            CONSUME => self.consuming = true,
            _ => {}
        }
    }
}

/// Starts a server that completes the handshake and then does nothing, on one thread.
///
/// # Panics
///
/// The loopback interface has no free port.
pub(super) fn start_idle() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let addr = listener.local_addr().expect("a bound listener has an address");
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let mut opening = [0; PREAMBLE.len()];
            if stream.read_exact(&mut opening).is_ok() && stream.write_all(&PREAMBLE).is_ok() {
                kept.push(stream);
            }
        }
    });
    addr
}

#[cfg(test)]
mod tests {
    use fibp_proto::frame::{Decoder, Item, Layout, Limits};
    use fibp_proto::request::Op;
    use fibp_proto::{Message, Request, Response};

    use super::*;

    #[test]
    fn answers_are_those_of_a_server() {
        let mut answers = Answers::default();
        let request = Request::Enqueue(vec![Message::new("q", "x"); 3]);
        let frame = request.encode(P1, 1, Limits::default()).expect("a frame");
        assert_eq!(
            answers.answer(&frame[..frame.len() - 1]),
            None,
            "a part of a frame waits"
        );
        assert_eq!(answers.answer(&frame), Some(frame.len()));
        let mut decoder = Decoder::new(Layout::FlagsFirst, Limits::default());
        decoder.feed(&answers.out);
        let Ok(Some(Item::Frame(frame))) = decoder.next_item() else {
            panic!("no frame")
        };
        let response = Response::decode(P1, Op::Enqueue, &frame).expect("an answer");
        assert_eq!(response, Response::Enqueue(vec![Ok(message_id_of_all()); 3]));
    }

    fn message_id_of_all() -> fibp_proto::MessageId {
        "0195d3c8-5f2a-7abc-8def-0123456789ab".into()
    }
}
