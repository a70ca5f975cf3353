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
        // All are taken out, and woken without the lock: whoever is woken registers again.
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

/// The changes of a client's state. Does not keep the client alive.
#[derive(Debug)]
pub struct StateWatch {
    shared: Shared,
    watchers: Arc<Watchers>,
    id: u64,
    last: Option<State>,
}

impl StateWatch {
    /// Sees the state as it is, then every later one.
    #[must_use]
    pub fn new(shared: &Shared, watchers: &Arc<Watchers>) -> Self {
        Self {
            shared: shared.clone(),
            watchers: Arc::clone(watchers),
            id: watchers.next_id.fetch_add(1, Ordering::Relaxed),
            last: None,
        }
    }

    /// The state, once it is another than the last one returned; `None` after [`State::Closed`]. States that were left
    /// again in between are passed over.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<State>> {
        if self.last == Some(State::Closed) {
            return Poll::Ready(None);
        }
        if let Some(state) = self.news() {
            return Poll::Ready(Some(state));
        }
        let old = lock(&self.watchers.wakers).insert(self.id, cx.waker().clone());
        drop(old);
        // Once more: it may have changed in between.
        match self.news() {
            Some(state) => Poll::Ready(Some(state)),
            None => Poll::Pending,
        }
    }

    fn news(&mut self) -> Option<State> {
        let state = self.shared.state();
        (self.last.replace(state) != Some(state)).then_some(state)
    }
}

impl Drop for StateWatch {
    fn drop(&mut self) {
        let waker = lock(&self.watchers.wakers).remove(&self.id);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;
    use crate::client::Count;
    use crate::config::Config;

    #[test]
    fn a_state_is_seen_once_and_changes_wake() {
        let shared = Shared::new(Config::new("server:1")).unwrap();
        let watchers = Arc::<Watchers>::default();
        let mut watch = StateWatch::new(&shared, &watchers);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let cx = Context::from_waker(&waker);
        assert_eq!(watch.poll(&cx), Poll::Ready(Some(State::Connecting)));
        assert_eq!(watch.poll(&cx), Poll::Pending);
        shared.set_state(State::Connected);
        shared.set_state(State::Reconnecting);
        watchers.notify(shared.event_count());
        assert_eq!(count.0.load(SeqCst), 1);
        assert_eq!(watch.poll(&cx), Poll::Ready(Some(State::Reconnecting)));
        shared.set_state(State::Closed);
        assert_eq!(watch.poll(&cx), Poll::Ready(Some(State::Closed)));
        assert_eq!(watch.poll(&cx), Poll::Ready(None));
    }
}
