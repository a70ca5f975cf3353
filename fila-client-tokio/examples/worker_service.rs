//! A service of N workers that stops gracefully: `cargo run --example worker_service -- [QUEUE [WORKERS]]`.
//!
//! Ctrl-C and SIGTERM finish what is in hand. Without `FILA_URL` it starts a broker, and gives itself something to do.

mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fila_client_tokio::{Client, Delivery, ErrorKind, Event, Message};
use shared::{Result, server};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The queue's visibility timeout, which no server announces. 30 s is what queues have that were created without one.
const LEASE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Tally {
    acked: AtomicU64,
    nacked: AtomicU64,
    lost: AtomicU64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let queue = arguments.next().unwrap_or_else(|| "jobs".to_owned());
    let workers: usize = arguments.next().map_or(Ok(4), |text| text.parse())?;
    // First, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let (broker, config) = server()?;
    let client = Client::connect(config).await?;
    match client.admin().create_queue(queue.as_str()).await {
        Err(error) if error.kind() != ErrorKind::QueueExists => println!("not creating \"{queue}\": {error}"),
        _ => {}
    }
    if broker.is_some() {
        tokio::spawn(give_work(client.clone(), queue.clone()));
    }
    tokio::spawn(report_events(client.clone()));

    let mut consumer = client
        .consumer(&queue)
        .prefetch(2 * workers)
        .visibility_timeout(LEASE)
        .verify_queue(true)
        .open()
        .await?;
    println!("{workers} workers serve \"{queue}\"; Ctrl-C or SIGTERM stops them");

    let permits = Arc::new(Semaphore::new(workers));
    let tally = Arc::new(Tally::default());
    let mut jobs = JoinSet::new();
    let mut draining = false;
    loop {
        // A free worker first: a delivery that waits for one uses up its lease.
        let permit = Arc::clone(&permits).acquire_owned().await?;
        let next = tokio::select! {
            next = consumer.next() => Some(next),
            _ = terminate.recv(), if !draining => None,
            _ = interrupt.recv(), if !draining => None,
        };
        let Some(next) = next else {
            println!("stopping: {} jobs in hand", workers - permits.available_permits() - 1);
            // What was received is still handed out, then comes `None`.
            consumer.drain().await;
            draining = true;
            continue;
        };
        let Some(delivery) = next.transpose()? else { break };
        let tally = Arc::clone(&tally);
        jobs.spawn(async move {
            work(delivery, &tally).await;
            drop(permit);
        });
        while jobs.try_join_next().is_some() {}
    }
    while jobs.join_next().await.is_some() {}

    let report = client.close(Duration::from_secs(10)).await;
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

async fn work(delivery: Delivery, tally: &Tally) {
    let (counter, settled) = match handle(delivery.payload()).await {
        Ok(()) => (&tally.acked, delivery.ack().await),
        Err(why) => (&tally.nacked, delivery.nack(why).await),
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

/// The job itself: 50 ms of work; one in ten fails, and ends in the dead-letter queue where the queue has a script for that.
async fn handle(payload: &[u8]) -> std::result::Result<(), &'static str> {
    tokio::time::sleep(Duration::from_millis(50)).await;
    if payload.ends_with(b"9") {
        Err("9 is not a number we like")
    } else {
        Ok(())
    }
}

async fn give_work(client: Client, queue: String) {
    for n in 0_u64.. {
        if client
            .enqueue(Message::new(queue.as_str(), format!("job {n}")))
            .await
            .is_err()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn report_events(client: Client) {
    let mut events = client.events();
    drop(client); // the service ends when it is closed
    while let Some(event) = events.next().await {
        match event {
            event @ Event::Disconnected { .. } => eprintln!("{event}"),
            Event::Resubscribed { queue } => eprintln!("consuming {queue} again"),
            Event::LateSettle { id, late_by, .. } => eprintln!("{id} was settled {late_by:?} after its lease"),
            _ => {}
        }
    }
}
