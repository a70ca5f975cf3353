//! A queue server of one file, on `ServerConnection`: P1 and F2 on one port, messages in memory. Nacked messages and
//! those of a consumer that leaves are delivered again; nothing expires. `cargo run -p fibp-proto --example miniq [ADDR]`

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "not the core")]

use std::collections::btree_map::{BTreeMap, Entry, OccupiedEntry};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fibp_proto::admin::{QueueInfo, QueueList, QueueStats};
use fibp_proto::request::{AckItem, NackItem};
use fibp_proto::response::{ItemResult, ServerError};
use fibp_proto::server::{ServerConfig, ServerConnection};
use fibp_proto::{AdminRevision, Dialect, Message, MessageId, QueueName, Received, Request, Response};

/// A message that is not acked, and the connection that it is leased to.
type Stored = (Received, Option<u64>);

/// By their ids, which ascend.
type Queue = BTreeMap<MessageId, Stored>;

#[derive(Default)]
struct Broker {
    queues: BTreeMap<QueueName, Queue>,
    last_id: u64,
}

impl Broker {
    fn answer(&mut self, request: Request) -> ItemResult<Response> {
        Ok(match request {
            Request::CreateQueue(spec) if self.queues.contains_key(&spec.name) => {
                return Err(ServerError::queue_exists(&spec.name).into());
            }
            Request::CreateQueue(spec) => {
                let queue_id = spec.name.to_string();
                self.queues.insert(spec.name, Queue::new());
                Response::CreateQueue { queue_id }
            }
            Request::DeleteQueue { queue } => match self.queues.remove(&queue) {
                Some(_) => Response::DeleteQueue,
                None => return Err(ServerError::queue_not_found(&queue).into()),
            },
            Request::ListQueues => {
                let info = |name: &QueueName| QueueInfo::default().name(name.to_string());
                Response::ListQueues(QueueList::default().queues(self.queues.keys().map(info).collect()))
            }
            Request::QueueStats { queue } => {
                let queue = self.queue(&queue)?;
                let leased = queue.values().filter(|(_, holder)| holder.is_some()).count();
                Response::QueueStats(QueueStats::default().depth(queue.len() as u64).in_flight(leased as u64))
            }
            Request::Enqueue(messages) => {
                Response::Enqueue(messages.into_iter().map(|message| self.store(message)).collect())
            }
            Request::Ack(items) => {
                let ack = |item: &AckItem| self.leased(&item.queue, &item.id).map(|leased| drop(leased.remove()));
                Response::Ack(items.iter().map(ack).collect())
            }
            Request::Nack(items) => {
                let nack = |item: &NackItem| {
                    self.leased(&item.queue, &item.id)
                        .map(|mut leased| give_back(leased.get_mut()))
                };
                Response::Nack(items.iter().map(nack).collect())
            }
            Request::Consume { .. } => Response::Consume { consumer_id: None },
            other => return Err(ServerError::invalid_argument(&format!("no {:?} here", other.op())).into()),
        })
    }

    fn queue(&mut self, name: &QueueName) -> ItemResult<&mut Queue> {
        let queue = self.queues.get_mut(name);
        Ok(queue.ok_or_else(|| ServerError::queue_not_found(name))?)
    }

    fn store(&mut self, message: Message) -> ItemResult<MessageId> {
        self.last_id += 1;
        let id = MessageId::from(format!("00000000-0000-7000-8000-{:012x}", self.last_id));
        let queue = self.queue(&message.queue)?;
        queue.insert(id.clone(), (Received::from_message(id.clone(), message), None));
        Ok(id)
    }

    /// The next message of a queue, leased to a connection.
    fn deliver(&mut self, name: &QueueName, connection: u64) -> Option<Received> {
        let mut stored = self.queues.get_mut(name)?.values_mut();
        let (message, holder) = stored.find(|(_, holder)| holder.is_none())?;
        *holder = Some(connection);
        Some(message.clone())
    }

    fn leased(&mut self, queue: &QueueName, id: &MessageId) -> ItemResult<OccupiedEntry<'_, MessageId, Stored>> {
        match self.queue(queue)?.entry(id.clone()) {
            Entry::Occupied(stored) if stored.get().1.is_some() => Ok(stored),
            _ => Err(ServerError::message_not_found(queue, id.as_str()).into()),
        }
    }

    /// Gives back what a connection that is gone was leased.
    fn release(&mut self, connection: u64) {
        for stored in self.queues.values_mut().flat_map(Queue::values_mut) {
            if stored.1 == Some(connection) {
                give_back(stored);
            }
        }
    }
}

fn give_back((message, holder): &mut Stored) {
    message.attempt_count += 1;
    *holder = None;
}

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(std::env::args().nth(1).as_deref().unwrap_or("127.0.0.1:5555"))?;
    println!("listening on {}", listener.local_addr()?);
    let broker = Arc::new(Mutex::new(Broker::default()));
    let dialects = [Dialect::Preamble(AdminRevision::Protobuf), Dialect::Handshake];
    for (number, socket) in (1..).zip(listener.incoming()) {
        let (mut socket, broker) = (socket?, Arc::clone(&broker));
        // What waits for a consumer is looked for whenever the client is silent.
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        socket.set_nodelay(true)?;
        let mut connection = ServerConnection::new(ServerConfig::new(dialects));
        std::thread::spawn(move || {
            let lock = || broker.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = |request| lock().answer(request);
            let deliver = |queue: &QueueName| lock().deliver(queue, number);
            if let Err(error) = connection.serve(&mut socket, answer, deliver) {
                eprintln!("connection {number}: {error}");
            }
            lock().release(number);
        });
    }
    Ok(())
}
