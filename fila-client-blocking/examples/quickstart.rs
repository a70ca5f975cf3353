//! Creates a queue, fills it and empties it again: against the server that `FILA_URL` names, or against a broker
//! inside this process.

use std::time::Duration;

use fila_client_blocking::{Client, Error, ErrorKind, Message};
use fila_test_broker::Broker;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker;
    let client = if std::env::var_os("FILA_URL").is_some() {
        Client::from_env()?
    } else {
        broker = Broker::builder().start()?;
        Client::connect(broker.url().as_str())?
    };

    match client.admin().create_queue("quickstart") {
        Err(error) if error.kind() == ErrorKind::QueueExists => {}
        result => drop(result?),
    }

    let message = Message::new("quickstart", "one by one").header("tenant", "acme");
    client.enqueue(message)?;

    let batch = (0..3)
        .map(|n| Message::new("quickstart", format!("batch {n}")))
        .collect();
    for result in client.enqueue_many(batch) {
        result?;
    }

    let producer = client.producer().build()?;
    let receipts = (0..3)
        .map(|n| producer.send(Message::new("quickstart", format!("stream {n}"))))
        .collect::<Result<Vec<_>, _>>()?;
    for receipt in receipts {
        receipt.wait()?;
    }
    println!("enqueued 7 messages");

    let consumer = client.consume("quickstart")?;
    for delivery in consumer.take(7) {
        let delivery = delivery?;
        println!("received {:?}", String::from_utf8_lossy(delivery.payload()));
        delivery.ack().map_err(Error::from)?;
    }

    let report = client.close(Duration::from_secs(5));
    println!("closed: {} failed, {} unknown", report.failed, report.unknown);
    Ok(())
}
