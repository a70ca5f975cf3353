//! The correlation table: which answer belongs to which request.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use crate::earliest_deadline::EarliestDeadline;
use crate::request::Op;
use crate::simulation::{Defect, TestHooks};

/// Requests that were encoded and not answered, by correlation id.
///
/// An entry whose waiter is gone stays as a tombstone until its answer arrives, so that its id is not given to
/// another request in the meantime.
#[derive(Debug)]
pub(super) struct Table<W> {
    entries: HashMap<u32, Entry<W>, BuildHasherDefault<IdHasher>>,
    next_id: u32,
    tombstones: usize,
    earliest: EarliestDeadline,
    hooks: TestHooks,
}

#[derive(Debug)]
pub(super) struct Entry<W> {
    pub(super) op: Op,
    /// `None`: a tombstone.
    pub(super) work: Option<W>,
    /// The offset in the output stream at which the request ends.
    pub(super) end: u64,
    deadline: Option<Instant>,
}

/// What is left of a request after its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// Nobody waits for it any more.
    Expired,
    /// Others wait until later.
    At(Instant),
    /// Others wait without a deadline.
    Never,
}

impl<W> Table<W> {
    pub(super) fn new() -> Self {
        Self {
            entries: HashMap::default(),
            next_id: 1,
            tombstones: 0,
            earliest: EarliestDeadline::default(),
            hooks: TestHooks::default(),
        }
    }

    pub(super) fn set_test_hooks(&mut self, hooks: TestHooks) {
        self.hooks = hooks;
        self.next_id = hooks.starts_at().unwrap_or(self.next_id);
    }

    /// An id that is not in use. Ids wrap around and are never 0, which pushes carry.
    pub(super) fn next_id(&mut self) -> u32 {
        if self.hooks.takes_lowest_id() {
            self.next_id = 1;
        }
        if self.hooks.has(Defect::EarlyId) {
            self.next_id = self.next_id % 4 + 1;
            return self.next_id;
        }
        // It ends: callers and tombstones are bounded, far below the number of ids.
        loop {
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1).max(1);
            if !self.entries.contains_key(&id) {
                return id;
            }
        }
    }

    pub(super) fn insert(&mut self, id: u32, op: Op, work: W, end: u64, deadline: Option<Instant>) {
        self.earliest.add(deadline);
        let entry = Entry {
            op,
            work: Some(work),
            end,
            deadline,
        };
        self.entries.insert(id, entry);
    }

    /// Ends the entry an answer belongs to; `None` for an id that is not in use.
    pub(super) fn answer(&mut self, id: u32) -> Option<Entry<W>> {
        let entry = self.entries.remove(&id)?;
        if entry.work.is_none() {
            self.tombstones -= 1;
        }
        Some(entry)
    }

    /// The operation that an id is in use for.
    pub(super) fn op(&self, id: u32) -> Option<Op> {
        self.entries.get(&id).map(|entry| entry.op)
    }

    /// Requests that somebody waits for.
    pub(super) fn live(&self) -> usize {
        self.entries.len() - self.tombstones
    }

    pub(super) fn tombstones(&self) -> usize {
        self.tombstones
    }

    pub(super) fn earliest_deadline(&self) -> Option<Instant> {
        self.earliest.at()
    }

    /// Shows every request whose deadline has passed to `expire`, in the order in which they were encoded.
    pub(super) fn expire(&mut self, now: Instant, mut expire: impl FnMut(&mut W) -> Expiry) {
        // Mostly nothing is due. Requests that were answered leave their deadline behind, at the price of one look.
        if !self.earliest.take_due(now) {
            return;
        }
        let mut due: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.work.is_some() && entry.deadline.is_some_and(|at| at <= now))
            .map(|(id, entry)| (entry.end, *id))
            .collect();
        // In the order of the stream, as the map has none: callers hear of it in the order in which they asked.
        due.sort_unstable();
        for (_, id) in due {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            entry.deadline = match entry.work.as_mut().map(&mut expire) {
                Some(Expiry::At(at)) => Some(at),
                Some(Expiry::Never) => None,
                Some(Expiry::Expired) | None => {
                    entry.work = None;
                    self.tombstones += 1;
                    None
                }
            };
        }
        // `take_due` has forgotten the earliest, so all that is left say theirs again.
        for entry in self.entries.values() {
            self.earliest.add(entry.deadline);
        }
        self.drop_tombstones();
    }

    /// What waits for the answer to a request.
    pub(super) fn work_mut(&mut self, id: u32) -> Option<&mut W> {
        self.entries.get_mut(&id)?.work.as_mut()
    }

    /// Makes the entry of a request that nobody waits for any more a tombstone.
    pub(super) fn give_up(&mut self, id: u32) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.work.take().is_some()
        {
            entry.deadline = None;
            self.tombstones += 1;
            self.drop_tombstones();
        }
    }

    fn drop_tombstones(&mut self) {
        if self.hooks.has(Defect::DroppedTombstone) {
            self.entries.retain(|_, entry| entry.work.is_some());
            self.tombstones = 0;
        }
    }

    /// Everything that is waited for, in the order in which it was encoded, with the offset of its end.
    pub(super) fn drain(&mut self) -> Vec<(W, u64)> {
        self.tombstones = 0;
        let mut all: Vec<_> = self
            .entries
            .drain()
            .filter_map(|(_, entry)| entry.work.map(|work| (work, entry.end)))
            .collect();
        // What is sent again goes in the order in which it was sent first.
        all.sort_by_key(|(_, end)| *end);
        all
    }

    #[cfg(test)]
    pub(super) fn set_next_id(&mut self, id: u32) {
        self.next_id = id;
    }
}

/// Ids are ours and sequential: they are their own hash, spread over the upper bits that the map also looks at.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ids_wrap_skip_zero_and_skip_what_is_in_use() {
        let mut table = Table::new();
        table.set_next_id(u32::MAX);
        table.insert(1, Op::Heartbeat, (), 0, None);
        assert_eq!(table.next_id(), u32::MAX);
        assert_eq!(table.next_id(), 2);
    }

    #[test]
    fn an_expired_request_keeps_its_id_until_answered() {
        let now = crate::tests_epoch();
        let mut table = Table::new();
        let id = table.next_id();
        table.insert(id, Op::ListQueues, "call", 10, Some(now));
        let mut expired = Vec::new();
        table.expire(now, |work| {
            expired.push(*work);
            Expiry::Expired
        });
        assert_eq!(expired, ["call"]);
        assert_eq!((table.live(), table.tombstones()), (0, 1));
        assert_eq!(table.op(id), Some(Op::ListQueues));
        table.set_next_id(id);
        assert_ne!(table.next_id(), id);
        assert!(table.answer(id).is_some_and(|entry| entry.work.is_none()));
        assert_eq!(table.tombstones(), 0);
        assert!(table.answer(id).is_none());
    }

    #[test]
    fn a_partly_expired_request_keeps_its_later_deadline() {
        let now = crate::tests_epoch();
        let later = now + Duration::from_secs(1);
        let mut table = Table::new();
        table.insert(7, Op::Enqueue, (), 0, Some(now));
        table.expire(now, |()| Expiry::At(later));
        assert_eq!((table.live(), table.earliest_deadline()), (1, Some(later)));
        table.expire(later, |()| Expiry::Never);
        assert_eq!((table.live(), table.earliest_deadline()), (1, None));
    }
}
