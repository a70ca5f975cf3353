//! The tools among the examples, each run as a program.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "programs are run here"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use fibp_proto::frame::{Limits, Transmit};
use fibp_proto::{AdminRevision, ClientConfig, ClientConnection, ClientEvent, Dialect, Message, Op, Request, Response};

const P1: Dialect = Dialect::Preamble(AdminRevision::Protobuf);

/// The program of an example. `cargo test` builds them before it runs this; with `--test tools` alone, those that are there
/// are taken as they are.
fn tool(name: &str) -> Command {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let test = std::env::current_exe().expect("a program");
        let target = test.parent().and_then(|deps| deps.parent()).expect("a target folder");
        let folder = target.join("examples");
        let names = ["fibp-dump", "fibp-tap", "miniq", "run_loop"];
        if names.iter().any(|name| !folder.join(name).exists()) {
            let build = ["build", "-q", "-p", "fibp-proto", "--examples"];
            let built = Command::new(env!("CARGO")).args(build).status();
            assert!(built.expect("cargo runs").success());
        }
        folder
    });
    Command::new(folder.join(name))
}

/// A program that listens, and is ended with the test.
struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    addr: String,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        let addr = line
            .trim()
            .strip_prefix("listening on ")
            .expect("an address")
            .to_owned();
        Self { child, out, addr }
    }

    /// Reads lines until one contains `text`.
    fn lines_until(&mut self, text: &str) -> String {
        let mut all = String::new();
        while !all.lines().last().is_some_and(|line| line.contains(text)) {
            assert!(
                self.out.read_line(&mut all).expect("text") > 0,
                "no \"{text}\" in {all}"
            );
        }
        all
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn miniq() -> Server {
    Server::start(tool("miniq").arg("127.0.0.1:0"))
}

fn tap(server: &Server) -> Server {
    Server::start(tool("fibp-tap").arg(&server.addr))
}

/// A client over a blocking socket.
struct Client {
    socket: TcpStream,
    connection: ClientConnection,
}

impl Client {
    fn open(addr: &str, dialect: Dialect) -> Self {
        let mut config = ClientConfig::new(dialect);
        config.key = Some("hunter2".into());
        let mut client = Self {
            socket: TcpStream::connect(addr).expect("it listens"),
            connection: ClientConnection::new(config).expect("a dialect"),
        };
        assert!(matches!(client.event(), ClientEvent::Opened));
        client
    }

    fn event(&mut self) -> ClientEvent {
        loop {
            if let Some(event) = self.connection.poll_event() {
                return event;
            }
            let mut transmit = Transmit::new();
            while self.connection.take_transmit(&mut transmit) {
                while !transmit.is_empty() {
                    let n = transmit.write_to(&mut self.socket).expect("it reads");
                    self.connection.transmitted(&mut transmit, n);
                }
            }
            let mut buffer = self.connection.take_read_buffer().expect("open");
            let read = buffer.read_from(&mut self.socket).expect("it writes");
            self.connection.handle_input(Instant::now(), buffer);
            if read == Some(0) {
                self.connection.handle_eof();
            }
        }
    }

    fn ask(&mut self, request: &Request) -> Response {
        let asked = self.connection.request(request, None).expect("open");
        match self.event() {
            ClientEvent::Answer { id, response } if id == asked => response.expect("no refusal"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_queue_server_of_one_file_keeps_messages_and_leases() {
    let server = miniq();
    for dialect in [P1, Dialect::Handshake] {
        let queue = format!("orders-{dialect}");
        let mut client = Client::open(&server.addr, dialect);
        client.ask(&Request::CreateQueue(queue.as_str().into()));
        let messages = ["1", "2"].map(|text| Message::new(queue.as_str(), text).header("k", "v"));
        let stored = client.ask(&Request::Enqueue(messages.into()));
        assert!(matches!(stored, Response::Enqueue(ids) if ids.len() == 2));

        let consume = Request::Consume {
            queue: queue.as_str().into(),
            credit: 1,
        };
        // A consumer that leaves without an ack gives back what it was leased.
        for attempt in 0..2 {
            let mut consumer = Client::open(&server.addr, dialect);
            consumer.ask(&consume);
            match consumer.event() {
                ClientEvent::Push(push) => {
                    let delivery = &push.deliveries[0];
                    assert_eq!(&*delivery.queue, queue);
                    assert_eq!(delivery.headers.get("k"), Some("v"));
                    if attempt == 1 && dialect == P1 {
                        let ack = fibp_proto::request::AckItem {
                            queue: queue.as_str().into(),
                            id: delivery.id.clone(),
                        };
                        let acked = consumer.ask(&Request::Ack(vec![ack]));
                        assert_eq!(acked, Response::Ack(vec![Ok(())]));
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        match client.ask(&Request::ListQueues) {
            Response::ListQueues(list) => assert!(list.queues.iter().any(|found| found.name == queue)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_loop_over_std_net_and_a_tap_that_changes_nothing() {
    let server = miniq();
    let mut tap = tap(&server);
    let mut client = Client::open(&tap.addr, Dialect::Handshake);
    client.ask(&Request::CreateQueue("orders".into()));
    let sent = tool("run_loop")
        .args([&*tap.addr, "orders", "hello"])
        .output()
        .expect("it runs");
    assert!(sent.status.success(), "{sent:?}");
    let id = String::from_utf8(sent.stdout).expect("text").trim().to_owned();
    match client.ask(&Request::QueueStats { queue: "orders".into() }) {
        Response::QueueStats(stats) => assert_eq!(stats.depth, 1),
        other => panic!("{other:?}"),
    }
    client.ask(&Request::Consume {
        queue: "orders".into(),
        credit: 10,
    });
    match client.event() {
        ClientEvent::Push(push) => {
            assert_eq!(push.deliveries[0].id.as_str(), id);
            assert_eq!(&push.deliveries[0].payload[..], b"hello");
        }
        other => panic!("{other:?}"),
    }
    let seen = tap.lines_until(" push ");
    for text in [
        "handshake version 1 with an API key (redacted)",
        "preamble FIBP 1.0",
        "CreateQueue \"orders\"",
        "Enqueue: 1 ok",
    ] {
        assert!(seen.contains(text), "no {text} in {seen}");
    }
    assert!(!seen.contains("hunter2") && !seen.contains("hello"), "{seen}");

    // The server has nowhere to go: the loop says so.
    drop(server);
    let failed = tool("run_loop")
        .args(["127.0.0.1:1", "orders", "hello"])
        .output()
        .expect("it runs");
    assert!(!failed.status.success());
    assert!(!failed.stderr.is_empty());
}

#[test]
fn what_is_not_fibp_is_named_and_passed_on() {
    let server = miniq();
    let mut tap = tap(&server);
    let mut socket = TcpStream::connect(&tap.addr).expect("it listens");
    socket
        .write_all(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03")
        .expect("it reads");
    let seen = tap.lines_until("not-fibp");
    assert!(seen.contains("TLS ClientHello"), "{seen}");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("an end");
    assert_eq!(answer, b"", "a server of the framed dialect closes without a frame");
}

/// A packet of TCP over IPv4, without checksums.
fn packet(from_client: bool, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (source, target) = if from_client {
        (40_000_u16, 5555_u16)
    } else {
        (5555, 40_000)
    };
    let total = u16::try_from(40 + payload.len()).expect("small");
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
    packet.extend_from_slice(&source.to_be_bytes());
    packet.extend_from_slice(&target.to_be_bytes());
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    packet.extend_from_slice(payload);
    packet
}

const SYN: u8 = 2;
const PSH_ACK: u8 = 0x18;

/// Packets of a conversation: out of order, repeated, and with one missing.
fn packets() -> Vec<Vec<u8>> {
    let request = |id, request: Request| request.encode(P1, id, Limits::default()).expect("fits").to_vec();
    let response = |id, op, response: Response| response.encode(P1, id, op).expect("fits").to_vec();
    let auth = request(1, Request::Authenticate("hunter2".into()));
    let lost = request(2, Request::Enqueue(vec![Message::new("orders", vec![7; 3000])]));
    let beat = request(3, Request::Heartbeat);
    let opening = [&b"FIBP\x01\0"[..], &auth].concat();
    let answers = [
        &b"FIBP\x01\0"[..],
        &response(1, Op::Authenticate, Response::Authenticated),
    ]
    .concat();
    let late = response(3, Op::Heartbeat, Response::Heartbeat);
    // The sequence numbers wrap on the way.
    let start = u32::MAX - 10;
    let mut at = start.wrapping_add(1);
    let mut place = |len: usize| {
        let here = at;
        at = at.wrapping_add(u32::try_from(len).expect("small"));
        here
    };
    let opening_at = place(opening.len());
    let lost_at = place(lost.len());
    let beat_at = place(beat.len());
    let later = |at: u32, n: u32| at.wrapping_add(n);
    let mut packets = vec![
        packet(true, start, SYN, b""),
        packet(false, 500, SYN | 0x10, b""),
        packet(true, later(opening_at, 6), PSH_ACK, &opening[6..]),
        packet(true, opening_at, PSH_ACK, &opening[..10]),
        packet(true, opening_at, PSH_ACK, &opening),
        packet(false, 501, PSH_ACK, &answers),
        packet(true, lost_at, PSH_ACK, &lost[..1000]),
        packet(true, later(lost_at, 2000), PSH_ACK, &lost[2000..]),
        packet(true, beat_at, PSH_ACK, &beat),
        packet(
            false,
            501 + u32::try_from(answers.len()).expect("small"),
            PSH_ACK,
            &late,
        ),
    ];
    // The server has it all: what is missing was missed by the capture.
    let acknowledged = later(beat_at, u32::try_from(beat.len()).expect("small"));
    if let Some(last) = packets.last_mut() {
        last[28..32].copy_from_slice(&acknowledged.to_be_bytes());
    }
    packets
}

fn pcap(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xA1B2_C3D4_u32, 0x0004_0002, 0, 0, 65_535, 101] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for (number, packet) in (0_u32..).zip(packets) {
        let len = u32::try_from(packet.len()).expect("small");
        for word in [1000, number * 1000, len, len] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(packet);
    }
    file
}

fn pcapng(packets: &[Vec<u8>]) -> Vec<u8> {
    fn block(file: &mut Vec<u8>, kind: u32, mut body: Vec<u8>) {
        body.resize(body.len().next_multiple_of(4), 0);
        let len = u32::try_from(body.len() + 12).expect("small").to_le_bytes();
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&len);
        file.extend_from_slice(&body);
        file.extend_from_slice(&len);
    }
    let mut file = Vec::new();
    let section = [&0x1A2B_3C4D_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xFF; 8]].concat();
    block(&mut file, 0x0A0D_0D0A, section);
    block(&mut file, 1, vec![101, 0, 0, 0, 0, 0, 0, 0]);
    for (number, packet) in (0_u32..).zip(packets) {
        let len = u32::try_from(packet.len()).expect("small");
        let mut body = Vec::new();
        for word in [0, 0, 1_000_000 + number * 1000, len, len] {
            body.extend_from_slice(&word.to_le_bytes());
        }
        body.extend_from_slice(packet);
        block(&mut file, 6, body);
    }
    file
}

fn dump(args: &[&str], files: &[(&str, &[u8])]) -> String {
    let folder = std::env::temp_dir().join(format!("fibp-dump-{}-{}", std::process::id(), files[0].0));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut command = tool("fibp-dump");
    command.args(args);
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).expect("a file");
        command.arg(folder.join(name));
    }
    let output = command.output().expect("it runs");
    std::fs::remove_dir_all(&folder).expect("its own folder");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn captures_of_both_formats_are_told_with_their_holes() {
    let packets = packets();
    let old = dump(&[], &[("old.pcap", &pcap(&packets))]);
    let new = dump(&["--port", "5555"], &[("new.pcapng", &pcapng(&packets))]);
    assert_eq!(old, new);
    for text in [
        "opening preamble FIBP 1.0",
        "request #1 Authenticate (redacted)",
        "answer #1 Authenticate: ok",
        "hole 1000 bytes missing, within one frame",
        "request #3 Heartbeat",
        "answer #3 Heartbeat: ok",
    ] {
        assert!(old.contains(text), "no {text} in\n{old}");
    }
    assert!(!old.contains("hunter2"), "{old}");
    let summary = old
        .lines()
        .find(|line| line.starts_with("Heartbeat"))
        .expect("a summary");
    assert_eq!(
        summary.split_whitespace().collect::<Vec<_>>()[..3],
        ["Heartbeat", "1", "0"],
        "{old}"
    );
    // Whoever listens to another port hears nothing.
    assert!(!dump(&["--port", "80"], &[("none.pcap", &pcap(&packets))]).contains("opening"));
}

#[test]
fn lines_of_json_have_latencies_and_offsets() {
    let text = dump(&["--json"], &[("json.pcap", &pcap(&packets()))]);
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let answer = lines.iter().find(|line| line["event"] == "answer").expect("an answer");
    assert_eq!(answer["id"], 1);
    assert_eq!(answer["offset"], 6);
    assert_eq!(answer["from"], "server");
    assert!(answer["latency_us"].as_u64().is_some(), "{answer}");
}

#[test]
fn raw_streams_are_told_and_other_files_refused() {
    let client = [&b"FIBP\x01\0"[..], b"\0\0\0\x06\0\x21\0\0\0\x07"].concat();
    let text = dump(&["--raw"], &[("client", &client), ("server", &client)]);
    assert!(text.contains("answer #7 Heartbeat: ok"), "{text}");
    let text = dump(&["--raw"], &[("hello", b"\x16\x03\x01\x02\0\x01\0\x01\xfc")]);
    assert!(text.contains("not-fibp a TLS ClientHello"), "{text}");
    let refused = tool("fibp-dump").arg(file!()).output().expect("it runs");
    assert!(!refused.status.success());
}
