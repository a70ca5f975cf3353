//! What the nodes of a cluster agree on: which of them are up, who leads which queue, and how each of them sees that
//! (docs/protocol/clusters.md).
//!
//! Every queue has a Raft group of its own. The machine keeps one copy of a queue's messages, that of its leader. What
//! the followers lack is noted there ([`Queue::change_leader`](super::queue::Queue::change_leader)), and lost when one
//! of them takes over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fibp_proto::QueueName;

use super::scheduler::DLQ;

/// A node's place in the cluster: its id less one.
pub(super) type Node = usize;

/// How a node sees a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// There is no such queue, or this node has not heard of it yet.
    Unknown,
    /// The queue was created, and this node is not ready to serve it.
    NotReady,
    /// The queue was created here, and its group has no leader yet.
    Unled,
    /// The leader is gone, and no other was elected yet.
    Electing,
    /// This node leads the queue.
    Leads,
    /// Another node does.
    Follows(Node),
}

/// A queue that has a new leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Takeover {
    pub(super) queue: QueueName,
    /// The new leader has led the queue last, so that it lacks nothing.
    pub(super) again: bool,
}

#[derive(Debug, Clone)]
struct Member {
    addr: String,
    up: bool,
    /// Cannot write to its Raft log until it is restarted (docs/protocol/clusters.md 6).
    stuck: bool,
}

#[derive(Debug, Clone, Copy)]
enum Leader {
    Is(Node),
    /// `due` is when one is elected; `None` while too few nodes are up.
    Electing {
        last: Node,
        due: Option<Instant>,
    },
}

/// The time between the creation of a queue and its first leader.
#[derive(Debug, Clone, Copy)]
struct Birth {
    creator: Node,
    /// When the other nodes hear of the queue.
    known: Instant,
    /// When the leader is elected and every node ready.
    ready: Instant,
}

#[derive(Debug, Clone)]
struct Group {
    leader: Leader,
    birth: Option<Birth>,
}

#[derive(Debug, Clone)]
pub(super) struct Cluster {
    members: Vec<Member>,
    groups: BTreeMap<QueueName, Group>,
    /// Leaders are given to new queues in turn.
    next_leader: Node,
}

impl Cluster {
    /// A cluster of the nodes at these addresses; `None` for a single node, which has none.
    pub(super) fn new(addrs: &[String]) -> Option<Self> {
        let members = addrs.iter().map(|addr| Member {
            addr: addr.clone(),
            up: true,
            stuck: false,
        });
        (!addrs.is_empty()).then(|| Self {
            members: members.collect(),
            groups: BTreeMap::new(),
            next_leader: 0,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn addr(&self, node: Node) -> &str {
        self.members.get(node).map_or("", |member| &member.addr)
    }

    pub(super) fn is_up(&self, node: Node) -> bool {
        self.members.get(node).is_some_and(|member| member.up)
    }

    /// Whether the queue's leader cannot write to its Raft log.
    pub(super) fn is_stuck(&self, queue: &str) -> bool {
        self.leader(queue)
            .and_then(|leader| self.members.get(leader))
            .is_some_and(|member| member.stuck)
    }

    /// Whether enough nodes are up to decide on anything.
    pub(super) fn has_quorum(&self) -> bool {
        let up = self.members.iter().filter(|member| member.up).count();
        2 * up > self.members.len()
    }

    pub(super) fn leader(&self, queue: &str) -> Option<Node> {
        match self.groups.get(queue)?.leader {
            Leader::Is(node) => Some(node),
            Leader::Electing { .. } => None,
        }
    }

    pub(super) fn view(&self, now: Instant, node: Node, queue: &str) -> View {
        let Some(group) = self.groups.get(queue) else {
            return View::Unknown;
        };
        if let Some(birth) = group.birth.filter(|birth| now < birth.ready) {
            return match node == birth.creator {
                true => View::Unled,
                false if now < birth.known => View::Unknown,
                false => View::NotReady,
            };
        }
        match group.leader {
            Leader::Is(leader) if leader == node => View::Leads,
            Leader::Is(leader) => View::Follows(leader),
            Leader::Electing { .. } => View::Electing,
        }
    }

    /// A queue and its dead-letter queue get their groups, where they have none: led at once, or `after` that time
    /// for queues that a client creates through a node.
    pub(super) fn create(&mut self, queue: &QueueName, after: Option<(Instant, Node, Duration)>) {
        let leader = self.pick_leader();
        let birth = after.and_then(|(now, creator, delay)| {
            Some(Birth {
                creator,
                known: now.checked_add(delay / 2)?,
                ready: now.checked_add(delay)?,
            })
        });
        let dlq = (!queue.ends_with(DLQ)).then(|| format!("{queue}{DLQ}").into());
        for name in [Some(QueueName::clone(queue)), dlq].into_iter().flatten() {
            let leader = Leader::Is(leader);
            self.groups.entry(name).or_insert(Group { leader, birth });
        }
    }

    fn pick_leader(&mut self) -> Node {
        let leader = self.next_up(self.next_leader).unwrap_or(self.next_leader);
        self.next_leader = (leader + 1) % self.len();
        leader
    }

    /// The first node that is up, from this one on.
    fn next_up(&self, from: Node) -> Option<Node> {
        let count = self.len();
        (0..count)
            .map(|offset| (from + offset) % count)
            .find(|node| self.is_up(*node))
    }

    pub(super) fn delete(&mut self, queue: &str) {
        self.groups.remove(queue);
        if !queue.ends_with(DLQ) {
            self.groups.remove(&*format!("{queue}{DLQ}"));
        }
    }

    /// A node goes down. Returns the queues that have no leader because of that.
    pub(super) fn kill(&mut self, now: Instant, node: Node, election: Duration) -> Vec<QueueName> {
        if let Some(member) = self.members.get_mut(node) {
            member.up = false;
            member.stuck = false;
        }
        let quorum = self.has_quorum();
        let due = now.checked_add(election).filter(|_| quorum);
        let mut unled = Vec::new();
        for (queue, group) in &mut self.groups {
            match &mut group.leader {
                Leader::Is(leader) if *leader == node || !quorum => {
                    group.leader = Leader::Electing { last: *leader, due };
                    unled.push(QueueName::clone(queue));
                }
                Leader::Electing { due, .. } if !quorum => *due = None,
                _ => {}
            }
        }
        unled
    }

    /// A node comes back. With `sticks`, the leaders that it comes back to can write nothing any more.
    pub(super) fn start(&mut self, now: Instant, node: Node, election: Duration, sticks: bool) {
        if let Some(member) = self.members.get_mut(node) {
            member.up = true;
            member.stuck = false;
        }
        let quorum = self.has_quorum();
        for group in self.groups.values_mut() {
            match &mut group.leader {
                Leader::Electing { due: due @ None, .. } if quorum => *due = now.checked_add(election),
                Leader::Is(leader) if sticks => {
                    if let Some(member) = self.members.get_mut(*leader) {
                        member.stuck = true;
                    }
                }
                _ => {}
            }
        }
    }

    /// The leader of a queue steps down. Whether it had one.
    pub(super) fn step_down(&mut self, now: Instant, queue: &str, election: Duration) -> bool {
        let quorum = self.has_quorum();
        let Some(group) = self.groups.get_mut(queue) else {
            return false;
        };
        let Leader::Is(last) = group.leader else { return false };
        let due = now.checked_add(election).filter(|_| quorum);
        group.leader = Leader::Electing { last, due };
        true
    }

    /// Makes a node that is up the leader of a queue. `None` if it leads already, or cannot.
    pub(super) fn elect(&mut self, queue: &str, node: Node) -> Option<Takeover> {
        if !self.is_up(node) || !self.has_quorum() {
            return None;
        }
        let (name, group) = self.groups.iter_mut().find(|(name, _)| &***name == queue)?;
        let last = match group.leader {
            Leader::Is(leader) if leader == node => return None,
            Leader::Is(last) | Leader::Electing { last, .. } => last,
        };
        group.leader = Leader::Is(node);
        Some(Takeover {
            queue: QueueName::clone(name),
            again: last == node,
        })
    }

    pub(super) fn next_election(&self) -> Option<Instant> {
        let due = |group: &Group| match group.leader {
            Leader::Is(_) => None,
            Leader::Electing { due, .. } => due,
        };
        self.groups.values().filter_map(due).min()
    }

    /// Holds the elections that are due: the node after the last leader wins.
    pub(super) fn hold_elections(&mut self, now: Instant) -> Vec<Takeover> {
        let due: Vec<(QueueName, Node)> = self
            .groups
            .iter()
            .filter_map(|(queue, group)| match group.leader {
                Leader::Electing { last, due: Some(due) } if due <= now => Some((QueueName::clone(queue), last)),
                _ => None,
            })
            .collect();
        due.into_iter()
            .filter_map(|(queue, last)| {
                let winner = self.next_up(last + 1)?;
                self.elect(&queue, winner)
            })
            .collect()
    }

    /// What a restart of all nodes changes: nobody is stuck, everybody is up.
    pub(super) fn restarted(mut self, now: Instant) -> Self {
        for node in 0..self.len() {
            self.start(now, node, Duration::ZERO, false);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELECTION: Duration = Duration::from_millis(300);

    fn three() -> Cluster {
        let addrs: Vec<String> = (1..=3).map(|node| format!("node-{node}:5555")).collect();
        Cluster::new(&addrs).expect("three nodes")
    }

    #[test]
    fn queues_are_led_by_the_nodes_in_turn_with_their_dead_letters() {
        let mut cluster = three();
        for name in ["a", "b", "c", "d"] {
            cluster.create(&name.into(), None);
        }
        let leaders = ["a", "b", "c", "d"].map(|queue| cluster.leader(queue));
        assert_eq!(leaders, [Some(0), Some(1), Some(2), Some(0)]);
        assert_eq!(cluster.leader("b.dlq"), Some(1));
        cluster.delete("b");
        assert_eq!((cluster.leader("b"), cluster.leader("b.dlq")), (None, None));
    }

    #[test]
    fn a_new_queue_is_seen_by_each_node_in_its_own_time() {
        let now = Instant::now();
        let ms = |ms| now + Duration::from_millis(ms);
        let mut cluster = three();
        cluster.create(&"q".into(), Some((now, 1, Duration::from_millis(60))));
        assert_eq!(cluster.view(ms(0), 1, "q"), View::Unled);
        assert_eq!(cluster.view(ms(29), 0, "q"), View::Unknown);
        assert_eq!(cluster.view(ms(30), 0, "q"), View::NotReady);
        assert_eq!(cluster.view(ms(59), 1, "q"), View::Unled);
        assert_eq!(cluster.view(ms(60), 0, "q"), View::Leads);
        assert_eq!(cluster.view(ms(60), 1, "q"), View::Follows(0));
        assert_eq!(cluster.view(ms(60), 1, "other"), View::Unknown);
    }

    #[test]
    fn without_a_majority_nobody_is_elected() {
        let now = Instant::now();
        let mut cluster = three();
        cluster.create(&"q".into(), None);
        assert_eq!(cluster.kill(now, 2, ELECTION), [], "a follower");
        assert_eq!(
            cluster.kill(now, 0, ELECTION).len(),
            2,
            "the queue and its dead letters"
        );
        assert_eq!(cluster.next_election(), None);
        assert_eq!(cluster.view(now, 1, "q"), View::Electing);
        cluster.start(now, 2, ELECTION, false);
        let due = now + ELECTION;
        assert_eq!(cluster.next_election(), Some(due));
        let takeovers = cluster.hold_elections(due);
        assert!(takeovers.iter().all(|takeover| !takeover.again), "{takeovers:?}");
        assert_eq!(cluster.leader("q"), Some(1));
        assert_eq!(cluster.elect("q", 0), None, "it is down");
    }
}
