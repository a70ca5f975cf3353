//! A whole session that survives whatever breaks below it.

use std::sync::Arc;
use std::time::Duration;

use fibp_proto::admin::QueueSpec;
use fibp_proto::config::{Backoff, Config, ConsumerSettings, Reconnect};
use fibp_proto::{ErrorKind, Message, Outcome};

use crate::adapter::Adapter;
use crate::env::PATIENCE;

/// Notices quickly what breaks, and dials again at once.
pub fn config(config: Config) -> Config {
    let backoff = Backoff {
        initial: Duration::from_millis(1),
        max: Duration::from_millis(10),
        max_attempts: None,
    };
    config
        .reconnect(Reconnect::Backoff(backoff))
        .connect_timeout(Duration::from_secs(5))
        .request_timeout(Duration::from_secs(5))
        .heartbeat(Duration::from_millis(200), 2)
}

/// The same without a clock that could take a busy machine for a broken connection.
pub fn patient(patient: Config) -> Config {
    config(patient).request_timeout(PATIENCE).no_heartbeat()
}

/// A whole session on a queue that it creates and leaves behind. Whatever breaks, every call returns, what is confirmed
/// is stored, and what is stored is delivered. `external` servers are not steered by this process.
///
/// # Panics
///
/// One of these does not hold; `what` is part of the message.
pub async fn perform(adapter: Arc<dyn Adapter>, config: Config, queue: String, what: String, external: bool) {
    let patient = config.settings().heartbeat.is_none();
    let client = adapter
        .connect(config)
        .await
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let queue = queue.as_str();
    // What a broken connection had leased is to come back soon.
    let spec = QueueSpec::new(queue).visibility_timeout(Duration::from_secs(1));
    match client.create_queue(spec).await {
        Ok(_) => {}
        // Created by an attempt whose answer was lost.
        Err(error) => assert_eq!(error.kind(), ErrorKind::QueueExists, "{what}: {error}"),
    }
    let mut confirmed = Vec::new();
    for n in 0..2u8 {
        match client.enqueue(Message::new(queue, vec![n; 50])).await {
            Ok(id) => confirmed.push(id),
            Err(error) => {
                assert_eq!(
                    (error.kind(), error.outcome()),
                    (ErrorKind::Disconnected, Outcome::Unknown),
                    "{what}: {error}"
                );
            }
        }
    }
    let last = loop {
        match client.enqueue(Message::new(queue, "last")).await {
            Ok(id) => break id,
            Err(error) => assert_eq!(error.outcome(), Outcome::Unknown, "{what}: {error}"),
        }
    };
    confirmed.push(last);

    let silence = match (patient, external) {
        (true, _) => PATIENCE,
        // A scheduler that is asked too often never reclaims a lease (docs/protocol/preamble.md 1.14).
        (false, true) => Duration::from_secs(2),
        (false, false) => Duration::from_millis(500),
    };
    let settings = ConsumerSettings::default().idle_resubscribe(silence);
    let mut consumer = client
        .consumer(queue, settings)
        .await
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    while !confirmed.is_empty() {
        let taken = consumer
            .next_within(PATIENCE)
            .await
            .unwrap_or_else(|| panic!("{what}: {} never came", confirmed.len()));
        let delivery = taken
            .expect("not ended")
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        confirmed.retain(|id| *id != delivery.received().id);
        if let Err((error, _)) = delivery.ack().await {
            let kinds = [
                ErrorKind::Disconnected,
                ErrorKind::LeaseLost,
                ErrorKind::MessageNotFound,
                ErrorKind::Timeout,
            ];
            assert!(kinds.contains(&error.kind()), "{what}: {error}");
        }
    }
    drop(consumer);
    let report = client.close(PATIENCE).await;
    assert_eq!((report.failed, report.unknown), (0, 0), "{what}");
}
