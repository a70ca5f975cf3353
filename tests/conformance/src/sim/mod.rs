//! Deterministic simulation: the core's machines and the test broker on virtual time, over a network that delays, splits,
//! coalesces, stalls, half-closes and resets.
//!
//! Everything that happens in a run follows from its seed, so a failing seed replays. While faults happen, after
//! every step, and once they have stopped:
//!
//! * every call that was submitted completes exactly once, and none outlives its deadline;
//! * what callers are told is true: a confirmed message is in the broker under that id until it is acked, one that is
//!   said to have had no effect is never seen, an answer belongs to the question;
//! * what a consumer's connection brought is delivered, all of it, in order and unaltered; messages of one producer
//!   keep their order;
//! * the report of a close counts what callers were told;
//! * nothing that a machine holds exceeds its bound, and nothing is held once its reason is gone;
//! * no channel asks to be driven without need, and none waits for a driver that it did not ask for;
//! * a caller that goes away is forgotten at once, wherever its request is;
//! * when the faults stop, everything comes to rest: all queues are consumed, all machines end.

mod broker;
mod consumers;
mod faults;
mod line;
mod network;
#[path = "../../../../fibp-proto/tests/pair/mod.rs"]
mod pair;
mod plan;
mod port;
mod security;
mod tally;
mod token;
mod truth;
mod users;
mod world;

use std::fmt;
use std::time::Instant;

use fibp_proto::Dialect;
pub use fibp_proto::simulation::Defect;

use world::World;

/// What a run came to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The dialect that the servers spoke.
    pub dialect: Dialect,
    /// Instants at which something happened.
    pub steps: u64,
    /// Calls that completed.
    pub completed: u64,
    /// Messages that were confirmed.
    pub confirmed: u64,
    /// Deliveries that consumers took.
    pub deliveries: u64,
    /// Calls that failed, as they may when things go wrong.
    pub failed: u64,
}

/// A run that showed a defect.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Failure {
    /// The seed of the run.
    pub seed: u64,
    /// What did not hold.
    pub what: String,
    /// How far it came.
    pub steps: u64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, what, steps } = self;
        write!(
            f,
            "seed {seed} failed after {steps} steps: {what}\n  replay: cargo run --release -p fila-conformance --bin \
             simulate -- --seeds 1 --from {seed} --verbose"
        )
    }
}

impl std::error::Error for Failure {}

/// Simulates one seed, with a defect in all machines if one is given. `verbose` prints what happens.
///
/// # Errors
///
/// What did not hold.
pub fn run(seed: u64, defect: Option<Defect>, verbose: bool) -> Result<Report, Failure> {
    let mut world =
        World::new(seed, Instant::now(), defect, verbose).map_err(|what| Failure { seed, what, steps: 0 })?;
    match world.run() {
        Ok(()) => Ok(Report {
            dialect: world.dialect(),
            steps: world.steps,
            completed: world.truth.completed,
            confirmed: world.truth.confirmations,
            deliveries: world.truth.deliveries,
            failed: world.truth.failures,
        }),
        Err(what) => Err(Failure {
            seed,
            what,
            steps: world.steps,
        }),
    }
}
