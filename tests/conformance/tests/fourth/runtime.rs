//! An adapter: all that `fibp_proto::client` needs to run on async-io and async-executor, which smol is made of.

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use async_executor::Executor;
use async_io::{Async, Timer};
use fibp_proto::Error;
use fibp_proto::client::{Runtime, SocketOptions};
use futures::FutureExt;

/// The executor that runs the connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Smol(Arc<Executor<'static>>);

impl Smol {
    /// Runs a future, and the connections meanwhile.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        async_io::block_on(self.0.run(future))
    }
}

impl Runtime for Smol {
    type Reader = Arc<Async<TcpStream>>;
    type Writer = Arc<Async<TcpStream>>;
    type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn current() -> Result<Self, Error> {
        let why = "an executor must be named: use Client::connect_on";
        Err(Error::new(fibp_proto::ErrorKind::Config, why))
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
        self.0.spawn(task).detach();
    }

    fn timer(&self, at: Instant) -> Self::Timer {
        Box::pin(Timer::at(at).map(drop))
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let name = (host.to_owned(), port);
        Ok(blocking::unblock(move || name.to_socket_addrs()).await?.collect())
    }

    async fn dial(&self, address: SocketAddr, options: SocketOptions) -> io::Result<(Self::Reader, Self::Writer)> {
        let stream = Async::<TcpStream>::connect(address).await?;
        stream.get_ref().set_nodelay(true)?;
        let socket = socket2::SockRef::from(stream.get_ref());
        if let Some(idle) = options.keepalive {
            socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(idle))?;
        }
        if let Some(size) = options.receive_buffer.and_then(|size| usize::try_from(size).ok()) {
            socket.set_recv_buffer_size(size)?;
        }
        let stream = Arc::new(stream);
        Ok((Arc::clone(&stream), stream))
    }

    fn poll_read(reader: &mut Self::Reader, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match io::Read::read(&mut reader.get_ref(), into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(reader.poll_readable(cx))?,
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_write(writer: &Self::Writer, cx: &mut Context<'_>, from: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            match io::Write::write_vectored(&mut writer.get_ref(), from) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(writer.poll_writable(cx))?,
                result => return Poll::Ready(result),
            }
        }
    }

    fn shut_down_write(writer: &Self::Writer) -> io::Result<()> {
        writer.get_ref().shutdown(Shutdown::Write)
    }
}
