//! The accumulator: items that can share a frame wait in one queue.
//!
//! A queue holds the items of one queue, one kind and one producer, so that order per queue is kept and one
//! queue's refusal touches no other queue's messages. When a frame goes out is decided here; the machine encodes
//! it.
//!
//! # Order
//!
//! Messages of one batch queue reach the server in the order of their calls. A single node answers every frame for good,
//! so frames in flight keep that order. A node of a cluster may answer "not yet" to one frame and accept the next
//! (docs/protocol/clusters.md 2), so there a batch queue of messages *probes*: until the node has answered for good, one
//! message is in flight and the others wait. After that frames follow each other without waiting; the next answer that
//! is to be asked for again makes it probe again, once what is in flight was answered. What was in flight behind such
//! an answer can still overtake it: a cluster that elects a leader may reorder up to that many messages.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::time::Instant;

use super::work::{BatchItem, BatchKey, BatchKind, ReplyTo, Ticket};
use crate::config::Batching;
use crate::earliest_deadline::EarliestDeadline;
use crate::machine::CallId;

/// Idle queues up to this number are kept for reuse.
const KEEP_IDLE: usize = 64;

/// When frames of a producer go out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub(super) batching: Batching,
    pub(super) max_messages: usize,
    pub(super) max_bytes: usize,
}

/// Items of one queue, kind and producer.
#[derive(Debug)]
pub(super) struct BatchQueue<T> {
    pub(super) key: BatchKey,
    pub(super) policy: Policy,
    /// In order of their call ids.
    items: VecDeque<BatchItem<T>>,
    bytes: usize,
    /// Frames that are not answered.
    in_flight: usize,
    /// When the first of the waiting items arrived.
    waiting_since: Option<Instant>,
    /// Not before: an election is going on.
    not_before: Option<Instant>,
    /// Send partial frames too: somebody flushes or closes.
    flushing: bool,
    queued: bool,
    peer: Peer,
    /// The last answer to a frame was final: what follows may be sent before the next answer.
    confirmed: bool,
}

/// What is known of the server at the other end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Peer {
    /// It is a node of a cluster.
    pub(super) in_cluster: bool,
    /// A frame holds one item only: then nothing is gained by waiting for more, or for answers.
    pub(super) one_each: bool,
}

/// What an answer says of the frames behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    /// Whatever it says is the server's last word.
    Finally,
    /// Some of it is to be asked again.
    NotYet,
    /// There was none within the deadline.
    Never,
}

impl<T> BatchQueue<T> {
    pub(super) fn front(&self) -> Option<&BatchItem<T>> {
        self.items.front()
    }

    pub(super) fn pop_front(&mut self) -> Option<BatchItem<T>> {
        let item = self.items.pop_front()?;
        self.bytes = self.bytes.saturating_sub(item.ticket.cost);
        self.note_emptied();
        Some(item)
    }

    /// About how many of the waiting items take up so many bytes.
    pub(super) fn share_of(&self, bytes: usize) -> usize {
        let items = self.items.len();
        let average = self.bytes / items.max(1);
        items.min(bytes / average.max(1) + 1)
    }

    fn note_emptied(&mut self) {
        if self.items.is_empty() {
            self.waiting_since = None;
            self.flushing = false;
            // The next items take the same places, which the caches still know.
            self.items.clear();
        }
    }

    /// Behind what waits already, in the order of call ids.
    fn push(&mut self, item: BatchItem<T>) {
        self.bytes = self.bytes.saturating_add(item.ticket.cost);
        // Frames of one item each are moved one by one, so the place within the call counts too.
        let order = item.ticket.order();
        if self.items.back().is_none_or(|last| last.ticket.order() <= order) {
            self.items.push_back(item);
        } else {
            let place = self.items.partition_point(|known| known.ticket.order() <= order);
            self.items.insert(place, item);
        }
    }

    /// Before what waits already, in the order of call ids.
    fn put_back(&mut self, item: BatchItem<T>) {
        self.bytes = self.bytes.saturating_add(item.ticket.cost);
        // Frames of one item each come back one by one, so the place within the call counts too.
        let order = item.ticket.order();
        let place = self.items.partition_point(|known| known.ticket.order() < order);
        self.items.insert(place, item);
    }

    /// Whether the node has not yet answered for good: one message at a time, to keep their order. The order of acks
    /// does not matter.
    pub(super) fn is_probing(&self) -> bool {
        self.peer.in_cluster && self.key.kind == BatchKind::Enqueue && !self.confirmed
    }

    /// Lets what waits go out in partial frames, too.
    pub(super) fn flush(&mut self) {
        self.flushing = !self.items.is_empty();
    }

    fn is_full(&self) -> bool {
        let messages = match self.policy.batching {
            Batching::Linger { max_messages, .. } => max_messages.min(self.policy.max_messages),
            Batching::Auto => self.policy.max_messages,
            Batching::Disabled => 1,
        };
        self.items.len() >= messages || self.bytes >= self.policy.max_bytes
    }

    /// When a frame may go out: now (`Some(None)`), at an instant, or only after something else happens.
    fn due(&self) -> Option<Option<Instant>> {
        if self.items.is_empty() || (self.is_probing() && self.in_flight > 0) {
            return None;
        }
        if self.not_before.is_some() {
            return Some(self.not_before);
        }
        if self.flushing || self.peer.one_each || self.is_full() {
            return Some(None);
        }
        match self.policy.batching {
            Batching::Auto if self.in_flight == 0 => Some(None),
            Batching::Auto => None,
            Batching::Disabled => Some(None),
            // A delay beyond the clock's range waits for the other conditions.
            Batching::Linger { delay, .. } => self.waiting_since.and_then(|since| since.checked_add(delay)).map(Some),
        }
    }

    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.due().is_some_and(|at| at.is_none_or(|at| at <= now))
    }

    fn soonest_deadline(&self) -> Option<Instant> {
        self.items.iter().filter_map(|item| item.ticket.attempt.deadline).min()
    }
}

/// All queues of a route.
#[derive(Debug)]
pub(super) struct BatchQueues<T> {
    queues: Vec<Option<BatchQueue<T>>>,
    free: Vec<usize>,
    by_key: HashMap<BatchKey, usize, BuildHasherDefault<DefaultHasher>>,
    /// The queue used last: most clients stay with it.
    latest: usize,
    /// BatchQueues that may send now, each once.
    ready: VecDeque<usize>,
    earliest: EarliestDeadline,
    items: usize,
    peer: Peer,
}

impl<T> BatchQueues<T> {
    pub(super) fn new() -> Self {
        Self {
            queues: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::default(),
            latest: 0,
            ready: VecDeque::new(),
            earliest: EarliestDeadline::default(),
            items: 0,
            peer: Peer::default(),
        }
    }

    /// Learns what the server at the other end is.
    pub(super) fn set_peer(&mut self, now: Instant, peer: Peer) {
        if std::mem::replace(&mut self.peer, peer) == peer {
            return;
        }
        for index in 0..self.queues.len() {
            if let Some(queue) = self.queue_mut(index) {
                queue.peer = peer;
            }
            self.reconsider(now, index);
        }
    }

    /// How many items wait.
    pub(super) fn len(&self) -> usize {
        self.items
    }

    pub(super) fn earliest_deadline(&self) -> Option<Instant> {
        self.earliest.at()
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Adds an item where its call id belongs, usually at the back.
    pub(super) fn push(&mut self, now: Instant, policy: Policy, item: BatchItem<T>) {
        let index = self.queue_of(&item, policy);
        self.earliest.add(item.ticket.attempt.deadline);
        self.items += 1;
        if let Some(queue) = self.queue_mut(index) {
            queue.push(item);
            queue.waiting_since = queue.waiting_since.or(Some(now));
        }
        self.reconsider(now, index);
    }

    /// Puts items back where their call ids belong, usually at the front. They have lingered before.
    pub(super) fn put_back(&mut self, now: Instant, key: BatchKey, policy: Policy, items: Vec<BatchItem<T>>) {
        let index = self.queue_index(key, policy);
        self.items += items.len();
        for item in items.into_iter().rev() {
            self.earliest.add(item.ticket.attempt.deadline);
            if let Some(queue) = self.queue_mut(index) {
                queue.put_back(item);
                queue.waiting_since = queue.waiting_since.or(Some(now));
                queue.flushing = true;
            }
        }
        self.reconsider(now, index);
    }

    /// The queue of this key sends nothing before `until`.
    pub(super) fn hold(&mut self, now: Instant, key: &BatchKey, until: Instant) {
        if let Some(index) = self.find(key) {
            if let Some(queue) = self.queue_mut(index) {
                queue.not_before = Some(until);
            }
            self.reconsider(now, index);
        }
    }

    /// The next queue that may send. It stays in line as long as it is ready.
    pub(super) fn next_ready(&mut self, now: Instant) -> Option<usize> {
        while let Some(index) = self.ready.pop_front() {
            if let Some(queue) = self.queue_mut(index) {
                queue.queued = false;
                if queue.is_ready(now) {
                    return Some(index);
                }
            }
        }
        None
    }

    pub(super) fn queue_mut(&mut self, index: usize) -> Option<&mut BatchQueue<T>> {
        self.queues.get_mut(index).and_then(Option::as_mut)
    }

    /// `taken` items left the queue; `sent`: in a frame that is now in flight.
    pub(super) fn taken(&mut self, now: Instant, index: usize, taken: usize, sent: bool) {
        self.items = self.items.saturating_sub(taken);
        if let Some(queue) = self.queue_mut(index) {
            queue.in_flight += usize::from(sent);
        }
        self.reconsider(now, index);
    }

    /// A frame of this queue was answered, or given up.
    pub(super) fn answered(&mut self, now: Instant, key: &BatchKey, answered: Answered) {
        if let Some(index) = self.find(key) {
            if let Some(queue) = self.queue_mut(index) {
                queue.in_flight = queue.in_flight.saturating_sub(1);
                match answered {
                    // While others are in flight they may be answered otherwise.
                    Answered::Finally => queue.confirmed |= queue.in_flight == 0,
                    Answered::NotYet => queue.confirmed = false,
                    Answered::Never => {}
                }
            }
            self.reconsider(now, index);
        }
    }

    /// The server does not know this queue, perhaps not yet, since then: that holds for what waits behind the message
    /// that was asked for, too, so that all of them wait for the queue no longer than one.
    pub(super) fn note_absent(&mut self, key: &BatchKey, since: Instant) {
        if let Some(queue) = self.find(key).and_then(|index| self.queue_mut(index)) {
            for item in &mut queue.items {
                item.ticket.attempt.absent_since.get_or_insert(since);
            }
        }
    }

    /// Takes out all that waits in one queue.
    pub(super) fn take_waiting(&mut self, now: Instant, key: &BatchKey) -> Vec<BatchItem<T>> {
        let Some(index) = self.find(key) else { return Vec::new() };
        let Some(queue) = self.queue_mut(index) else {
            return Vec::new();
        };
        let items: Vec<_> = std::mem::take(&mut queue.items).into();
        queue.bytes = 0;
        queue.note_emptied();
        self.items = self.items.saturating_sub(items.len());
        self.reconsider(now, index);
        items
    }

    /// Lets partial frames of an budget (or of all) go out now.
    pub(super) fn flush(&mut self, now: Instant, budget: Option<usize>) {
        for index in 0..self.queues.len() {
            if let Some(queue) = self.queue_mut(index)
                && budget.is_none_or(|budget| queue.key.budget == budget)
                && !queue.items.is_empty()
            {
                queue.flushing = true;
            }
            self.reconsider(now, index);
        }
    }

    /// Time passed: queues become ready, items whose deadline passed come out.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<BatchItem<T>> {
        let mut expired = Vec::new();
        if !self.earliest.take_due(now) {
            return expired;
        }
        for index in 0..self.queues.len() {
            let Some(queue) = self.queue_mut(index) else { continue };
            if queue.not_before.is_some_and(|at| at <= now) {
                queue.not_before = None;
            }
            if queue.items.iter().any(|item| item.ticket.attempt.is_due(now)) {
                for item in std::mem::take(&mut queue.items) {
                    if item.ticket.attempt.is_due(now) {
                        queue.bytes = queue.bytes.saturating_sub(item.ticket.cost);
                        expired.push(item);
                    } else {
                        queue.items.push_back(item);
                    }
                }
                queue.note_emptied();
            }
            let deadline = queue.soonest_deadline();
            self.earliest.add(deadline);
            // A queue that is due waits for the connection, not for time.
            self.reconsider(now, index);
        }
        self.items = self.items.saturating_sub(expired.len());
        expired
    }

    /// Takes out the items of one call. Detached ones stay, but lose their reply_to.
    pub(super) fn withdraw(&mut self, now: Instant, call: CallId) -> Vec<BatchItem<T>> {
        let mut out = Vec::new();
        for index in 0..self.queues.len() {
            let Some(queue) = self.queue_mut(index) else { continue };
            let from = queue.items.partition_point(|item| item.ticket.call < call);
            let to = queue.items.partition_point(|item| item.ticket.call <= call);
            if from < to {
                let items: Vec<_> = queue.items.drain(from..to).collect();
                for item in &items {
                    queue.bytes = queue.bytes.saturating_sub(item.ticket.cost);
                }
                queue.note_emptied();
                self.items = self.items.saturating_sub(items.len());
                out.extend(items);
                self.reconsider(now, index);
            }
        }
        out
    }

    /// The reply_to of a detached item, which goes out all the same.
    pub(super) fn detach(&mut self, call: CallId) -> Option<ReplyTo<T>> {
        self.queues.iter_mut().flatten().find_map(|queue| {
            let at = queue.items.partition_point(|item| item.ticket.call < call);
            let ticket: &mut Ticket<T> = &mut queue.items.get_mut(at)?.ticket;
            (ticket.call == call && ticket.detached).then(|| std::mem::replace(&mut ticket.reply_to, ReplyTo::Nobody))
        })
    }

    /// Everything that waits, queue by queue.
    pub(super) fn drain(&mut self) -> Vec<BatchItem<T>> {
        self.items = 0;
        self.earliest = EarliestDeadline::default();
        self.ready.clear();
        self.by_key.clear();
        self.free.clear();
        self.queues.drain(..).flatten().flat_map(|queue| queue.items).collect()
    }

    /// The connection is gone: no frame is unanswered any more.
    pub(super) fn reset_in_flight(&mut self, now: Instant) {
        for index in 0..self.queues.len() {
            if let Some(queue) = self.queue_mut(index) {
                queue.in_flight = 0;
                queue.confirmed = false;
            }
            self.reconsider(now, index);
        }
    }

    fn find(&mut self, key: &BatchKey) -> Option<usize> {
        let latest = self.queues.get(self.latest).and_then(Option::as_ref);
        if latest.is_none_or(|queue| queue.key != *key) {
            self.latest = *self.by_key.get(key)?;
        }
        Some(self.latest)
    }

    /// The queue that an item belongs to.
    fn queue_of(&mut self, item: &BatchItem<T>, policy: Policy) -> usize {
        let (budget, kind, name) = (item.ticket.budget, item.payload.kind(), item.payload.queue());
        if let Some(queue) = self.queues.get_mut(self.latest).and_then(Option::as_mut)
            && (queue.key.budget, queue.key.kind) == (budget, kind)
            && queue.key.queue == *name
        {
            queue.policy = policy;
            return self.latest;
        }
        let queue = name.clone();
        self.queue_index(BatchKey { budget, kind, queue }, policy)
    }

    fn queue_index(&mut self, key: BatchKey, policy: Policy) -> usize {
        if let Some(index) = self.find(&key) {
            // The budget may belong to another producer than when the queue was made.
            if let Some(queue) = self.queue_mut(index) {
                queue.policy = policy;
            }
            return index;
        }
        let queue = BatchQueue {
            key: key.clone(),
            policy,
            items: VecDeque::new(),
            bytes: 0,
            in_flight: 0,
            waiting_since: None,
            not_before: None,
            flushing: false,
            queued: false,
            peer: self.peer,
            confirmed: false,
        };
        let index = match self.free.pop() {
            Some(index) => {
                if let Some(place) = self.queues.get_mut(index) {
                    *place = Some(queue);
                }
                index
            }
            None => {
                self.queues.push(Some(queue));
                self.queues.len() - 1
            }
        };
        self.by_key.insert(key, index);
        index
    }

    /// Something about the queue changed: it may be ready, have a new due time, or be unused.
    fn reconsider(&mut self, now: Instant, index: usize) {
        let used = self.by_key.len();
        let Some(queue) = self.queues.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        match queue.due() {
            Some(Some(at)) if at > now => self.earliest.add(Some(at)),
            Some(_) if queue.queued => {}
            Some(_) => {
                queue.queued = true;
                self.ready.push_back(index);
            }
            None if queue.items.is_empty() && queue.in_flight == 0 && used > KEEP_IDLE && !queue.queued => {
                self.by_key.remove(&queue.key);
                self.free.push(index);
                if let Some(place) = self.queues.get_mut(index) {
                    *place = None;
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProducerSettings;
    use crate::message::Message;
    use crate::requests::work::Attempt;

    #[test]
    fn a_frame_has_its_share_of_what_waits() {
        let settings = ProducerSettings::default();
        let policy = Policy {
            batching: settings.batching,
            max_messages: settings.max_messages,
            max_bytes: settings.max_bytes,
        };
        let now = crate::tests_epoch();
        let mut queues = BatchQueues::new();
        for call in 0..1_000 {
            let message = Message::new("orders", vec![0; 1_024]);
            queues.push(
                now,
                policy,
                BatchItem::alone(CallId(call), Attempt::new(None), (), message.into()),
            );
        }
        let index = queues.next_ready(now).unwrap();
        let queue = queues.queue_mut(index).unwrap();
        assert!(
            (110..130).contains(&queue.share_of(128 * 1024)),
            "{}",
            queue.share_of(128 * 1024)
        );
        assert_eq!(queue.share_of(usize::MAX), 1_000, "no more than there are");
        assert_eq!(queue.share_of(0), 1, "one is always taken");
    }
}
