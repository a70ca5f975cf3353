//! One queue: what is pending, fair between keys, and what is leased.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fibp_proto::Headers;
use fibp_proto::admin::KeyStats;
use uuid::Uuid;

use super::ConnectionId;

/// A message at rest.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) id: Uuid,
    pub(super) fairness_key: Arc<str>,
    pub(super) headers: Headers,
    pub(super) payload: Bytes,
    pub(super) attempts: u32,
    /// Known to the leader and not to its followers (docs/protocol/clusters.md 3).
    pub(super) leader_only: bool,
}

#[derive(Debug, Clone, Default)]
struct KeyQueue {
    messages: VecDeque<Stored>,
    deficit: i64,
}

/// Messages that wait: FIFO within a fairness key, deficit round robin between keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending {
    keys: BTreeMap<Arc<str>, KeyQueue>,
    /// The keys with messages, the one being served in front.
    ring: VecDeque<Arc<str>>,
    len: usize,
}

/// All messages have weight 1, as there are no scripts that set another.
const WEIGHT: u32 = 1;

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push_back(&mut self, message: Stored) {
        self.key_queue(&message.fairness_key).messages.push_back(message);
        self.len += 1;
    }

    pub(super) fn push_front(&mut self, message: Stored) {
        self.key_queue(&message.fairness_key).messages.push_front(message);
        self.len += 1;
    }

    fn key_queue(&mut self, key: &Arc<str>) -> &mut KeyQueue {
        if !self.keys.contains_key(key) {
            self.ring.push_back(Arc::clone(key));
        }
        self.keys.entry(Arc::clone(key)).or_default()
    }

    /// Takes the message whose turn it is.
    pub(super) fn pop(&mut self, quantum: u32) -> Option<Stored> {
        let served = self.ring.front()?;
        let key = self.keys.get_mut(served)?;
        if key.deficit <= 0 {
            key.deficit += i64::from(quantum) * i64::from(WEIGHT);
        }
        let message = key.messages.pop_front()?;
        key.deficit -= 1;
        self.len -= 1;
        if key.messages.is_empty() {
            self.keys.remove(served);
            self.ring.pop_front();
        } else if key.deficit <= 0 {
            self.ring.rotate_left(1);
        }
        Some(message)
    }

    /// Takes up to `most` messages in storage order: by fairness key, then by age.
    pub(super) fn take_in_storage_order(&mut self, most: usize) -> Vec<Stored> {
        let mut taken = Vec::new();
        for key in self.keys.values_mut() {
            let room = most - taken.len();
            let count = key.messages.len().min(room);
            taken.extend(key.messages.drain(..count));
        }
        self.forget_empty_keys();
        taken
    }

    /// Forgets the messages that are not to be kept.
    fn retain(&mut self, keep: impl Fn(&Stored) -> bool) {
        for key in self.keys.values_mut() {
            key.messages.retain(&keep);
        }
        self.forget_empty_keys();
    }

    fn forget_empty_keys(&mut self) {
        self.keys.retain(|_, key| !key.messages.is_empty());
        self.ring.retain(|key| self.keys.contains_key(key));
        self.len = self.keys.values().map(|key| key.messages.len()).sum();
    }

    pub(super) fn key_stats(&self) -> Vec<KeyStats> {
        self.keys
            .iter()
            .map(|(key, queue)| {
                KeyStats::default()
                    .key(key.as_ref().to_owned())
                    .pending(queue.messages.len() as u64)
                    .deficit(queue.deficit)
                    .weight(WEIGHT)
            })
            .collect()
    }
}

#[derive(Debug, Clone)]
struct Lease {
    message: Stored,
    holder: ConnectionId,
    serial: u64,
}

/// Messages that were handed out.
#[derive(Debug, Clone, Default)]
pub(super) struct Leases {
    held: HashMap<Uuid, Lease>,
    /// In order of expiry, which is the order of leasing: a queue has one visibility timeout. Settled leases stay
    /// in until they come to the front or too many of them pile up.
    expiries: VecDeque<(Instant, Uuid, u64)>,
    serial: u64,
}

/// Stale expiries that are tolerated beyond as many as there are leases.
const STALE_EXPIRIES: usize = 1024;

impl Leases {
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Without `expiry` the lease never ends by itself.
    pub(super) fn hold(&mut self, message: Stored, holder: ConnectionId, expiry: Option<Instant>) {
        self.serial += 1;
        let (id, serial) = (message.id, self.serial);
        let lease = Lease {
            message,
            holder,
            serial,
        };
        self.held.insert(id, lease);
        if let Some(expiry) = expiry {
            self.expiries.push_back((expiry, id, serial));
        }
    }

    pub(super) fn settle(&mut self, id: Uuid) -> Option<Stored> {
        let lease = self.held.remove(&id)?;
        self.forget_stale();
        Some(lease.message)
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        // The front is never stale: `forget_stale` follows every removal.
        self.expiries.front().map(|(expiry, ..)| *expiry)
    }

    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<Stored> {
        let (expiry, id, _) = self.expiries.front()?;
        if *expiry > now {
            return None;
        }
        self.settle(*id)
    }

    /// Takes what `holder` leased, of `only` these if given, oldest first.
    pub(super) fn take_held_by(&mut self, holder: ConnectionId, only: Option<&[Uuid]>) -> Vec<Stored> {
        self.take_matching(|id, lease| lease.holder == holder && only.is_none_or(|only| only.contains(id)))
    }

    /// Takes everything, oldest first.
    pub(super) fn take_all(&mut self) -> Vec<Stored> {
        self.take_matching(|_, _| true)
    }

    fn take_matching(&mut self, matches: impl Fn(&Uuid, &Lease) -> bool) -> Vec<Stored> {
        let mut taken: Vec<Lease> = self
            .held
            .extract_if(|id, lease| matches(id, lease))
            .map(|(_, lease)| lease)
            .collect();
        taken.sort_by_key(|lease| lease.serial);
        self.forget_stale();
        taken.into_iter().map(|lease| lease.message).collect()
    }

    /// Forgets the leases of messages that are not to be kept.
    fn retain(&mut self, keep: impl Fn(&Stored) -> bool) {
        self.held.retain(|_, lease| keep(&lease.message));
        self.forget_stale();
    }

    fn forget_stale(&mut self) {
        let Self { held, expiries, .. } = self;
        let current =
            |(_, id, serial): &(Instant, Uuid, u64)| held.get(id).is_some_and(|lease| lease.serial == *serial);
        while expiries.front().is_some_and(|front| !current(front)) {
            expiries.pop_front();
        }
        if expiries.len() > 2 * held.len() + STALE_EXPIRIES {
            expiries.retain(current);
        }
    }
}

/// One queue.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    pub(super) visibility: Duration,
    pub(super) pending: Pending,
    pub(super) leases: Leases,
    /// Nacked, and handed out again only after a change of the leader (docs/protocol/clusters.md 4).
    pub(super) shelved: Vec<Stored>,
    /// Acked at the leader, without its followers knowing (docs/protocol/clusters.md 3).
    pub(super) acked_by_leader: Vec<Stored>,
    /// Messages that are gone and still counted in the statistics (docs/protocol/clusters.md 4).
    pub(super) miscounted: u64,
}

impl Queue {
    pub(super) fn new(visibility: Duration) -> Self {
        Self {
            visibility,
            pending: Pending::default(),
            leases: Leases::default(),
            shelved: Vec::new(),
            acked_by_leader: Vec::new(),
            miscounted: 0,
        }
    }

    /// Messages that are there.
    pub(super) fn depth(&self) -> u64 {
        (self.pending.len() + self.leases.len() + self.shelved.len()) as u64
    }

    /// Everything that is there, and whether it is leased, in the order of enqueueing.
    pub(super) fn messages(&self) -> Vec<(&Stored, bool)> {
        let pending = self.pending.keys.values().flat_map(|key| &key.messages);
        let leased = self.leases.held.values().map(|lease| &lease.message);
        let mut all: Vec<(&Stored, bool)> = pending.map(|message| (message, false)).collect();
        all.extend(leased.chain(&self.shelved).map(|message| (message, true)));
        all.sort_by_key(|(message, _)| message.id);
        all
    }

    /// Messages that the statistics count, and how many of those as leased.
    pub(super) fn counted(&self) -> (u64, u64) {
        let leased = self.leases.len() + self.shelved.len();
        (self.depth() + self.miscounted, leased as u64 + self.miscounted)
    }

    /// Puts a nacked message where no consumer finds it.
    pub(super) fn shelve(&mut self, mut message: Stored) {
        message.attempts = message.attempts.saturating_add(1);
        self.shelved.push(message);
    }

    /// The scheduler starts again from what is stored: it counts right, and hands out what it had lost sight of.
    pub(super) fn reload(&mut self) {
        self.miscounted = 0;
        for message in std::mem::take(&mut self.shelved) {
            self.pending.push_back(message);
        }
    }

    /// A follower takes over. It never knew of some messages, and not of some acks.
    pub(super) fn change_leader(&mut self) {
        self.reload();
        self.pending.retain(|message| !message.leader_only);
        self.leases.retain(|message| !message.leader_only);
        for message in std::mem::take(&mut self.acked_by_leader) {
            if !message.leader_only {
                self.pending.push_back(message);
            }
        }
    }

    /// Puts leased messages back as if they had never been handed out.
    pub(super) fn unlease(&mut self, messages: Vec<Stored>) {
        for message in messages.into_iter().rev() {
            self.pending.push_front(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(number: u128, key: &str) -> Stored {
        Stored {
            id: Uuid::from_u128(number),
            fairness_key: key.into(),
            headers: Headers::new(),
            payload: Bytes::new(),
            attempts: 0,
            leader_only: false,
        }
    }

    #[test]
    fn keys_take_turns_by_quantum() {
        let mut pending = Pending::default();
        for number in 0..4 {
            pending.push_back(stored(number, "a"));
        }
        for number in 4..6 {
            pending.push_back(stored(number, "b"));
        }
        let mut served = String::new();
        while let Some(message) = pending.pop(2) {
            served.push_str(&message.fairness_key);
        }
        assert_eq!(served, "aabbaa");
        assert_eq!(pending.len(), 0);
        assert!(pending.key_stats().is_empty());
    }

    #[test]
    fn storage_order_is_by_key() {
        let mut pending = Pending::default();
        for (number, key) in [(1, "b"), (2, "a"), (3, "b"), (4, "a")] {
            pending.push_back(stored(number, key));
        }
        let taken = pending.take_in_storage_order(3);
        let keys: Vec<&str> = taken.iter().map(|message| &*message.fairness_key).collect();
        assert_eq!(keys, ["a", "a", "b"]);
        assert_eq!(pending.len(), 1);
        assert_eq!(pending.pop(1).map(|message| message.id), Some(stored(3, "b").id));
    }

    #[test]
    fn settled_leases_leave_no_expiries_behind() {
        let start = Instant::now();
        let mut leases = Leases::default();
        for number in 0..10_000 {
            leases.hold(stored(number, "k"), ConnectionId(1), Some(start));
        }
        // The oldest stays, so that nothing comes to the front by itself.
        for number in 1..10_000 {
            leases.settle(stored(number, "k").id);
        }
        assert_eq!(leases.len(), 1);
        assert!(leases.expiries.len() <= 2 + STALE_EXPIRIES);
        assert_eq!(leases.next_expiry(), Some(start));
        assert!(leases.pop_expired(start).is_some());
        assert_eq!(leases.next_expiry(), None);
    }
}
