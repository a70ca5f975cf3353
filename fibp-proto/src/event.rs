//! What happens to a client's connections: state, an event ring with subscriber cursors, and counters.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::config::Endpoint;
use crate::dialect::Dialect;
use crate::error::{Error, ErrorKind};
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
    /// with [`ErrorKind::Closed`], which says since when and why.
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

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Reconnecting => "reconnecting",
            Self::Failed => "failed",
            Self::Closed => "closed",
        })
    }
}

impl fmt::Display for ConnectionRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Main => f.write_str("main connection"),
            Self::Node(endpoint) => write!(f, "connection to node {endpoint}"),
            Self::Consumer(queue) => write!(f, "consumer of \"{}\"", queue.escape_debug()),
        }
    }
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
    /// A consumer is subscribed again after its connection was lost. Renewing an idle subscription is no event.
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

/// One line, as for a log. Text that others choose, such as a queue's name, is escaped.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected {
                connection,
                endpoint,
                dialect,
            } => write!(f, "{connection}: connected to {endpoint} ({dialect})"),
            // Its cause says so.
            Self::Disconnected { connection, cause } if cause.kind() == ErrorKind::Disconnected => {
                write!(f, "{connection}: {cause}")
            }
            Self::Disconnected { connection, cause } => write!(f, "{connection}: disconnected: {cause}"),
            Self::Reconnecting {
                connection,
                attempt,
                delay,
            } => write!(f, "{connection}: reconnecting in {delay:?} (attempt {attempt})"),
            Self::Redirected { connection, to } => write!(f, "{connection}: redirected to {to}"),
            Self::Resubscribed { queue } => write!(f, "resubscribed to \"{}\"", queue.escape_debug()),
            Self::LateSettle { queue, id, late_by } => write!(
                f,
                "message {} of \"{}\" settled {late_by:?} after its lease had probably ended",
                id.as_str().escape_debug(),
                queue.escape_debug()
            ),
            Self::Expired { queue, skipped } => write!(
                f,
                "skipped {skipped} deliveries of \"{}\" whose leases had ended",
                queue.escape_debug()
            ),
            Self::Unconfirmed { queue, error } => write!(
                f,
                "a message to \"{}\" that nobody waits for is not confirmed: {error}",
                queue.escape_debug()
            ),
            Self::KeyOverPlaintext { endpoint } => {
                write!(f, "the API key travels unencrypted to {endpoint}: use TLS")
            }
            Self::Warning { text } => f.write_str(text),
            Self::Lagged { missed } => write!(f, "{missed} events lost: the subscriber was too slow"),
        }
    }
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

/// Whether a figure of [`Stats`] only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StatKind {
    /// Counts what happened since the client was made.
    Counter,
    /// Says how much there is now.
    Gauge,
}

/// What a channel counts, since that was asked last.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) connections: u64,
    pub(crate) disconnects: u64,
    pub(crate) frames_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
}

impl Stats {
    /// Moves what a channel has counted here.
    pub(crate) fn drain_traffic(&mut self, traffic: &mut Traffic) {
        let Traffic {
            connections,
            disconnects,
            frames_received,
            bytes_sent,
            bytes_received,
        } = std::mem::take(traffic);
        self.connections += connections;
        self.disconnects += disconnects;
        self.frames_received += frames_received;
        self.bytes_sent += bytes_sent;
        self.bytes_received += bytes_received;
    }
}

/// Declares the figures, their sum and their list.
macro_rules! stats {
    ($($(#[$doc:meta])* $kind:ident $name:ident,)+) => {
        /// Counters of a client since it was made, and gauges of what there is now.
        ///
        /// # Prometheus
        ///
        /// [`iter`](Self::iter) names every figure, which is all that the text format needs:
        ///
        /// ```
        /// use std::fmt::Write;
        ///
        /// use fibp_proto::Stats;
        /// use fibp_proto::event::StatKind;
        ///
        /// fn prometheus(stats: &Stats) -> String {
        ///     let mut text = String::new();
        ///     for (name, value, kind) in stats.iter() {
        ///         let (suffix, kind) = match kind {
        ///             StatKind::Gauge => ("", "gauge"),
        ///             _ => ("_total", "counter"),
        ///         };
        ///         let _ = writeln!(text, "# TYPE fila_{name}{suffix} {kind}\nfila_{name}{suffix} {value}");
        ///     }
        ///     text
        /// }
        ///
        /// let text = prometheus(&Stats::default());
        /// assert!(text.contains("# TYPE fila_messages_confirmed_total counter\nfila_messages_confirmed_total 0\n"));
        /// assert!(text.contains("# TYPE fila_in_flight gauge\n"));
        /// ```
        ///
        /// Call it from the handler of `/metrics`, with what the client's `stats()` says at that moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl Stats {
            /// Whether nothing was counted. Asked often, so without a branch for each.
            pub(crate) fn is_zero(&self) -> bool {
                0 $(| self.$name)+ == 0
            }

            /// Moves what `from` has counted here.
            pub(crate) fn drain(&mut self, from: &mut Self) {
                $(self.$name = self.$name.wrapping_add(std::mem::take(&mut from.$name));)+
            }

            /// All figures: name, value and kind.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64, StatKind)> + use<> {
                [$((stringify!($name), self.$name, StatKind::$kind),)+].into_iter()
            }
        }
    };
}

stats! {
    /// Connections that became ready.
    Counter connections,
    /// Connections that were lost.
    Counter disconnects,
    /// Frames of requests handed to sockets; heartbeats and grants of credit do not count.
    Counter frames_sent,
    /// Frames received.
    Counter frames_received,
    /// Bytes handed to sockets, as they travel.
    Counter bytes_sent,
    /// Bytes received, as they travel.
    Counter bytes_received,
    /// Messages confirmed by the broker.
    Counter messages_confirmed,
    /// Enqueue frames sent.
    Counter enqueue_frames,
    /// Acks and nacks confirmed by the broker.
    Counter settled,
    /// Ack and nack frames sent.
    Counter settle_frames,
    /// Deliveries received.
    Counter deliveries,
    /// Requests whose deadline passed.
    Counter timeouts,
    /// Work handed to other nodes.
    Counter redirects,
    /// Acks and nacks submitted after the lease had probably ended.
    Counter late_settles,
    /// Deliveries skipped because their lease had ended, or was about to.
    Counter expired,
    /// Connections that are ready now, those of consumers included.
    Gauge open_connections,
    /// Requests that were sent and are not answered.
    Gauge in_flight,
    /// Bytes of messages, acks and nacks that wait or are not answered.
    Gauge queued_bytes,
    /// Deliveries that were received and that no consumer has asked for yet.
    Gauge deliveries_waiting,
    /// Deliveries that take up a window of credit: received, and neither settled nor dropped
    /// ([`Credit::Window`](crate::Credit::Window); 0 where there is none).
    Gauge unsettled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_events_are_shown_in_one_line() {
        assert_eq!(State::Reconnecting.to_string(), "reconnecting");
        let event = Event::Reconnecting {
            connection: ConnectionRole::Consumer("a\nb".into()),
            attempt: 2,
            delay: Duration::from_millis(150),
        };
        assert_eq!(
            event.to_string(),
            r#"consumer of "a\nb": reconnecting in 150ms (attempt 2)"#
        );
        let event = Event::Redirected {
            connection: ConnectionRole::Main,
            to: Endpoint::new("node-2", 5555).unwrap(),
        };
        assert_eq!(event.to_string(), "main connection: redirected to node-2:5555");
        let lost = |kind| Event::Disconnected {
            connection: ConnectionRole::Main,
            cause: Error::new(kind, "no answer").at(Endpoint::new("node-2", 5555).as_ref().ok()),
        };
        assert_eq!(
            lost(ErrorKind::Disconnected).to_string(),
            "main connection: connection to node-2:5555: disconnected: no answer"
        );
        let protocol = lost(ErrorKind::Protocol).to_string();
        assert!(
            protocol.starts_with("main connection: disconnected: connection to node-2:5555: "),
            "{protocol}"
        );
    }

    #[test]
    fn every_figure_is_listed_by_its_name() {
        let stats = Stats {
            connections: 3,
            open_connections: 2,
            ..Stats::default()
        };
        let listed: Vec<_> = stats.iter().filter(|(_, value, _)| *value > 0).collect();
        assert_eq!(
            listed,
            [
                ("connections", 3, StatKind::Counter),
                ("open_connections", 2, StatKind::Gauge)
            ]
        );
    }

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
