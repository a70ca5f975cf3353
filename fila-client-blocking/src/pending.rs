//! Calls whose results are waited for later, if at all.

use std::pin::pin;
use std::time::{Duration, Instant};

use fibp_proto::client::{Answer, Input, common};

use crate::connect::Stream;
use crate::wait::wait_until;

/// A call under way, and its result once that is known: it may be asked for more than once.
#[derive(Debug)]
pub(crate) struct Pending<A: Answer> {
    call: common::Pending<Stream, A>,
    result: Option<A::Output>,
}

impl<A: Answer<Output: Clone>> Pending<A> {
    pub(crate) fn new(call: common::Pending<Stream, A>) -> Self {
        Self { call, result: None }
    }

    pub(crate) fn wait(mut self) -> A::Output {
        loop {
            if let Some(result) = self.wait_until(None) {
                return result;
            }
        }
    }

    pub(crate) fn wait_timeout(&mut self, timeout: Duration) -> Option<A::Output> {
        self.wait_until(Instant::now().checked_add(timeout))
    }

    fn wait_until(&mut self, until: Option<Instant>) -> Option<A::Output> {
        if self.result.is_none() {
            let (handle, call) = self.call.parts();
            let reply = wait_until(handle.clients(), handle.main(), Input::Answer, until, |cx| {
                pin!(&mut *call).poll(cx)
            })?;
            self.result = Some(reply);
        }
        self.result.clone()
    }
}
