//! Row 25: a client may be dropped outside any runtime, and may outlive its runtime. Its calls end then.

use std::time::Duration;

use fibp_proto::Message;
use fila_conformance::adapter::Kind;
use fila_conformance::broker::P1;
use fila_conformance::env;
use fila_conformance::script::{Scripted, healthy};
use futures::executor::block_on;

fn orphan(kind: Kind) {
    let server = Scripted::start(P1, |_, conversation| {
        conversation.open();
        conversation.serve(|request| healthy(request, 1));
    });
    let adapter = kind.start();
    let client = adapter
        .orphan(env::config(server.addr()).dialect(P1))
        .expect("a client");
    let clone = client.duplicate();
    // Whether a driver is left to serve it depends on the adapter; what matters is that it ends.
    let sent = block_on(clone.enqueue(Message::new("q", "x")));
    let sent_again = block_on(clone.enqueue(Message::new("q", "x")));
    assert_eq!(sent.is_ok(), sent_again.is_ok());
    block_on(clone.close(Duration::from_secs(1)));
    drop(clone);
    drop(client);
    drop(adapter);
    server.finish();
}

#[test]
fn row_25_drop_needs_no_runtime_tokio() {
    orphan(Kind::Tokio);
}

#[test]
fn row_25_drop_needs_no_runtime_tokio_multi() {
    orphan(Kind::TokioMulti);
}

#[test]
fn row_25_drop_needs_no_runtime_blocking() {
    orphan(Kind::Blocking);
}

#[test]
fn row_25_drop_needs_no_runtime_asyncstd() {
    orphan(Kind::AsyncStd);
}
