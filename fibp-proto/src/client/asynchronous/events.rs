//! What happens to the connections.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::client::watchers::{StateWatch, Subscription};
use crate::event::{Event, State};

/// The events of a client's connections, from the moment of subscribing. Ends when the client is closed.
///
/// A subscriber that is too slow misses events, and learns how many ([`Event::Lagged`]).
#[derive(Debug)]
pub struct Events(pub(super) Subscription);

impl Events {
    /// The next event; `None` after the client was closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.0.poll(cx)).await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll(cx)
    }
}

/// The states of a client's main connection: the present one first, then each change, and `None` after
/// [`State::Closed`]. One that is left again before it is asked for is passed over.
#[derive(Debug)]
pub struct States(pub(super) StateWatch);

impl States {
    /// The next state; `None` after [`State::Closed`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<State> {
        poll_fn(|cx| self.0.poll(cx)).await
    }
}

impl Stream for States {
    type Item = State;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<State>> {
        self.0.poll(cx)
    }
}
