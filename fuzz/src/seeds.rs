//! The inputs that fuzzing starts from: golden frames of docs/protocol/, with the decisions that a target reads before them.

use fibp_proto::frame::Limits;
use fibp_proto::{AdminRevision, Dialect, Headers, Push, Received};

/// A server's side of a preamble conversation (docs/protocol/preamble.md 1.1, 1.5 to 1.11): the echo, and answers to what a
/// machine of [`client_connection`](crate::client_connection) asks.
const PREAMBLE_ANSWERS: &[&str] = &[
    "46 49 42 50 01 00",
    // The admin probe is refused as P1 does.
    "00 00 00 24 00 fe 00 00 00 01 'operation 0x14 not implemented'",
    "00 00 00 06 00 21 00 00 00 02",
    "00 00 00 2f 00 01 00 00 00 03 00 01 01 00 24 '0195d3c8-5f2a-7abc-8def-0123456789ab'",
    "00 00 00 13 00 01 00 00 00 04 00 01 00 00 01 00 06 'orders'",
    "00 00 00 09 00 03 00 00 00 05 00 01 01",
    "00 00 00 1f 00 fe 00 00 00 06 'leader_hint:10.0.0.2:5555'",
    "00 00 00 0e 00 10 00 00 00 07 0a 06 'orders'",
];

/// A preamble server's refusal of a key, and of the whole connection.
const PREAMBLE_REFUSALS: &[&str] = &[
    "46 49 42 50 01 00",
    "00 00 00 20 00 fe 00 00 00 01 'invalid or missing api key'",
    "00 00 00 13 00 ff 00 00 00 00 'invalid magic'",
];

/// A consumer's confirmation and a push (docs/protocol/preamble.md 1.6, 1.7).
const PREAMBLE_PUSHES: &[&str] = &[
    "46 49 42 50 01 00",
    "00 00 00 06 00 02 00 00 00 01",
    "00 00 00 53 04 02 00 00 00 00 00 01 00 24 '0195d3c8-5f2a-7abc-8def-0123456789ab' 00 07 'default' 00 00 00 00",
    "01 00 06 'tenant' 00 04 'acme' 00 00 00 05 'hello'",
];

/// A framed server's side (docs/protocol/framed.md 2 to 4).
const FRAMED_ANSWERS: &[&str] = &[
    "00 00 00 14 02 00 00 00 00 00 00 01 00 00 00 00 00 00 00 00 01 00 00 00",
    "00 00 00 06 04 00 00 00 00 01",
    "00 00 00 0a 17 00 00 00 00 02 00 00 00 00",
    "00 00 00 44 fe 00 00 00 00 02 0c 00 1d 'not the leader for this queue' 00 01 00 0b 'leader_addr' 00 0d '10.0.0.2:5555'",
    "00 00 00 06 03 00 00 00 00 09",
];

/// A preamble client's side (docs/protocol/preamble.md 1.1 to 1.9).
const PREAMBLE_REQUESTS: &[&str] = &[
    "46 49 42 50 01 00",
    "00 00 00 0e 00 30 00 00 00 01 'test-key'",
    "00 00 00 28 00 01 00 00 00 02 00 06 'orders' 00 01 01 00 06 'tenant' 00 04 'acme' 00 00 00 05 'hello'",
    "00 00 00 12 00 02 00 00 00 03 00 06 'orders' 00 00 01 00",
    "00 00 00 36 00 03 00 00 00 04 00 01 00 06 'orders' 00 24 '0195d3c8-5f2a-7abc-8def-0123456789ab'",
    "00 00 00 0a 00 20 00 00 00 00 00 00 00 40",
    "00 00 00 06 00 14 00 00 00 01",
    "00 00 00 06 00 21 00 00 00 07",
    "00 00 00 06 00 ff 00 00 00 00",
];

/// A framed client's side (docs/protocol/framed.md 2 and 3).
const FRAMED_REQUESTS: &[&str] = &[
    "00 00 00 09 01 00 00 00 00 00 00 01 00",
    "00 00 00 0a 16 00 00 00 00 04 00 00 00 00",
    "00 00 00 06 03 00 00 00 00 05",
    "00 00 00 0e 12 00 00 00 00 06 00 06 'orders'",
    "00 00 00 06 15 00 00 00 00 06",
    "00 00 00 06 05 00 00 00 00 07",
];

/// Texts of people and servers.
const TEXTS: &[(&str, &str)] = &[
    ("dialect", "preamble-p2"),
    ("dialect-name", "preamble-protobuf-renumbered"),
    ("dialect-early", "handshake-early"),
    ("endpoint", "[fe80::1%eth0]:5555"),
    ("hint", "0.0.0.0:5701"),
    (
        "url",
        "fila+tls://key%2F@a.test:1,[::1]:2?dialect=framed&request_timeout=5s&max_in_flight=10,1MiB&linger=2ms",
    ),
];

/// The frames of tests/vectors, which real servers and clients sent.
const RECORDED: [(&str, &str); 4] = [
    ("p1", include_str!("../../tests/vectors/preamble-protobuf.json")),
    ("p3", include_str!("../../tests/vectors/preamble-binary.json")),
    ("framed", include_str!("../../tests/vectors/framed.json")),
    ("cluster", include_str!("../../tests/vectors/cluster.json")),
];

/// First bytes of servers, of this protocol and not (docs/protocol/revisions.md, "First bytes").
const GREETINGS: &[(&str, &str)] = &[
    ("alert", "15 03 03 00 02 02 32"),
    ("tls", "16 03 01 00 02 01"),
    ("http2", "00 00 12 04 00 00 00 00 00 00"),
    ("http1", "'HTTP/1.1 400 Bad Request'"),
    ("preamble-2", "46 49 42 50 02 00"),
    ("preamble", "46 49 42 50 01 00"),
    ("goaway", "00 00 00 13 00 ff 00 00 00 00 'invalid magic'"),
    ("goaway-in-part", "00 00 00 13 00 ff 00 00 00 00 'inv'"),
    (
        "handshake-2",
        "00 00 00 14 02 00 00 00 00 00 00 02 00 00 00 00 00 00 00 00 01 00 00 00",
    ),
    ("handshake-torn", "00 00 00 08 02 00 00 00 00 00 00 01"),
    ("handshake-in-part", "00 00 00 14 02 00 00"),
    (
        "refused",
        "00 00 00 1b fe 00 00 00 00 00 0a 00 10 'API key required' 00 00",
    ),
    ("refused-torn", "00 00 00 08 fe 00 00 00 00 00 0a 00"),
    ("too-short", "00 00 00 05 ff ff ff ff ff"),
    ("too-long", "7f ff ff ff 02 00 00 00 00 00"),
    ("other-frame", "00 00 00 06 03 00 00 00 00 01"),
];

/// What the revisions of the preamble dialect answer to the admin probe, and what none does.
const PROBED: &[(&str, &str)] = &[
    ("p1", "unknown operation 0x14"),
    ("p2", "invalid payload: dlq_queue name must not be empty"),
    (
        "p3",
        "wire decode error: invalid payload: unexpected end of payload reading u16",
    ),
    ("forbidden", "permission denied"),
    ("other", "what is this"),
];

/// Handshakes of clients that servers refuse.
const HANDSHAKES: &[(&str, &str)] = &[
    ("handshake-2", "00 00 00 09 01 00 00 00 00 00 00 02 00"),
    ("handshake-torn", "00 00 00 07 01 00 00 00 00 00 00"),
    ("no-handshake", "00 00 00 06 03 00 00 00 00 01"),
];

/// The first bytes of clients of other protocols.
const STRANGERS: &[(&str, &str)] = &[
    ("tls", "16 03 01 02 00 01 00 01 fc 03 03"),
    ("http2", "'PRI * HTTP/2.0'"),
];

/// What makes a client of a framed server think again: numbers that only F1 has, a queue that is not there. Each is said of
/// every request that the machine may have made.
fn framed_second_thoughts(seeds: &mut Vec<Seed>) {
    let refusal = |code: u8, text: &str| {
        let refusals = (1..=14).map(|id| {
            let length = 6 + 5 + text.len();
            let head = [0, 0, 0, length.to_le_bytes()[0], 0xfe, 0, 0, 0, 0, id, code, 0];
            [&head[..], &[text.len().to_le_bytes()[0]], text.as_bytes(), &[0, 0]].concat()
        });
        refusals.collect::<Vec<_>>().concat()
    };
    let consumed = (1..=3).map(|id| [0, 0, 0, 8, 0x19, 0, 0, 0, 0, id, 0, 0]);
    let opening = bytes(&FRAMED_ANSWERS[..1]);
    for (name, decisions, answers) in [
        (
            "f1-ack",
            &[2, 200][..],
            refusal(0x0d, "unknown or unsupported opcode: 0x16"),
        ),
        ("f1-consume", &[3, 200], consumed.collect::<Vec<_>>().concat()),
        ("queue-not-found", &[0, 3, 200], refusal(1, "queue not found: queue")),
    ] {
        let conversation = [&opening[..], &answers].concat();
        seeds.push(("client_connection", name.to_owned(), with(decisions, &conversation)));
    }
}

/// More deliveries than a read buffer holds, several in one read, and some that fill more than half of it.
fn many_deliveries() -> Vec<u8> {
    let opening = bytes(&PREAMBLE_PUSHES[..2]);
    let small = bytes(&PREAMBLE_PUSHES[2..]).repeat(4);
    let push = |size| {
        let delivery = Received::new("id".into(), "queue", Headers::new(), vec![7; size], "default", 0);
        let frame = Push::from(delivery).encode(Dialect::Preamble(AdminRevision::Protobuf), 1, Limits::default());
        frame.expect("fits").to_vec()
    };
    [opening, small, push(900).repeat(16), push(8200).repeat(2)].concat()
}

/// How servers greet and are greeted, and bodies that end too early for whatever opcode there is.
fn openings_and_torn_bodies(frame_decode: &[u8], server: &[u8], seeds: &mut Vec<Seed>) {
    for (name, greeting) in GREETINGS {
        for (machine, decisions) in [("p1", [0, 0, 200]), ("framed", [0, 3, 200])] {
            let name = format!("greeting-{machine}-{name}");
            seeds.push(("client_connection", name, with(&decisions, &bytes(&[greeting]))));
        }
    }
    for (name, text) in PROBED {
        let length = u32::try_from(6 + text.len()).unwrap_or_default().to_be_bytes();
        let refusals = (1..=3).map(|id| [&length[..], &[0, 0xfe, 0, 0, 0, id], text.as_bytes()].concat());
        // The machine's dialect is to be found out, and it asks for admin operations once the preamble is read.
        let conversation = [&b"FIBP\x01\0"[..], &refusals.collect::<Vec<_>>().concat()].concat();
        seeds.push((
            "client_connection",
            format!("probed-{name}"),
            with(&[2, 5], &conversation),
        ));
    }
    // A framed server says goodbye, with a word that today's do not say.
    let goodbye = bytes(&[FRAMED_ANSWERS[0], "00 00 00 09 05 00 00 00 00 00 'bye'"]);
    seeds.push((
        "client_connection",
        "goodbye-framed".to_owned(),
        with(&[0, 3, 200], &goodbye),
    ));
    framed_second_thoughts(seeds);
    seeds.push((
        "client_connection",
        "many-deliveries".to_owned(),
        with(&[0xf1, 0, 254], &many_deliveries()),
    ));
    for (name, opening) in HANDSHAKES.iter().chain(STRANGERS) {
        let name = format!("opening-{name}");
        seeds.push(("server_connection", name, with(server, &bytes(&[opening]))));
    }
    for (name, layout) in [("preamble", [1, 0]), ("framed", [0, 1])] {
        let torn: Vec<u8> = (0..=0xff)
            .flat_map(|opcode| {
                let bytes = layout.map(|nth| if nth == 0 { opcode } else { 0 });
                [0, 0, 0, 7, bytes[0], bytes[1], 0, 0, 0, 1, 0xff]
            })
            .collect();
        seeds.push(("frame_decode", format!("torn-{name}"), with(frame_decode, &torn)));
        // Framed error codes without a text.
        let codes: Vec<u8> = (0..=0xff)
            .flat_map(|code| {
                let bytes = layout.map(|nth| if nth == 0 { 0xfe } else { 0 });
                [0, 0, 0, 11, bytes[0], bytes[1], 0, 0, 0, 1, code, 0, 0, 0, 0]
            })
            .collect();
        seeds.push(("frame_decode", format!("codes-{name}"), with(frame_decode, &codes)));
        // Shorter than a header.
        let short = [0, 0, 0, 5, layout[0], layout[1], 0, 0, 1];
        seeds.push(("frame_decode", format!("short-{name}"), with(frame_decode, &short)));
    }
}

/// How many frames go into a seed.
const FRAMES: usize = 12;

/// Seeds of all recorded frames.
fn recorded(frame_decode: &[u8], server: &[u8], seeds: &mut Vec<Seed>) {
    for (file, text) in RECORDED {
        let recording: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let frames = |direction: &str| -> Vec<Vec<u8>> {
            let vectors = recording["vectors"].as_array().expect("a list");
            let of = vectors.iter().filter(|vector| vector["direction"] == direction);
            of.map(|vector| bytes(&[&pairs(vector["hex"].as_str().expect("hex"))]))
                .collect()
        };
        let all = [frames("client"), frames("server")].concat();
        // The preamble is no frame.
        let whole: Vec<Vec<u8>> = all.into_iter().filter(|frame| !frame.starts_with(b"FIBP")).collect();
        for (at, some) in whole.chunks(FRAMES).enumerate() {
            let name = format!("recorded-{file}-{at:02}");
            seeds.push(("frame_decode", name, with(frame_decode, &some.concat())));
        }
        let opening: &[u8] = match file {
            "framed" => b"",
            _ => b"FIBP\x01\0",
        };
        let is_opening = |frame: &&Vec<u8>| frame.starts_with(b"FIBP") || frame.get(4) == Some(&2);
        // P1 and P3 differ in the first decision.
        let mut server = server.to_vec();
        server[0] = if file == "p3" { 2 } else { 0 };
        for (at, some) in frames("client").chunks(2 * FRAMES).enumerate() {
            let requests: Vec<u8> = some
                .iter()
                .filter(|frame| !is_opening(frame))
                .flatten()
                .copied()
                .collect();
            let open = if file == "framed" && at > 0 {
                bytes(&FRAMED_REQUESTS[..1])
            } else {
                opening.to_vec()
            };
            let name = format!("recorded-{file}-{at:02}");
            seeds.push(("server_connection", name, [server.clone(), open, requests].concat()));
        }
    }
}

/// Hex digits in pairs.
fn pairs(hex: &str) -> String {
    let digits: Vec<char> = hex.chars().collect();
    digits
        .chunks(2)
        .map(|pair| pair.iter().collect::<String>() + " ")
        .collect()
}

/// A seed: its target, its name, its bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// All seeds.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let conversations: [(&str, Vec<u8>); 6] = [
        ("preamble-answers", bytes(PREAMBLE_ANSWERS)),
        ("preamble-refusals", bytes(PREAMBLE_REFUSALS)),
        ("preamble-pushes", bytes(PREAMBLE_PUSHES)),
        ("framed-answers", bytes(FRAMED_ANSWERS)),
        ("preamble-requests", bytes(PREAMBLE_REQUESTS)),
        ("framed-requests", bytes(FRAMED_REQUESTS)),
    ];
    // Decisions: a frame limit of 65 542 bytes, skipping, portions of 64.
    let frame_decode = [0, 1, 0, 0, 1, 63];
    // P1, large portions, reading; eight decisions about answers.
    let server = [0, 200, 1, 8, 1, 1, 1, 1, 0, 1, 0, 1];
    // The first two bytes choose what the machine is for and its dialect; the last the portions.
    let machines: [(&str, &[u8]); 4] = [
        ("requests-p1", &[0, 0, 200]),
        ("requests-framed", &[0, 3, 200]),
        ("requests-auto", &[2, 7]),
        ("consumer-p1", &[0x51, 0, 20]),
    ];
    let mut seeds = Vec::new();
    for (name, conversation) in &conversations {
        // Frames without what opens a connection.
        let frames = conversation.get(6..).filter(|_| conversation.starts_with(b"FIBP"));
        seeds.push((
            "frame_decode",
            (*name).to_owned(),
            with(&frame_decode, frames.unwrap_or(conversation)),
        ));
        if name.ends_with("requests") {
            seeds.push(("server_connection", (*name).to_owned(), with(&server, conversation)));
            seeds.push(("chunking", (*name).to_owned(), with(&[0, 0, 3, 0, 4, 9], conversation)));
            continue;
        }
        let framed = name.starts_with("framed");
        for (machine, decisions) in machines {
            if machine.ends_with("auto") || machine.ends_with("framed") == framed {
                let name = format!("{machine}-{name}");
                seeds.push(("client_connection", name, with(decisions, conversation)));
            }
        }
        let choice: &[u8] = if framed {
            &[0, 3, 1, 2, 40]
        } else {
            &[0x51, 0, 1, 2, 40]
        };
        seeds.push(("chunking", (*name).to_owned(), with(choice, conversation)));
    }
    // Structured inputs follow from any bytes.
    let counting: Vec<u8> = (0..=255).collect();
    let stretched: Vec<u8> = counting.iter().map(|n| n.wrapping_mul(37)).collect();
    for target in [
        "roundtrip",
        "framing",
        "continuation",
        "conversation",
        "observer",
        "pem",
        "tls_pipe",
    ] {
        seeds.push((target, "counting".to_owned(), counting.clone()));
        seeds.push((target, "stretched".to_owned(), stretched.clone()));
    }
    for (name, text) in TEXTS {
        seeds.push(("texts", (*name).to_owned(), with(&[3], text.as_bytes())));
    }
    // More items than the rest of the body can be: grants of a key, in P3.
    let many = bytes(&["00 00 00 0b 00 34 00 00 00 01 00 01 'k' ff ff"]);
    seeds.push(("frame_decode", "too-many".to_owned(), with(&frame_decode, &many)));
    seeds.push((
        "frame_decode",
        "throttled".to_owned(),
        with(&frame_decode, &throttled()),
    ));
    recorded(&frame_decode, &server, &mut seeds);
    openings_and_torn_bodies(&frame_decode, &server, &mut seeds);
    let opening = [2, 3, 1, 200, 200, 200, 7, 200, 3, 0, 2, 1, 2, 0];
    let busy = [
        2, 20, 1, 1, 3, 7, 1, 20, 0, 9, 7, 2, 8, 1, 17, 31, 0, 20, 6, 0, 7, 3, 10, 11, 0, 12, 13, 4, 33,
    ];
    seeds.push(("machine_ops", "requests".to_owned(), with(&opening, &busy.repeat(4))));
    seeds.push(("machine_ops", "counting".to_owned(), counting));
    let consumer = [
        0, 3, 1, 10, 0, 2, 9, 7, 1, 34, 9, 35, 7, 3, 34, 2, 17, 14, 2, 7, 36, 37, 2,
    ];
    // A framed server refers an enqueue to another node, which answers it, and the next one; then that channel ends.
    let opening = [1, 3, 1, 200, 200, 200, 7, 200, 5, 1, 0, 1, 2, 0];
    let enqueue = [20, 0, 1, 0, 0, 1, b'q', 0];
    let confirmed = [0, 0, 1, 1, 1, b'x', 0];
    let nodes = [
        &opening[..],
        &[2, 7, 3, 0, 0, 0, 0],
        &enqueue,
        &[7, 3, 9, 1, 0, 0, 0, 0, 2],
        &[7, 1, 3, 0],
        &confirmed,
        &[0, 0],
        &enqueue,
        &[7, 1, 0],
        &confirmed,
        &enqueue,
        &[14, 1, 2, 17],
        &enqueue,
        &[33, 1, 1, 2, 17, 37, 0, 50, 17],
    ];
    seeds.push(("machine_ops", "nodes".to_owned(), nodes.concat()));
    // Nothing happens for so long that heartbeats are sent, and answered.
    let quiet = [
        &opening[..],
        &[2, 7, 3, 0, 0, 0, 0, 0],
        &[17, 17, 17, 7, 3, 0, 0, 0, 0, 0, 17, 17, 7, 3],
    ];
    seeds.push(("machine_ops", "quiet".to_owned(), quiet.concat()));
    seeds.push(("machine_ops", "consumer".to_owned(), with(&[3], &consumer.repeat(3))));
    seeds
}

/// A framed delivery with throttle keys.
fn throttled() -> Vec<u8> {
    let mut delivery = Received::new("id".into(), "orders", Headers::new(), "hello", "default", 0);
    delivery.throttle_keys = Some(vec!["tenant".to_owned(), String::new()]);
    let frame = Push::from(delivery).encode(Dialect::Handshake, 1, Limits::default());
    frame.expect("fits").to_vec()
}

fn with(decisions: &[u8], conversation: &[u8]) -> Vec<u8> {
    [decisions, conversation].concat()
}

/// Bytes from hex digits; words in single quotes stand for their ASCII bytes.
fn bytes(frames: &[&str]) -> Vec<u8> {
    let mut all = Vec::new();
    for (at, part) in frames.join(" ").split('\'').enumerate() {
        if at % 2 == 1 {
            all.extend_from_slice(part.as_bytes());
            continue;
        }
        for byte in part.split_whitespace() {
            all.push(u8::from_str_radix(byte, 16).expect("hex digits"));
        }
    }
    all
}
