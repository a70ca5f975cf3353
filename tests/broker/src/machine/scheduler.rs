//! Who gets which message when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fibp_proto::admin::QueueInfo;
use fibp_proto::{QueueName, Received};
use uuid::Uuid;

use super::ConnectionId;
use super::ids::message_id;
use super::queue::{Queue, Stored};

/// The suffix of dead-letter queues.
pub(super) const DLQ: &str = ".dlq";

/// The consumers of a queue, taking turns.
#[derive(Debug, Default)]
struct Rotation {
    consumers: Vec<ConnectionId>,
    next: usize,
}

/// Queues and the consumers registered for them. Consumers of queues that do not exist wait.
#[derive(Debug, Default)]
pub(super) struct Scheduler {
    queues: BTreeMap<QueueName, Queue>,
    rotations: BTreeMap<QueueName, Rotation>,
    /// Messages of deleted queues: still on disk on real servers, and back if a queue of that name exists at a
    /// restart.
    buried: BTreeMap<QueueName, Vec<Stored>>,
}

/// What survives a restart of the broker.
#[derive(Debug, Clone)]
pub(super) struct StoredQueues {
    queues: BTreeMap<QueueName, Queue>,
    buried: BTreeMap<QueueName, Vec<Stored>>,
}

/// Why a redrive is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RedriveFault {
    NotFound,
    NotADeadLetterQueue,
    NoParent,
}

impl Scheduler {
    pub(super) fn exists(&self, name: &str) -> bool {
        self.queues.contains_key(name)
    }

    pub(super) fn queue(&self, name: &str) -> Option<&Queue> {
        self.queues.get(name)
    }

    pub(super) fn queue_mut(&mut self, name: &str) -> Option<&mut Queue> {
        self.queues.get_mut(name)
    }

    /// The shared copy of an existing queue's name.
    pub(super) fn name_of(&self, name: &str) -> Option<QueueName> {
        self.queues.get_key_value(name).map(|(name, _)| QueueName::clone(name))
    }

    /// Creates a queue and, unless it is a dead-letter queue itself, its dead-letter queue if missing.
    pub(super) fn create(&mut self, name: &QueueName, visibility: Duration, dlq_visibility: Duration) {
        self.queues
            .entry(QueueName::clone(name))
            .or_insert_with(|| Queue::new(visibility));
        if !name.ends_with(DLQ) {
            self.queues
                .entry(format!("{name}{DLQ}").into())
                .or_insert_with(|| Queue::new(dlq_visibility));
        }
    }

    /// Deletes a queue and its dead-letter queue. Consumers stay registered.
    pub(super) fn delete(&mut self, name: &str) -> bool {
        let deleted = self.bury(name);
        if deleted && !name.ends_with(DLQ) {
            self.bury(&format!("{name}{DLQ}"));
        }
        deleted
    }

    fn bury(&mut self, name: &str) -> bool {
        let Some((name, mut queue)) = self.queues.remove_entry(name) else {
            return false;
        };
        let mut messages = queue.leases.take_all();
        messages.append(&mut queue.shelved);
        messages.extend(queue.pending.take_in_storage_order(usize::MAX));
        if !messages.is_empty() {
            self.buried.entry(name).or_default().append(&mut messages);
        }
        true
    }

    pub(super) fn list(&self) -> Vec<QueueInfo> {
        self.queues
            .iter()
            .map(|(name, queue)| {
                let (depth, in_flight) = queue.counted();
                QueueInfo::default()
                    .name(name.as_ref().to_owned())
                    .depth(depth)
                    .in_flight(in_flight)
                    .active_consumers(self.consumer_count(name))
                    .leader_node_id(0)
            })
            .collect()
    }

    pub(super) fn consumer_count(&self, queue: &str) -> u32 {
        self.rotations.get(queue).map_or(0, |rotation| {
            u32::try_from(rotation.consumers.len()).unwrap_or(u32::MAX)
        })
    }

    pub(super) fn register(&mut self, queue: &QueueName, consumer: ConnectionId) {
        let rotation = self.rotations.entry(QueueName::clone(queue)).or_default();
        rotation.consumers.push(consumer);
    }

    pub(super) fn unregister(&mut self, queue: &str, consumer: ConnectionId) {
        let Some(rotation) = self.rotations.get_mut(queue) else {
            return;
        };
        if let Some(at) = rotation.consumers.iter().position(|other| *other == consumer) {
            rotation.consumers.remove(at);
            if at < rotation.next {
                rotation.next -= 1;
            }
        }
        if rotation.consumers.is_empty() {
            self.rotations.remove(queue);
        }
    }

    /// The consumer whose turn it is among those that `has_room`.
    pub(super) fn next_consumer(
        &mut self,
        queue: &str,
        mut has_room: impl FnMut(ConnectionId) -> bool,
    ) -> Option<ConnectionId> {
        let rotation = self.rotations.get_mut(queue)?;
        let count = rotation.consumers.len();
        for step in 0..count {
            let at = (rotation.next + step) % count;
            let consumer = *rotation.consumers.get(at)?;
            if has_room(consumer) {
                rotation.next = (at + 1) % count;
                return Some(consumer);
            }
        }
        None
    }

    pub(super) fn consumers(&self, queue: &str) -> Vec<ConnectionId> {
        self.rotations
            .get(queue)
            .map_or_else(Vec::new, |rotation| rotation.consumers.clone())
    }

    /// Queues with consumers and pending messages.
    pub(super) fn waiting(&self) -> Vec<QueueName> {
        self.rotations
            .keys()
            .filter(|name| self.queues.get(*name).is_some_and(|queue| queue.pending.len() > 0))
            .cloned()
            .collect()
    }

    /// Leases the message whose turn it is to `consumer`.
    pub(super) fn lease(
        &mut self,
        now: Instant,
        queue_name: &QueueName,
        consumer: ConnectionId,
        quantum: u32,
    ) -> Option<Received> {
        let queue = self.queues.get_mut(queue_name)?;
        let message = queue.pending.pop(quantum)?;
        let mut delivery = Received::new(
            message_id(message.id),
            QueueName::clone(queue_name),
            message.headers.clone(),
            message.payload.clone(),
            message.fairness_key.clone(),
            message.attempts,
        );
        // Only the framed dialect carries these; its servers always send these values.
        delivery.weight = Some(1);
        delivery.throttle_keys = Some(Vec::new());
        delivery.enqueued_at_ms = Some(0);
        delivery.leased_at_ms = Some(0);
        queue.leases.hold(message, consumer, now.checked_add(queue.visibility));
        Some(delivery)
    }

    /// Whether the queue has something to hand out.
    pub(super) fn has_pending(&self, queue: &str) -> bool {
        self.queues.get(queue).is_some_and(|queue| queue.pending.len() > 0)
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.queues
            .values()
            .filter_map(|queue| queue.leases.next_expiry())
            .min()
    }

    /// Takes expired leases back, with one more attempt, to the end of their fairness keys.
    pub(super) fn reclaim(&mut self, now: Instant) -> Vec<QueueName> {
        let mut touched = Vec::new();
        for (name, queue) in &mut self.queues {
            let before = queue.pending.len();
            while let Some(mut message) = queue.leases.pop_expired(now) {
                message.attempts = message.attempts.saturating_add(1);
                queue.pending.push_back(message);
            }
            if queue.pending.len() > before {
                touched.push(QueueName::clone(name));
            }
        }
        touched
    }

    /// Puts back what `holder` leased from `queue`, of `only` these if given.
    pub(super) fn unlease(&mut self, queue: &str, holder: ConnectionId, only: Option<&[Uuid]>) {
        if let Some(queue) = self.queues.get_mut(queue) {
            let messages = queue.leases.take_held_by(holder, only);
            queue.unlease(messages);
        }
    }

    /// Puts back everything that `holder` leased, and names the queues it came from.
    pub(super) fn unlease_all(&mut self, holder: ConnectionId) -> Vec<QueueName> {
        let mut touched = Vec::new();
        for (name, queue) in &mut self.queues {
            let messages = queue.leases.take_held_by(holder, None);
            if !messages.is_empty() {
                queue.unlease(messages);
                touched.push(QueueName::clone(name));
            }
        }
        touched
    }

    /// Moves up to `count` (0: all) messages that are not leased back to the parent queue.
    pub(super) fn redrive(&mut self, dlq: &str, count: u64) -> Result<(u64, QueueName), RedriveFault> {
        if !self.exists(dlq) {
            return Err(RedriveFault::NotFound);
        }
        let parent = dlq.strip_suffix(DLQ).ok_or(RedriveFault::NotADeadLetterQueue)?;
        let parent_name = self.name_of(parent).ok_or(RedriveFault::NoParent)?;
        let most = match count {
            0 => usize::MAX,
            count => usize::try_from(count).unwrap_or(usize::MAX),
        };
        let moved = self
            .queues
            .get_mut(dlq)
            .map(|source| source.pending.take_in_storage_order(most))
            .unwrap_or_default();
        let redriven = moved.len() as u64;
        if let Some(parent) = self.queues.get_mut(parent) {
            for mut message in moved {
                message.attempts = 0;
                parent.pending.push_back(message);
            }
        }
        Ok((redriven, parent_name))
    }

    pub(super) fn stored(&self) -> StoredQueues {
        StoredQueues {
            queues: self.queues.clone(),
            buried: self.buried.clone(),
        }
    }

    /// The scheduler of a broker that starts with what another one left. Leases are kept or returned.
    pub(super) fn restore(stored: StoredQueues, keep_leases: bool) -> Self {
        let StoredQueues { mut queues, mut buried } = stored;
        for (name, queue) in &mut queues {
            queue.reload();
            if !keep_leases {
                let leased = queue.leases.take_all();
                queue.unlease(leased);
            }
            for message in buried.remove(name).unwrap_or_default() {
                queue.pending.push_back(message);
            }
        }
        Self {
            queues,
            rotations: BTreeMap::new(),
            buried,
        }
    }
}
