//! What befalls the nodes of the simulated cluster: faults, stops, elections.

use std::time::Instant;

use fibp_proto::QueueName;
use fila_test_broker::{BrokerMachine, ConnectionId, Faults, Leadership};

use super::{BEAT, Cluster};
use crate::sim::network::{End, Weather};
use crate::sim::plan::Plan;
use crate::sim::truth::Truth;

impl Cluster {
    /// Changes what nodes do wrong.
    pub(in crate::sim) fn set_faults(&mut self, change: impl FnOnce(Faults) -> Faults) {
        self.faults = change(std::mem::take(&mut self.faults));
        self.spread_faults();
    }

    /// Nodes do nothing wrong but what they always do.
    pub(in crate::sim) fn behave(&mut self) {
        self.faults = self.healthy.clone();
        self.spread_faults();
    }

    pub(super) fn spread_faults(&mut self) {
        let cluster = self.nodes.len() > 1;
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let mut faults = self.faults.clone().cluster(cluster);
            if self.leader != Some(index) {
                let leadership = match self.leader {
                    Some(leader) => Leadership::Elsewhere(Plan::endpoint(leader).to_string()),
                    None => Leadership::Electing,
                };
                for queue in &self.queues {
                    faults = faults.leader(QueueName::clone(queue), leadership.clone());
                }
            }
            node.machine.set_faults(faults);
        }
    }

    /// A node's process dies, or is stopped, with all its connections. Another node that waits for its answer to a
    /// request has none to give, and hangs up.
    pub(in crate::sim) fn stop(&mut self, now: Instant, index: usize, end: End) {
        let Some(node) = self.nodes.get_mut(index) else { return };
        node.up = false;
        let leads = self.leader == Some(index);
        let waits = |id| leads && self.forwarded.get(id).is_some_and(|unanswered| !unanswered.is_empty());
        let ids: Vec<ConnectionId> = self
            .wires
            .iter()
            .filter(|(id, wire)| wire.node == index || waits(id))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.leave(now, id, end);
        }
    }

    /// A stopped node comes back with what it had stored.
    pub(in crate::sim) fn start(&mut self, index: usize) {
        let Some(node) = self.nodes.get_mut(index).filter(|node| !node.up) else {
            return;
        };
        let snapshot = node.machine.snapshot();
        let faults = node.machine.settings().faults.clone();
        node.machine = BrokerMachine::from_snapshot(self.settings.clone(), snapshot);
        node.machine.set_faults(faults);
        node.up = true;
        if self.leader == Some(index) {
            self.forwarded.clear();
        }
    }

    pub(super) fn is_up(&self, index: usize) -> bool {
        self.nodes.get(index).is_some_and(|node| node.up)
    }

    /// The leader steps down; nobody leads until [`elect`](Self::elect).
    pub(in crate::sim) fn step_down(&mut self, now: Instant, truth: &mut Truth) -> Result<(), String> {
        let Some(old) = self.leader.take() else { return Ok(()) };
        self.speak_out(old, truth)?;
        if let Some(node) = self.nodes.get_mut(old) {
            self.limbo = Some(node.machine.snapshot());
            node.machine = BrokerMachine::new(self.settings.clone());
        }
        self.forwarded.clear();
        self.asked.clear();
        self.create_queues();
        self.reintroduce(now, old);
        self.spread_faults();
        Ok(())
    }

    /// A node tells everything it held back: what it forgets next can be told no more.
    fn speak_out(&mut self, index: usize, truth: &mut Truth) -> Result<(), String> {
        if let Some(node) = self.nodes.get_mut(index) {
            node.machine.set_faults(self.healthy.clone());
        }
        self.route(index, truth)
    }

    /// A node takes over.
    pub(in crate::sim) fn elect(&mut self, now: Instant, index: usize, truth: &mut Truth) -> Result<(), String> {
        let Some(snapshot) = self.limbo.take() else {
            return Ok(());
        };
        self.speak_out(index, truth)?;
        self.leader = Some(index);
        self.start(index);
        if let Some(node) = self.nodes.get_mut(index) {
            node.machine = BrokerMachine::from_snapshot(self.settings.clone(), snapshot);
        }
        self.asked.clear();
        self.reintroduce(now, index);
        self.spread_faults();
        Ok(())
    }

    pub(in crate::sim) fn has_leader(&self) -> bool {
        self.leader.is_some()
    }

    /// Tells a node's new machine of the connections that the node has.
    fn reintroduce(&mut self, now: Instant, index: usize) {
        let Some(node) = self.nodes.get_mut(index) else { return };
        for (id, wire) in self.wires.iter_mut().filter(|(_, wire)| wire.node == index) {
            let Some(server) = &mut wire.server else { continue };
            server.encoded = 0;
            server.pushes.clear();
            if let Some((dialect, key)) = &server.opened {
                let _ = node.machine.connect(now, *id, *dialect, key.as_ref());
            }
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
        if let Some(server) = self.wires.get_mut(&id).and_then(|wire| wire.server.as_mut()) {
            server.connection.close();
        }
    }

    /// A sign of life that no server sends today.
    pub(in crate::sim) fn beat(&mut self, id: ConnectionId) {
        if let Some(server) = self.wires.get_mut(&id).and_then(|wire| wire.server.as_mut()) {
            server.connection.heartbeat(BEAT);
        }
    }
}
