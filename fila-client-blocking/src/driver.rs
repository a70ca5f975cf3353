//! The threads behind a channel: a driver for as long as it lives, and a reader for each connection. What they do and
//! when is [`Worker`]'s business.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use fibp_proto::Endpoint;
use fibp_proto::client::{
    CallerWrites, Cell, Clients, Driven, Drivers, Job, News, SocketOptions, Sources, StartDriver, Worker, presented_key,
};
use fibp_proto::machine::{ChannelId, DialId};

use crate::connect::{Stream, connect, spawn};
use crate::wait::Notifier;

/// What the core cannot have itself.
pub(crate) const SOURCES: Sources = Sources {
    now: Instant::now,
    seed,
};

/// What starts the threads of a channel.
pub(crate) fn drivers() -> Drivers<Stream> {
    Drivers {
        writes: CallerWrites {
            write: |stream: &Stream, _, transmit| stream.write(transmit),
            claimed: Some(Stream::begin_frame),
            wake_driver: false,
        },
        start_requests: starter(),
        start_consumer: starter(),
    }
}

fn starter<M: Driven + 'static>() -> StartDriver<M, Stream> {
    Box::new(|clients, cell, channel, receive_buffer| {
        let threads = Arc::new(Threads {
            clients: Arc::clone(clients),
            cell: Arc::clone(cell),
            channel,
            options: SocketOptions::new(clients.shared.config().settings(), receive_buffer),
        });
        if spawn("fila-driver", move || threads.drive()).is_err() {
            cell.with(|machine| machine.abandon_channel(Instant::now(), channel));
        }
    })
}

struct Threads<M> {
    clients: Arc<Clients<Stream>>,
    cell: Arc<Cell<M, Stream>>,
    channel: ChannelId,
    options: SocketOptions,
}

impl<M: Driven + 'static> Threads<M> {
    fn drive(self: &Arc<Self>) {
        let notifier = Arc::new(Notifier::default());
        let waker = Waker::from(Arc::clone(&notifier));
        let worker = Worker::driver(&self.clients, &self.cell, self.channel, &waker);
        self.work(worker, &notifier, News::Nothing);
    }

    /// Makes a connection, then reads from it until it is gone.
    fn read(self: &Arc<Self>, id: DialId, endpoint: &Endpoint, deadline: Option<Instant>) {
        let settings = self.clients.shared.config().settings();
        // Asks the caller's closure: before anything is locked.
        let result = presented_key(settings).and_then(|key| {
            let stream = connect(endpoint, deadline, settings, self.options)?;
            Ok((Arc::new(stream), key))
        });
        let notifier = Arc::new(Notifier::default());
        let waker = Waker::from(Arc::clone(&notifier));
        let worker = Worker::reader(&self.clients, &self.cell, self.channel, waker);
        self.work(worker, &notifier, News::Dialed { id, result });
    }

    fn work(self: &Arc<Self>, mut worker: Worker<'_, M, Stream>, notifier: &Notifier, mut news: News<Stream>) {
        loop {
            let seen = notifier.count();
            news = match worker.step(Instant::now(), news) {
                Job::End => return,
                Job::Sleep(until) => {
                    notifier.sleep(seen, until);
                    News::Nothing
                }
                Job::Dial { id, endpoint, deadline } => {
                    let threads = Arc::clone(self);
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
