//! A client that knows nothing but bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use fila_test_broker::Broker;

/// Long enough for a loaded machine; reached only when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    next_id: u32,
}

impl Raw {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("broker listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout is valid");
        stream.set_nodelay(true).expect("socket is open");
        Self { stream, next_id: 0 }
    }

    /// A connection that has opened in the preamble dialect.
    pub(crate) fn preamble(broker: &Broker) -> Self {
        let mut raw = Self::connect(broker.addr());
        raw.send(&hex("464942500100"));
        assert_eq!(raw.receive(6), hex("464942500100"));
        raw
    }

    /// A connection that has opened in the framed dialect.
    pub(crate) fn framed(broker: &Broker) -> Self {
        let mut raw = Self::connect(broker.addr());
        raw.send(&hex("00000009 01 00 00000000 0001 00"));
        assert_eq!(
            raw.frame(),
            hex("00000014 02 00 00000000 0001 0000000000000000 01000000")
        );
        raw
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("broker reads");
    }

    /// Sends a preamble frame and returns its id.
    pub(crate) fn request(&mut self, opcode: u8, body: &[u8]) -> u32 {
        self.next_id += 1;
        let frame = frame([0, opcode], self.next_id, body);
        self.send(&frame);
        self.next_id
    }

    /// Sends a preamble frame and returns opcode and body of its answer.
    pub(crate) fn call(&mut self, opcode: u8, body: &[u8]) -> (u8, Vec<u8>) {
        let id = self.request(opcode, body);
        let answer = self.frame();
        assert_eq!(answer[6..10], id.to_be_bytes(), "id of {answer:02x?}");
        (answer[5], answer[10..].to_vec())
    }

    /// Sends a preamble frame that is refused and returns the text.
    pub(crate) fn refused(&mut self, opcode: u8, body: &[u8]) -> String {
        let (opcode, body) = self.call(opcode, body);
        assert_eq!(opcode, 0xfe, "{}", String::from_utf8_lossy(&body));
        String::from_utf8(body).expect("texts are UTF-8")
    }

    /// Sends a framed frame and returns opcode and body of its answer.
    pub(crate) fn call_framed(&mut self, opcode: u8, body: &[u8]) -> (u8, Vec<u8>) {
        self.next_id += 1;
        let request = frame([opcode, 0], self.next_id, body);
        self.send(&request);
        let answer = self.frame();
        assert_eq!(answer[6..10], self.next_id.to_be_bytes(), "id of {answer:02x?}");
        (answer[4], answer[10..].to_vec())
    }

    pub(crate) fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("broker answers");
        bytes
    }

    /// The next frame, length prefix included.
    pub(crate) fn frame(&mut self) -> Vec<u8> {
        let mut frame = self.receive(4);
        let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        frame.extend(self.receive(length as usize));
        frame
    }

    /// Asserts that the broker closes without another byte.
    pub(crate) fn closed(&mut self) {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => {}
            Ok(_) => panic!("unexpected byte {byte:02x?}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
    }

    /// Asserts that nothing is on its way that was caused by earlier requests: a heartbeat's answer comes next.
    pub(crate) fn silent_preamble(&mut self) {
        assert_eq!(self.call(0x21, &[]), (0x21, Vec::new()));
    }

    pub(crate) fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("socket is open");
    }
}

pub(crate) fn frame(head: [u8; 2], id: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(6 + body.len()).expect("small");
    [&length.to_be_bytes()[..], &head, &id.to_be_bytes(), body].concat()
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|char| char.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).expect("two digits"))
        .collect()
}

pub(crate) fn str16(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).expect("short");
    [&len.to_be_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn bytes32(payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("short");
    [&len.to_be_bytes()[..], payload].concat()
}

/// The body of a preamble enqueue of messages without headers.
pub(crate) fn enqueue(queue: &str, payloads: &[&[u8]]) -> Vec<u8> {
    let mut body = str16(queue);
    body.extend(u16::try_from(payloads.len()).expect("few").to_be_bytes());
    for payload in payloads {
        body.push(0);
        body.extend(bytes32(payload));
    }
    body
}

/// The body of a preamble consume.
pub(crate) fn consume(queue: &str, credit: u32) -> Vec<u8> {
    [str16(queue), credit.to_be_bytes().to_vec()].concat()
}

/// The body of a preamble ack of one message; with an error, of a nack.
pub(crate) fn settle(queue: &str, id: &str, error: Option<&str>) -> Vec<u8> {
    let mut body = [vec![0, 1], str16(queue), str16(id)].concat();
    body.extend(error.map(str16).unwrap_or_default());
    body
}

/// Ids and attempt counts of a preamble push of messages under the default key without headers.
pub(crate) fn push(frame: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    assert_eq!(frame[4..10], [4, 2, 0, 0, 0, 0], "head of a push: {frame:02x?}");
    let mut rest = &frame[10..];
    let mut take = |n: usize| {
        let (taken, after) = rest.split_at(n);
        rest = after;
        taken.to_vec()
    };
    let count = u16::from_be_bytes(take(2).try_into().expect("two bytes"));
    let messages = (0..count)
        .map(|_| {
            assert_eq!(take(2), [0, 36]);
            let id = String::from_utf8(take(36)).expect("ids are text");
            assert_eq!(take(9), str16("default"));
            let attempts = u32::from_be_bytes(take(4).try_into().expect("four bytes"));
            assert_eq!(take(1), [0]);
            let len = u32::from_be_bytes(take(4).try_into().expect("four bytes"));
            (id, attempts, take(len as usize))
        })
        .collect();
    assert!(rest.is_empty(), "trailing bytes {rest:02x?}");
    messages
}
