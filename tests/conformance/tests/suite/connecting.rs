//! Row 31: settings of connecting and opening that need a broker.

use std::net::{Ipv4Addr, TcpListener};

use fibp_proto::ErrorKind;
use fibp_proto::config::{Config, ConsumerSettings};
use fila_conformance::cases;
use fila_conformance::env;

cases! {
    Broker;

    /// Opening can ask for the queue first, where the server would accept a consumer of nothing.
    async fn row_31_verify_queue(env: &Env) {
        let client = env.client().await;
        let settings = ConsumerSettings::default().verify_queue(true);
        let Err(error) = client.consumer(&env.queue_name(), settings).await else { panic!("no such queue") };
        assert_eq!(error.kind(), ErrorKind::QueueNotFound, "{error}");
        let queue = env.queue(&client).await;
        client.consumer(&queue, settings).await.map(drop).expect("it exists");
    }

    /// Several endpoints: one that refuses is passed over.
    async fn row_31_endpoints_are_tried_in_turn(env: &Env) {
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()).expect("a port");
        let alive = env.broker().addr();
        let config = Config::new(format!("{closed},{alive}")).reconnect(env::quick_reconnect());
        let client = env.connect(config).await.expect("the second answers");
        env.queue(&client).await;
    }
}
