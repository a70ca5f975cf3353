//! What every handle has of its client: the way to make calls.

use std::time::Duration;

use super::runtime::Runtime;
use crate::client::clients::Handle;
use crate::error::Error;
use crate::requests::Settle;
use crate::typed::TypedRequest;

/// Makes calls, and keeps the client alive.
#[derive(Debug)]
pub(super) struct Caller<R: Runtime> {
    pub(super) handle: Handle<R::Writer>,
    /// Instead of the configured request timeout.
    pub(super) timeout: Option<Duration>,
}

impl<R: Runtime> Caller<R> {
    pub(super) async fn call<O: TypedRequest>(&self, request: O) -> Result<O::Output, Error> {
        let call = self.handle.main().call(R::now(), request.into_request(), self.timeout);
        O::output(*call.await?)
    }

    pub(super) async fn settle(&self, settle: Settle) -> Result<(), Error> {
        self.handle.main().settle(R::now(), settle, self.timeout).await
    }

    pub(super) async fn settle_many(&self, settles: Vec<Settle>) -> Vec<Result<(), Error>> {
        self.handle.main().settle_many(R::now(), settles, self.timeout).await
    }
}

// Derived, it would ask for sockets that can be cloned.
impl<R: Runtime> Clone for Caller<R> {
    fn clone(&self) -> Self {
        Self {
            handle: self.handle.clone(),
            timeout: self.timeout,
        }
    }
}
