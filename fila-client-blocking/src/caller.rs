//! What every handle has of its client: the way to make calls and to wait for them.

use std::pin::pin;
use std::time::{Duration, Instant};

use fibp_proto::client::{Answer, Handle, Input, RequestCall};
use fibp_proto::requests::Settle;
use fibp_proto::{Error, TypedRequest};

use crate::connect::Stream;
use crate::wait::{wait, wait_until};

/// Makes calls, and keeps the client alive.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) handle: Handle<Stream>,
    /// Instead of the configured request timeout.
    pub(crate) timeout: Option<Duration>,
}

impl Caller {
    pub(crate) fn call<O: TypedRequest>(&self, request: O) -> Result<O::Output, Error> {
        let main = self.handle.main();
        let call = main.call(Instant::now(), request.into_request(), self.timeout);
        O::output(*self.wait(call)?)
    }

    pub(crate) fn settle(&self, settle: Settle) -> Result<(), Error> {
        self.wait(self.handle.main().settle(Instant::now(), settle, self.timeout))
    }

    pub(crate) fn settle_many(&self, settles: Vec<Settle>) -> Vec<Result<(), Error>> {
        self.wait(self.handle.main().settle_many(Instant::now(), settles, self.timeout))
    }

    pub(crate) fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        wait(self.handle.clients(), self.handle.main(), answer)
    }
}

/// A call to a client's requests whose result is waited for later, if at all.
#[derive(Debug)]
pub(crate) struct Pending<A: Answer> {
    caller: Caller,
    call: RequestCall<Stream, A>,
    result: Option<A::Output>,
}

impl<A: Answer<Output: Clone>> Pending<A> {
    pub(crate) fn new(caller: Caller, call: RequestCall<Stream, A>) -> Self {
        Self {
            caller,
            call,
            result: None,
        }
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
            let Caller { handle, .. } = &self.caller;
            let call = &mut self.call;
            let reply = wait_until(handle.clients(), handle.main(), Input::Answer, until, |cx| {
                pin!(&mut *call).poll(cx)
            })?;
            self.result = Some(reply);
        }
        self.result.clone()
    }
}
