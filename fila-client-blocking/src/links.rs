//! The links of one client.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use fibp_proto::config::ConsumerSettings;
use fibp_proto::link::{CloseReport, Nodes, Parcel};
use fibp_proto::{Config, Endpoint, Error, Link, QueueName, Shared};

use crate::driver::Driver;
use crate::events::EventBell;
use crate::waiter::{Token, lock};

/// Keeps a client alive. When the last one is gone, the links send what they were given and close, in the
/// background.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) links: Arc<Links>,
    pub(crate) main: Arc<Driver>,
}

/// All links of a client, and what they share. Their driver threads keep it, but not the client, alive.
#[derive(Debug)]
pub(crate) struct Links {
    pub(crate) shared: Shared,
    pub(crate) events: Arc<EventBell>,
    main: OnceLock<Arc<Driver>>,
    nodes: Mutex<Nodes<Arc<Driver>>>,
    consumers: Mutex<Vec<Weak<Driver>>>,
    /// No link may stay open.
    closed: AtomicBool,
}

impl Handle {
    /// Opens the main link, and waits until it is ready.
    pub(crate) fn connect(config: Config) -> Result<Self, Error> {
        let links = Arc::new(Links {
            shared: Shared::new(config)?,
            events: Arc::default(),
            main: OnceLock::new(),
            nodes: Mutex::default(),
            consumers: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let (main, opened) = Driver::spawn(&links, None, |shared, now, seed, token| {
            Link::requests(shared, now, seed, Some(token))
        })?;
        let main = Arc::clone(links.main.get_or_init(|| main));
        let handle = Self { links, main };
        handle.main.wait(&opened).opened()?;
        Ok(handle)
    }

    /// Closes every link, and waits until all are closed.
    pub(crate) fn close(&self, deadline: Duration) -> CloseReport {
        let start = Instant::now();
        let mut report = CloseReport::default();
        let mut drivers = self.begin_closing();
        // While links close, they may hand work to links that are opened for it.
        while !drivers.is_empty() {
            let left = deadline.saturating_sub(start.elapsed());
            let close = |driver: &Arc<Driver>| driver.post(|link, now, token| link.close(now, left, token)).1;
            let tickets: Vec<_> = drivers.iter().map(close).collect();
            for (driver, ticket) in drivers.iter().zip(tickets) {
                report.merge(driver.wait(&ticket).closed());
            }
            drivers = self.links.take_links();
        }
        report
    }

    fn begin_closing(&self) -> Vec<Arc<Driver>> {
        self.links.closed.store(true, Ordering::SeqCst);
        let mut drivers = self.links.take_links();
        drivers.push(Arc::clone(&self.main));
        drivers
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        for driver in self.begin_closing() {
            driver.close_unattended();
        }
    }
}

impl Links {
    /// Opens the link of a consumer, and waits until the server confirmed it.
    pub(crate) fn open_consumer(
        self: &Arc<Self>,
        queue: QueueName,
        settings: ConsumerSettings,
    ) -> Result<Arc<Driver>, Error> {
        let (driver, opened) = Driver::spawn(self, settings.receive_buffer, |shared, now, seed, token| {
            Link::consumer(shared, queue, settings, now, seed, Some(token))
        })?;
        let mut consumers = lock(&self.consumers);
        consumers.retain(|known| known.strong_count() > 0);
        consumers.push(Arc::downgrade(&driver));
        drop(consumers);
        self.close_late(&driver);
        driver.wait(&opened).opened()?;
        Ok(driver)
    }

    /// Gives work to the link of a node, or to the main link.
    pub(crate) fn reroute(self: &Arc<Self>, node: Option<Endpoint>, parcel: Parcel<Token>) {
        // A parcel that finds no link fails its waiters when it is dropped.
        if let Some(driver) = self.link_to(node) {
            driver.accept(parcel);
            self.close_late(&driver);
        }
    }

    fn link_to(self: &Arc<Self>, node: Option<Endpoint>) -> Option<Arc<Driver>> {
        let Some(endpoint) = node else {
            return self.main.get().cloned();
        };
        let mut nodes = lock(&self.nodes);
        nodes.retain(|driver| !driver.lock().link.is_terminated());
        if let Some(driver) = nodes.find(&endpoint) {
            return Some(Arc::clone(driver));
        }
        let build = |shared: &Shared, now, seed, _| Link::requests_to(shared, endpoint.clone(), now, seed);
        let Ok((driver, _)) = Driver::spawn(self, None, build) else {
            return self.main.get().cloned();
        };
        let evicted = nodes.insert(endpoint, Arc::clone(&driver));
        drop(nodes);
        if let Some(evicted) = evicted {
            evicted.close_unattended();
        }
        Some(driver)
    }

    /// Closes a link that came after the client was closed.
    fn close_late(&self, driver: &Driver) {
        if self.closed.load(Ordering::SeqCst) {
            driver.close_unattended();
        }
    }

    /// All links but the main one, which are forgotten.
    fn take_links(&self) -> Vec<Arc<Driver>> {
        let nodes = mem::take(&mut *lock(&self.nodes));
        let consumers = mem::take(&mut *lock(&self.consumers));
        let consumers = consumers.iter().filter_map(Weak::upgrade);
        nodes.iter().cloned().chain(consumers).collect()
    }
}
