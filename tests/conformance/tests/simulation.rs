//! The simulation holds for a few hundred seeds, and notices machines that are broken on purpose.

use std::thread;

use fila_conformance::sim::{self, Defect};

const SEEDS: u64 = 200;

/// What some runs came to.
#[derive(Default)]
struct Sum {
    completed: u64,
    confirmed: u64,
    deliveries: u64,
    failures: Vec<String>,
}

fn run(seeds: impl Iterator<Item = u64>) -> Sum {
    let mut sum = Sum::default();
    for seed in seeds {
        match sim::run(seed, None, false) {
            Ok(report) => {
                sum.completed += report.completed;
                sum.confirmed += report.confirmed;
                sum.deliveries += report.deliveries;
            }
            Err(failure) => sum.failures.push(failure.to_string()),
        }
    }
    sum
}

#[test]
fn links_survive_whatever_the_network_and_the_broker_do() {
    // Runs share nothing: every processor takes its part of the seeds.
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get().min(8));
    let sums: Vec<Sum> = thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|first| scope.spawn(move || run((1..=SEEDS).skip(first).step_by(threads))))
            .collect();
        parts
            .into_iter()
            .map(|part| part.join().expect("a run does not panic"))
            .collect()
    });
    let failures: Vec<&str> = sums.iter().flat_map(|sum| &sum.failures).map(String::as_str).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // The faults leave enough alone to be worth surviving.
    let total = |figure: fn(&Sum) -> u64| sums.iter().map(figure).sum::<u64>();
    let (completed, confirmed) = (total(|sum| sum.completed), total(|sum| sum.confirmed));
    let deliveries = total(|sum| sum.deliveries);
    assert!(completed > 50 * SEEDS, "{completed} calls");
    assert!(confirmed > 5 * SEEDS, "{confirmed} messages");
    assert!(
        deliveries >= confirmed,
        "{deliveries} deliveries of {confirmed} messages"
    );
}

#[test]
fn a_seed_replays_itself() {
    for seed in [3, 5, 8, 13] {
        let runs = [(); 2].map(|()| sim::run(seed, None, false).map(|report| (report.steps, report.completed)));
        let [first, second] = runs.map(|run| run.map_err(|failure| failure.to_string()));
        assert_eq!(first, second);
    }
}

/// The first of a hundred seeds that notices the defect.
fn noticed(defect: Defect) -> String {
    (1..=100)
        .find_map(|seed| sim::run(seed, Some(defect), false).err())
        .unwrap_or_else(|| panic!("nothing notices {defect:?}"))
        .what
}

/// The first run that shows the defect complains of one of these.
fn assert_noticed(defect: Defect, expected: &[&str]) {
    let what = noticed(defect);
    let is_expected = expected.iter().any(|expected| what.contains(expected));
    assert!(is_expected, "{defect:?} is noticed by something else: {what}");
}

#[test]
fn an_id_that_is_used_too_early_is_noticed() {
    // The request that had the id is forgotten here, or, if nobody waits for it any more, found open at the server.
    assert_noticed(Defect::EarlyId, &["dropped the waiter", "again before it was answered"]);
}

#[test]
fn a_dropped_tombstone_is_noticed() {
    // The server sees the id twice; if its answer to the first is on its way already, that is taken for the second's.
    assert_noticed(
        Defect::DroppedTombstone,
        &[
            "again before it was answered",
            "cannot be decoded",
            "which the broker knows as",
            "was asked for and",
        ],
    );
}

#[test]
fn a_skipped_top_up_is_noticed() {
    assert_noticed(Defect::SkippedTopUp, &["no rest"]);
}

#[test]
fn a_lost_waiter_is_noticed() {
    assert_noticed(Defect::LostWaiter, &["dropped the waiter"]);
}

#[test]
fn a_lost_wake_up_is_noticed() {
    assert_noticed(Defect::LostWakeUp, &["no rest"]);
}

#[test]
fn a_forgotten_call_is_noticed() {
    assert_noticed(Defect::ForgottenCall, &["dropped the waiter"]);
}
