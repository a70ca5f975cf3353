//! The threads behind a link: a driver for as long as it lives, and a reader for each connection. What they do and
//! when is [`Worker`]'s business.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use fibp_proto::Endpoint;
use fibp_proto::link::DialId;
use fibp_proto::task::{Hub, Job, LinkCell, News, Sources, Spawn, TryWrite, Worker};

use crate::connect::{Stream, connect, spawn};
use crate::wait::Bell;

/// What the core cannot have itself.
pub(crate) const SOURCES: Sources = Sources {
    now: Instant::now,
    seed,
};

/// A link that threads share.
pub(crate) type Line = LinkCell<Stream>;

/// What starts the threads of a link.
pub(crate) fn spawner() -> Spawn<Stream> {
    Box::new(|hub, link, receive_buffer| {
        let write: TryWrite<_> = |stream: &Stream, _, transmit| stream.write(transmit);
        let line = Arc::new(Line::for_threads(link, write, Stream::begin_frame));
        let threads = Threads {
            hub: Arc::clone(hub),
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
    hub: Arc<Hub<Stream>>,
    line: Arc<Line>,
    receive_buffer: Option<u32>,
}

impl Threads {
    fn drive(&self) {
        let bell = Arc::new(Bell::default());
        let worker = Worker::driver(&self.hub, &self.line, &Waker::from(Arc::clone(&bell)));
        self.work(worker, &bell, News::Nothing);
    }

    /// Makes a connection, then reads from it until it is gone.
    fn read(&self, id: DialId, endpoint: &Endpoint, deadline: Instant) {
        let settings = self.hub.shared.config().settings();
        // Asks the caller's closure: before anything is locked.
        let key = settings.credentials.key();
        let result = connect(endpoint, deadline, settings, self.receive_buffer);
        let result = result.map(|stream| (Arc::new(stream), key));
        let bell = Arc::new(Bell::default());
        let worker = Worker::reader(&self.hub, &self.line, Waker::from(Arc::clone(&bell)));
        self.work(worker, &bell, News::Dialed { id, result });
    }

    fn work(&self, mut worker: Worker<'_, Stream>, bell: &Bell, mut news: News<Stream>) {
        loop {
            let seen = bell.count();
            news = match worker.step(Instant::now(), news) {
                Job::End => return,
                Job::Sleep(until) => {
                    bell.sleep(seen, until);
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
