//! A service of N threads that stops gracefully: `cargo run --example worker_service_blocking -- [QUEUE [WORKERS]]`.
//!
//! Ctrl-C and SIGTERM finish what is in hand. Without `FILA_URL` it starts a broker, and gives itself something to do.

mod shared;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use fila_client_blocking::{Client, Delivery, ErrorKind, Message};
use shared::{Result, server};

/// The queue's visibility timeout, which no server announces. 30 s is what queues have that were created without one.
const LEASE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Tally {
    acked: AtomicU64,
    nacked: AtomicU64,
    lost: AtomicU64,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let queue = arguments.next().unwrap_or_else(|| "jobs".to_owned());
    let workers: usize = arguments.next().map_or(Ok(4), |text| text.parse())?;
    let stopping = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stopping);
    ctrlc::set_handler(move || stop.store(true, Ordering::Relaxed))?;

    let (broker, config) = server()?;
    let client = Client::connect(config)?;
    match client.admin().create_queue(queue.as_str()) {
        Err(error) if error.kind() != ErrorKind::QueueExists => println!("not creating \"{queue}\": {error}"),
        _ => {}
    }
    if broker.is_some() {
        let (client, queue) = (client.clone(), queue.clone());
        thread::spawn(move || give_work(&client, &queue));
    }

    let mut consumer = client
        .consumer(&queue)
        .prefetch(2 * workers)
        .visibility_timeout(LEASE)
        .verify_queue(true)
        .open()?;
    println!("{workers} workers serve \"{queue}\"; Ctrl-C or SIGTERM stops them");

    // No buffer: a delivery that waits for a worker uses up its lease, and waits in the consumer if it has to.
    let (jobs, waiting) = sync_channel::<Delivery>(0);
    let waiting = Mutex::new(waiting);
    let tally = Tally::default();
    thread::scope(|scope| -> Result<()> {
        for _ in 0..workers {
            scope.spawn(|| serve(&waiting, &tally));
        }
        // Moved, so that the workers end when this thread has nothing more for them.
        let jobs = jobs;
        while !stopping.load(Ordering::Relaxed) {
            if let Some(delivery) = consumer.recv_timeout(Duration::from_millis(100))? {
                jobs.send(delivery)?;
            }
        }
        println!("stopping");
        // What was received is still handed out, then comes `None`.
        consumer.drain();
        for delivery in &mut consumer {
            jobs.send(delivery?)?;
        }
        Ok(())
    })?;

    let report = client.close(Duration::from_secs(10));
    println!(
        "done: {} acked, {} nacked, {} not settled; closed with {} failed, {} unknown",
        tally.acked.load(Ordering::Relaxed),
        tally.nacked.load(Ordering::Relaxed),
        tally.lost.load(Ordering::Relaxed),
        report.failed,
        report.unknown
    );
    Ok(())
}

fn serve(waiting: &Mutex<Receiver<Delivery>>, tally: &Tally) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(delivery) = next else { return };
        let (counter, settled) = match handle(delivery.payload()) {
            Ok(()) => (&tally.acked, delivery.ack()),
            Err(why) => (&tally.nacked, delivery.nack(why)),
        };
        match settled {
            Ok(()) => counter.fetch_add(1, Ordering::Relaxed),
            Err(failed) => {
                // It is delivered again, here or elsewhere.
                eprintln!("not settled: {failed}");
                tally.lost.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

/// The job itself: 50 ms of work; one in ten fails, and ends in the dead-letter queue where the queue has a script for that.
fn handle(payload: &[u8]) -> std::result::Result<(), &'static str> {
    thread::sleep(Duration::from_millis(50));
    if payload.ends_with(b"9") {
        Err("9 is not a number we like")
    } else {
        Ok(())
    }
}

fn give_work(client: &Client, queue: &str) {
    for n in 0_u64.. {
        if client.enqueue(Message::new(queue, format!("job {n}"))).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
