//! How a channel ends: with a goodbye where the dialect has one, at once elsewhere.

use std::time::{Duration, Instant};

use super::dialer::Phase;
use super::{Channel, ChannelEvent, closed};
use crate::config::Endpoint;
use crate::connection::Connection;
use crate::error::Error;
use crate::machine::Action;
use crate::request::Request;

/// How long a goodbye waits for the server to close.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

impl<W> Channel<W> {
    /// Leaves the connection, or stops trying for one. What is in flight is given up: the machine has settled it.
    pub(crate) fn shut(&mut self, now: Instant, error: Error) {
        // An end that is noted but not reported yet is void: the machine knows that it is over, and would plan another
        // attempt.
        self.ending = None;
        if let Phase::Leaving { next, .. } = &mut self.dialer.phase {
            // A goodbye for a new connection is under way: it becomes the last one.
            *next = None;
            return;
        }
        if self.is_closed() || self.say_goodbye(now, None) {
            return;
        }
        drop(self.hang_up());
        self.dialer.phase = Phase::Closed {
            error,
            since: Some(now),
        };
    }

    /// Leaves a consumer's connection for a new one to the same server: with a goodbye where the dialect has one, or
    /// the server goes on sending to a connection that nobody reads, and takes long to notice
    /// (docs/protocol/framed.md 5).
    pub(crate) fn renew(&mut self, now: Instant) {
        let Some(endpoint) = self.endpoint().cloned() else {
            return;
        };
        self.renewing = true;
        if !self.say_goodbye(now, Some(endpoint.clone())) {
            self.redial_at(now, endpoint);
        }
    }

    /// Whether this connection replaced a silent one. Asked once.
    pub(crate) fn take_renewed(&mut self) -> bool {
        std::mem::take(&mut self.renewing)
    }

    /// Where the dialect has a goodbye, begins to leave for `next`.
    fn say_goodbye(&mut self, now: Instant, next: Option<Endpoint>) -> bool {
        // Before the handshake is answered the server reads no frames, and a goodbye would be part of nothing.
        let connection = self.connection.as_mut().filter(|_| self.dialer.is_ready());
        let said = connection
            .filter(|connection| connection.rules().goodbye)
            .is_some_and(|connection| connection.encode(&Request::Goodbye).is_ok());
        if said {
            self.dialer.phase = Phase::Leaving {
                until: now.checked_add(GOODBYE_TIMEOUT),
                half_closed: false,
                next,
            };
        }
        said
    }

    /// Everything encoded was written.
    pub(super) fn note_flushed(&mut self) {
        if let Phase::Leaving { half_closed, .. } = &mut self.dialer.phase {
            let written = self.transport.has_said_end()
                || self
                    .connection
                    .as_ref()
                    .is_none_or(|connection| connection.out.is_empty());
            // The goodbye has to be out first: after the end of the stream nothing follows it.
            if written && !*half_closed && self.transport.finish_output() {
                *half_closed = true;
                self.actions.push_back(Action::HalfClose);
            }
        }
    }

    pub(super) fn finish_leaving(&mut self, now: Instant) -> ChannelEvent<W> {
        if let Phase::Leaving { next: Some(next), .. } = &self.dialer.phase {
            let next = next.clone();
            self.redial_at(now, next);
            return ChannelEvent::Left { redialing: true };
        }
        let error = self.dialer.last_error.clone().unwrap_or_else(|| closed("the client"));
        drop(self.hang_up());
        self.dialer.phase = Phase::Closed {
            error,
            since: Some(now),
        };
        ChannelEvent::Left { redialing: false }
    }

    /// Drops the socket and what belongs to it; returns what was in flight, and whether it may have been sent in full.
    pub(super) fn hang_up(&mut self) -> Vec<(W, bool)> {
        // Asked before the transport is closed. A dial counts: the driver has to give it up, or a socket would open that
        // no channel knows.
        let has_socket = self.transport.is_open() || matches!(self.dialer.phase, Phase::Dialing { .. });
        // One is enough: the driver closes the socket and gives up the dial, whichever there is.
        if has_socket && !matches!(self.actions.back(), Some(Action::Hangup)) {
            self.actions.push_back(Action::Hangup);
        }
        // The driver may have taken a buffer and a transmit for this socket. They are worth nothing now: see
        // `Transport::close`.
        self.transport.close();
        self.connection
            .take()
            .map(|mut connection| Connection::drain(&mut connection))
            .unwrap_or_default()
    }
}
