//! Work that another node of the cluster takes.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{Server, answer, within};
use fibp_proto::server::{RequestId, ServerConnection};
use fibp_proto::{Request, ServerError};
use fila_client_blocking::{Dialect, ErrorKind, Message};

const LIMIT: Duration = Duration::from_secs(60);
const ELSEWHERE: &str = "led elsewhere";

/// Takes every message, and counts connections and messages.
fn leader(connections: &Arc<AtomicUsize>, messages: &Arc<AtomicUsize>) -> Server {
    let (connections, messages) = (Arc::clone(connections), Arc::clone(messages));
    Server::start(Dialect::Handshake, move || {
        connections.fetch_add(1, Ordering::SeqCst);
        let messages = Arc::clone(&messages);
        move |server: &mut ServerConnection, id: RequestId, request: Request| {
            if let Request::Enqueue(batch) = &request {
                messages.fetch_add(batch.len(), Ordering::SeqCst);
            }
            answer(server, id, request);
        }
    })
}

/// Sends messages of one queue to the leader.
fn follower(leader: &Server) -> Server {
    let leader = leader.addr.to_string();
    Server::start(Dialect::Handshake, move || {
        let leader = leader.clone();
        move |server: &mut ServerConnection, id: RequestId, request: Request| match &request {
            Request::Enqueue(batch) if batch.iter().any(|message| &message.queue[..] == ELSEWHERE) => {
                let refusal = ServerError::new(ErrorKind::NotLeader, "not the leader for this queue");
                server.respond_error(id.id, &refusal.with_code(0x0C).with_leader(leader.as_str()));
            }
            _ => answer(server, id, request),
        }
    })
}

#[test]
fn redirected_calls_of_many_threads_share_one_connection() {
    let (connections, messages) = (Arc::default(), Arc::default());
    let leader = leader(&connections, &messages);
    let follower = follower(&leader);
    within(LIMIT, move || {
        let client = follower.client();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for n in 0..50 {
                        let queue = ["led here", ELSEWHERE][n % 2];
                        client.enqueue(Message::new(queue, "x")).unwrap();
                    }
                });
            }
        });
        assert_eq!(messages.load(Ordering::SeqCst), 200);
        assert_eq!(connections.load(Ordering::SeqCst), 1);

        let producer = client.producer().build().unwrap();
        for _ in 0..100 {
            drop(producer.send(Message::new(ELSEWHERE, "x")).unwrap());
        }
        drop((client, producer));
        // Still sent, and to the right node.
        while messages.load(Ordering::SeqCst) < 300 {
            thread::yield_now();
        }
    });
}
