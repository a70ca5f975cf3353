//! Connections that break at every interesting byte of a session.

use std::time::Duration;

use fibp_proto::frame::{Decoder, Item, Limits, PREFIX_LEN};
use fila_conformance::cases;
use fila_conformance::env::{Env, PATIENCE};
use fila_conformance::proxy::{Fault, Flow, Passed, Plan, Proxy};
use fila_conformance::script::PREAMBLE;
use fila_conformance::session::{self, SESSION_QUEUE};

/// How many connections a session makes when nothing breaks: one for requests, one for the consumer.
const CONNECTIONS: usize = 2;

/// The offsets at which frames end, and one byte to either side.
fn edges(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![0, PREAMBLE.len()];
    let mut decoder = Decoder::new(Limits::default());
    decoder.feed(bytes.get(PREAMBLE.len()..).unwrap_or_default());
    while let Ok(Some(Item::Frame(frame))) = decoder.next_item() {
        let last = ends.last().copied().unwrap_or_default();
        ends.push(last + PREFIX_LEN + fibp_proto::frame::HEADER_LEN + frame.body.len());
    }
    let mut around: Vec<usize> = ends
        .iter()
        .flat_map(|end| [end.saturating_sub(1), *end, end + 1])
        .collect();
    around.retain(|offset| *offset <= bytes.len());
    around.dedup();
    around
}

fn start_broker(env: &Env) {
    env.start_broker(|dialect| {
        fila_conformance::broker::start_with(dialect, |builder| {
            // What a broken connection had leased is there at once: the walk would take hours otherwise.
            let faults = fila_conformance::broker::Faults::default().leases_kept(false);
            builder.faults(faults).visibility_timeout(Duration::from_secs(1))
        })
    });
}

async fn passed_in_a_whole_session(env: &Env) -> Vec<Passed> {
    let proxy = Proxy::start(env.broker().addr(), |_| Plan::Pass);
    session::perform(env, session::patient(proxy.addr()), "unbroken").await;
    let passed = proxy.passed();
    assert_eq!(passed.len(), CONNECTIONS);
    delete_queue(env).await;
    passed
}

async fn delete_queue(env: &Env) {
    let client = env.client().await;
    client.delete_queue(SESSION_QUEUE).await.expect("deleted");
    client.close(PATIENCE).await;
}

async fn walk(env: &Env, fault: Fault) {
    start_broker(env);
    let passed = passed_in_a_whole_session(env).await;
    let mut walked = 0;
    for (broken, passed) in passed.iter().enumerate() {
        for (flow, bytes) in [(Flow::Up, &passed.up), (Flow::Down, &passed.down)] {
            for after in edges(bytes) {
                let plan = move |number| {
                    if number == broken {
                        Plan::Break { flow, after, fault }
                    } else {
                        Plan::Pass
                    }
                };
                let proxy = Proxy::start(env.broker().addr(), plan);
                session::perform(
                    env,
                    session::config(proxy.addr()),
                    &format!("{fault:?} of connection {broken} {flow:?} after {after} bytes"),
                )
                .await;
                drop(proxy);
                delete_queue(env).await;
                walked += 1;
            }
        }
    }
    assert!(walked > 50, "{walked} places");
}

cases! {
    Broker;

    async fn cut_at_every_frame_edge(env: &Env) {
        walk(env, Fault::Cut).await;
    }

    async fn reset_at_every_frame_edge(env: &Env) {
        walk(env, Fault::Reset).await;
    }

    async fn half_closed_at_every_frame_edge(env: &Env) {
        walk(env, Fault::HalfClose).await;
    }

    /// A connection on which nothing passes any more is given up by its heartbeats.
    async fn stalled_connections_are_left(env: &Env) {
        start_broker(env);
        let passed = passed_in_a_whole_session(env).await;
        for (broken, passed) in passed.iter().enumerate() {
            for (flow, bytes) in [(Flow::Up, &passed.up), (Flow::Down, &passed.down)] {
                let after = bytes.len() / 2;
                let plan = move |number| if number == broken { Plan::Break { flow, after, fault: Fault::Stall } } else { Plan::Pass };
                let proxy = Proxy::start(env.broker().addr(), plan);
                session::perform(env, session::config(proxy.addr()), &format!("stall of connection {broken} {flow:?} after {after} bytes")).await;
                drop(proxy);
                delete_queue(env).await;
            }
        }
    }

    /// Pieces of any size and slow links change nothing.
    async fn split_and_throttled_connections_work(env: &Env) {
        start_broker(env);
        for plan in [Plan::Split(1), Plan::Split(7), Plan::Throttle(64)] {
            let proxy = Proxy::start(env.broker().addr(), move |_| plan);
            session::perform(env, session::patient(proxy.addr()), &format!("{plan:?}")).await;
            assert_eq!(proxy.accepted(), CONNECTIONS, "{plan:?}: nothing was lost");
            drop(proxy);
            delete_queue(env).await;
        }
    }
}
