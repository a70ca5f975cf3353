//! Instructions per message and stage of the core, and per message of whole adapters, counted by callgrind: figures that a
//! busy machine hardly changes.
//!
//! ```sh
//! cargo run --release -p fila-bench --bin fila-instructions            # compares with tables/instructions.txt
//! FILA_BLESS=1 cargo run --release -p fila-bench --bin fila-instructions   # writes the table
//! ```
//!
//! Each scenario runs twice under valgrind, for some rounds and for twice as many; the difference is what rounds cost,
//! and what opening the connections costs is gone.

mod callgrind;

use std::fmt::Write as _;
use std::process::{Command, ExitCode};

use fila_bench::adapters::{WHOLE, Whole};
use fila_bench::machine::{Probe, Stage, Unwatched};
use fila_bench::scenarios::{BOUND, SCALING, SCENARIOS, Scenario};
use fila_bench::{SERVE, serve, table};

const USAGE: &str = "fila-instructions [--only SCENARIO]

Counts the instructions of every stage of the core, and of whole adapters, under callgrind, per message, and compares
them with the table that is checked in. Fails when one differs by more than 2 % (10 % for a whole adapter), or when what
must not grow with its surroundings grows.
With FILA_BLESS set, writes the table. Needs valgrind.";

const TABLE: &str = "instructions.txt";
/// How far a figure may be from the table, as a part of it.
const TOLERANCE: f64 = 0.02;
/// The same for whole adapters, whose threads and tasks take turns as the machine lets them.
const WHOLE_TOLERANCE: f64 = 0.1;
/// Below this many instructions of a message a difference is nobody's fault.
const NOISE: f64 = 8.0;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        [] => count_all(|_| true),
        ["--only", wanted] => count_all(|name| name == *wanted),
        // What runs under valgrind.
        ["--run", name, rounds] => run(name, rounds),
        // The server of a whole adapter.
        [SERVE, kind @ ..] if serve(kind) => ExitCode::SUCCESS,
        _ => {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, rounds: &str) -> ExitCode {
    let rounds = rounds.parse::<u64>().unwrap_or_default();
    if let Some(whole) = Whole::named(name) {
        whole.run(rounds);
        return ExitCode::SUCCESS;
    }
    let Some(scenario) = Scenario::named(name) else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let mut round = scenario.open();
    for _ in 0..WARM_UP {
        round(&mut Unwatched);
    }
    for _ in 0..rounds {
        round(&mut Named);
    }
    ExitCode::SUCCESS
}

/// Rounds before the count begins.
const WARM_UP: u64 = 5;

/// How many rounds are counted: enough messages that what happens now and then is seen often.
fn rounds(scenario: &Scenario) -> u64 {
    (2_000 / scenario.messages).clamp(3, 200)
}

/// Runs each stage inside a function that callgrind sees.
struct Named;

impl Probe for Named {
    fn run(&mut self, stage: Stage, work: &mut dyn FnMut()) {
        match stage {
            Stage::Build => stage_build(work),
            Stage::Submit => stage_submit(work),
            Stage::Transmit => stage_transmit(work),
            Stage::Receive => stage_receive(work),
            Stage::Complete => stage_complete(work),
            Stage::Take => stage_take(work),
            Stage::Abandon => stage_abandon(work),
            Stage::Timeout => stage_timeout(work),
            Stage::Drop => stage_drop(work),
        }
    }
}

macro_rules! stages {
    ($($name:ident $stage:ident)*) => {$(
        #[inline(never)]
        fn $name(work: &mut dyn FnMut()) {
            work();
            // Functions with the same body would become one.
            std::hint::black_box(Stage::$stage);
        }
    )*};
}

stages! {
    stage_build Build stage_submit Submit stage_transmit Transmit stage_receive Receive stage_complete Complete stage_take Take
    stage_abandon Abandon stage_timeout Timeout stage_drop Drop
}

fn count_all(wanted: impl Fn(&str) -> bool) -> ExitCode {
    if !Command::new("valgrind")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        eprintln!("valgrind is needed to count instructions, and is not here");
        return ExitCode::FAILURE;
    }
    let mut counted = Counted {
        toolchain: toolchain(),
        ..Counted::default()
    };
    for scenario in SCENARIOS.iter().filter(|scenario| wanted(scenario.name)) {
        for (stage, instructions) in count(scenario) {
            counted.add(format!("{:28} {stage}", scenario.name), instructions);
        }
    }
    for pair in SCALING.chunks_exact(2) {
        let [few, many] = pair else { continue };
        if wanted(few.name) || wanted(many.name) {
            // The last is the sum.
            let total = |scenario| count(scenario).last().map_or(0.0, |(_, instructions)| *instructions);
            let (alone, crowded) = (total(few), total(many));
            counted.add(format!("{:28} total", few.name), alone);
            counted.add(format!("{:28} total", many.name), crowded);
            counted.scale(many.name, crowded / alone);
        }
    }
    for whole in WHOLE.iter().filter(|whole| wanted(whole.name)) {
        counted.add(format!("{:28} total", whole.name), count_whole(whole));
    }
    counted.finish()
}

/// Instructions per message of a whole adapter, sockets and runtime included but not what the system does for them.
fn count_whole(whole: &Whole) -> f64 {
    let rounds = 4_000 / whole.messages;
    let once = callgrind::run(whole.name, rounds).total();
    let twice = callgrind::run(whole.name, 2 * rounds).total();
    twice.saturating_sub(once) as f64 / (rounds * whole.messages) as f64
}

/// Instructions per message of each stage, and of all.
fn count(scenario: &Scenario) -> Vec<(&'static str, f64)> {
    let rounds = rounds(scenario);
    let once = callgrind::run(scenario.name, rounds);
    let twice = callgrind::run(scenario.name, 2 * rounds);
    let per_message = |stage: Stage| {
        let symbol = format!("stage_{}", stage.name());
        let spent = twice.of(&symbol).saturating_sub(once.of(&symbol));
        spent as f64 / (rounds * scenario.messages) as f64
    };
    let stages: Vec<_> = Stage::ALL
        .into_iter()
        .map(|stage| (stage.name(), per_message(stage)))
        .filter(|(_, instructions)| *instructions > 0.0)
        .collect();
    assert!(!stages.is_empty(), "{}: callgrind saw no stage", scenario.name);
    let total = stages.iter().map(|(_, instructions)| instructions).sum();
    stages.into_iter().chain([("total", total)]).collect()
}

/// What decides how many instructions a program has, besides its source.
fn toolchain() -> String {
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output();
        output.map_or_else(
            |_| "unknown".into(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
    };
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    format!(
        "{}, {}, {}",
        version(&rustc),
        version("valgrind"),
        std::env::consts::ARCH
    )
}

#[derive(Default)]
struct Counted {
    toolchain: String,
    rows: Vec<(String, f64)>,
    growth: Vec<(&'static str, f64)>,
}

impl Counted {
    fn add(&mut self, row: String, instructions: f64) {
        println!("{row:40} {instructions:12.1}");
        self.rows.push((row, instructions));
    }

    fn scale(&mut self, name: &'static str, growth: f64) {
        println!("{name:28} growth      {growth:12.2}");
        self.growth.push((name, growth));
    }

    fn finish(&self) -> ExitCode {
        if table::is_blessed() {
            table::write(TABLE, &self.table());
            return ExitCode::SUCCESS;
        }
        let recorded = table::read(TABLE);
        let mut worse = self.compare(&recorded);
        let made_by = recorded.lines().find_map(|line| line.strip_prefix("# toolchain: "));
        if made_by != Some(&self.toolchain) {
            let made_by = made_by.unwrap_or("none");
            println!(
                "\nThe table was made by another toolchain ({made_by}; this is {}): only growth is compared.",
                self.toolchain
            );
            worse.clear();
        }
        worse.extend(self.growing(&recorded));
        for line in &worse {
            println!("{line}");
        }
        if worse.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn table(&self) -> String {
        let mut table = format!(
            "# Instructions per message: FILA_BLESS=1 cargo run --release -p fila-bench --bin fila-instructions\n\
             # toolchain: {}\n",
            self.toolchain
        );
        for (row, instructions) in &self.rows {
            writeln!(table, "{row:40} {instructions:12.1}").expect("a string");
        }
        table.push_str("# Work beside much, by work beside little; what is above 1.5 is yet to be mended.\n");
        for (name, growth) in &self.growth {
            writeln!(table, "{:40} {growth:12.2}", format!("{name:28} growth")).expect("a string");
        }
        table
    }

    /// What differs from the table. Less is a difference, too: the table is to be renewed then.
    fn compare(&self, recorded: &str) -> Vec<String> {
        let mut differences = Vec::new();
        for (row, now) in &self.rows {
            let is_whole = row.split_whitespace().next().and_then(Whole::named).is_some();
            let tolerance = if is_whole { WHOLE_TOLERANCE } else { TOLERANCE };
            match value(recorded, row) {
                Some(then) if (now - then).abs() <= (then * tolerance).max(NOISE) => {}
                Some(then) => {
                    let percent = 100.0 * (now - then) / then;
                    differences.push(format!(
                        "{row}: {now:.1} instructions, the table says {then:.1} ({percent:+.1} %)"
                    ));
                }
                None => differences.push(format!("{row}: {now:.1} instructions, and no row in the table")),
            }
        }
        differences
    }

    /// What grows although it must not: beyond the bound, or beyond what the table admits of what is yet to be mended.
    fn growing(&self, recorded: &str) -> Vec<String> {
        let admitted = |name: &str| {
            value(recorded, &format!("{name:28} growth"))
                .unwrap_or(BOUND)
                .max(BOUND)
        };
        self.growth
            .iter()
            .filter(|(name, growth)| *growth > admitted(name) * (1.0 + TOLERANCE))
            .map(|(name, growth)| format!("{name}: {growth:.2} times the cost, {:.2} is admitted", admitted(name)))
            .collect()
    }
}

/// The figure of a row.
fn value(table: &str, row: &str) -> Option<f64> {
    let words: Vec<&str> = row.split_whitespace().collect();
    table::lines(table)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|line| line.starts_with(&words))
        .and_then(|line| line.last()?.parse().ok())
}
