//! Administrative operations, with their checks in the order of real servers (docs/protocol/preamble.md 1.11 and 1.12).

use std::time::{Duration, Instant};

use fibp_proto::admin::{ApiKeySpec, Permission, PermissionKind, QueueList, QueueSpec, QueueStats};
use fibp_proto::{AdminRevision, Op, QueueName, Request, Response};

use super::access::{Identity, KeyRing};
use super::cluster::Cluster;
use super::data::touch;
use super::refusal::{Forbidden, Refusal};
use super::render::Style;
use super::scheduler::{DLQ, RedriveFault};
use super::{BrokerMachine, ConnectionId};

const QUEUE_NAME: &str = "queue name";
const KEY_ID: &str = "key_id";

/// The least visibility timeout that preamble servers take, in milliseconds.
const MIN_VISIBILITY_MS: u64 = 1000;

/// Refuses an empty string where the dialect does.
fn check_filled(style: Style, field: &'static str, value: &str) -> Result<(), Refusal> {
    if value.is_empty() && !style.is_framed() {
        return Err(Refusal::Empty(field));
    }
    Ok(())
}

impl BrokerMachine {
    /// What real preamble servers check before they read the body of an admin request.
    pub(super) fn check_before_decoding(&self, connection: ConnectionId, op: Op) -> Result<(), Refusal> {
        let style = self.style(connection);
        if style.is_framed() {
            return Ok(());
        }
        if let Some(opcode) = style.quirky_unknown(op) {
            return Err(Refusal::UnknownOperation(opcode));
        }
        match op {
            Op::ListQueues | Op::SetConfig | Op::GetConfig | Op::ListConfig => self.permit_all(connection),
            Op::CreateQueue | Op::DeleteQueue | Op::QueueStats | Op::Redrive if style.has_quirks() => {
                self.permit_all(connection)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn administer(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        request: Request,
        touched: &mut Vec<QueueName>,
    ) -> Result<Response, Refusal> {
        self.check_before_decoding(connection, request.op())?;
        match request {
            Request::CreateQueue(spec) => self.create(now, connection, &spec, touched),
            Request::DeleteQueue { queue } => self.delete(connection, &queue),
            Request::QueueStats { queue } => self.stats(now, connection, &queue),
            Request::ListQueues => self.list(connection),
            Request::Redrive { dlq, count } => self.redrive(now, connection, &dlq, count, touched),
            Request::SetConfig { key, value } => self.set_config(connection, key, value),
            Request::GetConfig { key } => self.config_value(connection, &key),
            Request::ListConfig { prefix } => self.list_config(connection, &prefix),
            Request::CreateApiKey(spec) => self.create_key(now, connection, spec),
            Request::RevokeApiKey { key_id } => self.revoke_key(connection, &key_id),
            Request::ListApiKeys => self.list_keys(connection),
            Request::SetAcl { key_id, permissions } => self.set_acl(connection, &key_id, permissions),
            Request::GetAcl { key_id } => self.acl(connection, &key_id),
            Request::ProbeAdmin => Err(self.probe(connection)),
            // No dialect has a request that the broker does not know.
            _ => Err(Refusal::UnknownOperation(0)),
        }
    }

    /// Checks a permission. Only stored keys have to be looked up, which the storage may fail.
    pub(super) fn permit(
        &self,
        connection: ConnectionId,
        allowed: impl FnOnce(&KeyRing, &Identity) -> bool,
        otherwise: impl FnOnce() -> Forbidden,
    ) -> Result<(), Refusal> {
        let identity = self
            .connections
            .get(&connection)
            .map_or(&Identity::Nobody, |known| &known.identity);
        if matches!(identity, Identity::Key(_)) {
            self.check_storage(false)?;
        }
        if allowed(&self.keys, identity) {
            Ok(())
        } else {
            Err(Refusal::Forbidden(otherwise()))
        }
    }

    fn permit_all(&self, connection: ConnectionId) -> Result<(), Refusal> {
        self.permit(connection, KeyRing::administers_all, || Forbidden::Admin)
    }

    /// Operations that name a queue: preamble servers want an admin of that queue, framed servers one of all
    /// queues, except where they `agree`.
    fn permit_queue_admin(&self, connection: ConnectionId, queue: &QueueName, agree: bool) -> Result<(), Refusal> {
        let style = self.style(connection);
        if style.is_framed() && !agree {
            return self.permit_all(connection);
        }
        if style.has_quirks() {
            // Checked before decoding.
            return Ok(());
        }
        self.permit_queue(connection, &PermissionKind::Admin, queue)
    }

    /// Operations that framed servers leave to admins of all queues. Preamble servers leave them to anyone, or
    /// have checked before decoding.
    fn permit_framed(&self, connection: ConnectionId) -> Result<(), Refusal> {
        match self.style(connection) {
            Style::Framed => self.permit_all(connection),
            Style::Preamble { .. } => Ok(()),
        }
    }

    fn check_storage(&self, in_scheduler: bool) -> Result<(), Refusal> {
        if self.settings.faults.storage_failing {
            return Err(Refusal::Storage { in_scheduler });
        }
        Ok(())
    }

    fn create(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        spec: &QueueSpec,
        touched: &mut Vec<QueueName>,
    ) -> Result<Response, Refusal> {
        let style = self.style(connection);
        check_filled(style, QUEUE_NAME, &spec.name)?;
        self.permit_queue_admin(connection, &spec.name, true)?;
        if !style.is_framed() && (1..MIN_VISIBILITY_MS).contains(&spec.visibility_timeout_ms) {
            return Err(Refusal::VisibilityTooShort);
        }
        self.check_storage(true)?;
        let exists = self.scheduler.exists(&spec.name);
        if exists && !self.is_cluster() {
            return Err(Refusal::QueueExists(QueueName::clone(&spec.name)));
        }
        let scripts = [&spec.on_enqueue, &spec.on_failure];
        if scripts
            .iter()
            .any(|script| script.as_ref().is_some_and(|script| !script.is_empty()))
        {
            return Err(Refusal::ScriptsUnsupported);
        }
        let default = self.settings.visibility_timeout;
        let visibility = match spec.visibility_timeout_ms {
            0 => default,
            ms => Duration::from_millis(ms),
        };
        self.check_quorum()?;
        let node = self.node_of(connection);
        if let Some(cluster) = &mut self.cluster {
            cluster.create(&spec.name, Some((now, node, self.settings.creation_delay)));
        }
        self.scheduler.create(&spec.name, visibility, default);
        // Consumers may have been waiting for the queue.
        touch(touched, &spec.name);
        Ok(Response::CreateQueue {
            queue_id: spec.name.to_string(),
        })
    }

    fn delete(&mut self, connection: ConnectionId, queue: &QueueName) -> Result<Response, Refusal> {
        check_filled(self.style(connection), QUEUE_NAME, queue)?;
        self.permit_queue_admin(connection, queue, true)?;
        self.check_storage(true)?;
        self.check_quorum()?;
        if !self.scheduler.delete(queue) && !self.is_cluster() {
            return Err(Refusal::QueueNotFound(QueueName::clone(queue)));
        }
        if let Some(cluster) = &mut self.cluster {
            cluster.delete(queue);
        }
        Ok(Response::DeleteQueue)
    }

    /// Queues are created and deleted by a majority.
    fn check_quorum(&self) -> Result<(), Refusal> {
        match &self.cluster {
            Some(cluster) if !cluster.has_quorum() => Err(Refusal::NoLeaderYet),
            _ => Ok(()),
        }
    }

    fn stats(&self, now: Instant, connection: ConnectionId, name: &QueueName) -> Result<Response, Refusal> {
        check_filled(self.style(connection), QUEUE_NAME, name)?;
        self.permit_queue_admin(connection, name, false)?;
        self.check_storage(true)?;
        self.check_group(now, connection, name)?;
        let queue = self
            .scheduler
            .queue(name)
            .ok_or_else(|| Refusal::QueueNotFound(QueueName::clone(name)))?;
        let (depth, in_flight) = queue.counted();
        let per_key = queue.pending.key_stats();
        Ok(Response::QueueStats(
            QueueStats::default()
                .depth(depth)
                .in_flight(in_flight)
                .active_fairness_keys(per_key.len() as u64)
                .active_consumers(self.scheduler.consumer_count(name))
                .quantum(self.settings.quantum)
                .leader_node_id(self.leader(name).unwrap_or(0))
                .replication_count(self.cluster_size())
                .per_key(per_key)
                .per_throttle(self.config.throttles()),
        ))
    }

    fn list(&self, connection: ConnectionId) -> Result<Response, Refusal> {
        self.permit_framed(connection)?;
        self.check_storage(true)?;
        let mut queues = self.scheduler.list();
        for queue in &mut queues {
            queue.leader_node_id = self.leader(&queue.name).unwrap_or(0);
        }
        Ok(Response::ListQueues(
            QueueList::default()
                .queues(queues)
                .cluster_node_count(self.cluster_size()),
        ))
    }

    /// The number of nodes; 0 outside clusters.
    fn cluster_size(&self) -> u32 {
        let size = self.cluster.as_ref().map_or(0, Cluster::len);
        u32::try_from(size).unwrap_or(u32::MAX)
    }

    fn redrive(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        dlq: &QueueName,
        count: u64,
        touched: &mut Vec<QueueName>,
    ) -> Result<Response, Refusal> {
        check_filled(self.style(connection), "dlq_queue name", dlq)?;
        self.permit_queue_admin(connection, dlq, false)?;
        self.check_storage(true)?;
        self.check_group(now, connection, dlq)?;
        let (redriven, parent) = self.scheduler.redrive(dlq, count).map_err(|fault| match fault {
            RedriveFault::NotFound => Refusal::QueueNotFound(QueueName::clone(dlq)),
            RedriveFault::NotADeadLetterQueue => Refusal::NotADeadLetterQueue(QueueName::clone(dlq)),
            RedriveFault::NoParent => Refusal::ParentNotFound(dlq.trim_end_matches(DLQ).into()),
        })?;
        touch(touched, &parent);
        Ok(Response::Redrive { redriven })
    }

    fn set_config(&mut self, connection: ConnectionId, key: String, value: String) -> Result<Response, Refusal> {
        self.permit_framed(connection)?;
        check_filled(self.style(connection), "config key", &key)?;
        self.check_storage(false)?;
        self.config.set(&mut self.keys, key, value).map_err(Refusal::Throttle)?;
        Ok(Response::SetConfig)
    }

    fn config_value(&self, connection: ConnectionId, key: &str) -> Result<Response, Refusal> {
        self.permit_framed(connection)?;
        check_filled(self.style(connection), "config key", key)?;
        self.check_storage(false)?;
        Ok(Response::GetConfig {
            value: self.config.value(&self.keys, key),
        })
    }

    fn list_config(&self, connection: ConnectionId, prefix: &str) -> Result<Response, Refusal> {
        self.permit_framed(connection)?;
        self.check_storage(false)?;
        Ok(Response::ListConfig {
            entries: self.config.list(&self.keys, prefix),
        })
    }

    fn create_key(&mut self, now: Instant, connection: ConnectionId, spec: ApiKeySpec) -> Result<Response, Refusal> {
        check_filled(self.style(connection), "api key name", &spec.name)?;
        self.permit(connection, KeyRing::administers_something, || Forbidden::Admin)?;
        if spec.superadmin {
            self.permit(connection, KeyRing::is_superadmin, || Forbidden::SuperadminOnly)?;
        }
        self.check_storage(false)?;
        let wall_ms = self.settings.wall_at(now);
        let created = self.keys.create(&mut self.ids, spec, wall_ms);
        Ok(Response::CreateApiKey(created))
    }

    fn revoke_key(&mut self, connection: ConnectionId, key_id: &str) -> Result<Response, Refusal> {
        check_filled(self.style(connection), KEY_ID, key_id)?;
        self.permit_framed(connection)?;
        self.check_storage(false)?;
        if !self.keys.revoke(key_id) {
            return Err(Refusal::ApiKeyNotFound(key_id.to_owned()));
        }
        Ok(Response::RevokeApiKey)
    }

    fn list_keys(&self, connection: ConnectionId) -> Result<Response, Refusal> {
        self.permit_framed(connection)?;
        self.check_storage(false)?;
        Ok(Response::ListApiKeys(self.keys.list()))
    }

    fn set_acl(
        &mut self,
        connection: ConnectionId,
        key_id: &str,
        permissions: Vec<Permission>,
    ) -> Result<Response, Refusal> {
        let style = self.style(connection);
        check_filled(style, KEY_ID, key_id)?;
        for permission in &permissions {
            if let PermissionKind::Other(kind) = &permission.kind {
                return Err(Refusal::PermissionKind(kind.clone()));
            }
        }
        if style.is_framed() {
            self.permit(connection, KeyRing::administers_something, || Forbidden::Admin)?;
        }
        for permission in &permissions {
            let pattern = &permission.pattern;
            self.permit(
                connection,
                |keys, identity| keys.may_grant(identity, pattern),
                || Forbidden::OutsideScope,
            )?;
        }
        self.check_storage(false)?;
        if !self.keys.set_acl(key_id, permissions) {
            return Err(Refusal::ApiKeyNotFound(key_id.to_owned()));
        }
        Ok(Response::SetAcl)
    }

    fn acl(&self, connection: ConnectionId, key_id: &str) -> Result<Response, Refusal> {
        check_filled(self.style(connection), KEY_ID, key_id)?;
        self.permit_framed(connection)?;
        self.check_storage(false)?;
        let acl = self.keys.acl(key_id);
        acl.map(Response::GetAcl)
            .ok_or_else(|| Refusal::ApiKeyNotFound(key_id.to_owned()))
    }

    /// What the empty redrive that clients probe with comes to (docs/protocol/revisions.md).
    fn probe(&self, connection: ConnectionId) -> Refusal {
        const OPCODE: u8 = 0x14;
        let Style::Preamble { revision, quirks } = self.style(connection) else {
            return Refusal::UnknownOperation(OPCODE);
        };
        if revision == AdminRevision::Protobuf {
            return Refusal::NotImplemented(OPCODE);
        }
        if quirks && let Err(refusal) = self.permit_all(connection) {
            return refusal;
        }
        match revision {
            AdminRevision::Binary => Refusal::EmptyBody,
            _ => Refusal::Empty("dlq_queue name"),
        }
    }
}
