//! The links of one client.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use fibp_proto::link::{CloseReport, Nodes, Parcel};
use fibp_proto::{Config, Endpoint, Error, Link, Shared};

use crate::driver::{Driver, LinkHandle};
use crate::events::EventBell;
use crate::waiter::{Ticket, Token, lock};

/// All links of a client, and what they share. Dropping it closes them.
#[derive(Debug)]
pub(crate) struct Links {
    pub(crate) shared: Shared,
    pub(crate) events: Arc<EventBell>,
    requests: Mutex<Requests>,
    /// The links of consumers, which belong to those.
    consumers: Mutex<Vec<Weak<Driver>>>,
    /// The client was closed: links that open nevertheless are closed again.
    closed: AtomicBool,
}

/// The links for requests.
#[derive(Debug, Default)]
struct Requests {
    main: Option<LinkHandle>,
    nodes: Nodes<LinkHandle>,
}

impl Links {
    /// Opens the main link, and waits until it is ready.
    pub(crate) fn connect(config: Config) -> Result<(Arc<Self>, Arc<Driver>), Error> {
        let links = Arc::new(Self {
            shared: Shared::new(config)?,
            events: Arc::default(),
            requests: Mutex::default(),
            consumers: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let (main, opened) = links.spawn(None, |shared, now, seed, token| {
            Link::requests(shared, now, seed, Some(token))
        })?;
        let driver = Arc::clone(&main);
        lock(&links.requests).main = Some(main);
        driver.wait(&opened).opened()?;
        Ok((links, driver))
    }

    /// Opens the link of a consumer, and waits until the server confirmed it.
    pub(crate) fn open_consumer(
        self: &Arc<Self>,
        receive_buffer: Option<u32>,
        build: impl FnOnce(&Shared, Instant, u64, Token) -> Link<Token>,
    ) -> Result<LinkHandle, Error> {
        let (link, opened) = self.spawn(receive_buffer, build)?;
        let mut consumers = lock(&self.consumers);
        consumers.retain(|known| known.strong_count() > 0);
        consumers.push(Arc::downgrade(&link));
        drop(consumers);
        if self.closed.load(Ordering::SeqCst) {
            link.close_unattended();
        }
        link.wait(&opened).opened()?;
        Ok(link)
    }

    fn spawn(
        self: &Arc<Self>,
        receive_buffer: Option<u32>,
        build: impl FnOnce(&Shared, Instant, u64, Token) -> Link<Token>,
    ) -> Result<(LinkHandle, Ticket), Error> {
        Driver::spawn(self, receive_buffer, build)
    }

    /// Hands work to the link of a node, or to the main link.
    pub(crate) fn reroute(self: &Arc<Self>, node: Option<Endpoint>, parcel: Parcel<Token>) {
        // A parcel that finds no link fails its waiters when it is dropped.
        if let Some(driver) = self.link_to(node) {
            driver.accept(parcel);
            if self.closed.load(Ordering::SeqCst) {
                driver.close_unattended();
            }
        }
    }

    fn link_to(self: &Arc<Self>, node: Option<Endpoint>) -> Option<Arc<Driver>> {
        let mut requests = lock(&self.requests);
        let mut evicted = None;
        let mut found = None;
        if let Some(endpoint) = node {
            requests.nodes.retain(|link| !link.lock().link.is_terminated());
            found = requests.nodes.find(&endpoint).map(|link| Arc::clone(link));
            if found.is_none() {
                let build = |shared: &Shared, now, seed, _| Link::requests_to(shared, endpoint.clone(), now, seed);
                if let Ok((link, _)) = self.spawn(None, build) {
                    found = Some(Arc::clone(&link));
                    evicted = requests.nodes.insert(endpoint, link);
                }
            }
        }
        let found = found.or_else(|| requests.main.as_ref().map(|main| Arc::clone(main)));
        drop(requests);
        drop(evicted);
        found
    }

    /// Closes every link, and waits until all are closed.
    pub(crate) fn close(&self, main: &Arc<Driver>, deadline: Duration) -> CloseReport {
        let start = Instant::now();
        self.closed.store(true, Ordering::SeqCst);
        let mut report = CloseReport::default();
        let consumers = std::mem::take(&mut *lock(&self.consumers));
        let mut drivers: Vec<_> = consumers.iter().filter_map(Weak::upgrade).collect();
        drivers.push(Arc::clone(main));
        loop {
            // While links close, they may hand work to links that are opened for it.
            let nodes = std::mem::take(&mut lock(&self.requests).nodes);
            drivers.extend(nodes.iter().map(|link| Arc::clone(link)));
            if drivers.is_empty() {
                return report;
            }
            let left = deadline.saturating_sub(start.elapsed());
            let closing: Vec<_> = drivers
                .drain(..)
                .map(|driver| {
                    let (_, ticket) = driver.post(|link, now, token| link.close(now, left, token));
                    (driver, ticket)
                })
                .collect();
            for (driver, ticket) in closing {
                report.merge(driver.wait(&ticket).closed());
            }
        }
    }
}
