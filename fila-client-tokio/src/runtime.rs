//! What the client needs of tokio.

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use fibp_proto::client::{Runtime, SocketOptions};
use fibp_proto::{Error, ErrorKind};
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::lookup_host;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep_until};

use crate::connect::connect;

/// A handle of a tokio runtime, by which the client's types name theirs: [`Client`](crate::Client) is
/// `fibp_proto::client::Client<Tokio>`.
#[derive(Debug, Clone)]
pub struct Tokio(Handle);

impl Tokio {
    /// The runtime behind `handle`, for [`Client::connect_on`](crate::Client::connect_on) where the calling task runs on
    /// another one, or on none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the runtime was built without IO or without time.
    pub fn new(handle: Handle) -> Result<Self, Error> {
        let entered = handle.enter();
        // tokio has no other way to ask: what is missing is a panic when it is used.
        check("time", || drop(tokio::time::sleep(std::time::Duration::ZERO)))?;
        check("IO", || {
            let socket = UdpSocket::bind("127.0.0.1:0").and_then(|socket| {
                socket.set_nonblocking(true)?;
                tokio::net::UdpSocket::from_std(socket)
            });
            // Where there is no such socket there may well be others.
            drop(socket);
        })?;
        drop(entered);
        Ok(Self(handle))
    }
}

/// Whether the runtime can do what `attempt` does.
fn check(what: &str, attempt: impl FnOnce()) -> Result<(), Error> {
    catch_unwind(AssertUnwindSafe(attempt)).map_err(|_| {
        let text = format!("the tokio runtime was built without {what}: see tokio::runtime::Builder::enable_all");
        Error::new(ErrorKind::Config, text)
    })
}

impl Runtime for Tokio {
    type Reader = OwnedReadHalf;
    type Writer = OwnedWriteHalf;
    type Timer = Pin<Box<Sleep>>;

    // The reactor knows what is readable whatever is looked at, and tokio asks the socket only then.
    const WAKE_AFTER_WRITE: bool = false;

    fn current() -> Result<Self, Error> {
        let handle = Handle::try_current()
            .map_err(|error| Error::new(ErrorKind::Config, error.to_string()).with_source(Arc::new(error)))?;
        Self::new(handle)
    }

    fn now() -> Instant {
        Instant::now()
    }

    fn seed() -> u64 {
        RandomState::new().build_hasher().finish()
    }

    fn var(name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn read_file(path: &str) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }

    fn timer(&self, at: Instant) -> Self::Timer {
        Box::pin(sleep_until(at.into()))
    }

    fn reset_timer(&self, timer: &mut Self::Timer, at: Instant) {
        timer.as_mut().reset(at.into());
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(lookup_host((host, port)).await?.collect())
    }

    async fn dial(&self, address: SocketAddr, options: SocketOptions) -> io::Result<(Self::Reader, Self::Writer)> {
        Ok(connect(address, options).await?.into_split())
    }

    fn poll_read(reader: &mut Self::Reader, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(into);
        let result = ready!(Pin::new(reader).poll_read(cx, &mut into));
        Poll::Ready(result.map(|()| into.filled().len()))
    }

    fn poll_write(writer: &Self::Writer, cx: &mut Context<'_>, from: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(writer.as_ref().poll_write_ready(cx))?;
            // Pending: not ready after all, which the socket knows by now.
            if let Poll::Ready(result) = Self::try_write(writer, cx, from) {
                return Poll::Ready(result);
            }
        }
    }

    fn try_write(writer: &Self::Writer, _: &mut Context<'_>, from: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let result = match from {
            [one] => writer.try_write(one),
            many => writer.try_write_vectored(many),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }

    fn shut_down_write(writer: &Self::Writer) -> io::Result<()> {
        SockRef::from(writer.as_ref()).shutdown(Shutdown::Write)
    }
}
