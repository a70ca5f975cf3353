//! The figures: the rows of the table "Budgets" of the design, and what explains them.

mod calls;
mod consume;
mod lists;

use std::time::Duration;

use fibp_proto::config::Config;
use fibp_proto::{Message, QueueName, Stats};

use crate::null_server::Manner;
use crate::runtime::{AsyncClient, AsyncRuntime, OnAsyncStd, OnTokio};
use crate::servers::{Kind, Server};
use crate::target::{P1, Target, message};
use crate::{Options, Row, as_people_run_it, in_flight, memory, print_figure, print_value};

/// How many messages one `enqueue_many` takes.
const MANY: u64 = 100;
/// How many of those are in flight.
const MANY_IN_FLIGHT: usize = 8;
/// The bound of figures that end by themselves.
const LONG: Duration = Duration::from_secs(60);

const CALLS: &str = "calls/s";
const MESSAGES: &str = "messages/s";
const DELIVERIES: &str = "deliveries/s";

/// Prints every figure that is asked for.
pub fn run(options: &Options) {
    let tokio = OnTokio::current_thread();
    let tokio_multi = OnTokio::multi_thread();
    if let Some(mut target) = Target::external() {
        // A bounded volume, which is drained before the queues are deleted.
        let options = &Options {
            most: 5_000,
            ..options.clone()
        };
        calls::rtt(options, &target, &tokio);
        target.renew_queue();
        calls::fanin(options, &target, &tokio, &tokio_multi);
        target.renew_queue();
        lists::many(options, &target, &tokio);
        consume::consume(options, &mut target, &tokio);
        return;
    }
    // First: later, memory that others have freed would be taken for none.
    if options.wants("idle") {
        idle(options, &tokio);
    }
    if options.wants("busy") {
        busy(options, &tokio);
    }
    let mut target = Target::null(Manner {
        coalesce: options.coalesce,
        ..Manner::default()
    });
    calls::rtt(options, &target, &tokio);
    if options.wants("people") {
        as_people_run_it::run(options);
    }
    calls::fanin(options, &target, &tokio, &tokio_multi);
    if options.wants("tasks1000") {
        calls::many_tasks(options, &target, &tokio);
        calls::many_tasks(options, &target, &OnAsyncStd);
    }
    if options.wants("callers") {
        calls::few_callers(options, &tokio);
    }
    if options.wants("cluster") {
        calls::cluster(options, &tokio);
    }
    lists::many(options, &target, &tokio);
    consume::consume(options, &mut target, &tokio);
    if options.wants("tls") {
        lists::over_tls(options, &target, &tokio);
    }
    if options.wants("acks") {
        consume::acks(options, &target, &tokio);
        consume::acks(options, &target, &OnAsyncStd);
        consume::acks_blocking(options, &target);
    }
    if options.wants("inflight") {
        in_flight::run(options);
    }
}

fn row<'a>(name: &'a str, adapter: &'a str, unit: &'a str) -> Row<'a> {
    Row { name, adapter, unit }
}

fn connect<R: AsyncRuntime>(runtime: &R, config: &Config) -> R::Client {
    runtime.block_on(R::Client::connect(config.clone())).expect("a client")
}

fn connect_blocking(config: &Config) -> fila_client_blocking::Client {
    fila_client_blocking::Client::connect(config.clone()).expect("a client")
}

fn hundred(queue: &QueueName) -> Vec<Message> {
    (0..MANY).map(|_| message(queue)).collect()
}

fn print_batch(name: &str, adapter: &str, stats: Stats) {
    let per_frame = stats.messages_confirmed as f64 / stats.enqueue_frames.max(1) as f64;
    print_value(name, adapter, "messages/frame", per_frame);
}

/// What idle connections hold.
fn idle(options: &Options, tokio: &OnTokio) {
    const LIMIT: f64 = 64.0 * 1024.0;
    let count = if options.quick { 100 } else { 500 };
    let server = Server::start(Kind::Idle);
    let config = Config::new(server.addr).dialect(P1);
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

/// What consumers hold that are full: everything the server pushes waits in them.
fn busy(options: &Options, tokio: &OnTokio) {
    const LIMIT: f64 = 96.0 * 1024.0;
    let count = if options.quick { 50 } else { 300 };
    let target = Target::null(Manner::default());
    let client = connect(tokio, &target.config);
    let bytes = memory::per_item(count, || {
        tokio.block_on(async {
            let mut consumer = client.consume(&target.queue).await.expect("a consumer");
            // Two pushes: the buffers have been in use.
            for _ in 0..128 {
                drop(consumer.next().await.expect("the server goes on"));
            }
            consumer
        })
    });
    if let Some(bytes) = bytes {
        // What waits in the client is the caller's to choose (`prefetch`).
        print_figure("busy", "tokio", "bytes/consumer", bytes, LIMIT, bytes / LIMIT);
    }
}
