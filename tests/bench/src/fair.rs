//! The fair loop: what any client must do, written by hand for the preamble dialect, and nothing else. It encodes from
//! `Vec<Message>`, correlates ids, hands out owned results and owned messages, and has one slot and one wake per caller.
//! It has no locks, no retries, no deadlines, no limits, and it trusts the server.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc as threads;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use bytes::{BufMut, Bytes};
use fibp_proto::{Headers, Message, MessageId, QueueName, Received};
use tokio::sync::{mpsc, oneshot};

use crate::runtime::{AsyncRuntime, Enqueue};
use crate::target::Peer;

/// The result of one message; the text of a refusal.
pub(crate) type Sent = Result<MessageId, String>;

/// What a caller gets.
#[derive(Debug)]
pub(crate) enum Answer {
    One(Sent),
    Many(Vec<Sent>),
}

/// Where a caller waits.
pub(crate) trait Slot {
    fn fill(self, answer: Answer);
}

/// What a caller wants.
#[derive(Debug)]
pub(crate) struct Job<S> {
    work: Work,
    slot: S,
}

#[derive(Debug)]
enum Work {
    One(Message),
    Many(Vec<Message>),
}

/// What a frame in flight holds: the messages are kept, as a client has to that gives back what was refused.
#[derive(Debug)]
enum Pending<S> {
    Shared(Vec<(Message, S)>),
    List(Vec<Message>, S),
}

/// One connection without its socket. Lists have a frame each; single messages share one, and wait while it is unanswered.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    out: Vec<u8>,
    waiting: Vec<(Message, S)>,
    pending: HashMap<u32, Pending<S>>,
    next_id: u32,
    shared_in_flight: usize,
    buffer: Vec<u8>,
    filled: usize,
}

/// The most messages that share a frame.
const MOST: usize = 1000;

impl<S: Slot> Connection<S> {
    pub(crate) fn new() -> Self {
        Self {
            out: Vec::new(),
            waiting: Vec::new(),
            pending: HashMap::new(),
            next_id: 0,
            shared_in_flight: 0,
            buffer: vec![0; 256 * 1024],
            filled: 0,
        }
    }

    pub(crate) fn submit(&mut self, job: Job<S>) {
        match job.work {
            Work::One(message) => self.waiting.push((message, job.slot)),
            Work::Many(messages) => {
                self.next_id += 1;
                encode(&messages, self.next_id, &mut self.out);
                self.pending.insert(self.next_id, Pending::List(messages, job.slot));
            }
        }
    }

    /// What is to be written now; clear it afterwards.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        if self.shared_in_flight == 0 && !self.waiting.is_empty() {
            let rest = self.waiting.split_off(self.waiting.len().min(MOST));
            let shared = std::mem::replace(&mut self.waiting, rest);
            self.next_id += 1;
            encode_all(
                shared.iter().map(|(message, _)| message),
                shared.len(),
                self.next_id,
                &mut self.out,
            );
            self.pending.insert(self.next_id, Pending::Shared(shared));
            self.shared_in_flight += 1;
        }
        &mut self.out
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.waiting.is_empty()
    }

    pub(crate) fn unfilled(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// Takes so many bytes that were read; returns how many frames were answered.
    pub(crate) fn received(&mut self, read: usize) -> usize {
        assert!(read > 0, "the server closed");
        self.filled += read;
        let (mut at, mut answered) = (0, 0);
        while let Some((id, body)) = frame(&self.buffer[at..self.filled]) {
            let end = at + FRAME_HEAD + body;
            let results = &self.buffer[at + FRAME_HEAD..end];
            match self.pending.remove(&id).expect("an id of ours") {
                Pending::Shared(callers) => {
                    self.shared_in_flight -= 1;
                    let mut results = Results::new(results);
                    for (message, slot) in callers {
                        slot.fill(Answer::One(results.next().expect("a result for each")));
                        drop(message);
                    }
                }
                Pending::List(messages, slot) => {
                    let results: Vec<Sent> = Results::new(results).collect();
                    assert_eq!(results.len(), messages.len());
                    slot.fill(Answer::Many(results));
                }
            }
            at = end;
            answered += 1;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        answered
    }
}

/// Length field and header.
pub(crate) const FRAME_HEAD: usize = 10;

/// The id of a whole frame, and how long its body is.
pub(crate) fn frame(bytes: &[u8]) -> Option<(u32, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    let head = rest.get(..length)?.first_chunk::<6>()?;
    Some((u32::from_be_bytes([head[2], head[3], head[4], head[5]]), length - 6))
}

pub(crate) fn encode(messages: &[Message], id: u32, out: &mut Vec<u8>) {
    encode_all(messages.iter(), messages.len(), id, out);
}

/// An enqueue frame (docs/protocol/preamble.md 1.5): lengths first, then one copy of each payload.
fn encode_all<'a>(messages: impl Iterator<Item = &'a Message> + Clone, count: usize, id: u32, out: &mut Vec<u8>) {
    let Some(first) = messages.clone().next() else { return };
    let headers = |message: &Message| -> usize {
        message
            .headers
            .iter()
            .map(|(key, value)| 4 + key.len() + value.len())
            .sum()
    };
    let items: usize = messages
        .clone()
        .map(|message| 5 + headers(message) + message.payload.len())
        .sum();
    let length = 6 + 4 + first.queue.len() + items;
    out.reserve(4 + length);
    out.put_u32(length as u32);
    out.put_slice(&[0, 0x01]);
    out.put_u32(id);
    put_text(&first.queue, out);
    out.put_u16(count as u16);
    for message in messages {
        assert!(message.queue == first.queue, "one queue per frame");
        out.put_u8(message.headers.len() as u8);
        for (key, value) in &message.headers {
            put_text(key, out);
            put_text(value, out);
        }
        out.put_u32(message.payload.len() as u32);
        out.put_slice(&message.payload);
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

/// Reads a body from its beginning.
#[derive(Debug)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        taken
    }
    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }
    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }
    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }
    fn text(&mut self) -> &'a str {
        let n = self.u16().into();
        std::str::from_utf8(self.take(n)).expect("UTF-8")
    }
}

/// The results of an enqueue.
#[derive(Debug)]
pub(crate) struct Results<'a> {
    reader: Reader<'a>,
    left: u16,
}

impl<'a> Results<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        let mut reader = Reader(body);
        let left = reader.u16();
        Self { reader, left }
    }
}

impl Iterator for Results<'_> {
    type Item = Sent;

    fn next(&mut self) -> Option<Sent> {
        self.left = self.left.checked_sub(1)?;
        Some(if self.reader.u8() == 1 {
            Ok(self.reader.text().into())
        } else {
            let _code = self.reader.u16();
            Err(self.reader.text().to_owned())
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.into(), Some(self.left.into()))
    }
}

/// The deliveries of a connection, owned: one arena for each push, names shared.
#[derive(Debug)]
pub(crate) struct Deliveries {
    queue: QueueName,
    fairness_key: Arc<str>,
    buffer: Vec<u8>,
    filled: usize,
    ready: VecDeque<Received>,
}

impl Deliveries {
    pub(crate) fn new(queue: &QueueName) -> Self {
        Self {
            queue: queue.clone(),
            fairness_key: "default".into(),
            buffer: vec![0; 256 * 1024],
            filled: 0,
            ready: VecDeque::new(),
        }
    }

    pub(crate) fn next(&mut self) -> Option<Received> {
        self.ready.pop_front()
    }

    pub(crate) fn unfilled(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    pub(crate) fn received(&mut self, read: usize) {
        assert!(read > 0, "the server closed");
        self.filled += read;
        let mut at = 0;
        while let Some((_, body)) = frame(&self.buffer[at..self.filled]) {
            let end = at + FRAME_HEAD + body;
            if self.buffer[at + 4] == 0x04 {
                let body = at + FRAME_HEAD..end;
                push(&self.queue, &mut self.fairness_key, &self.buffer[body], &mut self.ready);
            }
            at = end;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
    }
}

/// A push (docs/protocol/preamble.md 1.7).
fn push(queue: &QueueName, fairness_key: &mut Arc<str>, body: &[u8], into: &mut VecDeque<Received>) {
    let arena = Bytes::copy_from_slice(body);
    let mut reader = Reader(body);
    for _ in 0..reader.u16() {
        let id = MessageId::from(reader.text());
        let key = reader.text();
        if **fairness_key != *key {
            *fairness_key = key.into();
        }
        let attempts = reader.u32();
        let headers: Headers = (0..reader.u8())
            .map(|_| (reader.text().to_owned(), reader.text().to_owned()))
            .collect();
        let length = reader.u32() as usize;
        reader.take(length);
        let end = body.len() - reader.0.len();
        let payload = arena.slice(end - length..end);
        into.push_back(Received::new(
            id,
            queue.clone(),
            headers,
            payload,
            fairness_key.clone(),
            attempts,
        ));
    }
}

/// A fair client in tasks.
#[derive(Debug, Clone)]
pub(crate) struct FairTasks(mpsc::UnboundedSender<Job<oneshot::Sender<Answer>>>);

impl Slot for oneshot::Sender<Answer> {
    fn fill(self, answer: Answer) {
        // The slot holds what a caller no longer wants.
        let _gone = self.send(answer);
    }
}

impl FairTasks {
    /// # Panics
    ///
    /// The server refuses.
    pub(crate) fn connect<R: AsyncRuntime>(runtime: &R, peer: &Peer) -> Self {
        let (sender, mut jobs) = mpsc::unbounded_channel();
        let mut stream = runtime.adopt(peer.open().expect("a server")).expect("a socket");
        drop(runtime.spawn(async move {
            let mut connection = Connection::new();
            loop {
                if connection.is_idle() {
                    let Some(job) = jobs.recv().await else { return };
                    connection.submit(job);
                }
                while let Ok(job) = jobs.try_recv() {
                    connection.submit(job);
                }
                let out = connection.output();
                if !out.is_empty() {
                    R::write_all(&mut stream, out).await.expect("a server");
                    out.clear();
                }
                let read = R::read(&mut stream, connection.unfilled()).await.expect("a server");
                connection.received(read);
            }
        }));
        Self(sender)
    }

    async fn call(&self, work: Work) -> Answer {
        let (slot, answer) = oneshot::channel();
        assert!(self.0.send(Job { work, slot }).is_ok(), "a connection");
        answer.await.expect("an answer")
    }
}

impl Enqueue for FairTasks {
    async fn enqueue(&self, message: Message) -> bool {
        matches!(self.call(Work::One(message)).await, Answer::One(Ok(_)))
    }
    async fn enqueue_many(&self, messages: Vec<Message>) -> usize {
        match self.call(Work::Many(messages)).await {
            Answer::Many(results) => results.len(),
            Answer::One(_) => 0,
        }
    }
}

/// A fair client in threads.
#[derive(Debug, Clone)]
pub(crate) struct FairThreads(threads::Sender<Job<Parked>>);

/// A caller that is parked until its slot is full.
#[derive(Debug)]
pub(crate) struct Parked(Arc<OnceLock<Answer>>, Thread);

impl Slot for Parked {
    fn fill(self, answer: Answer) {
        let Self(slot, caller) = self;
        let _filled = slot.set(answer);
        // First: the caller takes the answer out of a slot that is its own again.
        drop(slot);
        caller.unpark();
    }
}

impl FairThreads {
    /// # Panics
    ///
    /// The server refuses.
    pub(crate) fn connect(peer: &Peer) -> Self {
        let (sender, jobs) = threads::channel();
        let mut stream = peer.open().expect("a server");
        std::thread::spawn(move || {
            let mut connection = Connection::new();
            loop {
                if connection.is_idle() {
                    let Ok(job) = jobs.recv() else { return };
                    connection.submit(job);
                }
                while let Ok(job) = jobs.try_recv() {
                    connection.submit(job);
                }
                exchange(&mut connection, &mut stream);
            }
        });
        Self(sender)
    }

    fn call(&self, work: Work) -> Answer {
        let answer = Arc::new(OnceLock::new());
        let slot = Parked(answer.clone(), std::thread::current());
        assert!(self.0.send(Job { work, slot }).is_ok(), "a connection");
        let mut answer = answer;
        loop {
            match Arc::try_unwrap(answer).map(OnceLock::into_inner) {
                Ok(filled) => return filled.expect("an answer"),
                Err(shared) => answer = shared,
            }
            std::thread::park();
        }
    }

    pub(crate) fn enqueue(&self, message: Message) -> bool {
        matches!(self.call(Work::One(message)), Answer::One(Ok(_)))
    }

    pub(crate) fn enqueue_many(&self, messages: Vec<Message>) -> usize {
        match self.call(Work::Many(messages)) {
            Answer::Many(results) => results.len(),
            Answer::One(_) => 0,
        }
    }
}

/// Writes what is to be written and reads once.
fn exchange<S: Slot>(connection: &mut Connection<S>, stream: &mut (impl Read + Write)) -> usize {
    let out = connection.output();
    if !out.is_empty() {
        stream.write_all(out).expect("a server");
        out.clear();
    }
    let read = stream.read(connection.unfilled()).expect("a server");
    connection.received(read)
}

/// A fair client of one caller, which does everything itself: there is nobody to wake.
#[derive(Debug)]
pub(crate) struct Alone<T = TcpStream> {
    connection: Connection<Kept>,
    stream: T,
}

/// The caller's own slot.
#[derive(Debug, Clone, Default)]
struct Kept;

impl Slot for Kept {
    fn fill(self, answer: Answer) {
        drop(std::hint::black_box(answer));
    }
}

impl<T: Read + Write> Alone<T> {
    /// On a connection that is open.
    pub(crate) fn new(stream: T) -> Self {
        Self {
            connection: Connection::new(),
            stream,
        }
    }

    /// One message, and its answer.
    pub(crate) fn enqueue(&mut self, message: Message) {
        self.connection.submit(Job {
            work: Work::One(message),
            slot: Kept,
        });
        while exchange(&mut self.connection, &mut self.stream) == 0 {}
    }

    /// Keeps `window` of these lists in flight.
    pub(crate) fn enqueue_lists(&mut self, lists: Vec<Vec<Message>>, window: usize) {
        let (mut lists, mut in_flight) = (lists.into_iter(), 0);
        loop {
            for list in lists.by_ref().take(window - in_flight) {
                self.connection.submit(Job {
                    work: Work::Many(list),
                    slot: Kept,
                });
                in_flight += 1;
            }
            if in_flight == 0 {
                return;
            }
            in_flight -= exchange(&mut self.connection, &mut self.stream);
        }
    }
}

/// The same in a task.
#[derive(Debug)]
pub(crate) struct AloneInTask<R: AsyncRuntime> {
    connection: Connection<Kept>,
    stream: R::Stream,
}

impl<R: AsyncRuntime> AloneInTask<R> {
    /// # Panics
    ///
    /// The server refuses.
    pub(crate) fn connect(runtime: &R, peer: &Peer) -> Self {
        let stream = peer.open().expect("a server");
        Self {
            connection: Connection::new(),
            stream: runtime.adopt(stream).expect("a socket"),
        }
    }

    pub(crate) async fn enqueue(&mut self, message: Message) {
        self.connection.submit(Job {
            work: Work::One(message),
            slot: Kept,
        });
        let out = self.connection.output();
        R::write_all(&mut self.stream, out).await.expect("a server");
        out.clear();
        loop {
            let read = R::read(&mut self.stream, self.connection.unfilled())
                .await
                .expect("a server");
            if self.connection.received(read) > 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fibp_proto::frame::Limits;
    use fibp_proto::{Push, Request, Response, request::Op};

    use super::*;
    use crate::machine::delivery;
    use crate::target::{P1, message};

    #[test]
    fn frames_are_those_of_the_codec() {
        let queue = "bench".into();
        let messages = vec![message(&queue).header("tenant", "acme"), message(&queue)];
        let mut frame = Vec::new();
        encode(&messages, 7, &mut frame);
        let expected = Request::Enqueue(messages)
            .encode(P1, 7, Limits::default())
            .expect("a frame");
        assert_eq!(frame, expected);
    }

    #[test]
    fn answers_reach_their_callers_in_any_pieces() {
        let response = Response::Enqueue(vec![
            Ok(crate::machine::message_id(1)),
            Ok(crate::machine::message_id(2)),
        ]);
        let answer = response.encode(P1, 1, Op::Enqueue).expect("a frame");
        for size in 1..answer.len() {
            let mut connection = Connection::new();
            let queue: QueueName = "bench".into();
            let mut slots = Vec::new();
            for _ in 0..2 {
                let (slot, caller) = oneshot::channel();
                let work = Work::One(message(&queue));
                connection.submit(Job { work, slot });
                slots.push(caller);
            }
            connection.output().clear();
            for piece in answer.chunks(size) {
                connection.unfilled()[..piece.len()].copy_from_slice(piece);
                connection.received(piece.len());
            }
            for (n, mut caller) in slots.into_iter().enumerate() {
                let Ok(Answer::One(Ok(id))) = caller.try_recv() else {
                    panic!("no answer")
                };
                assert_eq!(id, crate::machine::message_id(n as u32 + 1));
            }
            assert!(connection.is_idle());
        }
    }

    #[test]
    fn deliveries_are_those_of_the_codec() {
        let queue: QueueName = "bench".into();
        let sent: Vec<Received> = (0..3).map(|n| delivery(&queue, n)).collect();
        let push = Push {
            deliveries: sent.clone(),
        };
        let bytes = push.encode(P1, 0, Limits::default()).expect("a push");
        let mut deliveries = Deliveries::new(&queue);
        deliveries.unfilled()[..bytes.len()].copy_from_slice(&bytes);
        deliveries.received(bytes.len());
        let received: Vec<Received> = std::iter::from_fn(|| deliveries.next()).collect();
        assert_eq!(received, sent);
    }
}
