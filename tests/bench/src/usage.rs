//! What this process took from the machine. Servers run in processes of their own and do not count.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// CPU time and page faults.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// Faults that needed no disk: memory that was asked for, or given back and asked for again.
    pub(crate) minor_faults: u64,
}

impl Usage {
    /// Since the process began.
    pub(crate) fn now() -> Self {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
            return Self::default();
        };
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        Self {
            cpu: Duration::from_micros(micros.try_into().unwrap_or_default()),
            minor_faults: usage.minor_page_faults().try_into().unwrap_or_default(),
        }
    }

    /// Since `self` was taken.
    pub(crate) fn spent(self) -> Self {
        let now = Self::now();
        Self {
            cpu: now.cpu.saturating_sub(self.cpu),
            minor_faults: now.minor_faults.saturating_sub(self.minor_faults),
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.minor_faults += other.minor_faults;
    }
}
