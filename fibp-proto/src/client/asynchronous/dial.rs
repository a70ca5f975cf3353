//! Opening connections: names, and the race between addresses.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Instant;

use super::runtime::{Runtime, SocketOptions};
use crate::client::race::race;
use crate::client::transport::presented_key;
use crate::config::{Config, Endpoint};
use crate::dial::AddressRace;
use crate::error::Error;
use crate::fault::{Fault, FaultKind};
use crate::message::Secret;

/// A connection, and the API key to present on it.
pub(super) struct Dialed<R: Runtime> {
    pub(super) reader: R::Reader,
    pub(super) writer: R::Writer,
    pub(super) key: Result<Option<Secret>, Error>,
}

/// A dial under way. Dropping it gives up.
pub(super) type Dialing<R> = Pin<Box<dyn Future<Output = Result<Dialed<R>, Fault>> + Send>>;

/// Resolves `endpoint` and connects to the address that answers first.
pub(super) fn dial<R: Runtime>(
    runtime: R,
    config: Config,
    endpoint: Endpoint,
    deadline: Option<Instant>,
    receive_buffer: Option<u32>,
) -> Dialing<R> {
    Box::pin(async move {
        let settings = config.settings();
        // Here, where no machine is locked: this runs the user's code.
        let key = presented_key(settings)?;
        let options = SocketOptions::new(settings, receive_buffer);
        let addresses = resolve(&runtime, &endpoint, deadline).await?;
        let addresses = AddressRace::new(R::now(), addresses, settings.happy_eyeballs_delay, deadline);
        let runtime = &runtime;
        let open = |address| async move { runtime.dial(address, options).await.map_err(Fault::from) };
        let (reader, writer) = race(addresses, R::now, open, |until| runtime.timer(until)).await?;
        Ok(Dialed { reader, writer, key })
    })
}

async fn resolve<R: Runtime>(
    runtime: &R,
    endpoint: &Endpoint,
    deadline: Option<Instant>,
) -> Result<Vec<SocketAddr>, Fault> {
    if let Some(ip) = endpoint.ip() {
        return Ok(vec![SocketAddr::new(ip, endpoint.port)]);
    }
    let mut found = pin!(runtime.resolve(&endpoint.host, endpoint.port));
    let mut timer = deadline.map(|deadline| runtime.timer(deadline));
    let result = poll_fn(|cx| match found.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => match &mut timer {
            Some(timer) => Pin::new(timer).poll(cx).map(|()| None),
            None => Poll::Pending,
        },
    });
    match result.await {
        Some(Ok(addresses)) => Ok(addresses),
        Some(Err(error)) => Err(Fault::from_source(FaultKind::Resolve, error)),
        None => Err(Fault::new(
            FaultKind::TimedOut,
            format!("no answer in time for the name \"{}\"", endpoint.host),
        )),
    }
}
