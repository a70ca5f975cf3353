//! Sequential calls as most programs make them: in `main` of `#[tokio::main]`, on all CPUs, next to a bare loop and to
//! the plainest client in the same runtime.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fibp_proto::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::oneshot;

use crate::fair::{FRAME_HEAD, Results, Sent, encode, frame};
use crate::null_server::Manner;
use crate::target::{Peer, Target, message};
use crate::{Options, Row, Start, compare};

/// Prints the row. On a thread of its own, which may run on all CPUs whatever the others do.
pub(crate) fn run(options: &Options) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let cpus: Vec<usize> = (0..affinity::get_core_num()).collect();
            if let Err(error) = affinity::set_thread_affinity(cpus) {
                eprintln!("pinned all the same: {error}");
            }
            sequential(options);
        });
    });
}

fn sequential(options: &Options) {
    let target = Target::null(Manner::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let client = runtime
        .block_on(fila_client_tokio::Client::connect(target.config.clone()))
        .expect("a client");
    let plainest = runtime.block_on(Plainest::connect(&target.peer));
    let mut bare = runtime.block_on(async { adopt(&target.peer) });
    let frame = target.peer.enqueue_frame(&target.queue, 1);
    let row = Row {
        name: "rtt_as_people_run_it",
        adapter: "tokio",
        unit: "calls/s",
    };
    compare(
        options,
        row,
        |slice| {
            runtime.block_on(async {
                let (start, mut calls) = (Start::now(), 0);
                while !slice.is_over(start.at, calls) {
                    client.enqueue(message(&target.queue)).await.expect("confirmed");
                    calls += 1;
                }
                start.rate(calls)
            })
        },
        |slice| {
            let mut answer = vec![0; FRAME_HEAD + 2 + 39];
            runtime.block_on(async {
                let (start, mut calls) = (Start::now(), 0);
                while !slice.is_over(start.at, calls) {
                    bare.write_all(&frame).await.expect("a server");
                    bare.read_exact(&mut answer).await.expect("a server");
                    calls += 1;
                }
                start.rate(calls)
            })
        },
        Some((
            "plainest",
            Box::new(|slice| {
                runtime.block_on(async {
                    let (start, mut calls) = (Start::now(), 0);
                    while !slice.is_over(start.at, calls) {
                        plainest.enqueue(message(&target.queue)).await.expect("confirmed");
                        calls += 1;
                    }
                    start.rate(calls)
                })
            }),
        )),
    );
}

fn adopt(peer: &Peer) -> TcpStream {
    let stream = peer.open().expect("a server");
    stream.set_nonblocking(true).expect("a connected socket");
    TcpStream::from_std(stream).expect("a runtime")
}

/// One task that reads, one map behind a lock, and callers who write themselves.
struct Plainest {
    waiting: Arc<Mutex<HashMap<u32, oneshot::Sender<Sent>>>>,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    next_id: AtomicU32,
}

impl Plainest {
    async fn connect(peer: &Peer) -> Self {
        let (mut reader, writer) = adopt(peer).into_split();
        let waiting: Arc<Mutex<HashMap<u32, oneshot::Sender<Sent>>>> = Arc::default();
        tokio::spawn({
            let waiting = waiting.clone();
            async move {
                let (mut buffer, mut filled) = (vec![0; 64 * 1024], 0);
                while let Ok(read @ 1..) = reader.read(&mut buffer[filled..]).await {
                    filled += read;
                    let mut at = 0;
                    while let Some((id, body)) = frame(&buffer[at..filled]) {
                        let end = at + FRAME_HEAD + body;
                        let result = Results::new(&buffer[at + FRAME_HEAD..end]).next();
                        let waiter = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                        if let (Some(waiter), Some(result)) = (waiter, result) {
                            let _gone = waiter.send(result);
                        }
                        at = end;
                    }
                    buffer.copy_within(at..filled, 0);
                    filled -= at;
                }
            }
        });
        Self {
            waiting,
            writer: tokio::sync::Mutex::new(writer),
            next_id: AtomicU32::new(1),
        }
    }

    async fn enqueue(&self, message: Message) -> Sent {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, sender);
        let mut frame = Vec::new();
        encode(&[message], id, &mut frame);
        self.writer.lock().await.write_all(&frame).await.expect("a server");
        answer.await.expect("a reader")
    }
}
