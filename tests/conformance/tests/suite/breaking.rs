//! Connections that break at every interesting byte of a session.

use fibp_proto::frame::{Decoder, Item, Limits, PREFIX_LEN};
use fila_conformance::broker::{Faults, start_with};
use fila_conformance::cases;
use fila_conformance::env::Env;
use fila_conformance::proxy::{Fault, Flow, Passed, Plan};
use fila_conformance::script::PREAMBLE;
use fila_conformance::session;

/// How many connections a session makes when nothing breaks: one for requests, one for the consumer.
const CONNECTIONS: usize = 2;

/// The offsets at which frames end, and one byte to either side.
fn edges(env: &Env, bytes: &[u8]) -> Vec<usize> {
    if env.is_encrypted() {
        // Which bytes those are, nobody sees.
        return (0..=16).map(|part| bytes.len() * part / 16).collect();
    }
    let opening = if bytes.starts_with(&PREAMBLE) {
        PREAMBLE.len()
    } else {
        0
    };
    let mut ends = vec![0, opening];
    let mut decoder = Decoder::new(env.dialect().layout(), Limits::default());
    decoder.feed(&bytes[opening..]);
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
    if env.is_external() {
        return;
    }
    env.start_broker(|dialect| {
        // What a broken connection had leased is there at once: the walk would take hours otherwise.
        start_with(dialect, |builder| builder.faults(Faults::default().leases_kept(false)))
    });
}

async fn passed_in_a_whole_session(env: &Env) -> Vec<Passed> {
    let proxy = env.proxy(|_| Plan::Pass);
    let config = session::patient(env.through(&proxy));
    env.session(config, "unbroken".to_owned()).await;
    let passed = proxy.passed();
    // A node of a cluster may name another one, which is reached without the proxy.
    assert!(
        passed.len() == CONNECTIONS || env.is_external(),
        "{} connections",
        passed.len()
    );
    passed
}

/// Sessions that break at each of these places, in turn; with a server that keeps leases, several at a time, as each
/// waits for its own.
async fn walk(env: &Env, fault: Fault, places: impl Fn(&[u8]) -> Vec<usize>) -> usize {
    let mut left = Vec::new();
    for (broken, passed) in passed_in_a_whole_session(env).await.iter().enumerate() {
        for (flow, bytes) in [(Flow::Up, &passed.up), (Flow::Down, &passed.down)] {
            left.extend(places(bytes).into_iter().map(|after| (broken, flow, after)));
        }
    }
    let walked = left.len();
    for places in left.chunks(if env.is_external() { 8 } else { 1 }) {
        let sessions: Vec<_> = places
            .iter()
            .map(|&(broken, flow, after)| {
                let plan = move |number| {
                    if number == broken {
                        Plan::Break { flow, after, fault }
                    } else {
                        Plan::Pass
                    }
                };
                let proxy = env.proxy(plan);
                let what = format!("{fault:?} of connection {broken} {flow:?} after {after} bytes");
                let config = session::config(env.through(&proxy));
                (proxy, env.spawn(env.session(config, what)))
            })
            .collect();
        for (proxy, session) in sessions {
            session.join().await;
            drop(proxy);
        }
    }
    walked
}

async fn walk_edges(env: &Env, fault: Fault) {
    start_broker(env);
    let walked = walk(env, fault, |bytes| edges(env, bytes)).await;
    assert!(walked > 50, "{walked} places");
}

cases! {
    QuietServer;

    async fn cut_at_every_frame_edge(env: &Env) {
        walk_edges(env, Fault::Cut).await;
    }

    async fn reset_at_every_frame_edge(env: &Env) {
        walk_edges(env, Fault::Reset).await;
    }

    async fn half_closed_at_every_frame_edge(env: &Env) {
        walk_edges(env, Fault::HalfClose).await;
    }

    /// A connection on which nothing passes any more is given up by its heartbeats.
    async fn stalled_connections_are_left(env: &Env) {
        start_broker(env);
        // Behind the handshake of TLS, which has the bound of connecting and no heartbeats.
        let encrypted = env.is_encrypted();
        let place = |bytes: &[u8]| if encrypted { bytes.len() - 20 } else { bytes.len() / 2 };
        walk(env, Fault::Stall, |bytes| vec![place(bytes)]).await;
    }

    /// Pieces of any size and slow links change nothing.
    async fn split_and_throttled_connections_work(env: &Env) {
        start_broker(env);
        for plan in [Plan::Split(1), Plan::Split(7), Plan::Throttle(64)] {
            let proxy = env.proxy(move |_| plan);
            let config = session::patient(env.through(&proxy));
            env.session(config, format!("{plan:?}")).await;
            assert!(proxy.accepted() == CONNECTIONS || env.is_external(), "{plan:?}: nothing was lost");
        }
    }
}
