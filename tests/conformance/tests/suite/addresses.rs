//! Row 24: addresses.

use std::net::Ipv6Addr;
use std::time::Duration;

use fibp_proto::config::Config;
use fibp_proto::{ErrorKind, Message, Outcome};
use fila_conformance::broker::P1;
use fila_conformance::cases;
use fila_conformance::env::{self, announce_skip};
use fila_conformance::script::{Scripted, healthy};

cases! {
    Script;

    async fn row_24_ipv6_literals(env: &Env) {
        let server = Scripted::start_v6(P1, |_, conversation| {
            conversation.open();
            conversation.serve(|request| healthy(request, 1));
        });
        let Some(server) = server else {
            return announce_skip("row_24_ipv6_literals", "this machine has no IPv6 loopback");
        };
        assert_eq!(server.addr().ip(), Ipv6Addr::LOCALHOST);
        let address = format!("[::1]:{}", server.addr().port());
        let config = Config::new(address).dialect(P1).reconnect(env::quick_reconnect());
        let client = env.connect(config).await.expect("a client");
        client.enqueue(Message::new("q", "x")).await.expect("confirmed");
        drop(client);
        env.finish(server).await;
    }

    async fn row_24_host_names(env: &Env) {
        let server = Scripted::start(P1, |_, conversation| {
            if conversation.open() {
                conversation.serve(|request| healthy(request, 1));
            }
        });
        let address = format!("localhost:{}", server.addr().port());
        let client = env.connect(Config::new(address).dialect(P1)).await.expect("a client");
        client.enqueue(Message::new("q", "x")).await.expect("confirmed");
        drop(client);
        env.finish(server).await;
    }

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
