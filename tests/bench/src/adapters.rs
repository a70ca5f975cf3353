//! Work through whole adapters, sockets and runtime included, for `fila-instructions`. The server is a process of its own.

use futures::future::join_all;

use crate::null_server::Manner;
use crate::runtime::{AsyncClient, AsyncRuntime, Enqueue, OnAsyncStd, OnTokio, in_task};
use crate::target::{Target, message};

/// One kind of work on one adapter.
#[derive(Debug, Clone, Copy)]
pub struct Whole {
    /// As the table spells it.
    pub name: &'static str,
    /// How many messages one round handles.
    pub messages: u64,
    run: fn(u64),
}

impl Whole {
    /// The work of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        WHOLE.iter().find(|whole| whole.name == name)
    }

    /// Connects, and does so many rounds.
    ///
    /// # Panics
    ///
    /// The null server does not do its part.
    pub fn run(&self, rounds: u64) {
        (self.run)(rounds);
    }
}

const fn whole(name: &'static str, messages: u64, run: fn(u64)) -> Whole {
    Whole { name, messages, run }
}

/// The work whose instructions are recorded.
pub const WHOLE: [Whole; 7] = [
    whole("call_threads", 1, call_threads),
    whole("call_tokio", 1, call_tokio),
    whole("tasks_64_tokio", 64, |rounds| tasks(64, rounds)),
    whole("tasks_1000_tokio", 1000, |rounds| tasks(1000, rounds)),
    whole("consume_ack_queued_tokio", 64, consume),
    whole("lists_tokio", 800, |rounds| lists(&OnTokio::current_thread(), rounds)),
    whole("lists_asyncstd", 800, |rounds| lists(&OnAsyncStd, rounds)),
];

/// Calls one after another.
fn call_threads(rounds: u64) {
    let target = Target::null(Manner::default());
    let client = fila_client_blocking::Client::connect(target.config.clone()).expect("a server");
    for _ in 0..rounds {
        client.enqueue(message(&target.queue)).expect("confirmed");
    }
}

fn call_tokio(rounds: u64) {
    let (runtime, target) = (OnTokio::current_thread(), Target::null(Manner::default()));
    let client = connect(&runtime, &target);
    let queue = target.queue.clone();
    in_task(&runtime, async move {
        for _ in 0..rounds {
            client.enqueue(message(&queue)).await.expect("confirmed");
        }
    });
}

fn connect(runtime: &OnTokio, target: &Target) -> fila_client_tokio::Client {
    let client = fila_client_tokio::Client::connect(target.config.clone());
    runtime.block_on(client).expect("a server")
}

/// Calls of many tasks, which are answered together.
fn tasks(tasks: usize, rounds: u64) {
    let runtime = OnTokio::current_thread();
    let target = Target::null(Manner {
        coalesce: true,
        ..Manner::default()
    });
    let client = connect(&runtime, &target);
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let (client, queue) = (client.clone(), target.queue.clone());
            runtime.spawn(async move {
                for _ in 0..rounds {
                    client.enqueue(message(&queue)).await.expect("confirmed");
                }
            })
        })
        .collect();
    runtime.block_on(join_all(tasks));
}

fn consume(rounds: u64) {
    let runtime = OnTokio::current_thread();
    let target = Target::null(Manner::default());
    let client = connect(&runtime, &target);
    let queue = target.queue.clone();
    in_task(&runtime, async move {
        let mut consumer = client.consume(&queue).await.expect("a consumer");
        for _ in 0..rounds {
            let mut latest = None;
            for _ in 0..64 {
                let delivery = consumer.next().await.expect("the server goes on").expect("a delivery");
                latest = Some(delivery.ack_queued());
            }
            // The server never pauses: without a wait now and then, what it answers would be read late.
            latest.expect("64 of them").await.expect("acked");
        }
    });
}

/// Lists of a hundred messages, eight under way.
fn lists<R: AsyncRuntime>(runtime: &R, rounds: u64) {
    let target = Target::null(Manner::default());
    let client = R::Client::connect(target.config.clone());
    let client = runtime.block_on(client).expect("a server");
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (client, queue) = (client.clone(), target.queue.clone());
            runtime.spawn(async move {
                for _ in 0..rounds {
                    let list = vec![message(&queue); 100];
                    assert_eq!(client.enqueue_many(list).await, 100);
                }
            })
        })
        .collect();
    runtime.block_on(join_all(tasks));
}
