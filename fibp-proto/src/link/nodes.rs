//! The links to further nodes of a cluster.

use std::time::{Duration, Instant};

use crate::config::Endpoint;

/// More links than this to further nodes are never kept: hints from servers cannot open any number of them.
const MAX_NODES: usize = 256;

/// As many links as this stay open although nothing goes their way for a while.
const KEPT_NODES: usize = 16;

/// Beyond [`KEPT_NODES`], a link ends that was not used for this long. One that is used stays: in a cluster with more
/// leaders than that every request would close a link that the next one needs.
const IDLE: Duration = Duration::from_secs(10);

/// Requests links by the node they go to, bounded. `C` is what the adapter keeps of a link.
#[derive(Debug)]
pub struct Nodes<C> {
    /// The most recently used last.
    links: Vec<Node<C>>,
}

#[derive(Debug)]
struct Node<C> {
    endpoint: Endpoint,
    used: Instant,
    link: C,
}

impl<C> Default for Nodes<C> {
    fn default() -> Self {
        Self { links: Vec::new() }
    }
}

impl<C> Nodes<C> {
    /// The link to `endpoint`, which counts as used now.
    pub fn find(&mut self, now: Instant, endpoint: &Endpoint) -> Option<&C> {
        let place = self.links.iter().position(|known| known.endpoint == *endpoint)?;
        if let Some(used) = self.links.get_mut(place..) {
            used.rotate_left(1);
        }
        let found = self.links.last_mut()?;
        found.used = now;
        Some(&found.link)
    }

    /// Adds a link; returns those to be closed: the least recently used ones, if there are too many.
    #[must_use]
    pub fn insert(&mut self, now: Instant, endpoint: Endpoint, link: C) -> Vec<C> {
        self.links.push(Node {
            endpoint,
            used: now,
            link,
        });
        let is_idle = |node: &Node<C>| now.saturating_duration_since(node.used) >= IDLE;
        let idle = self.links.iter().take_while(|node| is_idle(node)).count();
        let spare = self.links.len().saturating_sub(KEPT_NODES);
        let excess = self.links.len().saturating_sub(MAX_NODES);
        let closed = idle.min(spare).max(excess);
        self.links.drain(..closed).map(|node| node.link).collect()
    }

    /// Forgets the links that are not wanted any more.
    pub fn retain(&mut self, mut wanted: impl FnMut(&C) -> bool) {
        self.links.retain(|node| wanted(&node.link));
    }

    /// All links.
    pub fn iter(&self) -> impl Iterator<Item = &C> {
        self.links.iter().map(|node| &node.link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: usize) -> Endpoint {
        Endpoint {
            host: "node".to_owned(),
            port: u16::try_from(port).unwrap(),
        }
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let now = crate::tests_epoch();
        let mut nodes = Nodes::default();
        for port in 1..=MAX_NODES {
            assert_eq!(nodes.insert(now, endpoint(port), port), []);
        }
        assert_eq!(nodes.find(now, &endpoint(1)), Some(&1));
        assert_eq!(nodes.insert(now, endpoint(1_000), 1_000), [2]);
        assert_eq!(nodes.find(now, &endpoint(2)), None);
        assert_eq!(nodes.iter().count(), MAX_NODES);
        nodes.retain(|link| *link == 1);
        assert_eq!(nodes.iter().collect::<Vec<_>>(), [&1]);
    }

    #[test]
    fn what_is_in_use_stays_and_what_is_not_goes() {
        let mut now = crate::tests_epoch();
        let mut nodes = Nodes::default();
        let mut opened = 0;
        // Requests for a hundred leaders in turn.
        for n in 0..10_000 {
            now += Duration::from_millis(1);
            let endpoint = endpoint(n % 100);
            if nodes.find(now, &endpoint).is_none() {
                opened += 1;
                assert_eq!(nodes.insert(now, endpoint, n), []);
            }
        }
        assert_eq!(opened, 100);
        // Then for one only, and much later for another.
        now += IDLE;
        assert!(nodes.find(now, &endpoint(50)).is_some());
        assert_eq!(nodes.insert(now, endpoint(500), 500).len(), 101 - KEPT_NODES);
        assert!(nodes.find(now, &endpoint(50)).is_some());
        // A few stay, however idle.
        now += IDLE * 100;
        assert_eq!(nodes.insert(now, endpoint(501), 501), [86]);
        assert_eq!(nodes.iter().count(), KEPT_NODES);
    }
}
