//! What the asynchronous client needs of a runtime.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::client::clients::Handle;
use crate::config::Settings;
use crate::error::Error;

/// An asynchronous runtime: everything that the client asks of the world outside.
///
/// Implement it on a small handle, and [`Client<YourRuntime>`](crate::client::Client) is a client for that runtime. All IO,
/// time and randomness of the client passes through these methods; the client itself does none.
///
/// # Contract
///
/// * The poll methods follow [`Future::poll`]: after `Poll::Pending` the waker of the context is woken when trying again
///   is worth it. An error of kind [`WouldBlock`](io::ErrorKind::WouldBlock) is never returned: it is `Poll::Pending`.
/// * The client polls reader, writer and timer of one connection from one task, the one given to [`spawn`](Self::spawn).
///   Only [`try_write`](Self::try_write) is called by other tasks, with the waker of that one.
/// * If the runtime ends, it drops the tasks it was given. Everybody who waits for one of their connections then gets an
///   error.
pub trait Runtime: Clone + fmt::Debug + Send + Sync + Unpin + 'static {
    /// The reading half of a TCP connection.
    type Reader: Send + Unpin + 'static;
    /// The writing half of a TCP connection. When both halves are dropped, the connection is closed.
    type Writer: fmt::Debug + Send + Sync + 'static;
    /// Completes at an instant.
    type Timer: Future<Output = ()> + Send + Unpin + 'static;

    /// Whether the task that reads a connection is woken after each write of a caller, to look whether the answer is there.
    /// Worth it where waiting for a socket takes system calls of its own, which an early look may spare. Otherwise it is a
    /// wake-up for nothing.
    const WAKE_AFTER_WRITE: bool = true;

    /// The runtime of the calling task, or the one global runtime where there is such a thing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if there is none, or it can do no IO or keep no time. This is where
    /// that is found out: later it would be a panic in a task that nobody sees.
    fn current() -> Result<Self, Error>;

    /// The clock.
    fn now() -> Instant;

    /// A random seed: another one at each call, and in each process.
    fn seed() -> u64;

    /// The value of an environment variable, if it is set.
    fn var(name: &str) -> Option<OsString>;

    /// The contents of a file. May block: called once, for a client that is made from environment variables that name files.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    fn read_file(path: &str) -> io::Result<Vec<u8>>;

    /// Runs a task. Dropping its handle, if there is one, must not end it. The task holds a clone of this runtime until its
    /// connection is closed.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);

    /// A timer that completes at an instant, or at once if that has passed.
    fn timer(&self, at: Instant) -> Self::Timer;

    /// Makes a timer complete at another instant.
    fn reset_timer(&self, timer: &mut Self::Timer, at: Instant) {
        *timer = self.timer(at);
    }

    /// Resolves a host name without blocking the task. The order of the addresses is the order of the attempts.
    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Opens a TCP connection with Nagle's algorithm off. The client gives up by dropping the future, which ends the attempt.
    fn dial(
        &self,
        address: SocketAddr,
        options: SocketOptions,
    ) -> impl Future<Output = io::Result<(Self::Reader, Self::Writer)>> + Send;

    /// Reads into `into`; 0 bytes mean the end of the stream.
    fn poll_read(reader: &mut Self::Reader, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes some of `from`, which is not empty, and returns how many bytes.
    fn poll_write(writer: &Self::Writer, cx: &mut Context<'_>, from: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Writes what the socket takes at once. Called within the poll of a task that makes a call, with the context of the
    /// connection's own task, which is woken if anything is left, and then writes it: this method need not arrange for a
    /// wake-up.
    fn try_write(writer: &Self::Writer, cx: &mut Context<'_>, from: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Self::poll_write(writer, cx, from)
    }

    /// Shuts down the writing half, so that the peer reads the end of the stream.
    ///
    /// # Errors
    ///
    /// Those of the socket. They are ignored: whatever is wrong with the connection, reading shows it too.
    fn shut_down_write(writer: &Self::Writer) -> io::Result<()>;
}

/// What every handle has of its client.
pub(super) type HandleOf<R> = Handle<<R as Runtime>::Writer>;

/// Options of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SocketOptions {
    /// `SO_RCVBUF` in bytes, to be set before connecting where the runtime can, so that the TCP window is scaled to it.
    pub receive_buffer: Option<u32>,
    /// Silence after which the operating system probes the connection; `None`: never.
    pub keepalive: Option<Duration>,
}

impl SocketOptions {
    /// What the settings say, and the size of the receive buffer.
    #[must_use]
    pub fn new(settings: &Settings, receive_buffer: Option<u32>) -> Self {
        Self {
            receive_buffer,
            keepalive: settings.keepalive_idle(),
        }
    }
}
