//! Row 24: addresses.

use std::net::Ipv6Addr;
use std::sync::Arc;

use fibp_proto::Message;
use fila_conformance::adapter::Client;
use fila_conformance::cases;
use fila_conformance::env::{Env, PATIENCE, announce_skip};
use fila_conformance::proxy::{Plan, Proxy};

async fn works(env: &Env, client: &Arc<dyn Client>) {
    let queue = env.queue(client).await;
    client
        .enqueue(Message::new(queue.as_str(), "x"))
        .await
        .expect("confirmed");
    client.close(PATIENCE).await;
}

cases! {
    AnyServer;

    async fn row_24_ipv6_literals(env: &Env) {
        let Some(proxy) = Proxy::start_v6(env.upstream(), |_| Plan::Pass) else {
            return announce_skip("row_24_ipv6_literals", "this machine has no IPv6 loopback");
        };
        assert_eq!(proxy.addr().ip(), Ipv6Addr::LOCALHOST);
        let address = format!("[::1]:{}", proxy.addr().port());
        works(env, &env.connect(env.at(&address)).await.expect("a client")).await;
    }

    async fn row_24_host_names(env: &Env) {
        let proxy = env.proxy(|_| Plan::Pass);
        let address = format!("localhost:{}", proxy.addr().port());
        works(env, &env.connect(env.at(&address)).await.expect("a client")).await;
        assert!(proxy.accepted() > 0);
    }
}
