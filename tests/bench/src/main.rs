//! Yardsticks of the adapters: see `fila_bench`.

use std::process::ExitCode;

use fila_bench::Options;

const USAGE: &str = "fila-bench [--quick] [--only NAME] [--cpus N] [--coalesce]

Prints what the adapters cost next to bare sockets, one figure a line. Runs on one CPU unless told otherwise.
  --quick      less than a minute
  --only NAME  one figure: rtt fanin tasks1000 many consume tls acks inflight idle
  --cpus N     runs on the first N CPUs; 0 for all
  --coalesce   lets the null server answer all that one read brings with one write, as no real server does
With FILA_URL set, measures against that server instead of the built-in null server: rtt fanin many consume.";

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
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
    };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--coalesce" => options.coalesce = true,
            "--only" => options.only = Some(args.next()?),
            "--cpus" => options.cpus = args.next()?.parse().ok()?,
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
