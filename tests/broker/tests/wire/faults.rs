//! Faults that show on the wire only; the others are tested on the machine.

use fila_test_broker::{Broker, Faults, Op};

use crate::raw::{PATIENCE, Raw, bytes32, consume, enqueue, frame, hex, push, str16};

fn broker(faults: Faults) -> Broker {
    Broker::builder()
        .queue("orders")
        .faults(faults)
        .start()
        .expect("loopback is there")
}

#[test]
fn goodbyes_and_heartbeats_on_demand() {
    let broker = broker(Faults::default());
    let (mut preamble, mut framed) = (Raw::preamble(&broker), Raw::framed(&broker));
    broker.send_heartbeats(9);
    assert_eq!(preamble.frame(), frame([0, 0x21], 9, &[]));
    assert_eq!(framed.frame(), frame([0x03, 0], 9, &[]));
    broker.send_goaway("moving");
    assert_eq!(preamble.frame(), frame([0, 0xff], 0, b"moving"));
    assert_eq!(framed.frame()[4], 0x05);
}

#[test]
fn faults_change_while_the_broker_runs() {
    let broker = broker(Faults::default().stall(Op::Enqueue));
    let mut raw = Raw::preamble(&broker);
    let stalled = raw.request(0x01, &enqueue("orders", &[b"x"]));
    raw.silent_preamble();
    broker.update_faults(|faults| faults.release(Op::Enqueue));
    assert_eq!(raw.frame()[6..10], stalled.to_be_bytes());

    broker.set_faults(Faults::default().drop_before_answer(Op::Enqueue, 1));
    raw.request(0x01, &enqueue("orders", &[b"x"]));
    raw.closed();
    assert_eq!(broker.faults(), Faults::default().drop_before_answer(Op::Enqueue, 0));
    assert!(broker.wait_until(PATIENCE, |machine| machine.connections() == 0));
    assert_eq!(broker.queue_depth("orders"), 2);
}

#[test]
fn framed_deliveries_may_exceed_16_mib() {
    let broker = broker(Faults::default());
    let mut raw = Raw::framed(&broker);
    // The largest enqueue that fits one frame: its delivery does not.
    let around = 4 + 2 + "orders".len() + 2 + 4;
    let payload = vec![7; 16 * 1024 * 1024 - 6 - around];
    let body = [hex("00000001"), str16("orders"), hex("0000"), bytes32(&payload)].concat();
    assert_eq!(raw.call_framed(0x10, &body).1[..5], hex("00000001 00"));
    raw.call_framed(0x12, &str16("orders"));
    let delivery = raw.frame();
    assert_eq!(delivery[4], 0x14);
    assert!(delivery.len() > 16 * 1024 * 1024 + 4);
}

#[test]
fn batched_deliveries_share_a_frame() {
    let broker = broker(Faults::default().deliveries_per_frame(64));
    let mut raw = Raw::framed(&broker);
    let message = [str16("orders"), hex("0000"), bytes32(b"x")].concat();
    let body = [hex("00000003"), message.repeat(3)].concat();
    raw.call_framed(0x10, &body);
    raw.call_framed(0x12, &str16("orders"));
    assert_eq!(raw.frame()[10..14], hex("00000003"));
}

#[test]
fn an_oversized_push_is_silence() {
    let broker = Broker::builder()
        .queue("orders")
        .max_frame_size(1000)
        .start()
        .expect("loopback is there");
    let mut raw = Raw::preamble(&broker);
    raw.call(0x02, &consume("orders", 100));
    // Fits its enqueue, but not a push.
    raw.call(0x01, &enqueue("orders", &[&[7; 950]]));
    raw.silent_preamble();
    broker.set_faults(Faults::default().oversized_push_kills(false));
    let mut raw = Raw::preamble(&broker);
    raw.call(0x01, &enqueue("orders", &[&[8; 950]]));
    raw.call(0x02, &consume("orders", 100));
    assert_eq!(push(&raw.frame())[0].2, [8; 950]);
}
