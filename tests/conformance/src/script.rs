//! A server that does exactly what a test tells it, over real sockets.
//!
//! Each accepted connection is handed to a script: an ordinary function that expects requests, answers them, and
//! misbehaves at will. A script that panics fails the test that finishes the server.

use std::any::Any;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use fibp_proto::frame::{Decoder, Frame, Item, Limits};
use fibp_proto::request::Op;
use fibp_proto::response::ServerError;
use fibp_proto::{Dialect, ErrorKind, MessageId, Push, QueueName, Received, Request, Response};

/// How long a script waits for the client before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// The six bytes that open the preamble dialect, in both directions.
pub const PREAMBLE: [u8; 6] = *b"FIBP\x01\x00";

/// A request as it came, with the id to answer to.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The correlation id.
    pub id: u32,
    /// The request.
    pub request: Request,
}

type Failure = Box<dyn Any + Send>;

/// A server whose connections follow a script.
#[derive(Debug)]
pub struct Scripted {
    addr: SocketAddr,
    stopping: Arc<AtomicBool>,
    failures: Arc<Mutex<Vec<Failure>>>,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
    accepting: Option<JoinHandle<()>>,
}

impl Scripted {
    /// Serves on the IPv4 loopback. The script gets the number of the connection (from 0) and the conversation.
    ///
    /// # Panics
    ///
    /// The loopback interface has no free port.
    pub fn start(dialect: Dialect, script: impl Fn(usize, &mut Conversation) + Send + Sync + 'static) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), dialect, script)
    }

    /// Serves on the IPv6 loopback; `None` on a machine without it.
    pub fn start_v6(
        dialect: Dialect,
        script: impl Fn(usize, &mut Conversation) + Send + Sync + 'static,
    ) -> Option<Self> {
        TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok()?;
        Some(Self::start_at((Ipv6Addr::LOCALHOST, 0).into(), dialect, script))
    }

    fn start_at(
        at: SocketAddr,
        dialect: Dialect,
        script: impl Fn(usize, &mut Conversation) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(at).expect("a free port on the loopback interface");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let stopping = Arc::new(AtomicBool::new(false));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let sent = Arc::new(Mutex::new(Vec::new()));
        let accepting = std::thread::spawn({
            let (stopping, failures, sent) = (stopping.clone(), failures.clone(), sent.clone());
            move || accept_all(&listener, dialect, &stopping, &failures, &sent, &Arc::new(script))
        });
        Self {
            addr,
            stopping,
            failures,
            sent,
            accepting: Some(accepting),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits for all scripts to end, and fails if one did. Close or drop the client first.
    ///
    /// # Panics
    ///
    /// With what a script panicked with.
    pub fn finish(mut self) {
        self.stop();
        if let Some(failure) = lock(&self.failures).pop() {
            std::panic::resume_unwind(failure);
        }
    }

    /// As [`finish`](Self::finish); the bytes that each connection received, in the order of acceptance.
    ///
    /// # Panics
    ///
    /// With what a script panicked with.
    pub fn transcript(self) -> Vec<Vec<u8>> {
        let sent = self.sent.clone();
        self.finish();
        std::mem::take(&mut *lock(&sent))
    }

    fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            self.stopping.store(true, Ordering::SeqCst);
            // Wakes the accepting thread; it is of no matter whether this connection succeeds.
            drop(TcpStream::connect(self.addr));
            accepting.join().expect("the accepting thread does not panic");
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        // Only a failing test drops it unfinished: the scripts end by their own patience then.
        self.stopping.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.addr));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept_all(
    listener: &TcpListener,
    dialect: Dialect,
    stopping: &AtomicBool,
    failures: &Arc<Mutex<Vec<Failure>>>,
    sent: &Arc<Mutex<Vec<Vec<u8>>>>,
    script: &Arc<impl Fn(usize, &mut Conversation) + Send + Sync + 'static>,
) {
    let mut conversations = Vec::new();
    for number in 0.. {
        let Ok((stream, _)) = listener.accept() else { break };
        if stopping.load(Ordering::SeqCst) {
            break;
        }
        lock(sent).push(Vec::new());
        let (failures, sent, script) = (failures.clone(), sent.clone(), script.clone());
        conversations.push(std::thread::spawn(move || {
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
                let mut conversation = Conversation::new(stream, dialect);
                script(number, &mut conversation);
                conversation
            }));
            match outcome {
                Ok(conversation) => {
                    if let Some(place) = lock(&sent).get_mut(number) {
                        *place = conversation.received;
                    }
                }
                Err(failure) => lock(&failures).push(failure),
            }
        }));
    }
    for conversation in conversations {
        conversation.join().expect("failures of scripts are caught");
    }
}

/// One connection of a [`Scripted`] server. Everything blocks.
#[derive(Debug)]
pub struct Conversation {
    stream: TcpStream,
    dialect: Dialect,
    decoder: Decoder,
    /// Every byte that came.
    received: Vec<u8>,
    consume_id: u32,
    ended: bool,
}

impl Conversation {
    fn new(stream: TcpStream, dialect: Dialect) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout above zero");
        stream.set_nodelay(true).expect("a connected socket");
        let limits = Limits::default();
        Self {
            stream,
            dialect,
            decoder: Decoder::new(dialect.layout(), limits),
            received: Vec::new(),
            consume_id: 0,
            ended: false,
        }
    }

    // ---- reading ----

    fn fill(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(n) => {
                self.received.extend_from_slice(&bytes[..n]);
                self.decoder.feed(&bytes[..n]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                panic!("the client sent nothing for {PATIENCE:?}")
            }
            // A client that goes away may reset the connection.
            Err(_) => self.ended = true,
        }
        !self.ended
    }

    /// Waits for `n` bytes that are no frame, and takes them.
    ///
    /// # Panics
    ///
    /// The client closed, or sent nothing for long.
    pub fn take_raw(&mut self, n: usize) -> Vec<u8> {
        assert!(self.wait_for_bytes(n), "the client closed before it sent {n} bytes");
        let bytes = self.decoder.pending()[..n].to_vec();
        self.decoder.consume(n);
        bytes
    }

    /// Waits for `n` bytes of any kind. False if the client left before it sent them.
    ///
    /// # Panics
    ///
    /// The client sent nothing for long.
    pub fn wait_for_bytes(&mut self, n: usize) -> bool {
        while self.decoder.pending().len() < n {
            if !self.fill() {
                return false;
            }
        }
        true
    }

    /// The next frame, or `None` when the client has closed.
    ///
    /// # Panics
    ///
    /// The bytes are no frames, or the client sent nothing for long.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.next_item().expect("the client sends frames") {
                Some(Item::Frame(frame)) => return Some(frame),
                Some(Item::Oversized { length, .. }) => panic!("the client sent a frame of {length} bytes"),
                None if !self.fill() => return None,
                None => {}
            }
        }
    }

    /// Accepts the client's opening as a healthy server would. False if the client left without one, as it does when
    /// nobody needs the connection any more.
    ///
    /// # Panics
    ///
    /// The client opens otherwise.
    pub fn open(&mut self) -> bool {
        let opened = self.expect_opening();
        if opened {
            let answer = self.opening_answer();
            self.write(&answer);
        }
        opened
    }

    /// Waits for the client's opening and answers nothing. False if the client left without one.
    ///
    /// # Panics
    ///
    /// The client opens otherwise.
    pub fn expect_opening(&mut self) -> bool {
        if !self.wait_for_bytes(1) {
            return false;
        }
        match self.dialect {
            Dialect::Handshake | Dialect::HandshakeEarly => {
                let Some(frame) = self.next_frame() else { return false };
                assert_eq!(frame.header.opcode, 0x01, "a framed client opens with a handshake");
            }
            _ => assert_eq!(self.take_raw(PREAMBLE.len()), PREAMBLE),
        }
        true
    }

    /// What a healthy server answers to the opening.
    pub fn opening_answer(&self) -> Vec<u8> {
        match self.dialect {
            Dialect::Handshake | Dialect::HandshakeEarly => handshake_ok(),
            _ => PREAMBLE.to_vec(),
        }
    }

    /// The next request, or `None` when the client has closed.
    ///
    /// # Panics
    ///
    /// The request is malformed, or the client sent nothing for long.
    pub fn next_request(&mut self) -> Option<Asked> {
        let frame = self.next_frame()?;
        let request = Request::decode(self.dialect, &frame).expect("a well-formed request");
        if request.op() == Op::Consume {
            self.consume_id = frame.header.id;
        }
        Some(Asked {
            id: frame.header.id,
            request,
        })
    }

    /// The next request, which has to be `op`.
    ///
    /// # Panics
    ///
    /// It is another one, or none comes.
    pub fn expect(&mut self, op: Op) -> Asked {
        let asked = self
            .next_request()
            .unwrap_or_else(|| panic!("the client closed, {op:?} was expected"));
        assert_eq!(asked.request.op(), op, "{asked:?}");
        asked
    }

    /// Answers every further request with `answer` until the client closes; `None` leaves one unanswered.
    pub fn serve(&mut self, mut answer: impl FnMut(&Request) -> Option<Response>) {
        while let Some(asked) = self.next_request() {
            if let Some(response) = answer(&asked.request) {
                self.answer(&asked, &response);
            }
        }
    }

    /// Whether the client sends nothing for a moment. May overlook what comes later, never the reverse.
    ///
    /// # Panics
    ///
    /// The bytes are no frames.
    pub fn is_quiet(&mut self) -> bool {
        const MOMENT: Duration = Duration::from_millis(20);
        if self.ended || !self.decoder.pending().is_empty() {
            return self.decoder.pending().is_empty();
        }
        self.stream
            .set_read_timeout(Some(MOMENT))
            .expect("a timeout above zero");
        let quiet = matches!(
            self.stream.peek(&mut [0]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        );
        self.stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout above zero");
        quiet
    }

    /// Reads and ignores everything until the client closes.
    pub fn read_to_end(&mut self) {
        while self.fill() {
            let pending = self.decoder.pending().len();
            self.decoder.consume(pending);
        }
    }

    // ---- writing ----

    /// The bytes of an answer.
    ///
    /// # Panics
    ///
    /// The answer cannot be encoded.
    pub fn encode(&self, asked: &Asked, response: &Response) -> Vec<u8> {
        response
            .encode(self.dialect, asked.id, asked.request.op())
            .expect("an encodable answer")
            .to_vec()
    }

    /// Answers a request.
    pub fn answer(&mut self, asked: &Asked, response: &Response) {
        let bytes = self.encode(asked, response);
        self.write(&bytes);
    }

    /// Confirms a consume and remembers its id for pushes.
    pub fn confirm_consume(&mut self) -> Asked {
        let asked = self.expect(Op::Consume);
        self.answer(&asked, &consume_ok());
        asked
    }

    /// The bytes of a push of these deliveries.
    ///
    /// # Panics
    ///
    /// The deliveries cannot be encoded.
    pub fn encode_push(&self, deliveries: Vec<Received>) -> Vec<u8> {
        Push { deliveries }
            .encode(self.dialect, self.consume_id, Limits::default())
            .expect("an encodable push")
            .to_vec()
    }

    /// Pushes deliveries to the consumer of this connection.
    pub fn push(&mut self, deliveries: Vec<Received>) {
        let bytes = self.encode_push(deliveries);
        self.write(&bytes);
    }

    /// Writes bytes in one piece. A client that is gone is no failure.
    pub fn write(&mut self, bytes: &[u8]) {
        let _gone = self.stream.write_all(bytes).is_err();
    }

    /// Writes bytes one at a time, each in a segment of its own.
    pub fn dribble(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write(std::slice::from_ref(byte));
        }
    }

    /// Sends a goodbye, as no server does today.
    pub fn goaway(&mut self, text: &str) {
        let frame = match self.dialect {
            Dialect::Handshake | Dialect::HandshakeEarly => frame_bytes(0x05, 0, 0, &[]),
            _ => frame_bytes(0, 0xFF, 0, text.as_bytes()),
        };
        self.write(&frame);
    }

    /// Sends a heartbeat, as no server does today.
    pub fn heartbeat(&mut self, id: u32) {
        let frame = match self.dialect {
            Dialect::Handshake | Dialect::HandshakeEarly => frame_bytes(0x03, 0, id, &[]),
            _ => frame_bytes(0, 0x21, id, &[]),
        };
        self.write(&frame);
    }

    // ---- leaving ----

    /// Closes the writing half and goes on reading.
    pub fn half_close(&mut self) {
        let _gone = self.stream.shutdown(Shutdown::Write).is_err();
    }

    /// Closes both halves.
    pub fn close(&mut self) {
        let _gone = self.stream.shutdown(Shutdown::Both).is_err();
        self.ended = true;
    }

    /// Closes so that the client sees a reset instead of an end of file.
    ///
    /// # Panics
    ///
    /// The socket option cannot be set.
    pub fn reset(&mut self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("a connected socket");
        // The reset goes out when the last descriptor is closed.
        let placeholder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| TcpStream::connect(listener.local_addr()?))
            .expect("a loopback connection");
        self.stream = placeholder;
        self.ended = true;
    }
}

/// What a healthy framed server answers to the handshake.
pub fn handshake_ok() -> Vec<u8> {
    let mut body = 1u16.to_be_bytes().to_vec();
    body.extend_from_slice(&1u64.to_be_bytes());
    body.extend_from_slice(&(16u32 << 20).to_be_bytes());
    frame_bytes(0x02, 0, 0, &body)
}

/// The bytes of any frame; `first` and `second` are the two single bytes in wire order.
///
/// # Panics
///
/// The body is longer than a frame can be.
pub fn frame_bytes(first: u8, second: u8, id: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 6).expect("a body that fits a frame");
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(&[first, second]);
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// The confirmation of a consume.
pub fn consume_ok() -> Response {
    Response::Consume {
        consumer_id: Some("consumer-1".to_owned()),
    }
}

/// The id of the `n`th message of a test: shaped like a real one.
pub fn message_id(n: u32) -> MessageId {
    MessageId::from(format!("0195d3c8-5f2a-7abc-8def-{n:012x}"))
}

/// The `n`th delivery of a test.
pub fn delivery(queue: &str, n: u32, payload: impl Into<Vec<u8>>) -> Received {
    Received::new(
        message_id(n),
        QueueName::from(queue),
        [("n", n.to_string())].into_iter().collect(),
        payload.into(),
        "default",
        0,
    )
}

/// What a healthy server without memory answers: every enqueue is confirmed with ids counted from `first`.
pub fn healthy(request: &Request, first: u32) -> Option<Response> {
    Some(match request {
        Request::Enqueue(messages) => {
            let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
            Response::Enqueue(
                (first..first.saturating_add(count))
                    .map(|n| Ok(message_id(n)))
                    .collect(),
            )
        }
        Request::Consume { .. } => consume_ok(),
        Request::Ack(items) => Response::Ack(vec![Ok(()); items.len()]),
        Request::Nack(items) => Response::Nack(vec![Ok(()); items.len()]),
        Request::Heartbeat => Response::Heartbeat,
        Request::Authenticate(_) => Response::Authenticated,
        Request::CreateQueue(spec) => Response::CreateQueue {
            queue_id: spec.name.to_string(),
        },
        Request::DeleteQueue { .. } => Response::DeleteQueue,
        Request::ListQueues => Response::ListQueues(Default::default()),
        Request::QueueStats { .. } => Response::QueueStats(Default::default()),
        Request::Redrive { .. } => Response::Redrive { redriven: 0 },
        Request::SetConfig { .. } => Response::SetConfig,
        Request::GetConfig { .. } => Response::GetConfig { value: String::new() },
        Request::ListConfig { .. } => Response::ListConfig { entries: Vec::new() },
        Request::ProbeAdmin => Response::Error(ServerError::new(ErrorKind::Unsupported, "unknown operation 0x14")),
        _ => return None,
    })
}

/// A refusal of the whole request, in the preamble dialect's words.
pub fn refusal(kind: ErrorKind, text: &str) -> Response {
    Response::Error(ServerError::new(kind, text))
}
