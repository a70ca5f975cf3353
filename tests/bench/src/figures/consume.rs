//! Deliveries, taken and settled.

use std::time::{Duration, Instant};

use fibp_proto::Stats;
use fila_client_blocking::Consumer;

use super::{DELIVERIES, LONG, connect, connect_blocking, row};
use crate::bare::Bare;
use crate::fair::Deliveries;
use crate::runtime::{AsyncBare, AsyncClient, AsyncConsumer, AsyncRuntime, OnAsyncStd, OnTokio, in_task};
use crate::target::Target;
use crate::{Options, Rate, Side, Slice, Start, compare, print_figure, print_value};

/// How many deliveries are taken between looks at the clock.
const STEP: u64 = 64;
/// How many messages a real server is given to deliver.
const STORED: u64 = 320 * STEP;
/// How many workers settle one delivery after another.
const WORKERS: usize = 16;

/// Deliveries that are not acked, and deliveries that are acked without waiting for the answer. A server that runs dry
/// is measured by what it has: each side gets a queue of its own.
pub(super) fn consume(options: &Options, target: &mut Target, tokio: &OnTokio) {
    if !options.wants("consume") {
        return;
    }
    consume_async(options, target, tokio);
    consume_async(options, target, &OnAsyncStd);
    consume_blocking(options, target);
}

fn consume_blocking(options: &Options, target: &mut Target) {
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
        |slice| take_blocking(&mut consumer, slice, drop),
        |slice| bare.count(slice),
        fair_blocking(target, most),
    );
    if most.is_some() {
        return;
    }
    let mut plain = client.consume(&target.queue).expect("a consumer");
    compare(
        options,
        row("consume_ack_queued", "blocking", DELIVERIES),
        |slice| take_blocking(&mut consumer, slice, |delivery| drop(delivery.ack_queued())),
        |slice| take_blocking(&mut plain, slice, drop),
        None,
    );
}

fn take_blocking(
    consumer: &mut Consumer,
    slice: Slice,
    mut settle: impl FnMut(fila_client_blocking::Delivery),
) -> Rate {
    let (start, mut deliveries) = (Start::now(), 0);
    while !slice.is_over(start.at, deliveries) {
        for _ in 0..STEP {
            settle(consumer.next().expect("the server goes on").expect("a delivery"));
        }
        deliveries += STEP;
    }
    start.rate(deliveries)
}

fn fair_blocking<'a>(target: &'a Target, stored: Option<u64>) -> Option<(&'static str, Side<'a>)> {
    use std::io::{Read, Write};

    // A third reader of a server that runs dry would need a third queue.
    if stored.is_some() || !target.peer.is_preamble() {
        return None;
    }
    let mut stream = target.peer.open().expect("a server");
    stream
        .write_all(&target.peer.consume_frame(&target.queue))
        .expect("a server");
    let mut deliveries = Deliveries::new(&target.queue);
    let side = move |slice: Slice| {
        let (start, mut taken) = (Start::now(), 0);
        while !slice.is_over(start.at, taken) {
            while let Some(delivery) = deliveries.next() {
                drop(std::hint::black_box(delivery));
                taken += 1;
            }
            let read = stream.read(deliveries.unfilled()).expect("a server");
            deliveries.received(read);
        }
        start.rate(taken)
    };
    Some(("fair", Box::new(side)))
}

fn consume_async<R: AsyncRuntime>(options: &Options, target: &mut Target, runtime: &R) {
    let client = connect(runtime, &target.config);
    let open = |target: &Target| Some(runtime.block_on(client.consume(&target.queue)).expect("a consumer"));
    target.another_queue();
    let most = target.fill(STORED);
    let mut consumer = open(target);
    target.another_queue();
    target.fill(STORED);
    let mut bare = AsyncBare::connect(runtime, &target.peer);
    bare.consume(&target.queue);
    compare_stored(
        options,
        runtime.name(),
        most,
        |slice| take(runtime, &mut consumer, slice, drop),
        |slice| bare.count(slice),
        fair(target, runtime, most),
    );
    if most.is_some() {
        return;
    }
    let mut plain = open(target);
    let ack = <R::Client as AsyncClient>::Consumer::ack_queued;
    compare(
        options,
        row("consume_ack_queued", runtime.name(), DELIVERIES),
        |slice| take(runtime, &mut consumer, slice, ack),
        |slice| take(runtime, &mut plain, slice, drop),
        None,
    );
}

fn take<R: AsyncRuntime, C: AsyncConsumer>(
    runtime: &R,
    consumer: &mut Option<C>,
    slice: Slice,
    settle: fn(C::Acker),
) -> Rate {
    let mut taken = consumer.take().expect("the task gave it back");
    let (back, rate) = in_task(runtime, async move {
        let (start, mut deliveries) = (Start::now(), 0);
        while !slice.is_over(start.at, deliveries) {
            for _ in 0..STEP {
                settle(taken.next().await.expect("the server goes on"));
            }
            deliveries += STEP;
        }
        (taken, start.rate(deliveries))
    });
    *consumer = Some(back);
    rate
}

fn fair<'a, R: AsyncRuntime>(
    target: &'a Target,
    runtime: &'a R,
    stored: Option<u64>,
) -> Option<(&'static str, Side<'a>)> {
    if stored.is_some() || !target.peer.is_preamble() {
        return None;
    }
    let stream = target.peer.open().expect("a server");
    let mut stream = runtime.adopt(stream).expect("a socket");
    let consume = target.peer.consume_frame(&target.queue);
    runtime.block_on(R::write_all(&mut stream, &consume)).expect("a server");
    let mut state = Some((stream, Deliveries::new(&target.queue)));
    let side = move |slice: Slice| {
        let (mut stream, mut deliveries) = state.take().expect("the task gave it back");
        let (back, rate) = in_task(runtime, async move {
            let (start, mut taken) = (Start::now(), 0);
            while !slice.is_over(start.at, taken) {
                while let Some(delivery) = deliveries.next() {
                    drop(std::hint::black_box(delivery));
                    taken += 1;
                }
                let read = R::read(&mut stream, deliveries.unfilled()).await.expect("a server");
                deliveries.received(read);
            }
            ((stream, deliveries), start.rate(taken))
        });
        state = Some(back);
        rate
    };
    Some(("fair", Box::new(side)))
}

/// Compares readers of a server that holds `stored` messages, or of one that never runs dry.
fn compare_stored<'a>(
    options: &Options,
    adapter: &str,
    stored: Option<u64>,
    mut client: impl FnMut(Slice) -> Rate + 'a,
    mut baseline: impl FnMut(Slice) -> Rate + 'a,
    fair: Option<(&str, Side<'a>)>,
) {
    match stored {
        None => compare(options, row("consume", adapter, DELIVERIES), client, baseline, fair),
        Some(most) => {
            // What one reader has been pushed already does not count: only whole runs compare.
            let all = Slice { time: LONG, most };
            let (value, base) = (client(all).per_second(), baseline(all).per_second());
            print_figure("consume", adapter, DELIVERIES, value, base, value / base);
        }
    }
}

/// Workers that ack one delivery after another: how many acks share a frame.
pub(super) fn acks<R: AsyncRuntime>(options: &Options, target: &Target, runtime: &R) {
    let client = connect(runtime, &target.config);
    let mut consumer = runtime.block_on(client.consume(&target.queue)).expect("a consumer");
    let slice = options.slice();
    let start = Instant::now();
    runtime.block_on(async {
        let (sender, work) = async_std::channel::bounded(WORKERS);
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
        while start.elapsed() < slice.time {
            let acker = consumer.next().await.expect("the server goes on");
            sender.send(acker).await.expect("the workers run");
        }
        drop((sender, work));
        for worker in workers {
            worker.await;
        }
    });
    print_acks(runtime.name(), client.stats(), start.elapsed());
}

pub(super) fn acks_blocking(options: &Options, target: &Target) {
    let client = connect_blocking(&target.config);
    let mut consumer = client.consume(&target.queue).expect("a consumer");
    let slice = options.slice();
    let start = Instant::now();
    let (sender, work) = async_std::channel::bounded::<fila_client_blocking::Delivery>(WORKERS);
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
    while start.elapsed() < slice.time {
        let delivery = consumer.next().expect("the server goes on").expect("a delivery");
        sender.send_blocking(delivery).expect("the workers run");
    }
    drop((sender, work));
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
