//! Yardsticks: what each adapter costs next to a bare socket.
//!
//! `cargo run --release -p fila-bench -- --quick` prints the figures, one a line.
//!
//! Client and baseline run in paired rounds in one process, on the same CPU; every figure is a median, every ratio the
//! median of the rounds' ratios.

mod bare;
mod figures;
mod in_flight;
pub mod machine;
mod memory;
mod null_server;
mod runtime;
pub mod scenarios;
pub mod table;
mod target;
mod threads;
mod tls;

use std::time::{Duration, Instant};

pub use figures::run;
pub use target::{P1, message};

/// The payload of every message.
pub const PAYLOAD: usize = 1024;

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Fewer and shorter rounds.
    pub quick: bool,
    /// Only figures whose name this is.
    pub only: Option<String>,
    /// On how many CPUs to run; 0 for all.
    pub cpus: usize,
    /// The null server answers all frames that one read brings with one write, as no real server does: the hardest
    /// baseline for callers whose messages share frames.
    pub coalesce: bool,
}

impl Options {
    /// Whether a figure is asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }

    fn rounds(&self) -> usize {
        if self.quick { 5 } else { 15 }
    }

    /// How long one side of a round lasts.
    fn slice(&self) -> Duration {
        Duration::from_millis(if self.quick { 60 } else { 300 })
    }
}

/// What a round did: so many operations in so much time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rate {
    operations: u64,
    elapsed: Duration,
}

impl Rate {
    /// `operations` since `start`.
    pub fn since(start: Instant, operations: u64) -> Self {
        Self {
            operations,
            elapsed: start.elapsed(),
        }
    }

    fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.elapsed += other.elapsed;
    }

    fn per_second(self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Runs client and baseline in turn and prints the figure.
pub(crate) fn compare(
    options: &Options,
    name: &str,
    adapter: &str,
    unit: &str,
    mut client: impl FnMut(Duration) -> Rate,
    mut baseline: impl FnMut(Duration) -> Rate,
) {
    let slice = options.slice();
    // Caches, allocators and congestion windows settle first.
    client(slice / 4);
    baseline(slice / 4);
    let mut values = Vec::new();
    let mut baselines = Vec::new();
    let mut ratios = Vec::new();
    for _ in 0..options.rounds() {
        let value = client(slice).per_second();
        let base = baseline(slice).per_second();
        values.push(value);
        baselines.push(base);
        ratios.push(value / base);
    }
    print_figure(name, adapter, unit, median(values), median(baselines), median(ratios));
}

/// Prints one figure against its baseline.
pub(crate) fn print_figure(name: &str, adapter: &str, unit: &str, value: f64, baseline: f64, ratio: f64) {
    println!("bench {name} {adapter} value={value:.0} unit={unit} baseline={baseline:.0} ratio={ratio:.2}");
}

/// Prints a figure that stands alone.
pub(crate) fn print_value(name: &str, adapter: &str, unit: &str, value: f64) {
    println!("bench {name} {adapter} value={value:.1} unit={unit}");
}

/// The middle of the values; zero of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
