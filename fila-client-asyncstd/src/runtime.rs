//! What the client needs of async-std.

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use async_std::io::{Read, Write};
use async_std::net::{TcpStream, ToSocketAddrs};
use async_std::task;
use fibp_proto::Error;
use fibp_proto::client::{Runtime, SocketOptions};

use crate::connect::connect;

/// async-std's global executor, by which the client's types name their runtime: [`Client`](crate::Client) is
/// `fibp_proto::client::Client<AsyncStd>`.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsyncStd;

impl Runtime for AsyncStd {
    type Reader = TcpStream;
    type Writer = TcpStream;
    type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn current() -> Result<Self, Error> {
        Ok(Self)
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
        task::spawn(task);
    }

    fn timer(&self, at: Instant) -> Self::Timer {
        Box::pin(task::sleep(at.saturating_duration_since(Instant::now())))
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs().await?.collect())
    }

    async fn dial(&self, address: SocketAddr, options: SocketOptions) -> io::Result<(Self::Reader, Self::Writer)> {
        let stream = connect(address, options).await?;
        Ok((stream.clone(), stream))
    }

    fn poll_read(reader: &mut Self::Reader, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(reader).poll_read(cx, into)
    }

    fn poll_write(mut writer: &Self::Writer, cx: &mut Context<'_>, from: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match from {
            [one] => Pin::new(&mut writer).poll_write(cx, one),
            many => Pin::new(&mut writer).poll_write_vectored(cx, many),
        }
    }

    fn shut_down_write(writer: &Self::Writer) -> io::Result<()> {
        writer.shutdown(Shutdown::Write)
    }
}
