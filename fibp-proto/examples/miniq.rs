//! A queue server of one file, on `ServerConnection`: P1 and F2 on one port, messages in memory. Nacked messages and
//! those of a consumer that leaves are delivered again; nothing expires. `cargo run -p fibp-proto --example miniq [ADDR]`

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program, not the core"
)]

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fibp_proto::admin::{QueueInfo, QueueList, QueueStats};
use fibp_proto::frame::Transmit;
use fibp_proto::response::ServerError;
use fibp_proto::server::{ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{AdminRevision, Dialect, Message, MessageId, Push, QueueName, Received, Request, Response};

/// A message, how often it was nacked, and the connection it is leased to.
struct Stored(Message, u32, Option<u64>);

#[derive(Default)]
struct Queue {
    messages: BTreeMap<MessageId, Stored>,
    ready: VecDeque<MessageId>,
}

#[derive(Default)]
struct Broker {
    queues: BTreeMap<QueueName, Queue>,
    last_id: u64,
}

impl Broker {
    fn answer(&mut self, request: Request) -> Response {
        let missing = |queue: &str| ServerError::queue_not_found(queue);
        match request {
            Request::CreateQueue(spec) if self.queues.contains_key(&spec.name) => {
                Response::Error(ServerError::queue_exists(&spec.name))
            }
            Request::CreateQueue(spec) => {
                let queue_id = spec.name.to_string();
                self.queues.insert(spec.name, Queue::default());
                Response::CreateQueue { queue_id }
            }
            Request::DeleteQueue { queue } => match self.queues.remove(&queue) {
                Some(_) => Response::DeleteQueue,
                None => Response::Error(missing(&queue)),
            },
            Request::ListQueues => {
                let queues = self.queues.iter().map(|(name, queue)| {
                    QueueInfo::default()
                        .name(name.to_string())
                        .depth(queue.messages.len() as u64)
                });
                Response::ListQueues(QueueList::default().queues(queues.collect()).cluster_node_count(0))
            }
            Request::QueueStats { queue } => match self.queues.get(&queue) {
                Some(found) => Response::QueueStats(
                    QueueStats::default()
                        .depth(found.messages.len() as u64)
                        .in_flight((found.messages.len() - found.ready.len()) as u64),
                ),
                None => Response::Error(missing(&queue)),
            },
            Request::Enqueue(messages) => {
                Response::Enqueue(messages.into_iter().map(|message| self.store(message)).collect())
            }
            Request::EnqueueNone { .. } => Response::Enqueue(Vec::new()),
            Request::Ack(items) => Response::Ack(
                items
                    .iter()
                    .map(|item| self.settle(&item.queue, &item.id, false))
                    .collect(),
            ),
            Request::Nack(items) => Response::Nack(
                items
                    .iter()
                    .map(|item| self.settle(&item.queue, &item.id, true))
                    .collect(),
            ),
            Request::Consume { .. } => Response::Consume {
                consumer_id: Some("consumer".to_owned()),
            },
            Request::Heartbeat => Response::Heartbeat,
            Request::Authenticate(_) => Response::Authenticated,
            other => Response::Error(ServerError::invalid_argument(&format!(
                "{:?} is not for a queue this small",
                other.op()
            ))),
        }
    }

    fn store(&mut self, message: Message) -> Result<MessageId, Box<ServerError>> {
        let Some(queue) = self.queues.get_mut(&message.queue) else {
            return Err(Box::new(ServerError::queue_not_found(&message.queue)));
        };
        self.last_id += 1;
        let id = MessageId::from(format!("00000000-0000-7000-8000-{:012x}", self.last_id));
        queue.messages.insert(id.clone(), Stored(message, 0, None));
        queue.ready.push_back(id.clone());
        Ok(id)
    }

    fn settle(&mut self, queue: &QueueName, id: &MessageId, again: bool) -> Result<(), Box<ServerError>> {
        let lost = || Box::new(ServerError::message_not_found(queue, id.as_str()));
        let found = self.queues.get_mut(queue).ok_or_else(lost)?;
        let stored = found
            .messages
            .get_mut(id)
            .filter(|stored| stored.2.is_some())
            .ok_or_else(lost)?;
        if again {
            (stored.1, stored.2) = (stored.1 + 1, None);
            found.ready.push_back(id.clone());
        } else {
            found.messages.remove(id);
        }
        Ok(())
    }

    /// The next message of a queue, leased to a connection.
    fn deliver(&mut self, name: &QueueName, connection: u64) -> Option<Received> {
        let queue = self.queues.get_mut(name)?;
        let id = queue.ready.pop_front()?;
        let Stored(message, attempts, lease) = queue.messages.get_mut(&id)?;
        *lease = Some(connection);
        let (headers, payload) = (message.headers.clone(), message.payload.clone());
        Some(Received::new(id, name.clone(), headers, payload, "default", *attempts))
    }

    fn release(&mut self, connection: u64) {
        for queue in self.queues.values_mut() {
            for (id, stored) in queue
                .messages
                .iter_mut()
                .filter(|(_, stored)| stored.2 == Some(connection))
            {
                (stored.1, stored.2) = (stored.1 + 1, None);
                queue.ready.push_back(id.clone());
            }
        }
    }
}

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(std::env::args().nth(1).as_deref().unwrap_or("127.0.0.1:5555"))?;
    println!("listening on {}", listener.local_addr()?);
    let broker = Arc::new(Mutex::new(Broker::default()));
    for (number, socket) in (1..).zip(listener.incoming()) {
        let (socket, broker) = (socket?, Arc::clone(&broker));
        std::thread::spawn(move || {
            if let Err(error) = serve(socket, number, &broker) {
                eprintln!("connection {number}: {error}");
            }
            broker.lock().unwrap_or_else(PoisonError::into_inner).release(number);
        });
    }
    Ok(())
}

fn serve(mut socket: TcpStream, number: u64, broker: &Mutex<Broker>) -> io::Result<()> {
    // What waits for a consumer is looked for whenever the client is silent.
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    socket.set_nodelay(true)?;
    let dialects = [Dialect::Preamble(AdminRevision::Protobuf), Dialect::Handshake];
    let mut connection = ServerConnection::new(ServerConfig::new(dialects));
    let (mut transmit, mut consuming, mut credit) = (Transmit::new(), None, 0_u32);
    while !connection.is_finished() {
        while let Some(event) = connection.poll_event() {
            match event {
                ServerEvent::Opened { .. } => connection.accept(),
                ServerEvent::Malformed {
                    id,
                    answer: Some(refusal),
                    ..
                } => connection.respond_error(id, &refusal),
                ServerEvent::Malformed { answer: None, .. } => connection.close(),
                ServerEvent::Request {
                    request: Request::CancelConsume,
                    ..
                } => consuming = None,
                ServerEvent::Request {
                    request: Request::Flow { credit: more },
                    ..
                } => credit = credit.saturating_add(more),
                ServerEvent::Request { id, request } => {
                    if let Request::Consume { queue, credit: initial } = &request {
                        let has_credit = matches!(connection.dialect(), Some(Dialect::Preamble(_)));
                        (consuming, credit) = (Some(queue.clone()), if has_credit { *initial } else { u32::MAX });
                    }
                    let response = broker.lock().unwrap_or_else(PoisonError::into_inner).answer(request);
                    connection.respond(id, &response).map_err(io::Error::other)?;
                }
                _ => {}
            }
        }
        while let Some(queue) = consuming
            .as_ref()
            .filter(|_| credit > 0 && connection.buffered() < 64 * 1024)
        {
            let next = broker
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .deliver(queue, number);
            let Some(delivery) = next else { break };
            connection
                .push(&Push {
                    deliveries: vec![delivery],
                })
                .map_err(io::Error::other)?;
            credit -= 1;
        }
        while connection.take_transmit(&mut transmit) {
            while !transmit.is_empty() {
                let n = socket.write(transmit.chunk())?;
                connection.transmitted(&mut transmit, n);
            }
        }
        if let Some(mut buffer) = connection.take_read_buffer() {
            match socket.read(buffer.unfilled()) {
                Ok(0) => connection.handle_eof(),
                Ok(n) => buffer.advance(n),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
            connection.handle_input(buffer);
        }
    }
    Ok(())
}
