//! Starting, stopping, restarting, and time.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

use fila_test_broker::{Broker, Faults, ManualClock};

use crate::raw::{PATIENCE, Raw, consume, enqueue, push};

#[test]
fn dropping_closes_everything() {
    let broker = Broker::builder().start().expect("loopback is there");
    let addr = broker.addr();
    let mut raw = Raw::preamble(&broker);
    drop(broker);
    raw.closed();
    assert!(TcpStream::connect(addr).is_err());
}

/// Its ports refuse connections, and are given to nobody else.
#[cfg(unix)]
#[test]
fn a_broker_that_is_stopped_keeps_its_ports() {
    let cluster = Broker::cluster(3).start().expect("loopback is there");
    cluster.kill_node(2);
    let node = cluster.addr_of(2).expect("it has three");
    let broker = Broker::builder().start().expect("loopback is there");
    broker.stop();
    for addr in [node, broker.addr()] {
        assert!(TcpStream::connect(addr).is_err());
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let taken = socket.bind(&addr.into()).expect_err("it is kept");
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    }
    cluster.start_node(2).expect("it listens again");
    broker.restart().expect("it listens again");
    for addr in [node, broker.addr()] {
        TcpStream::connect(addr).expect("it accepts");
    }
}

#[test]
fn a_restart_keeps_port_and_messages() {
    let broker = Broker::builder().queue("orders").start().expect("loopback is there");
    let addr = broker.addr();
    let mut raw = Raw::preamble(&broker);
    raw.call(0x01, &enqueue("orders", &[b"kept", b"leased"]));
    raw.call(0x02, &consume("orders", 64));
    let first = push(&raw.frame());
    broker.stop();
    broker.stop();
    raw.closed();
    assert_eq!(broker.queue_depth("orders"), 2, "can be asked while stopped");

    broker.restart().expect("the port is free");
    assert_eq!(broker.addr(), addr);
    assert_eq!(broker.queue("orders").expect("exists").in_flight, 2);

    // Leases that are not kept are pending again, in order, with the same attempt count.
    broker.set_faults(Faults::default().leases_kept(false));
    broker.restart().expect("the port is free");
    let mut raw = Raw::preamble(&broker);
    raw.call(0x02, &consume("orders", 64));
    assert_eq!(push(&raw.frame()), first);
}

#[test]
fn killed_connections_are_forgotten() {
    let broker = Broker::builder().queue("orders").start().expect("loopback is there");
    let mut raw = Raw::preamble(&broker);
    raw.call(0x02, &consume("orders", 64));
    assert_eq!(broker.queue("orders").expect("exists").consumers, 1);
    broker.kill_connections();
    raw.closed();
    assert_eq!(broker.connections(), 0);
    assert_eq!(broker.queue("orders").expect("exists").consumers, 0);
    Raw::preamble(&broker).silent_preamble();
}

#[test]
fn connections_can_be_reset() {
    let broker = Broker::builder().queue("orders").start().expect("loopback is there");
    let (mut idle, mut consuming) = (Raw::preamble(&broker), Raw::preamble(&broker));
    consuming.call(0x02, &consume("orders", 64));
    broker.reset_connections();
    for raw in [&mut idle, &mut consuming] {
        let read = raw.stream.read(&mut [0]);
        assert_eq!(read.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    }
    assert_eq!(broker.connections(), 0);
}

#[test]
fn leases_expire_on_a_manual_clock() {
    let clock = ManualClock::new();
    let broker = Broker::builder()
        .queue("orders")
        .manual_clock(clock.clone())
        .start()
        .expect("loopback is there");
    let mut raw = Raw::preamble(&broker);
    raw.call(0x01, &enqueue("orders", &[b"a"]));
    raw.call(0x02, &consume("orders", 64));
    assert_eq!(push(&raw.frame())[0].1, 0);
    clock.advance(Duration::from_millis(29_999));
    raw.silent_preamble();
    broker.clock().expect("manual").advance(Duration::from_millis(1));
    assert_eq!(push(&raw.frame())[0].1, 1);
}

#[test]
fn leases_expire_on_the_real_clock() {
    let broker = Broker::builder()
        .queue("orders")
        .visibility_timeout(Duration::from_millis(1))
        .start()
        .expect("loopback is there");
    let mut raw = Raw::preamble(&broker);
    raw.call(0x01, &enqueue("orders", &[b"a"]));
    raw.call(0x02, &consume("orders", 64));
    assert_eq!(push(&raw.frame())[0].1, 0);
    assert_eq!(push(&raw.frame())[0].1, 1);
}

#[test]
fn conditions_can_be_waited_for() {
    let broker = Broker::builder().queue("orders").start().expect("loopback is there");
    assert!(!broker.wait_until(Duration::ZERO, |machine| machine.connections() > 0));
    let mut raw = Raw::preamble(&broker);
    raw.request(0x01, &enqueue("orders", &[b"a"]));
    assert!(broker.wait_until(PATIENCE, |machine| {
        machine.queue("orders").is_some_and(|queue| queue.depth == 1)
    }));
    drop(raw);
    assert!(broker.wait_until(PATIENCE, |machine| machine.connections() == 0));
}

#[test]
fn listens_on_ipv6_too() {
    // Machines without IPv6 have nothing to test.
    let Ok(broker) = Broker::builder().listen("[::1]:0").start() else {
        println!("skipped: no IPv6 loopback");
        return;
    };
    assert!(broker.url().starts_with("fila://[::1]:"));
    Raw::preamble(&broker).silent_preamble();
}

#[test]
fn a_client_that_does_not_read_stops_the_broker_from_reading() {
    let broker = Broker::builder().queue("orders").start().expect("loopback is there");
    let mut consumer = Raw::preamble(&broker);
    consumer.call(0x02, &consume("orders", u32::MAX));
    let mut producer = Raw::preamble(&broker);
    let payload = vec![7; 64 * 1024];
    // Far more than socket buffers, the channel and the encoded pushes hold.
    let batch: Vec<&[u8]> = vec![&payload; 100];
    for _ in 0..10 {
        producer.call(0x01, &enqueue("orders", &batch));
    }
    let mut received = 0;
    while received < 1000 {
        received += push(&consumer.frame()).len();
    }
    assert_eq!(received, 1000);
    assert_eq!(broker.queue("orders").expect("exists").in_flight, 1000);
}
