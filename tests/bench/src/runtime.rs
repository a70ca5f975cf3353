//! The asynchronous adapters and their runtimes, without the boxes of the conformance suite.

use std::io;
use std::net::TcpStream;

use fibp_proto::config::Config;
use fibp_proto::event::Stats;
use fibp_proto::{Error, Message, QueueName};

use crate::bare::FrameCounter;
use crate::target::Peer;
use crate::{Rate, Slice, Start};

/// What takes messages.
pub(super) trait Enqueue: Clone + Send + Sync + 'static {
    /// Whether it was confirmed.
    fn enqueue(&self, message: Message) -> impl Future<Output = bool> + Send;
    /// How many results there are.
    fn enqueue_many(&self, messages: Vec<Message>) -> impl Future<Output = usize> + Send;
}

/// An asynchronous adapter's client.
pub(super) trait AsyncClient: Enqueue {
    type Consumer: AsyncConsumer;

    fn connect(config: Config) -> impl Future<Output = Result<Self, Error>> + Send;
    fn consume(&self, queue: &str) -> impl Future<Output = Result<Self::Consumer, Error>> + Send;
    fn stats(&self) -> Stats;
}

/// An asynchronous adapter's consumer.
pub(super) trait AsyncConsumer: Send + 'static {
    /// What settles one delivery.
    type Acker: Send + 'static;

    /// The next delivery's way to be settled; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Option<Self::Acker>> + Send;
    fn ack(acker: Self::Acker) -> impl Future<Output = bool> + Send;
    /// Acks without waiting for the answer.
    fn ack_queued(acker: Self::Acker);
}

/// A runtime, and the adapter that runs on it.
pub(super) trait AsyncRuntime: Clone + Send + Sync + 'static {
    type Client: AsyncClient;
    type Stream: Send + 'static;

    fn name(&self) -> &'static str;
    fn block_on<F: Future>(&self, future: F) -> F::Output;
    fn spawn<F>(&self, future: F) -> impl Future<Output = F::Output> + Send + 'static
    where
        F: Future<Output: Send + 'static> + Send + 'static;
    fn adopt(&self, stream: TcpStream) -> io::Result<Self::Stream>;
    fn read(stream: &mut Self::Stream, bytes: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;
    fn write_all(stream: &mut Self::Stream, bytes: &[u8]) -> impl Future<Output = io::Result<()>> + Send;
}

macro_rules! impl_client {
    ($krate:ident) => {
        impl Enqueue for $krate::Client {
            async fn enqueue(&self, message: Message) -> bool {
                $krate::Client::enqueue(self, message).await.is_ok()
            }
            async fn enqueue_many(&self, messages: Vec<Message>) -> usize {
                $krate::Client::enqueue_many(self, messages).await.len()
            }
        }

        impl AsyncClient for $krate::Client {
            type Consumer = $krate::Consumer;

            fn connect(config: Config) -> impl Future<Output = Result<Self, Error>> + Send {
                $krate::Client::connect(config)
            }
            fn consume(&self, queue: &str) -> impl Future<Output = Result<Self::Consumer, Error>> + Send {
                $krate::Client::consume(self, queue)
            }
            fn stats(&self) -> Stats {
                $krate::Client::stats(self)
            }
        }

        impl AsyncConsumer for $krate::Consumer {
            type Acker = $krate::Delivery;

            async fn next(&mut self) -> Option<Self::Acker> {
                $krate::Consumer::next(self).await.and_then(Result::ok)
            }
            async fn ack(acker: Self::Acker) -> bool {
                acker.ack().await.is_ok()
            }
            fn ack_queued(acker: Self::Acker) {
                drop(acker.ack_queued());
            }
        }
    };
}

impl_client!(fila_client_tokio);
impl_client!(fila_client_asyncstd);

/// tokio, current-thread or multi-thread.
#[derive(Debug, Clone)]
pub(super) struct OnTokio {
    name: &'static str,
    runtime: std::sync::Arc<tokio::runtime::Runtime>,
}

impl OnTokio {
    /// # Panics
    ///
    /// The runtime cannot be built.
    pub(super) fn current_thread() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self {
            name: "tokio",
            runtime: std::sync::Arc::new(runtime.expect("a runtime")),
        }
    }

    /// # Panics
    ///
    /// The runtime cannot be built.
    pub(super) fn multi_thread() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        Self {
            name: "tokio_multi",
            runtime: std::sync::Arc::new(runtime.expect("a runtime")),
        }
    }
}

impl AsyncRuntime for OnTokio {
    type Client = fila_client_tokio::Client;
    type Stream = tokio::net::TcpStream;

    fn name(&self) -> &'static str {
        self.name
    }
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
    fn spawn<F>(&self, future: F) -> impl Future<Output = F::Output> + Send + 'static
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let task = self.runtime.spawn(future);
        async move { task.await.expect("the task does not panic") }
    }
    fn adopt(&self, stream: TcpStream) -> io::Result<Self::Stream> {
        stream.set_nonblocking(true)?;
        let _inside = self.runtime.enter();
        tokio::net::TcpStream::from_std(stream)
    }
    async fn read(stream: &mut Self::Stream, bytes: &mut [u8]) -> io::Result<usize> {
        tokio::io::AsyncReadExt::read(stream, bytes).await
    }
    async fn write_all(stream: &mut Self::Stream, bytes: &[u8]) -> io::Result<()> {
        tokio::io::AsyncWriteExt::write_all(stream, bytes).await
    }
}

/// async-std's process-wide runtime.
#[derive(Debug, Clone)]
pub(super) struct OnAsyncStd;

impl AsyncRuntime for OnAsyncStd {
    type Client = fila_client_asyncstd::Client;
    type Stream = async_std::net::TcpStream;

    fn name(&self) -> &'static str {
        "asyncstd"
    }
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        async_std::task::block_on(future)
    }
    fn spawn<F>(&self, future: F) -> impl Future<Output = F::Output> + Send + 'static
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        async_std::task::spawn(future)
    }
    fn adopt(&self, stream: TcpStream) -> io::Result<Self::Stream> {
        Ok(stream.into())
    }
    async fn read(stream: &mut Self::Stream, bytes: &mut [u8]) -> io::Result<usize> {
        futures::AsyncReadExt::read(stream, bytes).await
    }
    async fn write_all(stream: &mut Self::Stream, bytes: &[u8]) -> io::Result<()> {
        futures::AsyncWriteExt::write_all(stream, bytes).await
    }
}

/// Runs a future as a task: where the work of a server is done.
pub(super) fn in_task<R: AsyncRuntime, F>(runtime: &R, future: F) -> F::Output
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    runtime.block_on(runtime.spawn(future))
}

/// A connection without a client, in tasks of a runtime. As [`crate::bare::Bare`], which is explained there.
pub(super) struct AsyncBare<R: AsyncRuntime> {
    runtime: R,
    peer: Peer,
    /// In the task while one runs.
    stream: Option<Stream<R>>,
}

impl<R: AsyncRuntime> AsyncBare<R> {
    /// # Panics
    ///
    /// The server refuses.
    pub(super) fn connect(runtime: &R, peer: &Peer) -> Self {
        let stream = peer.open().expect("a server");
        Self {
            runtime: runtime.clone(),
            peer: peer.clone(),
            stream: Some(Stream {
                stream: runtime.adopt(stream).expect("a socket"),
                counter: FrameCounter::default(),
                buffer: vec![0; 256 * 1024],
            }),
        }
    }

    /// # Panics
    ///
    /// The server closes.
    pub(super) fn pipeline(&mut self, frame: &[u8], messages: u64, window: usize, slice: Slice) -> Rate {
        let mut stream = self.stream.take().expect("the last task gave it back");
        let frame = frame.to_vec();
        let (stream, rate) = in_task(&self.runtime, async move {
            let rate = stream.pipeline(&frame, messages, window, slice).await;
            (stream, rate)
        });
        self.stream = Some(stream);
        rate
    }

    /// # Panics
    ///
    /// The server closes.
    pub(super) fn consume(&mut self, queue: &QueueName) {
        let frame = self.peer.consume_frame(queue);
        let stream = self.stream.as_mut().expect("the last task gave it back");
        let sent = self.runtime.block_on(R::write_all(&mut stream.stream, &frame));
        sent.expect("a server");
    }

    /// # Panics
    ///
    /// The server closes.
    pub(super) fn count(&mut self, slice: Slice) -> Rate {
        let mut stream = self.stream.take().expect("the last task gave it back");
        let peer = self.peer.clone();
        let (stream, rate) = in_task(&self.runtime, async move {
            let rate = stream.count(&peer, slice).await;
            (stream, rate)
        });
        self.stream = Some(stream);
        rate
    }
}

struct Stream<R: AsyncRuntime> {
    stream: R::Stream,
    counter: FrameCounter,
    buffer: Vec<u8>,
}

impl<R: AsyncRuntime> Stream<R> {
    async fn read(&mut self) -> usize {
        let read = R::read(&mut self.stream, &mut self.buffer).await.expect("a server");
        assert!(read > 0, "the server closed");
        read
    }

    async fn pipeline(&mut self, frame: &[u8], messages: u64, window: usize, slice: Slice) -> Rate {
        let frames = frame.repeat(window);
        let start = Start::now();
        let mut answered = 0;
        R::write_all(&mut self.stream, &frames).await.expect("a server");
        let mut in_flight = window;
        while in_flight > 0 {
            let read = self.read().await;
            let done = self.counter.count(&self.buffer[..read]);
            answered += done as u64 * messages;
            if !slice.is_over(start.at, answered) {
                R::write_all(&mut self.stream, &frames[..done * frame.len()])
                    .await
                    .expect("a server");
            } else {
                in_flight -= done;
            }
        }
        start.rate(answered)
    }

    async fn count(&mut self, peer: &Peer, slice: Slice) -> Rate {
        let start = Start::now();
        let mut deliveries = 0;
        while !slice.is_over(start.at, deliveries) {
            let read = self.read().await;
            deliveries += self.counter.deliveries(peer, &self.buffer[..read]);
        }
        start.rate(deliveries)
    }
}
