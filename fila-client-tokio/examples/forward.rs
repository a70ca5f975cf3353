//! Sends the lines of stdin through a producer that is a sink:
//! `seq 100000 | cargo run -p fila-client-tokio --features sink --example forward -- QUEUE`.
//!
//! The producer waits while its buffer is full, and each message that is not stored comes back. Without `FILA_URL` it starts a
//! broker of its own, in memory, which has only the queue `orders`.

mod shared;

use fila_client_tokio::Client;
use fila_client_tokio::Message;
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::main]
async fn main() -> shared::Result<()> {
    let queue = std::env::args().nth(1).unwrap_or_else(|| "orders".to_owned());
    let (broker, config) = shared::server()?;
    let client = Client::connect(config).await?;
    if broker.is_some() {
        client.admin().create_queue("orders").await?;
    }

    let lines = BufReader::new(tokio::io::stdin()).lines();
    let lines = stream::unfold(lines, async |mut lines| match lines.next_line().await {
        Ok(line) => line.map(|line| (line, lines)),
        Err(error) => {
            eprintln!("stdin ends early: {error}");
            None
        }
    });
    let mut messages = Box::pin(lines.map(|line| Ok(Message::new(&*queue, line))).fuse());

    let mut producer = client.producer().build()?;
    let mut failed: u64 = 0;
    // It ends at each failure, and goes on where it was.
    while let Err(refused) = messages.as_mut().forward(&mut producer).await {
        failed += 1;
        if failed <= 10 {
            eprintln!("{:?} is not stored: {}", refused.message.payload, refused.error);
        }
    }
    println!("{} stored, {failed} failed", client.stats().messages_confirmed);
    Ok(())
}
