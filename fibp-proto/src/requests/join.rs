//! Results of calls with many items, joined in input order.

use std::collections::BTreeMap;

use super::work::ItemResult;
use crate::error::{Error, SendError};
use crate::machine::{CallId, Completion, Reply};
use crate::message::MessageId;

/// The calls that have many items.
///
/// Items only know their place; what they have in common is kept here once.
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

    /// Records the result of one item; the last one completes the call. It comes back if nobody waits for it any more.
    pub(super) fn tell(
        &mut self,
        call: CallId,
        place: u32,
        result: ItemResult,
    ) -> Result<Option<Completion<T>>, ItemResult> {
        let Some(join) = self.0.get_mut(&call) else {
            return Err(result);
        };
        join.set(place, result);
        if join.left > 0 {
            return Ok(None);
        }
        Ok(self.0.remove(&call).map(Join::complete))
    }

    /// The caller is gone.
    pub(super) fn abandon(&mut self, call: CallId) -> Option<T> {
        self.0.remove(&call).map(|join| join.token)
    }
}

impl<T> Join<T> {
    fn set(&mut self, place: u32, result: ItemResult) {
        let place = place as usize;
        match (&mut self.results, result) {
            (Results::Enqueued(all), ItemResult::Enqueued(result)) => all.set(place, result.map_err(|failed| *failed)),
            (Results::Settled(all), ItemResult::Settled(result)) => all.set(place, result),
            // Invariant: all items of a call are of one kind.
            (Results::Enqueued(_), ItemResult::Settled(_)) | (Results::Settled(_), ItemResult::Enqueued(_)) => {}
        }
        self.left = self.left.saturating_sub(1);
    }

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

    fn set(&mut self, place: usize, result: R) {
        if place != self.done.len() {
            self.early.insert(place, result);
            return;
        }
        self.done.push(result);
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

    fn settled(completion: &Completion<&'static str>) -> Vec<bool> {
        match &completion.reply {
            Reply::SettledMany(results) => results.iter().map(Result::is_ok).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn result(ok: bool) -> ItemResult {
        let error = || Error::new(crate::ErrorKind::Timeout, "late");
        ItemResult::Settled(if ok { Ok(()) } else { Err(error()) })
    }

    #[test]
    fn results_come_in_any_order_and_leave_in_input_order() {
        let mut joins = Joins::new();
        let call = CallId::new(1);
        joins.open(call, "token", 4, false);
        for (place, ok) in [(2, true), (0, false), (3, false)] {
            assert!(joins.tell(call, place, result(ok)).is_ok_and(|done| done.is_none()));
        }
        let done = joins.tell(call, 1, result(true)).ok().flatten().unwrap();
        assert_eq!((done.token, settled(&done)), ("token", vec![false, true, true, false]));
        assert!(joins.0.is_empty());
        assert!(joins.tell(call, 1, result(true)).is_err(), "nobody waits any more");
    }

    #[test]
    fn an_abandoned_call_gives_its_token_back_and_its_results_are_unheard() {
        let mut joins = Joins::new();
        let call = CallId::new(1);
        joins.open(call, "token", 2, false);
        assert_eq!(joins.abandon(call), Some("token"));
        assert_eq!(joins.abandon(call), None);
        assert!(joins.tell(call, 0, result(true)).is_err());
    }
}
