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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fibp_proto::admin::{QueueInfo, QueueList, QueueStats};
use fibp_proto::frame::Transmit;
use fibp_proto::request::NackItem;
use fibp_proto::response::ServerError;
use fibp_proto::server::{ServerConfig, ServerConnection};
use fibp_proto::{AdminRevision, Dialect, Message, MessageId, Push, QueueName, Received, Request, Response};

#[derive(Default)]
struct Broker {
    queues: BTreeMap<QueueName, VecDeque<Received>>,
    /// What was delivered and is not settled, and over which connection.
    leases: BTreeMap<MessageId, (u64, Received)>,
    last_id: u64,
}

type Answer<T> = Result<T, Box<ServerError>>;

impl Broker {
    fn answer(&mut self, request: Request) -> Answer<Response> {
        Ok(match request {
            Request::CreateQueue(spec) if self.queues.contains_key(&spec.name) => {
                return Err(ServerError::queue_exists(&spec.name).into());
            }
            Request::CreateQueue(spec) => {
                let queue_id = spec.name.to_string();
                self.queues.insert(spec.name, VecDeque::new());
                Response::CreateQueue { queue_id }
            }
            Request::DeleteQueue { queue } => {
                self.queue(&queue)?;
                self.queues.remove(&queue);
                Response::DeleteQueue
            }
            Request::ListQueues => {
                let info = |name: &QueueName| QueueInfo::default().name(name.to_string());
                Response::ListQueues(QueueList::default().queues(self.queues.keys().map(info).collect()))
            }
            Request::QueueStats { queue } => {
                let leased = self.leases.values().filter(|(_, message)| message.queue == queue);
                let (leased, ready) = (leased.count() as u64, self.queue(&queue)?.len() as u64);
                Response::QueueStats(QueueStats::default().depth(ready + leased).in_flight(leased))
            }
            Request::Enqueue(messages) => {
                Response::Enqueue(messages.into_iter().map(|message| self.store(message)).collect())
            }
            Request::Ack(items) => Response::Ack(
                items
                    .iter()
                    .map(|item| self.settle(&item.queue, &item.id).map(drop))
                    .collect(),
            ),
            Request::Nack(items) => {
                let give_back = |item: &NackItem| {
                    let message = self.settle(&item.queue, &item.id)?;
                    self.give_back(message);
                    Ok(())
                };
                Response::Nack(items.iter().map(give_back).collect())
            }
            Request::Consume { .. } => Response::Consume {
                consumer_id: Some("consumer".to_owned()),
            },
            Request::Heartbeat => Response::Heartbeat,
            Request::Authenticate(_) => Response::Authenticated,
            other => return Err(ServerError::invalid_argument(&format!("no {:?} here", other.op())).into()),
        })
    }

    fn queue(&mut self, name: &QueueName) -> Answer<&mut VecDeque<Received>> {
        let missing = || ServerError::queue_not_found(name).into();
        self.queues.get_mut(name).ok_or_else(missing)
    }

    fn store(&mut self, message: Message) -> Answer<MessageId> {
        let id = MessageId::from(format!("00000000-0000-7000-8000-{:012x}", self.last_id + 1));
        let (name, headers, payload) = (message.queue, message.headers, message.payload);
        let stored = Received::new(id.clone(), name.clone(), headers, payload, "default", 0);
        self.queue(&name)?.push_back(stored);
        self.last_id += 1;
        Ok(id)
    }

    /// The next message of a queue, leased to a connection.
    fn deliver(&mut self, name: &QueueName, connection: u64) -> Option<Received> {
        let message = self.queues.get_mut(name)?.pop_front()?;
        self.leases.insert(message.id.clone(), (connection, message.clone()));
        Some(message)
    }

    fn settle(&mut self, queue: &QueueName, id: &MessageId) -> Answer<Received> {
        let lost = || Box::new(ServerError::message_not_found(queue, id.as_str()));
        Ok(self.leases.remove(id).ok_or_else(lost)?.1)
    }

    fn give_back(&mut self, mut message: Received) {
        message.attempt_count += 1;
        if let Some(queue) = self.queues.get_mut(&message.queue) {
            queue.push_back(message);
        }
    }

    fn release(&mut self, connection: u64) {
        let leases = std::mem::take(&mut self.leases).into_iter();
        let (released, kept) = leases.partition(|(_, (holder, _))| *holder == connection);
        self.leases = kept;
        released.into_values().for_each(|(_, message)| self.give_back(message));
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
            lock(&broker).release(number);
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
    let mut transmit = Transmit::new();
    while !connection.is_finished() {
        while let Some((id, request)) = connection.poll_request() {
            let answer = lock(broker).answer(request);
            let response = answer.unwrap_or_else(|refusal| Response::Error(*refusal));
            connection.respond(id, &response).map_err(io::Error::other)?;
        }
        while let Some(queue) = connection.consumer_queue()
            && let Some(delivery) = lock(broker).deliver(queue, number)
        {
            let deliveries = vec![delivery];
            connection.push(&Push { deliveries }).map_err(io::Error::other)?;
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

fn lock(broker: &Mutex<Broker>) -> MutexGuard<'_, Broker> {
    broker.lock().unwrap_or_else(PoisonError::into_inner)
}
