//! What the adapters put on the wire is what the core says, byte for byte.

use fibp_proto::Request;
use fibp_proto::frame::{Decoder, Item, Layout, Limits};
use fila_conformance::broker::{FRAMED, P1, P3};
use fila_conformance::cases;
use fila_conformance::env::{self, PATIENCE};
use fila_conformance::golden;
use fila_conformance::script::{PREAMBLE, Scripted};

cases! {
    Peer;

    async fn the_bytes_sent_are_those_of_the_core(env: &Env) {
        for dialect in [P1, P3, FRAMED] {
            let server = Scripted::start(dialect, golden::play);
            let config = env::config(server.addr()).dialect(dialect).no_heartbeat();
            let golden = golden::transcript(&config, dialect);
            let client = env.connect(config).await.expect("a client");
            golden::perform(&*client).await;
            client.close(PATIENCE).await;
            drop(client);
            let sent = env.transcript(server).await;
            assert_eq!(sent.len(), golden.len(), "{dialect}: connections");
            for (number, (sent, golden)) in sent.iter().zip(&golden).enumerate() {
                let differs = sent.iter().zip(golden).position(|(a, b)| a != b);
                assert!(sent == golden, "{dialect}: connection {number} differs at byte {differs:?}: {} bytes, {} expected", sent.len(), golden.len());
            }
        }
    }
}

/// The golden transcript is what it is meant to be: the session's requests, in order.
#[test]
fn the_golden_transcript_holds_the_session() {
    let config = fibp_proto::config::Config::new("127.0.0.1:1")
        .dialect(P1)
        .no_heartbeat();
    let [requests, consumer] = golden::transcript(&config, P1).try_into().expect("two connections");
    let mut operations = Vec::new();
    for bytes in [&requests, &consumer] {
        let (opening, frames) = bytes.split_at(PREAMBLE.len());
        assert_eq!(opening, PREAMBLE);
        let mut decoder = Decoder::new(Layout::FlagsFirst, Limits::default());
        decoder.feed(frames);
        while let Some(Item::Frame(frame)) = decoder.next_item().expect("frames") {
            operations.push(Request::decode(P1, &frame).expect("a request").op());
        }
    }
    let mut expected = golden::expected_operations();
    expected.push(fibp_proto::request::Op::Consume);
    assert_eq!(operations, expected);
}
