//! The figures: the rows of the table "Budgets" of the design, and what explains them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fibp_proto::config::Config;
use fibp_proto::tls::Tls;

use super::bare::{Bare, message};
use super::null_server::{self, enqueue_frame};
use super::runtime::{AsyncBare, AsyncClient, AsyncConsumer, AsyncRuntime, OnAsyncStd, OnTokio};
use super::{Options, Rate, compare, print_figure, print_value, threads, tls};
use crate::broker::P1;
use crate::memory;

/// How many callers share a client in the figure `fanin`.
const CALLERS: usize = 64;
/// How many messages one `enqueue_many` takes.
const MANY: u64 = 100;
/// How many of those are in flight.
const MANY_IN_FLIGHT: usize = 8;
/// How many workers settle one delivery after another.
const WORKERS: usize = 16;

/// Prints every figure that is asked for.
pub fn run(options: &Options) {
    let addr = null_server::start();
    let tokio = OnTokio::current_thread();
    let tokio_multi = OnTokio::multi_thread();
    rtt(options, addr, &tokio);
    fanin(options, addr, &tokio, &tokio_multi);
    if options.wants("tasks1000") {
        many_tasks(options, addr, &tokio);
        many_tasks(options, addr, &OnAsyncStd);
    }
    many(options, addr, &tokio);
    if options.wants("consume") {
        consume(options, addr, &tokio);
        consume(options, addr, &OnAsyncStd);
        consume_blocking(options, addr);
    }
    if options.wants("tls") {
        over_tls(options, &tokio);
    }
    if options.wants("acks") {
        acks(options, addr, &tokio);
        acks(options, addr, &OnAsyncStd);
        acks_blocking(options, addr);
    }
    if options.wants("inflight") {
        super::in_flight::run(options);
    }
    if options.wants("idle") {
        idle(options, &tokio);
    }
}

fn connect<R: AsyncRuntime>(runtime: &R, addr: SocketAddr) -> R::Client {
    let config = Config::new(addr).dialect(P1);
    runtime.block_on(R::Client::connect(config)).expect("a client")
}

/// Sequential calls.
fn rtt(options: &Options, addr: SocketAddr, tokio: &OnTokio) {
    if !options.wants("rtt") {
        return;
    }
    let mut bare = Bare::connect(addr);
    let blocking = threads::client(addr);
    let unit = "calls/s";
    compare(
        options,
        "rtt",
        "blocking",
        unit,
        |slice| threads::sequential(&blocking, slice),
        |slice| bare.ping_pong(slice),
    );
    let client = connect(tokio, addr);
    compare(
        options,
        "rtt",
        "tokio",
        unit,
        |slice| tokio.block_on(sequential(&client, slice)),
        |slice| bare.ping_pong(slice),
    );
    let frame = enqueue_frame("bench", 1);
    let client = connect(&OnAsyncStd, addr);
    let mut bare_asyncstd = OnAsyncStd.block_on(AsyncBare::<OnAsyncStd>::connect(addr));
    compare(
        options,
        "rtt",
        "asyncstd",
        unit,
        |slice| OnAsyncStd.block_on(sequential(&client, slice)),
        |slice| OnAsyncStd.block_on(bare_asyncstd.pipeline(&frame, 1, 1, slice)),
    );
    // How fast the runtimes are without a client.
    let mut bare_tokio = tokio.block_on(AsyncBare::<OnTokio>::connect(addr));
    compare(
        options,
        "rtt_bare_loop",
        "tokio",
        unit,
        |slice| tokio.block_on(bare_tokio.pipeline(&frame, 1, 1, slice)),
        |slice| bare.ping_pong(slice),
    );
    compare(
        options,
        "rtt_bare_loop",
        "asyncstd",
        unit,
        |slice| OnAsyncStd.block_on(bare_asyncstd.pipeline(&frame, 1, 1, slice)),
        |slice| bare.ping_pong(slice),
    );
}

async fn sequential<C: AsyncClient>(client: &C, slice: Duration) -> Rate {
    let start = Instant::now();
    let mut calls = 0;
    while start.elapsed() < slice {
        client.enqueue(message()).await.expect("confirmed");
        calls += 1;
    }
    Rate::since(start, calls)
}

/// Runs `callers` tasks that call in a loop until the slice is over. `call` says how many messages it sent.
fn tasks<R, F>(runtime: &R, client: &R::Client, callers: usize, slice: Duration, call: fn(R::Client) -> F) -> Rate
where
    R: AsyncRuntime,
    F: Future<Output = u64> + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let messages = runtime.block_on(async {
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                let (client, stop) = (client.clone(), stop.clone());
                runtime.spawn(async move {
                    let mut messages = 0;
                    while !stop.load(Ordering::Relaxed) {
                        messages += call(client.clone()).await;
                        if start.elapsed() >= slice {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                    messages
                })
            })
            .collect();
        let mut messages = 0;
        for task in tasks {
            messages += task.await;
        }
        messages
    });
    Rate::since(start, messages)
}

async fn enqueue_one<C: AsyncClient>(client: C) -> u64 {
    client.enqueue(message()).await.expect("confirmed");
    1
}

async fn enqueue_hundred<C: AsyncClient>(client: C) -> u64 {
    let messages = (0..MANY).map(|_| message()).collect();
    client.enqueue_many(messages).await.len() as u64
}

/// Many callers of single calls.
fn fanin(options: &Options, addr: SocketAddr, tokio: &OnTokio, tokio_multi: &OnTokio) {
    if !options.wants("fanin") {
        return;
    }
    fanin_async(options, addr, tokio);
    fanin_async(options, addr, tokio_multi);
    fanin_async(options, addr, &OnAsyncStd);
    let client = threads::client(addr);
    let line = threads::WakeUps::start();
    compare(
        options,
        "fanin",
        "blocking",
        "calls/s",
        |slice| {
            let client = client.clone();
            threads::concurrently(CALLERS, slice, move || {
                client.enqueue(message()).expect("confirmed");
                1
            })
        },
        |slice| {
            let line = line.clone();
            threads::concurrently(CALLERS, slice, move || {
                line.call();
                1
            })
        },
    );
    line.stop();
    print_batch("fanin_batch", "blocking", client.stats());
}

fn fanin_async<R: AsyncRuntime>(options: &Options, addr: SocketAddr, runtime: &R) {
    let client = connect(runtime, addr);
    let frame = enqueue_frame("bench", 1);
    let mut bare = runtime.block_on(AsyncBare::<R>::connect(addr));
    compare(
        options,
        "fanin",
        runtime.name(),
        "calls/s",
        |slice| tasks(runtime, &client, CALLERS, slice, enqueue_one),
        |slice| runtime.block_on(bare.pipeline(&frame, 1, CALLERS, slice)),
    );
    print_batch("fanin_batch", runtime.name(), client.stats());
}

fn print_batch(name: &str, adapter: &str, stats: fibp_proto::Stats) {
    let per_frame = stats.messages_confirmed as f64 / stats.enqueue_frames.max(1) as f64;
    print_value(name, adapter, "messages/frame", per_frame);
}

/// A thousand tasks of single calls.
fn many_tasks<R: AsyncRuntime>(options: &Options, addr: SocketAddr, runtime: &R) {
    let client = connect(runtime, addr);
    let frame = enqueue_frame("bench", MANY as usize);
    let mut bare = runtime.block_on(AsyncBare::<R>::connect(addr));
    compare(
        options,
        "tasks1000",
        runtime.name(),
        "messages/s",
        |slice| tasks(runtime, &client, 1000, slice, enqueue_one),
        |slice| runtime.block_on(bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice)),
    );
    print_batch("tasks1000_batch", runtime.name(), client.stats());
}

/// Lists of a hundred.
fn many(options: &Options, addr: SocketAddr, tokio: &OnTokio) {
    if options.wants("many") {
        many_async(options, addr, tokio);
        many_async(options, addr, &OnAsyncStd);
        many_blocking(options, addr);
    }
}

fn many_async<R: AsyncRuntime>(options: &Options, addr: SocketAddr, runtime: &R) {
    let client = connect(runtime, addr);
    let frame = enqueue_frame("bench", MANY as usize);
    let mut bare = runtime.block_on(AsyncBare::<R>::connect(addr));
    let unit = "messages/s";
    compare(
        options,
        "many",
        runtime.name(),
        unit,
        |slice| prepared(runtime, &client, slice),
        |slice| runtime.block_on(bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice)),
    );
    compare(
        options,
        "many_built_inside",
        runtime.name(),
        unit,
        |slice| tasks(runtime, &client, MANY_IN_FLIGHT, slice, enqueue_hundred),
        |slice| runtime.block_on(bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice)),
    );
}

/// `enqueue_many` with lists that were built before the clock runs.
fn prepared<R: AsyncRuntime>(runtime: &R, client: &R::Client, slice: Duration) -> Rate {
    // Enough for the slice, found out by a first guess: what is left over was built for nothing, outside the time.
    const LISTS: usize = 60;
    let mut total = Rate {
        operations: 0,
        elapsed: Duration::ZERO,
    };
    while total.elapsed < slice {
        let lists: Vec<Vec<Vec<_>>> = (0..MANY_IN_FLIGHT)
            .map(|_| (0..LISTS).map(|_| (0..MANY).map(|_| message()).collect()).collect())
            .collect();
        let start = Instant::now();
        runtime.block_on(async {
            let tasks: Vec<_> = lists
                .into_iter()
                .map(|lists| {
                    let client = client.clone();
                    runtime.spawn(async move {
                        for list in lists {
                            assert_eq!(client.enqueue_many(list).await.len() as u64, MANY);
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await;
            }
        });
        total.elapsed += start.elapsed();
        total.operations += MANY * (LISTS * MANY_IN_FLIGHT) as u64;
    }
    total
}

fn many_blocking(options: &Options, addr: SocketAddr) {
    let client = threads::client(addr);
    let frame = enqueue_frame("bench", MANY as usize);
    let mut bare = Bare::connect(addr);
    compare(
        options,
        "many_built_inside",
        "blocking",
        "messages/s",
        |slice| {
            let client = client.clone();
            threads::concurrently(MANY_IN_FLIGHT, slice, move || {
                client.enqueue_many((0..MANY).map(|_| message()).collect()).len() as u64
            })
        },
        |slice| bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice),
    );
}

/// Deliveries that are not acked.
fn consume<R: AsyncRuntime>(options: &Options, addr: SocketAddr, runtime: &R) {
    let client = connect(runtime, addr);
    let mut consumer = runtime.block_on(client.consume("bench")).expect("a consumer");
    let mut bare = runtime.block_on(AsyncBare::<R>::connect(addr));
    runtime.block_on(bare.consume());
    compare(
        options,
        "consume",
        runtime.name(),
        "deliveries/s",
        |slice| {
            runtime.block_on(async {
                let start = Instant::now();
                let mut deliveries = 0;
                while start.elapsed() < slice {
                    for _ in 0..64 {
                        drop(consumer.next().await.expect("the server goes on"));
                    }
                    deliveries += 64;
                }
                Rate::since(start, deliveries)
            })
        },
        |slice| runtime.block_on(bare.count(slice)),
    );
}

fn consume_blocking(options: &Options, addr: SocketAddr) {
    let client = threads::client(addr);
    let mut consumer = client.consume("bench").expect("a consumer");
    let mut bare = Bare::connect(addr);
    bare.consume();
    compare(
        options,
        "consume",
        "blocking",
        "deliveries/s",
        |slice| {
            let start = Instant::now();
            let mut deliveries = 0;
            while start.elapsed() < slice {
                for _ in 0..64 {
                    drop(consumer.next().expect("the server goes on"));
                }
                deliveries += 64;
            }
            Rate::since(start, deliveries)
        },
        |slice| bare.count(slice),
    );
}

/// Whole frames through TLS.
fn over_tls(options: &Options, tokio: &OnTokio) {
    let server = tls::start();
    over_tls_async(options, &server, tokio);
    over_tls_async(options, &server, &OnAsyncStd);
    let client = fila_client_blocking::Client::connect(tls_config(&server)).expect("a client");
    let frame = enqueue_frame("bench", MANY as usize);
    let mut bare = tls::BareTls::connect(&server);
    compare(
        options,
        "tls",
        "blocking",
        "messages/s",
        |slice| {
            let client = client.clone();
            threads::concurrently(MANY_IN_FLIGHT, slice, move || {
                client.enqueue_many((0..MANY).map(|_| message()).collect()).len() as u64
            })
        },
        |slice| bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice),
    );
}

fn tls_config(server: &tls::TlsServer) -> Config {
    let tls = Tls::ca_pem(&server.ca_pem).server_name("localhost");
    Config::new(server.addr).dialect(P1).tls(tls)
}

fn over_tls_async<R: AsyncRuntime>(options: &Options, server: &tls::TlsServer, runtime: &R) {
    let client = runtime
        .block_on(R::Client::connect(tls_config(server)))
        .expect("a client");
    let frame = enqueue_frame("bench", MANY as usize);
    let mut bare = tls::BareTls::connect(server);
    compare(
        options,
        "tls",
        runtime.name(),
        "messages/s",
        |slice| prepared(runtime, &client, slice),
        |slice| bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice),
    );
}

/// Workers that ack one delivery after another: how many acks share a frame.
fn acks<R: AsyncRuntime>(options: &Options, addr: SocketAddr, runtime: &R) {
    let client = connect(runtime, addr);
    let mut consumer = runtime.block_on(client.consume("bench")).expect("a consumer");
    let slice = options.slice();
    let start = Instant::now();
    runtime.block_on(async {
        let (lane, work) = async_std::channel::bounded(WORKERS);
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                let work = work.clone();
                runtime.spawn(async move {
                    while let Ok(acker) = work.recv().await {
                        assert!(<R::Client as AsyncClient>::Consumer::ack(acker).await);
                    }
                })
            })
            .collect();
        while start.elapsed() < slice {
            let acker = consumer.next().await.expect("the server goes on");
            lane.send(acker).await.expect("the workers run");
        }
        drop((lane, work));
        for worker in workers {
            worker.await;
        }
    });
    print_acks(runtime.name(), client.stats(), start.elapsed());
}

fn acks_blocking(options: &Options, addr: SocketAddr) {
    let client = threads::client(addr);
    let mut consumer = client.consume("bench").expect("a consumer");
    let slice = options.slice();
    let start = Instant::now();
    let (lane, work) = async_std::channel::bounded::<fila_client_blocking::Delivery>(WORKERS);
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let work = work.clone();
            std::thread::spawn(move || {
                while let Ok(delivery) = work.recv_blocking() {
                    delivery.ack().expect("acked");
                }
            })
        })
        .collect();
    while start.elapsed() < slice {
        let delivery = consumer.next().expect("the server goes on").expect("a delivery");
        lane.send_blocking(delivery).expect("the workers run");
    }
    drop((lane, work));
    for worker in workers {
        worker.join().expect("workers do not panic");
    }
    print_acks("blocking", client.stats(), start.elapsed());
}

fn print_acks(adapter: &str, stats: fibp_proto::Stats, elapsed: Duration) {
    let per_frame = stats.settled as f64 / stats.settle_frames.max(1) as f64;
    print_value("acks_batch", adapter, "acks/frame", per_frame);
    print_value("acks", adapter, "acks/s", stats.settled as f64 / elapsed.as_secs_f64());
}

/// What idle connections hold.
fn idle(options: &Options, tokio: &OnTokio) {
    const LIMIT: f64 = 64.0 * 1024.0;
    let count = if options.quick { 100 } else { 500 };
    let addr = null_server::start_idle();
    let figures = [
        ("tokio", memory::per_client(addr, count, |addr| connect(tokio, addr))),
        ("blocking", memory::per_client(addr, count, threads::client)),
        (
            "asyncstd",
            memory::per_client(addr, count, |addr| connect(&OnAsyncStd, addr)),
        ),
    ];
    for (adapter, bytes) in figures {
        if let Some(bytes) = bytes {
            print_figure("idle", adapter, "bytes/connection", bytes, LIMIT, bytes / LIMIT);
        }
    }
}
