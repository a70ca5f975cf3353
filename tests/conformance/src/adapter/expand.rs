//! The wrappers around an adapter's types, written once for all three.

use fibp_proto::Received;

/// Implements the traits of [`super`] for the types of one adapter crate. `$wait!(call)` makes a call's result of the
/// call: it awaits it, or leaves it as it is where calls block.
macro_rules! wrap_adapter {
    ($krate:ident, $wait:ident) => {
        use std::sync::Arc;
        use std::time::{Duration, Instant};

        use fibp_proto::admin::{
            Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, Permission, QueueList, QueueSpec, QueueStats,
        };
        use fibp_proto::client::AckItem;
        use fibp_proto::config::{Config, ConsumerSettings, ProducerSettings};
        use fibp_proto::event::{State, Stats};
        use fibp_proto::machine::CloseReport;
        use fibp_proto::request::NackItem;
        use fibp_proto::{Error, Message, MessageId, Received, SendError};

        use crate::adapter::{Client, Consumer, Delivery, Events, Producer, Receipt, Settled, Taken, Wait};

        async fn connect(config: Config) -> Result<Arc<dyn Client>, Error> {
            let client: Arc<dyn Client> = Arc::new($wait!($krate::Client::connect(config))?);
            Ok(client)
        }

        fn ack_item((queue, id): (String, MessageId)) -> AckItem {
            AckItem::new(queue, id)
        }

        fn nack_item((queue, id, error): (String, MessageId, String)) -> NackItem {
            NackItem {
                queue: queue.into(),
                id,
                error,
            }
        }

        impl Client for $krate::Client {
            fn duplicate(&self) -> Arc<dyn Client> {
                Arc::new(self.clone())
            }
            fn with_timeout(&self, timeout: Duration) -> Arc<dyn Client> {
                Arc::new($krate::Client::with_timeout(self, timeout))
            }
            fn enqueue(&self, message: Message) -> Wait<'_, Result<MessageId, SendError>> {
                Box::pin(async move { $wait!($krate::Client::enqueue(self, message)) })
            }
            fn enqueue_many(&self, messages: Vec<Message>) -> Wait<'_, Vec<Result<MessageId, SendError>>> {
                Box::pin(async move { $wait!($krate::Client::enqueue_many(self, messages)) })
            }
            fn ack<'a>(&'a self, queue: &'a str, id: &'a MessageId) -> Wait<'a, Result<(), Error>> {
                Box::pin(async move { $wait!($krate::Client::ack(self, queue, id)) })
            }
            fn nack<'a>(&'a self, queue: &'a str, id: &'a MessageId, why: &'a str) -> Wait<'a, Result<(), Error>> {
                Box::pin(async move { $wait!($krate::Client::nack(self, queue, id, why)) })
            }
            fn ack_many(&self, items: Vec<(String, MessageId)>) -> Wait<'_, Vec<Result<(), Error>>> {
                Box::pin(async move { $wait!($krate::Client::ack_many(self, items.into_iter().map(ack_item))) })
            }
            fn nack_many(&self, items: Vec<(String, MessageId, String)>) -> Wait<'_, Vec<Result<(), Error>>> {
                Box::pin(async move { $wait!($krate::Client::nack_many(self, items.into_iter().map(nack_item))) })
            }
            fn producer(&self, settings: ProducerSettings) -> Result<Box<dyn Producer>, Error> {
                let builder = $krate::Client::producer(self)
                    .batching(settings.batching)
                    .max_messages(settings.max_messages)
                    .max_bytes(settings.max_bytes)
                    .buffer(settings.buffer)
                    .on_full(settings.on_full);
                let producer: Box<dyn Producer> = Box::new(builder.build()?);
                Ok(producer)
            }
            fn consumer<'a>(
                &'a self,
                queue: &'a str,
                settings: ConsumerSettings,
            ) -> Wait<'a, Result<Box<dyn Consumer>, Error>> {
                Box::pin(async move {
                    let builder = $krate::Client::consumer(self, queue)
                        .prefetch(settings.prefetch)
                        .credit(settings.credit)
                        .visibility_timeout(settings.visibility_timeout)
                        .expired(settings.expired)
                        .idle_resubscribe(settings.idle_resubscribe)
                        .resubscribe(settings.resubscribe)
                        .verify_queue(settings.verify_queue)
                        .receive_buffer(settings.receive_buffer);
                    let consumer: Box<dyn Consumer> = Box::new($wait!(builder.open())?);
                    Ok(consumer)
                })
            }
            fn create_queue(&self, spec: QueueSpec) -> Wait<'_, Result<String, Error>> {
                Box::pin(async move { $wait!(self.admin().create_queue(spec)) })
            }
            fn delete_queue<'a>(&'a self, queue: &'a str) -> Wait<'a, Result<(), Error>> {
                Box::pin(async move { $wait!(self.admin().delete_queue(queue)) })
            }
            fn queue_stats<'a>(&'a self, queue: &'a str) -> Wait<'a, Result<QueueStats, Error>> {
                Box::pin(async move { $wait!(self.admin().queue_stats(queue)) })
            }
            fn list_queues(&self) -> Wait<'_, Result<QueueList, Error>> {
                Box::pin(async move { $wait!(self.admin().list_queues()) })
            }
            fn redrive<'a>(&'a self, dlq: &'a str, count: u64) -> Wait<'a, Result<u64, Error>> {
                Box::pin(async move { $wait!(self.admin().redrive(dlq, count)) })
            }
            fn set_config<'a>(&'a self, key: &'a str, value: &'a str) -> Wait<'a, Result<(), Error>> {
                Box::pin(async move { $wait!(self.admin().set_config(key, value)) })
            }
            fn get_config<'a>(&'a self, key: &'a str) -> Wait<'a, Result<String, Error>> {
                Box::pin(async move { $wait!(self.admin().get_config(key)) })
            }
            fn list_config<'a>(&'a self, prefix: &'a str) -> Wait<'a, Result<Vec<(String, String)>, Error>> {
                Box::pin(async move { $wait!(self.admin().list_config(prefix)) })
            }
            fn create_api_key(&self, spec: ApiKeySpec) -> Wait<'_, Result<CreatedApiKey, Error>> {
                Box::pin(async move { $wait!(self.admin().create_api_key(spec)) })
            }
            fn revoke_api_key<'a>(&'a self, key_id: &'a str) -> Wait<'a, Result<(), Error>> {
                Box::pin(async move { $wait!(self.admin().revoke_api_key(key_id)) })
            }
            fn list_api_keys(&self) -> Wait<'_, Result<Vec<ApiKeyInfo>, Error>> {
                Box::pin(async move { $wait!(self.admin().list_api_keys()) })
            }
            fn set_acl<'a>(&'a self, key_id: &'a str, grants: Vec<Permission>) -> Wait<'a, Result<(), Error>> {
                Box::pin(async move { $wait!(self.admin().set_acl(key_id, grants)) })
            }
            fn get_acl<'a>(&'a self, key_id: &'a str) -> Wait<'a, Result<Acl, Error>> {
                Box::pin(async move { $wait!(self.admin().get_acl(key_id)) })
            }
            fn state(&self) -> State {
                $krate::Client::state(self)
            }
            fn stats(&self) -> Stats {
                $krate::Client::stats(self)
            }
            fn events(&self) -> Box<dyn Events> {
                Box::new($krate::Client::events(self))
            }
            fn close(&self, deadline: Duration) -> Wait<'_, CloseReport> {
                Box::pin(async move { $wait!($krate::Client::close(self, deadline)) })
            }
        }

        impl Producer for $krate::Producer {
            fn send(&self, message: Message) -> Wait<'_, Result<Box<dyn Receipt>, SendError>> {
                Box::pin(async move {
                    let receipt: Box<dyn Receipt> = Box::new($wait!($krate::Producer::send(self, message))?);
                    Ok(receipt)
                })
            }
            fn try_send(&self, message: Message) -> Result<Box<dyn Receipt>, SendError> {
                let receipt: Box<dyn Receipt> = Box::new($krate::Producer::try_send(self, message)?);
                Ok(receipt)
            }
            fn flush(&self) -> Wait<'_, Result<(), Error>> {
                Box::pin(async move { $wait!($krate::Producer::flush(self)) })
            }
        }

        /// A delivery with its contents in one piece.
        struct Held {
            delivery: $krate::Delivery,
            received: Received,
        }

        impl Held {
            fn boxed(delivery: $krate::Delivery) -> Box<dyn Delivery> {
                let received = $crate::adapter::expand::received_of!(delivery);
                Box::new(Self { delivery, received })
            }

            fn returned(failed: $krate::AckError) -> (Error, Box<dyn Delivery>) {
                (failed.error, Self::boxed(failed.delivery))
            }
        }

        impl Delivery for Held {
            fn received(&self) -> &Received {
                &self.received
            }
            fn lease_deadline(&self) -> Option<Instant> {
                self.delivery.lease_deadline()
            }
            fn ack(self: Box<Self>) -> Wait<'static, Settled> {
                Box::pin(async move { $wait!(self.delivery.ack()).map_err(Self::returned) })
            }
            fn nack(self: Box<Self>, why: &'static str) -> Wait<'static, Settled> {
                Box::pin(async move { $wait!(self.delivery.nack(why)).map_err(Self::returned) })
            }
            fn ack_by_parts(self: Box<Self>) -> (Received, Wait<'static, Result<(), Error>>) {
                let (received, acker) = self.delivery.into_parts();
                let ack = async move { $wait!(acker.ack()).map_err(|failed| failed.error) };
                (received, Box::pin(ack))
            }
            fn ack_queued(self: Box<Self>) -> Wait<'static, Result<(), Error>> {
                receipt(self.delivery.ack_queued())
            }
            fn nack_queued(self: Box<Self>, why: &str) -> Wait<'static, Result<(), Error>> {
                receipt(self.delivery.nack_queued(why))
            }
            fn settle_queued_by_parts(self: Box<Self>, nack: Option<&str>) -> Wait<'static, Result<(), Error>> {
                let (_, acker) = self.delivery.into_parts();
                receipt(match nack {
                    Some(why) => acker.nack_queued(why),
                    None => acker.ack_queued(),
                })
            }
            fn ack_item(&self) -> AckItem {
                AckItem::from(&self.delivery)
            }
            fn acker(self: Box<Self>) -> (MessageId, String, Option<Instant>) {
                let (_, acker) = self.delivery.into_parts();
                (
                    acker.id().clone(),
                    acker.queue().to_owned(),
                    acker.lease_deadline(),
                )
            }
        }
    };
}

/// What is a future or a stream in the asynchronous adapters.
macro_rules! wrap_async {
    ($krate:ident, $timeout:ident) => {
        fn receipt(receipt: $krate::AckReceipt) -> Wait<'static, Result<(), Error>> {
            Box::pin(receipt)
        }

        impl Receipt for $krate::Receipt {
            fn wait(self: Box<Self>) -> Wait<'static, Result<MessageId, SendError>> {
                Box::pin(*self)
            }
            fn wait_timeout(self: Box<Self>, timeout: Duration) -> Wait<'static, Option<Result<MessageId, SendError>>> {
                Box::pin($timeout(timeout, *self))
            }
        }

        impl Consumer for $krate::Consumer {
            fn next(&mut self) -> Wait<'_, Taken> {
                Box::pin(async move { Some($krate::Consumer::next(self).await?.map(Held::boxed)) })
            }
            fn next_within(&mut self, timeout: Duration) -> Wait<'_, Option<Taken>> {
                Box::pin($timeout(timeout, Consumer::next(self)))
            }
            fn drain(&mut self) -> Wait<'_, ()> {
                Box::pin($krate::Consumer::drain(self))
            }
        }
    };
}

/// The contents of an adapter's delivery, through its accessors.
macro_rules! received_of {
    ($delivery:ident) => {{
        let contents = $crate::adapter::expand::contents(
            $delivery.id(),
            $delivery.queue(),
            $delivery.headers(),
            $delivery.payload(),
            $delivery.fairness_key(),
            $delivery.attempt_count(),
        );
        $crate::adapter::expand::Extras {
            weight: $delivery.weight(),
            throttle_keys: $delivery.throttle_keys().map(<[String]>::to_vec),
            enqueued_at_ms: $delivery.enqueued_at_ms(),
            leased_at_ms: $delivery.leased_at_ms(),
        }
        .complete(contents)
    }};
}

pub(super) use {received_of, wrap_adapter, wrap_async};

pub(super) fn contents(
    id: &fibp_proto::MessageId,
    queue: &str,
    headers: &fibp_proto::Headers,
    payload: &bytes::Bytes,
    fairness_key: &str,
    attempt_count: u32,
) -> Received {
    Received::new(
        id.clone(),
        queue,
        headers.clone(),
        payload.clone(),
        fairness_key,
        attempt_count,
    )
}

/// What only some dialects deliver.
pub(super) struct Extras {
    pub(super) weight: Option<u32>,
    pub(super) throttle_keys: Option<Vec<String>>,
    pub(super) enqueued_at_ms: Option<u64>,
    pub(super) leased_at_ms: Option<u64>,
}

impl Extras {
    pub(super) fn complete(self, mut received: Received) -> Received {
        received.weight = self.weight;
        received.throttle_keys = self.throttle_keys;
        received.enqueued_at_ms = self.enqueued_at_ms;
        received.leased_at_ms = self.leased_at_ms;
        received
    }
}
