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

#[cfg(target_os = "linux")]
mod sockets {
    use super::*;
    use std::net::SocketAddr;
    use std::time::Duration;

    use fila_conformance::broker::start;
    use fila_conformance::env::Env;

    /// A socket of this machine, as /proc/net/tcp shows it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Socket {
        /// Bytes that the peer has not confirmed.
        sending: usize,
        /// Bytes that nobody has read.
        received: usize,
        /// How long until the kernel probes the peer.
        keepalive: Option<Duration>,
    }

    fn hex(text: &str) -> usize {
        usize::from_str_radix(text, 16).expect("a number")
    }

    /// The established sockets whose local, or else whose remote port is that of `addr`.
    fn sockets(addr: SocketAddr, local: bool) -> Vec<Socket> {
        const ESTABLISHED: &str = "01";
        const KEEPALIVE: &str = "02";
        let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux has it");
        let rows = table.lines().skip(1).filter_map(|row| {
            let fields: Vec<_> = row.split_whitespace().collect();
            let (_, port) = fields[if local { 1 } else { 2 }].split_once(':')?;
            if hex(port) != usize::from(addr.port()) || fields[3] != ESTABLISHED {
                return None;
            }
            let (sending, received) = fields[4].split_once(':')?;
            let (timer, jiffies) = fields[5].split_once(':')?;
            Some(Socket {
                sending: hex(sending),
                received: hex(received),
                // The kernel tells them a hundred to a second.
                keepalive: (timer == KEEPALIVE).then(|| Duration::from_millis(10 * hex(jiffies) as u64)),
            })
        });
        rows.collect()
    }

    async fn keepalives(env: &Env, idle: Option<Duration>) -> Vec<Option<Duration>> {
        let broker = start(env.dialect());
        let client = env
            .connect(env::config(broker.addr()).keepalive(idle))
            .await
            .expect("a client");
        client.create_queue("q".into()).await.expect("created");
        let _consumer = env.consumer(&client, "q").await;
        // While something is unconfirmed the socket's timer is about that.
        env.eventually("two quiet sockets", async || {
            let sockets = sockets(broker.addr(), false);
            sockets.len() == 2 && sockets.iter().all(|socket| socket.sending == 0)
        })
        .await;
        sockets(broker.addr(), false)
            .iter()
            .map(|socket| socket.keepalive)
            .collect()
    }

    cases! {
        Peer;

        /// The kernel probes a silent peer of any connection after this time, or never.
        async fn row_31_keepalive(env: &Env) {
            let idle = Duration::from_secs(7);
            let probed = keepalives(env, Some(idle)).await;
            assert!(probed.len() == 2 && probed.iter().all(|after| after.is_some_and(|after| after <= idle)), "{probed:?}");
            assert_eq!(keepalives(env, None).await, [None; 2]);
        }

        /// What a server sends to a consumer that takes nothing waits with the server, but for so much.
        async fn row_31_receive_buffer(env: &Env) {
            const BUFFER: u32 = 8 * 1024;
            const MESSAGES: u32 = 70;
            let server = Scripted::start(P3, |number, conversation| {
                conversation.open();
                if number == 0 {
                    return conversation.serve(|request| healthy(request, 1));
                }
                conversation.confirm_consume();
                for n in 1..=MESSAGES {
                    conversation.push(vec![delivery("q", n, vec![0; 10_000])]);
                }
                conversation.read_to_end();
            });
            let client = env.connect(env::config(server.addr()).dialect(P3)).await.expect("a client");
            let settings = ConsumerSettings::default().prefetch(1).receive_buffer(BUFFER);
            let mut consumer = client.consumer("q", settings).await.expect("a consumer");
            let queues = |local| {
                let sockets = sockets(server.addr(), local);
                sockets.into_iter().map(|socket| (socket.sending, socket.received)).collect::<Vec<_>>()
            };
            let mut known = Vec::new();
            env.eventually("the consumer takes no more", async || {
                env.sleep(Duration::from_millis(50)).await;
                let now = (queues(false), queues(true));
                let is_full = now.1.iter().any(|(sending, _)| *sending > 0);
                known.push(now);
                is_full && known.iter().rev().take(3).all(|earlier| Some(earlier) == known.last()) && known.len() > 3
            })
            .await;
            let (of_client, _) = known.pop().expect("looked at");
            let most = of_client.iter().map(|(_, received)| *received).max().unwrap_or_default();
            // Linux doubles what is asked for; the default would hold fifteen times as much.
            assert!(most > 0 && most <= 4 * BUFFER as usize, "{of_client:?}");
            for n in 1..=3 {
                assert_eq!(next(&mut consumer).await.received().id, message_id(n));
            }
            drop((consumer, client));
            env.finish(server).await;
        }
    }
}
