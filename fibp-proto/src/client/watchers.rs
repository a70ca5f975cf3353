//! Tasks that wait for events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::lock;
use super::sync::{AtomicU64, Mutex, Ordering};
use crate::event::{Cursor, Event, State};
use crate::shared::Shared;

/// The tasks that wait for news, each woken once per registration.
#[derive(Debug, Default)]
pub struct Watchers {
    wakers: Mutex<BTreeMap<u64, Waker>>,
    next_id: AtomicU64,
    /// The count of the last news that everybody was woken for.
    seen: AtomicU64,
}

impl Watchers {
    /// Wakes everybody if `count`, which grows with the news, is another than last time.
    pub fn notify(&self, count: u64) {
        if self.seen.load(Ordering::Relaxed) == count || self.seen.swap(count, Ordering::AcqRel) == count {
            return;
        }
        let woken = std::mem::take(&mut *lock(&self.wakers));
        for waker in woken.into_values() {
            waker.wake();
        }
    }
}

/// One subscription to a client's events. Does not keep the client alive.
#[derive(Debug)]
pub struct Subscription {
    shared: Shared,
    watchers: Arc<Watchers>,
    cursor: Cursor,
    id: u64,
}

impl Subscription {
    /// Sees the events from now on.
    #[must_use]
    pub fn new(shared: &Shared, watchers: &Arc<Watchers>) -> Self {
        Self {
            shared: shared.clone(),
            watchers: Arc::clone(watchers),
            cursor: shared.subscribe(),
            id: watchers.next_id.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The next event; `None` when the client is closed and all were seen.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Event>> {
        if let Some(event) = self.shared.next_event(&mut self.cursor) {
            return Poll::Ready(Some(event));
        }
        let old = lock(&self.watchers.wakers).insert(self.id, cx.waker().clone());
        drop(old);
        // Once more: news may have come in between.
        let closed = self.shared.state() == State::Closed;
        match self.shared.next_event(&mut self.cursor) {
            None if !closed => Poll::Pending,
            last => Poll::Ready(last),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let waker = lock(&self.watchers.wakers).remove(&self.id);
        drop(waker);
    }
}
