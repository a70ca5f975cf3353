//! What a connection asks for by itself: authentication, heartbeats, and what handshakes do not say of a server.

use super::{Arrival, Broken, Connection, Phase, Ticket, accepted};
use crate::dialect::{AdminRevision, Dialect, EncodeError};
use crate::error::{Error, ErrorKind, Outcome};
use crate::request::Request;
use crate::response::Response;

/// What is known of the admin revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admin {
    Unknown,
    Probing,
    Known,
}

/// What the server said of the cluster that it belongs to, where its handshake says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cluster {
    Unknown,
    /// Asked, or to be asked as soon as the admin revision is known.
    Asking,
    /// All that it will say.
    Told,
}

/// What the connection asks for by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    Authentication,
    AdminProbe,
    Cluster,
    Heartbeat,
}

impl<W> Connection<W> {
    /// Sends a request of the connection's own.
    pub(super) fn request_own(&mut self, request: &Request, own: Own) -> Result<(), EncodeError> {
        let id = self.encode(request)?;
        // No deadline: nobody waits for it.
        self.table
            .insert(id, request.op(), Ticket::Own(own), self.encoded, None);
        self.own += 1;
        Ok(())
    }

    /// Finds out the admin revision; [`Arrival::AdminRevision`] follows.
    pub(crate) fn probe_admin(&mut self) -> Result<(), EncodeError> {
        if self.admin == Admin::Unknown {
            self.request_own(&Request::ProbeAdmin, Own::AdminProbe)?;
            self.admin = Admin::Probing;
        }
        Ok(())
    }

    /// Asks, unless it was asked, whether the server belongs to a cluster; [`Arrival::Cluster`] follows where it says so.
    /// True once it will say no more.
    pub(crate) fn ask_cluster(&mut self) -> bool {
        if self.cluster == Cluster::Unknown {
            self.cluster = Cluster::Asking;
            let asked = if self.admin_known() {
                self.list_queues()
            } else {
                self.probe_admin()
            };
            if asked.is_err() {
                self.cluster = Cluster::Told;
            }
        }
        self.cluster == Cluster::Told
    }

    fn list_queues(&mut self) -> Result<(), EncodeError> {
        self.request_own(&Request::ListQueues, Own::Cluster)
    }

    /// The server has said what there is to say.
    pub(crate) fn note_cluster_told(&mut self) {
        self.cluster = Cluster::Told;
    }

    /// The admin revision is known, or will not be: the question that waited for it goes out, or nobody can read its
    /// answer.
    fn go_on_asking(&mut self) {
        if self.cluster == Cluster::Asking && (!self.admin_known() || self.list_queues().is_err()) {
            self.cluster = Cluster::Told;
        }
    }

    /// Takes the answer to a request of the connection's own.
    pub(super) fn deliver_own(
        &mut self,
        own: Own,
        response: Result<Response, Error>,
    ) -> Result<Option<Arrival<W>>, Broken> {
        match own {
            Own::Cluster => {
                self.cluster = Cluster::Told;
                Ok(Some(Arrival::Cluster(accepted(response))))
            }
            Own::Authentication => match response.map_err(Broken::new)? {
                Response::Authenticated => {
                    self.phase = Phase::Ready;
                    Ok(Some(Arrival::Ready))
                }
                Response::Error(error) => Err(Broken::new(Error::from_server(error).with_kind(ErrorKind::Auth))),
                _ => Err(Broken::protocol("the answer to the API key is not one")),
            },
            Own::AdminProbe => {
                let revision = match &response {
                    Ok(Response::Error(error)) => AdminRevision::from_probe(error.text()),
                    _ => None,
                };
                let Some(codec) = revision.and_then(|revision| Dialect::Preamble(revision).codec()) else {
                    // The next admin call may probe again: the refusal may be over by then.
                    self.admin = Admin::Unknown;
                    self.go_on_asking();
                    return Ok(Some(Arrival::AdminRevision(Err(probe_failure(response)))));
                };
                // From now on everything is encoded by this revision.
                self.admin = Admin::Known;
                self.codec = codec;
                self.go_on_asking();
                Ok(Some(Arrival::AdminRevision(Ok(()))))
            }
            Own::Heartbeat => Ok(None),
        }
    }
}

/// What to tell those who wait for the admin revision when the probe's answer names none, as when the server could not
/// look up the key's permissions.
fn probe_failure(response: Result<Response, Error>) -> Error {
    match response {
        Ok(Response::Error(refusal)) => Error::from_server(refusal),
        Ok(_) => Error::new(
            ErrorKind::Protocol,
            "the answer to the admin probe fits no known revision",
        ),
        Err(error) => error,
    }
    .with_outcome(Outcome::NotSent)
}
