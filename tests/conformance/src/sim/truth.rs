//! What really happened, and whether what callers are told agrees with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fibp_proto::machine::Reply;
use fibp_proto::{Error, ErrorKind, Message, MessageId, Op, Outcome, QueueName, Received, Response};

use super::token::{Lost, Token};

/// Names a message, whatever id the broker gives it.
pub(super) type Tag = u64;

/// What a caller waits for.
#[derive(Debug)]
pub(super) enum Awaits {
    /// A machine, by its port.
    Opened(usize),
    Enqueued(Tag),
    EnqueuedMany(Vec<Tag>),
    Settled,
    SettledMany(usize),
    /// Room for a message that its caller keeps meanwhile.
    Room,
    Flushed,
    /// A delivery, at this port.
    Ready(usize),
    Drained,
    Closed,
    /// An answer to this operation, for some with the only value it can have unless that is empty.
    Answer(Op, Option<String>),
}

impl Awaits {
    /// How many results it stands for.
    fn count(&self) -> usize {
        match self {
            Self::EnqueuedMany(tags) => tags.len(),
            Self::SettledMany(count) => *count,
            Self::Enqueued(_) | Self::Settled | Self::Room | Self::Answer(..) => 1,
            Self::Opened(_) | Self::Flushed | Self::Ready(_) | Self::Drained | Self::Closed => 0,
        }
    }
}

#[derive(Debug)]
struct Open {
    awaits: Awaits,
    deadline: Option<Instant>,
}

/// A message on its way to the broker.
#[derive(Debug)]
struct Known {
    queue: QueueName,
    length: usize,
    /// The producer that sends it in order, and its place there.
    place: Option<(u64, u64)>,
}

/// What a completion means for the user it concerns.
#[derive(Debug)]
pub(super) enum News {
    Opened {
        port: usize,
        ok: bool,
    },
    Ready {
        port: usize,
    },
    /// There is room for the message of the call with this token, or an error.
    Room {
        token: u64,
        result: Result<(), Error>,
    },
    Other,
}

#[derive(Debug, Default)]
pub(super) struct Truth {
    next_token: u64,
    next_tag: Tag,
    open: BTreeMap<u64, Open>,
    deadlines: BTreeSet<(Instant, u64)>,
    lost: Lost,
    /// Calls that were too late to be taken back: they are told at the same instant.
    overtaken: Vec<u64>,
    messages: BTreeMap<Tag, Known>,
    /// The broker's id of each message whose answer it sent.
    stored: BTreeMap<MessageId, Tag>,
    /// What the broker executed, answered or not.
    executed: BTreeSet<Tag>,
    /// Confirmed to a caller, acked by nobody.
    confirmed: BTreeMap<QueueName, BTreeSet<MessageId>>,
    /// Said to have had no effect.
    disclaimed: BTreeSet<Tag>,
    /// Messages whose outcome their callers do not know, or will never learn: a connection that was given up may bring them late.
    in_doubt: BTreeSet<Tag>,
    delivered: BTreeSet<Tag>,
    ack_asked: BTreeSet<MessageId>,
    /// The last place executed, per ordered producer.
    places: BTreeMap<u64, u64>,
    /// Calls and messages that callers have ceased to await.
    given_up: u64,
    pub(super) completed: u64,
    pub(super) confirmations: u64,
    pub(super) deliveries: u64,
    pub(super) failures: u64,
}

impl Truth {
    // ---- tokens ----

    pub(super) fn token(&mut self, awaits: Awaits, deadline: Option<Instant>) -> (u64, Token) {
        self.next_token += 1;
        let number = self.next_token;
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, number));
        }
        self.open.insert(number, Open { awaits, deadline });
        (number, Token::new(number, &self.lost))
    }

    fn close(&mut self, token: u64) -> Result<Awaits, String> {
        let open = self
            .open
            .remove(&token)
            .ok_or_else(|| format!("token {token} came back twice"))?;
        if let Some(deadline) = open.deadline {
            self.deadlines.remove(&(deadline, token));
        }
        Ok(open.awaits)
    }

    /// A caller took its token back.
    pub(super) fn abandoned(&mut self, token: Token) -> Result<(), String> {
        let awaits = self.close(token.redeem())?;
        self.given_up += awaits.count() as u64;
        // Nobody will learn its outcome.
        if let Awaits::Enqueued(tag) = awaits {
            self.in_doubt.insert(tag);
        }
        Ok(())
    }

    /// A caller wanted its token back, and did not get it: it has been told, or is about to be.
    pub(super) fn not_abandoned(&mut self, token: u64) {
        self.overtaken.push(token);
    }

    /// A message that was refused on the spot came back with its token.
    pub(super) fn refused(&mut self, token: Token, message: &Message) -> Result<(), String> {
        let tag = self.put_off(token, message)?;
        self.disclaimed.insert(tag);
        Ok(())
    }

    /// The same, and its sender will try again.
    pub(super) fn put_off(&mut self, token: Token, message: &Message) -> Result<Tag, String> {
        let awaits = self.close(token.redeem())?;
        match awaits {
            Awaits::Enqueued(tag) => self.same_message(tag, message).map(|()| tag),
            awaits => Err(format!("a message came back to {awaits:?}")),
        }
    }

    /// Calls and messages that callers await, or have ceased to await.
    pub(super) fn unheard(&self) -> u64 {
        let open: usize = self.open.values().map(|open| open.awaits.count()).sum();
        open as u64 + self.given_up
    }

    /// Calls that are open and not waiting for something that may never happen.
    pub(super) fn pending(&self) -> usize {
        self.open
            .values()
            .filter(|open| !matches!(open.awaits, Awaits::Ready(_)))
            .count()
    }

    pub(super) fn describe_open(&self) -> String {
        let open: Vec<String> = self
            .open
            .iter()
            .take(5)
            .map(|(token, open)| format!("{token}: {:?}", open.awaits))
            .collect();
        format!("{} calls open: {}", self.open.len(), open.join(", "))
    }

    pub(super) fn open_calls(&self) -> usize {
        self.open.len()
    }

    /// Checks that nobody was forgotten and that nothing outlives its deadline.
    pub(super) fn check_waiters(&mut self, now: Instant) -> Result<(), String> {
        for token in self.overtaken.drain(..) {
            if let Some(open) = self.open.get(&token) {
                return Err(format!(
                    "{:?} (token {token}) was abandoned and is not forgotten",
                    open.awaits
                ));
            }
        }
        if let Some(lost) = self.lost.borrow().first() {
            let awaits = self.open.get(lost).map(|open| &open.awaits);
            return Err(format!("the machine dropped the waiter {lost} of {awaits:?}"));
        }
        match self.deadlines.first() {
            Some((deadline, token)) if *deadline < now => {
                let awaits = self.open.get(token).map(|open| &open.awaits);
                let late = now.duration_since(*deadline);
                Err(format!(
                    "{awaits:?} (token {token}) is open {late:?} after its deadline"
                ))
            }
            _ => Ok(()),
        }
    }

    // ---- messages ----

    /// A new message of about this size.
    pub(super) fn message(&mut self, queue: &QueueName, size: usize, producer: Option<(u64, u64)>) -> (Tag, Message) {
        self.next_tag += 1;
        let tag = self.next_tag;
        let payload = payload(tag, size);
        self.messages.insert(
            tag,
            Known {
                queue: QueueName::clone(queue),
                length: payload.len(),
                place: producer,
            },
        );
        let message = Message::new(QueueName::clone(queue), payload);
        (
            tag,
            if tag.is_multiple_of(3) {
                message.header("tag", tag.to_string())
            } else {
                message
            },
        )
    }

    /// A message has its place among those of its producer.
    pub(super) fn placed(&mut self, tag: Tag, place: (u64, u64)) {
        if let Some(known) = self.messages.get_mut(&tag) {
            known.place = Some(place);
        }
    }

    /// The caller of a message kept it, because there was no room for it, or is gone: nobody may ever see it.
    pub(super) fn kept(&mut self, tag: Tag) {
        self.disclaimed.insert(tag);
    }

    fn identify(&self, queue: &QueueName, payload: &Bytes) -> Result<Tag, String> {
        let tag = payload.first_chunk().map(|first| Tag::from_be_bytes(*first));
        let known = tag.and_then(|tag| self.messages.get(&tag).map(|known| (tag, known)));
        let Some((tag, known)) = known else {
            return Err(format!("{} bytes that nobody sent", payload.len()));
        };
        if known.queue != *queue {
            return Err(format!("message {tag} of {} is in {queue}", known.queue));
        }
        if *payload != self::payload(tag, known.length) {
            return Err(format!("message {tag} was altered"));
        }
        Ok(tag)
    }

    /// The broker is about to execute an enqueue. `ordered`: nothing but a loss may come between messages of one
    /// producer.
    pub(super) fn executing(&mut self, messages: &[Message], ordered: bool) -> Result<Vec<Tag>, String> {
        let mut tags = Vec::with_capacity(messages.len());
        for message in messages {
            let tag = self.identify(&message.queue, &message.payload)?;
            if self.disclaimed.contains(&tag) {
                return Err(format!(
                    "message {tag} was sent after its caller was told that it had no effect"
                ));
            }
            if let Some((producer, place)) = self
                .messages
                .get(&tag)
                .and_then(|known| known.place)
                .filter(|_| ordered && !self.in_doubt.contains(&tag))
            {
                let last = self.places.entry(producer).or_insert(0);
                if place <= *last {
                    return Err(format!(
                        "message {place} of producer {producer} arrived after its message {last}"
                    ));
                }
                *last = place;
            }
            tags.push(tag);
        }
        Ok(tags)
    }

    /// The broker answers that it stored a message.
    pub(super) fn stored(&mut self, tag: Tag, id: &MessageId) {
        self.executed.insert(tag);
        self.stored.insert(id.clone(), tag);
    }

    /// A consumer asks to ack.
    pub(super) fn ack_asked(&mut self, received: &Received) {
        self.ack_asked.insert(received.id.clone());
        if let Some(confirmed) = self.confirmed.get_mut(&received.queue) {
            confirmed.remove(&received.id);
        }
    }

    /// A consumer got a message.
    pub(super) fn delivered(&mut self, received: &Received) -> Result<(), String> {
        let tag = self.identify(&received.queue, &received.payload)?;
        if self.disclaimed.contains(&tag) {
            return Err(format!(
                "message {tag} was delivered although it is said to have had no effect"
            ));
        }
        if self.stored.get(&received.id).is_some_and(|stored| *stored != tag) {
            return Err(format!("message {tag} was delivered with the id of another"));
        }
        self.stored.insert(received.id.clone(), tag);
        self.delivered.insert(tag);
        self.deliveries += 1;
        Ok(())
    }

    /// How many messages of a queue must be in the broker.
    pub(super) fn held(&self, queue: &QueueName) -> usize {
        self.confirmed.get(queue).map_or(0, BTreeSet::len)
    }

    // ---- completions ----

    /// A completion: checks it against what happened.
    pub(super) fn complete(&mut self, token: Token, reply: Reply) -> Result<News, String> {
        let number = token.redeem();
        let awaits = self.close(number)?;
        self.completed += 1;
        match (awaits, reply) {
            (Awaits::Opened(port), Reply::Opened(result)) => {
                return Ok(News::Opened {
                    port,
                    ok: result.is_ok(),
                });
            }
            (Awaits::Ready(port), Reply::Ready) => return Ok(News::Ready { port }),
            (Awaits::Enqueued(tag), Reply::Enqueued(Ok(id))) => self.confirm(tag, &id)?,
            (Awaits::Enqueued(tag), Reply::Enqueued(Err(failed))) => {
                self.fail(tag, &failed.message, &failed.error)?;
            }
            (Awaits::EnqueuedMany(tags), Reply::EnqueuedMany(results)) => {
                if tags.len() != results.len() {
                    return Err(format!("{} results for {} messages", results.len(), tags.len()));
                }
                for (tag, result) in tags.into_iter().zip(results) {
                    match result {
                        Ok(id) => self.confirm(tag, &id)?,
                        Err(failed) => self.fail(tag, &failed.message, &failed.error)?,
                    }
                }
            }
            (Awaits::Settled, Reply::Settled(result)) => check_settled(result)?,
            (Awaits::SettledMany(count), Reply::SettledMany(results)) => {
                if results.len() != count {
                    return Err(format!("{} results for {count} acks", results.len()));
                }
                results.into_iter().try_for_each(check_settled)?;
            }
            (Awaits::Room, Reply::Room(result)) => return Ok(News::Room { token: number, result }),
            (Awaits::Flushed, Reply::Flushed(_))
            | (Awaits::Drained, Reply::Drained)
            | (Awaits::Closed, Reply::Closed(_)) => {}
            (Awaits::Answer(op, value), Reply::Response(result)) => {
                self.check_answer(op, value, result.map(|response| *response))?;
            }
            (awaits, reply) => return Err(format!("{awaits:?} was answered with {reply:?}")),
        }
        Ok(News::Other)
    }

    fn confirm(&mut self, tag: Tag, id: &MessageId) -> Result<(), String> {
        let stored = self.stored.get(id);
        if stored != Some(&tag) {
            return Err(format!(
                "message {tag} was confirmed as {}, which the broker knows as {stored:?}",
                id.as_str()
            ));
        }
        self.confirmations += 1;
        if !self.ack_asked.contains(id)
            && let Some(known) = self.messages.get(&tag)
        {
            let queue = QueueName::clone(&known.queue);
            self.confirmed.entry(queue).or_default().insert(id.clone());
        }
        Ok(())
    }

    fn fail(&mut self, tag: Tag, message: &Message, error: &Error) -> Result<(), String> {
        self.failures += 1;
        match error.outcome() {
            Outcome::NotSent | Outcome::Rejected => {
                if self.executed.contains(&tag) {
                    return Err(format!("message {tag} was stored, but its caller is told: {error}"));
                }
                self.came_back(tag, message)
            }
            _ => {
                self.in_doubt.insert(tag);
                self.same_message(tag, message)
            }
        }
    }

    fn came_back(&mut self, tag: Tag, message: &Message) -> Result<(), String> {
        self.disclaimed.insert(tag);
        self.same_message(tag, message)
    }

    fn same_message(&self, tag: Tag, message: &Message) -> Result<(), String> {
        let returned = self.identify(&message.queue, &message.payload)?;
        if returned == tag {
            Ok(())
        } else {
            Err(format!("message {returned} came back in place of {tag}"))
        }
    }

    fn check_answer(&mut self, op: Op, value: Option<String>, result: Result<Response, Error>) -> Result<(), String> {
        let response = match result {
            Ok(response) => response,
            Err(error) if error.kind() == ErrorKind::Protocol => {
                return Err(format!("{op:?} failed: {error}"));
            }
            Err(_) => {
                self.failures += 1;
                return Ok(());
            }
        };
        if response.op() != Some(op) {
            return Err(format!("{op:?} was answered with {response:?}"));
        }
        match (response, value) {
            (Response::GetConfig { value }, Some(expected)) if !value.is_empty() && value != expected => {
                Err(format!("{expected} was asked for and {value} answered"))
            }
            _ => Ok(()),
        }
    }
}

fn check_settled(result: Result<(), Error>) -> Result<(), String> {
    match result {
        Err(error) if error.kind() == ErrorKind::InvalidArgument => Err(format!("an ack was refused: {error}")),
        _ => Ok(()),
    }
}

fn payload(tag: Tag, size: usize) -> Bytes {
    let filler = u8::try_from(tag % 251).unwrap_or(0);
    let mut payload = vec![filler; size.max(8)];
    if let Some(first) = payload.first_chunk_mut() {
        *first = tag.to_be_bytes();
    }
    payload.into()
}

/// Long enough for everything to settle once nothing goes wrong any more: of a batch beyond a small window, servers with
/// bug 1 lose all but one message for a visibility timeout (docs/protocol/preamble.md 1.7), batch after batch.
pub(super) const PATIENCE: Duration = Duration::from_secs(3600);
