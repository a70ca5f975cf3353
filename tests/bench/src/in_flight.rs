//! What a call costs the core with few and with many in flight. No adapter, no socket.

use std::time::{Duration, Instant};

use fibp_proto::config::Batching;

use crate::machine::{Machine, Probe, Stage, Unwatched};
use crate::target::{P1, message};
use crate::{Options, median, print_figure};

/// Prints the cost per call with 1 to 100,000 in flight.
pub(super) fn run(options: &Options) {
    let calls: usize = if options.quick { 100_000 } else { 400_000 };
    let rounds = if options.quick { 3 } else { 7 };
    let alone = cost(calls, 1, rounds);
    for in_flight in [10, 100, 1_000, 10_000, 100_000] {
        let cost = cost(calls, in_flight, rounds);
        let name = format!("inflight_{in_flight}");
        print_figure(&name, "core", "ns/call", cost, alone, cost / alone);
    }
}

fn cost(calls: usize, in_flight: usize, rounds: usize) -> f64 {
    let mut machine = Machine::requests(P1, Batching::Disabled);
    round(&mut machine, &mut Unwatched, in_flight);
    let costs = (0..rounds).map(|_| {
        let mut watch = Stopwatch::default();
        for _ in 0..calls.div_ceil(in_flight) {
            round(&mut machine, &mut watch, in_flight);
        }
        watch.spent.as_nanos() as f64 / calls as f64
    });
    median(costs.collect())
}

/// Calls that are all in flight before the first is answered.
fn round(machine: &mut Machine, probe: &mut dyn Probe, in_flight: usize) {
    machine.enqueue_each(probe, vec![message(&"bench".into()); in_flight]);
    machine.exchange(probe);
    assert_eq!(machine.completed(probe), in_flight);
}

/// The core's time alone: the server's does not count.
#[derive(Debug, Default)]
struct Stopwatch {
    spent: Duration,
}

impl Probe for Stopwatch {
    fn run(&mut self, _: Stage, work: &mut dyn FnMut()) {
        let start = Instant::now();
        work();
        self.spent += start.elapsed();
    }
}
