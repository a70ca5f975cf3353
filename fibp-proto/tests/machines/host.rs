//! What a channel is connected to: a server machine, inside TLS or not, or something else altogether.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use fibp_proto::admin::{Acl, CreatedApiKey, QueueList, QueueStats};
use fibp_proto::fault::FaultKind;
use fibp_proto::frame::Transmit;
use fibp_proto::response::ServerError;
use fibp_proto::server::{RequestId, ServerConfig, ServerConnection, ServerEvent};
use fibp_proto::{AdminRevision, Dialect, ErrorKind, MessageId, Request, Response};

/// What answers a dial.
pub(crate) enum Host {
    Refused(FaultKind),
    /// The dial never ends.
    Unreachable,
    Fila(ServerConfig),
    #[allow(dead_code, reason = "only builds with TLS use it")]
    FilaTls(ServerConfig, Arc<rustls::ServerConfig>),
    /// Says this as soon as the client spoke, then ends.
    Raw(Vec<u8>, Option<End>),
}

impl Host {
    pub(crate) fn p1() -> Self {
        Self::of(Dialect::Preamble(AdminRevision::Protobuf))
    }

    pub(crate) fn of(dialect: Dialect) -> Self {
        Self::Fila(ServerConfig::new([dialect]))
    }

    pub(crate) fn framed() -> Self {
        Self::of(Dialect::Handshake)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Eof,
    Reset,
}

/// What a server does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    Answer(Response),
    Silence,
    /// Answers, then closes.
    AnswerAndClose(Response),
    Close(End),
}

impl Act {
    pub(crate) fn error(kind: ErrorKind, text: &str) -> Self {
        Self::Answer(Response::Error(ServerError::new(kind, text)))
    }
}

/// What a good server answers.
pub(crate) fn obliging(request: &Request) -> Act {
    Act::Answer(match request {
        Request::Enqueue(messages) => Response::Enqueue(
            messages
                .iter()
                .map(|message| {
                    let start = &message.payload[..message.payload.len().min(20)];
                    Ok(MessageId::from(format!("of-{}", String::from_utf8_lossy(start))))
                })
                .collect(),
        ),
        Request::Consume { .. } => Response::Consume {
            consumer_id: Some("c".to_owned()),
        },
        Request::Ack(items) => Response::Ack(vec![Ok(()); items.len()]),
        Request::Nack(items) => Response::Nack(vec![Ok(()); items.len()]),
        Request::Heartbeat => Response::Heartbeat,
        Request::Authenticate(_) => Response::Authenticated,
        Request::CreateQueue(spec) => Response::CreateQueue {
            queue_id: spec.name.to_string(),
        },
        Request::DeleteQueue { .. } => Response::DeleteQueue,
        Request::QueueStats { .. } => Response::QueueStats(QueueStats::default().depth(3)),
        Request::ListQueues => Response::ListQueues(QueueList::default()),
        // What the admin probe looks like to P2.
        Request::Redrive { dlq, .. } if dlq.is_empty() => Response::Error(ServerError::new(
            ErrorKind::InvalidArgument,
            "invalid payload: dlq_queue name must not be empty",
        )),
        Request::Redrive { count, .. } => Response::Redrive { redriven: *count },
        Request::SetConfig { .. } => Response::SetConfig,
        Request::GetConfig { key } => Response::GetConfig { value: key.clone() },
        Request::ListConfig { .. } => Response::ListConfig { entries: Vec::new() },
        Request::CreateApiKey(spec) => Response::CreateApiKey(CreatedApiKey::new(spec.name.clone(), "secret", false)),
        Request::RevokeApiKey { .. } => Response::RevokeApiKey,
        Request::ListApiKeys => Response::ListApiKeys(Vec::new()),
        Request::SetAcl { .. } => Response::SetAcl,
        Request::GetAcl { key_id } => Response::GetAcl(Acl::default().key_id(key_id.clone())),
        _ => return Act::Silence,
    })
}

enum Peer {
    Server(Box<ServerConnection>),
    Tls(Box<ServerConnection>, Box<rustls::ServerConnection>),
    Raw(Option<(Vec<u8>, Option<End>)>),
}

/// One accepted connection and both directions of its wire.
pub(crate) struct Socket {
    peer: Peer,
    pub(crate) to_server: VecDeque<u8>,
    pub(crate) to_client: VecDeque<u8>,
    /// Bytes that the client wrote and read so far.
    pub(crate) sent: usize,
    pub(crate) received: usize,
    /// Bytes that the client may still write before its writes stall.
    pub(crate) budget: Option<usize>,
    /// Bytes that the network still lets the client read.
    pub(crate) arrivals: Option<usize>,
    /// The connection ends when the client has read this many bytes.
    pub(crate) cut_at: Option<usize>,
    pub(crate) cut_end: End,
    pub(crate) end: Option<End>,
    pub(crate) client_half_closed: bool,
    told_eof: bool,
    /// Framed: the keys that are accepted; `None` accepts all.
    pub(crate) refuse_handshake: Option<ServerError>,
    /// The key of a framed handshake.
    pub(crate) handshake_key: Option<String>,
    /// Whether the server closes after a half-close.
    pub(crate) closes_after_client: bool,
    /// The server said goodbye to the client's goodbye: reads nothing more.
    pub(crate) server_closed: bool,
    pub(crate) raw_received: Vec<u8>,
    /// Plain bytes that the server did not want yet.
    unread: Vec<u8>,
    failed: bool,
}

impl Socket {
    pub(crate) fn new(host: Host, budget: Option<usize>) -> Self {
        let peer = match host {
            Host::Fila(config) => Peer::Server(Box::new(ServerConnection::new(config))),
            Host::FilaTls(config, tls) => {
                let tls = rustls::ServerConnection::new(tls).expect("a TLS server");
                Peer::Tls(Box::new(ServerConnection::new(config)), Box::new(tls))
            }
            Host::Raw(bytes, end) => Peer::Raw(Some((bytes, end))),
            Host::Refused(_) | Host::Unreachable => panic!("not accepted"),
        };
        Self {
            peer,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            sent: 0,
            received: 0,
            budget,
            arrivals: None,
            cut_at: None,
            cut_end: End::Reset,
            end: None,
            client_half_closed: false,
            told_eof: false,
            refuse_handshake: None,
            handshake_key: None,
            closes_after_client: true,
            server_closed: false,
            raw_received: Vec::new(),
            unread: Vec::new(),
            failed: false,
        }
    }

    pub(crate) fn server(&mut self) -> &mut ServerConnection {
        match &mut self.peer {
            Peer::Server(server) | Peer::Tls(server, _) => server,
            Peer::Raw(_) => panic!("not a server"),
        }
    }

    /// Whether a server has been opened and is not over.
    pub(crate) fn is_open(&self) -> bool {
        let server = match &self.peer {
            Peer::Server(server) | Peer::Tls(server, _) => server,
            Peer::Raw(_) => return false,
        };
        server.dialect().is_some() && !self.server_closed
    }

    /// Bytes of the script's own.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.to_client.extend(bytes);
    }

    pub(crate) fn end(&mut self, end: End) {
        self.end = Some(end);
        if end == End::Reset {
            self.to_client.clear();
        }
    }

    /// Lets the server do what it can; true if anything moved.
    pub(crate) fn run(&mut self, mut serve: impl FnMut(RequestId, &Request) -> Act) -> bool {
        if self.server_closed {
            return false;
        }
        let mut input: Vec<u8> = self.to_server.drain(..).collect();
        let mut moved = !input.is_empty();
        if let Peer::Raw(answer) = &mut self.peer {
            self.raw_received.extend(&input);
            if moved && let Some((bytes, end)) = answer.take() {
                self.to_client.extend(bytes);
                self.end = end;
            }
            return moved;
        }
        if let Peer::Tls(_, tls) = &mut self.peer {
            input = decrypt(tls, &input, &mut self.failed);
        }
        let mut unread = std::mem::take(&mut self.unread);
        unread.append(&mut input);
        moved |= self.feed(&unread);
        moved |= self.serve(&mut serve);
        if self.client_half_closed && !self.told_eof && self.closes_after_client {
            self.told_eof = true;
            self.server().handle_eof();
            moved = true;
        }
        moved |= self.serve(&mut serve);
        moved |= self.flush();
        if (self.server().is_finished() || self.failed) && self.end.is_none() {
            self.end = Some(End::Eof);
            self.server_closed = true;
            moved = true;
        }
        moved
    }

    fn feed(&mut self, mut input: &[u8]) -> bool {
        let moved = !input.is_empty();
        while !input.is_empty() {
            let n = self.server().feed(input);
            if n == 0 {
                // It reads on when it has answered.
                self.unread = input.to_vec();
                break;
            }
            input = &input[n..];
        }
        moved && input.is_empty()
    }

    fn serve(&mut self, serve: &mut impl FnMut(RequestId, &Request) -> Act) -> bool {
        let mut moved = false;
        while let Some(event) = self.server().poll_event() {
            moved = true;
            match event {
                ServerEvent::Opened { dialect, key } => {
                    self.handshake_key = key.map(|key| key.expose().to_owned());
                    match (dialect, self.refuse_handshake.clone()) {
                        (Dialect::Preamble(_), _) => {}
                        (_, Some(error)) => self.server().refuse(error),
                        (_, None) => self.server().accept(),
                    }
                }
                ServerEvent::Request { id, request } => match serve(id, &request) {
                    Act::Silence => {}
                    Act::Answer(response) => self.respond(id, &response),
                    Act::AnswerAndClose(response) => {
                        self.respond(id, &response);
                        self.server().close();
                    }
                    Act::Close(end) => {
                        self.flush();
                        self.end(end);
                        self.server_closed = true;
                        return true;
                    }
                },
                ServerEvent::Malformed { id, answer, .. } => match answer {
                    Some(answer) => self.server().respond_error(id, &answer),
                    None => self.server().close(),
                },
                _ => {}
            }
        }
        moved
    }

    fn respond(&mut self, id: RequestId, response: &Response) {
        match response {
            Response::Error(error) => self.server().respond_error(id.id, error),
            response => self.server().respond(id, response).expect("encodes"),
        }
    }

    fn flush(&mut self) -> bool {
        let mut moved = false;
        let mut transmit = Transmit::new();
        let mut plain = Vec::new();
        while self.server().take_transmit(&mut transmit) {
            while !transmit.is_empty() {
                let n = transmit.chunk().len();
                plain.extend_from_slice(transmit.chunk());
                self.server().transmitted(&mut transmit, n);
            }
        }
        match &mut self.peer {
            Peer::Tls(_, tls) => {
                let mut rest = &plain[..];
                while !rest.is_empty() || tls.wants_write() {
                    let n = tls.writer().write(rest).expect("room");
                    rest = &rest[n..];
                    let mut wire = Vec::new();
                    while tls.wants_write() {
                        tls.write_tls(&mut wire).expect("memory");
                    }
                    moved |= !wire.is_empty();
                    self.to_client.extend(wire);
                }
            }
            _ => {
                moved |= !plain.is_empty();
                self.to_client.extend(plain);
            }
        }
        moved
    }
}

fn decrypt(tls: &mut rustls::ServerConnection, mut input: &[u8], failed: &mut bool) -> Vec<u8> {
    let mut plain = Vec::new();
    while !input.is_empty() && !*failed {
        tls.read_tls(&mut input).expect("room");
        if tls.process_new_packets().is_err() {
            *failed = true;
        }
        // Would-block, or the end.
        let _ = tls.reader().read_to_end(&mut plain);
    }
    plain
}
