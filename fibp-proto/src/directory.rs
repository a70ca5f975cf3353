//! What a client learned of its servers. Small, bounded, shared by its links.

use std::collections::BTreeMap;

use crate::config::Endpoint;
use crate::dialect::Dialect;
use crate::message::QueueName;

/// How many endpoints and queues are remembered.
const LIMIT: usize = 1024;

/// Dialects per endpoint and leaders per queue.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// The dialect an endpoint spoke; `true` if its admin revision is known too.
    dialects: BTreeMap<Endpoint, (Dialect, bool)>,
    leaders: BTreeMap<(Purpose, QueueName), Endpoint>,
}

/// What a leader is needed for: preamble servers forward requests, but not consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Requests,
    Consume,
}

impl Directory {
    pub(crate) fn dialect(&self, endpoint: &Endpoint) -> Option<(Dialect, bool)> {
        self.dialects.get(endpoint).copied()
    }

    pub(crate) fn learn_dialect(&mut self, endpoint: &Endpoint, dialect: Dialect, admin_known: bool) {
        if self.dialects.len() < LIMIT || self.dialects.contains_key(endpoint) {
            self.dialects.insert(endpoint.clone(), (dialect, admin_known));
        }
    }

    pub(crate) fn forget_dialect(&mut self, endpoint: &Endpoint) {
        self.dialects.remove(endpoint);
    }

    pub(crate) fn leader(&self, purpose: Purpose, queue: &QueueName) -> Option<Endpoint> {
        self.leaders.get(&(purpose, queue.clone())).cloned()
    }

    pub(crate) fn learn_leader(&mut self, purpose: Purpose, queue: &QueueName, endpoint: Endpoint) {
        let key = (purpose, queue.clone());
        if self.leaders.len() < LIMIT || self.leaders.contains_key(&key) {
            self.leaders.insert(key, endpoint);
        }
    }

    /// The node failed, or said that it leads no more.
    pub(crate) fn forget_leader(&mut self, endpoint: &Endpoint) {
        self.leaders.retain(|_, leader| leader != endpoint);
    }

    /// The queue's leader is not the one that was learned.
    pub(crate) fn forget_queue(&mut self, purpose: Purpose, queue: &QueueName) {
        self.leaders.remove(&(purpose, queue.clone()));
    }
}
