//! Alone in its process: counts the threads of the whole of it.
#![cfg(target_os = "linux")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use fila_client_blocking::{Client, Message};
use fila_test_broker::Broker;

fn client_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    // A thread may end while it is looked at.
    let names = tasks.map(|task| fs::read_to_string(task.path().join("comm")).unwrap_or_default());
    let ours = ["fila-driver", "fila-reader", "fila-connect"];
    names.filter(|name| ours.contains(&name.trim_end())).count()
}

fn until_no_threads() {
    let limit = Instant::now() + Duration::from_secs(30);
    while client_threads() > 0 {
        assert!(Instant::now() < limit, "threads are left");
        thread::yield_now();
    }
}

#[test]
fn threads_end_after_the_last_handle() {
    let broker = Broker::builder().queue("q").start().unwrap();
    for how in 0..4 {
        let client = Client::connect(broker.url().as_str()).unwrap();
        let producer = client.producer().build().unwrap();
        let consumer = client.consume("q").unwrap();
        drop(producer.send(Message::new("q", "m")).unwrap());
        client.enqueue(Message::new("q", "m")).unwrap();
        assert!(client_threads() >= 4);
        match how {
            0 => drop((client, producer, consumer)),
            1 => drop((consumer, producer, client)),
            2 => {
                client.close(Duration::from_secs(10));
                // The handles stay.
                until_no_threads();
            }
            _ => {
                broker.kill_connections();
                drop((producer, consumer, client));
            }
        }
        until_no_threads();
    }
    let unreachable = "fila://127.0.0.1:1?connect_timeout=50ms";
    drop(Client::connect(unreachable).unwrap_err());
    until_no_threads();
}
