//! What a client learned of its servers. Small, bounded, shared by its machines.

use std::collections::BTreeMap;

use crate::config::Endpoint;
use crate::dialect::{AdminRevision, Dialect};
use crate::message::QueueName;

/// How many endpoints and queues are remembered.
const LIMIT: usize = 1024;

/// Dialects per endpoint and leaders per queue.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// The dialect that worked last at an endpoint.
    dialects: BTreeMap<Endpoint, Dialect>,
    leaders: BTreeMap<(Purpose, QueueName), Endpoint>,
}

/// What a leader is needed for: preamble servers forward requests, but not consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Requests,
    Consume,
}

impl Directory {
    /// The dialect to open with. It is only the first to be tried: another server may stand at the address by now.
    pub(crate) fn dialect(&self, endpoint: &Endpoint) -> Option<Dialect> {
        self.dialects.get(endpoint).copied()
    }

    /// A connection in this dialect worked. The admin revision is not remembered, as it is learned for each connection
    /// (docs/protocol/revisions.md, "P1, P2 or P3"): what one revision takes for a look is a deletion to another.
    pub(crate) fn learn_dialect(&mut self, endpoint: &Endpoint, dialect: Dialect) {
        let dialect = match dialect {
            Dialect::Preamble(_) => Dialect::Preamble(AdminRevision::Protobuf),
            other => other,
        };
        if self.dialects.len() < LIMIT || self.dialects.contains_key(endpoint) {
            self.dialects.insert(endpoint.clone(), dialect);
        }
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
