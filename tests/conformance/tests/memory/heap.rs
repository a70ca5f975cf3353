//! The heap of this process, in bytes that are allocated and not freed: what the program asked for, whatever the
//! system's allocator or pages make of it.

use std::fmt;
use std::time::Duration;

use fibp_proto::Dialect;
use fibp_proto::config::Config;
use fila_conformance::env::{self, Env};
use fila_conformance::remote::{RemoteBroker, Start};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

pub(crate) const KIB: usize = 1024;

/// A broker whose heap is not this process'.
pub(crate) fn broker(dialect: Dialect, visibility_timeout: Duration, manual_clock: bool) -> RemoteBroker {
    let start = Start {
        dialect,
        visibility_timeout,
        manual_clock,
    };
    RemoteBroker::start(env!("CARGO_BIN_EXE_remote_broker"), start)
}

/// A client that has been quiet for some milliseconds gives back the large buffers of its busy times, as others do
/// after some seconds.
pub(crate) fn config(broker: &RemoteBroker) -> Config {
    const PATIENT: u32 = 200;
    env::config(broker.addr()).heartbeat(Duration::from_millis(50), PATIENT)
}

/// The heap from a moment on at which nothing happened.
#[derive(Debug)]
pub(crate) struct Baseline(usize);

/// How far a heap is above its baseline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Growth {
    /// Now.
    pub(crate) live: usize,
    /// At most, since the baseline was taken.
    pub(crate) peak: usize,
}

impl Baseline {
    /// Waits until the heap changes no more, and starts from there.
    pub(crate) async fn at_rest(env: &Env) -> Self {
        let live = at_rest(env).await;
        HEAP.reset_peak_usage();
        Self(live)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0
    }

    /// What has become of it, as it is in this moment.
    pub(crate) fn growth(&self) -> Growth {
        Growth {
            live: HEAP.current_usage().saturating_sub(self.0),
            peak: HEAP.peak_usage().saturating_sub(self.0),
        }
    }

    /// As [`growth`](Self::growth), once the heap changes no more.
    pub(crate) async fn growth_at_rest(&self, env: &Env) -> Growth {
        let live = at_rest(env).await;
        Growth {
            live: live.saturating_sub(self.0),
            ..self.growth()
        }
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB (peak {} KiB)", self.live / KIB, self.peak / KIB)
    }
}

/// The heap when it has hardly changed for a while: tasks that end, buffers that are returned and answers to abandoned
/// calls are through.
async fn at_rest(env: &Env) -> usize {
    const LOOKS: u32 = 30;
    /// Heartbeats and timers come and go.
    const NOISE: usize = 4 * KIB;
    let (mut live, mut same) = (0, 0);
    env.eventually("the heap is at rest", async || {
        let now = HEAP.current_usage();
        if now.abs_diff(live) <= NOISE {
            same += 1;
        } else {
            (live, same) = (now, 0);
        }
        same >= LOOKS
    })
    .await;
    live
}
