//! What the broker does wrong, or differently from the common case, on demand.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use fibp_proto::{ErrorKind, Op, QueueName};

/// Where a queue is led, when not here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leadership {
    /// By the node at this address, which is passed on verbatim (`host:port`, no scheme).
    Elsewhere(String),
    /// By no node for now: an election is under way.
    Electing,
}

/// A name that [`Faults::set_switch`] does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown fault \"{0}\"")]
pub struct UnknownFault(pub String);

macro_rules! switches {
    ($( $(#[doc = $doc:literal])+ $field:ident, $name:literal, $default:literal; )+) => {
        /// Switches between the behaviours that Fila servers are known to have, and faults no healthy server has.
        ///
        /// The default is a healthy single node of the chosen dialect, with the bugs that every server of that
        /// dialect has. Give them to the builder, or change them while the broker runs.
        ///
        /// ```
        /// use fila_test_broker::{Faults, Op};
        ///
        /// let faults = Faults::default().cluster(true).drop_before_answer(Op::Enqueue, 1);
        /// # let _ = faults;
        /// ```
        #[derive(Debug, Clone, PartialEq)]
        pub struct Faults {
            $( pub(crate) $field: bool, )+
            pub(crate) credit_loss: Option<bool>,
            pub(crate) deliveries_per_frame: usize,
            pub(crate) missing_results: usize,
            pub(crate) drop_before_answer: Vec<(Op, u32)>,
            pub(crate) failures: VecDeque<(Op, ErrorKind)>,
            pub(crate) delays: Vec<(Op, Duration)>,
            pub(crate) stalled: Vec<Op>,
            pub(crate) unknown_answer_first: Vec<Op>,
            pub(crate) duplicate_answer: Vec<Op>,
            pub(crate) leaders: BTreeMap<QueueName, Leadership>,
        }

        impl Default for Faults {
            fn default() -> Self {
                Self {
                    $( $field: $default, )+
                    credit_loss: None,
                    deliveries_per_frame: 1,
                    missing_results: 0,
                    drop_before_answer: Vec::new(),
                    failures: VecDeque::new(),
                    delays: Vec::new(),
                    stalled: Vec::new(),
                    unknown_answer_first: Vec::new(),
                    duplicate_answer: Vec::new(),
                    leaders: BTreeMap::new(),
                }
            }
        }

        impl Faults {
            $(
                $(#[doc = $doc])+
                #[must_use]
                pub fn $field(mut self, on: bool) -> Self {
                    self.$field = on;
                    self
                }
            )+

            /// The names that [`set_switch`](Self::set_switch) knows.
            pub const SWITCHES: &'static [&'static str] = &[$( $name, )+ "credit-loss"];

            /// Turns a switch on or off by its name, as the command line spells it.
            ///
            /// # Errors
            ///
            /// The name is none of [`SWITCHES`](Self::SWITCHES).
            pub fn set_switch(&mut self, name: &str, on: bool) -> Result<(), UnknownFault> {
                match name {
                    $( $name => self.$field = on, )+
                    "credit-loss" => self.credit_loss = Some(on),
                    _ => return Err(UnknownFault(name.to_owned())),
                }
                Ok(())
            }
        }
    };
}

switches! {
    /// Server bug 2 (docs/protocol/preamble.md 1.7), on by default: a preamble push over the frame limit ends pushing for
    /// good, silently. Off: batches are split, and a single message over the limit is pushed whole.
    oversized_push_kills, "oversized-push-kills", true;
    /// Behave like a node of a cluster, without being one: consuming an unknown queue is refused, item errors come from the
    /// cluster layer, creating and deleting queues are idempotent (docs/protocol/preamble.md 2.4).
    cluster, "cluster", false;
    /// Defect 3 (docs/protocol/clusters.md 3), on by default in clusters that speak framed: of a list for one queue in one
    /// frame, the cluster's log carries the first item only. The others are confirmed, and lost when the queue gets
    /// another leader, or at once if the node does not lead the queue.
    cluster_cuts_lists, "cluster-cuts-lists", true;
    /// Defect 4 (docs/protocol/clusters.md 4), on by default in clusters: acks and nacks at the leader are done and answered
    /// \"not found\", and the statistics go on counting the messages. Nacked messages are not handed out again while the
    /// leader stays the same; those nacked at another node neither, in the framed dialect.
    cluster_acks_not_found, "cluster-acks-not-found", true;
    /// Nodes of a cluster refer enqueues, acks and nacks to the leader instead of forwarding them. No real server does.
    cluster_refers, "cluster-refers", false;
    /// When a node comes back, the leaders of a cluster answer every enqueue with a Raft error from then on, until they
    /// are restarted (docs/protocol/clusters.md 6).
    snapshot_not_found, "snapshot-not-found", false;
    /// The older handler that preamble servers run behind TLS (docs/protocol/preamble.md 1.12), with or without TLS: short
    /// texts, global admin, no config and key operations.
    tls_quirks, "tls-quirks", false;
    /// Close without a frame on malformed bodies of data operations, on by default as preamble servers do. Off: answer an
    /// error and stay.
    malformed_closes, "malformed-closes", true;
    /// Close without a frame wherever an error frame would be sent.
    errors_close, "errors-close", false;
    /// On by default: what a lost consumer (or a restarted broker) had leased waits for its visibility timeout.
    /// Off: it is pending again at once, with the same attempt count.
    leases_kept, "leases-kept", true;
    /// Write the answer to a consume and the first pushes in one segment.
    consume_ack_coalesced, "consume-ack-coalesced", false;
    /// On by default (framed dialect): deliveries queued for a cancelled or replaced consumer still follow.
    deliveries_after_cancel, "deliveries-after-cancel", true;
    /// Refill a consumer's channel only when a command arrives, or after 100 ms, as real servers do.
    slow_refill, "slow-refill", false;
    /// The scheduler's command channel is full: preamble data operations close the connection, others are refused.
    overloaded, "overloaded", false;
    /// The storage engine fails.
    storage_failing, "storage-failing", false;
    /// Swallow heartbeats.
    heartbeats_ignored, "heartbeats-ignored", false;
}

impl Faults {
    /// Server bug 1 (docs/protocol/preamble.md 1.7): of a batch larger than the credit, the surplus is lost until its leases
    /// expire. By default as the revision has it: on for P1 and P2, off for P3.
    #[must_use]
    pub fn credit_loss(mut self, on: bool) -> Self {
        self.credit_loss = Some(on);
        self
    }

    /// How many deliveries a framed Delivery carries at most (real servers: 1). Such a frame is not bounded by the
    /// frame limit, as real servers' answers are not.
    #[must_use]
    pub fn deliveries_per_frame(mut self, most: usize) -> Self {
        self.deliveries_per_frame = most.max(1);
        self
    }

    /// Leave out this many results at the end of each answer to an enqueue, ack or nack.
    #[must_use]
    pub fn missing_results(mut self, missing: usize) -> Self {
        self.missing_results = missing;
        self
    }

    /// Execute the next `times` requests of this kind, and close the connection instead of answering.
    #[must_use]
    pub fn drop_before_answer(mut self, op: Op, times: u32) -> Self {
        self.drop_before_answer.push((op, times));
        self
    }

    /// Refuse the next request of this kind, without executing it, with what servers answer for this kind of error
    /// (docs/protocol/preamble.md 1.11, docs/protocol/framed.md 4): `Auth`, `Forbidden`, `QueueNotFound`,
    /// `QueueExists`, `MessageNotFound`, `NotADeadLetterQueue`, `ApiKeyNotFound`, `Lua`, `InvalidArgument`,
    /// `Overloaded`, `NotLeader`, `Unsupported`, `Server`. `Disconnected` closes the connection and `Timeout` leaves the
    /// request unanswered. Other kinds are no server's; they count as `Server`. Repeatable: failures of one operation
    /// happen in turn.
    ///
    /// An overloaded preamble server closes the connection on enqueue, consume, ack and nack.
    #[must_use]
    pub fn fail_once(mut self, op: Op, kind: ErrorKind) -> Self {
        self.failures.push_back((op, kind));
        self
    }

    /// Execute each request of this kind so much later than it came, on the broker's clock; other requests overtake it.
    /// Without delay if it is zero.
    #[must_use]
    pub fn delay(mut self, op: Op, by: Duration) -> Self {
        self.delays.retain(|(delayed, _)| *delayed != op);
        if !by.is_zero() {
            self.delays.push((op, by));
        }
        self
    }

    pub(crate) fn take_failure(&mut self, op: Op) -> Option<ErrorKind> {
        let at = self.failures.iter().position(|(failing, _)| *failing == op)?;
        self.failures.remove(at).map(|(_, kind)| kind)
    }

    pub(crate) fn delay_of(&self, op: Op) -> Option<Duration> {
        let delay = self.delays.iter().find(|(delayed, _)| *delayed == op);
        delay.map(|(_, by)| *by)
    }

    /// Hold back the answers to requests of this kind until faults without it are set; other answers overtake them.
    #[must_use]
    pub fn stall(mut self, op: Op) -> Self {
        self.stalled.push(op);
        self
    }

    /// Release what [`stall`](Self::stall) holds back.
    #[must_use]
    pub fn release(mut self, op: Op) -> Self {
        self.stalled.retain(|stalled| *stalled != op);
        self
    }

    /// Before each answer to a request of this kind, send the same answer under an id nobody used.
    #[must_use]
    pub fn unknown_answer_first(mut self, op: Op) -> Self {
        self.unknown_answer_first.push(op);
        self
    }

    /// Send each answer to a request of this kind twice.
    #[must_use]
    pub fn duplicate_answer(mut self, op: Op) -> Self {
        self.duplicate_answer.push(op);
        self
    }

    /// Name another leader for a queue: consuming it is refused with a hint; framed enqueues, acks and nacks too,
    /// while preamble servers forward those and so execute them.
    #[must_use]
    pub fn leader(mut self, queue: impl Into<QueueName>, leadership: Leadership) -> Self {
        self.leaders.insert(queue.into(), leadership);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_switch_has_a_name_that_changes_it() {
        for name in Faults::SWITCHES {
            let (mut on, mut off) = (Faults::default(), Faults::default());
            on.set_switch(name, true).unwrap();
            off.set_switch(name, false).unwrap();
            assert_ne!(on, off, "{name}");
        }
        assert_eq!(
            Faults::default().set_switch("fly", true),
            Err(UnknownFault("fly".to_owned()))
        );
    }
}
