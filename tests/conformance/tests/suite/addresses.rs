//! Row 24: addresses.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use fibp_proto::config::Config;
use fibp_proto::{ErrorKind, Message, Outcome};
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

mod nowhere {
    use super::*;

    cases! {
        Nothing;

        /// A name that does not exist is an error that says so, and nothing was sent.
        async fn row_24_unknown_host_names(env: &Env) {
            let config = Config::new("no-such-host.invalid:5555").connect_timeout(Duration::from_secs(20));
            let error = env.connect(config).await.err().expect("no such host");
            assert!(matches!(error.kind(), ErrorKind::Resolve | ErrorKind::Timeout), "{error}");
            assert_eq!(error.outcome(), Outcome::NotSent);
        }

        /// Settings that contradict each other never reach the network.
        async fn malformed_settings_are_configuration_errors(env: &Env) {
            for config in [
                Config::new("no port"),
                Config::new("localhost:5555").api_key(""),
                Config::new("localhost:5555").max_frame_size(1, 1),
            ] {
                let error = env.connect(config).await.err().expect("malformed");
                assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::NotSent), "{error}");
            }
        }
    }
}
