//! Row 31: settings of connecting and opening that need a broker.

use std::net::{Ipv4Addr, TcpListener};

use fibp_proto::ErrorKind;
use fibp_proto::config::ConsumerSettings;
use fila_conformance::cases;
use fila_conformance::proxy::Plan;

cases! {
    AnyServer;

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
        let alive = env.proxy(|_| Plan::Pass);
        let client = env.connect(env.at(&format!("{closed},{}", alive.addr()))).await.expect("the second answers");
        env.queue(&client).await;
        client.close(fila_conformance::env::PATIENCE).await;
    }
}
