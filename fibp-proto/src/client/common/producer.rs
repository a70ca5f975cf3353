//! Sending without waiting for each confirmation.

use std::sync::Arc;

use super::pending::Pending;
use crate::client::cell::RequestCall;
use crate::client::clients::Handle;
use crate::client::waiter::answer;
use crate::config::ProducerSettings;
use crate::error::SendError;
use crate::machine::CallId;
use crate::message::Message;
use crate::requests::ProducerId;

/// A producer of a client's requests, which is closed with its last clone: what its buffer holds is still sent.
#[derive(Debug)]
pub struct Producer<S: Send + Sync + 'static>(Arc<Inner<S>>);

#[derive(Debug)]
struct Inner<S: Send + Sync + 'static> {
    handle: Handle<S>,
    id: ProducerId,
    settings: ProducerSettings,
}

impl<S: Send + Sync + 'static> Producer<S> {
    pub(super) fn new(handle: Handle<S>, settings: ProducerSettings) -> Self {
        let id = handle.main().with(|requests| requests.open_producer(settings));
        Self(Arc::new(Inner { handle, id, settings }))
    }

    /// What made it.
    #[must_use]
    pub fn handle(&self) -> &Handle<S> {
        &self.0.handle
    }

    /// Its options.
    #[must_use]
    pub fn settings(&self) -> &ProducerSettings {
        &self.0.settings
    }

    /// Hands over a message if there is room for it now.
    ///
    /// # Errors
    ///
    /// Why it cannot be sent, with the message; [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded) whenever the buffer is
    /// full.
    pub fn try_send(&self, message: Message) -> Result<RequestCall<'_, S, answer::Enqueued>, SendError> {
        let Inner { handle, id, .. } = &*self.0;
        handle
            .main()
            .try_send(handle.clients().now(), *id, message, handle.timeout)
    }

    /// Hands over a message for which there was no room: waits in line for it.
    ///
    /// # Errors
    ///
    /// Why there is no room for it, with the message.
    pub async fn send_when_room(&self, message: Message) -> Result<RequestCall<'_, S, answer::Enqueued>, SendError> {
        match self.reserve(&message).room().await {
            Ok(room) => self.send_reserved(room, message),
            Err(error) => Err(SendError { message, error }),
        }
    }

    /// Waits in line for room for a message.
    pub fn reserve(&self, message: &Message) -> RequestCall<'_, S, answer::Room> {
        let Inner { handle, id, .. } = &*self.0;
        handle
            .main()
            .reserve(handle.clients().now(), *id, message, handle.timeout)
    }

    /// Hands over a message, into room that was reserved for it.
    ///
    /// # Errors
    ///
    /// Why it cannot be sent, with the message.
    pub fn send_reserved(
        &self,
        room: CallId,
        message: Message,
    ) -> Result<RequestCall<'_, S, answer::Enqueued>, SendError> {
        let Inner { handle, id, .. } = &*self.0;
        handle.main().send_reserved(handle.clients().now(), *id, room, message)
    }

    /// A call of this producer, to be waited for by itself.
    pub fn receipt(&self, call: RequestCall<'_, S, answer::Enqueued>) -> Pending<S, answer::Enqueued> {
        Pending::new(call.owned(), self.0.handle.clone())
    }

    /// Sends what was handed over without lingering.
    pub fn hurry(&self) {
        let Inner { handle, id, .. } = &*self.0;
        handle
            .main()
            .with(|requests| requests.hurry(handle.clients().now(), *id));
    }

    /// As [`hurry`](Self::hurry), and the wait until all of it is confirmed or failed.
    pub fn flush(&self) -> RequestCall<'_, S, answer::Flushed> {
        let Inner { handle, id, .. } = &*self.0;
        handle.main().flush(handle.clients().now(), *id, handle.timeout)
    }
}

// Derived, it would ask for sockets that can be cloned.
impl<S: Send + Sync + 'static> Clone for Producer<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Send + Sync + 'static> Drop for Inner<S> {
    fn drop(&mut self) {
        self.handle.main().with(|requests| requests.close_producer(self.id));
    }
}
