//! Results of calls with many items, joined in input order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::completion::{CallId, Completion, Reply};
use super::work::{Item, ItemResult, Waiter};
use crate::error::{Error, SendError};
use crate::message::MessageId;

/// The calls of a link that have many items.
///
/// Items only know their place; what they have in common is kept here once, without locks and counters. Only when an
/// item goes to another link, the link it came from and that one share a [`Join`].
#[derive(Debug)]
pub(super) struct Joins<T>(BTreeMap<CallId, Joining<T>>);

#[derive(Debug)]
enum Joining<T> {
    Here(Parts<T>),
    Shared {
        join: Arc<Join<T>>,
        /// How many items are left in this link.
        here: usize,
    },
}

/// Results of a call whose items are in several links.
#[derive(Debug)]
pub(super) struct Join<T>(Mutex<Parts<T>>);

#[derive(Debug)]
struct Parts<T> {
    token: Option<T>,
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
        let parts = Parts {
            token: Some(token),
            left: items,
            results,
        };
        self.0.insert(call, Joining::Here(parts));
    }

    /// Records the result of one item. It comes back if nobody waits for it any more.
    pub(super) fn tell(
        &mut self,
        call: CallId,
        place: u32,
        result: ItemResult,
    ) -> Result<Option<Completion<T>>, ItemResult> {
        let (completion, is_over) = match self.0.get_mut(&call) {
            Some(Joining::Here(parts)) => {
                let completion = parts.set(place, result);
                (completion, parts.left == 0)
            }
            Some(Joining::Shared { join, here }) => {
                *here = here.saturating_sub(1);
                (join.set(place, result), *here == 0)
            }
            None => return Err(result),
        };
        if is_over {
            self.0.remove(&call);
        }
        Ok(completion)
    }

    /// The caller is gone.
    pub(super) fn abandon(&mut self, call: CallId) -> Option<T> {
        match self.0.remove(&call)? {
            Joining::Here(parts) => parts.token,
            Joining::Shared { join, .. } => join.lock().token.take(),
        }
    }

    /// The item leaves this link.
    pub(super) fn export(&mut self, item: &mut Item<T>) {
        if let Waiter::Part(place) = item.ticket.waiter {
            item.ticket.waiter = match self.share(item.ticket.call) {
                Some(join) => Waiter::Shared(join, place),
                None => Waiter::Nobody,
            };
        }
    }

    fn share(&mut self, call: CallId) -> Option<Arc<Join<T>>> {
        let (join, here) = match self.0.remove(&call)? {
            Joining::Here(parts) => {
                let here = parts.left;
                (Arc::new(Join(Mutex::new(parts))), here)
            }
            Joining::Shared { join, here } => (join, here),
        };
        let here = here.saturating_sub(1);
        if here > 0 {
            let join = Arc::clone(&join);
            self.0.insert(call, Joining::Shared { join, here });
        }
        Some(join)
    }
}

impl<T> Join<T> {
    /// Records one part; the last one completes the whole.
    pub(super) fn set(&self, place: u32, result: ItemResult) -> Option<Completion<T>> {
        self.lock().set(place, result)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Parts<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Parts<T> {
    fn set(&mut self, place: u32, result: ItemResult) -> Option<Completion<T>> {
        let place = place as usize;
        match (&mut self.results, result) {
            (Results::Enqueued(all), ItemResult::Enqueued(result)) => all.set(place, result.map_err(|failed| *failed)),
            (Results::Settled(all), ItemResult::Settled(result)) => all.set(place, result),
            // The lanes never mix kinds.
            (Results::Enqueued(_), ItemResult::Settled(_)) | (Results::Settled(_), ItemResult::Enqueued(_)) => {}
        }
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            return None;
        }
        let reply = match &mut self.results {
            Results::Enqueued(all) => Reply::EnqueuedMany(std::mem::take(&mut all.done)),
            Results::Settled(all) => Reply::SettledMany(std::mem::take(&mut all.done)),
        };
        self.token.take().map(|token| Completion { token, reply })
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
        let call = CallId(1);
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
    fn parts_in_several_links_complete_once() {
        let mut joins = Joins::new();
        let call = CallId(1);
        joins.open(call, "token", 3, false);
        assert!(joins.tell(call, 0, result(true)).is_ok());
        let join = joins.share(call).unwrap();
        assert!(join.set(2, result(false)).is_none());
        let done = joins.tell(call, 1, result(true)).ok().flatten().unwrap();
        assert_eq!(settled(&done), [true, true, false]);
        assert!(joins.0.is_empty());

        joins.open(call, "token", 1, false);
        let join = joins.share(call).unwrap();
        assert!(joins.0.is_empty(), "nothing of it is left here");
        assert!(join.set(0, result(true)).is_some());
    }

    #[test]
    fn an_abandoned_call_gives_its_token_back_wherever_its_items_are() {
        let mut joins = Joins::new();
        let call = CallId(1);
        joins.open(call, "token", 2, false);
        assert_eq!(joins.abandon(call), Some("token"));
        assert_eq!(joins.abandon(call), None);
        joins.open(call, "token", 2, false);
        let join = joins.share(call).unwrap();
        assert_eq!(joins.abandon(call), Some("token"));
        assert!(join.set(0, result(true)).is_none());
        assert!(join.set(1, result(true)).is_none());
    }
}
