//! Request timeouts under load: `cargo run --example timeouts_blocking`. The broker in this process is slow on purpose.
//!
//! Every call ends in time, and says what is known of its message.

use std::thread;
use std::time::{Duration, Instant};

use fila_client_blocking::{Client, Message, Outcome};
use fila_test_broker::{Broker, Op};

const CALLS: usize = 200;
const TIMEOUT: Duration = Duration::from_millis(200);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::builder().queue("orders").start()?;
    let client = Client::connect(broker.url())?;
    let hasty = client.with_timeout(TIMEOUT);

    for (what, slow) in [("a fast broker", false), ("a broker that stopped answering", true)] {
        broker.delay(Op::Enqueue, if slow { Duration::from_secs(60) } else { Duration::ZERO });
        let began = Instant::now();
        let mut calls = Vec::new();
        for n in 0..CALLS {
            let client = hasty.clone();
            calls.push(thread::spawn(move || {
                client.enqueue(Message::new("orders", format!("{n}")))
            }));
        }
        let (mut confirmed, mut not_stored, mut unknown, mut example) = (0, 0, 0, None);
        for call in calls {
            match call.join().expect("no call panics") {
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

    broker.delay(Op::Enqueue, Duration::ZERO);
    broker.restart()?;
    client.enqueue(Message::new("orders", "afterwards"))?;
    println!("and the same client goes on: a message was confirmed after the broker's restart");
    Ok(())
}
