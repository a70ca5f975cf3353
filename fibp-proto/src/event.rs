//! What happens to a client's connections: state, an event ring with subscriber cursors, and counters.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Endpoint;
use crate::dialect::Dialect;
use crate::error::Error;
use crate::message::{MessageId, QueueName};

/// How many events are kept for slow subscribers.
const RING: usize = 1024;

/// Where the client's main connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum State {
    /// The first connection is being made.
    #[default]
    Connecting,
    /// Ready for requests.
    Connected,
    /// Lost; trying again.
    Reconnecting,
    /// Given up after an error that another attempt would not fix. The next call tries once more.
    Failed,
    /// Closed by the caller, or for good after a loss with [`Reconnect::Never`](crate::config::Reconnect::Never) or when
    /// the attempts of [`Backoff::max_attempts`](crate::config::Backoff::max_attempts) were used up: every later call fails
    /// with [`ErrorKind::Closed`](crate::ErrorKind::Closed), which says since when and why.
    Closed,
}

/// Which connection an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionRole {
    /// The client's main connection.
    Main,
    /// A connection to one node of the cluster.
    Node(Endpoint),
    /// The connection of a consumer.
    Consumer(QueueName),
}

/// Something worth knowing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A connection is ready.
    Connected {
        /// Which connection.
        connection: ConnectionRole,
        /// The server.
        endpoint: Endpoint,
        /// The dialect in use.
        dialect: Dialect,
    },
    /// A connection was lost, or could not be made.
    Disconnected {
        /// Which connection.
        connection: ConnectionRole,
        /// Why.
        cause: Error,
    },
    /// Another attempt follows.
    Reconnecting {
        /// Which connection.
        connection: ConnectionRole,
        /// The number of the attempt since the connection was lost, from 1.
        attempt: u32,
        /// How long it waits first.
        delay: Duration,
    },
    /// A node named the queue's leader, and the connection or the work goes there.
    Redirected {
        /// Which connection.
        connection: ConnectionRole,
        /// The leader.
        to: Endpoint,
    },
    /// A consumer is subscribed again after its connection was lost.
    Resubscribed {
        /// The queue.
        queue: QueueName,
    },
    /// An ack or nack was submitted after the lease had probably ended: prefetch times handling time exceeds the
    /// visibility timeout.
    LateSettle {
        /// The queue.
        queue: QueueName,
        /// The message.
        id: MessageId,
        /// By how much.
        late_by: Duration,
    },
    /// Deliveries were skipped because their lease had ended before they were handed out, or would end before the handler
    /// is done: see [`Expired`](crate::config::Expired). Reported once per burst of deliveries; [`Stats::expired`] counts them.
    Expired {
        /// The queue.
        queue: QueueName,
        /// How many were skipped so far.
        skipped: u64,
    },
    /// A message whose caller no longer waits (its receipt was dropped, or its producer) was not confirmed.
    Unconfirmed {
        /// The queue.
        queue: QueueName,
        /// Why.
        error: Error,
    },
    /// An API key travels over plaintext to a host that is not this one.
    KeyOverPlaintext {
        /// The host.
        endpoint: Endpoint,
    },
    /// A setting endangers something, or is not in force as it was asked for
    /// ([`Config::warnings`](crate::Config::warnings)). Every subscriber sees these first.
    Warning {
        /// What is to be known.
        text: &'static str,
    },
    /// This subscriber was too slow: events were lost.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// A subscriber's place in the ring.
#[derive(Debug, Clone, Copy)]
pub struct Cursor {
    /// The number of the next event.
    next: u64,
    /// How many warnings were seen.
    warnings: usize,
}

/// The last events, numbered.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    events: VecDeque<Event>,
    /// The number of the first event in `events`.
    first: u64,
    /// What every subscriber is shown first.
    warnings: Vec<&'static str>,
}

impl Ring {
    /// A ring whose subscribers are shown these warnings before anything else.
    pub(crate) fn new(warnings: Vec<&'static str>) -> Self {
        Self {
            warnings,
            ..Self::default()
        }
    }

    pub(crate) fn push(&mut self, event: Event) {
        if self.events.len() >= RING {
            self.events.pop_front();
            self.first += 1;
        }
        self.events.push_back(event);
    }

    /// A cursor that sees what comes from now on.
    pub(crate) fn cursor(&self) -> Cursor {
        Cursor {
            next: self.first + self.events.len() as u64,
            warnings: 0,
        }
    }

    pub(crate) fn next(&self, cursor: &mut Cursor) -> Option<Event> {
        if let Some(text) = self.warnings.get(cursor.warnings) {
            cursor.warnings += 1;
            return Some(Event::Warning { text });
        }
        if cursor.next < self.first {
            let missed = self.first - cursor.next;
            cursor.next = self.first;
            return Some(Event::Lagged { missed });
        }
        let index = usize::try_from(cursor.next - self.first).ok()?;
        let event = self.events.get(index)?.clone();
        cursor.next += 1;
        Some(event)
    }
}

/// Declares the counters, and their sum.
macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Counters of a client since it was made.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl Stats {
            pub(crate) fn merge(&mut self, other: Self) {
                $(self.$name = self.$name.wrapping_add(other.$name);)+
            }
        }
    };
}

stats! {
    /// Connections that became ready.
    connections,
    /// Connections that were lost.
    disconnects,
    /// Frames of requests handed to sockets; heartbeats and grants of credit do not count.
    frames_sent,
    /// Frames received.
    frames_received,
    /// Bytes handed to sockets, as they travel.
    bytes_sent,
    /// Bytes received, as they travel.
    bytes_received,
    /// Messages confirmed by the broker.
    messages_confirmed,
    /// Enqueue frames sent.
    enqueue_frames,
    /// Acks and nacks confirmed by the broker.
    settled,
    /// Ack and nack frames sent.
    settle_frames,
    /// Deliveries received.
    deliveries,
    /// Requests whose deadline passed.
    timeouts,
    /// Work handed to other nodes.
    redirects,
    /// Acks and nacks submitted after the lease had probably ended.
    late_settles,
    /// Deliveries skipped because their lease had ended, or was about to.
    expired,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_subscribers_are_told_what_they_missed() {
        let mut ring = Ring::default();
        let mut slow = ring.cursor();
        let event = |n: u64| Event::Lagged { missed: n };
        for n in 0..RING as u64 + 5 {
            ring.push(event(n));
        }
        let missed = |event: Option<Event>| match event {
            Some(Event::Lagged { missed }) => missed,
            other => panic!("{other:?}"),
        };
        assert_eq!(missed(ring.next(&mut slow)), 5, "the lag itself");
        assert_eq!(missed(ring.next(&mut slow)), 5, "then the oldest event kept");
        let mut late = ring.cursor();
        assert!(ring.next(&mut late).is_none());
    }
}
