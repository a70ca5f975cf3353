//! Row 31, in front of scripted servers: every setting has a test that fails when it is ignored.

use std::sync::atomic::{AtomicU32, Ordering};

use fibp_proto::config::{ConsumerSettings, Credit};
use fibp_proto::request::Op;
use fibp_proto::{Message, Request, Secret};
use fila_conformance::broker::{P1, P3};
use fila_conformance::cases;
use fila_conformance::env::{self, next};
use fila_conformance::script::{Scripted, delivery, healthy, message_id};

cases! {
    Peer;

    /// Deliveries that are not taken bound what is read: `prefetch` decides how many may wait.
    async fn row_31_prefetch_is_the_window(env: &Env) {
        const PREFETCH: u32 = 8;
        let server = Scripted::start(P3, |number, conversation| {
            conversation.open();
            if number == 0 {
                return conversation.serve(|request| healthy(request, 1));
            }
            let asked = conversation.confirm_consume();
            let Request::Consume { credit, .. } = asked.request else { unreachable!("expected above") };
            assert_eq!(credit, PREFETCH, "the window is the prefetch");
            let (mut balance, mut sent) = (credit, 0);
            // Sends exactly what it is paid for, as a server without bug 1 does; 100 messages need top-ups.
            while sent < 100 {
                while balance > 0 && sent < 100 {
                    sent += 1;
                    balance -= 1;
                    conversation.push(vec![delivery("q", sent, "x")]);
                }
                if sent < 100 {
                    let Request::Flow { credit } = conversation.expect(Op::Flow).request else { unreachable!() };
                    balance += credit;
                    assert!(balance <= PREFETCH, "{balance}");
                }
            }
            conversation.read_to_end();
        });
        let client = env.connect(env::config(server.addr()).dialect(P3)).await.expect("a client");
        let settings = ConsumerSettings::default().prefetch(PREFETCH as usize).credit(Credit::Window);
        let mut consumer = client.consumer("q", settings).await.expect("a consumer");
        for n in 1..=100 {
            assert_eq!(next(&mut consumer).await.received().id, message_id(n));
        }
        drop((consumer, client));
        env.finish(server).await;
    }

    /// The key is asked for at each dial, and presented raw.
    async fn row_27_row_31_credentials(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            if !conversation.open() {
                return;
            }
            let asked = conversation.expect(Op::Authenticate);
            let Request::Authenticate(key) = &asked.request else { unreachable!("expected above") };
            assert_eq!(key.expose(), format!("key-{number}"));
            assert!(conversation.is_quiet(), "the answer is awaited");
            conversation.answer(&asked, &healthy(&asked.request, 1).expect("an answer"));
            if number == 0 {
                return conversation.close();
            }
            conversation.serve(|request| healthy(request, 1));
        });
        let asked = AtomicU32::new(0);
        let config = env::config(server.addr()).dialect(P1).credentials(move || {
            Secret::from(format!("key-{}", asked.fetch_add(1, Ordering::SeqCst)))
        });
        assert!(!format!("{config:?}").contains("key-"), "{config:?}");
        let client = env.connect(config).await.expect("a client");
        env.eventually("a second connection", async || client.stats().connections > 1).await;
        client.enqueue(Message::new("q", "x")).await.expect("confirmed");
        drop(client);
        env.finish(server).await;
    }

    /// A credentials closure that panics fails one dial, not the client: the next dial asks again.
    async fn a_credentials_closure_may_panic(env: &Env) {
        let server = Scripted::start(P1, |number, conversation| {
            if !conversation.open() {
                return;
            }
            let asked = conversation.expect(Op::Authenticate);
            conversation.answer(&asked, &healthy(&asked.request, 1).expect("an answer"));
            if number == 0 {
                return conversation.close();
            }
            conversation.serve(|request| healthy(request, 1));
        });
        let asked = AtomicU32::new(0);
        let config = env::config(server.addr()).dialect(P1).credentials(move || {
            // The first dial of the client, and the first after a loss.
            let count = asked.fetch_add(1, Ordering::SeqCst);
            assert!(![0, 2].contains(&count), "no key at hand");
            Secret::from("key")
        });
        let client = env.connect(config).await.expect("a client");
        env.eventually("a second connection", async || client.stats().connections > 1)
            .await;
        client.enqueue(Message::new("q", "x")).await.expect("confirmed");
        drop(client);
        env.finish(server).await;
    }
}
