//! Binary layouts that the dialects have in common: list items, and the bodies of most admin requests
//! (docs/protocol/preamble.md 2.3, docs/protocol/framed.md 3).

use super::EncodeError;
use super::encode::Encoder;
use crate::admin::{ApiKeyInfo, ApiKeySpec, CreatedApiKey, KeyStats, Permission, QueueInfo, ThrottleStats};
use crate::frame::{DecodeError, Reader};
use crate::message::MessageId;
use crate::prelude::*;
use crate::request::{AckItem, NackItem, Op, Request};
#[cfg(feature = "std")]
use crate::requests::Settle;

/// One item of a list.
pub(crate) trait Record: Sized {
    /// What several of it are called in an error.
    const PLURAL: &'static str;

    /// The fewest bytes it takes on the wire.
    const WIRE_LEN: usize;

    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError>;
    fn read(body: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// Bytes of memory that it holds besides itself.
    fn held(&self) -> usize;
}

/// What a shared string of so many bytes holds: its text and two counters.
pub(crate) fn shared_len(text: usize) -> usize {
    text.saturating_add(2 * size_of::<usize>())
}

/// What a message id holds besides itself.
pub(crate) fn id_len(id: &MessageId) -> usize {
    if id.is_inline() {
        0
    } else {
        shared_len(id.as_bytes().len())
    }
}

/// `u16` count, then the items.
pub(crate) fn encode_list16<R: Record, E: Encoder>(to: &mut E, items: &[R]) -> Result<(), EncodeError> {
    to.count16(R::PLURAL, items.len())?;
    items.iter().try_for_each(|item| item.encode(to))
}

/// `u16` count, then the items.
pub(crate) fn read_list16<R: Record>(body: &mut Reader<'_>) -> Result<Vec<R>, DecodeError> {
    let count = usize::from(body.u16()?);
    read_items(count, body)
}

/// `count` items. The count alone reserves little.
pub(crate) fn read_items<R: Record>(count: usize, body: &mut Reader<'_>) -> Result<Vec<R>, DecodeError> {
    let mut items = Vec::with_capacity(body.reserve(count, R::WIRE_LEN, size_of::<R>())?);
    for _ in 0..count {
        let item = R::read(body)?;
        body.hold(item.held())?;
        items.push(item);
    }
    Ok(items)
}

impl Record for AckItem {
    const PLURAL: &'static str = "acks";
    const WIRE_LEN: usize = 4;

    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        encode_settled(to, &self.queue, &self.id, None)
    }

    fn read(body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            queue: body.str16()?.into(),
            id: MessageId::read_uncounted(body)?,
        })
    }

    fn held(&self) -> usize {
        shared_len(self.queue.len()).saturating_add(id_len(&self.id))
    }
}

impl Record for NackItem {
    const PLURAL: &'static str = "nacks";
    const WIRE_LEN: usize = 6;

    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        encode_settled(to, &self.queue, &self.id, Some(&self.error))
    }

    fn read(body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            queue: body.str16()?.into(),
            id: MessageId::read_uncounted(body)?,
            error: body.str16()?.to_owned(),
        })
    }

    fn held(&self) -> usize {
        shared_len(self.queue.len())
            .saturating_add(id_len(&self.id))
            .saturating_add(self.error.len())
    }
}

/// One item of an ack (`error` is `None`) or nack.
pub(crate) fn encode_settled<E: Encoder>(
    to: &mut E,
    queue: &str,
    id: &MessageId,
    error: Option<&str>,
) -> Result<(), EncodeError> {
    to.str16("queue name", queue)?;
    to.text16("message id", id.as_bytes())?;
    error.map_or(Ok(()), |error| to.str16("error text", error))
}

/// The items of an ack or nack, as the client keeps them.
#[cfg(feature = "std")]
pub(crate) fn encode_settles<E: Encoder>(to: &mut E, settles: &[Settle]) -> Result<(), EncodeError> {
    settles
        .iter()
        .try_for_each(|settle| encode_settled(to, &settle.queue, &settle.id, settle.nack.as_deref()))
}

impl Record for KeyStats {
    const PLURAL: &'static str = "fairness keys";
    const WIRE_LEN: usize = 22;

    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.str16("fairness key", &self.key)?;
        to.u64(self.pending);
        to.i64(self.deficit);
        to.u32(self.weight);
        Ok(())
    }

    fn read(body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            key: body.str16()?.to_owned(),
            pending: body.u64()?,
            deficit: body.i64()?,
            weight: body.u32()?,
        })
    }

    fn held(&self) -> usize {
        self.key.len()
    }
}

impl Record for ThrottleStats {
    const PLURAL: &'static str = "throttles";
    const WIRE_LEN: usize = 26;

    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.str16("throttle key", &self.key)?;
        to.f64(self.tokens);
        to.f64(self.rate_per_second);
        to.f64(self.burst);
        Ok(())
    }

    fn read(body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            key: body.str16()?.to_owned(),
            tokens: body.f64()?,
            rate_per_second: body.f64()?,
            burst: body.f64()?,
        })
    }

    fn held(&self) -> usize {
        self.key.len()
    }
}

impl Record for QueueInfo {
    const PLURAL: &'static str = "queues";
    const WIRE_LEN: usize = 30;

    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.str16("queue name", &self.name)?;
        to.u64(self.depth);
        to.u64(self.in_flight);
        to.u32(self.active_consumers);
        to.u64(self.leader_node_id);
        Ok(())
    }

    fn read(body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: body.str16()?.to_owned(),
            depth: body.u64()?,
            in_flight: body.u64()?,
            active_consumers: body.u32()?,
            leader_node_id: body.u64()?,
        })
    }

    fn held(&self) -> usize {
        self.name.len()
    }
}

impl Record for ApiKeyInfo {
    const PLURAL: &'static str = "API keys";
    const WIRE_LEN: usize = 21;

    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.str16("API key id", &self.key_id)?;
        to.str16("API key name", &self.name)?;
        to.u64(self.created_at_ms);
        to.u64(self.expires_at_ms);
        to.bool(self.superadmin);
        Ok(())
    }

    fn read(body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            key_id: body.str16()?.to_owned(),
            name: body.str16()?.to_owned(),
            created_at_ms: body.u64()?,
            expires_at_ms: body.u64()?,
            superadmin: body.bool()?,
        })
    }

    fn held(&self) -> usize {
        self.key_id.len().saturating_add(self.name.len())
    }
}

impl Record for Permission {
    const PLURAL: &'static str = "permissions";
    const WIRE_LEN: usize = 4;

    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.str16("permission kind", self.kind.as_str())?;
        to.str16("permission pattern", &self.pattern)
    }

    fn read(body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::new(body.str16()?, body.str16()?))
    }

    fn held(&self) -> usize {
        self.kind.as_str().len().saturating_add(self.pattern.len())
    }
}

/// A configuration entry.
impl Record for (String, String) {
    const PLURAL: &'static str = "config entries";
    const WIRE_LEN: usize = 4;

    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.str16("config key", &self.0)?;
        to.str16("config value", &self.1)
    }

    fn read(body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok((body.str16()?.to_owned(), body.str16()?.to_owned()))
    }

    fn held(&self) -> usize {
        self.0.len().saturating_add(self.1.len())
    }
}

impl Record for CreatedApiKey {
    const PLURAL: &'static str = "API keys";
    const WIRE_LEN: usize = 5;

    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.str16("API key id", &self.key_id)?;
        to.str16("API key", self.key.expose())?;
        to.bool(self.superadmin);
        Ok(())
    }

    fn read(body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::new(body.str16()?, body.str16()?, body.bool()?))
    }

    fn held(&self) -> usize {
        self.key_id.len().saturating_add(self.key.expose().len())
    }
}

/// The body of every admin request whose layout is the same in all binary encodings: all but the creation
/// of a queue.
pub(crate) fn encode_admin_request<E: Encoder>(to: &mut E, request: &Request) -> Result<(), EncodeError> {
    match request {
        Request::ListQueues | Request::ListApiKeys => Ok(()),
        Request::DeleteQueue { queue } | Request::QueueStats { queue } => to.str16("queue name", queue),
        Request::Redrive { dlq, count } => {
            to.str16("queue name", dlq)?;
            to.u64(*count);
            Ok(())
        }
        Request::SetConfig { key, value } => {
            to.str16("config key", key)?;
            to.str16("config value", value)
        }
        Request::GetConfig { key } => to.str16("config key", key),
        Request::ListConfig { prefix } => to.str16("config prefix", prefix),
        Request::CreateApiKey(spec) => {
            to.str16("API key name", &spec.name)?;
            to.u64(spec.expires_at_ms);
            to.bool(spec.superadmin);
            Ok(())
        }
        Request::RevokeApiKey { key_id } | Request::GetAcl { key_id } => to.str16("API key id", key_id),
        Request::SetAcl { key_id, permissions } => {
            to.str16("API key id", key_id)?;
            encode_list16(to, permissions)
        }
        _ => Err(EncodeError::Unsupported("not a shared admin request")),
    }
}

/// Reads what [`encode_admin_request`] writes for `op`.
pub(crate) fn read_admin_request(op: Op, body: &mut Reader<'_>) -> Result<Request, DecodeError> {
    Ok(match op {
        Op::ListQueues => Request::ListQueues,
        Op::ListApiKeys => Request::ListApiKeys,
        Op::DeleteQueue => Request::DeleteQueue {
            queue: body.str16()?.into(),
        },
        Op::QueueStats => Request::QueueStats {
            queue: body.str16()?.into(),
        },
        Op::Redrive => Request::Redrive {
            dlq: body.str16()?.into(),
            count: body.u64()?,
        },
        Op::SetConfig => Request::SetConfig {
            key: body.str16()?.to_owned(),
            value: body.str16()?.to_owned(),
        },
        Op::GetConfig => Request::GetConfig {
            key: body.str16()?.to_owned(),
        },
        Op::ListConfig => Request::ListConfig {
            prefix: body.str16()?.to_owned(),
        },
        Op::CreateApiKey => Request::CreateApiKey(
            ApiKeySpec::new(body.str16()?)
                .expires_at_ms(body.u64()?)
                .superadmin(body.bool()?),
        ),
        Op::RevokeApiKey => Request::RevokeApiKey {
            key_id: body.str16()?.to_owned(),
        },
        Op::SetAcl => Request::SetAcl {
            key_id: body.str16()?.to_owned(),
            permissions: read_list16(body)?,
        },
        Op::GetAcl => Request::GetAcl {
            key_id: body.str16()?.to_owned(),
        },
        _ => return Err(DecodeError::Invalid("admin operation")),
    })
}
