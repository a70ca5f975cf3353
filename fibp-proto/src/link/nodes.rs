//! The links to further nodes of a cluster.

use crate::config::Endpoint;

/// How many nodes a client keeps links to, besides its main link.
const MAX_NODES: usize = 16;

/// Requests links by the node they go to; bounded, so that hints from servers cannot open any number of them. `C` is
/// what the adapter keeps of a link.
#[derive(Debug)]
pub struct Nodes<C> {
    /// The most recently used last.
    links: Vec<(Endpoint, C)>,
}

impl<C> Default for Nodes<C> {
    fn default() -> Self {
        Self { links: Vec::new() }
    }
}

impl<C> Nodes<C> {
    /// The link to `endpoint`, which counts as used now.
    pub fn find(&mut self, endpoint: &Endpoint) -> Option<&C> {
        let place = self.links.iter().position(|(known, _)| known == endpoint)?;
        if let Some(used) = self.links.get_mut(place..) {
            used.rotate_left(1);
        }
        self.links.last().map(|(_, link)| link)
    }

    /// Adds a link; returns one to be closed, if that makes one too many: the least recently used.
    #[must_use]
    pub fn insert(&mut self, endpoint: Endpoint, link: C) -> Option<C> {
        self.links.push((endpoint, link));
        (self.links.len() > MAX_NODES).then(|| self.links.remove(0).1)
    }

    /// Forgets the links that are not wanted any more.
    pub fn retain(&mut self, mut wanted: impl FnMut(&C) -> bool) {
        self.links.retain(|(_, link)| wanted(link));
    }

    /// All links.
    pub fn iter(&self) -> impl Iterator<Item = &C> {
        self.links.iter().map(|(_, link)| link)
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
        let mut nodes = Nodes::default();
        for port in 1..=MAX_NODES {
            assert_eq!(nodes.insert(endpoint(port), port), None);
        }
        assert_eq!(nodes.find(&endpoint(1)), Some(&1));
        assert_eq!(nodes.insert(endpoint(100), 100), Some(2));
        assert_eq!(nodes.find(&endpoint(2)), None);
        assert_eq!(nodes.iter().count(), MAX_NODES);
        nodes.retain(|link| *link == 1);
        assert_eq!(nodes.iter().collect::<Vec<_>>(), [&1]);
    }
}
