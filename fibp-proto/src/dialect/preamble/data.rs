//! Bodies of the data operations, the same in every revision (docs/protocol/preamble.md 1.5 to 1.8).

use bytes::Bytes;

use super::errors;
use crate::dialect::EncodeError;
use crate::dialect::contents::{self, Arena, Contents, Source};
use crate::dialect::encode::{Body, Encoder, measure_items};
#[cfg(feature = "std")]
use crate::dialect::records::encode_settles;
use crate::dialect::records::{encode_list16, read_list16};
use crate::frame::{DecodeError, Reader};
use crate::message::{Headers, IdText, Message, MessageId, QueueName, Received, same_queue};
use crate::prelude::*;
use crate::request::{AckItem, NackItem, Op, Request};
#[cfg(feature = "std")]
use crate::requests::Settle;
use crate::response::{ItemResult, Push};

/// Body bytes that an enqueue has before its first message.
pub(super) const fn enqueue_base_len(queue: &str) -> usize {
    queue.len().saturating_add(4)
}

/// Body bytes that an ack or nack has before its first item.
pub(super) const SETTLE_BASE_LEN: usize = 2;

/// The fewest bytes of a message in an enqueue.
const MESSAGE_LEN: usize = 5;

/// The fewest bytes of a delivery.
const DELIVERY_LEN: usize = 13;

/// Messages of one queue.
pub(super) struct EnqueueBody<'a> {
    queue: &'a str,
    messages: &'a [Message],
    /// The bytes of the messages, if they are known to be right by themselves.
    items_len: Option<usize>,
}

impl<'a> EnqueueBody<'a> {
    pub(super) fn new(messages: &'a [Message], items_len: Option<usize>) -> Result<Self, EncodeError> {
        // Where no message names a queue there is `EnqueueNone`; servers refuse the empty name without harm.
        let Some(first) = messages.first() else {
            return Ok(Self::none(""));
        };
        if !messages.iter().all(|message| same_queue(&message.queue, &first.queue)) {
            return Err(EncodeError::MixedQueues);
        }
        Ok(Self {
            queue: &first.queue,
            messages,
            items_len,
        })
    }

    /// No message for `queue`.
    pub(super) fn none(queue: &'a str) -> Self {
        Self {
            queue,
            messages: &[],
            items_len: None,
        }
    }
}

impl EnqueueBody<'_> {
    fn encode_base<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.str16("queue name", self.queue)?;
        to.count16("messages", self.messages.len())
    }
}

impl Body for EnqueueBody<'_> {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        self.encode_base(to)?;
        self.messages.iter().try_for_each(|message| encode_message(to, message))
    }

    fn measure(&self) -> Result<usize, EncodeError> {
        measure_items(self, self.items_len, |to| self.encode_base(to))
    }
}

pub(super) fn encode_message<E: Encoder>(to: &mut E, message: &Message) -> Result<(), EncodeError> {
    encode_contents(to, &message.headers, &message.payload)
}

fn encode_contents<E: Encoder>(to: &mut E, headers: &Headers, payload: &Bytes) -> Result<(), EncodeError> {
    to.count8("headers", headers.len())?;
    to.header_pairs(headers)?;
    to.bytes32("payload", payload)
}

pub(super) fn decode_enqueue(body: &Bytes) -> Result<Request, DecodeError> {
    let mut reader = Reader::new(body);
    let queue: QueueName = reader.str16()?.into();
    let count = usize::from(reader.u16()?);
    if count == 0 && !queue.is_empty() {
        return Ok(Request::EnqueueNone { queue });
    }
    let mut messages = Vec::with_capacity(reader.reserve(count, MESSAGE_LEN, size_of::<Message>())?);
    let (mut arena, from) = (Arena::default(), Source::shared(body));
    for _ in 0..count {
        let start = reader.position();
        let headers = usize::from(reader.u8()?);
        let contents = Contents::read(headers, &mut reader)?;
        let (headers, payload) = arena.take(contents, start..reader.position(), from);
        messages.push(Message {
            queue: queue.clone(),
            headers,
            payload,
        });
    }
    Ok(Request::Enqueue(messages))
}

pub(super) struct ConsumeBody<'a> {
    pub(super) queue: &'a str,
    pub(super) credit: u32,
}

impl Body for ConsumeBody<'_> {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.str16("queue name", self.queue)?;
        to.u32(self.credit);
        Ok(())
    }
}

pub(super) fn decode_consume(body: &[u8]) -> Result<Request, DecodeError> {
    let mut body = Reader::new(body);
    Ok(Request::Consume {
        queue: body.str16()?.into(),
        credit: body.u32()?,
    })
}

pub(super) fn decode_flow(body: &[u8]) -> Result<Request, DecodeError> {
    Ok(Request::Flow {
        credit: Reader::new(body).u32()?,
    })
}

impl Body for [AckItem] {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        encode_list16(to, self)
    }
}

impl Body for [NackItem] {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        encode_list16(to, self)
    }
}

/// Acks or nacks, as the client keeps them.
#[cfg(feature = "std")]
pub(super) struct SettlesBody<'a> {
    pub(super) settles: &'a [Settle],
    /// Their bytes.
    pub(super) items_len: usize,
}

#[cfg(feature = "std")]
impl Body for SettlesBody<'_> {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.count16("items", self.settles.len())?;
        encode_settles(to, self.settles)
    }

    fn measure(&self) -> Result<usize, EncodeError> {
        measure_items(self, Some(self.items_len), |to| to.count16("items", self.settles.len()))
    }
}

pub(super) fn decode_ack(body: &[u8]) -> Result<Request, DecodeError> {
    Ok(Request::Ack(read_list16(&mut Reader::new(body))?))
}

pub(super) fn decode_nack(body: &[u8]) -> Result<Request, DecodeError> {
    Ok(Request::Nack(read_list16(&mut Reader::new(body))?))
}

/// What the result of one item carries when it is good: a message id in an enqueue's, nothing otherwise.
pub(super) trait Outcome: Sized {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError>;
    fn read(body: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

impl Outcome for MessageId {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.text16("message id", self.as_bytes())
    }

    fn read(body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::read(body)
    }
}

impl Outcome for () {
    fn encode<E: Encoder>(&self, _: &mut E) -> Result<(), EncodeError> {
        Ok(())
    }

    fn read(_: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(())
    }
}

impl<T: Outcome> Body for [ItemResult<T>] {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.count16("results", self.len())?;
        for result in self {
            to.bool(result.is_ok());
            match result {
                Ok(outcome) => outcome.encode(to)?,
                Err(refusal) => {
                    to.u16(errors::item_code(refusal));
                    to.str16("error text", refusal.text())?;
                }
            }
        }
        Ok(())
    }
}

pub(super) fn decode_results<T: Outcome>(op: Op, body: &[u8]) -> Result<Vec<ItemResult<T>>, DecodeError> {
    let mut body = Reader::new(body);
    let count = usize::from(body.u16()?);
    let mut results = Vec::with_capacity(body.reserve(count, 1, size_of::<ItemResult<T>>())?);
    for _ in 0..count {
        results.push(match body.u8()? {
            1 => Ok(T::read(&mut body)?),
            0 => {
                let code = body.u16()?;
                let refusal = errors::item_refusal(op, code, body.str16()?);
                body.hold(refusal.held())?;
                Err(Box::new(refusal))
            }
            _ => return Err(DecodeError::Invalid("result flag")),
        });
    }
    Ok(results)
}

impl Body for Push {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        to.count16("deliveries", self.deliveries.len())?;
        for delivery in &self.deliveries {
            to.text16("message id", delivery.id.as_bytes())?;
            to.str16("fairness key", &delivery.fairness_key)?;
            to.u32(delivery.attempt_count);
            encode_contents(to, &delivery.headers, &delivery.payload)?;
        }
        Ok(())
    }
}

/// Reads deliveries to the back of `into`, all of them or, on an error, perhaps some.
pub(super) fn decode_push(
    queue: &QueueName,
    from: Source<'_>,
    arena: &mut Arena,
    into: &mut Vec<Received>,
) -> Result<(), DecodeError> {
    let mut reader = Reader::new(from.body());
    let count = usize::from(reader.u16()?);
    into.reserve_exact(reader.reserve(count, DELIVERY_LEN, size_of::<Received>())?);
    for _ in 0..count {
        let start = reader.position();
        let id = IdText::read(&mut reader)?;
        let previous = into.last().map(|delivery| &delivery.fairness_key);
        let fairness_key = contents::share(previous, &mut reader)?;
        let attempt_count = reader.u32()?;
        let headers = usize::from(reader.u8()?);
        let contents = Contents::read(headers, &mut reader)?;
        let (headers, payload) = arena.take(contents, start..reader.position(), from);
        into.push(Received {
            id: id.into(),
            queue: queue.clone(),
            headers,
            payload,
            fairness_key,
            attempt_count,
            weight: None,
            throttle_keys: None,
            enqueued_at_ms: None,
            leased_at_ms: None,
        });
    }
    Ok(())
}
