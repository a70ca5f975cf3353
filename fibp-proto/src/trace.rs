//! What happens, for `tracing`; nothing without the feature. Neither payloads nor keys are ever recorded.

#[cfg(feature = "tracing")]
mod real {
    use tracing::field::{Empty, display};

    use crate::config::Endpoint;
    use crate::dialect::Dialect;
    use crate::event::{ConnectionRole, Event};
    #[cfg(feature = "client")]
    use crate::{error::Error, message::QueueName, request::Op};

    /// The span of one call, from its submission to its answer.
    #[cfg(feature = "client")]
    #[derive(Debug)]
    pub(crate) struct CallSpan {
        span: tracing::Span,
        op: Op,
        /// Known only where somebody records.
        queue: Option<QueueName>,
    }

    #[cfg(feature = "client")]
    impl CallSpan {
        pub(crate) fn new<'a>(op: Op, find_queue: impl FnOnce() -> Option<&'a QueueName>) -> Self {
            let mut queue = None;
            let span = tracing::debug_span!(
                target: "fila", "fila_call", ?op,
                queue = { queue = find_queue().cloned(); queue.as_deref() },
                address = Empty, dialect = Empty
            );
            Self { span, op, queue }
        }

        /// For what is no request to a server.
        pub(crate) fn none() -> Self {
            let (span, op, queue) = (tracing::Span::none(), Op::Heartbeat, None);
            Self { span, op, queue }
        }

        pub(crate) fn in_scope<R>(&self, work: impl FnOnce() -> R) -> R {
            self.span.in_scope(work)
        }

        /// Whether anybody records it.
        pub(crate) fn is_recorded(&self) -> bool {
            !self.span.is_disabled()
        }

        pub(crate) fn op(&self) -> Op {
            self.op
        }

        pub(crate) fn queue(&self) -> Option<&QueueName> {
            self.queue.as_ref()
        }

        /// The call was answered, or failed.
        pub(crate) fn finish(&self, place: Option<&(Endpoint, Option<Dialect>)>, error: Option<&Error>) {
            self.locate(place, error);
            match error {
                None => tracing::debug!(target: "fila", parent: &self.span, "answered"),
                Some(error) => tracing::debug!(target: "fila", parent: &self.span, %error, "failed"),
            }
        }

        /// Its caller is gone.
        pub(crate) fn give_up(&self, place: Option<&(Endpoint, Option<Dialect>)>) {
            self.locate(place, None);
            tracing::debug!(target: "fila", parent: &self.span, "nobody waits for the answer");
        }

        /// Says where the call went. Only at its end: until then it may be sent elsewhere.
        fn locate(&self, place: Option<&(Endpoint, Option<Dialect>)>, error: Option<&Error>) {
            let said = error.and_then(Error::address);
            if let Some(address) = said.or_else(|| place.map(|(address, _)| address)) {
                self.span.record("address", display(address));
            }
            if let Some((_, Some(dialect))) = place {
                self.span.record("dialect", display(dialect));
            }
        }
    }

    /// The span that everything happens on a connection is recorded in. It has no parent: whoever connects is not kept open
    /// until the connection ends.
    #[derive(Debug, Clone)]
    pub(crate) struct ConnectionSpan(tracing::Span);

    impl ConnectionSpan {
        pub(crate) fn new(role: &ConnectionRole) -> Self {
            Self(match role {
                ConnectionRole::Main => {
                    tracing::debug_span!(target: "fila", parent: None, "fila_connection", kind = "main", address = Empty, dialect = Empty)
                }
                ConnectionRole::Node(endpoint) => {
                    tracing::debug_span!(target: "fila", parent: None, "fila_connection", kind = "node", node = %endpoint, address = Empty, dialect = Empty)
                }
                ConnectionRole::Consumer(queue) => {
                    tracing::debug_span!(target: "fila", parent: None, "fila_connection", kind = "consumer", %queue, address = Empty, dialect = Empty)
                }
            })
        }

        /// Says whom the connection is with.
        pub(crate) fn record(&self, address: &Endpoint, dialect: Dialect) {
            self.0
                .record("address", display(address))
                .record("dialect", display(dialect));
        }

        /// Until the result is dropped, what is recorded belongs to the connection.
        pub(crate) fn enter(&self) -> tracing::span::EnteredSpan {
            self.0.clone().entered()
        }
    }

    pub(crate) fn event(event: &Event) {
        match event {
            Event::Connected { endpoint, dialect, .. } => {
                tracing::info!(target: "fila", %endpoint, %dialect, "connected");
            }
            Event::Disconnected { cause, .. } => tracing::warn!(target: "fila", %cause, "disconnected"),
            Event::Reconnecting { attempt, delay, .. } => {
                tracing::info!(target: "fila", attempt, ?delay, "reconnecting");
            }
            Event::Redirected { to, .. } => tracing::info!(target: "fila", %to, "redirected"),
            Event::Resubscribed { queue } => tracing::info!(target: "fila", %queue, "resubscribed"),
            Event::LateSettle { queue, id, late_by } => tracing::warn!(
                target: "fila", %queue, %id, ?late_by,
                "settled after the lease had probably ended: prefetch times handling time exceeds the visibility timeout"
            ),
            Event::Unconfirmed { queue, error } => {
                tracing::warn!(target: "fila", %queue, %error, "a message nobody waits for was not confirmed");
            }
            Event::KeyOverPlaintext { endpoint } => {
                tracing::warn!(target: "fila", %endpoint, "the API key travels over plaintext: use TLS");
            }
            Event::Warning { text } => tracing::warn!(target: "fila", "{text}"),
            Event::Expired { queue, skipped } => tracing::warn!(
                target: "fila", %queue, skipped,
                "skipped deliveries whose leases had ended: prefetch times handling time exceeds the visibility timeout"
            ),
            Event::Lagged { missed } => tracing::warn!(target: "fila", missed, "events lost"),
        }
    }

    /// A silent connection was replaced by a new one.
    pub(crate) fn renewed(address: &Endpoint) {
        tracing::trace!(target: "fila", %address, "renewed an idle subscription");
    }
}

#[cfg(not(feature = "tracing"))]
mod real {
    use crate::config::Endpoint;
    use crate::dialect::Dialect;
    use crate::event::{ConnectionRole, Event};
    #[cfg(feature = "client")]
    use crate::{error::Error, message::QueueName, request::Op};

    #[cfg(feature = "client")]
    #[derive(Debug)]
    pub(crate) struct CallSpan;

    #[cfg(feature = "client")]
    impl CallSpan {
        pub(crate) fn new<'a>(_op: Op, _find_queue: impl FnOnce() -> Option<&'a QueueName>) -> Self {
            Self
        }

        pub(crate) fn none() -> Self {
            Self
        }

        pub(crate) fn in_scope<R>(&self, work: impl FnOnce() -> R) -> R {
            work()
        }

        pub(crate) fn is_recorded(&self) -> bool {
            false
        }

        pub(crate) fn op(&self) -> Op {
            Op::Heartbeat
        }

        pub(crate) fn queue(&self) -> Option<&QueueName> {
            None
        }

        pub(crate) fn finish(&self, _place: Option<&(Endpoint, Option<Dialect>)>, _error: Option<&Error>) {}

        pub(crate) fn give_up(&self, _place: Option<&(Endpoint, Option<Dialect>)>) {}
    }

    #[derive(Debug, Clone)]
    pub(crate) struct ConnectionSpan;

    impl ConnectionSpan {
        pub(crate) fn new(_role: &ConnectionRole) -> Self {
            Self
        }

        pub(crate) fn record(&self, _address: &Endpoint, _dialect: Dialect) {}

        pub(crate) fn enter(&self) -> Self {
            Self
        }
    }

    pub(crate) fn event(_event: &Event) {}

    pub(crate) fn renewed(_address: &Endpoint) {}
}

#[cfg(feature = "client")]
pub(crate) use real::CallSpan;
pub(crate) use real::{ConnectionSpan, event, renewed};

#[cfg(all(test, feature = "tracing"))]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Metadata, Subscriber};

    use super::*;
    use crate::config::Endpoint;
    use crate::dialect::Dialect;
    use crate::event::{ConnectionRole, Event};

    /// What was recorded: the target and the names of the fields.
    #[derive(Debug, Default, Clone)]
    struct Seen(Arc<Mutex<Vec<(String, String)>>>);

    impl Seen {
        fn note(&self, metadata: &Metadata<'_>) {
            let fields = metadata.fields().iter().map(|field| field.name()).collect::<Vec<_>>();
            let seen = (metadata.target().to_owned(), fields.join(" "));
            self.0.lock().unwrap().push(seen);
        }
    }

    impl Subscriber for Seen {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, span: &Attributes<'_>) -> Id {
            self.note(span.metadata());
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, values: &Record<'_>) {
            self.0.lock().unwrap().push(("fila".to_owned(), format!("{values:?}")));
        }

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            self.note(event.metadata());
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    #[cfg(feature = "client")]
    fn a_call_that_nobody_records_costs_nothing() {
        let span = CallSpan::new(crate::Op::Enqueue, || unreachable!("nobody asked for the queue"));
        assert!(!span.is_recorded());
    }

    #[test]
    fn everything_has_the_target_fila_and_spans_say_where_they_are() {
        let seen = Seen::default();
        tracing::subscriber::with_default(seen.clone(), || {
            let address = Endpoint::new("node-1", 5555).unwrap();
            let span = ConnectionSpan::new(&ConnectionRole::Consumer("orders".into()));
            span.record(&address, Dialect::Handshake);
            event(&Event::Redirected {
                connection: ConnectionRole::Main,
                to: address.clone(),
            });
            renewed(&address);
        });
        let seen = seen.0.lock().unwrap();
        assert!(seen.iter().all(|(target, _)| target == "fila"), "{seen:?}");
        let fields: Vec<_> = seen.iter().map(|(_, fields)| fields.as_str()).collect();
        assert_eq!(fields[0], "kind queue address dialect");
        assert!(
            fields[1..3].iter().any(|values| values.contains("node-1:5555")),
            "{fields:?}"
        );
    }
}
