//! docs/protocol/framed.md, sections 4 and 5, line by line and byte for byte. Lines that are not here have a test
//! elsewhere:
//!
//! | line | test |
//! |---|---|
//! | 4, NotLeader and `leader_addr`, absent when unknown or `0.0.0.0` | `machine::cluster`, `wire::cluster` |
//! | 4, "node not ready", item codes 0x0C and 0xFF of clusters | `machine::nodes` |
//! | 4, a full channel at a Consume closes | `machine::admin::an_overloaded_scheduler_closes_or_refuses` |
//! | 4, texts of 0x0B; 5, permissions | `machine::access::framed_permissions_differ` |
//! | 5, one consumer per connection, and what follows a replaced or cancelled one | `machine::framed` |
//! | 5, about 320 leased ahead; one message per frame; both timestamps 0 | `machine::framed` |
//! | 5, a clean end unregisters at once, a reset does not | `machine::framed` |
//! | 5, unknown queues of clusters | `machine::nodes::an_unknown_queue_sounds_like_a_new_one` |
//! | 5, ALPN, TLS like plain | `tls` |

use fila_test_broker::{Broker, Dialect, Faults};

use crate::raw::{Raw, bytes32, hex, str16};

const ERROR: u8 = 0xfe;

fn broker() -> Broker {
    Broker::builder()
        .dialect(Dialect::Handshake)
        .queue("orders")
        .start()
        .expect("loopback is there")
}

/// A result of one item, or of none but a code.
fn coded(code: u8) -> Vec<u8> {
    vec![code]
}

fn error(code: u8, text: &str) -> (u8, Vec<u8>) {
    (ERROR, [vec![code], str16(text), hex("0000")].concat())
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    let count = u32::try_from(items.len()).expect("few");
    [count.to_be_bytes().to_vec(), items.concat()].concat()
}

fn message(queue: &str) -> Vec<u8> {
    [str16(queue), hex("0000"), bytes32(b"x")].concat()
}

fn ack(queue: &str, id: &str) -> Vec<u8> {
    [str16(queue), str16(id)].concat()
}

fn create(name: &str, on_enqueue: Option<&str>, visibility_ms: u64) -> Vec<u8> {
    let script = on_enqueue.map_or_else(|| hex("00"), |script| [hex("01"), str16(script)].concat());
    [str16(name), script, hex("00"), visibility_ms.to_be_bytes().to_vec()].concat()
}

/// Enqueues, consumes, and returns the id of what was delivered.
fn leased(raw: &mut Raw) -> String {
    let (_, body) = raw.call_framed(0x10, &list(&[message("orders")]));
    let id = String::from_utf8(body[7..].to_vec()).expect("ids are text");
    assert_eq!(raw.call_framed(0x12, &str16("orders")).0, 0x13);
    assert_eq!(raw.frame()[4], 0x14);
    id
}

/// 4: the text of ChannelFull, without `retry_after_ms`.
#[test]
fn an_overloaded_server_says_so_without_a_time() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    broker.set_faults(Faults::default().overloaded(true));
    for (opcode, body) in [
        (0x10, list(&[message("orders")])),
        (0x16, list(&[])),
        (0xf9, str16("orders")),
    ] {
        assert_eq!(raw.call_framed(opcode, &body), error(0x09, "scheduler overloaded"));
    }
    raw.send(&crate::raw::frame([0x12, 0], 9, &str16("orders")));
    raw.closed();
}

/// 4: item codes 0x00, 0x01, 0x02 and 0x05; the message id of an item that failed is empty.
#[test]
fn items_have_codes_and_failed_ones_no_id() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    let id = leased(&mut raw);
    let (opcode, body) = raw.call_framed(0x10, &list(&[message("nope"), message("orders")]));
    assert_eq!((opcode, &body[..10]), (0x11, &hex("00000002 01 0000 00 0024")[..]));
    assert_eq!(raw.frame()[4], 0x14);
    let missing = [ack("orders", "bogus"), ack("nope", &id), ack("orders", &id)];
    assert_eq!(raw.call_framed(0x16, &list(&missing)), (0x17, hex("00000003 02 02 00")));
    let nack = [ack("orders", &id), str16("boom")].concat();
    assert_eq!(raw.call_framed(0x18, &list(&[nack])), (0x19, hex("00000001 02")));
    broker.set_faults(Faults::default().storage_failing(true));
    let failed = raw.call_framed(0x10, &list(&[message("orders")]));
    assert_eq!(failed, (0x11, hex("00000001 05 0000")));
    assert_eq!(raw.call_framed(0x16, &list(&missing[..1])), (0x17, hex("00000001 05")));
}

/// 5: an id that cannot be read is not found; the same id twice in one Ack is acked twice, in two frames it is not.
#[test]
fn the_same_id_twice_in_one_ack_is_ok_twice() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    let id = leased(&mut raw);
    let twice = list(&[ack("orders", &id), ack("orders", "bogus"), ack("orders", &id)]);
    assert_eq!(raw.call_framed(0x16, &twice), (0x17, hex("00000003 00 02 00")));
    assert_eq!(broker.queue_depth("orders"), 0);
    assert_eq!(raw.call_framed(0x16, &twice), (0x17, hex("00000003 02 02 02")));
}

/// 4: what takes the place of the queue id.
#[test]
fn a_refused_create_carries_the_name_or_what_lua_says() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    let exists = raw.call_framed(0xfd, &create("orders", None, 0));
    assert_eq!(exists, (0xfc, [hex("03"), str16("orders")].concat()));
    let (opcode, body) = raw.call_framed(0xfd, &create("new", Some("nonsense("), 0));
    assert_eq!((opcode, body[0]), (0xfc, 0x04));
    let text = String::from_utf8_lossy(&body[3..]);
    assert!(text.starts_with("lua compilation error: "), "{text}");
    assert_eq!(body[1..], str16(&text));
}

/// 4: GetStats and Redrive fail with a frame of their own.
#[test]
fn statistics_and_redrive_are_refused_by_error_frames() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    let redrive = |queue: &str| [str16(queue), hex("0000000000000000")].concat();
    let not_found = error(0x01, "queue not found");
    assert_eq!(raw.call_framed(0xf9, &str16("nope")), not_found);
    assert_eq!(raw.call_framed(0xef, &redrive("nope.dlq")), not_found);
    assert_eq!(
        raw.call_framed(0xef, &redrive("orders")),
        error(0x06, "not a dead-letter queue")
    );
    raw.call_framed(0xfd, &create("lonely.dlq", None, 0));
    assert_eq!(
        raw.call_framed(0xef, &redrive("lonely.dlq")),
        error(0x07, "parent queue not found")
    );
    broker.set_faults(Faults::default().storage_failing(true));
    for (opcode, body) in [(0xf9, str16("orders")), (0xef, redrive("orders.dlq"))] {
        let (opcode, body) = raw.call_framed(opcode, &body);
        assert_eq!((opcode, body[0]), (ERROR, 0x05));
        assert!(String::from_utf8_lossy(&body[3..]).starts_with("storage error: "));
    }
}

/// 4: the others report their code inside the result, without a text; GetAcl with the id that was asked for.
#[test]
fn other_operations_report_their_code_inline() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    assert_eq!(raw.call_framed(0xfb, &str16("nope")), (0xfa, coded(0x01)));
    let throttle = [str16("throttle.a"), str16("much")].concat();
    assert_eq!(raw.call_framed(0xf5, &throttle), (0xf4, coded(0x08)));
    assert_eq!(raw.call_framed(0xeb, &str16("k9")), (0xea, coded(0x0f)));
    let acl = |kind: &str| [str16("k9"), hex("0001"), str16(kind), str16("*")].concat();
    assert_eq!(raw.call_framed(0xe7, &acl("produce")), (0xe6, coded(0x0f)));
    let unknown = [hex("0f"), str16("k9"), hex("00 0000")].concat();
    assert_eq!(raw.call_framed(0xe5, &str16("k9")), (0xe4, unknown));
    let text = "invalid permission kind \"fly\": expected produce, consume, or admin";
    assert_eq!(raw.call_framed(0xe7, &acl("fly")), error(0x08, text));
}

/// 4: a malformed request is answered, operation by operation, and the connection stays.
#[test]
fn malformed_requests_are_named_and_survived() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    for (opcode, name) in [
        (0x10, "enqueue"),
        (0x12, "consume"),
        (0x16, "ack"),
        (0x18, "nack"),
        (0xfd, "create_queue"),
        (0xfb, "delete_queue"),
        (0xf9, "get_stats"),
        (0xf5, "set_config"),
        (0xf3, "get_config"),
        (0xf1, "list_config"),
        (0xef, "redrive"),
        (0xed, "create_api_key"),
        (0xeb, "revoke_api_key"),
        (0xe7, "set_acl"),
        (0xe5, "get_acl"),
    ] {
        let (opcode, body) = raw.call_framed(opcode, &[0]);
        let text = String::from_utf8_lossy(&body[3..body.len() - 2]).into_owned();
        let need = if matches!(name, "enqueue" | "ack" | "nack") {
            4
        } else {
            2
        };
        let expected = format!("invalid {name} frame: incomplete frame: need {need} bytes, have 1");
        assert_eq!((opcode, body[0], text), (ERROR, 0x0e, expected));
    }
    assert_eq!(raw.call_framed(0x03, &[]), (0x04, vec![]));
}

/// 4: a permission failure refuses the whole frame, on the first queue that offends.
#[test]
fn a_forbidden_queue_refuses_the_whole_frame() {
    let broker = Broker::builder()
        .dialect(Dialect::Handshake)
        .api_key("root")
        .queue("orders")
        .start()
        .expect("loopback is there");
    let login = |key: &str| {
        let mut raw = Raw::connect(broker.addr());
        let body = [hex("0001 01"), str16(key)].concat();
        raw.send(&crate::raw::frame([0x01, 0], 0, &body));
        assert_eq!(raw.frame()[4], 0x02);
        raw
    };
    let mut root = login("root");
    let (_, body) = root.call_framed(0xed, &[str16("svc"), hex("0000000000000000 00")].concat());
    let key_id = String::from_utf8(body[3..39].to_vec()).expect("ids are text");
    let key = String::from_utf8(body[41..73].to_vec()).expect("keys are text");
    let grants = [str16("produce"), str16("orders"), str16("consume"), str16("orders")].concat();
    let acl = [str16(&key_id), hex("0002"), grants].concat();
    assert_eq!(root.call_framed(0xe7, &acl), (0xe6, coded(0)));

    let mut raw = login(&key);
    let mixed = ["orders", "b", "a"].map(message);
    let text = |kind: &str| format!("no {kind} permission on queue \"b\"");
    assert_eq!(raw.call_framed(0x10, &list(&mixed)), error(0x0b, &text("produce")));
    assert_eq!(broker.queue_depth("orders"), 0);
    let id = leased(&mut raw);
    let acks = ["orders", "b"].map(|queue| ack(queue, &id));
    assert_eq!(raw.call_framed(0x16, &list(&acks)), error(0x0b, &text("consume")));
    let nacks = acks.map(|ack| [ack, str16("boom")].concat());
    assert_eq!(raw.call_framed(0x18, &list(&nacks)), error(0x0b, &text("consume")));
    assert_eq!(broker.queue("orders").expect("it exists").in_flight, 1, "still leased");
}

/// 5: the answer to a Consume comes first, for any queue, even one without a name.
#[test]
fn consuming_is_confirmed_before_anything_is_delivered() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    raw.call_framed(0x10, &list(&[message("orders")]));
    for queue in ["nowhere", "", "orders"] {
        let (opcode, body) = raw.call_framed(0x12, &str16(queue));
        assert_eq!((opcode, body.len()), (0x13, 38), "{queue}");
    }
    assert_eq!(raw.frame()[4], 0x14);
}

/// 5: a Disconnect is a clean end, after which the next consumer gets everything.
#[test]
fn a_disconnect_unregisters_at_once() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    raw.call_framed(0x12, &str16("orders"));
    raw.send(&hex("00000006 05 00 00000000"));
    raw.closed();
    let gone = broker.wait_until(crate::raw::PATIENCE, |machine| {
        machine.queue("orders").is_some_and(|queue| queue.consumers == 0)
    });
    assert!(gone);
}

/// 5: a server that stops says nothing.
#[test]
fn a_server_that_stops_sends_no_frame() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    raw.call_framed(0x12, &str16("orders"));
    broker.stop();
    raw.closed();
}

/// 5: no least visibility timeout, and names may be empty.
#[test]
fn short_timeouts_and_empty_names_are_taken() {
    let broker = broker();
    let mut raw = Raw::framed(&broker);
    assert_eq!(raw.call_framed(0xfd, &create("quick", None, 1)).1[0], 0);
    assert_eq!(raw.call_framed(0xfd, &create("", None, 0)).1[0], 0);
    assert_eq!(raw.call_framed(0x10, &list(&[message("")])).1[4], 0);
    assert_eq!(
        raw.call_framed(0xf5, &[str16(""), str16("x")].concat()),
        (0xf4, coded(0))
    );
}

/// 5: lists end at 65,535 entries, silently.
#[test]
fn long_lists_are_cut() {
    let broker = broker();
    for number in 0..33_000 {
        broker.create_queue(format!("q{number}"));
    }
    let mut raw = Raw::framed(&broker);
    let (opcode, body) = raw.call_framed(0xf7, &[]);
    assert_eq!((opcode, &body[..7]), (0xf6, &hex("00 00000000 ffff")[..]));
}
