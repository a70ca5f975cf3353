//! What a call costs the core with few and with many in flight. No adapter, no socket.

use std::time::{Duration, Instant};

use fibp_proto::Shared;
use fibp_proto::config::{Batching, Config};
use fibp_proto::frame::Transmit;
use fibp_proto::link::{Action, Completion, Link};

use crate::null_server::answer_all;
use crate::target::{P1, PREAMBLE, message};
use crate::{Options, median, print_figure};

/// Prints the cost per call with 1 to 100,000 in flight.
pub(super) fn run(options: &Options) {
    let calls: u64 = if options.quick { 100_000 } else { 400_000 };
    let rounds = if options.quick { 3 } else { 7 };
    let alone = cost(calls, 1, rounds);
    for in_flight in [10, 100, 1_000, 10_000, 100_000] {
        let cost = cost(calls, in_flight, rounds);
        let name = format!("inflight_{in_flight}");
        print_figure(&name, "core", "ns/call", cost, alone, cost / alone);
    }
}

fn cost(calls: u64, in_flight: u64, rounds: usize) -> f64 {
    let mut machine = Machine::open();
    machine.round(in_flight, in_flight);
    let costs = (0..rounds).map(|_| {
        let elapsed = machine.round(calls, in_flight);
        elapsed.as_nanos() as f64 / calls as f64
    });
    median(costs.collect())
}

struct Machine {
    link: Link<()>,
    now: Instant,
    completions: Vec<Completion<()>>,
    sent: Vec<u8>,
}

impl Machine {
    fn open() -> Self {
        let config = Config::new("127.0.0.1:1")
            .dialect(P1)
            .no_heartbeat()
            .batching(Batching::Disabled)
            .max_in_flight(200_000, usize::MAX);
        let now = Instant::now();
        let shared = Shared::new(config).expect("a valid configuration");
        let mut machine = Self {
            link: Link::requests(&shared, now, 1, Some(())),
            now,
            completions: Vec::new(),
            sent: Vec::new(),
        };
        while let Some(action) = machine.link.poll_action() {
            if let Action::Dial { id, .. } = action {
                machine.link.handle_dialed(now, id, Ok(None));
            }
        }
        machine.transmit();
        machine.receive(&PREAMBLE);
        machine.link.drain_completions(&mut machine.completions);
        assert_eq!(machine.completions.len(), 1, "open");
        machine.completions.clear();
        machine.sent.clear();
        machine
    }

    /// Makes `calls` calls, `in_flight` at a time. The time is the core's alone: the server's does not count.
    fn round(&mut self, calls: u64, in_flight: u64) -> Duration {
        let queue = "bench".into();
        let mut spent = Duration::ZERO;
        for _ in 0..calls.div_ceil(in_flight) {
            let start = Instant::now();
            for _ in 0..in_flight {
                self.link.enqueue(self.now, message(&queue), None, ());
            }
            self.transmit();
            spent += start.elapsed();
            let opened = [&PREAMBLE, self.sent.as_slice()].concat();
            let mut answers = Vec::new();
            answer_all(opened.as_slice(), &mut answers, true);
            self.sent.clear();
            let start = Instant::now();
            self.receive(answers.get(PREAMBLE.len()..).unwrap_or_default());
            self.link.drain_completions(&mut self.completions);
            spent += start.elapsed();
            assert_eq!(self.completions.len() as u64, in_flight);
            self.completions.clear();
        }
        spent
    }

    fn transmit(&mut self) {
        let mut transmit = Transmit::new();
        while self.link.take_transmit(self.now, 64 * 1024, &mut transmit) {
            while !transmit.is_empty() {
                let chunk = transmit.chunk();
                let n = chunk.len();
                self.sent.extend_from_slice(chunk);
                self.link.transmitted(self.now, &mut transmit, n);
            }
        }
    }

    fn receive(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut buffer = self.link.take_read_buffer().expect("input is wanted");
            let n = buffer.unfilled().len().min(bytes.len());
            let (now, later) = bytes.split_at(n);
            buffer.unfilled()[..n].copy_from_slice(now);
            buffer.advance(n);
            bytes = later;
            self.link.handle_input(self.now, buffer);
        }
    }
}
