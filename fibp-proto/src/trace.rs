//! What happens, for `tracing`; nothing without the feature. Neither payloads nor keys are ever recorded.

#[cfg(feature = "tracing")]
mod real {
    use crate::event::{ConnectionRole, Event};

    /// The span that everything happens on a connection is recorded in.
    #[derive(Debug, Clone)]
    pub(crate) struct ConnectionSpan(tracing::Span);

    impl ConnectionSpan {
        pub(crate) fn new(role: &ConnectionRole) -> Self {
            Self(match role {
                ConnectionRole::Main => tracing::debug_span!("fila_connection", kind = "main"),
                ConnectionRole::Node(endpoint) => tracing::debug_span!("fila_connection", kind = "node", %endpoint),
                ConnectionRole::Consumer(queue) => tracing::debug_span!("fila_connection", kind = "consumer", %queue),
            })
        }

        /// Until the result is dropped, what is recorded belongs to the connection.
        pub(crate) fn enter(&self) -> tracing::span::EnteredSpan {
            self.0.clone().entered()
        }
    }

    pub(crate) fn event(event: &Event) {
        match event {
            Event::Connected { endpoint, dialect, .. } => tracing::info!(%endpoint, %dialect, "connected"),
            Event::Disconnected { cause, .. } => tracing::warn!(%cause, "disconnected"),
            Event::Reconnecting { attempt, delay, .. } => tracing::info!(attempt, ?delay, "reconnecting"),
            Event::Redirected { to, .. } => tracing::info!(%to, "redirected"),
            Event::Resubscribed { queue } => tracing::info!(%queue, "resubscribed"),
            Event::LateSettle { queue, id, late_by } => tracing::warn!(
                %queue, %id, ?late_by,
                "settled after the lease had probably ended: prefetch times handling time exceeds the visibility timeout"
            ),
            Event::Unconfirmed { queue, error } => {
                tracing::warn!(%queue, %error, "a message nobody waits for was not confirmed");
            }
            Event::KeyOverPlaintext { endpoint } => {
                tracing::warn!(%endpoint, "the API key travels over plaintext: use TLS");
            }
            Event::Warning { text } => tracing::warn!("{text}"),
            Event::Expired { queue, skipped } => tracing::warn!(
                %queue, skipped,
                "skipped deliveries whose leases had ended: prefetch times handling time exceeds the visibility timeout"
            ),
            Event::Lagged { missed } => tracing::warn!(missed, "events lost"),
        }
    }

    pub(crate) fn call_finished(op: crate::Op, error: Option<&crate::Error>) {
        match error {
            None => tracing::trace!(?op, "answered"),
            Some(error) => tracing::debug!(?op, %error, "failed"),
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod real {
    use crate::event::{ConnectionRole, Event};

    #[derive(Debug, Clone)]
    pub(crate) struct ConnectionSpan;

    impl ConnectionSpan {
        pub(crate) fn new(_role: &ConnectionRole) -> Self {
            Self
        }

        pub(crate) fn enter(&self) -> Self {
            Self
        }
    }

    pub(crate) fn event(_event: &Event) {}

    pub(crate) fn call_finished(_op: crate::Op, _error: Option<&crate::Error>) {}
}

pub(crate) use real::{ConnectionSpan, call_finished, event};
