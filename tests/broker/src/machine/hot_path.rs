//! Enqueue, consume, ack, nack and credit.

use std::sync::Arc;
use std::time::Instant;

use fibp_proto::admin::PermissionKind;
use fibp_proto::request::{AckItem, NackItem};
use fibp_proto::response::ItemResult;
use fibp_proto::{Headers, Message, MessageId, QueueName, Response};

use super::connection::Session;
use super::ids::Uuid;
use super::queue::Stored;
use super::refusal::{Forbidden, ItemRefusal, Refusal};
use super::render::Style;
use super::scheduler::DLQ;
use super::{BrokerMachine, ConnectionId};
use crate::faults::Leadership;

/// Headers up to this many are checked for duplicate keys; the preamble dialect carries no more.
const MAX_DEDUPLICATED: usize = 255;

impl BrokerMachine {
    pub(super) fn enqueue(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        messages: Vec<Message>,
        touched: &mut Vec<QueueName>,
    ) -> Result<Response, Refusal> {
        let style = self.style(connection);
        if !style.is_framed() && messages.first().is_some_and(|message| message.queue.is_empty()) {
            let refused = style.item(&ItemRefusal::EmptyQueueName);
            return Ok(Response::Enqueue(vec![Err(refused)]));
        }
        let queues = messages.iter().map(|message| &message.queue);
        self.permit_items(connection, &PermissionKind::Produce, queues)?;
        let wall_ms = self.settings.wall_at(now);
        let results = messages
            .into_iter()
            .map(|message| {
                self.store(style, wall_ms, message, touched)
                    .map_err(|refusal| style.item(&refusal))
            })
            .collect();
        Ok(Response::Enqueue(results))
    }

    fn store(
        &mut self,
        style: Style,
        wall_ms: u64,
        message: Message,
        touched: &mut Vec<QueueName>,
    ) -> Result<MessageId, ItemRefusal> {
        self.check_item(style, &message.queue)?;
        let unknown = || match self.settings.faults.cluster {
            true => ItemRefusal::RaftGroupNotFound,
            false => ItemRefusal::QueueNotFound(QueueName::clone(&message.queue)),
        };
        let queue = self.scheduler.queue_mut(&message.queue).ok_or_else(unknown)?;
        let named = self.settings.fairness_header.as_deref();
        let fairness_key = match named.and_then(|header| message.headers.get(header)) {
            Some(key) => Arc::from(key),
            None => Arc::clone(&self.default_key),
        };
        let id = self.ids.time_ordered(wall_ms);
        queue.pending.push_back(Stored {
            id,
            fairness_key,
            headers: without_duplicates(message.headers),
            payload: message.payload,
            attempts: 0,
        });
        touch(touched, &message.queue);
        Ok(id.message_id())
    }

    /// What refuses an item before its queue is looked at.
    fn check_item(&self, style: Style, queue: &QueueName) -> Result<(), ItemRefusal> {
        let faults = &self.settings.faults;
        if faults.storage_failing {
            return Err(ItemRefusal::Storage);
        }
        match faults.leaders.get(queue) {
            Some(Leadership::Electing) => Err(ItemRefusal::NoLeader),
            Some(Leadership::Elsewhere(_)) if style.is_framed() => Err(ItemRefusal::NotLeader),
            // Preamble servers forward to the leader.
            Some(Leadership::Elsewhere(_)) | None => Ok(()),
        }
    }

    fn permit_items<'a>(
        &self,
        connection: ConnectionId,
        kind: &PermissionKind,
        queues: impl Iterator<Item = &'a QueueName>,
    ) -> Result<(), Refusal> {
        let mut permitted: Option<&QueueName> = None;
        for queue in queues {
            if permitted != Some(queue) {
                self.permit_queue(connection, kind, queue)?;
                permitted = Some(queue);
            }
        }
        Ok(())
    }

    /// Checks a permission on a queue.
    pub(super) fn permit_queue(
        &self,
        connection: ConnectionId,
        kind: &PermissionKind,
        queue: &QueueName,
    ) -> Result<(), Refusal> {
        self.permit(
            connection,
            |keys, identity| keys.allows(identity, kind, queue),
            || Forbidden::Queue(kind.clone(), QueueName::clone(queue)),
        )
    }

    pub(super) fn consume(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        consume_id: u32,
        queue: QueueName,
        credit: u32,
        touched: &mut Vec<QueueName>,
    ) -> Result<Response, Refusal> {
        let style = self.style(connection);
        if !style.is_framed() {
            if self.session_mut(connection).is_some() {
                return Err(Refusal::ConsumeActive);
            }
            if queue.is_empty() {
                return Err(Refusal::EmptyConsumeName);
            }
        }
        self.permit_queue(connection, &PermissionKind::Consume, &queue)?;
        let faults = &self.settings.faults;
        match faults.leaders.get(&queue) {
            Some(Leadership::Elsewhere(leader)) => return Err(Refusal::NotLeader(leader.clone())),
            Some(Leadership::Electing) => return Err(Refusal::NoLeader),
            None if faults.cluster && !self.scheduler.exists(&queue) => return Err(Refusal::NoSuchGroup),
            None => {}
        }
        self.end_session(connection, touched);
        let consumer_id = style
            .is_framed()
            .then(|| self.ids.time_ordered(self.settings.wall_at(now)).to_string());
        if let Some(known) = self.connections.get_mut(&connection) {
            known.session = Some(Session::new(consume_id, QueueName::clone(&queue), credit));
            self.scheduler.register(&queue, connection);
        }
        touch(touched, &queue);
        Ok(Response::Consume { consumer_id })
    }

    pub(super) fn cancel(&mut self, connection: ConnectionId, touched: &mut Vec<QueueName>) {
        self.end_session(connection, touched);
    }

    /// Grants credit, in effect at once. Without a consumer it is ignored.
    pub(super) fn flow(&mut self, now: Instant, connection: ConnectionId, credit: u32) {
        let Some(session) = self.session_mut(connection) else {
            return;
        };
        session.grant(credit);
        let queue = QueueName::clone(&session.queue);
        self.push_from(now, connection);
        self.refill(now, &queue);
    }

    pub(super) fn ack(&mut self, connection: ConnectionId, items: &[AckItem]) -> Result<Response, Refusal> {
        let queues = items.iter().map(|item| &item.queue);
        self.permit_items(connection, &PermissionKind::Consume, queues)?;
        let style = self.style(connection);
        let results = items
            .iter()
            .map(|item| self.settle(style, &item.queue, &item.id).map(drop))
            .collect();
        Ok(Response::Ack(results))
    }

    pub(super) fn nack(
        &mut self,
        connection: ConnectionId,
        items: &[NackItem],
        touched: &mut Vec<QueueName>,
    ) -> Result<Response, Refusal> {
        let queues = items.iter().map(|item| &item.queue);
        self.permit_items(connection, &PermissionKind::Consume, queues)?;
        let style = self.style(connection);
        let mut results = Vec::with_capacity(items.len());
        for item in items {
            let settled = self.settle(style, &item.queue, &item.id);
            results.push(settled.map(|message| self.retry(&item.queue, message, touched)));
        }
        Ok(Response::Nack(results))
    }

    fn settle(&mut self, style: Style, queue: &QueueName, id: &MessageId) -> ItemResult<Stored> {
        let settled = self.check_item(style, queue).and_then(|()| {
            let uuid = Uuid::parse(id.as_str()).ok_or_else(|| ItemRefusal::BadMessageId(id.to_string()))?;
            let lease = self
                .scheduler
                .queue_mut(queue)
                .and_then(|queue| queue.leases.settle(uuid));
            lease.ok_or_else(|| ItemRefusal::NoLease {
                id: id.to_string(),
                queue: QueueName::clone(queue),
            })
        });
        settled.map_err(|refusal| style.item(&refusal))
    }

    /// Puts a nacked message to the back of its fairness key, or into the dead-letter queue.
    fn retry(&mut self, queue: &QueueName, mut message: Stored, touched: &mut Vec<QueueName>) {
        message.attempts = message.attempts.saturating_add(1);
        let given_up = self
            .settings
            .dead_letter_after
            .is_some_and(|attempts| message.attempts >= attempts);
        let dlq = (given_up && !queue.ends_with(DLQ))
            .then(|| self.scheduler.name_of(&format!("{queue}{DLQ}")))
            .flatten();
        let target = dlq.as_ref().unwrap_or(queue);
        if let Some(queue) = self.scheduler.queue_mut(target) {
            queue.pending.push_back(message);
            touch(touched, target);
        }
    }
}

/// Notes that a queue has something new to hand out.
pub(super) fn touch(touched: &mut Vec<QueueName>, queue: &QueueName) {
    if !touched.contains(queue) {
        touched.push(QueueName::clone(queue));
    }
}

/// Of duplicate keys, the last wins.
fn without_duplicates(headers: Headers) -> Headers {
    let count = headers.len();
    if !(2..=MAX_DEDUPLICATED).contains(&count) {
        return headers;
    }
    let duplicated = headers
        .iter()
        .enumerate()
        .any(|(at, (key, _))| headers.iter().skip(at + 1).any(|(other, _)| other == key));
    if duplicated { headers.iter().collect() } else { headers }
}
