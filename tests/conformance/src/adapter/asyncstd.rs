//! `fila-client-asyncstd`.

use std::pin::Pin;

use super::Adapter;

macro_rules! wait {
    ($call:expr) => {
        $call.await
    };
}

super::expand::wrap_adapter!(fila_client_asyncstd, wait);
super::expand::wrap_async!(fila_client_asyncstd, async_std_timeout);

async fn async_std_timeout<T>(timeout: Duration, future: impl Future<Output = T> + Send) -> Option<T> {
    async_std::future::timeout(timeout, future).await.ok()
}

/// The process-wide runtime with the adapter on it.
pub(super) struct AsyncStd;

impl Adapter for AsyncStd {
    fn connect(&self, config: Config) -> Wait<'static, Result<Arc<dyn Client>, Error>> {
        Box::pin(connect(config))
    }

    fn spawn(&self, task: Wait<'static, ()>) {
        // Its result comes another way.
        drop(async_std::task::spawn(task));
    }

    fn block_on(&self, case: Pin<Box<dyn Future<Output = ()> + '_>>) {
        async_std::task::block_on(case);
    }

    fn sleep(&self, duration: Duration) -> Wait<'static, ()> {
        Box::pin(async_std::task::sleep(duration))
    }

    /// The runtime cannot be ended: this is an ordinary client.
    fn orphan(&self, config: Config) -> Result<Arc<dyn Client>, Error> {
        async_std::task::block_on(connect(config))
    }

    fn is_async(&self) -> bool {
        true
    }
}
