//! `fila-client-tokio`.

use std::pin::Pin;

use tokio::runtime::{Builder, Handle, Runtime};

use super::Adapter;

macro_rules! wait {
    ($call:expr) => {
        $call.await
    };
}

super::expand::wrap_adapter!(fila_client_tokio, wait);
super::expand::wrap_async!(fila_client_tokio, tokio_timeout);

async fn tokio_timeout<T>(timeout: Duration, future: impl Future<Output = T> + Send) -> Option<T> {
    tokio::time::timeout(timeout, future).await.ok()
}

/// A runtime with the adapter on it.
pub(super) struct Tokio(Runtime);

impl Tokio {
    pub(super) fn current_thread() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build();
        Self(runtime.expect("a runtime"))
    }

    pub(super) fn multi_thread() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self(runtime.expect("a runtime"))
    }
}

impl Adapter for Tokio {
    fn connect(&self, config: Config) -> Wait<'static, Result<Arc<dyn Client>, Error>> {
        Box::pin(connect(config))
    }

    fn spawn(&self, task: Wait<'static, ()>) {
        // Its result comes another way.
        drop(self.0.spawn(task));
    }

    fn block_on(&self, case: Pin<Box<dyn Future<Output = ()> + '_>>) {
        self.0.block_on(case);
    }

    fn sleep(&self, duration: Duration) -> Wait<'static, ()> {
        Box::pin(async move { tokio::time::sleep(duration).await })
    }

    fn orphan(&self, config: Config) -> Result<Arc<dyn Client>, Error> {
        assert!(Handle::try_current().is_err(), "outside any runtime");
        // A runtime of the same kind that ends with this call.
        let runtime = match self.0.handle().runtime_flavor() {
            tokio::runtime::RuntimeFlavor::CurrentThread => Self::current_thread(),
            _ => Self::multi_thread(),
        };
        runtime.0.block_on(connect(config))
    }

    fn is_async(&self) -> bool {
        true
    }
}
