//! Lists of a hundred messages.

use std::time::Duration;

use fibp_proto::config::Config;
use fibp_proto::tls::Tls;
use fibp_proto::{Message, QueueName};

use super::calls::tasks;
use super::{MANY, MANY_IN_FLIGHT, MESSAGES, connect, connect_blocking, hundred, row};
use crate::bare::Bare;
use crate::fair::{Alone, FairTasks, FairThreads};
use crate::runtime::{AsyncBare, AsyncRuntime, Enqueue, OnAsyncStd, OnTokio};
use crate::servers::{Kind, Server};
use crate::target::{P1, Target};
use crate::{Options, Rate, Side, Slice, Start, compare, threads, tls};

/// How many lists a caller gets that are built before the clock runs.
const LISTS: usize = 30;

pub(super) fn many(options: &Options, target: &Target, tokio: &OnTokio) {
    if options.wants("many") {
        many_async(options, target, tokio);
        many_async(options, target, &OnAsyncStd);
        many_blocking(options, target);
    }
}

pub(super) async fn enqueue_hundred<C: Enqueue>(client: C, queue: QueueName) -> u64 {
    client.enqueue_many(hundred(&queue)).await as u64
}

fn many_async<R: AsyncRuntime>(options: &Options, target: &Target, runtime: &R) {
    let client = connect(runtime, &target.config);
    let frame = target.peer.enqueue_frame(&target.queue, MANY);
    let mut bare = AsyncBare::connect(runtime, &target.peer);
    let fair = target
        .peer
        .is_preamble()
        .then(|| FairTasks::connect(runtime, &target.peer));
    compare(
        options,
        row("many", runtime.name(), MESSAGES),
        |slice| prepared(runtime, &client, &target.queue, slice),
        |slice| bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice),
        fair.as_ref().map(|fair| -> (&str, Side<'_>) {
            let side = move |slice| prepared(runtime, fair, &target.queue, slice);
            ("fair", Box::new(side))
        }),
    );
    compare(
        options,
        row("many_built_inside", runtime.name(), MESSAGES),
        |slice| tasks(runtime, &client, &target.queue, MANY_IN_FLIGHT, slice, enqueue_hundred),
        |slice| bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice),
        fair.as_ref().map(|fair| -> (&str, Side<'_>) {
            let side = move |slice| tasks(runtime, fair, &target.queue, MANY_IN_FLIGHT, slice, enqueue_hundred);
            ("fair", Box::new(side))
        }),
    );
}

/// Lists for every caller, and how many messages they hold.
type Lists = Vec<Vec<Vec<Message>>>;

/// Has `send` send lists that were built before the clock runs, until the slice is over.
fn built_outside(queue: &QueueName, slice: Slice, mut send: impl FnMut(Lists)) -> Rate {
    let each = usize::try_from(slice.share(MANY_IN_FLIGHT).most / MANY).unwrap_or(LISTS);
    let each = each.clamp(1, LISTS);
    let mut total = Rate::default();
    while total.elapsed < slice.time && total.operations < slice.most {
        let lists: Lists = (0..MANY_IN_FLIGHT)
            .map(|_| (0..each).map(|_| hundred(queue)).collect())
            .collect();
        let start = Start::now();
        send(lists);
        total.add(start.rate(MANY * (each * MANY_IN_FLIGHT) as u64));
    }
    total
}

fn prepared<R: AsyncRuntime, C: Enqueue>(runtime: &R, client: &C, queue: &QueueName, slice: Slice) -> Rate {
    built_outside(queue, slice, |lists| {
        runtime.block_on(async {
            let tasks: Vec<_> = lists
                .into_iter()
                .map(|lists| {
                    let client = client.clone();
                    runtime.spawn(async move {
                        for list in lists {
                            assert_eq!(client.enqueue_many(list).await as u64, MANY);
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await;
            }
        });
    })
}

/// The same on threads.
fn prepared_blocking(queue: &QueueName, slice: Slice, enqueue_many: impl Fn(Vec<Message>) -> usize + Sync) -> Rate {
    built_outside(queue, slice, |lists| {
        std::thread::scope(|scope| {
            for lists in lists {
                scope.spawn(|| {
                    for list in lists {
                        assert_eq!(enqueue_many(list) as u64, MANY);
                    }
                });
            }
        });
    })
}

fn many_blocking(options: &Options, target: &Target) {
    let client = connect_blocking(&target.config);
    let frame = target.peer.enqueue_frame(&target.queue, MANY);
    let mut bare = Bare::connect(&target.peer);
    let fair = target.peer.is_preamble().then(|| FairThreads::connect(&target.peer));
    compare(
        options,
        row("many", "blocking", MESSAGES),
        |slice| prepared_blocking(&target.queue, slice, |list| client.enqueue_many(list).len()),
        |slice| bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice),
        fair.as_ref().map(|fair| -> (&str, Side<'_>) {
            // A sender for each thread.
            let fair = std::sync::Mutex::new(fair.clone());
            let side = move |slice| built_outside(&target.queue, slice, |lists| spawn_fair(&fair, lists));
            ("fair", Box::new(side))
        }),
    );
    compare(
        options,
        row("many_built_inside", "blocking", MESSAGES),
        |slice| {
            let (client, queue) = (client.clone(), target.queue.clone());
            threads::concurrently(MANY_IN_FLIGHT, slice, move || {
                client.enqueue_many(hundred(&queue)).len() as u64
            })
        },
        |slice| bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice),
        fair.as_ref().map(|fair| -> (&str, Side<'_>) {
            let side = move |slice| {
                let (fair, queue) = (fair.clone(), target.queue.clone());
                threads::concurrently(MANY_IN_FLIGHT, slice, move || fair.enqueue_many(hundred(&queue)) as u64)
            };
            ("fair", Box::new(side))
        }),
    );
}

fn spawn_fair(fair: &std::sync::Mutex<FairThreads>, lists: Lists) {
    let fair = fair.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    std::thread::scope(|scope| {
        for lists in lists {
            let fair = fair.clone();
            scope.spawn(move || {
                for list in lists {
                    assert_eq!(fair.enqueue_many(list) as u64, MANY);
                }
            });
        }
    });
}

/// Whole frames through TLS.
pub(super) fn over_tls(options: &Options, target: &Target, tokio: &OnTokio) {
    let server = Server::start(Kind::Tls);
    let config = Config::new(server.addr)
        .dialect(P1)
        .tls(Tls::ca_pem(&server.ca_pem).server_name("localhost"))
        .connect_timeout(Duration::from_secs(20));
    let frame = target.peer.enqueue_frame(&target.queue, MANY);
    let mut bare = tls::BareTls::connect(&server);
    let mut figure = |adapter: &str, client: &mut dyn FnMut(Slice) -> Rate| {
        let mut fair = Alone::new(tls::open(&server));
        let fair = move |slice| {
            built_outside(&target.queue, slice, |lists| {
                fair.enqueue_lists(lists.into_iter().flatten().collect(), MANY_IN_FLIGHT);
            })
        };
        compare(
            options,
            row("tls", adapter, MESSAGES),
            client,
            |slice| bare.pipeline(&frame, MANY, MANY_IN_FLIGHT, slice),
            Some(("fair", Box::new(fair))),
        );
    };
    let client = connect(tokio, &config);
    figure("tokio", &mut |slice| prepared(tokio, &client, &target.queue, slice));
    let client = connect(&OnAsyncStd, &config);
    figure("asyncstd", &mut |slice| {
        prepared(&OnAsyncStd, &client, &target.queue, slice)
    });
    let client = connect_blocking(&config);
    figure("blocking", &mut |slice| {
        prepared_blocking(&target.queue, slice, |list| client.enqueue_many(list).len())
    });
}
