//! Whom to wake when a channel's driver is needed.

use std::task::Waker;

use super::lock;
use super::sync::{AtomicBool, Mutex, Ordering};

/// The waker of one driver. Waking it costs nothing while it is awake already.
#[derive(Debug)]
pub struct Attention {
    /// The driver was woken, or is about to take a turn anyway: waking it again would be waste.
    awake: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Attention {
    /// For a driver that is about to be started.
    pub(super) fn new() -> Self {
        Self {
            // Its first turn comes by itself, and takes in what was asked before.
            awake: AtomicBool::new(true),
            waker: Mutex::new(None),
        }
    }

    /// Begins a driver's poll: from here on a kick wakes `waker`. True if there was a kick since the last time.
    pub fn attend(&self, waker: &Waker) -> bool {
        {
            // First: a kick that comes now finds this waker, or is seen below.
            let mut known = lock(&self.waker);
            match &mut *known {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        self.take_kick()
    }

    /// Whether there was a kick since the last time.
    pub fn take_kick(&self) -> bool {
        // Mostly there was none. The load alone leaves the cache line to the callers.
        self.awake.load(Ordering::Relaxed) && self.awake.swap(false, Ordering::AcqRel)
    }

    /// Announces that the driver takes another turn after the tasks it is about to wake have run: until then
    /// their calls are collected, to travel together.
    pub(super) fn collect_calls(&self) {
        self.awake.store(true, Ordering::Release);
    }

    pub(super) fn is_awake(&self) -> bool {
        self.awake.load(Ordering::Acquire)
    }

    /// Has the driver take a turn.
    pub fn kick(&self) {
        if !self.awake.swap(true, Ordering::AcqRel)
            && let Some(waker) = self.waker()
        {
            waker.wake();
        }
    }

    pub(super) fn waker(&self) -> Option<Waker> {
        lock(&self.waker).clone()
    }
}
