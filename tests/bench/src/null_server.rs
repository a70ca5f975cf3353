//! A server that does the least a server can do: it finds the frames and answers each, one after another, as real
//! servers do (docs/protocol/preamble.md 1.2). Preamble dialect.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use fibp_proto::{Headers, Received};

use crate::target::{P1, PREAMBLE};

const ENQUEUE: u8 = 0x01;
const CONSUME: u8 = 0x02;
const ACK: u8 = 0x03;
const NACK: u8 = 0x04;
const FLOW: u8 = 0x20;

/// How many deliveries a push carries: the most that real servers put into one.
pub(super) const PUSHED: u32 = 64;

/// How a null server behaves.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manner {
    /// All frames that one read brings are answered with one write.
    pub(super) coalesce: bool,
    /// How long each frame takes from its arrival to its answer. Frames do not wait for each other, as they do not in a
    /// server that commits what came together.
    pub(super) service: Duration,
    /// Framed dialect, and the node id that the handshake announces; `None` for the preamble dialect.
    pub(super) node_id: Option<u64>,
}

/// Starts a server that lives as long as the process, and returns its address.
///
/// # Panics
///
/// The loopback interface has no free port.
pub(super) fn start(manner: Manner) -> SocketAddr {
    serve_with(move |stream| {
        let Ok(mut writer) = stream.try_clone() else { return };
        if manner.service.is_zero() {
            answer_all(stream, &mut writer, manner);
        } else {
            answer_all(stream, &mut Later::start(writer, manner.service), manner);
        }
    })
}

/// Writes what it is given some time later.
#[derive(Debug)]
struct Later {
    service: Duration,
    writes: mpsc::Sender<(Instant, Vec<u8>)>,
}

impl Later {
    fn start(mut to: TcpStream, service: Duration) -> Self {
        let (writes, due) = mpsc::channel::<(Instant, Vec<u8>)>();
        std::thread::spawn(move || {
            for (at, bytes) in due {
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                if to.write_all(&bytes).is_err() {
                    return;
                }
            }
        });
        Self { service, writes }
    }
}

impl Write for Later {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !bytes.is_empty() {
            let due = (Instant::now() + self.service, bytes.to_vec());
            self.writes.send(due).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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
pub(super) fn answer_all(mut from: impl Read, to: &mut impl Write, manner: Manner) {
    if open(&mut from, to, manner.node_id).is_err() {
        return;
    }
    let mut server = Answers {
        is_framed: manner.node_id.is_some(),
        ..Answers::default()
    };
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
            if !manner.coalesce && server.flush(to).is_err() {
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

fn open(from: &mut impl Read, to: &mut impl Write, node_id: Option<u64>) -> std::io::Result<()> {
    let Some(node_id) = node_id else {
        from.read_exact(&mut [0; PREAMBLE.len()])?;
        return to.write_all(&PREAMBLE);
    };
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    from.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize])?;
    // HandshakeOk (docs/protocol/framed.md 2): version 1, the node, 16 MiB.
    let mut answer = vec![0, 0, 0, 20, 0x02, 0, 0, 0, 0, 0, 0, 1];
    answer.extend_from_slice(&node_id.to_be_bytes());
    answer.extend_from_slice(&[1, 0, 0, 0]);
    to.write_all(&answer)
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
    is_framed: bool,
    out: Vec<u8>,
    consuming: bool,
}

const ID: &[u8] = b"0195d3c8-5f2a-7abc-8def-0123456789ab";

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
        if let [first, second, a, b, c, d, body @ ..] = rest.get(..length)? {
            let id = [*a, *b, *c, *d];
            if self.is_framed {
                self.answer_framed(*first, id, body);
            } else {
                self.answer_preamble(*second, id, body);
            }
        }
        Some(4 + length)
    }

    fn put_head(&mut self, head: [u8; 2], id: [u8; 4], body_len: usize) {
        self.out.extend_from_slice(&((body_len + 6) as u32).to_be_bytes());
        self.out.extend_from_slice(&head);
        self.out.extend_from_slice(&id);
    }

    fn answer_preamble(&mut self, op: u8, id: [u8; 4], body: &[u8]) {
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
        self.put_head([0, op], id, body_len);
        match op {
            ENQUEUE => {
                self.out.extend_from_slice(&count.to_be_bytes());
                for _ in 0..count {
                    self.out.extend_from_slice(&[1, 0, 36]);
                    self.out.extend_from_slice(ID);
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

    /// docs/protocol/framed.md 3: enqueues, acks, nacks and pings; each answer's opcode is the next after the request's.
    fn answer_framed(&mut self, op: u8, id: [u8; 4], body: &[u8]) {
        let count = body.first_chunk::<4>().copied().unwrap_or_default();
        let items = u32::from_be_bytes(count) as usize;
        match op {
            0x10 => {
                self.put_head([op + 1, 0], id, 4 + items * 39);
                self.out.extend_from_slice(&count);
                for _ in 0..items {
                    self.out.extend_from_slice(&[0, 0, 36]);
                    self.out.extend_from_slice(ID);
                }
            }
            0x16 | 0x18 => {
                self.put_head([op + 1, 0], id, 4 + items);
                self.out.extend_from_slice(&count);
                self.out.resize(self.out.len() + items, 0);
            }
            0x03 => self.put_head([op + 1, 0], id, 0),
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
    use fibp_proto::{Dialect, Message, Request, Response};

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

    #[test]
    fn framed_answers_are_those_of_a_server() {
        let mut answers = Answers {
            is_framed: true,
            ..Answers::default()
        };
        let request = Request::Enqueue(vec![Message::new("q", "x"); 2]);
        let frame = request
            .encode(Dialect::Handshake, 1, Limits::default())
            .expect("a frame");
        assert_eq!(answers.answer(&frame), Some(frame.len()));
        let expected = Response::Enqueue(vec![Ok(message_id_of_all()); 2]);
        let expected = expected.encode(Dialect::Handshake, 1, Op::Enqueue).expect("a frame");
        assert_eq!(answers.out, expected);
    }

    fn message_id_of_all() -> fibp_proto::MessageId {
        "0195d3c8-5f2a-7abc-8def-0123456789ab".into()
    }
}
