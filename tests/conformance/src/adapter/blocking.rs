//! `fila-client-blocking`.

use std::pin::Pin;

use fibp_proto::event::Event;

use super::Adapter;

macro_rules! wait {
    ($call:expr) => {
        $call
    };
}

super::expand::wrap_adapter!(fila_client_blocking, wait);

/// The calling thread, and more when asked for.
pub(super) struct Blocking;

impl Adapter for Blocking {
    fn connect(&self, config: Config) -> Wait<'static, Result<Arc<dyn Client>, Error>> {
        Box::pin(connect(config))
    }

    fn spawn(&self, task: Wait<'static, ()>) {
        // Its result comes another way.
        drop(std::thread::spawn(|| futures::executor::block_on(task)));
    }

    fn block_on(&self, case: Pin<Box<dyn Future<Output = ()> + '_>>) {
        futures::executor::block_on(case);
    }

    fn sleep(&self, duration: Duration) -> Wait<'static, ()> {
        Box::pin(async move { std::thread::sleep(duration) })
    }

    /// There is no runtime: this is an ordinary client.
    fn orphan(&self, config: Config) -> Result<Arc<dyn Client>, Error> {
        futures::executor::block_on(connect(config))
    }

    fn is_async(&self) -> bool {
        false
    }
}

fn receipt(receipt: fila_client_blocking::AckReceipt) -> Wait<'static, Result<(), Error>> {
    Box::pin(async move { receipt.wait() })
}

impl Receipt for fila_client_blocking::Receipt {
    fn wait(self: Box<Self>) -> Wait<'static, Result<MessageId, SendError>> {
        Box::pin(async move { Self::wait(*self) })
    }

    fn wait_timeout(self: Box<Self>, timeout: Duration) -> Wait<'static, Option<Result<MessageId, SendError>>> {
        let mut receipt = *self;
        Box::pin(async move { Self::wait_timeout(&mut receipt, timeout) })
    }
}

impl Consumer for fila_client_blocking::Consumer {
    fn next(&mut self) -> Wait<'_, Taken> {
        Box::pin(async move { Iterator::next(self).map(|taken| taken.map(Held::boxed)) })
    }

    fn next_within(&mut self, timeout: Duration) -> Wait<'_, Option<Taken>> {
        Box::pin(async move {
            match self.recv_timeout(timeout) {
                Ok(taken) => taken.map(|delivery| Some(Ok(Held::boxed(delivery)))),
                // It has ended, and said why before.
                Err(error) if error.kind() == fibp_proto::ErrorKind::Closed => Some(None),
                Err(error) => Some(Some(Err(error))),
            }
        })
    }

    fn drain(&mut self) -> Wait<'_, ()> {
        Box::pin(async move { Self::drain(self) })
    }
}

impl Events for fila_client_blocking::Events {
    fn next(&mut self) -> Wait<'_, Option<Event>> {
        Box::pin(async move { Iterator::next(self) })
    }
}
