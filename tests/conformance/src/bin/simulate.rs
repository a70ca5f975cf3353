//! Runs the simulation over many seeds: `simulate [--seeds N] [--from S] [--verbose]`.

use std::process::ExitCode;

use fila_conformance::sim;

/// Failures that are shown in full.
const SHOWN: u64 = 20;

struct Arguments {
    seeds: u64,
    from: u64,
    verbose: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments {
        seeds: 100,
        from: 1,
        verbose: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            arguments
                .next()
                .and_then(|value| value.parse().ok())
                .ok_or_else(|| format!("{argument} needs a number"))
        };
        match argument.as_str() {
            "--seeds" => parsed.seeds = number()?,
            "--from" => parsed.from = number()?,
            "--verbose" => parsed.verbose = true,
            _ => {
                return Err(format!(
                    "unknown argument {argument}; known: --seeds N, --from S, --verbose"
                ));
            }
        }
    }
    Ok(parsed)
}

fn main() -> ExitCode {
    let Arguments { seeds, from, verbose } = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let (mut failures, mut steps, mut completed, mut deliveries) = (0_u64, 0_u64, 0_u64, 0_u64);
    for seed in from..from.saturating_add(seeds) {
        match sim::run(seed, None, verbose) {
            Ok(report) => {
                steps += report.steps;
                completed += report.completed;
                deliveries += report.deliveries;
            }
            Err(failure) => {
                steps += failure.steps;
                failures += 1;
                if failures <= SHOWN {
                    eprintln!("{failure}");
                }
            }
        }
    }
    println!("simulate seeds={seeds} failures={failures} steps={steps} calls={completed} deliveries={deliveries}");
    if failures > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
