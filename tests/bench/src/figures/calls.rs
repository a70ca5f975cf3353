//! Single calls: one caller, few, many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fibp_proto::QueueName;

use super::{CALLS, MANY, MANY_IN_FLIGHT, MESSAGES, connect, connect_blocking, print_batch, row};
use crate::bare::Bare;
use crate::fair::{Alone, AloneInTask, FairTasks, FairThreads};
use crate::null_server::Manner;
use crate::runtime::{AsyncBare, AsyncClient, AsyncRuntime, Enqueue, OnAsyncStd, OnTokio, in_task};
use crate::target::{Target, message};
use crate::{Options, Rate, Side, Slice, Start, compare, threads};

/// How many callers share a client in the figure `fanin`.
const CALLERS: usize = 64;

/// Sequential calls.
pub(super) fn rtt(options: &Options, target: &Target, tokio: &OnTokio) {
    if !options.wants("rtt") {
        return;
    }
    let frame = target.peer.enqueue_frame(&target.queue, 1);
    let mut bare = Bare::connect(&target.peer);
    let blocking = connect_blocking(&target.config);
    let fair = target.peer.is_preamble().then(|| -> (&str, Side<'_>) {
        let mut fair = Alone::new(target.peer.open().expect("a server"));
        let side = move |slice: Slice| {
            let (start, mut calls) = (Start::now(), 0);
            while !slice.is_over(start.at, calls) {
                fair.enqueue(message(&target.queue));
                calls += 1;
            }
            start.rate(calls)
        };
        ("fair", Box::new(side))
    });
    compare(
        options,
        row("rtt", "blocking", CALLS),
        |slice| threads::sequential(&blocking, &target.queue, slice),
        |slice| bare.pipeline(&frame, 1, 1, slice),
        fair,
    );
    let blocking_loop = |bare: &mut Bare, slice| bare.pipeline(&frame, 1, 1, slice);
    rtt_async(options, target, tokio, |_, slice| blocking_loop(&mut bare, slice));
    rtt_async(options, target, &OnAsyncStd, |asyncstd, slice| {
        asyncstd.pipeline(&frame, 1, 1, slice)
    });
    // How fast the runtimes are without a client.
    rtt_bare_loop(options, target, tokio, |slice| blocking_loop(&mut bare, slice));
    rtt_bare_loop(options, target, &OnAsyncStd, |slice| blocking_loop(&mut bare, slice));
}

fn rtt_bare_loop<R: AsyncRuntime>(
    options: &Options,
    target: &Target,
    runtime: &R,
    baseline: impl FnMut(Slice) -> Rate,
) {
    let frame = target.peer.enqueue_frame(&target.queue, 1);
    let mut bare = AsyncBare::connect(runtime, &target.peer);
    let row = row("rtt_bare_loop", runtime.name(), CALLS);
    compare(options, row, |slice| bare.pipeline(&frame, 1, 1, slice), baseline, None);
}

/// Sequential calls of a task, which is where the work of a server is done, and of the thread that runs the runtime.
fn rtt_async<R: AsyncRuntime>(
    options: &Options,
    target: &Target,
    runtime: &R,
    mut baseline: impl FnMut(&mut AsyncBare<R>, Slice) -> Rate,
) {
    let client = connect(runtime, &target.config);
    let mut bare = AsyncBare::connect(runtime, &target.peer);
    compare(
        options,
        row("rtt", runtime.name(), CALLS),
        |slice| {
            let (client, queue) = (client.clone(), target.queue.clone());
            in_task(runtime, async move { sequential(&client, &queue, slice).await })
        },
        |slice| baseline(&mut bare, slice),
        target.peer.is_preamble().then(|| fair_sequential(target, runtime)),
    );
    compare(
        options,
        row("rtt_block_on", runtime.name(), CALLS),
        |slice| runtime.block_on(sequential(&client, &target.queue, slice)),
        |slice| baseline(&mut bare, slice),
        None,
    );
}

fn fair_sequential<'a, R: AsyncRuntime>(target: &'a Target, runtime: &'a R) -> (&'static str, Side<'a>) {
    let mut fair = Some(AloneInTask::connect(runtime, &target.peer));
    let side = move |slice: Slice| {
        let mut taken = fair.take().expect("the task gave it back");
        let queue = target.queue.clone();
        let (back, rate) = in_task(runtime, async move {
            let (start, mut calls) = (Start::now(), 0);
            while !slice.is_over(start.at, calls) {
                taken.enqueue(message(&queue)).await;
                calls += 1;
            }
            (taken, start.rate(calls))
        });
        fair = Some(back);
        rate
    };
    ("fair", Box::new(side))
}

async fn sequential<C: Enqueue>(client: &C, queue: &QueueName, slice: Slice) -> Rate {
    let (start, mut calls) = (Start::now(), 0);
    while !slice.is_over(start.at, calls) {
        assert!(client.enqueue(message(queue)).await, "confirmed");
        calls += 1;
    }
    start.rate(calls)
}

/// Runs `callers` tasks that call in a loop until the slice is over. `call` says how many messages it sent.
pub(super) fn tasks<R, C, F>(
    runtime: &R,
    client: &C,
    queue: &QueueName,
    callers: usize,
    slice: Slice,
    call: fn(C, QueueName) -> F,
) -> Rate
where
    R: AsyncRuntime,
    C: Enqueue,
    F: Future<Output = u64> + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let start = Start::now();
    let share = slice.share(callers);
    let messages = runtime.block_on(async {
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                let (client, queue, stop) = (client.clone(), queue.clone(), stop.clone());
                runtime.spawn(async move {
                    let mut messages = 0;
                    while !stop.load(Ordering::Relaxed) {
                        messages += call(client.clone(), queue.clone()).await;
                        if share.is_over(start.at, messages) {
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
    start.rate(messages)
}

async fn enqueue_one<C: Enqueue>(client: C, queue: QueueName) -> u64 {
    assert!(client.enqueue(message(&queue)).await, "confirmed");
    1
}

/// Single calls of so many tasks of the fair client.
fn fair_tasks<'a, R: AsyncRuntime>(
    target: &'a Target,
    runtime: &'a R,
    callers: usize,
) -> Option<(&'static str, Side<'a>)> {
    target.peer.is_preamble().then(|| -> (&'static str, Side<'a>) {
        let fair = FairTasks::connect(runtime, &target.peer);
        let side = move |slice| tasks(runtime, &fair, &target.queue, callers, slice, enqueue_one);
        ("fair", Box::new(side))
    })
}

/// Many callers of single calls.
pub(super) fn fanin(options: &Options, target: &Target, tokio: &OnTokio, tokio_multi: &OnTokio) {
    if !options.wants("fanin") {
        return;
    }
    fanin_async(options, target, tokio);
    fanin_async(options, target, tokio_multi);
    fanin_async(options, target, &OnAsyncStd);
    let client = connect_blocking(&target.config);
    let line = threads::WakeUps::start();
    let fair = target.peer.is_preamble().then(|| -> (&str, Side<'_>) {
        let fair = FairThreads::connect(&target.peer);
        let side = move |slice| {
            let (fair, queue) = (fair.clone(), target.queue.clone());
            threads::concurrently(CALLERS, slice, move || {
                assert!(fair.enqueue(message(&queue)), "confirmed");
                1
            })
        };
        ("fair", Box::new(side))
    });
    compare(
        options,
        row("fanin", "blocking", CALLS),
        |slice| blocking_callers(&client, &target.queue, CALLERS, slice),
        |slice| {
            let line = line.clone();
            threads::concurrently(CALLERS, slice, move || {
                line.call();
                1
            })
        },
        fair,
    );
    line.stop();
    print_batch("fanin_batch", "blocking", client.stats());
}

fn blocking_callers(client: &fila_client_blocking::Client, queue: &QueueName, callers: usize, slice: Slice) -> Rate {
    let (client, queue) = (client.clone(), queue.clone());
    threads::concurrently(callers, slice, move || {
        client.enqueue(message(&queue)).expect("confirmed");
        1
    })
}

fn fanin_async<R: AsyncRuntime>(options: &Options, target: &Target, runtime: &R) {
    let client = connect(runtime, &target.config);
    let frame = target.peer.enqueue_frame(&target.queue, 1);
    let mut bare = AsyncBare::connect(runtime, &target.peer);
    compare(
        options,
        row("fanin", runtime.name(), CALLS),
        |slice| tasks(runtime, &client, &target.queue, CALLERS, slice, enqueue_one),
        |slice| bare.pipeline(&frame, 1, CALLERS, slice),
        fair_tasks(target, runtime, CALLERS),
    );
    print_batch("fanin_batch", runtime.name(), client.stats());
}

/// A thousand tasks of single calls.
pub(super) fn many_tasks<R: AsyncRuntime>(options: &Options, target: &Target, runtime: &R) {
    let client = connect(runtime, &target.config);
    let frame = target.peer.enqueue_frame(&target.queue, MANY);
    let mut bare = AsyncBare::connect(runtime, &target.peer);
    compare(
        options,
        row("tasks1000", runtime.name(), MESSAGES),
        |slice| tasks(runtime, &client, &target.queue, 1000, slice, enqueue_one),
        |slice| bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice),
        fair_tasks(target, runtime, 1000),
    );
    print_batch("tasks1000_batch", runtime.name(), client.stats());
}

/// Two, three and four callers next to one, of a server that takes its time for each frame.
pub(super) fn few_callers(options: &Options, tokio: &OnTokio) {
    let target = Target::null(Manner {
        service: options.service,
        ..Manner::default()
    });
    few_callers_async(options, &target, tokio);
    few_callers_async(options, &target, &OnAsyncStd);
    let client = connect_blocking(&target.config);
    for callers in 1..=4 {
        compare(
            options,
            row(&format!("callers_{callers}"), "blocking", CALLS),
            |slice| blocking_callers(&client, &target.queue, callers, slice),
            |slice| blocking_callers(&client, &target.queue, 1, slice),
            None,
        );
    }
}

fn few_callers_async<R: AsyncRuntime>(options: &Options, target: &Target, runtime: &R) {
    let client = connect(runtime, &target.config);
    for callers in 1..=4 {
        compare(
            options,
            row(&format!("callers_{callers}"), runtime.name(), CALLS),
            |slice| tasks(runtime, &client, &target.queue, callers, slice, enqueue_one),
            |slice| tasks(runtime, &client, &target.queue, 1, slice, enqueue_one),
            None,
        );
    }
}

/// What it costs that a node of a cluster gets one item of a queue in a frame: next to the same server as a single node.
pub(super) fn cluster(options: &Options, tokio: &OnTokio) {
    let framed = |node_id| {
        Target::null(Manner {
            coalesce: options.coalesce,
            node_id: Some(node_id),
            ..Manner::default()
        })
    };
    let (node, alone) = (framed(1), framed(0));
    cluster_async(options, &node, &alone, tokio);
    cluster_async(options, &node, &alone, &OnAsyncStd);
    let (client, baseline) = (connect_blocking(&node.config), connect_blocking(&alone.config));
    compare(
        options,
        row("cluster_fanin", "blocking", CALLS),
        |slice| blocking_callers(&client, &node.queue, CALLERS, slice),
        |slice| blocking_callers(&baseline, &alone.queue, CALLERS, slice),
        None,
    );
}

fn cluster_async<R: AsyncRuntime>(options: &Options, node: &Target, alone: &Target, runtime: &R) {
    let (client, baseline) = (connect(runtime, &node.config), connect(runtime, &alone.config));
    compare(
        options,
        row("cluster_fanin", runtime.name(), CALLS),
        |slice| tasks(runtime, &client, &node.queue, CALLERS, slice, enqueue_one),
        |slice| tasks(runtime, &baseline, &alone.queue, CALLERS, slice, enqueue_one),
        None,
    );
    print_batch("cluster_fanin_batch", runtime.name(), client.stats());
    let list = super::lists::enqueue_hundred;
    compare(
        options,
        row("cluster_many", runtime.name(), MESSAGES),
        |slice| tasks(runtime, &client, &node.queue, MANY_IN_FLIGHT, slice, list),
        |slice| tasks(runtime, &baseline, &alone.queue, MANY_IN_FLIGHT, slice, list),
        None,
    );
}
