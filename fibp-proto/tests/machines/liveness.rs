//! Signs of life: bytes in either direction, not whole frames only.

use std::time::Duration;

use fibp_proto::config::ConsumerSettings;
use fibp_proto::typed::ListQueues;
use fibp_proto::{Config, Dialect, ErrorKind, Message, Outcome};

use crate::calls::connected;
use crate::harness::{ConsumerSim, Mode, P1, P3, Sim, TestMachine, config};
use crate::host::{Act, Host};

const HEARTBEAT: Duration = Duration::from_secs(15);
const DIALECTS: [Dialect; 3] = [P1, P3, Dialect::Handshake];

/// The defaults, said aloud.
fn watchful() -> Config {
    config().heartbeat(HEARTBEAT, 2)
}

/// Which server answers which dial, whether or not it is silent: every connection.
fn trickling<M: TestMachine>(sim: &mut Sim<M>, secs: u64, mut each_second: impl FnMut(&mut Sim<M>)) {
    for _ in 0..secs {
        each_second(sim);
        sim.advance_secs(1);
    }
}

fn consumer(dialect: Dialect) -> ConsumerSim {
    let mut sim = Sim::consumer(watchful().dialect(dialect), Mode::Whole, ConsumerSettings::default());
    sim.dialed = Box::new(move |_, _| Host::of(dialect));
    sim.settle();
    assert!(sim.opened().is_ok());
    sim
}

#[test]
fn a_large_delivery_may_arrive_slowly() {
    for dialect in DIALECTS {
        let mut sim = consumer(dialect);
        sim.socket().arrivals = Some(0);
        sim.push(&[&"x".repeat(4 << 20)]);
        // 20 kB/s: 210 s, far beyond both the heartbeats and the idle watchdog.
        trickling(&mut sim, 215, |sim| sim.socket().arrivals = Some(20_000));
        assert_eq!(sim.dials.len(), 1, "{dialect:?}");
        let payloads = sim.payloads(9);
        assert_eq!(payloads.iter().map(String::len).collect::<Vec<_>>(), [4 << 20]);
        sim.finish();
    }
}

/// The body of a framed Delivery (docs/protocol/framed.md 3).
fn delivery(payload: &str) -> Vec<u8> {
    let mut body = 1_u32.to_be_bytes().to_vec();
    body.extend_from_slice(b"\0\x02id\0\x06orders\0\0");
    body.extend_from_slice(&u32::try_from(payload.len()).expect("short").to_be_bytes());
    body.extend_from_slice(payload.as_bytes());
    body.extend_from_slice(b"\0\x07default\0\0\0\x01\0\0\0\0\0\x01");
    body.extend_from_slice(&[0; 16]);
    body
}

#[test]
fn a_large_delivery_in_continued_frames_may_arrive_slowly() {
    let mut sim = consumer(Dialect::Handshake);
    sim.socket().arrivals = Some(0);
    // Frames that arrive in one piece each leave nothing behind that would show what is under way.
    let body = delivery(&"x".repeat(20_000));
    let id = sim.last_asked().id.id.to_be_bytes();
    let mut pieces = Vec::new();
    for (n, part) in body.chunks(1_001).enumerate() {
        let last = (n + 1) * 1_001 >= body.len();
        let mut frame = u32::try_from(6 + part.len()).expect("short").to_be_bytes().to_vec();
        frame.extend_from_slice(&[0x14, u8::from(!last)]);
        frame.extend_from_slice(&id);
        frame.extend_from_slice(part);
        sim.socket().say(&frame);
        pieces.push(frame.len());
    }
    let mut seconds = 0;
    // Often enough for the idle watchdog; the answers to heartbeats wait behind.
    let mut pieces = pieces.into_iter();
    trickling(&mut sim, 21 * 14, |sim| {
        if seconds % 14 == 0 {
            sim.socket().arrivals = Some(pieces.next().unwrap_or(0));
        }
        seconds += 1;
    });
    assert_eq!(sim.dials.len(), 1);
    assert_eq!(sim.take(9).len(), 1);
    sim.finish();
}

#[test]
fn a_large_answer_may_arrive_slowly() {
    for dialect in DIALECTS {
        let mut sim = connected(watchful().request_timeout(None), Mode::Whole, dialect);
        sim.serve = Box::new(|request, _| match crate::host::obliging(request) {
            Act::Answer(fibp_proto::Response::ListConfig { .. }) => Act::Answer(fibp_proto::Response::ListConfig {
                entries: vec![("k".to_owned(), "v".repeat(60_000)); 40],
            }),
            act => act,
        });
        let list = sim.call(fibp_proto::typed::ListConfig { prefix: String::new() });
        sim.socket().arrivals = Some(20_000);
        trickling(&mut sim, 130, |sim| sim.socket().arrivals = Some(20_000));
        assert_eq!(sim.dials.len(), 1, "{dialect:?}");
        let entries = sim.output::<fibp_proto::typed::ListConfig>(list).unwrap();
        assert_eq!(entries.len(), 40);
        sim.finish();
    }
}

#[test]
fn a_large_message_may_leave_slowly() {
    for dialect in DIALECTS {
        let mut sim = connected(watchful().request_timeout(None), Mode::Whole, dialect);
        sim.socket().budget = Some(0);
        let token = sim.token();
        let message = Message::new("orders", "x".repeat(4 << 20));
        sim.machine.enqueue(sim.now, message, None, token);
        trickling(&mut sim, 215, |sim| sim.socket().budget = Some(20_000));
        assert_eq!(sim.dials.len(), 1, "{dialect:?}");
        assert!(sim.enqueued(token).is_ok());
        sim.finish();
    }
}

#[test]
fn a_peer_that_takes_and_sends_nothing_is_given_up_in_time() {
    // With room in the buffers of the operating system, which take bytes even when nobody is there, and without.
    for room in [None, Some(1_000), Some(0)] {
        for dialect in DIALECTS {
            let mut sim = connected(watchful().request_timeout(None), Mode::Whole, dialect);
            sim.serve = Box::new(|_, _| Act::Silence);
            sim.socket().budget = room;
            sim.socket().arrivals = Some(0);
            let start = sim.at();
            // Somebody goes on sending all the while.
            let mut sent = Vec::new();
            trickling(&mut sim, 44, |sim| sent.push(sim.enqueue("orders", &"x".repeat(100))));
            assert_eq!(sim.dials.len(), 1, "{dialect:?} {room:?}");
            sim.dialed = Box::new(|_, _| Host::Unreachable);
            sim.advance_secs(6);
            assert_eq!(sim.dials.len(), 2, "{dialect:?} {room:?}");
            let given_up = sim.dials[1].0 - start;
            assert!(given_up >= HEARTBEAT * 3 && given_up <= HEARTBEAT * 3 + Duration::from_secs(5));
            sim.finish();
        }
    }
}

#[test]
fn a_trickle_is_bounded_by_the_calls_own_deadline() {
    for dialect in DIALECTS {
        let mut sim = connected(watchful(), Mode::Whole, dialect);
        sim.serve = Box::new(|_, _| Act::Silence);
        let (call, _) = sim.call_within(ListQueues {}, Some(40_000));
        let (message, _) = sim.enqueue_within("orders", "m", Some(40_000));
        // The length of a large frame, then one byte of it a second, for ever.
        sim.socket().say(&(8_u32 << 20).to_be_bytes());
        sim.socket().say(&[0x01, 0, 0, 0, 0, 99]);
        trickling(&mut sim, 39, |sim| sim.socket().say(&[0]));
        assert!(sim.is_open(call) && sim.is_open(message));
        trickling(&mut sim, 2, |sim| sim.socket().say(&[0]));
        assert_eq!(sim.response(call).unwrap_err().kind(), ErrorKind::Timeout);
        let late = sim.enqueued(message).unwrap_err();
        assert_eq!((late.kind(), late.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
        assert_eq!(sim.dials.len(), 1, "it is alive all the same");
        sim.finish();
    }
}

#[test]
fn heartbeats_do_not_keep_a_silent_queue_from_being_subscribed_again() {
    for dialect in DIALECTS {
        let mut sim = consumer(dialect);
        // Every answer to a heartbeat arrives byte by byte.
        trickling(&mut sim, 70, |sim| sim.socket().arrivals = Some(1));
        assert!(sim.dials.len() > 1, "{dialect:?}");
        sim.finish();
    }
}
