//! A call that is waited for later.

use std::fmt;
use std::time::{Duration, Instant};

use fibp_proto::link::CallId;

use crate::Client;
use crate::reply::Answer;
use crate::waiter::Ticket;

/// A call on a client's main link and the way to its result. Dropping it abandons the call.
pub(crate) struct Call<R> {
    client: Client,
    id: CallId,
    ticket: Ticket,
    result: Option<R>,
    read: fn(Answer) -> R,
    /// The call goes on without its caller.
    detached: bool,
}

impl<R: Clone> Call<R> {
    pub(crate) fn new(client: Client, id: CallId, ticket: Ticket, read: fn(Answer) -> R) -> Self {
        Self {
            client,
            id,
            ticket,
            result: None,
            read,
            detached: false,
        }
    }

    /// The same call, to go on even if this is dropped.
    pub(crate) fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    pub(crate) fn wait(mut self) -> R {
        match self.result.take() {
            Some(result) => result,
            None => {
                let answer = self.client.main().wait(&self.ticket);
                (self.read)(answer)
            }
        }
    }

    pub(crate) fn wait_timeout(&mut self, timeout: Duration) -> Option<R> {
        let until = Instant::now().checked_add(timeout);
        if self.result.is_none() {
            let answer = self.client.main().wait_until(&self.ticket, until)?;
            self.result = Some((self.read)(answer));
        }
        self.result.clone()
    }

    pub(crate) fn try_wait(&mut self) -> Option<R> {
        if self.result.is_none() {
            self.result = Some((self.read)(self.ticket.take()?));
        }
        self.result.clone()
    }
}

impl<R> Drop for Call<R> {
    fn drop(&mut self) {
        if !self.detached && self.ticket.is_open() {
            let main = self.client.main();
            let mut inner = main.lock();
            let token = inner.link.abandon(self.id);
            main.catch_up(inner);
            drop(token);
        }
    }
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("id", &self.id).finish_non_exhaustive()
    }
}
