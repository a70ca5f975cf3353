//! Where replies and their callers meet.

use std::task::{Context, Poll, Waker};

use super::lock;
use super::sync::Mutex;
use super::waiter::Waiter;
use crate::by_number::ByNumber;
use crate::machine::{Completion, Reply};

/// The replies of a machine's calls, until their callers take them. Its lock is held for a moment only, never while the
/// machine is locked or a task is woken.
///
/// Invariants: a machine gives every waiter back once, with a reply or because its call was abandoned. So what is here
/// leaves: with the caller that takes it, or with the reply that nobody takes.
#[derive(Debug, Default)]
pub(super) struct Replies(Mutex<Calls>);

/// How far calls are, by the numbers of their waiters. One that has neither been polled nor answered is not here.
#[derive(Debug, Default)]
struct Calls {
    stages: ByNumber<Stage>,
    /// Those whose callers left before the reply came. They may be many, such as acks that nobody asks after.
    unwanted: ByNumber<()>,
}

#[derive(Debug)]
enum Stage {
    Awaited(Waker),
    Here(Reply),
}

impl Replies {
    /// Takes the reply, or waits for it.
    pub(super) fn poll(&self, number: u64, cx: &mut Context<'_>) -> Poll<Reply> {
        let mut calls = lock(&self.0);
        let before = match calls.stages.get_mut(number) {
            Some(Stage::Awaited(waker)) if waker.will_wake(cx.waker()) => return Poll::Pending,
            Some(Stage::Awaited(waker)) => Some(std::mem::replace(waker, cx.waker().clone())),
            Some(Stage::Here(_)) => {
                if let Some(Stage::Here(reply)) = calls.stages.remove(number) {
                    return Poll::Ready(reply);
                }
                None
            }
            None => {
                calls.stages.set(number, Stage::Awaited(cx.waker().clone()));
                None
            }
        };
        // Dropping a waker may drop a task, and with it calls that come here.
        drop(calls);
        drop(before);
        Poll::Pending
    }

    /// The caller leaves. `abandoned`: its waiter, if the machine gave it back without a reply.
    pub(super) fn leave(&self, number: u64, abandoned: Option<Waiter>) {
        let mut calls = lock(&self.0);
        let before = calls.stages.remove(number);
        if abandoned.is_none() && !matches!(before, Some(Stage::Here(_))) {
            calls.unwanted.set(number, ());
        }
        drop(calls);
        drop(before);
    }

    /// Delivers replies, leaving `completions` empty, and wakes their callers. Returns how many were waited for.
    /// Neighbours that share a waker are woken by one call of it. Call it with no machine locked.
    pub(super) fn deliver(&self, completions: &mut Vec<Completion<Waiter>>) -> usize {
        if completions.is_empty() {
            return 0;
        }
        let mut sleepers = Sleepers::default();
        let mut calls = lock(&self.0);
        let Calls { stages, unwanted } = &mut *calls;
        for Completion { token, reply } in completions.iter_mut() {
            if token.is_nobody() || unwanted.remove(token.0).is_some() {
                continue;
            }
            match stages.get_mut(token.0) {
                Some(stage @ Stage::Awaited(_)) => {
                    if let Stage::Awaited(waker) = std::mem::replace(stage, Stage::Here(taken(reply))) {
                        sleepers.add(waker);
                    }
                }
                None => stages.set(token.0, Stage::Here(taken(reply))),
                Some(Stage::Here(_)) => debug_assert!(false, "a second reply: {reply:?}"),
            }
        }
        drop(calls);
        // What nobody takes was left in place, to be dropped unlocked: a message's bytes may be of the caller's own type.
        completions.clear();
        sleepers.wake()
    }

    /// Delivers a reply to each of these.
    #[cfg(test)]
    pub(super) fn deliver_ready(&self, numbers: impl IntoIterator<Item = u64>) -> usize {
        let completion = |number| Completion {
            token: Waiter(number),
            reply: Reply::Ready,
        };
        self.deliver(&mut numbers.into_iter().map(completion).collect())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let calls = lock(&self.0);
        calls.stages.len() + calls.unwanted.len()
    }
}

fn taken(reply: &mut Reply) -> Reply {
    std::mem::replace(reply, Reply::Ready)
}

/// Callers to be woken. Mostly it is one, which needs no memory.
#[derive(Default)]
struct Sleepers {
    count: usize,
    first: Option<Waker>,
    others: Vec<Waker>,
}

impl Sleepers {
    fn add(&mut self, waker: Waker) {
        self.count += 1;
        let last = self.others.last().or(self.first.as_ref());
        if last.is_some_and(|last| last.will_wake(&waker)) {
            return;
        }
        match self.first {
            None => self.first = Some(waker),
            Some(_) => self.others.push(waker),
        }
    }

    /// Wakes them; how many there were.
    fn wake(self) -> usize {
        self.first.into_iter().chain(self.others).for_each(Waker::wake);
        self.count
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::client::Count;

    fn poll(replies: &Replies, number: u64) -> Poll<Reply> {
        replies.poll(number, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_reply_reaches_its_caller_whoever_comes_first() {
        let replies = Replies::default();
        assert!(poll(&replies, 1).is_pending());
        assert_eq!(replies.deliver_ready([1, 2]), 1, "one is waited for");
        assert!(poll(&replies, 2).is_ready());
        assert!(poll(&replies, 1).is_ready());
        assert_eq!(replies.len(), 0);
    }

    #[test]
    fn nothing_stays_behind_of_a_caller_that_leaves() {
        let replies = Replies::default();
        // Polled or not, before the reply and after it, given back by the machine or not.
        for (number, is_polled, is_answered) in [(1, false, false), (2, true, false), (3, false, true), (4, true, true)]
        {
            for is_abandoned in [false, true] {
                let number = 2 * number + u64::from(is_abandoned);
                if is_polled {
                    assert!(poll(&replies, number).is_pending());
                }
                if is_answered {
                    replies.deliver_ready([number]);
                }
                let is_abandoned = is_abandoned && !is_answered;
                replies.leave(number, is_abandoned.then_some(Waiter(number)));
                if !is_answered && !is_abandoned {
                    assert_eq!(replies.len(), 1, "the reply is under way");
                    assert_eq!(replies.deliver_ready([number]), 0);
                }
                assert_eq!(replies.len(), 0);
            }
        }
        assert_eq!(replies.deliver_ready([Waiter::NOBODY.0]), 0);
        assert_eq!(replies.len(), 0);
    }

    #[test]
    fn the_latest_waker_is_woken() {
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let replies = Replies::default();
        for count in [&first, &second, &second] {
            let waker = Waker::from(Arc::clone(count));
            assert!(replies.poll(1, &mut Context::from_waker(&waker)).is_pending());
        }
        replies.deliver_ready([1]);
        assert_eq!(first.0.load(Ordering::SeqCst), 0);
        assert_eq!(second.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn neighbours_share_one_wake_up() {
        let (mine, shared) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let replies = Replies::default();
        for (number, waker) in [Some(&mine), Some(&shared), Some(&shared), None, Some(&shared)]
            .into_iter()
            .enumerate()
        {
            if let Some(waker) = waker.map(|count| Waker::from(Arc::clone(count))) {
                let number = number as u64 + 1;
                assert!(replies.poll(number, &mut Context::from_waker(&waker)).is_pending());
            }
        }
        assert_eq!(replies.deliver_ready(1..=5), 4, "one was not waited for");
        assert_eq!(mine.0.load(Ordering::SeqCst), 1);
        assert_eq!(shared.0.load(Ordering::SeqCst), 1);
        assert!((1..=5).all(|number| poll(&replies, number).is_ready()));
    }

    /// A task whose last waker is dropped may be dropped with it, and then its calls leave.
    #[test]
    fn a_waker_is_dropped_unlocked() {
        struct Task {
            replies: Arc<Replies>,
        }
        impl std::task::Wake for Task {
            fn wake(self: Arc<Self>) {}
        }
        impl Drop for Task {
            fn drop(&mut self) {
                self.replies.leave(2, None);
            }
        }
        let replies = Arc::new(Replies::default());
        let task = Arc::new(Task {
            replies: Arc::clone(&replies),
        });
        assert!(
            replies
                .poll(1, &mut Context::from_waker(&Waker::from(task)))
                .is_pending()
        );
        assert!(poll(&replies, 1).is_pending(), "polled by another task");
        replies.deliver_ready([1, 2]);
        replies.leave(1, None);
        assert_eq!(replies.len(), 0);
    }
}
