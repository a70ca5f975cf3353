//! The figures: the rows of the table "Budgets" of the design, and what explains them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fibp_proto::config::Config;
use fibp_proto::tls::Tls;
use fibp_proto::{Message, QueueName, Stats};

use crate::bare::Bare;
use crate::runtime::{AsyncBare, AsyncClient, AsyncConsumer, AsyncRuntime, OnAsyncStd, OnTokio, in_task};
use crate::target::{P1, Target, message};
use crate::{Options, Rate, compare, memory, null_server, print_figure, print_value, threads, tls};

/// How many callers share a client in the figure `fanin`.
const CALLERS: usize = 64;
/// How many messages one `enqueue_many` takes.
const MANY: u64 = 100;
/// How many of those are in flight.
const MANY_IN_FLIGHT: usize = 8;
/// How many lists a caller gets that are built before the clock runs.
const LISTS: usize = 60;
/// How many deliveries are taken between looks at the clock.
const STEP: u64 = 64;
/// How many messages a real server is given to deliver.
const STORED: u64 = 320 * STEP;
/// The bound of figures that end by themselves.
const LONG: Duration = Duration::from_secs(60);

const CALLS: &str = "calls/s";
const MESSAGES: &str = "messages/s";
const DELIVERIES: &str = "deliveries/s";

/// How many workers settle one delivery after another.
const WORKERS: usize = 16;

/// Prints every figure that is asked for.
pub fn run(options: &Options) {
    let tokio = OnTokio::current_thread();
    let tokio_multi = OnTokio::multi_thread();
    if let Some(mut target) = Target::external() {
        rtt(options, &target, &tokio);
        target.renew_queue();
        fanin(options, &target, &tokio, &tokio_multi);
        target.renew_queue();
        many(options, &target, &tokio);
        consume(options, &mut target, &tokio);
        return;
    }
    // First: later, memory that others have freed would be taken for none.
    if options.wants("idle") {
        idle(options, &tokio);
    }
    let mut target = Target::null(options.coalesce);
    rtt(options, &target, &tokio);
    fanin(options, &target, &tokio, &tokio_multi);
    if options.wants("tasks1000") {
        many_tasks(options, &target, &tokio);
        many_tasks(options, &target, &OnAsyncStd);
    }
    many(options, &target, &tokio);
    consume(options, &mut target, &tokio);
    if options.wants("tls") {
        over_tls(options, &target, &tokio);
    }
    if options.wants("acks") {
        acks(options, &target, &tokio);
        acks(options, &target, &OnAsyncStd);
        acks_blocking(options, &target);
    }
    if options.wants("inflight") {
        crate::in_flight::run(options);
    }
}

fn connect<R: AsyncRuntime>(runtime: &R, config: &Config) -> R::Client {
    runtime.block_on(R::Client::connect(config.clone())).expect("a client")
}

fn connect_blocking(config: &Config) -> fila_client_blocking::Client {
    fila_client_blocking::Client::connect(config.clone()).expect("a client")
}

/// Sequential calls.
fn rtt(options: &Options, target: &Target, tokio: &OnTokio) {
    if !options.wants("rtt") {
        return;
    }
    let frame = target.peer.enqueue_frame(&target.queue, 1);
    let mut bare = Bare::connect(&target.peer);
    let blocking = connect_blocking(&target.config);
    compare(
        options,
        "rtt",
        "blocking",
        CALLS,
        |slice| threads::sequential(&blocking, &target.queue, slice),
        |slice| bare.pipeline(&frame, 1, 1, slice),
    );
    let blocking_loop = |bare: &mut Bare, slice| bare.pipeline(&frame, 1, 1, slice);
    rtt_async(options, target, tokio, |_, slice| blocking_loop(&mut bare, slice));
    rtt_async(options, target, &OnAsyncStd, |asyncstd, slice| {
        asyncstd.pipeline(&frame, 1, 1, slice)
    });
    // How fast the runtimes are without a client.
    let mut bare_tokio = AsyncBare::connect(tokio, &target.peer);
    compare(
        options,
        "rtt_bare_loop",
        "tokio",
        CALLS,
        |slice| bare_tokio.pipeline(&frame, 1, 1, slice),
        |slice| blocking_loop(&mut bare, slice),
    );
    let mut bare_asyncstd = AsyncBare::connect(&OnAsyncStd, &target.peer);
    compare(
        options,
        "rtt_bare_loop",
        "asyncstd",
        CALLS,
        |slice| bare_asyncstd.pipeline(&frame, 1, 1, slice),
        |slice| blocking_loop(&mut bare, slice),
    );
}

/// Sequential calls of a task, which is where the work of a server is done, and of the thread that runs the runtime.
fn rtt_async<R: AsyncRuntime>(
    options: &Options,
    target: &Target,
    runtime: &R,
    mut baseline: impl FnMut(&mut AsyncBare<R>, Duration) -> Rate,
) {
    let client = connect(runtime, &target.config);
    let mut bare = AsyncBare::connect(runtime, &target.peer);
    compare(
        options,
        "rtt",
        runtime.name(),
        CALLS,
        |slice| {
            let (client, queue) = (client.clone(), target.queue.clone());
            in_task(runtime, async move { sequential(&client, &queue, slice).await })
        },
        |slice| baseline(&mut bare, slice),
    );
    compare(
        options,
        "rtt_block_on",
        runtime.name(),
        CALLS,
        |slice| runtime.block_on(sequential(&client, &target.queue, slice)),
        |slice| baseline(&mut bare, slice),
    );
}

async fn sequential<C: AsyncClient>(client: &C, queue: &QueueName, slice: Duration) -> Rate {
    let start = Instant::now();
    let mut calls = 0;
    while start.elapsed() < slice {
        client.enqueue(message(queue)).await.expect("confirmed");
        calls += 1;
    }
    Rate::since(start, calls)
}

/// Runs `callers` tasks that call in a loop until the slice is over. `call` says how many messages it sent.
fn tasks<R, F>(
    runtime: &R,
    client: &R::Client,
    queue: &QueueName,
    callers: usize,
    slice: Duration,
    call: fn(R::Client, QueueName) -> F,
) -> Rate
where
    R: AsyncRuntime,
    F: Future<Output = u64> + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let messages = runtime.block_on(async {
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                let (client, queue, stop) = (client.clone(), queue.clone(), stop.clone());
                runtime.spawn(async move {
                    let mut messages = 0;
                    while !stop.load(Ordering::Relaxed) {
                        messages += call(client.clone(), queue.clone()).await;
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

async fn enqueue_one<C: AsyncClient>(client: C, queue: QueueName) -> u64 {
    client.enqueue(message(&queue)).await.expect("confirmed");
    1
}

async fn enqueue_hundred<C: AsyncClient>(client: C, queue: QueueName) -> u64 {
    client.enqueue_many(hundred(&queue)).await.len() as u64
}

fn hundred(queue: &QueueName) -> Vec<Message> {
    (0..MANY).map(|_| message(queue)).collect()
}

/// Many callers of single calls.
fn fanin(options: &Options, target: &Target, tokio: &OnTokio, tokio_multi: &OnTokio) {
    if !options.wants("fanin") {
        return;
    }
    fanin_async(options, target, tokio);
    fanin_async(options, target, tokio_multi);
    fanin_async(options, target, &OnAsyncStd);
    let client = connect_blocking(&target.config);
    let line = threads::WakeUps::start();
    compare(
        options,
        "fanin",
        "blocking",
        CALLS,
        |slice| {
            let (client, queue) = (client.clone(), target.queue.clone());
            threads::concurrently(CALLERS, slice, move || {
                client.enqueue(message(&queue)).expect("confirmed");
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

fn fanin_async<R: AsyncRuntime>(options: &Options, target: &Target, runtime: &R) {
    let client = connect(runtime, &target.config);
    let frame = target.peer.enqueue_frame(&target.queue, 1);
    let mut bare = AsyncBare::connect(runtime, &target.peer);
    compare(
        options,
        "fanin",
        runtime.name(),
        CALLS,
        |slice| tasks(runtime, &client, &target.queue, CALLERS, slice, enqueue_one),
        |slice| bare.pipeline(&frame, 1, CALLERS, slice),
    );
    print_batch("fanin_batch", runtime.name(), client.stats());
}

fn print_batch(name: &str, adapter: &str, stats: Stats) {
    let per_frame = stats.messages_confirmed as f64 / stats.enqueue_frames.max(1) as f64;
    print_value(name, adapter, "messages/frame", per_frame);
}

/// A thousand tasks of single calls.
fn many_tasks<R: AsyncRuntime>(options: &Options, target: &Target, runtime: &R) {
    let client = connect(runtime, &target.config);
    let frame = target.peer.enqueue_frame(&target.queue, MANY);
    let mut bare = AsyncBare::connect(runtime, &target.peer);
    compare(
        options,
        "tasks1000",
        runtime.name(),
        MESSAGES,
        |slice| tasks(runtime, &client, &target.queue, 1000, slice, enqueue_one),
        |slice| bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice),
    );
    print_batch("tasks1000_batch", runtime.name(), client.stats());
}

/// Lists of a hundred.
fn many(options: &Options, target: &Target, tokio: &OnTokio) {
    if options.wants("many") {
        many_async(options, target, tokio);
        many_async(options, target, &OnAsyncStd);
        many_blocking(options, target);
    }
}

fn many_async<R: AsyncRuntime>(options: &Options, target: &Target, runtime: &R) {
    let client = connect(runtime, &target.config);
    let frame = target.peer.enqueue_frame(&target.queue, MANY);
    let mut bare = AsyncBare::connect(runtime, &target.peer);
    compare(
        options,
        "many",
        runtime.name(),
        MESSAGES,
        |slice| prepared(runtime, &client, &target.queue, slice),
        |slice| bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice),
    );
    compare(
        options,
        "many_built_inside",
        runtime.name(),
        MESSAGES,
        |slice| tasks(runtime, &client, &target.queue, MANY_IN_FLIGHT, slice, enqueue_hundred),
        |slice| bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice),
    );
}

/// `enqueue_many` with lists that were built before the clock runs.
fn prepared<R: AsyncRuntime>(runtime: &R, client: &R::Client, queue: &QueueName, slice: Duration) -> Rate {
    let mut total = Rate::default();
    while total.elapsed < slice {
        let lists: Vec<Vec<_>> = (0..MANY_IN_FLIGHT).map(|_| lists(queue)).collect();
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
        total.add(Rate::since(start, MANY * (LISTS * MANY_IN_FLIGHT) as u64));
    }
    total
}

/// The same on threads.
fn prepared_blocking(client: &fila_client_blocking::Client, queue: &QueueName, slice: Duration) -> Rate {
    let mut total = Rate::default();
    while total.elapsed < slice {
        let lists: Vec<Vec<_>> = (0..MANY_IN_FLIGHT).map(|_| lists(queue)).collect();
        let start = Instant::now();
        std::thread::scope(|scope| {
            for lists in lists {
                scope.spawn(|| {
                    for list in lists {
                        assert_eq!(client.enqueue_many(list).len() as u64, MANY);
                    }
                });
            }
        });
        total.add(Rate::since(start, MANY * (LISTS * MANY_IN_FLIGHT) as u64));
    }
    total
}

fn lists(queue: &QueueName) -> Vec<Vec<Message>> {
    (0..LISTS).map(|_| hundred(queue)).collect()
}

fn many_blocking(options: &Options, target: &Target) {
    let client = connect_blocking(&target.config);
    let frame = target.peer.enqueue_frame(&target.queue, MANY);
    let mut bare = Bare::connect(&target.peer);
    compare(
        options,
        "many",
        "blocking",
        MESSAGES,
        |slice| prepared_blocking(&client, &target.queue, slice),
        |slice| bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice),
    );
    compare(
        options,
        "many_built_inside",
        "blocking",
        MESSAGES,
        |slice| {
            let (client, queue) = (client.clone(), target.queue.clone());
            threads::concurrently(MANY_IN_FLIGHT, slice, move || {
                client.enqueue_many(hundred(&queue)).len() as u64
            })
        },
        |slice| bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice),
    );
}

/// Deliveries that are not acked. A server that runs dry is measured by what it has: each side gets a queue of its own.
fn consume(options: &Options, target: &mut Target, tokio: &OnTokio) {
    if !options.wants("consume") {
        return;
    }
    consume_async(options, target, tokio);
    consume_async(options, target, &OnAsyncStd);
    let client = connect_blocking(&target.config);
    target.another_queue();
    let most = target.fill(STORED);
    let mut consumer = client.consume(&target.queue).expect("a consumer");
    target.another_queue();
    target.fill(STORED);
    let mut bare = Bare::connect(&target.peer);
    bare.consume(&target.queue);
    compare_stored(
        options,
        "blocking",
        most,
        |slice, most| {
            let start = Instant::now();
            let mut deliveries = 0;
            while start.elapsed() < slice && deliveries < most {
                for _ in 0..STEP {
                    drop(consumer.next().expect("the server goes on"));
                }
                deliveries += STEP;
            }
            Rate::since(start, deliveries)
        },
        |slice, most| bare.count(slice, most),
    );
}

fn consume_async<R: AsyncRuntime>(options: &Options, target: &mut Target, runtime: &R) {
    let client = connect(runtime, &target.config);
    target.another_queue();
    let most = target.fill(STORED);
    let mut consumer = Some(runtime.block_on(client.consume(&target.queue)).expect("a consumer"));
    target.another_queue();
    target.fill(STORED);
    let mut bare = AsyncBare::connect(runtime, &target.peer);
    bare.consume(&target.queue);
    compare_stored(
        options,
        runtime.name(),
        most,
        |slice, most| {
            let mut taken = consumer.take().expect("the task gave it back");
            let (back, rate) = in_task(runtime, async move {
                let start = Instant::now();
                let mut deliveries = 0;
                while start.elapsed() < slice && deliveries < most {
                    for _ in 0..STEP {
                        drop(taken.next().await.expect("the server goes on"));
                    }
                    deliveries += STEP;
                }
                (taken, Rate::since(start, deliveries))
            });
            consumer = Some(back);
            rate
        },
        |slice, most| bare.count(slice, most),
    );
}

/// Compares readers of a server that holds `stored` messages, or of one that never runs dry.
fn compare_stored(
    options: &Options,
    adapter: &str,
    stored: Option<u64>,
    mut client: impl FnMut(Duration, u64) -> Rate,
    mut baseline: impl FnMut(Duration, u64) -> Rate,
) {
    match stored {
        None => compare(
            options,
            "consume",
            adapter,
            DELIVERIES,
            |slice| client(slice, u64::MAX),
            |slice| baseline(slice, u64::MAX),
        ),
        Some(stored) => {
            // What one reader has been pushed already does not count: only whole runs compare.
            let all = |rate: Rate| rate.per_second();
            let (value, base) = (all(client(LONG, stored)), all(baseline(LONG, stored)));
            print_figure("consume", adapter, DELIVERIES, value, base, value / base);
        }
    }
}

/// Whole frames through TLS.
fn over_tls(options: &Options, target: &Target, tokio: &OnTokio) {
    let server = tls::start();
    let tls = Tls::ca_pem(&server.ca_pem).server_name("localhost");
    let config = Config::new(server.addr).dialect(P1).tls(tls);
    let frame = target.peer.enqueue_frame(&target.queue, MANY);
    let mut bare = tls::BareTls::connect(&server);
    let client = connect(tokio, &config);
    let mut figure = |adapter: &str, client: &mut dyn FnMut(Duration) -> Rate| {
        compare(options, "tls", adapter, MESSAGES, client, |slice| {
            bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice)
        });
    };
    figure("tokio", &mut |slice| prepared(tokio, &client, &target.queue, slice));
    let client = connect(&OnAsyncStd, &config);
    figure("asyncstd", &mut |slice| {
        prepared(&OnAsyncStd, &client, &target.queue, slice)
    });
    let client = connect_blocking(&config);
    figure("blocking", &mut |slice| {
        prepared_blocking(&client, &target.queue, slice)
    });
}

/// Workers that ack one delivery after another: how many acks share a frame.
fn acks<R: AsyncRuntime>(options: &Options, target: &Target, runtime: &R) {
    let client = connect(runtime, &target.config);
    let mut consumer = runtime.block_on(client.consume(&target.queue)).expect("a consumer");
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

fn acks_blocking(options: &Options, target: &Target) {
    let client = connect_blocking(&target.config);
    let mut consumer = client.consume(&target.queue).expect("a consumer");
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

fn print_acks(adapter: &str, stats: Stats, elapsed: Duration) {
    let per_frame = stats.settled as f64 / stats.settle_frames.max(1) as f64;
    print_value("acks_batch", adapter, "acks/frame", per_frame);
    print_value("acks", adapter, "acks/s", stats.settled as f64 / elapsed.as_secs_f64());
}

/// What idle connections hold.
fn idle(options: &Options, tokio: &OnTokio) {
    const LIMIT: f64 = 64.0 * 1024.0;
    let count = if options.quick { 100 } else { 500 };
    let config = Config::new(null_server::start_idle()).dialect(P1);
    let figures = [
        ("tokio", memory::per_item(count, || connect(tokio, &config))),
        ("blocking", memory::per_item(count, || connect_blocking(&config))),
        ("asyncstd", memory::per_item(count, || connect(&OnAsyncStd, &config))),
    ];
    for (adapter, bytes) in figures {
        if let Some(bytes) = bytes {
            print_figure("idle", adapter, "bytes/connection", bytes, LIMIT, bytes / LIMIT);
        }
    }
}
