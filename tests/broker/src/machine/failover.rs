//! Nodes that go and come back, leaders that are elected and lost (docs/protocol/clusters.md).

use std::time::Instant;

use fibp_proto::{Dialect, QueueName, Secret, ServerError};

use super::cluster::{Node, Takeover, View};
use super::{BrokerMachine, ConnectionId};

/// Clusters. Nodes are named by their ids, 1 to [`nodes`](Self::nodes); calls that name another do nothing.
impl BrokerMachine {
    /// How many nodes there are: 1, or as many as [`Settings::nodes`](crate::Settings::nodes) has addresses.
    #[must_use]
    pub fn nodes(&self) -> u64 {
        self.cluster.as_ref().map_or(1, |cluster| cluster.len() as u64)
    }

    /// A client opened a connection to a node of a cluster, see [`connect`](Self::connect).
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    pub fn connect_to(
        &mut self,
        now: Instant,
        node: u64,
        connection: ConnectionId,
        dialect: Dialect,
        key: Option<&Secret>,
    ) -> Result<(), ServerError> {
        let node = usize::try_from(node.saturating_sub(1)).unwrap_or(0);
        self.open(now, node, connection, dialect, key)
    }

    /// Whether a node is up.
    #[must_use]
    pub fn is_up(&self, node: u64) -> bool {
        match &self.cluster {
            Some(cluster) => self.index(node).is_some_and(|node| cluster.is_up(node)),
            None => true,
        }
    }

    /// The node that leads a queue; `None` during an election, for unknown queues, and outside clusters.
    #[must_use]
    pub fn leader(&self, queue: &str) -> Option<u64> {
        let leader = self.cluster.as_ref()?.leader(queue)?;
        Some(node_id(leader))
    }

    /// A node's process dies, and with it the node's connections. Queues that it led have no leader until the
    /// election timeout has passed, or for as long as too few nodes are up.
    pub fn kill_node(&mut self, now: Instant, node: u64) {
        let election = self.settings.election_timeout;
        let (Some(node), Some(cluster)) = (self.index(node), &mut self.cluster) else {
            return;
        };
        let unled = cluster.kill(now, node, election);
        let gone: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, known)| known.node == node)
            .map(|(connection, _)| *connection)
            .collect();
        for connection in gone {
            self.drop_outputs(connection);
            self.forget(now, connection);
        }
        for queue in unled {
            self.end_sessions(now, &queue);
        }
    }

    /// A node that was killed comes back.
    pub fn start_node(&mut self, now: Instant, node: u64) {
        let election = self.settings.election_timeout;
        let sticks = self.settings.faults.snapshot_not_found;
        if let (Some(node), Some(cluster)) = (self.index(node), &mut self.cluster)
            && !cluster.is_up(node)
        {
            cluster.start(now, node, election, sticks);
        }
    }

    /// Makes a node the leader of a queue, at once, whether or not another leads it. False if it leads it
    /// already, is down, or cannot be elected because too few nodes are up.
    ///
    /// What the former leader alone knew is lost (docs/protocol/clusters.md 3); its consumers get nothing any more, and
    /// are not notified.
    pub fn elect(&mut self, now: Instant, queue: &str, node: u64) -> bool {
        let (Some(node), Some(cluster)) = (self.index(node), &mut self.cluster) else {
            return false;
        };
        let Some(takeover) = cluster.elect(queue, node) else {
            return false;
        };
        self.take_over(now, &takeover);
        true
    }

    /// The leader of a queue gives it up; another is elected after the election timeout. False if no node leads it.
    pub fn step_down(&mut self, now: Instant, queue: &str) -> bool {
        let election = self.settings.election_timeout;
        let Some(cluster) = &mut self.cluster else { return false };
        let stepped = cluster.step_down(now, queue, election);
        if stepped {
            self.end_sessions(now, &queue.into());
        }
        stepped
    }

    pub(super) fn hold_elections(&mut self, now: Instant) {
        let Some(cluster) = &mut self.cluster else { return };
        for takeover in cluster.hold_elections(now) {
            self.take_over(now, &takeover);
        }
    }

    fn take_over(&mut self, now: Instant, takeover: &Takeover) {
        let Takeover { queue, again } = takeover;
        self.end_sessions(now, queue);
        let keep_leases = self.settings.faults.leases_kept;
        if let Some(stored) = self.scheduler.queue_mut(queue) {
            match again {
                true => stored.reload(),
                false => stored.change_leader(),
            }
            if !keep_leases {
                let leased = stored.leases.take_all();
                stored.unlease(leased);
            }
        }
        self.last_command = now;
    }

    /// Consumers whose node does not lead the queue any more get nothing from now on, without notice.
    fn end_sessions(&mut self, now: Instant, queue: &QueueName) {
        let mut gone = Vec::new();
        for (connection, known) in &mut self.connections {
            let Some(session) = known.session.as_mut().filter(|session| session.queue == *queue) else {
                continue;
            };
            session.kill();
            self.scheduler.unregister(queue, *connection);
            if known.lost {
                // Nothing would remind the broker of it.
                gone.push(*connection);
            }
        }
        for connection in gone {
            self.forget(now, connection);
        }
    }

    /// How the node of a connection sees a queue; `None` outside clusters.
    pub(super) fn view(&self, now: Instant, connection: ConnectionId, queue: &str) -> Option<View> {
        let cluster = self.cluster.as_ref()?;
        Some(cluster.view(now, self.node_of(connection), queue))
    }

    pub(super) fn node_of(&self, connection: ConnectionId) -> Node {
        self.connections.get(&connection).map_or(0, |known| known.node)
    }

    fn index(&self, node: u64) -> Option<Node> {
        let index = usize::try_from(node.checked_sub(1)?).ok()?;
        (node <= self.nodes()).then_some(index)
    }
}

/// The id of a node, as the handshake announces it.
pub(super) fn node_id(node: Node) -> u64 {
    node as u64 + 1
}
