//! What answers say of the cluster behind a connection (docs/protocol/clusters.md).

use std::time::{Duration, Instant};

use super::Channel;
use crate::directory::Purpose;
use crate::error::{Error, ErrorKind};
use crate::message::QueueName;
use crate::response::Response;

/// How long to wait before asking a cluster again for a queue that it does not know yet. On an idle machine its nodes
/// know a new queue after about 65 ms.
const NEW_QUEUE_PAUSE: Duration = Duration::from_millis(50);

impl<W> Channel<W> {
    /// Whether the peer is a node of a cluster: by its handshake, or in the preamble dialect, whose handshake says
    /// nothing, by what any node has said to this client.
    pub(crate) fn is_in_cluster(&self) -> bool {
        self.connection.as_deref().is_some_and(|connection| {
            connection.is_cluster() || (connection.hides_cluster() && self.shared.in_cluster())
        })
    }

    /// The same, for sure: `None` if only the server can tell, which is asked then, once per connection, and while there
    /// is no connection.
    pub(crate) fn learn_cluster(&mut self) -> Option<bool> {
        if self.is_in_cluster() {
            return Some(true);
        }
        let ready = self.is_ready();
        // While there is none that is ready, nothing can be asked. The next one is.
        let connection = self.connection_mut().filter(|_| ready)?;
        (!connection.hides_cluster() || connection.ask_cluster()).then_some(false)
    }

    /// Learns from an answer whether the peer is a node of a cluster.
    pub(crate) fn note_cluster(&mut self, response: &Result<Response, Error>) {
        match response {
            Err(error) => self.note_cluster_error(error),
            Ok(Response::ListQueues(list)) if list.cluster_node_count > 1 => self.shared.note_cluster(),
            Ok(Response::ListQueues(_)) => {
                if let Some(connection) = self.connection_mut() {
                    connection.note_cluster_told();
                }
            }
            Ok(_) => {}
        }
    }

    /// The same for the refusal of one item.
    pub(crate) fn note_cluster_error(&self, error: &Error) {
        let hidden = self
            .connection
            .as_deref()
            .filter(|connection| connection.hides_cluster());
        if hidden.is_some_and(|connection| error.leader().is_some() || connection.says_not_yet(error)) {
            self.shared.note_cluster();
        }
    }

    /// When to ask again for a queue that a cluster does not know, perhaps not yet; `None` if its answer is final.
    /// `since`: when it said so first. `deadline`: the caller's.
    pub(crate) fn retry_absent(
        &self,
        now: Instant,
        error: &Error,
        since: &mut Option<Instant>,
        deadline: Option<Instant>,
    ) -> Option<Instant> {
        let connection = self.connection.as_deref()?;
        if error.kind() != ErrorKind::QueueNotFound || !(connection.is_cluster() || connection.says_not_yet(error)) {
            return None;
        }
        let patience = self.shared.config().settings().queue_ready_timeout;
        let first = *since.get_or_insert(now);
        let again = now.checked_add(NEW_QUEUE_PAUSE)?;
        let within = first.checked_add(patience).is_none_or(|until| again <= until);
        // A deadline before that leaves the caller with the server's answer, which says more than a timeout.
        (within && deadline.is_none_or(|deadline| again < deadline)).then_some(again)
    }

    /// The node at the other end refuses what it was asked because it was taken for the queue's leader.
    pub(crate) fn forget_stale_leader(&self, queue: &QueueName) {
        let mut directory = self.shared.directory();
        directory.forget_queue(Purpose::Requests, queue);
        if let Some(here) = self.endpoint()
            && directory.leader(Purpose::Consume, queue).as_ref() == Some(here)
        {
            directory.forget_queue(Purpose::Consume, queue);
        }
    }
}
