//! Tasks that wait for something that happens again and again.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use super::lock;

/// The tasks that wait for news, each woken once per registration.
#[derive(Debug, Default)]
pub struct Watchers {
    wakers: Mutex<BTreeMap<u64, Waker>>,
    next_id: AtomicU64,
    /// The count of the last news that everybody was woken for.
    seen: AtomicU64,
}

/// Names one watcher.
#[derive(Debug, PartialEq, Eq)]
pub struct WatchId(u64);

impl Watchers {
    /// A name for a new watcher.
    pub fn join(&self) -> WatchId {
        WatchId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// The watcher is gone.
    pub fn leave(&self, id: &WatchId) {
        let waker = lock(&self.wakers).remove(&id.0);
        drop(waker);
    }

    /// Wakes `waker` at the next news. Look for news once more afterwards: they may have come in between.
    pub fn register(&self, id: &WatchId, waker: &Waker) {
        let old = lock(&self.wakers).insert(id.0, waker.clone());
        drop(old);
    }

    /// Wakes every watcher if `count`, which grows with the news, is another than last time.
    pub fn notify(&self, count: u64) {
        if self.seen.load(Ordering::Relaxed) != count && self.seen.swap(count, Ordering::AcqRel) != count {
            self.wake();
        }
    }

    /// Wakes every watcher.
    pub fn wake(&self) {
        let woken = std::mem::take(&mut *lock(&self.wakers));
        for waker in woken.into_values() {
            waker.wake();
        }
    }
}
