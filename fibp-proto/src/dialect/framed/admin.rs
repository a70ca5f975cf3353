//! Bodies of administrative operations (spec/framed.md 3). Every result begins with a code.

use super::handshake::{put_option, read_option};
use crate::admin::{
    Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, KeyStats, Permission, QueueInfo, QueueList, QueueSpec, QueueStats,
    ThrottleStats,
};
use crate::dialect::EncodeError;
use crate::dialect::put::Put;
use crate::frame::{DecodeError, Reader};

/// Reads a `u16` count and that many items.
fn read_list<'a, T>(
    body: &mut Reader<'a>,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = usize::from(body.u16()?);
    let mut items = Vec::with_capacity(body.capacity_for(count, size_of::<T>()));
    for _ in 0..count {
        items.push(item(body)?);
    }
    Ok(items)
}

/// Writes a `u16` count and the items.
fn put_list<P: Put, T>(
    to: &mut P,
    field: &'static str,
    items: &[T],
    mut item: impl FnMut(&mut P, &T) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    to.count16(field, items.len())?;
    items.iter().try_for_each(|it| item(to, it))
}

pub(super) fn text(body: &mut Reader<'_>) -> Result<String, DecodeError> {
    body.str16().map(str::to_owned)
}

// ---- queues ----

pub(super) fn put_queue_spec<P: Put>(to: &mut P, spec: &QueueSpec) -> Result<(), EncodeError> {
    to.str16("queue name", &spec.name)?;
    put_option(to, "on_enqueue script", spec.on_enqueue.as_deref())?;
    put_option(to, "on_failure script", spec.on_failure.as_deref())?;
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

pub(super) fn put_queue_stats<P: Put>(to: &mut P, stats: &QueueStats) -> Result<(), EncodeError> {
    to.u64(stats.depth);
    to.u64(stats.in_flight);
    to.u64(stats.active_fairness_keys);
    to.u32(stats.active_consumers);
    to.u32(stats.quantum);
    to.u64(stats.leader_node_id);
    to.u32(stats.replication_count);
    put_list(to, "fairness keys", &stats.per_key, |to, key| {
        to.str16("fairness key", &key.key)?;
        to.u64(key.pending);
        to.i64(key.deficit);
        to.u32(key.weight);
        Ok(())
    })?;
    put_list(to, "throttles", &stats.per_throttle, |to, throttle| {
        to.str16("throttle key", &throttle.key)?;
        to.f64(throttle.tokens);
        to.f64(throttle.rate_per_second);
        to.f64(throttle.burst);
        Ok(())
    })
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
        per_key: read_list(body, |body| {
            Ok(KeyStats {
                key: text(body)?,
                pending: body.u64()?,
                deficit: body.i64()?,
                weight: body.u32()?,
            })
        })?,
        per_throttle: read_list(body, |body| {
            Ok(ThrottleStats {
                key: text(body)?,
                tokens: body.f64()?,
                rate_per_second: body.f64()?,
                burst: body.f64()?,
            })
        })?,
    })
}

pub(super) fn put_queue_list<P: Put>(to: &mut P, list: &QueueList) -> Result<(), EncodeError> {
    to.u32(list.cluster_node_count);
    put_list(to, "queues", &list.queues, |to, queue| {
        to.str16("queue name", &queue.name)?;
        to.u64(queue.depth);
        to.u64(queue.in_flight);
        to.u32(queue.active_consumers);
        to.u64(queue.leader_node_id);
        Ok(())
    })
}

pub(super) fn read_queue_list(body: &mut Reader<'_>) -> Result<QueueList, DecodeError> {
    Ok(QueueList {
        cluster_node_count: body.u32()?,
        queues: read_list(body, |body| {
            Ok(QueueInfo {
                name: text(body)?,
                depth: body.u64()?,
                in_flight: body.u64()?,
                active_consumers: body.u32()?,
                leader_node_id: body.u64()?,
            })
        })?,
    })
}

// ---- configuration ----

pub(super) fn put_entries<P: Put>(to: &mut P, entries: &[(String, String)]) -> Result<(), EncodeError> {
    put_list(to, "configuration entries", entries, |to, (key, value)| {
        to.str16("configuration key", key)?;
        to.str16("configuration value", value)
    })
}

pub(super) fn read_entries(body: &mut Reader<'_>) -> Result<Vec<(String, String)>, DecodeError> {
    read_list(body, |body| Ok((text(body)?, text(body)?)))
}

// ---- API keys ----

pub(super) fn put_api_key_spec<P: Put>(to: &mut P, spec: &ApiKeySpec) -> Result<(), EncodeError> {
    to.str16("API key name", &spec.name)?;
    to.u64(spec.expires_at_ms);
    to.bool(spec.superadmin);
    Ok(())
}

pub(super) fn read_api_key_spec(body: &mut Reader<'_>) -> Result<ApiKeySpec, DecodeError> {
    Ok(ApiKeySpec::new(body.str16()?)
        .expires_at_ms(body.u64()?)
        .superadmin(body.bool()?))
}

pub(super) fn put_created_api_key<P: Put>(to: &mut P, key: &CreatedApiKey) -> Result<(), EncodeError> {
    to.str16("API key id", &key.key_id)?;
    to.str16("API key", key.key.expose())?;
    to.bool(key.superadmin);
    Ok(())
}

pub(super) fn read_created_api_key(body: &mut Reader<'_>) -> Result<CreatedApiKey, DecodeError> {
    Ok(CreatedApiKey::new(body.str16()?, body.str16()?, body.bool()?))
}

pub(super) fn put_api_keys<P: Put>(to: &mut P, keys: &[ApiKeyInfo]) -> Result<(), EncodeError> {
    put_list(to, "API keys", keys, |to, key| {
        to.str16("API key id", &key.key_id)?;
        to.str16("API key name", &key.name)?;
        to.u64(key.created_at_ms);
        to.u64(key.expires_at_ms);
        to.bool(key.superadmin);
        Ok(())
    })
}

pub(super) fn read_api_keys(body: &mut Reader<'_>) -> Result<Vec<ApiKeyInfo>, DecodeError> {
    read_list(body, |body| {
        Ok(ApiKeyInfo {
            key_id: text(body)?,
            name: text(body)?,
            created_at_ms: body.u64()?,
            expires_at_ms: body.u64()?,
            superadmin: body.bool()?,
        })
    })
}

// ---- access control ----

pub(super) fn put_permissions<P: Put>(to: &mut P, permissions: &[Permission]) -> Result<(), EncodeError> {
    put_list(to, "permissions", permissions, |to, permission| {
        to.str16("permission kind", permission.kind.as_str())?;
        to.str16("permission pattern", &permission.pattern)
    })
}

pub(super) fn read_permissions(body: &mut Reader<'_>) -> Result<Vec<Permission>, DecodeError> {
    read_list(body, |body| Ok(Permission::new(body.str16()?, body.str16()?)))
}

pub(super) fn put_acl<P: Put>(to: &mut P, acl: &Acl) -> Result<(), EncodeError> {
    to.str16("API key id", &acl.key_id)?;
    to.bool(acl.superadmin);
    put_permissions(to, &acl.permissions)
}

pub(super) fn read_acl(body: &mut Reader<'_>) -> Result<Acl, DecodeError> {
    Ok(Acl {
        key_id: text(body)?,
        superadmin: body.bool()?,
        permissions: read_permissions(body)?,
    })
}
