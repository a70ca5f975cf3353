//! A service of N workers that stops gracefully: `cargo run --example worker_service_asyncstd -- [QUEUE [WORKERS]]`.
//!
//! Ctrl-C and SIGTERM finish what is in hand. Without `FILA_URL` it starts a broker, and gives itself something to do.

mod shared;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_std::stream::Stream;
use async_std::{channel, task};
use fila_client_asyncstd::{Client, Delivery, ErrorKind, Event, Message};
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
    task::block_on(serve())
}

async fn serve() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let queue = arguments.next().unwrap_or_else(|| "jobs".to_owned());
    let workers: usize = arguments.next().map_or(Ok(4), |text| text.parse())?;
    let (stop, stopped) = channel::bounded(1);
    let mut stopped = Box::pin(stopped);
    ctrlc::set_handler(move || {
        let _ = stop.try_send(());
    })?;

    let (broker, config) = server()?;
    let client = Client::connect(config).await?;
    match client.admin().create_queue(queue.as_str()).await {
        Err(error) if error.kind() != ErrorKind::QueueExists => println!("not creating \"{queue}\": {error}"),
        _ => {}
    }
    if broker.is_some() {
        task::spawn(give_work(client.clone(), queue.clone()));
    }
    task::spawn(report_events(client.clone()));

    let mut consumer = client
        .consumer(&queue)
        .prefetch(2 * workers)
        .visibility_timeout(LEASE)
        .verify_queue(true)
        .open()
        .await?;
    println!("{workers} workers serve \"{queue}\"; Ctrl-C or SIGTERM stops them");

    let tally = Arc::new(Tally::default());
    let (jobs, waiting) = channel::bounded::<Delivery>(1);
    let mut running = Vec::new();
    for _ in 0..workers {
        let (waiting, tally) = (waiting.clone(), Arc::clone(&tally));
        running.push(task::spawn(async move {
            while let Ok(delivery) = waiting.recv().await {
                work(delivery, &tally).await;
            }
        }));
    }
    let mut draining = false;
    loop {
        // `None`: stop.
        let next = poll_fn(|cx| match stopped.as_mut().poll_next(cx) {
            Poll::Ready(Some(())) if !draining => Poll::Ready(None),
            _ => Pin::new(&mut consumer).poll_next(cx).map(Some),
        })
        .await;
        match next {
            None => {
                println!("stopping");
                // What was received is still handed out, then comes `None`.
                consumer.drain().await;
                draining = true;
            }
            Some(Some(delivery)) => jobs.send(delivery?).await?,
            Some(None) => break,
        }
    }
    drop(jobs);
    for worker in running {
        worker.await;
    }

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
    task::sleep(Duration::from_millis(50)).await;
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
        task::sleep(Duration::from_millis(20)).await;
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
