//! The accumulator of a route: its batch queues, which of them may send, and which are given back.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch_queue::{Answered, BatchQueue, Peer, Policy};
use super::places::{Place, Places};
use super::run::{ReplyTo, Run};
use super::work::{BatchKey, KeyRef};
use crate::earliest_deadline::EarliestDeadline;
use crate::machine::CallId;
use crate::message::QueueName;

/// Idle queues are kept for reuse as long as there are no more queues than this.
const KEEP_IDLE: usize = 64;

/// Beyond [`KEEP_IDLE`], queues are given back that were idle for this long.
const IDLE: Duration = Duration::from_secs(10);

/// With more queues than this, one that becomes idle is given back at once.
const MAX_QUEUES: usize = 16_384;

/// So many queues are found by the address of their name.
const KNOWN: usize = 16;

/// All queues of a route.
#[derive(Debug)]
pub(super) struct BatchQueues<T> {
    queues: Vec<Option<BatchQueue<T>>>,
    free: Vec<usize>,
    by_key: HashMap<BatchKey, usize, BuildHasherDefault<DefaultHasher>>,
    /// The queue used last: most clients stay with it.
    latest: usize,
    /// The queues used last by the address of their name: those who use several mostly share the names.
    known: [usize; KNOWN],
    /// The queues with items, in no order. What is done to all that waits looks at these only.
    busy: Vec<usize>,
    /// The queues that may be idle, those that became so first in front.
    idle: VecDeque<usize>,
    /// When to look for queues that were idle for long.
    sweep_at: EarliestDeadline,
    /// How many queues were looked at because of something that is not theirs.
    #[cfg(test)]
    visits: usize,
    /// The queues that may send now, each once.
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
            known: [0; KNOWN],
            busy: Vec::new(),
            idle: VecDeque::new(),
            sweep_at: EarliestDeadline::default(),
            #[cfg(test)]
            visits: 0,
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

    /// Adds a run where its call id belongs, usually at the back.
    pub(super) fn push(&mut self, now: Instant, policy: Policy, run: Run<T>, places: &mut Places) {
        let index = self.queue_of(&run, policy);
        self.earliest.add(run.ticket.attempt.deadline);
        self.items += run.len();
        run.ticket.note_place(places, place_of(index));
        if let Some(queue) = self.queue_mut(index) {
            queue.push(now, run);
            // In line with items already: one more changes neither.
            if queue.queued && queue.busy_at.is_some() {
                return;
            }
        }
        self.reconsider(now, index);
    }

    /// Puts runs back where their call ids belong, usually at the front.
    pub(super) fn put_back(
        &mut self,
        now: Instant,
        key: BatchKey,
        policy: Policy,
        runs: Vec<Run<T>>,
        places: &mut Places,
    ) {
        let index = self.queue_index(key, policy);
        // The last first: each then goes to the front, where its call id belongs.
        for run in runs.into_iter().rev() {
            self.earliest.add(run.ticket.attempt.deadline);
            self.items += run.len();
            run.ticket.note_place(places, place_of(index));
            if let Some(queue) = self.queue_mut(index) {
                queue.put_back(now, run);
            }
        }
        self.reconsider(now, index);
    }

    /// The queue of this key sends nothing before `until`.
    pub(super) fn hold(&mut self, now: Instant, key: &BatchKey, until: Instant) {
        if let Some(index) = self.find(key.by_ref()) {
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
                // `taken` puts it at the end of the line again if there is more, so that queues take turns.
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

    /// `taken` items left the queue, `sent` of them in a frame that is now in flight.
    pub(super) fn taken(&mut self, now: Instant, index: usize, taken: usize, sent: usize) {
        self.items = self.items.saturating_sub(taken);
        if let Some(queue) = self.queue_mut(index) {
            queue.in_flight += sent;
        }
        self.reconsider(now, index);
    }

    /// A frame of this queue with so many items was answered, or given up.
    pub(super) fn answered(&mut self, now: Instant, key: KeyRef<'_>, items: usize, answered: Answered) {
        if let Some(index) = self.find(key) {
            if let Some(queue) = self.queue_mut(index) {
                queue.answered(items, answered);
            }
            self.reconsider(now, index);
        }
    }

    /// The server does not know this queue, perhaps not yet, since then: that holds for what waits behind the message
    /// that was asked for, too, so that all of them wait for the queue no longer than one.
    pub(super) fn note_absent(&mut self, key: &BatchKey, since: Instant) {
        if let Some(queue) = self.find(key.by_ref()).and_then(|index| self.queue_mut(index)) {
            queue.note_absent(since);
        }
    }

    /// Takes out all that waits in one queue.
    pub(super) fn take_waiting(&mut self, now: Instant, key: &BatchKey) -> Vec<Run<T>> {
        let Some(index) = self.find(key.by_ref()) else {
            return Vec::new();
        };
        let Some(queue) = self.queue_mut(index) else {
            return Vec::new();
        };
        let runs = queue.take_all();
        self.note_left(now, index, &runs);
        runs
    }

    /// Lets partial frames of a budget (or of all) go out now.
    pub(super) fn flush(&mut self, now: Instant, budget: Option<u32>) {
        // No queue loses items here, so the busy ones stay what they are.
        for place in 0..self.busy.len() {
            if let Some(index) = self.visit(place)
                && let Some(queue) = self.queue_mut(index)
                && budget.is_none_or(|budget| queue.key.budget == budget)
            {
                queue.flushing = true;
                self.reconsider(now, index);
            }
        }
    }

    /// Time passed: queues become ready, runs whose deadline passed come out.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Run<T>> {
        let mut expired = Vec::new();
        if !self.earliest.take_due(now) {
            return expired;
        }
        // From the last: one that has no items left changes places with it.
        for place in (0..self.busy.len()).rev() {
            let Some(index) = self.visit(place) else { continue };
            let Some(queue) = self.queue_mut(index) else { continue };
            let due = queue.take_due(now);
            // `take_due` forgot the earliest instant: every queue says its own again, and `sweep` says its own.
            let deadline = queue.soonest_deadline();
            self.earliest.add(deadline);
            // A queue that is due waits for the connection, not for time.
            self.note_left(now, index, &due);
            expired.extend(due);
        }
        self.sweep(now);
        expired
    }

    /// Takes out a call with one item, if it waits in this queue.
    pub(super) fn withdraw_one(&mut self, now: Instant, index: usize, call: CallId) -> Option<Run<T>> {
        self.withdraw_from(now, index, call).pop()
    }

    /// Takes out what waits of a list.
    pub(super) fn withdraw_many(&mut self, now: Instant, call: CallId) -> Vec<Run<T>> {
        let mut out = Vec::new();
        // From the last: one that has no items left changes places with it.
        for place in (0..self.busy.len()).rev() {
            if let Some(index) = self.visit(place) {
                out.extend(self.withdraw_from(now, index, call));
            }
        }
        out
    }

    fn withdraw_from(&mut self, now: Instant, index: usize, call: CallId) -> Vec<Run<T>> {
        let Some(queue) = self.queue_mut(index) else {
            return Vec::new();
        };
        let runs = queue.withdraw(call);
        if !runs.is_empty() {
            self.note_left(now, index, &runs);
        }
        runs
    }

    /// These left a queue, other than in a frame.
    fn note_left(&mut self, now: Instant, index: usize, runs: &[Run<T>]) {
        let items: usize = runs.iter().map(Run::len).sum();
        self.items = self.items.saturating_sub(items);
        self.reconsider(now, index);
    }

    /// Who waits for a detached item, which goes out all the same.
    pub(super) fn detach(&mut self, index: usize, call: CallId) -> Option<ReplyTo<T>> {
        let ticket = self.queue_mut(index)?.ticket_mut(call)?;
        ticket
            .detached
            .then(|| std::mem::replace(&mut ticket.reply_to, ReplyTo::Nobody))
    }

    /// Everything that waits, queue by queue.
    pub(super) fn drain(&mut self) -> Vec<Run<T>> {
        self.items = 0;
        self.earliest = EarliestDeadline::default();
        self.sweep_at = EarliestDeadline::default();
        self.ready.clear();
        self.by_key.clear();
        self.free.clear();
        self.busy.clear();
        self.idle.clear();
        // `latest` and `known` point at nothing now, or at another queue. Whoever uses them compares the key.
        let queues = self.queues.drain(..).flatten();
        queues.flat_map(BatchQueue::into_runs).collect()
    }

    /// The connection is gone: no frame is unanswered any more.
    pub(super) fn reset_in_flight(&mut self, now: Instant) {
        for index in 0..self.queues.len() {
            if let Some(queue) = self.queue_mut(index) {
                queue.in_flight = 0;
                // The next server has answered nothing yet, so queues of a cluster probe again.
                queue.confirmed = false;
            }
            self.reconsider(now, index);
        }
    }

    fn find(&mut self, key: KeyRef<'_>) -> Option<usize> {
        if let Some(index) = self.find_known(key) {
            return Some(index);
        }
        let index = *self.by_key.get(&key.to_key())?;
        self.note_used(index, key.queue);
        Some(index)
    }

    /// A queue that was used lately.
    fn find_known(&mut self, key: KeyRef<'_>) -> Option<usize> {
        let is_it = |index: &usize| {
            let queue = self.queues.get(*index).and_then(Option::as_ref);
            queue.is_some_and(|queue| key.is(&queue.key))
        };
        let known = self.known.get(place_of_name(key.queue)).copied();
        let index = [known.unwrap_or_default(), self.latest].into_iter().find(is_it)?;
        self.latest = index;
        Some(index)
    }

    fn note_used(&mut self, index: usize, name: &QueueName) {
        self.latest = index;
        if let Some(known) = self.known.get_mut(place_of_name(name)) {
            *known = index;
        }
    }

    /// The queue that a run belongs to.
    fn queue_of(&mut self, run: &Run<T>, policy: Policy) -> usize {
        if let Some(index) = self.find_known(run.key()) {
            // The budget may belong to another producer than when the queue was made.
            if let Some(queue) = self.queue_mut(index) {
                queue.policy = policy;
            }
            return index;
        }
        self.queue_index(run.key().to_key(), policy)
    }

    fn queue_index(&mut self, key: BatchKey, policy: Policy) -> usize {
        if let Some(index) = self.find(key.by_ref()) {
            // As above.
            if let Some(queue) = self.queue_mut(index) {
                queue.policy = policy;
            }
            return index;
        }
        let queue = BatchQueue::new(key.clone(), policy, self.peer);
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
        self.note_used(index, &key.queue);
        self.by_key.insert(key, index);
        index
    }

    /// Something about the queue changed: it may be ready, have a new due time, or be unused.
    fn reconsider(&mut self, now: Instant, index: usize) {
        self.note_busy(index);
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
            None if queue.is_idle() && used > MAX_QUEUES && !queue.queued && !queue.in_idle => self.remove(index),
            None if queue.is_idle() => {
                queue.idle_since = Some(now);
                if !std::mem::replace(&mut queue.in_idle, true) {
                    self.idle.push_back(index);
                }
                if used > KEEP_IDLE && self.sweep_at.at().is_none() {
                    self.sweep_at.add(now.checked_add(IDLE));
                    self.earliest.add(self.sweep_at.at());
                }
            }
            None => {}
        }
    }

    /// Keeps the queues with items together.
    fn note_busy(&mut self, index: usize) {
        let end = self.busy.len();
        let Some(queue) = self.queue_mut(index) else { return };
        match (queue.is_empty(), queue.busy_at) {
            (false, None) => {
                queue.busy_at = Some(end);
                self.busy.push(index);
            }
            (true, Some(place)) => {
                queue.busy_at = None;
                // The last one takes its place, and has to know that.
                self.busy.swap_remove(place);
                if let Some(moved) = self.busy.get(place).copied()
                    && let Some(queue) = self.queue_mut(moved)
                {
                    queue.busy_at = Some(place);
                }
            }
            (false, Some(_)) | (true, None) => {}
        }
    }

    /// The busy queue at this place.
    fn visit(&mut self, place: usize) -> Option<usize> {
        #[cfg(test)]
        {
            self.visits += 1;
        }
        self.busy.get(place).copied()
    }

    /// Gives back queues that were idle for long.
    fn sweep(&mut self, now: Instant) {
        if !self.sweep_at.take_due(now) {
            self.earliest.add(self.sweep_at.at());
            return;
        }
        let is_old = |since: Instant| now.saturating_duration_since(since) >= IDLE;
        for _ in 0..self.idle.len() {
            let Some(index) = self.idle.pop_front() else { break };
            // Counted for each: the sweep stops giving back when few enough are left.
            let used = self.by_key.len();
            let Some(queue) = self.queue_mut(index) else { continue };
            if !queue.is_idle() {
                // It comes back when it is idle again.
                queue.in_idle = false;
            } else if used > KEEP_IDLE && !queue.queued && queue.idle_since.is_none_or(is_old) {
                self.remove(index);
            } else {
                self.idle.push_back(index);
            }
        }
        if self.by_key.len() > KEEP_IDLE {
            self.sweep_at.add(now.checked_add(IDLE));
            self.earliest.add(self.sweep_at.at());
        }
        self.shrink();
    }

    /// Forgets a queue.
    fn remove(&mut self, index: usize) {
        if let Some(queue) = self.queues.get_mut(index).and_then(Option::take) {
            self.by_key.remove(&queue.key);
            self.free.push(index);
        }
    }

    /// Gives the places of queues back that are gone.
    fn shrink(&mut self) {
        while let Some(None) = self.queues.last() {
            self.queues.pop();
        }
        let left = self.queues.len();
        // Indices beyond the end would be handed out as places that are not there.
        self.free.retain(|index| *index < left);
        if self.queues.capacity() > 2 * left.max(KEEP_IDLE) {
            self.queues.shrink_to_fit();
            self.by_key.shrink_to_fit();
            self.free.shrink_to_fit();
            self.busy.shrink_to_fit();
            self.idle.shrink_to_fit();
            self.ready.shrink_to_fit();
        }
    }
}

/// Where a queue of this name is known, if it is.
fn place_of_name(name: &QueueName) -> usize {
    // Neighbours in memory are not at the same place; the lowest bits are always the same.
    let address = Arc::as_ptr(name).addr();
    (address >> 4) % KNOWN
}

/// The place of what waits in the queue with this index.
fn place_of(index: usize) -> Place {
    // As many queues as would not fit it fit into no memory.
    Place::Waiting(u32::try_from(index).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Batching, ProducerSettings};
    use crate::message::Message;
    use crate::requests::work::{Attempt, BatchKind};

    fn auto() -> Policy {
        let settings = ProducerSettings::default();
        Policy {
            batching: Batching::Auto,
            max_messages: settings.max_messages,
            max_bytes: settings.max_bytes,
        }
    }

    /// One message for each of so many queues.
    fn push_each(queues: &mut BatchQueues<()>, now: Instant, names: usize) {
        for name in 0..names {
            let message = Message::new(format!("queue-{name}"), "x");
            let item = Run::alone(CallId::new(name as u64), Attempt::new(None), (), message);
            queues.push(now, auto(), item, &mut Places::default());
        }
    }

    /// Sends what waits, and has it answered.
    fn exchange(queues: &mut BatchQueues<()>, now: Instant) {
        let mut sent = Vec::new();
        while let Some(index) = queues.next_ready(now) {
            let queue = queues.queue_mut(index).unwrap();
            let key = queue.key.clone();
            let taken = std::iter::from_fn(|| queue.take_front(1)).count();
            queues.taken(now, index, taken, taken);
            sent.push((key, taken));
        }
        for (key, taken) in sent {
            queues.answered(now, key.by_ref(), taken, Answered::Finally);
        }
    }

    #[test]
    fn a_queue_is_found_however_its_name_is_held() {
        let now = crate::tests_epoch();
        let mut queues = BatchQueues::new();
        let names: Vec<QueueName> = (0..3 * KNOWN).map(|n| format!("queue-{n}").into()).collect();
        for round in 0..4 {
            for name in &names {
                // The same name, and one that only reads the same.
                for name in [name.clone(), QueueName::from(&**name)] {
                    for budget in [0, 7] {
                        let call = CallId { number: round, budget };
                        let item = Run::alone(call, Attempt::new(None), (), Message::new(name.clone(), "x"));
                        queues.push(now, auto(), item, &mut Places::default());
                    }
                }
            }
        }
        assert_eq!(queues.by_key.len(), 2 * names.len());
        for name in &names {
            for budget in [0, 7] {
                let queue = QueueName::from(&**name);
                let kind = BatchKind::Enqueue;
                let key = BatchKey { budget, kind, queue };
                let index = queues.find(key.by_ref()).unwrap();
                let found = queues.queue_mut(index).unwrap();
                assert_eq!((&found.key, found.runs().count()), (&key, 8));
            }
        }
        let kind = BatchKind::Ack;
        let queue = names[0].clone();
        assert_eq!(queues.find(BatchKey { budget: 0, kind, queue }.by_ref()), None);
    }

    #[test]
    fn only_queues_with_items_are_visited() {
        let now = crate::tests_epoch();
        let mut queues = BatchQueues::new();
        push_each(&mut queues, now, 10_000);
        exchange(&mut queues, now);
        push_each(&mut queues, now, 3);
        queues.flush(now, None);
        assert_eq!(queues.visits, 3);
        assert!(queues.withdraw_many(now, CallId::new(99)).is_empty());
        assert_eq!(queues.visits, 6);
        assert!(queues.handle_timeout(now + IDLE / 2).is_empty());
        queues.earliest.add(Some(now));
        assert!(queues.handle_timeout(now).is_empty());
        assert_eq!(queues.visits, 9);
        assert_eq!(queues.withdraw_many(now, CallId::new(1)).len(), 1);
        assert_eq!((queues.busy.len(), queues.len()), (2, 2));
        exchange(&mut queues, now);
        assert!(queues.busy.is_empty());
    }

    #[test]
    fn idle_queues_are_given_back_after_a_while_and_busy_ones_stay() {
        let now = crate::tests_epoch();
        let mut queues = BatchQueues::new();
        push_each(&mut queues, now, 10_000);
        exchange(&mut queues, now);
        assert_eq!(queues.by_key.len(), 10_000, "they are used again soon");
        push_each(&mut queues, now, 100);
        let mut at = now;
        for _ in 0..2 {
            let due = queues.earliest_deadline().expect("idle queues are looked for");
            assert!(due <= at + IDLE);
            at = due;
            queues.handle_timeout(at);
        }
        assert_eq!(queues.by_key.len(), 100, "those with items");
        assert!(queues.queues.len() <= 10_000 && queues.idle.is_empty());
        exchange(&mut queues, at);
        for _ in 0..2 {
            at += IDLE;
            queues.handle_timeout(at);
        }
        assert_eq!(queues.by_key.len(), KEEP_IDLE);
        assert_eq!(queues.earliest_deadline(), None, "no need to look again");
        assert!(queues.queues.capacity() <= 4 * KEEP_IDLE);
        push_each(&mut queues, at, 200);
        exchange(&mut queues, at);
        assert_eq!(queues.by_key.len(), 200);
    }

    #[test]
    fn there_is_an_end_to_idle_queues() {
        let now = crate::tests_epoch();
        let mut queues = BatchQueues::new();
        for round in 0..3 {
            for name in 0..MAX_QUEUES {
                let message = Message::new(format!("queue-{round}-{name}"), "x");
                let item = Run::alone(CallId::new(1), Attempt::new(None), (), message);
                queues.push(now, auto(), item, &mut Places::default());
                exchange(&mut queues, now);
            }
            assert!(queues.by_key.len() <= MAX_QUEUES);
        }
        assert!(queues.queues.len() <= MAX_QUEUES + 1 && queues.idle.len() <= MAX_QUEUES + 1);
    }
}
