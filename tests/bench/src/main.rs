//! Yardsticks of the adapters: see `fila_bench`.

use std::process::ExitCode;
use std::time::Duration;

use fila_bench::Options;

const USAGE: &str = "fila-bench [--quick] [--only NAME] [--cpus N] [--coalesce] [--service-us N]

Prints what the adapters cost next to bare sockets, one figure a line. Runs on one CPU unless told otherwise.
  --quick         about a minute
  --only NAME     one figure: rtt people fanin tasks1000 callers cluster many consume tls acks inflight idle busy
  --cpus N        runs on the first N CPUs; 0 for all
  --coalesce      lets the null server answer all that one read brings with one write, as no real server does
  --service-us N  how long the null server of the figure `callers` takes for a frame; 100
With FILA_URL set, measures against that server instead of the built-in null server: rtt fanin many consume.

ratio is that to the bare loop, which resends the same bytes and reads only lengths: the limit. fair_ratio is that to a
loop written by hand that does what every client must. Their CPU times and page faults are this process's alone.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((fila_bench::SERVE, kind)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return if fila_bench::serve(kind) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    match parse(args.into_iter()) {
        Some(options) => {
            pin(options.cpus);
            fila_bench::run(&options);
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options {
        quick: false,
        only: None,
        cpus: 1,
        coalesce: false,
        service: Duration::from_micros(100),
        most: u64::MAX,
    };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--coalesce" => options.coalesce = true,
            "--only" => options.only = Some(args.next()?),
            "--cpus" => options.cpus = args.next()?.parse().ok()?,
            "--service-us" => options.service = Duration::from_micros(args.next()?.parse().ok()?),
            _ => return None,
        }
    }
    Some(options)
}

/// Threads inherit the affinity of the one that starts them: called first, this pins them all.
fn pin(cpus: usize) {
    if cpus == 0 {
        return;
    }
    let cpus: Vec<usize> = (0..cpus).collect();
    if let Err(error) = affinity::set_thread_affinity(cpus) {
        eprintln!("not pinned: {error}; the figures do not compare");
    }
}
