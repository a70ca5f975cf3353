//! Enqueues each line of stdin: `seq 100000 | cargo run --release --example bulk_producer_blocking -- QUEUE`.
//!
//! Progress goes to stderr. Lines that are not confirmed go to stdout, so that they can be fed in again.

mod shared;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fila_client_blocking::{Client, ErrorKind, Message, Outcome, Receipt};
use shared::{Result, server};

/// Receipts that are kept before the oldest is waited for.
const WINDOW: usize = 10_000;

#[derive(Default)]
struct Progress {
    confirmed: u64,
    failed: u64,
    unknown: u64,
    shown: Option<Instant>,
}

impl Progress {
    fn take(&mut self, receipt: Receipt) {
        match receipt.wait() {
            Ok(_) => self.confirmed += 1,
            Err(error) => {
                match error.outcome() {
                    Outcome::NotSent | Outcome::Rejected => self.failed += 1,
                    _ => self.unknown += 1,
                }
                if self.failed + self.unknown == 1 {
                    eprintln!("\nthe first failure: {error}");
                }
                println!("{}", String::from_utf8_lossy(&error.message.payload));
            }
        }
    }

    fn show(&mut self, began: Instant, last: bool) {
        let due = self.shown.is_none_or(|at| at.elapsed() >= Duration::from_millis(500));
        if !due && !last {
            return;
        }
        self.shown = Some(Instant::now());
        let rate = self.confirmed as f64 / began.elapsed().as_secs_f64().max(0.001);
        let Self {
            confirmed,
            failed,
            unknown,
            ..
        } = self;
        eprint!("\r{confirmed} confirmed, {failed} failed, {unknown} unknown, {rate:.0} per second ");
        if last {
            eprintln!();
        }
    }
}

fn main() -> Result<()> {
    let queue = std::env::args().nth(1).unwrap_or_else(|| "bulk".to_owned());
    let (_broker, config) = server()?;
    let client = Client::connect(config)?;
    match client.admin().create_queue(queue.as_str()) {
        Err(error) if error.kind() != ErrorKind::QueueExists => eprintln!("not creating \"{queue}\": {error}"),
        _ => {}
    }

    let producer = client.producer().build()?;
    let began = Instant::now();
    let mut progress = Progress::default();
    let mut receipts = VecDeque::new();
    for line in std::io::stdin().lines() {
        // Waits while the producer's buffer is full: stdin is read no faster than the broker confirms.
        receipts.push_back(producer.send(Message::new(queue.as_str(), line?))?);
        if receipts.len() > WINDOW
            && let Some(oldest) = receipts.pop_front()
        {
            progress.take(oldest);
            progress.show(began, false);
        }
    }
    for receipt in receipts {
        progress.take(receipt);
        progress.show(began, false);
    }
    progress.show(began, true);
    client.close(Duration::from_secs(5));
    if progress.failed + progress.unknown > 0 {
        std::process::exit(1);
    }
    Ok(())
}
