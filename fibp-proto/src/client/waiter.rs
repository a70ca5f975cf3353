//! Oneshots for replies, each of its own type.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::lock;
use super::sync::Mutex;
use crate::error::{Error, ErrorKind, SendError};
use crate::machine::{CloseReport, Completion, Reply};
use crate::message::MessageId;
use crate::response::Response;

/// Declares what can be waited for, and the waiter for each.
macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident($output:ty);)+) => {
        /// The kinds of [`Answer`], one for each kind of [`Reply`].
        pub mod answer {
            use super::{Answer, CloseReport, Error, Failure, MessageId, Response, SendError, Slot, Waiter};

            $(
                $(#[$doc])*
                #[derive(Debug)]
                pub enum $name {}

                impl Answer for $name {
                    type Output = $output;

                    fn waiter(slot: Slot<Self::Output>) -> Waiter {
                        Waiter::$name(slot)
                    }

                    fn error(output: &Self::Output) -> Option<&Error> {
                        output.failure()
                    }
                }
            )+
        }

        /// The token of adapters: carries one reply to the task that waits for it.
        ///
        /// A waiter that is dropped without a reply wakes its task, so no task waits for ever.
        #[derive(Debug)]
        #[non_exhaustive]
        pub enum Waiter {
            /// Nobody waits.
            Detached,
            $($(#[$doc])* $name(Slot<$output>),)+
        }
    };
}

answers! {
    /// A channel is open: see [`Reply::Opened`](crate::machine::Reply::Opened).
    Opened(Result<(), Error>);
    /// A request's answer: see [`Reply::Response`](crate::machine::Reply::Response).
    Answered(Result<Box<Response>, Error>);
    /// One message's result: see [`Reply::Enqueued`](crate::machine::Reply::Enqueued).
    Enqueued(Result<MessageId, Box<SendError>>);
    /// The results of many messages: see [`Reply::EnqueuedMany`](crate::machine::Reply::EnqueuedMany).
    EnqueuedMany(Vec<Result<MessageId, SendError>>);
    /// One ack's or nack's result: see [`Reply::Settled`](crate::machine::Reply::Settled).
    Settled(Result<(), Error>);
    /// The results of many acks or nacks: see [`Reply::SettledMany`](crate::machine::Reply::SettledMany).
    SettledMany(Vec<Result<(), Error>>);
    /// Room in a producer's buffer: see [`Reply::Room`](crate::machine::Reply::Room).
    Room(Result<(), Error>);
    /// A producer's messages are settled: see [`Reply::Flushed`](crate::machine::Reply::Flushed).
    Flushed(Result<(), Error>);
    /// A delivery waits: see [`Reply::Ready`](crate::machine::Reply::Ready).
    Ready(());
    /// A consumer stopped receiving: see [`Reply::Drained`](crate::machine::Reply::Drained).
    Drained(());
    /// A machine is closed: see [`Reply::Closed`](crate::machine::Reply::Closed).
    Closed(CloseReport);
}

/// What a call can be answered with.
pub trait Answer {
    /// The answer itself.
    type Output;

    /// The waiter that fills this slot.
    fn waiter(slot: Slot<Self::Output>) -> Waiter;

    /// Why there is no better answer; of several, the first.
    fn error(output: &Self::Output) -> Option<&Error>;
}

/// What an answer says of a failure.
trait Failure {
    fn failure(&self) -> Option<&Error>;
}

impl<T> Failure for Result<T, Error> {
    fn failure(&self) -> Option<&Error> {
        self.as_ref().err()
    }
}

impl<T> Failure for Result<T, SendError> {
    fn failure(&self) -> Option<&Error> {
        self.as_ref().err().map(|failed| &failed.error)
    }
}

impl<T> Failure for Result<T, Box<SendError>> {
    fn failure(&self) -> Option<&Error> {
        self.as_ref().err().map(|failed| &failed.error)
    }
}

impl<R: Failure> Failure for Vec<R> {
    fn failure(&self) -> Option<&Error> {
        self.iter().find_map(R::failure)
    }
}

impl Failure for () {
    fn failure(&self) -> Option<&Error> {
        None
    }
}

impl Failure for CloseReport {
    fn failure(&self) -> Option<&Error> {
        None
    }
}

/// Where one reply is put. One that is dropped empty ends the wait.
pub struct Slot<R>(Option<Arc<Shared<R>>>);

/// The waiting side of a [`Waiter`]. Fused.
#[must_use]
pub struct Wait<R>(Arc<Shared<R>>);

struct Shared<R>(Mutex<Stage<R>>);

enum Stage<R> {
    Waiting(Option<Waker>),
    Done(R),
    /// Done and taken, or given up.
    Over,
}

impl Waiter {
    /// A waiter and the wait for its reply.
    pub fn pair<A: Answer>() -> (Self, Wait<A::Output>) {
        let shared = Arc::new(Shared(Mutex::new(Stage::Waiting(None))));
        (A::waiter(Slot(Some(Arc::clone(&shared)))), Wait(shared))
    }

    /// Delivers the reply. Call it with no lock held: it wakes a task.
    pub fn complete(self, reply: Reply) {
        if let Some(waker) = self.fill(reply) {
            waker.wake();
        }
    }

    /// Ends the wait, if it goes on, and returns whom to wake.
    fn fill(self, reply: Reply) -> Option<Waker> {
        // The only place where a waiter and its reply meet: beyond it, their types agree.
        match (self, reply) {
            (Self::Detached, _) => None,
            (Self::Opened(slot), Reply::Opened(result)) => slot.fill(result),
            (Self::Answered(slot), Reply::Response(result)) => slot.fill(result),
            (Self::Enqueued(slot), Reply::Enqueued(result)) => slot.fill(result),
            (Self::EnqueuedMany(slot), Reply::EnqueuedMany(results)) => slot.fill(results),
            (Self::Settled(slot), Reply::Settled(result)) => slot.fill(result),
            (Self::SettledMany(slot), Reply::SettledMany(results)) => slot.fill(results),
            (Self::Room(slot), Reply::Room(result)) => slot.fill(result),
            (Self::Flushed(slot), Reply::Flushed(result)) => slot.fill(result),
            (Self::Ready(slot), Reply::Ready) => slot.fill(()),
            (Self::Drained(slot), Reply::Drained) => slot.fill(()),
            (Self::Closed(slot), Reply::Closed(report)) => slot.fill(report),
            (waiter, reply) => {
                // A machine's defect. The wait ends without an answer, as the waiter is dropped.
                debug_assert!(false, "{waiter:?} was given {reply:?}");
                None
            }
        }
    }
}

impl<R> Slot<R> {
    fn fill(mut self, reply: R) -> Option<Waker> {
        self.0.take()?.advance(Stage::Done(reply))
    }
}

impl<R> Drop for Slot<R> {
    fn drop(&mut self) {
        if let Some(waker) = self.0.take().and_then(|shared| shared.advance(Stage::Over)) {
            waker.wake();
        }
    }
}

impl Wait<Result<(), Error>> {
    /// Waits until the client is connected.
    ///
    /// # Errors
    ///
    /// Why it could not be opened.
    pub async fn opened(self) -> Result<(), Error> {
        self.await
            .unwrap_or_else(|| Err(Error::new(ErrorKind::Closed, "the client is gone")))
    }
}

impl<R> Future for Wait<R> {
    /// The reply; `None` if there will be none.
    type Output = Option<R>;

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

impl<R> Shared<R> {
    /// Leaves `Waiting`, and returns whom to wake; any other stage stays.
    fn advance(&self, next: Stage<R>) -> Option<Waker> {
        let mut stage = lock(&self.0);
        let Stage::Waiting(waker) = &mut *stage else {
            return None;
        };
        // Returned, not woken: the lock of this slot is held.
        let waker = waker.take();
        *stage = next;
        waker
    }
}

impl<R> fmt::Debug for Slot<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

impl<R> fmt::Debug for Wait<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").finish_non_exhaustive()
    }
}

/// Delivers all replies, leaving `completions` empty, and returns how many were waited for. Neighbours that share a
/// waker are woken by one call of it. Call it with no lock held.
pub fn complete(completions: &mut Vec<Completion<Waiter>>) -> usize {
    let mut awaited = 0;
    let mut last: Option<Waker> = None;
    for Completion { token, reply } in completions.drain(..) {
        let Some(waker) = token.fill(reply) else {
            continue;
        };
        awaited += 1;
        // Woken one behind: all that share a waker have their replies before it is called.
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

    fn poll<R>(wait: &mut Wait<R>) -> Poll<Option<R>> {
        Pin::new(wait).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_reply_arrives_once() {
        let (waiter, mut wait) = Waiter::pair::<answer::Ready>();
        assert!(poll(&mut wait).is_pending());
        waiter.complete(Reply::Ready);
        assert!(matches!(poll(&mut wait), Poll::Ready(Some(()))));
        assert!(matches!(poll(&mut wait), Poll::Ready(None)), "fused");
    }

    #[test]
    fn a_dropped_waiter_ends_the_wait() {
        let (waiter, mut wait) = Waiter::pair::<answer::Ready>();
        assert!(poll(&mut wait).is_pending());
        drop(waiter);
        assert!(matches!(poll(&mut wait), Poll::Ready(None)));
    }

    #[test]
    fn the_latest_waker_is_woken() {
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (waiter, mut wait) = Waiter::pair::<answer::Ready>();
        for count in [&first, &second] {
            let waker = Waker::from(Arc::clone(count));
            assert!(Pin::new(&mut wait).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        waiter.complete(Reply::Ready);
        assert_eq!(first.0.load(Ordering::SeqCst), 0);
        assert_eq!(second.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn neighbours_share_one_wake_up() {
        let (mine, shared) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let mut completions = Vec::new();
        let mut waits = Vec::new();
        for waker in [Some(&mine), Some(&shared), Some(&shared), None, Some(&shared)] {
            let (token, mut wait) = Waiter::pair::<answer::Ready>();
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
            assert!(matches!(poll(wait), Poll::Ready(Some(()))));
        }
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "was given Ready")]
    fn a_reply_of_another_kind_is_a_defect() {
        let (waiter, _wait) = Waiter::pair::<answer::Flushed>();
        waiter.complete(Reply::Ready);
    }

    #[test]
    fn every_kind_of_reply_reaches_its_waiter() {
        fn answered<A: Answer>(reply: Reply) -> A::Output {
            let (waiter, mut wait) = Waiter::pair::<A>();
            waiter.complete(reply);
            match poll(&mut wait) {
                Poll::Ready(Some(output)) => output,
                _ => panic!("no reply"),
            }
        }
        assert!(answered::<answer::Opened>(Reply::Opened(Ok(()))).is_ok());
        assert!(answered::<answer::Answered>(Reply::Response(Ok(Box::new(Response::Heartbeat)))).is_ok());
        assert_eq!(
            answered::<answer::Enqueued>(Reply::Enqueued(Ok("id".into()))).unwrap(),
            "id"
        );
        assert!(answered::<answer::EnqueuedMany>(Reply::EnqueuedMany(Vec::new())).is_empty());
        assert!(answered::<answer::Settled>(Reply::Settled(Ok(()))).is_ok());
        assert_eq!(
            answered::<answer::SettledMany>(Reply::SettledMany(vec![Ok(())])).len(),
            1
        );
        assert!(answered::<answer::Room>(Reply::Room(Ok(()))).is_ok());
        assert!(answered::<answer::Flushed>(Reply::Flushed(Ok(()))).is_ok());
        answered::<answer::Ready>(Reply::Ready);
        answered::<answer::Drained>(Reply::Drained);
        let report = CloseReport::default();
        assert_eq!(answered::<answer::Closed>(Reply::Closed(report)), report);
    }

    #[test]
    fn detached_waiters_take_replies_silently() {
        Waiter::Detached.complete(Reply::Ready);
    }
}
