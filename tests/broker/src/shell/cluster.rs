//! A cluster in one process: every node has a listener of its own, all of them one machine.

use std::io;
use std::net::SocketAddr;

use super::port::Port;
use super::{Broker, BrokerBuilder};
use crate::clock::lock;
use crate::machine::BrokerMachine;

/// Clusters. Nodes are named by their ids, which are 1 to the number of nodes.
impl Broker {
    /// Settings of a cluster of this many nodes, as real ones behave (docs/protocol/clusters.md): with a leader per queue,
    /// a delay after the creation of a queue ([`BrokerBuilder::creation_delay`]) and after the loss of a leader
    /// ([`BrokerBuilder::election_timeout`]), and with defects 3 and 4 unless they are switched off
    /// ([`Faults::cluster_cuts_lists`](crate::Faults::cluster_cuts_lists),
    /// [`Faults::cluster_acks_not_found`](crate::Faults::cluster_acks_not_found)).
    ///
    /// ```
    /// use fila_test_broker::{Broker, Dialect};
    ///
    /// let broker = Broker::cluster(3).dialect(Dialect::Handshake).queue("orders").start()?;
    /// println!("point a client at {}, or at one node: {}", broker.url(), broker.node_url(2));
    ///
    /// let leader = broker.leader("orders").expect("queues of the builder have a leader");
    /// broker.kill_node(leader); // another node is elected
    /// broker.start_node(leader)?; // and follows it
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn cluster(nodes: usize) -> BrokerBuilder {
        Self::builder().nodes(nodes)
    }

    /// How many nodes there are.
    #[must_use]
    pub fn nodes(&self) -> u64 {
        self.addrs.len() as u64
    }

    /// The address of a node, if there is such a node.
    #[must_use]
    pub fn addr_of(&self, node: u64) -> Option<SocketAddr> {
        self.port_of(node).map(Port::addr)
    }

    fn port_of(&self, node: u64) -> Option<&Port> {
        let index = usize::try_from(node.checked_sub(1)?).ok()?;
        self.ports.get(index)
    }

    /// The address of a node as a URL, without the API key.
    ///
    /// # Panics
    ///
    /// There is no such node.
    #[must_use]
    pub fn node_url(&self, node: u64) -> String {
        let addr = self.addr_of(node);
        self.url_of(&[addr.unwrap_or_else(|| panic!("there is no node {node}"))])
    }

    /// The node that leads a queue; `None` during an election, for unknown queues, and on a single node.
    #[must_use]
    pub fn leader(&self, queue: &str) -> Option<u64> {
        self.shared.lock().host.machine().leader(queue)
    }

    /// Whether a node is up.
    #[must_use]
    pub fn is_up(&self, node: u64) -> bool {
        self.shared.lock().host.machine().is_up(node)
    }

    /// A node's process dies: its connections are reset, its port refuses, and other nodes are elected for the queues
    /// that it led if enough are left. Does nothing if it is down.
    pub fn kill_node(&self, node: u64) {
        let mut running = lock(&self.running);
        let Some(accept) = running.accept.remove(&node) else {
            return;
        };
        self.change(|machine, now| machine.kill_node(now, node));
        self.shared.lock().down.insert(node);
        self.end_connections(Some(node), true);
        self.close_listener(node, accept);
    }

    /// A node that was killed comes back, on the same port. Does nothing if it is up.
    ///
    /// # Errors
    ///
    /// The port cannot be listened on, or a thread cannot be started.
    pub fn start_node(&self, node: u64) -> io::Result<()> {
        let mut running = lock(&self.running);
        let Some(port) = self.port_of(node).filter(|_| !running.accept.contains_key(&node)) else {
            return Ok(());
        };
        let listener = port.listen()?;
        self.change(|machine, now| machine.start_node(now, node));
        self.run(&mut running, vec![(node, listener)])
    }

    /// Makes a node the leader of a queue, at once, whether or not another leads it. False if it leads it
    /// already, is down, or too few nodes are up.
    ///
    /// What only the former leader knew is lost (docs/protocol/clusters.md 3), and its consumers are not notified.
    pub fn elect(&self, queue: &str, node: u64) -> bool {
        self.change(|machine, now| machine.elect(now, queue, node))
    }

    /// The leader of a queue gives it up; another is elected after the election timeout. False if no node leads it.
    pub fn step_down(&self, queue: &str) -> bool {
        self.change(|machine, now| machine.step_down(now, queue))
    }

    fn change<R>(&self, change: impl FnOnce(&mut BrokerMachine, std::time::Instant) -> R) -> R {
        let mut state = self.shared.lock();
        let now = self.shared.clock.now();
        let result = state.host.with_machine(|machine| change(machine, now));
        state.wake_others();
        self.shared.notice(&state);
        result
    }
}
