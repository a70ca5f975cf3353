//! Calls whose results are waited for later, if at all.

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::client::cell::RequestCall;
use crate::client::clients::Handle;
use crate::client::waiter::Answer;

/// A call whose result may be asked for later, or never. Keeps the client alive.
#[derive(Debug)]
#[must_use]
pub struct Pending<S: 'static, A: Answer> {
    call: RequestCall<'static, S, A>,
    handle: Handle<S>,
}

impl<S: 'static, A: Answer> Pending<S, A> {
    pub(super) fn new(call: RequestCall<'static, S, A>, handle: Handle<S>) -> Self {
        Self { call, handle }
    }

    /// What made the call, and the call itself: to be polled with what keeps the client alive at hand.
    pub fn parts(&mut self) -> (&Handle<S>, &mut RequestCall<'static, S, A>) {
        (&self.handle, &mut self.call)
    }
}

impl<S: 'static, A: Answer> Future for Pending<S, A> {
    type Output = A::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.call).poll(cx)
    }
}
