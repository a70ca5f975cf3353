//! Allocations, bytes, reads and writes per message through the core, exactly.
//!
//! `tables/counts.txt` holds what they are. A change that alters them regenerates it with
//!
//! ```sh
//! FILA_BLESS=1 cargo test -p fila-bench --test counts
//! ```
//!
//! and shows the difference to whoever reviews it.

use std::fmt::Write as _;

use fila_bench::machine::{Probe, Stage, Unwatched};
use fila_bench::scenarios::{SCENARIOS, Scenario};
use fila_bench::table;

/// Until buffers have their size.
const WARM_UP: u64 = 40;
/// What is counted: long enough that nothing that happens now and then is missed.
const ROUNDS: u64 = 200;

#[test]
fn the_core_allocates_reads_and_writes_what_the_table_says() {
    let mut rows = String::from(HEADER);
    for scenario in &SCENARIOS {
        let counts = count(scenario);
        assert_eq!(counts, count(scenario), "{} counts the same twice", scenario.name);
        counts.print(scenario, &mut rows);
    }
    table::check("counts.txt", &rows).expect("FILA_BLESS=1 cargo test -p fila-bench --test counts");
}

const HEADER: &str = "\
# What a message costs the core: FILA_BLESS=1 cargo test -p fila-bench --test counts
# scenario                     stage     allocations         bytes   (of a message; writes and reads: how many, and of how many bytes)
";

#[derive(Debug, Clone, Default, PartialEq)]
struct Counts {
    /// Allocations and bytes of every stage.
    stages: [(u64, u64); Stage::ALL.len()],
    writes: (u64, u64),
    reads: (u64, u64),
}

fn count(scenario: &Scenario) -> Counts {
    let mut round = scenario.open();
    for _ in 0..WARM_UP {
        round(&mut Unwatched);
    }
    let mut counts = Counts::default();
    for _ in 0..ROUNDS {
        round(&mut counts);
    }
    counts
}

impl Probe for Counts {
    fn run(&mut self, stage: Stage, work: &mut dyn FnMut()) {
        let info = allocation_counter::measure(work);
        let (allocations, bytes) = &mut self.stages[stage as usize];
        *allocations += info.count_total;
        *bytes += info.bytes_total;
    }

    fn wrote(&mut self, bytes: usize) {
        self.writes.0 += 1;
        self.writes.1 += bytes as u64;
    }

    fn read(&mut self, bytes: usize) {
        self.reads.0 += 1;
        self.reads.1 += bytes as u64;
    }
}

impl Counts {
    fn print(&self, scenario: &Scenario, rows: &mut String) {
        let stages = Stage::ALL
            .into_iter()
            .zip(self.stages)
            .map(|(stage, counts)| (stage.name(), counts));
        let total = self.stages.iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        let wire = [("total", total), ("writes", self.writes), ("reads", self.reads)];
        let per_message = |count: u64| count as f64 / (ROUNDS * scenario.messages) as f64;
        for (what, (count, bytes)) in stages.chain(wire).filter(|(_, counts)| *counts != (0, 0)) {
            let (count, bytes) = (per_message(count), per_message(bytes));
            writeln!(rows, "{:28} {what:10} {count:12.4} {bytes:14.2}", scenario.name).expect("a string");
        }
    }
}

#[test]
fn a_probe_that_allocates_is_noticed() {
    let mut counts = Counts::default();
    counts.run(Stage::Submit, &mut || drop(std::hint::black_box(vec![0u8; 100])));
    assert_eq!(counts.stages[Stage::Submit as usize], (1, 100));
}
