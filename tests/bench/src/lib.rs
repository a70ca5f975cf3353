//! Yardsticks: what each adapter costs next to a bare socket.
//!
//! `cargo run --release -p fila-bench -- --quick` prints the figures, one a line.
//!
//! Client, bare loop and fair loop run in paired rounds for the same time in one process, on the same CPU, each against a
//! null server in a process of its own; every figure is a median, every ratio the median of the rounds' ratios. The bare
//! loop resends the same bytes and reads only lengths: the limit. The fair loop (`fair.rs`) does what every client must,
//! and nothing else. CPU times and page faults are this process's, from `getrusage`.
//!
//! What is counted rather than timed has tables that are checked in: `tests/counts.rs` and `fila-instructions`.

pub mod adapters;
mod as_people_run_it;
mod bare;
mod fair;
mod figures;
mod in_flight;
pub mod machine;
mod memory;
mod null_server;
mod runtime;
pub mod scenarios;
mod servers;
pub mod table;
mod target;
mod threads;
mod tls;
mod usage;

use std::time::{Duration, Instant};

use usage::Usage;

pub use figures::run;
pub use servers::{SERVE, serve};
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
    /// How long the null server of the figure `callers` takes for a frame.
    pub service: Duration,
    /// The most operations of one side of a round: what a real server is given to keep.
    pub most: u64,
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
    fn slice(&self) -> Slice {
        Slice {
            time: Duration::from_millis(if self.quick { 60 } else { 300 }),
            most: self.most,
        }
    }
}

/// When a side of a round is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slice {
    pub(crate) time: Duration,
    /// At the latest after so many operations: a real server has to keep them.
    pub(crate) most: u64,
}

impl Slice {
    fn is_over(self, start: Instant, done: u64) -> bool {
        done >= self.most || start.elapsed() >= self.time
    }

    /// As much for each of so many callers.
    fn share(self, callers: usize) -> Self {
        let most = self.most / callers as u64;
        Self {
            most: most.max(1),
            ..self
        }
    }
}

/// What a round did: so many operations in so much time, and what that took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rate {
    operations: u64,
    elapsed: Duration,
    usage: Usage,
}

/// The beginning of a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    at: Instant,
    usage: Usage,
}

impl Start {
    pub(crate) fn now() -> Self {
        Self {
            usage: Usage::now(),
            at: Instant::now(),
        }
    }

    /// `operations` since then.
    pub(crate) fn rate(self, operations: u64) -> Rate {
        Rate {
            operations,
            elapsed: self.at.elapsed(),
            usage: self.usage.spent(),
        }
    }
}

impl Rate {
    fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.elapsed += other.elapsed;
        self.usage.add(other.usage);
    }

    fn per_second(self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// CPU time of an operation, in nanoseconds.
    fn cpu(self) -> f64 {
        self.usage.cpu.as_nanos() as f64 / self.operations.max(1) as f64
    }

    /// Minor page faults of a thousand operations.
    fn faults(self) -> f64 {
        1000.0 * self.usage.minor_faults as f64 / self.operations.max(1) as f64
    }
}

/// What a figure is called, and what it counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) name: &'a str,
    pub(crate) adapter: &'a str,
    pub(crate) unit: &'a str,
}

/// One side of a comparison.
pub(crate) type Side<'a> = Box<dyn FnMut(Slice) -> Rate + 'a>;

/// Runs client and baseline in turn, and a third side with a name of its own if there is one; prints the figure.
pub(crate) fn compare<'a>(
    options: &Options,
    row: Row<'_>,
    client: impl FnMut(Slice) -> Rate + 'a,
    baseline: impl FnMut(Slice) -> Rate + 'a,
    third: Option<(&str, Side<'a>)>,
) {
    let mut sides: Vec<Side<'a>> = vec![Box::new(client), Box::new(baseline)];
    let label = third.map(|(label, side)| {
        sides.push(side);
        label
    });
    let slice = options.slice();
    // Caches, allocators and congestion windows settle first.
    for side in &mut sides {
        side(Slice {
            time: slice.time / 4,
            ..slice.share(4)
        });
    }
    let mut rates = vec![Vec::new(); sides.len()];
    for _ in 0..options.rounds() {
        let mut slice = slice;
        for (side, rates) in sides.iter_mut().zip(&mut rates) {
            let rate = side(slice);
            // The client ends with its last call; the others take as long.
            slice.time = slice.time.max(rate.elapsed);
            rates.push(rate);
        }
    }
    let middle = |side: usize, what: fn(Rate) -> f64| median(rates[side].iter().map(|rate| what(*rate)).collect());
    let ratio = |side: usize| {
        let pairs = rates[0].iter().zip(&rates[side]);
        median(
            pairs
                .map(|(client, other)| client.per_second() / other.per_second())
                .collect(),
        )
    };
    let Row { name, adapter, unit } = row;
    print!(
        "bench {name} {adapter} value={:.0} unit={unit} baseline={:.0} ratio={:.2}",
        middle(0, Rate::per_second),
        middle(1, Rate::per_second),
        ratio(1)
    );
    if let Some(label) = label {
        print!(
            " {label}={:.0} {label}_ratio={:.2}",
            middle(2, Rate::per_second),
            ratio(2)
        );
    }
    print!(
        " cpu_ns={:.0} baseline_cpu_ns={:.0}",
        middle(0, Rate::cpu),
        middle(1, Rate::cpu)
    );
    if let Some(label) = label {
        print!(" {label}_cpu_ns={:.0}", middle(2, Rate::cpu));
    }
    println!(" minor_faults_per_1000={:.2}", middle(0, Rate::faults));
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
