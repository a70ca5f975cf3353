//! Rows 8 and 35: what becomes of deliveries whose lease has ended, and when a window of credit opens again. The broker's
//! clock stands still unless a case moves it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fibp_proto::config::{ConsumerSettings, Credit, Expired};
use fibp_proto::{Event, Message, MessageId};
use fila_conformance::adapter::{Client, Consumer, Delivery};
use fila_conformance::broker::{Broker, BrokerBuilder, Faults, ManualClock, start_with};
use fila_conformance::cases;
use fila_conformance::env::{Env, PATIENCE, next};

/// How long leases are, by the broker's clock.
const LEASE: Duration = Duration::from_secs(1);

/// A broker whose clock stands still, a client of it, and a queue.
struct Bench<'a> {
    env: &'a Env,
    broker: &'a Broker,
    clock: ManualClock,
    client: Arc<dyn Client>,
    queue: String,
    /// How often messages that are settled were handed out.
    settled: u64,
}

impl<'a> Bench<'a> {
    async fn new(env: &'a Env, change: impl FnOnce(BrokerBuilder) -> BrokerBuilder) -> Self {
        let clock = ManualClock::new();
        let start = |builder: BrokerBuilder| change(builder.manual_clock(clock.clone()));
        let broker = env.start_broker(|dialect| start_with(dialect, start));
        let client = env.client().await;
        let queue = env.queue_with(&client, |spec| spec.visibility_timeout(LEASE)).await;
        Self {
            env,
            broker,
            clock,
            client,
            queue,
            settled: 0,
        }
    }

    async fn fill(&self, messages: u8) -> BTreeSet<MessageId> {
        let messages = (0..messages)
            .map(|n| Message::new(self.queue.as_str(), vec![n]))
            .collect();
        let sent = self.client.enqueue_many(messages).await;
        sent.into_iter().map(|result| result.expect("confirmed")).collect()
    }

    async fn consumer(&self, settings: ConsumerSettings) -> Box<dyn Consumer> {
        let consumer = self.client.consumer(&self.queue, settings).await;
        consumer.expect("a consumer")
    }

    /// Waits until every message is handed out, and has arrived.
    async fn arrived(&self) {
        let arrived = async || {
            let stored = self.broker.messages(&self.queue);
            let handed_out = stored
                .iter()
                .map(|message| u64::from(message.attempt_count) + 1)
                .sum::<u64>();
            stored.iter().all(|message| message.leased) && self.client.stats().deliveries == handed_out + self.settled
        };
        self.env.eventually("everything has arrived", arrived).await;
    }

    /// Ends all leases, and waits until everything has arrived again.
    async fn redeliver(&self) {
        self.clock.advance(LEASE);
        self.arrived().await;
    }

    fn expired(&self) -> u64 {
        self.client.stats().expired
    }
}

/// The first `count` deliveries that are skipped as expired, as the events say it.
async fn skipped(events: &mut Box<dyn fila_conformance::adapter::Events>, count: u64) -> Vec<u64> {
    let mut told = Vec::new();
    while told.iter().sum::<u64>() < count {
        if let Event::Expired { skipped, .. } = events.next().await.expect("events go on") {
            told.push(skipped);
        }
    }
    told
}

cases! {
    Peer, [p1 P1, p3 P3, framed FRAMED];

    /// A handler takes more than a seventh of the lease for each of 40 messages that all come at once. It works on what it
    /// still holds: at most 4 of them are handled in vain.
    async fn row_35_a_slow_handler_works_on_what_it_still_holds(env: &Env) {
        const HANDLING: Duration = Duration::from_millis(20);
        // The broker's clock moves by this while a message is handled, which takes HANDLING at least: a machine that is
        // busy makes deliveries expire earlier for the client than for the broker, never later.
        let by_the_broker = LEASE * 3 / 20;
        let lease = HANDLING * 20 / 3;
        let mut bench = Bench::new(env, |builder| builder).await;
        let mut left = bench.fill(40).await;
        let mut consumer = bench.consumer(ConsumerSettings::default().visibility_timeout(lease)).await;
        bench.arrived().await;
        let mut handled = 0;
        while !left.is_empty() {
            let Some(taken) = consumer.next_within(Duration::from_millis(50)).await else {
                bench.redeliver().await;
                continue;
            };
            let delivery = taken.expect("not ended").expect("a delivery");
            let (id, attempts) = (delivery.received().id.clone(), delivery.received().attempt_count);
            handled += 1;
            env.sleep(HANDLING).await;
            if delivery.ack().await.is_ok() && left.remove(&id) {
                bench.settled += u64::from(attempts) + 1;
            }
            bench.clock.advance(by_the_broker);
        }
        assert!(handled <= 44, "{handled} handled for 40 messages");
        assert!(bench.expired() > 0, "nothing was skipped");
    }

    /// What has expired before it is handed out is skipped, counted, and told once; the next of it is handed out.
    async fn row_35_expired_deliveries_are_skipped(env: &Env) {
        // Everything comes in one burst.
        let bench = Bench::new(env, |builder| builder.faults(Faults::default().consume_ack_coalesced(true))).await;
        let mut events = bench.client.events();
        let ids = bench.fill(10).await;
        let lease = Duration::from_millis(100);
        let mut consumer = bench.consumer(ConsumerSettings::default().visibility_timeout(lease)).await;
        bench.arrived().await;
        env.sleep(lease).await;
        assert!(consumer.next_within(Duration::from_millis(50)).await.is_none(), "all have expired");
        assert_eq!(bench.expired(), 10);
        assert_eq!(skipped(&mut events, 10).await, [10], "one event for the burst");

        // How long it takes to come here is not bounded, so the next one may have expired, too.
        let again = loop {
            bench.redeliver().await;
            if let Some(taken) = consumer.next_within(Duration::from_millis(50)).await {
                break taken.expect("not ended").expect("a delivery");
            }
        };
        assert!(again.received().attempt_count > 0 && ids.contains(&again.received().id), "{:?}", again.received());
        again.ack().await.map_err(|(error, _)| error).expect("its lease stands");
    }

    /// By choice, and where the timeout is not stated, everything is handed out.
    async fn row_35_expired_deliveries_are_handed_out_by_choice(env: &Env) {
        let bench = Bench::new(env, |builder| builder.faults(Faults::default().consume_ack_coalesced(true))).await;
        bench.fill(10).await;
        let lease = Duration::from_millis(50);
        let settings = ConsumerSettings::default().visibility_timeout(lease).expired(Expired::Deliver);
        let mut consumer = bench.consumer(settings).await;
        bench.arrived().await;
        env.sleep(lease).await;
        for n in 0..10u8 {
            let delivery = next(&mut consumer).await;
            assert_eq!((delivery.received().payload.as_ref(), delivery.received().attempt_count), ([n].as_slice(), 0));
            assert!(delivery.lease_deadline().is_some_and(|at| at <= Instant::now()), "it has expired");
        }
        assert_eq!(bench.expired(), 0);
    }
}

mod window {
    use super::*;

    const WINDOW: usize = 8;

    /// A consumer that holds as many deliveries as it may, of more that there are.
    async fn held(bench: &Bench<'_>) -> (Box<dyn Consumer>, Vec<Box<dyn Delivery>>) {
        bench.fill(40).await;
        let settings = ConsumerSettings::default().prefetch(WINDOW).credit(Credit::Window);
        let mut consumer = bench.consumer(settings).await;
        let mut held = Vec::new();
        for _ in 0..WINDOW {
            held.push(next(&mut consumer).await);
        }
        (consumer, held)
    }

    cases! {
        Peer, [p1 P1, p3 P3];

        /// No more than the window is pushed and unsettled; credit comes back with each delivery that is settled or
        /// dropped, however that is done.
        async fn row_08_credit_comes_back_when_a_delivery_is_settled_or_dropped(env: &Env) {
            let bench = Bench::new(env, |builder| builder.faults(Faults::default().credit_loss(false))).await;
            let (mut consumer, held) = held(&bench).await;
            assert_eq!(bench.client.stats().unsettled, WINDOW as u64);
            // May overlook what comes later, never the reverse.
            assert!(consumer.next_within(Duration::from_millis(20)).await.is_none(), "the window is closed");
            assert_eq!(bench.client.stats().deliveries, WINDOW as u64, "and nothing came that could not be taken");
            let mut later = Vec::new();
            for (round, delivery) in held.into_iter().enumerate() {
                match round {
                    0 => delivery.ack().await.map_err(|(error, _)| error).expect("acked"),
                    1 => delivery.ack_queued().await.expect("acked"),
                    2 => delivery.ack_by_parts().1.await.expect("acked"),
                    3 => delivery.settle_queued_by_parts(None).await.expect("acked"),
                    4 => drop(delivery.acker()),
                    _ => drop(delivery),
                }
                assert!(bench.client.stats().unsettled <= WINDOW as u64, "round {round}");
                // Comes only if the credit was given back.
                let another = next(&mut consumer).await;
                assert_eq!(usize::from(another.received().payload[0]), WINDOW + round, "round {round}");
                later.push(another);
            }
        }

        /// What was nacked gives its credit back, too.
        async fn row_08_credit_comes_back_with_a_nack(env: &Env) {
            let bench = Bench::new(env, |builder| builder.faults(Faults::default().credit_loss(false))).await;
            let (mut consumer, mut held) = held(&bench).await;
            held.pop().expect("eight").nack("later").await.map_err(|(error, _)| error).expect("nacked");
            next(&mut consumer).await;
            bench.client.close(PATIENCE).await;
        }
    }
}
