//! A scripted server on a real socket: one thread per connection, which blocks when it writes.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use fibp_proto::server::{RequestId, ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{Dialect, MessageId, Request, Response};
use fila_client_blocking::{Client, Config};

/// What a server does with the requests of one connection.
pub(crate) trait Script: Send {
    fn request(&mut self, server: &mut ServerConnection, id: RequestId, request: Request);

    /// The connection has ended.
    fn closed(&mut self) {}
}

impl<F: FnMut(&mut ServerConnection, RequestId, Request) + Send> Script for F {
    fn request(&mut self, server: &mut ServerConnection, id: RequestId, request: Request) {
        self(server, id, request);
    }
}

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    dialect: Dialect,
    over: Arc<AtomicBool>,
}

impl Server {
    /// `script` is called for every connection.
    pub(crate) fn start<S: Script + 'static>(dialect: Dialect, mut script: impl FnMut() -> S + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let server = Self {
            addr,
            dialect,
            over: Arc::clone(&over),
        };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let mut script = script();
                let stream = stream.unwrap();
                thread::spawn(move || {
                    serve(dialect, stream, &mut script);
                    script.closed();
                });
            }
        });
        server
    }

    pub(crate) fn config(&self) -> Config {
        Config::new(self.addr).dialect(self.dialect)
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.config()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(self.addr));
    }
}

fn serve(dialect: Dialect, mut stream: TcpStream, script: &mut impl Script) {
    stream.set_nodelay(true).unwrap();
    let mut server = ServerConnection::new(ServerConfig::new([dialect]));
    loop {
        while let Some(event) = server.poll_event() {
            match event {
                ServerEvent::Opened { .. } => server.accept(),
                ServerEvent::Request { id, request } => script.request(&mut server, id, request),
                ServerEvent::Malformed { .. } => panic!("a torn frame: {event:?}"),
                _ => {}
            }
            if server.write_to(&mut stream).is_err() {
                return;
            }
        }
        if server.is_finished() {
            return;
        }
        if server.read_from(&mut stream).is_err() {
            server.handle_eof();
        }
    }
}

/// The id that a well-behaved server gives a message: its payload's first eight bytes.
pub(crate) fn id_of(payload: &[u8]) -> MessageId {
    MessageId::from(String::from_utf8_lossy(&payload[..payload.len().min(8)]).into_owned())
}

/// Answers what needs no state.
pub(crate) fn answer(server: &mut ServerConnection, id: RequestId, request: Request) {
    let response = match request {
        Request::Enqueue(messages) => {
            Response::Enqueue(messages.iter().map(|message| Ok(id_of(&message.payload))).collect())
        }
        Request::Ack(acks) => Response::Ack(acks.iter().map(|_| Ok(())).collect()),
        Request::Nack(nacks) => Response::Nack(nacks.iter().map(|_| Ok(())).collect()),
        Request::Heartbeat => Response::Heartbeat,
        Request::Consume { .. } => Response::Consume {
            consumer_id: Some("consumer".to_owned()),
        },
        _ => return,
    };
    server.respond(id, &response).unwrap();
}

/// Fails instead of hanging.
pub(crate) fn within<R: Send + 'static>(limit: Duration, body: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = mpsc::channel();
    let thread = thread::spawn(move || {
        let result = body();
        // Nobody waits after the limit.
        let _ = done.send(());
        result
    });
    match result.recv_timeout(limit) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs"),
        _ => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}
