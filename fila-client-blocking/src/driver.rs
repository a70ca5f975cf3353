//! The threads behind a link: a driver for as long as it lives, and a reader for each connection. What they do and
//! when is [`Worker`]'s business.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use fibp_proto::Endpoint;
use fibp_proto::client::{Clients, Job, LinkCell, News, Sources, Spawn, TryWrite, Worker, presented_key};
use fibp_proto::link::DialId;

use crate::connect::{Stream, connect, spawn};
use crate::wait::Notifier;

/// What the core cannot have itself.
pub(crate) const SOURCES: Sources = Sources {
    now: Instant::now,
    seed,
};

/// A link that threads share.
pub(crate) type Line = LinkCell<Stream>;

/// What starts the threads of a link.
pub(crate) fn spawner() -> Spawn<Stream> {
    Box::new(|clients, link, receive_buffer| {
        let write: TryWrite<_> = |stream: &Stream, _, transmit| stream.write(transmit);
        let line = Arc::new(Line::for_threads(link, write, Stream::begin_frame));
        let threads = Threads {
            clients: Arc::clone(clients),
            line: Arc::clone(&line),
            receive_buffer,
        };
        if spawn("fila-driver", move || threads.drive()).is_err() {
            line.with(|link| link.abort(Instant::now()));
        }
        line
    })
}

#[derive(Debug, Clone)]
struct Threads {
    clients: Arc<Clients<Stream>>,
    line: Arc<Line>,
    receive_buffer: Option<u32>,
}

impl Threads {
    fn drive(&self) {
        let notifier = Arc::new(Notifier::default());
        let worker = Worker::driver(&self.clients, &self.line, &Waker::from(Arc::clone(&notifier)));
        self.work(worker, &notifier, News::Nothing);
    }

    /// Makes a connection, then reads from it until it is gone.
    fn read(&self, id: DialId, endpoint: &Endpoint, deadline: Option<Instant>) {
        let settings = self.clients.shared.config().settings();
        // Asks the caller's closure: before anything is locked.
        let result = presented_key(settings).and_then(|key| {
            let stream = connect(endpoint, deadline, settings, self.receive_buffer)?;
            Ok((Arc::new(stream), key))
        });
        let notifier = Arc::new(Notifier::default());
        let worker = Worker::reader(&self.clients, &self.line, Waker::from(Arc::clone(&notifier)));
        self.work(worker, &notifier, News::Dialed { id, result });
    }

    fn work(&self, mut worker: Worker<'_, Stream>, notifier: &Notifier, mut news: News<Stream>) {
        loop {
            let seen = notifier.count();
            news = match worker.step(Instant::now(), news) {
                Job::End => return,
                Job::Sleep(until) => {
                    notifier.sleep(seen, until);
                    News::Nothing
                }
                Job::Dial { id, endpoint, deadline } => {
                    let threads = self.clone();
                    match spawn("fila-reader", move || threads.read(id, &endpoint, deadline)) {
                        Ok(()) => News::Nothing,
                        Err(fault) => News::Dialed { id, result: Err(fault) },
                    }
                }
                job => Stream::perform(job),
            };
        }
    }
}

/// Unpredictable enough to spread the pauses of many clients.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
