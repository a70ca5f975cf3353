//! A oneshot for replies.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::lock;
use super::sync::Mutex;
use crate::error::{Error, ErrorKind};
use crate::machine::{Completion, Reply};

/// The token of asynchronous adapters: carries one reply to the task that waits for it.
///
/// A waiter that is dropped without a reply wakes its task, so no task waits for ever.
#[derive(Debug)]
pub struct Waiter(Option<Arc<Slot>>);

/// The waiting side of a [`Waiter`]. Fused.
#[derive(Debug)]
#[must_use]
pub struct Wait(Arc<Slot>);

#[derive(Debug)]
struct Slot(Mutex<Stage>);

#[derive(Debug)]
enum Stage {
    Waiting(Option<Waker>),
    Done(Reply<Waiter>),
    /// Done and taken, or given up.
    Over,
}

impl Waiter {
    /// A waiter and the wait for its reply.
    pub fn pair() -> (Self, Wait) {
        let slot = Arc::new(Slot(Mutex::new(Stage::Waiting(None))));
        (Self(Some(Arc::clone(&slot))), Wait(slot))
    }

    /// A waiter that nobody waits with.
    #[must_use]
    pub fn detached() -> Self {
        Self(None)
    }

    /// Delivers the reply. Call it with no lock held: it wakes a task.
    pub fn complete(self, reply: Reply<Self>) {
        if let Some(waker) = self.advance(Stage::Done(reply)) {
            waker.wake();
        }
    }

    /// Ends the wait, if it goes on, and returns whom to wake.
    fn advance(mut self, next: Stage) -> Option<Waker> {
        self.0.take()?.advance(next)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(waker) = self.0.take().and_then(|slot| slot.advance(Stage::Over)) {
            waker.wake();
        }
    }
}

impl Wait {
    /// Waits until the client is connected.
    ///
    /// # Errors
    ///
    /// Why it could not be opened.
    pub async fn opened(self) -> Result<(), Error> {
        match self.await {
            Some(Reply::Opened(result)) => result,
            _ => Err(Error::new(ErrorKind::Closed, "the client is gone")),
        }
    }
}

impl Future for Wait {
    /// The reply; `None` if there will be none.
    type Output = Option<Reply<Waiter>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = lock(&self.0.0);
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
}

impl Slot {
    /// Leaves `Waiting`, and returns whom to wake; any other stage stays.
    fn advance(&self, next: Stage) -> Option<Waker> {
        let mut stage = lock(&self.0);
        let Stage::Waiting(waker) = &mut *stage else {
            return None;
        };
        let waker = waker.take();
        *stage = next;
        waker
    }
}

/// Delivers all replies, leaving `completions` empty, and returns how many were waited for. Neighbours that share a
/// waker are woken by one call of it. Call it with no lock held.
pub fn complete(completions: &mut Vec<Completion<Waiter>>) -> usize {
    let mut awaited = 0;
    let mut last: Option<Waker> = None;
    for Completion { token, reply } in completions.drain(..) {
        let Some(waker) = token.advance(Stage::Done(reply)) else {
            continue;
        };
        awaited += 1;
        if last.as_ref().is_none_or(|last| !last.will_wake(&waker))
            && let Some(other) = last.replace(waker)
        {
            other.wake();
        }
    }
    if let Some(last) = last {
        last.wake();
    }
    awaited
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::client::Count;

    fn poll(wait: &mut Wait) -> Poll<Option<Reply<Waiter>>> {
        Pin::new(wait).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_reply_arrives_once() {
        let (waiter, mut wait) = Waiter::pair();
        assert!(poll(&mut wait).is_pending());
        waiter.complete(Reply::Ready);
        assert!(matches!(poll(&mut wait), Poll::Ready(Some(Reply::Ready))));
        assert!(matches!(poll(&mut wait), Poll::Ready(None)), "fused");
    }

    #[test]
    fn a_dropped_waiter_ends_the_wait() {
        let (waiter, mut wait) = Waiter::pair();
        assert!(poll(&mut wait).is_pending());
        drop(waiter);
        assert!(matches!(poll(&mut wait), Poll::Ready(None)));
    }

    #[test]
    fn the_latest_waker_is_woken() {
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (waiter, mut wait) = Waiter::pair();
        for count in [&first, &second] {
            let waker = Waker::from(Arc::clone(count));
            assert!(Pin::new(&mut wait).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        waiter.complete(Reply::Drained);
        assert_eq!(first.0.load(Ordering::SeqCst), 0);
        assert_eq!(second.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn neighbours_share_one_wake_up() {
        let (mine, shared) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let mut completions = Vec::new();
        let mut waits = Vec::new();
        for waker in [Some(&mine), Some(&shared), Some(&shared), None, Some(&shared)] {
            let (token, mut wait) = Waiter::pair();
            if let Some(waker) = waker.map(|count| Waker::from(Arc::clone(count))) {
                assert!(Pin::new(&mut wait).poll(&mut Context::from_waker(&waker)).is_pending());
            }
            completions.push(Completion {
                token,
                reply: Reply::Ready,
            });
            waits.push(wait);
        }
        assert_eq!(complete(&mut completions), 4, "one was not waited for");
        assert_eq!(mine.0.load(Ordering::SeqCst), 1);
        assert_eq!(shared.0.load(Ordering::SeqCst), 1);
        for wait in &mut waits {
            assert!(matches!(poll(wait), Poll::Ready(Some(Reply::Ready))));
        }
    }

    #[test]
    fn detached_waiters_take_replies_silently() {
        Waiter::detached().complete(Reply::Ready);
    }
}
