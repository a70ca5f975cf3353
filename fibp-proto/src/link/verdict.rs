//! What refusals mean that depend on whether the peer is a cluster, and on time (docs/protocol/clusters.md).

use std::time::{Duration, Instant};

use super::work::Fate;
use super::{Link, Settle};
use crate::directory::Purpose;
use crate::error::{Error, ErrorKind, Outcome};
use crate::message::QueueName;
use crate::response::Response;

/// How long to wait before asking a cluster again for a queue that it does not know yet. On an idle machine its nodes
/// know a new queue after about 65 ms.
const NEW_QUEUE_PAUSE: Duration = Duration::from_millis(50);

impl<T> Link<T> {
    /// Whether the peer is a node of a cluster: by its handshake, or in the preamble dialect, whose handshake says
    /// nothing, by what any node has said to this client.
    pub(super) fn is_in_cluster(&self) -> bool {
        self.connection.as_deref().is_some_and(|connection| {
            connection.is_cluster() || (connection.hides_cluster() && self.shared.in_cluster())
        })
    }

    /// Learns from an answer that the peer is a node of a cluster.
    pub(super) fn note_cluster(&self, response: &Result<Response, Error>) {
        match response {
            Err(error) => self.note_cluster_error(error),
            Ok(Response::ListQueues(list)) if list.cluster_node_count > 1 => self.shared.note_cluster(),
            Ok(_) => {}
        }
    }

    /// The same for the refusal of one item.
    pub(super) fn note_cluster_error(&self, error: &Error) {
        let hidden = self
            .connection
            .as_deref()
            .filter(|connection| connection.hides_cluster());
        if hidden.is_some_and(|connection| error.leader().is_some() || connection.says_not_yet(error)) {
            self.shared.note_cluster();
        }
    }

    /// When to ask again for a queue that a cluster does not know, perhaps not yet; `None` if its answer is final.
    pub(super) fn retry_absent(&self, now: Instant, error: &Error, fate: &mut Fate) -> Option<Instant> {
        let connection = self.connection.as_deref()?;
        if error.kind() != ErrorKind::QueueNotFound || !(connection.is_cluster() || connection.says_not_yet(error)) {
            return None;
        }
        let patience = self.shared.config().settings().queue_ready_timeout;
        let first = *fate.absent_since.get_or_insert(now);
        let again = now.checked_add(NEW_QUEUE_PAUSE)?;
        let within = first.checked_add(patience).is_none_or(|until| again <= until);
        // A deadline before that leaves the caller with the server's answer, which says more than a timeout.
        (within && fate.deadline.is_none_or(|deadline| again < deadline)).then_some(again)
    }

    /// What a settle amounts to that the server finds no lease for.
    ///
    /// Inside its lease that is success if an earlier attempt may have succeeded, and on a cluster, whose leader ends the
    /// lease before it looks for it (docs/protocol/clusters.md 4). After its lease the message may be with somebody else.
    /// A nack is never taken for done: what it asks for, another delivery, may not come.
    pub(super) fn judge_unleased(&self, now: Instant, settle: &Settle, fate: &Fate, error: Error) -> Result<(), Error> {
        let clustered = self.is_in_cluster();
        let over = settle.lease_deadline.is_some_and(|deadline| deadline <= now);
        let held = settle.lease_deadline.is_some() && !over;
        // Without a known lease, an ack that was sent twice is the only witness.
        let done = (held && clustered) || (!over && fate.replayed);
        if settle.nack.is_none() && done {
            return Ok(());
        }
        let error = if over {
            error.with_kind(ErrorKind::LeaseLost)
        } else {
            error
        };
        Err(if clustered {
            error.with_outcome(Outcome::Unknown)
        } else {
            error
        })
    }

    /// A node refuses what it was asked because it was taken for the queue's leader.
    pub(super) fn forget_stale_leader(&self, queue: &QueueName) {
        let mut directory = self.shared.directory();
        directory.forget_queue(Purpose::Requests, queue);
        if let Some(here) = self.session.endpoint()
            && directory.leader(Purpose::Consume, queue).as_ref() == Some(here)
        {
            directory.forget_queue(Purpose::Consume, queue);
        }
    }
}
