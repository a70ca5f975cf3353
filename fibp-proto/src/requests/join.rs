//! Results of lists, joined in input order.

use std::collections::BTreeMap;

use super::run::{Payloads, failed_messages, failed_settles};
use crate::error::{Error, SendError};
use crate::machine::{CallId, Completion, Reply};
use crate::message::MessageId;

/// The calls that are lists.
///
/// Runs only know their place; what they have in common is kept here once.
#[derive(Debug)]
pub(super) struct Joins<T>(BTreeMap<CallId, Join<T>>);

/// The results of one call.
#[derive(Debug)]
struct Join<T> {
    token: T,
    left: usize,
    results: Results,
}

#[derive(Debug)]
enum Results {
    Enqueued(InOrder<Result<MessageId, SendError>>),
    Settled(InOrder<Result<(), Error>>),
}

/// Puts in order what comes nearly in order.
#[derive(Debug)]
struct InOrder<R> {
    done: Vec<R>,
    /// What came before its turn.
    early: BTreeMap<usize, R>,
}

impl<T> Joins<T> {
    pub(super) fn new() -> Self {
        Self(BTreeMap::new())
    }

    #[cfg(feature = "simulation")]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A call of so many items comes in.
    pub(super) fn open(&mut self, call: CallId, token: T, items: usize, is_enqueue: bool) {
        let results = if is_enqueue {
            Results::Enqueued(InOrder::with_capacity(items))
        } else {
            Results::Settled(InOrder::with_capacity(items))
        };
        let join = Join {
            token,
            left: items,
            results,
        };
        self.0.insert(call, join);
    }

    /// Records that so many items from `place` on were accepted, with their ids if they are messages; the last ones complete
    /// the call.
    pub(super) fn accept(
        &mut self,
        call: CallId,
        place: usize,
        ids: impl Iterator<Item = MessageId>,
        items: usize,
    ) -> Option<Completion<T>> {
        let Some(join) = self.0.get_mut(&call) else {
            // The caller is gone. The ids are passed over, as those of the next run lie behind them.
            ids.for_each(drop);
            return None;
        };
        match &mut join.results {
            Results::Enqueued(all) => all.set(place, ids.map(Ok)),
            Results::Settled(all) => all.set(place, (0..items).map(|_| Ok(()))),
        }
        self.note_done(call, items)
    }

    /// Records that these items from `place` on failed; the last ones complete the call.
    ///
    /// # Errors
    ///
    /// The payloads, if nobody waits for them any more.
    pub(super) fn fail(
        &mut self,
        call: CallId,
        place: usize,
        payloads: Payloads,
        error: &Error,
    ) -> Result<Option<Completion<T>>, Payloads> {
        let Some(join) = self.0.get_mut(&call) else {
            return Err(payloads);
        };
        let items = payloads.len();
        match (&mut join.results, payloads) {
            (Results::Enqueued(all), Payloads::Messages(messages)) => {
                all.set(place, failed_messages(messages, error));
            }
            (Results::Settled(all), Payloads::Settles(settles)) => all.set(place, failed_settles(settles, error)),
            // Invariant: all items of a call are of one kind.
            (Results::Enqueued(_), Payloads::Settles(_)) | (Results::Settled(_), Payloads::Messages(_)) => {}
        }
        Ok(self.note_done(call, items))
    }

    fn note_done(&mut self, call: CallId, items: usize) -> Option<Completion<T>> {
        let join = self.0.get_mut(&call)?;
        join.left = join.left.saturating_sub(items);
        // Counted, not looked up: every item ends once, in whatever order.
        if join.left > 0 {
            return None;
        }
        self.0.remove(&call).map(Join::complete)
    }

    /// The caller is gone.
    pub(super) fn abandon(&mut self, call: CallId) -> Option<T> {
        self.0.remove(&call).map(|join| join.token)
    }
}

impl<T> Join<T> {
    fn complete(self) -> Completion<T> {
        let reply = match self.results {
            Results::Enqueued(all) => Reply::EnqueuedMany(all.done),
            Results::Settled(all) => Reply::SettledMany(all.done),
        };
        Completion {
            token: self.token,
            reply,
        }
    }
}

impl<R> InOrder<R> {
    fn with_capacity(items: usize) -> Self {
        Self {
            done: Vec::with_capacity(items),
            early: BTreeMap::new(),
        }
    }

    /// The results from `place` on.
    fn set(&mut self, place: usize, results: impl Iterator<Item = R>) {
        // Frames are answered in any order, and runs come back from nodes at any time.
        if place != self.done.len() {
            self.early.extend((place..).zip(results));
            return;
        }
        self.done.extend(results);
        while !self.early.is_empty()
            && let Some(next) = self.early.remove(&self.done.len())
        {
            self.done.push(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::few::Few;
    use crate::requests::settle::Settle;

    fn settled(completion: &Completion<&'static str>) -> Vec<bool> {
        match &completion.reply {
            Reply::SettledMany(results) => results.iter().map(Result::is_ok).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn settles(items: usize) -> Payloads {
        let settle = Settle::ack("orders", &"id".into());
        Payloads::Settles(Few::from(vec![settle; items]))
    }

    fn no_ids() -> impl Iterator<Item = MessageId> {
        std::iter::empty()
    }

    fn late() -> Error {
        Error::new(crate::ErrorKind::Timeout, "late")
    }

    #[test]
    fn results_come_in_any_order_and_leave_in_input_order() {
        let mut joins = Joins::new();
        let call = CallId::new(1);
        joins.open(call, "token", 7, false);
        assert!(joins.accept(call, 3, no_ids(), 2).is_none());
        assert!(
            joins
                .fail(call, 0, settles(1), &late())
                .is_ok_and(|done| done.is_none())
        );
        assert!(
            joins
                .fail(call, 5, settles(2), &late())
                .is_ok_and(|done| done.is_none())
        );
        let done = joins.accept(call, 1, no_ids(), 2).unwrap();
        let expected = vec![false, true, true, true, true, false, false];
        assert_eq!((done.token, settled(&done)), ("token", expected));
        assert!(joins.0.is_empty());
        assert!(
            joins.fail(call, 1, settles(1), &late()).is_err(),
            "nobody waits any more"
        );
        assert!(joins.accept(call, 1, no_ids(), 1).is_none());
    }

    #[test]
    fn an_abandoned_call_gives_its_token_back_and_its_results_are_unheard() {
        let mut joins = Joins::new();
        let call = CallId::new(1);
        joins.open(call, "token", 2, false);
        assert_eq!(joins.abandon(call), Some("token"));
        assert_eq!(joins.abandon(call), None);
        let unheard = joins.fail(call, 0, settles(2), &late()).unwrap_err();
        assert_eq!(unheard.len(), 2);
    }
}
