//! What happens, for `tracing`; nothing without the feature. Neither payloads nor keys are ever recorded.

#[cfg(feature = "tracing")]
mod real {
    use tracing::field::{Empty, display};

    use crate::config::Endpoint;
    use crate::dialect::Dialect;
    use crate::event::{ConnectionRole, Event};

    /// The span that everything happens on a connection is recorded in.
    #[derive(Debug, Clone)]
    pub(crate) struct ConnectionSpan(tracing::Span);

    impl ConnectionSpan {
        pub(crate) fn new(role: &ConnectionRole) -> Self {
            Self(match role {
                ConnectionRole::Main => {
                    tracing::debug_span!(target: "fila", "fila_connection", kind = "main", address = Empty, dialect = Empty)
                }
                ConnectionRole::Node(endpoint) => {
                    tracing::debug_span!(target: "fila", "fila_connection", kind = "node", node = %endpoint, address = Empty, dialect = Empty)
                }
                ConnectionRole::Consumer(queue) => {
                    tracing::debug_span!(target: "fila", "fila_connection", kind = "consumer", %queue, address = Empty, dialect = Empty)
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
                tracing::info!(target: "fila", attempt, ?delay, "reconnecting")
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

    pub(crate) fn call_finished(op: crate::Op, error: Option<&crate::Error>) {
        match error {
            None => tracing::debug!(target: "fila", ?op, "answered"),
            Some(error) => tracing::debug!(target: "fila", ?op, %error, "failed"),
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod real {
    use crate::config::Endpoint;
    use crate::dialect::Dialect;
    use crate::event::{ConnectionRole, Event};

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

    pub(crate) fn call_finished(_op: crate::Op, _error: Option<&crate::Error>) {}
}

pub(crate) use real::{ConnectionSpan, call_finished, event, renewed};

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
            call_finished(crate::Op::Ack, None);
        });
        let seen = seen.0.lock().unwrap();
        assert!(seen.iter().all(|(target, _)| target == "fila"), "{seen:?}");
        let fields: Vec<_> = seen.iter().map(|(_, fields)| fields.as_str()).collect();
        assert_eq!(fields[0], "kind queue address dialect");
        assert!(
            fields[1..3].iter().any(|values| values.contains("node-1:5555")),
            "{fields:?}"
        );
        assert!(fields.contains(&"message op"), "{fields:?}");
    }
}
