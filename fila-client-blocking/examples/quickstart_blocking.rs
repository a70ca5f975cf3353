//! A tour of the client: run it with `cargo run --example quickstart_blocking`.
//!
//! Without `FILA_URL` it starts a broker of its own, in memory. With `FILA_URL` (and `FILA_API_KEY`,
//! `FILA_CA_FILE`, …) it uses the broker there, on a queue of its own which it deletes in the end.

use std::time::{Duration, SystemTime};

use fila_client_blocking::{Client, Config, FromEnv, Message, Outcome, QueueStats};
use fila_test_broker::Broker;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let mut embedded = None;
    let config = if std::env::var_os("FILA_URL").is_some() {
        Config::from_env()?
    } else {
        println!("FILA_URL is not set: starting a broker in this process");
        Config::new(embedded.insert(Broker::builder().start()?).addr())
    };

    println!("connecting");
    let client = Client::connect(config.request_timeout(Duration::from_secs(5)))?;

    let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let queue = format!("quickstart-{}-{}", std::process::id(), age.as_micros());
    let admin = client.admin();
    admin.create_queue(queue.as_str())?;
    println!("created a queue");

    let result = tour(&client, &queue);
    admin.delete_queue(&queue)?;
    println!("deleted the queue");

    let report = client.close(Duration::from_secs(5));
    println!("closed: {} failed, {} unknown", report.failed, report.unknown);

    let stats = result?;
    println!("the queue's statistics, before it was deleted:");
    println!(
        "  messages         {} ({} of them leased)",
        stats.depth, stats.in_flight
    );
    println!("  fairness keys    {}", stats.active_fairness_keys);
    println!("  quantum          {}", stats.quantum);
    Ok(())
}

fn tour(client: &Client, queue: &str) -> Result<QueueStats> {
    client.enqueue(Message::new(queue, "first").header("tenant", "acme"))?;
    println!("enqueued \"first\"");

    let messages = ["second", "third"].map(|payload| Message::new(queue, payload));
    for result in client.enqueue_many(messages.into()) {
        result?;
    }
    println!("enqueued two more in one call");

    let producer = client.producer().build()?;
    let receipt = producer.send(Message::new(queue, "fourth"))?;
    println!("handed \"fourth\" to a producer");
    producer.flush()?;
    receipt.wait()?;
    println!("the broker confirmed it");

    let mut consumer = client.consumer(queue).prefetch(16).verify_queue(true).open()?;
    println!("consuming");
    // A cluster hands a nacked message out again only under another leader (docs/protocol/clusters.md 4).
    let list = client.admin().list_queues();
    let mut refused = list.is_ok_and(|list| list.cluster_node_count > 1);
    if refused {
        println!("this is a cluster: nothing will be nacked");
    }
    let mut done = 0;
    while done < 4 {
        let Some(delivery) = consumer.next().transpose()? else {
            return Err("the consumer ended".into());
        };
        let text = String::from_utf8_lossy(delivery.payload()).into_owned();
        let attempt = delivery.attempt_count() + 1;
        if text == "third" && !refused {
            refused = true;
            delivery.nack("not today")?;
            println!("attempt {attempt} of \"third\": nacked");
            continue;
        }
        match (text.as_str(), delivery.headers().get("tenant")) {
            ("first", tenant) => println!("\"first\" came with tenant {}", tenant.unwrap_or("unknown")),
            ("third", _) => println!("attempt {attempt} of \"third\": taken"),
            _ => {}
        }
        delivery.ack()?;
        done += 1;
    }
    println!("acked all four");

    match client.enqueue(Message::new("no-such-queue", "lost?")) {
        Ok(_) => println!("a queue that should not exist took a message"),
        Err(failed) => {
            let certain = failed.outcome() != Outcome::Unknown;
            println!(
                "refused: {}; certain: {certain}; payload back: {:?}",
                failed.kind(),
                failed.message.payload
            );
        }
    }

    drop(consumer);
    Ok(client.admin().queue_stats(queue)?)
}
