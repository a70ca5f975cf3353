//! Runs this program under callgrind and reads what came out (the format is in valgrind's manual, "Callgrind Format
//! Specification").

use std::collections::HashMap;
use std::process::{Command, Stdio};

/// Instructions that calls of functions took, what they call included.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    calls: HashMap<String, u64>,
    total: u64,
}

impl Costs {
    /// Of all functions whose name contains this.
    pub(crate) fn of(&self, name: &str) -> u64 {
        self.calls
            .iter()
            .filter(|(function, _)| function.contains(name))
            .map(|(_, cost)| cost)
            .sum()
    }

    /// Of the whole program.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Adds up the lines that follow `calls=`, which hold the inclusive cost of a call.
    fn parse(text: &str) -> Self {
        let mut costs: HashMap<String, u64> = HashMap::new();
        let (mut callee, mut is_call, mut total) = (None, false, 0);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("cfn=") {
                callee = Some(name);
            } else if let Some(all) = line.strip_prefix("totals: ") {
                total = all.parse().unwrap_or_default();
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if std::mem::take(&mut is_call) {
                let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok());
                if let (Some(name), Some(cost)) = (callee.take(), cost) {
                    *costs.entry(name.to_owned()).or_default() += cost;
                }
            }
        }
        Self { calls: costs, total }
    }
}

/// Runs a scenario for some rounds.
///
/// # Panics
///
/// The program cannot be run under valgrind.
pub(crate) fn run(scenario: &str, rounds: u64) -> Costs {
    let out = std::env::temp_dir().join(format!("fila-callgrind-{}-{scenario}-{rounds}", std::process::id()));
    let status = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--compress-strings=no",
            "--compress-pos=no",
            "--quiet",
        ])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().expect("a running program"))
        .args(["--run", scenario, &rounds.to_string()])
        .stdout(Stdio::null())
        .status()
        .expect("valgrind");
    assert!(status.success(), "{scenario} under valgrind: {status}");
    let text = std::fs::read(&out).expect("what callgrind wrote");
    std::fs::remove_file(&out).expect("a file of our own");
    Costs::parse(&String::from_utf8_lossy(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_of_calls_are_added_up() {
        let text = "fn=main\n1 5\ncfn=fila::stage_submit\ncalls=2 10\n3 100\ncfn=other\ncalls=1 0\n4 7\n\
                    fn=twin\ncfi=file.rs\ncfn=fila::stage_submit\ncalls=1 10\n9 20\n\nfn=fila::stage_submit\n10 60\n\ntotals: 192\n";
        let costs = Costs::parse(text);
        assert_eq!(costs.of("stage_submit"), 120);
        assert_eq!(costs.of("other"), 7);
        assert_eq!(costs.of("nothing"), 0);
        assert_eq!(costs.total(), 192);
    }
}
