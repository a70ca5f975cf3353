//! A oneshot for replies.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::lock;
use crate::link::{Completion, Reply};

/// The token of asynchronous adapters: carries one reply to the task that waits for it.
///
/// A waiter that is dropped without a reply tells its task so; nobody waits for ever.
#[derive(Debug)]
pub struct Waiter(Arc<Slot>);

/// The waiting side of a [`Waiter`].
#[derive(Debug)]
pub(super) struct Slot(Mutex<Stage>);

#[derive(Debug)]
enum Stage {
    Waiting(Option<Waker>),
    Done(Reply<Waiter>),
    /// Done and taken, or given up.
    Over,
}

impl Waiter {
    /// A waiter and where its reply will be.
    pub(super) fn new() -> (Self, Arc<Slot>) {
        let slot = Arc::new(Slot(Mutex::new(Stage::Waiting(None))));
        (Self(Arc::clone(&slot)), slot)
    }

    /// A waiter that nobody waits with.
    #[must_use]
    pub fn detached() -> Self {
        Self(Arc::new(Slot(Mutex::new(Stage::Over))))
    }

    /// Delivers the reply. Call it with no lock held: it wakes a task.
    pub fn complete(self, reply: Reply<Self>) {
        self.0.advance(Stage::Done(reply));
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.advance(Stage::Over);
    }
}

impl Slot {
    /// The reply; `None` if there will be none.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Option<Reply<Waiter>>> {
        let mut stage = lock(&self.0);
        match &mut *stage {
            Stage::Waiting(Some(waker)) => waker.clone_from(cx.waker()),
            Stage::Waiting(none) => *none = Some(cx.waker().clone()),
            Stage::Over => return Poll::Ready(None),
            Stage::Done(_) => {
                if let Stage::Done(reply) = std::mem::replace(&mut *stage, Stage::Over) {
                    return Poll::Ready(Some(reply));
                }
            }
        }
        Poll::Pending
    }

    /// Leaves `Waiting`; any other stage stays.
    fn advance(&self, next: Stage) {
        let mut stage = lock(&self.0);
        if let Stage::Waiting(waker) = &mut *stage {
            let waker = waker.take();
            *stage = next;
            drop(stage);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// Delivers all replies, leaving `completions` empty. Call it with no lock held.
pub fn complete(completions: &mut Vec<Completion<Waiter>>) {
    for Completion { token, reply } in completions.drain(..) {
        token.complete(reply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(slot: &Slot) -> Poll<Option<Reply<Waiter>>> {
        slot.poll(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_reply_arrives_once() {
        let (waiter, slot) = Waiter::new();
        assert!(poll(&slot).is_pending());
        waiter.complete(Reply::Ready);
        assert!(matches!(poll(&slot), Poll::Ready(Some(Reply::Ready))));
        assert!(matches!(poll(&slot), Poll::Ready(None)), "fused");
    }

    #[test]
    fn a_dropped_waiter_ends_the_wait() {
        let (waiter, slot) = Waiter::new();
        assert!(poll(&slot).is_pending());
        drop(waiter);
        assert!(matches!(poll(&slot), Poll::Ready(None)));
    }

    #[test]
    fn the_latest_waker_is_woken() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        #[derive(Default)]
        struct Count(AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (waiter, slot) = Waiter::new();
        for count in [&first, &second] {
            let waker = Waker::from(Arc::clone(count));
            assert!(slot.poll(&Context::from_waker(&waker)).is_pending());
        }
        waiter.complete(Reply::Drained);
        assert_eq!(first.0.load(Ordering::SeqCst), 0);
        assert_eq!(second.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn detached_waiters_take_replies_silently() {
        Waiter::detached().complete(Reply::Ready);
    }
}
