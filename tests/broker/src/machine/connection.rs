//! One connection as the broker sees it: who it is, what it consumes, what it has not read yet.

use std::collections::VecDeque;

use fibp_proto::{Dialect, Push, QueueName, Received};

use super::access::Identity;
use super::cluster::Node;

/// Slots between the scheduler and a consumer's connection.
pub(super) const CHANNEL_SLOTS: usize = 64;

/// The most messages in a preamble push.
const BATCH: usize = 64;

/// Encoded preamble pushes that may wait for the socket.
const PREAMBLE_UNWRITTEN: usize = 64;

/// Framed deliveries that may wait for the socket.
const FRAMED_UNWRITTEN: usize = 256;

/// What shapes a connection's pushes.
#[derive(Debug, Clone, Copy)]
pub(super) struct PushRules {
    pub(super) credit_loss: bool,
    pub(super) oversized_push_kills: bool,
    pub(super) max_frame_size: u32,
    pub(super) deliveries_per_frame: usize,
}

/// Deliveries on their way to the wire.
#[derive(Debug, PartialEq)]
pub(super) struct Outgoing {
    pub(super) consume_id: u32,
    pub(super) push: Push,
}

/// A consumer.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) consume_id: u32,
    pub(super) queue: QueueName,
    /// Leased and not yet looked at.
    pub(super) channel: VecDeque<Received>,
    /// Being made into a push (preamble).
    batch: VecDeque<Received>,
    credit: u32,
    /// Ended by an oversized push, or by the loss of the queue's leadership: it still counts as active, but gets nothing.
    dead: bool,
}

impl Session {
    pub(super) fn new(consume_id: u32, queue: QueueName, credit: u32) -> Self {
        Self {
            consume_id,
            queue,
            channel: VecDeque::new(),
            batch: VecDeque::new(),
            credit,
            dead: false,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        !self.dead && self.channel.len() < CHANNEL_SLOTS
    }

    pub(super) fn grant(&mut self, credit: u32) {
        self.credit = self.credit.wrapping_add(credit);
    }

    /// Leased messages that wait here.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Received> {
        self.batch.iter().chain(&self.channel)
    }

    /// The session still counts as active, but gets nothing any more.
    pub(super) fn kill(&mut self) {
        self.dead = true;
        self.channel.clear();
        self.batch.clear();
    }

    /// Begins the next push with whatever is there, which makes room in the channel.
    fn fill_batch(&mut self) {
        if self.batch.is_empty() {
            let count = self.channel.len().min(BATCH);
            self.batch.extend(self.channel.drain(..count));
        }
    }

    /// The next preamble push that the credit pays for.
    fn next_batch(&mut self, rules: PushRules) -> Option<Push> {
        let affordable = self.batch.len().min(self.credit as usize);
        if affordable == 0 {
            return None;
        }
        let count = if !rules.oversized_push_kills {
            fitting(self.batch.iter().take(affordable), rules.max_frame_size)
        } else if push_length(self.batch.iter().take(affordable)) > u64::from(rules.max_frame_size) {
            self.kill();
            return None;
        } else {
            affordable
        };
        let deliveries = self.batch.drain(..count).collect();
        // `affordable` is bounded by the credit.
        self.credit -= u32::try_from(count).unwrap_or(self.credit);
        if rules.credit_loss && self.credit == 0 {
            self.batch.clear();
        }
        Some(Push { deliveries })
    }
}

/// The length field of a preamble push (docs/protocol/preamble.md 1.7).
fn push_length<'a>(deliveries: impl Iterator<Item = &'a Received>) -> u64 {
    8 + deliveries.map(delivery_length).sum::<u64>()
}

fn delivery_length(delivery: &Received) -> u64 {
    let headers: usize = delivery
        .headers
        .iter()
        .map(|(key, value)| 4 + key.len() + value.len())
        .sum();
    let texts = 2 + delivery.id.as_str().len() + 2 + delivery.fairness_key.len();
    (texts + 4 + 1 + headers + 4 + delivery.payload.len()) as u64
}

/// How many deliveries fit a push; at least one.
fn fitting<'a>(deliveries: impl Iterator<Item = &'a Received>, max_frame_size: u32) -> usize {
    let mut length = 8;
    let count = deliveries
        .take_while(|delivery| {
            length += delivery_length(delivery);
            length <= u64::from(max_frame_size)
        })
        .count();
    count.max(1)
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) node: Node,
    pub(super) dialect: Dialect,
    pub(super) identity: Identity,
    pub(super) session: Option<Session>,
    /// What was queued for consumers that were cancelled or replaced, under their request ids (framed).
    retired: VecDeque<(u32, VecDeque<Received>)>,
    /// Pushes given out and not reported as written.
    unwritten: usize,
    /// The broker is done with it and only waits for the disconnect.
    pub(super) closing: bool,
    /// Reset by the peer: the consumer is still registered until its channel is full (framed).
    pub(super) lost: bool,
}

impl Connection {
    pub(super) fn new(node: Node, dialect: Dialect, identity: Identity) -> Self {
        Self {
            node,
            dialect,
            identity,
            session: None,
            retired: VecDeque::new(),
            unwritten: 0,
            closing: false,
            lost: false,
        }
    }

    /// Keeps what a former consumer had queued.
    pub(super) fn retire(&mut self, session: Session) {
        if !session.channel.is_empty() {
            self.retired.push_back((session.consume_id, session.channel));
        }
    }

    pub(super) fn written(&mut self, pushes: usize) {
        self.unwritten = self.unwritten.saturating_sub(pushes);
    }

    /// The next push, if there is one and room for it.
    pub(super) fn next_push(&mut self, rules: PushRules) -> Option<Outgoing> {
        if self.closing || self.lost {
            return None;
        }
        let outgoing = match self.dialect {
            Dialect::Preamble(_) => self.next_preamble_push(rules),
            _ => self.next_delivery(rules),
        };
        self.unwritten += usize::from(outgoing.is_some());
        outgoing
    }

    fn next_preamble_push(&mut self, rules: PushRules) -> Option<Outgoing> {
        let session = self.session.as_mut()?;
        session.fill_batch();
        if self.unwritten >= PREAMBLE_UNWRITTEN {
            return None;
        }
        Some(Outgoing {
            consume_id: session.consume_id,
            push: session.next_batch(rules)?,
        })
    }

    fn next_delivery(&mut self, rules: PushRules) -> Option<Outgoing> {
        if self.unwritten >= FRAMED_UNWRITTEN {
            return None;
        }
        let (consume_id, channel) = match (self.retired.front_mut(), &mut self.session) {
            (Some((consume_id, channel)), _) => (*consume_id, channel),
            (None, Some(session)) => (session.consume_id, &mut session.channel),
            (None, None) => return None,
        };
        let count = channel.len().min(rules.deliveries_per_frame);
        let deliveries: Vec<Received> = channel.drain(..count).collect();
        if self.retired.front().is_some_and(|(_, channel)| channel.is_empty()) {
            self.retired.pop_front();
        }
        (!deliveries.is_empty()).then_some(Outgoing {
            consume_id,
            push: Push { deliveries },
        })
    }
}
