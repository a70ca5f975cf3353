//! Enqueue, consume and credit.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use fibp_proto::admin::PermissionKind;
use fibp_proto::{Headers, Message, MessageId, QueueName, Response};

use super::cluster::View;
use super::connection::Session;
use super::ids::message_id;
use super::queue::Stored;
use super::refusal::{Forbidden, ItemRefusal, Refusal};
use super::render::Style;
use super::{BrokerMachine, ConnectionId};
use crate::faults::Leadership;

/// Headers up to this many are checked for duplicate keys; the preamble dialect carries no more.
const MAX_DEDUPLICATED: usize = 255;

/// Who executes an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// A single node.
    Alone,
    /// This node, which leads the queue.
    Lead,
    /// The queue's leader, to which this node forwards.
    Forward,
}

/// Tells which items of a frame the cluster layer carries: with defect 3 the first of each queue
/// (docs/protocol/clusters.md 3).
#[derive(Debug)]
pub(super) struct FirstItems {
    /// `None`: all are carried.
    seen: Option<BTreeSet<QueueName>>,
}

impl FirstItems {
    pub(super) fn new(cut: bool) -> Self {
        Self {
            seen: cut.then(BTreeSet::new),
        }
    }

    pub(super) fn carries(&mut self, queue: &QueueName) -> bool {
        match &mut self.seen {
            None => true,
            Some(seen) => seen.insert(QueueName::clone(queue)),
        }
    }
}

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
        self.refer(now, connection, messages.iter().map(|message| &message.queue))?;
        let wall_ms = self.settings.wall_at(now);
        let mut firsts = FirstItems::new(self.cuts_lists(style));
        let results = messages
            .into_iter()
            .map(|message| {
                let carried = firsts.carries(&message.queue);
                self.route(now, connection, style, &message.queue)
                    .and_then(|route| self.store(wall_ms, route, carried, message, touched))
                    .map_err(|refusal| style.item(&refusal))
            })
            .collect();
        Ok(Response::Enqueue(results))
    }

    fn store(
        &mut self,
        wall_ms: u64,
        route: Route,
        carried: bool,
        message: Message,
        touched: &mut Vec<QueueName>,
    ) -> Result<MessageId, ItemRefusal> {
        if self
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.is_stuck(&message.queue))
        {
            return Err(ItemRefusal::Raft);
        }
        let unknown = || match self.is_cluster() {
            true => ItemRefusal::RaftGroupNotFound,
            false => ItemRefusal::QueueNotFound(QueueName::clone(&message.queue)),
        };
        if !self.scheduler.exists(&message.queue) {
            return Err(unknown());
        }
        let id = self.ids.time_ordered(wall_ms);
        if route == Route::Forward && !carried {
            // Confirmed, and lost.
            return Ok(message_id(id));
        }
        let named = self.settings.fairness_header.as_deref();
        let fairness_key = match named.and_then(|header| message.headers.get(header)) {
            Some(key) => Arc::from(key),
            None => Arc::clone(&self.default_key),
        };
        if let Some(queue) = self.scheduler.queue_mut(&message.queue) {
            queue.pending.push_back(Stored {
                id,
                fairness_key,
                headers: without_duplicates(message.headers),
                payload: message.payload,
                attempts: 0,
                leader_only: !carried,
            });
            touch(touched, &message.queue);
        }
        Ok(message_id(id))
    }

    /// Whether a frame's list reaches the cluster layer with its first item per queue only.
    pub(super) fn cuts_lists(&self, style: Style) -> bool {
        self.cluster.is_some() && style.is_framed() && self.settings.faults.cluster_cuts_lists
    }

    /// Refuses a whole frame because of a queue that another node leads, where nodes do not forward.
    pub(super) fn refer<'a>(
        &self,
        now: Instant,
        connection: ConnectionId,
        mut queues: impl Iterator<Item = &'a QueueName>,
    ) -> Result<(), Refusal> {
        let Some(cluster) = self.cluster.as_ref().filter(|_| self.settings.faults.cluster_refers) else {
            return Ok(());
        };
        let leader = queues.find_map(|queue| match self.view(now, connection, queue) {
            Some(View::Follows(leader)) => Some(leader),
            _ => None,
        });
        leader.map_or(Ok(()), |leader| {
            Err(Refusal::NotLeader(cluster.addr(leader).to_owned()))
        })
    }

    /// Who executes an item, or what refuses it before its queue is looked at.
    pub(super) fn route(
        &self,
        now: Instant,
        connection: ConnectionId,
        style: Style,
        queue: &QueueName,
    ) -> Result<Route, ItemRefusal> {
        let faults = &self.settings.faults;
        if faults.storage_failing {
            return Err(ItemRefusal::Storage);
        }
        match faults.leaders.get(queue) {
            Some(Leadership::Electing) => return Err(ItemRefusal::NoLeader),
            Some(Leadership::Elsewhere(_)) if style.is_framed() => return Err(ItemRefusal::NotLeader),
            // Preamble servers forward to the leader.
            Some(Leadership::Elsewhere(_)) | None => {}
        }
        match self.view(now, connection, queue) {
            None => Ok(Route::Alone),
            Some(View::Leads) => Ok(Route::Lead),
            Some(View::Follows(_)) => Ok(Route::Forward),
            Some(View::Unknown) => Err(ItemRefusal::RaftGroupNotFound),
            Some(View::NotReady) => Err(ItemRefusal::NodeNotReady),
            Some(View::Unled | View::Electing) => Err(ItemRefusal::NoLeader),
        }
    }

    /// Whether there is no answer about a queue to be had from the node of this connection.
    pub(super) fn check_group(
        &self,
        now: Instant,
        connection: ConnectionId,
        queue: &QueueName,
    ) -> Result<Option<View>, Refusal> {
        match self.view(now, connection, queue) {
            Some(View::Unknown) => Err(Refusal::NoSuchGroup),
            Some(View::NotReady) => Err(Refusal::NodeNotReady),
            Some(View::Unled) => Err(Refusal::NoLeaderYet),
            Some(View::Electing) => Err(Refusal::NoLeader),
            view => Ok(view),
        }
    }

    /// Checks the permission for each queue of a list.
    pub(super) fn permit_items<'a>(
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
        if let (Some(View::Follows(leader)), Some(cluster)) =
            (self.check_group(now, connection, &queue)?, &self.cluster)
        {
            return Err(Refusal::NotLeader(cluster.addr(leader).to_owned()));
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
