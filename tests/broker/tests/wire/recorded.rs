//! Conversations recorded from real servers, held again with the broker: every answer is the same, byte for byte,
//! but for ids and keys.

use std::path::PathBuf;

use fila_test_broker::{AdminRevision, Broker, Dialect, ManualClock};
use serde_json::Value;

use crate::raw::{Raw, hex};

struct Vector {
    name: String,
    from_client: bool,
    bytes: Vec<u8>,
}

fn vectors(file: &str) -> Vec<Vector> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../vectors").join(file);
    let text = std::fs::read_to_string(&path).expect("a recording");
    let recorded: Value = serde_json::from_str(&text).expect("JSON");
    let text = |vector: &Value, key: &str| vector[key].as_str().expect("a text").to_owned();
    let vectors = recorded["vectors"].as_array().expect("a list").iter();
    let vectors = vectors.map(|vector| Vector {
        name: text(vector, "name"),
        from_client: text(vector, "direction") == "client",
        bytes: hex(&text(vector, "hex")),
    });
    vectors.collect()
}

/// Where UUIDs stand in a frame.
fn uuids(frame: &[u8]) -> Vec<usize> {
    let is_uuid = |text: &[u8]| {
        text.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
    };
    let mut found: Vec<usize> = Vec::new();
    for (at, text) in frame.windows(36).enumerate() {
        if is_uuid(text) && found.last().is_none_or(|last| at >= last + 36) {
            found.push(at);
        }
    }
    found
}

/// Overwrites runs of 32 hex digits: keys.
fn without_keys(frame: &[u8]) -> Vec<u8> {
    let mut masked = frame.to_vec();
    for at in 0..frame.len().saturating_sub(31) {
        if frame[at..at + 32].iter().all(u8::is_ascii_hexdigit) {
            masked[at..at + 32].fill(b'0');
        }
    }
    masked
}

/// What recorded ids are called here.
#[derive(Default)]
struct Names(Vec<(Vec<u8>, Vec<u8>)>);

impl Names {
    fn learn(&mut self, recorded: &[u8], here: &[u8]) {
        for at in uuids(recorded) {
            let (recorded, here) = (&recorded[at..at + 36], &here[at..at + 36]);
            if self.0.iter().all(|(known, _)| known != recorded) {
                self.0.push((recorded.to_vec(), here.to_vec()));
            }
        }
    }

    fn translate(&self, recorded: &[u8]) -> Vec<u8> {
        let mut here = recorded.to_vec();
        for at in uuids(recorded) {
            let place = &mut here[at..at + 36];
            if let Some((_, name)) = self.0.iter().find(|(known, _)| known == place) {
                place.copy_from_slice(name);
            }
        }
        here
    }
}

/// Replays a file. `created_ms` is when the API key in it was created; `is_push` tells pushes, whose batching
/// depends on timing, and gives what comes before their first message.
fn replay(file: &str, dialect: Dialect, created_ms: u64, is_push: impl Fn(&[u8]) -> Option<usize>) {
    let vectors = vectors(file);
    assert!(vectors.len() > 60, "{} recordings", vectors.len());
    let broker = Broker::builder()
        .dialect(dialect)
        .manual_clock(ManualClock::new())
        .wall_clock_ms(created_ms)
        .start()
        .expect("loopback is there");
    let mut names = Names::default();
    let (mut recorded_pushes, mut pushes) = (Vec::new(), Vec::new());
    let mut raw = Raw::connect(broker.addr());
    for vector in &vectors {
        let opens = vector.name.starts_with("handshake") || vector.name.starts_with("request before");
        if vector.from_client {
            if opens {
                raw = Raw::connect(broker.addr());
            }
            raw.send(&names.translate(&vector.bytes));
            continue;
        }
        if let Some(head) = is_push(&vector.bytes) {
            recorded_pushes.extend(names.translate(&vector.bytes)[head..].to_vec());
            // What it redelivers is settled next: wait for it.
            while pushes.len() < recorded_pushes.len() {
                let frame = raw.frame();
                let head = is_push(&frame).expect("a push");
                pushes.extend_from_slice(&frame[head..]);
            }
            continue;
        }
        let answer = loop {
            let frame = match vector.bytes.len() {
                // The echo of the preamble.
                6 => raw.receive(6),
                _ => raw.frame(),
            };
            match is_push(&frame) {
                Some(head) => pushes.extend_from_slice(&frame[head..]),
                None => break frame,
            }
        };
        if vector.name.starts_with("create queue with bad script") {
            // Refused with the same code; the words are Lua's.
            assert_eq!(answer[4..11], vector.bytes[4..11]);
            continue;
        }
        assert_eq!(answer.len(), vector.bytes.len(), "{}: {answer:02x?}", vector.name);
        names.learn(&vector.bytes, &answer);
        let expected = without_keys(&names.translate(&vector.bytes));
        assert_eq!(without_keys(&answer), expected, "{}", vector.name);
    }
    assert_eq!(pushes, recorded_pushes);
}

fn preamble_push(frame: &[u8]) -> Option<usize> {
    (frame.len() > 12 && frame[4..6] == [4, 2]).then_some(12)
}

#[test]
fn preamble_p1() {
    let dialect = Dialect::Preamble(AdminRevision::Protobuf);
    replay("preamble-protobuf.json", dialect, 1_795_348_119_335, preamble_push);
}

#[test]
fn preamble_p3() {
    let dialect = Dialect::Preamble(AdminRevision::Binary);
    replay("preamble-binary.json", dialect, 1_795_349_151_087, preamble_push);
}

#[test]
fn framed() {
    let is_delivery = |frame: &[u8]| (frame.len() > 14 && frame[4..6] == [0x14, 0]).then_some(14);
    replay("framed.json", Dialect::Handshake, 1_795_348_933_307, is_delivery);
}
