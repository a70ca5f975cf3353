//! Bodies of the data operations: enqueue, consume, ack, nack and deliveries (docs/protocol/framed.md 3).

use super::errors::{self, item_code, item_text};
use crate::dialect::EncodeError;
use crate::dialect::contents::{Arena, Contents, Source, share};
use crate::dialect::encode::{Body, Encoder, measure_items};
#[cfg(feature = "std")]
use crate::dialect::records::encode_settles;
use crate::dialect::records::{Record, read_items};
use crate::frame::{DecodeError, Frame, FrameRef, Reader};
use crate::message::{Headers, IdText, Message, MessageId, QueueName, Received};
use crate::prelude::*;
#[cfg(feature = "std")]
use crate::requests::Settle;
use crate::response::{ItemResult, Push, ServerError};

/// The most items that a batch may have.
pub(super) const MAX_ITEMS: u32 = 1_000_000;

/// The fewest bytes of a message, of the result of an enqueue, and of a delivery.
const MESSAGE_LEN: usize = 8;
const RESULT_LEN: usize = 3;
const DELIVERY_LEN: usize = 38;

/// Bytes of a batch's count.
pub(super) const COUNT_LEN: usize = 4;

fn read_count(body: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let count = body.u32()?;
    if count > MAX_ITEMS {
        return Err(DecodeError::TooManyItems {
            count: count.into(),
            limit: MAX_ITEMS.into(),
        });
    }
    Ok(count as usize)
}

fn encode_headers<E: Encoder>(to: &mut E, headers: &Headers) -> Result<(), EncodeError> {
    to.count16("headers", headers.len())?;
    to.header_pairs(headers)
}

// ---- requests ----

pub(super) fn encode_count<E: Encoder>(to: &mut E, messages: &[Message]) -> Result<(), EncodeError> {
    to.count32("messages", messages.len(), MAX_ITEMS)
}

pub(super) fn encode_enqueue<E: Encoder>(to: &mut E, messages: &[Message]) -> Result<(), EncodeError> {
    encode_count(to, messages)?;
    messages.iter().try_for_each(|message| encode_message(to, message))
}

pub(super) fn encode_message<E: Encoder>(to: &mut E, message: &Message) -> Result<(), EncodeError> {
    to.str16("queue name", &message.queue)?;
    encode_headers(to, &message.headers)?;
    to.bytes32("payload", &message.payload)
}

pub(super) fn read_enqueue(frame: &Frame) -> Result<Vec<Message>, DecodeError> {
    let mut body = Reader::new(&frame.body);
    let count = read_count(&mut body)?;
    let mut messages: Vec<Message> = Vec::with_capacity(body.reserve(count, MESSAGE_LEN, size_of::<Message>())?);
    let (mut arena, from) = (Arena::default(), Source::shared(&frame.body));
    for _ in 0..count {
        let start = body.position();
        let queue = share(messages.last().map(|message| &message.queue), &mut body)?;
        let header_count = usize::from(body.u16()?);
        let contents = Contents::read(header_count, &mut body)?;
        let (headers, payload) = arena.take(contents, start..body.position(), from);
        messages.push(Message {
            queue,
            headers,
            payload,
        });
    }
    Ok(messages)
}

/// Writes acks or nacks.
pub(super) fn encode_settlements<E: Encoder, R: Record>(to: &mut E, items: &[R]) -> Result<(), EncodeError> {
    to.count32(R::PLURAL, items.len(), MAX_ITEMS)?;
    items.iter().try_for_each(|item| item.encode(to))
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
        to.count32("items", self.settles.len(), MAX_ITEMS)?;
        encode_settles(to, self.settles)
    }

    fn measure(&self) -> Result<usize, EncodeError> {
        let count = self.settles.len();
        measure_items(self, Some(self.items_len), |to| to.count32("items", count, MAX_ITEMS))
    }
}

/// Reads acks or nacks.
pub(super) fn read_settlements<R: Record>(frame: &Frame) -> Result<Vec<R>, DecodeError> {
    let mut body = Reader::new(&frame.body);
    let count = read_count(&mut body)?;
    read_items(count, &mut body)
}

// ---- answers ----

pub(super) fn encode_enqueue_results<E: Encoder>(
    to: &mut E,
    results: &[ItemResult<MessageId>],
) -> Result<(), EncodeError> {
    to.count32("results", results.len(), MAX_ITEMS)?;
    for result in results {
        let (code, text) = match result {
            Ok(id) => (errors::OK, id.as_bytes()),
            Err(error) => (item_code(error), item_text(error).as_bytes()),
        };
        to.u8(code);
        to.text16("message id", text)?;
    }
    Ok(())
}

pub(super) fn read_enqueue_results(frame: FrameRef<'_>) -> Result<Vec<ItemResult<MessageId>>, DecodeError> {
    let mut body = Reader::new(frame.body);
    let count = read_count(&mut body)?;
    let capacity = body.reserve(count, RESULT_LEN, size_of::<ItemResult<MessageId>>())?;
    let mut results = Vec::with_capacity(capacity);
    let mut refusals = Refusals::default();
    for _ in 0..count {
        let code = body.u8()?;
        results.push(match code {
            errors::OK => Ok(MessageId::read(&mut body)?),
            code => {
                let text = body.str16()?;
                Err(refusals.read(code, text, &mut body)?)
            }
        });
    }
    Ok(results)
}

pub(super) fn encode_settle_results<E: Encoder>(to: &mut E, results: &[ItemResult<()>]) -> Result<(), EncodeError> {
    to.count32("results", results.len(), MAX_ITEMS)?;
    for result in results {
        to.u8(result.as_ref().err().map_or(errors::OK, |error| item_code(error)));
    }
    Ok(())
}

pub(super) fn read_settle_results(frame: FrameRef<'_>) -> Result<Vec<ItemResult<()>>, DecodeError> {
    let mut body = Reader::new(frame.body);
    let count = read_count(&mut body)?;
    let capacity = body.reserve(count, 1, size_of::<ItemResult<()>>())?;
    let mut results = Vec::with_capacity(capacity);
    let mut refusals = Refusals::default();
    for _ in 0..count {
        results.push(match body.u8()? {
            errors::OK => Ok(()),
            code => Err(refusals.read(code, "", &mut body)?),
        });
    }
    Ok(results)
}

/// Refusals of items, which share what they say with the one before: a byte of the wire must not become a hundred.
#[derive(Default)]
struct Refusals(Option<ServerError>);

impl Refusals {
    fn read(&mut self, code: u8, text: &str, body: &mut Reader<'_>) -> Result<Box<ServerError>, DecodeError> {
        let same = |known: &&ServerError| known.code() == Some(code.into()) && known.text() == text;
        let refusal = match self.0.as_ref().filter(same) {
            Some(known) => known.clone(),
            None => {
                let refusal = errors::from_code(code, text);
                body.hold(refusal.held())?;
                self.0.insert(refusal).clone()
            }
        };
        body.hold(size_of::<ServerError>())?;
        Ok(Box::new(refusal))
    }
}

// ---- deliveries ----

pub(super) fn encode_deliveries<E: Encoder>(to: &mut E, push: &Push) -> Result<(), EncodeError> {
    to.count32("deliveries", push.deliveries.len(), MAX_ITEMS)?;
    for delivery in &push.deliveries {
        to.text16("message id", delivery.id.as_bytes())?;
        to.str16("queue name", &delivery.queue)?;
        encode_headers(to, &delivery.headers)?;
        to.bytes32("payload", &delivery.payload)?;
        to.str16("fairness key", &delivery.fairness_key)?;
        to.u32(delivery.weight.unwrap_or(1));
        let throttle_keys = delivery.throttle_keys.as_deref().unwrap_or_default();
        to.count16("throttle keys", throttle_keys.len())?;
        throttle_keys.iter().try_for_each(|key| to.str16("throttle key", key))?;
        to.u32(delivery.attempt_count);
        to.u64(delivery.enqueued_at_ms.unwrap_or(0));
        to.u64(delivery.leased_at_ms.unwrap_or(0));
    }
    Ok(())
}

/// Reads deliveries to the back of `into`, all of them or, on an error, perhaps some. `queue` is what they are expected to
/// belong to, so that its name need not be copied.
pub(super) fn read_deliveries(
    queue: &QueueName,
    from: Source<'_>,
    arena: &mut Arena,
    into: &mut Vec<Received>,
) -> Result<(), DecodeError> {
    let mut body = Reader::new(from.body());
    let count = read_count(&mut body)?;
    into.reserve(body.reserve(count, DELIVERY_LEN, size_of::<Received>())?);
    for _ in 0..count {
        let start = body.position();
        let previous = into.last();
        let id = IdText::read(&mut body)?;
        let queue = share(Some(previous.map_or(queue, |delivery| &delivery.queue)), &mut body)?;
        let header_count = usize::from(body.u16()?);
        let contents = Contents::read(header_count, &mut body)?;
        let fairness_key = share(previous.map(|delivery| &delivery.fairness_key), &mut body)?;
        let weight = body.u32()?;
        let throttle_keys = read_strings(&mut body)?;
        let attempt_count = body.u32()?;
        let (enqueued_at, leased_at) = (body.u64()?, body.u64()?);
        let (headers, payload) = arena.take(contents, start..body.position(), from);
        into.push(Received {
            id: id.into(),
            queue,
            headers,
            payload,
            fairness_key,
            attempt_count,
            weight: Some(weight),
            throttle_keys: Some(throttle_keys),
            // 0 is what servers send that do not know.
            enqueued_at_ms: Some(enqueued_at).filter(|at| *at != 0),
            leased_at_ms: Some(leased_at).filter(|at| *at != 0),
        });
    }
    Ok(())
}

fn read_strings(body: &mut Reader<'_>) -> Result<Vec<String>, DecodeError> {
    let count = usize::from(body.u16()?);
    let mut strings = Vec::with_capacity(body.reserve(count, 2, size_of::<String>())?);
    for _ in 0..count {
        let text = body.str16()?;
        body.hold(text.len())?;
        strings.push(text.to_owned());
    }
    Ok(strings)
}
