//! Ack and nack, on a single node and in a cluster.

use std::time::Instant;

use fibp_proto::admin::PermissionKind;
use fibp_proto::request::{AckItem, NackItem};
use fibp_proto::response::ItemResult;
use fibp_proto::{MessageId, QueueName, Response};
use uuid::Uuid;

use super::data::{FirstItems, Route, touch};
use super::ids;
use super::queue::Stored;
use super::refusal::{ItemRefusal, Refusal};
use super::render::Style;
use super::scheduler::DLQ;
use super::{BrokerMachine, ConnectionId};

/// What an item asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settle {
    Ack,
    Nack,
}

impl BrokerMachine {
    pub(super) fn ack(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        items: &[AckItem],
        touched: &mut Vec<QueueName>,
    ) -> Result<Response, Refusal> {
        let items: Vec<_> = items.iter().map(|item| (&item.queue, &item.id)).collect();
        self.settle_all(now, connection, Settle::Ack, &items, touched)
            .map(Response::Ack)
    }

    pub(super) fn nack(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        items: &[NackItem],
        touched: &mut Vec<QueueName>,
    ) -> Result<Response, Refusal> {
        let items: Vec<_> = items.iter().map(|item| (&item.queue, &item.id)).collect();
        self.settle_all(now, connection, Settle::Nack, &items, touched)
            .map(Response::Nack)
    }

    fn settle_all(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        settle: Settle,
        items: &[(&QueueName, &MessageId)],
        touched: &mut Vec<QueueName>,
    ) -> Result<Vec<ItemResult<()>>, Refusal> {
        let queues = items.iter().map(|(queue, _)| *queue);
        self.permit_items(connection, &PermissionKind::Consume, queues)?;
        self.refer(now, connection, items.iter().map(|(queue, _)| *queue))?;
        let style = self.style(connection);
        let mut firsts = FirstItems::new(self.cuts_lists(style));
        let mut acked: Vec<Uuid> = Vec::new();
        let mut results = Vec::with_capacity(items.len());
        for (queue, id) in items {
            let carried = firsts.carries(queue);
            let settled = self.route(now, connection, style, queue).and_then(|route| {
                let uuid = ids::parse(id.as_str()).ok_or_else(|| ItemRefusal::BadMessageId(id.to_string()))?;
                if settle == Settle::Ack && style.is_framed() && acked.contains(&uuid) {
                    // Framed servers ack the same id as often as it stands in one frame (docs/protocol/framed.md 5).
                    return Ok(());
                }
                let done = match route {
                    Route::Alone => self.settle_alone(settle, queue, uuid, touched),
                    Route::Lead => self.settle_at_leader(settle, carried, queue, uuid, touched),
                    Route::Forward => {
                        self.settle_forwarded(settle, carried, style, queue, uuid, touched);
                        true
                    }
                };
                acked.extend((done && settle == Settle::Ack).then_some(uuid));
                let missing = || ItemRefusal::NoLease {
                    id: id.to_string(),
                    queue: QueueName::clone(queue),
                };
                done.then_some(()).ok_or_else(missing)
            });
            results.push(settled.map_err(|refusal| style.item(&refusal)));
        }
        Ok(results)
    }

    fn end_lease(&mut self, queue: &str, id: Uuid) -> Option<Stored> {
        self.scheduler.queue_mut(queue)?.leases.settle(id)
    }

    /// Whether there was a lease.
    fn settle_alone(&mut self, settle: Settle, queue: &QueueName, id: Uuid, touched: &mut Vec<QueueName>) -> bool {
        let Some(message) = self.end_lease(queue, id) else {
            return false;
        };
        if settle == Settle::Nack {
            self.retry(queue, message, touched);
        }
        true
    }

    /// At the leader, which ends the lease by way of its Raft log, and then finds none in its scheduler: the item is
    /// done, and answered as if it were not (docs/protocol/clusters.md 4). Items that are not `carried` do not go through
    /// the log. Whether the answer is Ok.
    fn settle_at_leader(
        &mut self,
        settle: Settle,
        carried: bool,
        queue: &QueueName,
        id: Uuid,
        touched: &mut Vec<QueueName>,
    ) -> bool {
        let loses_sight = carried && self.settings.faults.cluster_acks_not_found;
        if loses_sight {
            let message = self.end_lease(queue, id);
            if let (Some(stored), Some(message)) = (self.scheduler.queue_mut(queue), message) {
                match settle {
                    Settle::Ack => stored.miscounted += 1,
                    Settle::Nack => stored.shelve(message),
                }
            }
            return false;
        }
        let Some(message) = self.end_lease(queue, id) else {
            return false;
        };
        match settle {
            Settle::Nack => self.retry(queue, message, touched),
            Settle::Ack if !carried => {
                if let Some(stored) = self.scheduler.queue_mut(queue) {
                    stored.acked_by_leader.push(message);
                }
            }
            Settle::Ack => {}
        }
        true
    }

    /// At another node, which forwards what the log carries and says Ok to everything.
    fn settle_forwarded(
        &mut self,
        settle: Settle,
        carried: bool,
        style: Style,
        queue: &QueueName,
        id: Uuid,
        touched: &mut Vec<QueueName>,
    ) {
        let Some(message) = carried.then(|| self.end_lease(queue, id)).flatten() else {
            return;
        };
        let shelves = style.is_framed() && self.settings.faults.cluster_acks_not_found;
        match settle {
            Settle::Ack => {}
            Settle::Nack if shelves => {
                if let Some(stored) = self.scheduler.queue_mut(queue) {
                    stored.shelve(message);
                }
            }
            Settle::Nack => self.retry(queue, message, touched),
        }
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
