//! What befalls the nodes of the simulated cluster: faults, stops, elections.

use std::time::Instant;

use fibp_proto::Dialect;
use fila_test_broker::{BrokerMachine, ConnectionId, Faults};

use super::{BEAT, Cluster, node_id};
use crate::sim::network::{End, Weather};

impl Cluster {
    /// Changes what nodes do wrong.
    pub(in crate::sim) fn set_faults(&mut self, change: impl FnOnce(Faults) -> Faults) {
        self.faults = change(std::mem::take(&mut self.faults));
        let faults = self.faults.clone();
        self.host.with_machine(|machine| machine.set_faults(faults));
    }

    /// Nodes do nothing wrong but what they always do.
    pub(in crate::sim) fn behave(&mut self) {
        let healthy = self.healthy.clone();
        self.set_faults(|_| healthy);
    }

    /// A node's process dies, or is stopped, with all its connections.
    pub(in crate::sim) fn stop(&mut self, now: Instant, node: usize, end: End) {
        if let Some(up) = self.up.get_mut(node) {
            *up = false;
        }
        self.host.with_machine(|machine| machine.kill_node(now, node_id(node)));
        let ids: Vec<ConnectionId> = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.node == node)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.leave(now, id, end);
        }
    }

    /// A stopped node comes back with what it had stored.
    pub(in crate::sim) fn start(&mut self, now: Instant, node: usize) {
        let Some(up) = self.up.get_mut(node).filter(|up| !**up) else {
            return;
        };
        *up = true;
        if self.is_cluster() {
            self.host.with_machine(|machine| machine.start_node(now, node_id(node)));
        } else {
            let Self {
                host, settings, faults, ..
            } = self;
            host.with_machine(|machine| {
                *machine = BrokerMachine::from_snapshot(settings.clone(), machine.snapshot());
                machine.set_faults(faults.clone());
            });
        }
    }

    pub(super) fn is_up(&self, node: usize) -> bool {
        self.up.get(node).is_some_and(|up| *up)
    }

    /// The leader of a queue steps down; nobody leads until the next election, or [`elect`](Self::elect).
    pub(in crate::sim) fn step_down(&mut self, now: Instant, queue: usize) {
        if let Some(queue) = self.queues.get(queue) {
            self.host.with_machine(|machine| machine.step_down(now, queue));
        }
    }

    /// A node takes over a queue, if it can.
    pub(in crate::sim) fn elect(&mut self, now: Instant, queue: usize, node: usize) {
        if let Some(queue) = self.queues.get(queue) {
            self.host
                .with_machine(|machine| machine.elect(now, queue, node_id(node)));
        }
    }

    /// Ends what would last for ever: nodes that are down or stuck, and messages that leaders have lost sight of.
    pub(in crate::sim) fn recover(&mut self, now: Instant) {
        self.healthy = self
            .healthy
            .clone()
            .cluster_acks_not_found(false)
            .snapshot_not_found(false);
        self.behave();
        for node in 0..self.up.len() {
            // Framed servers go on delivering to consumers whose connection was reset.
            if self.is_cluster() || !matches!(self.dialect, Dialect::Preamble(_)) {
                self.stop(now, node, End::Fin);
            }
            self.start(now, node);
        }
        for queue in &self.queues {
            self.host.with_machine(|machine| machine.step_down(now, queue));
        }
    }

    /// All networks are well again, those of later connections too.
    pub(in crate::sim) fn calm(&mut self, weather: Weather) {
        self.weather = weather;
        for wire in self.wires.values_mut() {
            wire.up.calm(weather);
            wire.down.calm(weather);
        }
    }

    /// The server closes a connection.
    pub(in crate::sim) fn hang_up(&mut self, now: Instant, id: ConnectionId, end: End) {
        if end == End::Reset {
            return self.leave(now, id, End::Reset);
        }
        if let Some(server) = self.host.connection(id) {
            server.close();
        }
    }

    /// A sign of life that no server sends today.
    pub(in crate::sim) fn beat(&mut self, id: ConnectionId) {
        self.host.heartbeat(id, BEAT);
    }
}
