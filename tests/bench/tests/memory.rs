//! What the channels of consumers hold, in exact bytes of the heap: buffers, not deliveries, which are the caller's.

use std::collections::VecDeque;

use fibp_proto::{AdminRevision, Dialect, QueueName};
use fila_bench::machine::{Machine, Probe, Stage};

const KIB: i64 = 1024;

/// Adds up what the machine allocates and gives back.
#[derive(Default)]
struct Held(i64);

impl Probe for Held {
    fn run(&mut self, _: Stage, work: &mut dyn FnMut()) {
        self.0 += allocation_counter::measure(work).bytes_current;
    }
}

/// What each of so many consumers of a client holds after some pushes of so many messages of 1 KiB, all of which were
/// taken and dropped.
fn held_by_each(dialect: Dialect, consumers: usize, pushes: u32, deliveries: u32) -> i64 {
    let queue: QueueName = "bench".into();
    let mut machines = Machine::consumers(dialect, &queue, consumers);
    let bytes = machines[0].push(&queue, deliveries);
    let mut held = Held::default();
    let mut most = 0;
    for _ in 0..pushes {
        for machine in &mut machines {
            machine.receive(&mut held, &bytes);
            let mut taken = VecDeque::new();
            machine.take(&mut held, &mut taken);
            assert_eq!(taken.len(), deliveries as usize);
            held.run(Stage::Drop, &mut || drop(std::mem::take(&mut taken)));
            most = most.max(held.0);
        }
    }
    most / i64::try_from(consumers).unwrap()
}

/// The buffer that a connection opens with, before anything is counted.
const FIRST_BUFFER: i64 = 16 * KIB;

#[test]
fn a_quiet_consumer_holds_at_most_64_kib() {
    for dialect in [Dialect::Preamble(AdminRevision::Protobuf), Dialect::Handshake] {
        // What a read brings does not fill the buffer.
        let quiet = FIRST_BUFFER + held_by_each(dialect, 1, 100, 10);
        assert!(quiet <= 64 * KIB, "{dialect}: {quiet} bytes");
    }
}

#[test]
fn a_thousand_busy_consumers_hold_at_most_96_kib_each() {
    for dialect in [Dialect::Preamble(AdminRevision::Protobuf), Dialect::Handshake] {
        // Frames and reads of more than 64 KiB.
        let busy = FIRST_BUFFER + held_by_each(dialect, 1_000, 5, 64);
        assert!(busy <= 96 * KIB, "{dialect}: {busy} bytes");
    }
}
