//! The simulation holds for a few hundred seeds, and notices links that are broken on purpose.

use fila_conformance::sim::{self, Flaw};

const SEEDS: u64 = 200;

#[test]
fn links_survive_whatever_the_network_and_the_broker_do() {
    let (mut completed, mut confirmed, mut deliveries, mut failures) = (0, 0, 0, Vec::new());
    for seed in 1..=SEEDS {
        match sim::run(seed, None, false) {
            Ok(report) => {
                completed += report.completed;
                confirmed += report.confirmed;
                deliveries += report.deliveries;
            }
            Err(failure) => failures.push(failure.to_string()),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // The faults leave enough alone to be worth surviving.
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
fn noticed(flaw: Flaw) -> String {
    (1..=100)
        .find_map(|seed| sim::run(seed, Some(flaw), false).err())
        .unwrap_or_else(|| panic!("nothing notices {flaw:?}"))
        .what
}

#[test]
fn an_id_that_is_used_too_early_is_noticed() {
    let what = noticed(Flaw::EarlyId);
    assert!(!what.is_empty());
}

#[test]
fn a_dropped_tombstone_is_noticed() {
    let what = noticed(Flaw::DroppedTombstone);
    assert!(!what.is_empty());
}

#[test]
fn a_skipped_top_up_is_noticed() {
    let what = noticed(Flaw::SkippedTopUp);
    assert!(what.contains("no rest"), "{what}");
}

#[test]
fn a_lost_waiter_is_noticed() {
    let what = noticed(Flaw::LostWaiter);
    assert!(what.contains("dropped the waiter"), "{what}");
}

#[test]
fn a_lost_wake_up_is_noticed() {
    let what = noticed(Flaw::LostWakeUp);
    assert!(what.contains("no rest"), "{what}");
}

#[test]
fn a_forgotten_call_is_noticed() {
    let what = noticed(Flaw::ForgottenCall);
    assert!(what.contains("dropped the waiter"), "{what}");
}
