//! Request timeouts under load: `cargo run --example timeouts_asyncstd`. The broker in this process is slow on purpose.
//!
//! Every call ends in time, and says what is known of its message; the runtime's own timeout loses both.

use std::time::{Duration, Instant};

use async_std::{future, task};
use fila_client_asyncstd::{Client, Message, Outcome};
use fila_test_broker::{Broker, Op};

const CALLS: usize = 500;
const TIMEOUT: Duration = Duration::from_millis(200);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    task::block_on(demonstrate())
}

async fn demonstrate() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::builder().queue("orders").start()?;
    let client = Client::connect(broker.url()).await?;
    let hasty = client.with_timeout(TIMEOUT);

    for (what, slow) in [("a fast broker", false), ("a broker that stopped answering", true)] {
        broker.delay(Op::Enqueue, if slow { Duration::from_secs(60) } else { Duration::ZERO });
        let began = Instant::now();
        let mut calls = Vec::new();
        for n in 0..CALLS {
            let client = hasty.clone();
            calls.push(task::spawn(async move {
                client.enqueue(Message::new("orders", format!("{n}"))).await
            }));
        }
        let (mut confirmed, mut not_stored, mut unknown, mut example) = (0, 0, 0, None);
        for call in calls {
            match call.await {
                Ok(_) => confirmed += 1,
                Err(failed) if failed.outcome() == Outcome::Unknown => {
                    unknown += 1;
                    example = Some(failed);
                }
                Err(_) => not_stored += 1,
            }
        }
        println!(
            "{CALLS} calls with {TIMEOUT:?} each, {what}: all ended after {:?}",
            began.elapsed()
        );
        println!("  {confirmed} confirmed, {not_stored} certainly not stored, {unknown} unknown");
        if let Some(failed) = example {
            println!(
                "  for example: {failed}; its payload came back: {:?}",
                failed.message.payload
            );
        }
    }

    let dropped = future::timeout(TIMEOUT, client.enqueue(Message::new("orders", "dropped"))).await;
    println!("the runtime's timeout says only: {:?}", dropped.map(|_| ()));

    broker.delay(Op::Enqueue, Duration::ZERO);
    broker.restart()?;
    client.enqueue(Message::new("orders", "afterwards")).await?;
    println!("and the same client goes on: a message was confirmed after the broker's restart");
    Ok(())
}
