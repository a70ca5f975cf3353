//! Bodies of administrative operations that are peculiar to this dialect (docs/protocol/framed.md 3).

use super::handshake::{encode_option, read_option};
use crate::admin::{Acl, QueueList, QueueSpec, QueueStats};
use crate::dialect::EncodeError;
use crate::dialect::encode::Encoder;
use crate::dialect::records::{encode_list16, read_list16};
use crate::frame::{DecodeError, Reader};
use crate::prelude::*;

pub(super) fn encode_queue_spec<E: Encoder>(to: &mut E, spec: &QueueSpec) -> Result<(), EncodeError> {
    to.str16("queue name", &spec.name)?;
    encode_option(to, "on_enqueue script", spec.on_enqueue.as_deref())?;
    encode_option(to, "on_failure script", spec.on_failure.as_deref())?;
    to.u64(spec.visibility_timeout_ms);
    Ok(())
}

pub(super) fn read_queue_spec(body: &mut Reader<'_>) -> Result<QueueSpec, DecodeError> {
    let mut spec = QueueSpec::new(body.str16()?);
    spec.on_enqueue = read_option(body)?.map(str::to_owned);
    spec.on_failure = read_option(body)?.map(str::to_owned);
    spec.visibility_timeout_ms = body.u64()?;
    Ok(spec)
}

pub(super) fn encode_queue_stats<E: Encoder>(to: &mut E, stats: &QueueStats) -> Result<(), EncodeError> {
    to.u64(stats.depth);
    to.u64(stats.in_flight);
    to.u64(stats.active_fairness_keys);
    to.u32(stats.active_consumers);
    to.u32(stats.quantum);
    to.u64(stats.leader_node_id);
    to.u32(stats.replication_count);
    encode_list16(to, &stats.per_key)?;
    encode_list16(to, &stats.per_throttle)
}

pub(super) fn read_queue_stats(body: &mut Reader<'_>) -> Result<QueueStats, DecodeError> {
    Ok(QueueStats {
        depth: body.u64()?,
        in_flight: body.u64()?,
        active_fairness_keys: body.u64()?,
        active_consumers: body.u32()?,
        quantum: body.u32()?,
        leader_node_id: body.u64()?,
        replication_count: body.u32()?,
        per_key: read_list16(body)?,
        per_throttle: read_list16(body)?,
    })
}

pub(super) fn encode_queue_list<E: Encoder>(to: &mut E, list: &QueueList) -> Result<(), EncodeError> {
    to.u32(list.cluster_node_count);
    encode_list16(to, &list.queues)
}

pub(super) fn read_queue_list(body: &mut Reader<'_>) -> Result<QueueList, DecodeError> {
    Ok(QueueList {
        cluster_node_count: body.u32()?,
        queues: read_list16(body)?,
    })
}

pub(super) fn encode_acl<E: Encoder>(to: &mut E, acl: &Acl) -> Result<(), EncodeError> {
    to.str16("API key id", &acl.key_id)?;
    to.bool(acl.superadmin);
    encode_list16(to, &acl.permissions)
}

pub(super) fn read_acl(body: &mut Reader<'_>) -> Result<Acl, DecodeError> {
    Ok(Acl {
        key_id: body.str16()?.to_owned(),
        superadmin: body.bool()?,
        permissions: read_list16(body)?,
    })
}
