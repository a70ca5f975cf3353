//! A race between addresses, as a future.

use core::net::SocketAddr;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

use crate::dial::AddressRace;
use crate::fault::Fault;

/// Runs a race: `now` reads the clock, `open` connects to an address, `sleep` waits until an instant.
///
/// Dropping the future drops every attempt.
///
/// # Errors
///
/// The race's fault when every attempt failed or the deadline passed.
pub(super) async fn race<S, O, W>(
    mut race: AddressRace,
    now: impl Fn() -> Instant,
    open: impl Fn(SocketAddr) -> O,
    sleep: impl Fn(Instant) -> W,
) -> Result<S, Fault>
where
    O: Future<Output = Result<S, Fault>>,
    W: Future<Output = ()>,
{
    let mut attempts: Vec<(SocketAddr, Pin<Box<O>>)> = Vec::new();
    loop {
        let time = now();
        while let Some(address) = race.poll_attempt(time) {
            attempts.push((address, Box::pin(open(address))));
        }
        if let Some(fault) = race.poll_fault(time) {
            return Err(fault);
        }
        // A new timer each round: every attempt that fails may change when the next one begins.
        let mut timer = pin!(race.poll_timeout().map(&sleep));
        let news = poll_fn(|cx| {
            if let Poll::Ready(ended) = poll_attempts(&mut attempts, cx) {
                return Poll::Ready(Some(ended));
            }
            match timer.as_mut().as_pin_mut() {
                Some(timer) => timer.poll(cx).map(|()| None),
                None => Poll::Pending,
            }
        });
        match news.await {
            Some((_, Ok(socket))) => return Ok(socket),
            Some((address, Err(fault))) => race.handle_failed(now(), address, fault),
            None => {}
        }
    }
}

type Ended<S> = (SocketAddr, Result<S, Fault>);

fn poll_attempts<S, O>(attempts: &mut Vec<(SocketAddr, Pin<Box<O>>)>, cx: &mut Context<'_>) -> Poll<Ended<S>>
where
    O: Future<Output = Result<S, Fault>>,
{
    let mut ended = None;
    attempts.retain_mut(|(address, attempt)| {
        // The others are polled in the next round, which begins at once.
        if ended.is_some() {
            return true;
        }
        match attempt.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                ended = Some((*address, result));
                false
            }
        }
    });
    ended.map_or(Poll::Pending, Poll::Ready)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::Waker;
    use std::time::Duration;

    use super::*;
    use crate::fault::FaultKind;

    /// Sleeping advances the clock at once.
    fn run(open: impl Fn(SocketAddr) -> Poll<Result<u16, Fault>>) -> (Result<u16, Fault>, Duration) {
        let begin = crate::tests_epoch();
        let clock = Cell::new(begin);
        let addresses = (1..=3).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        let delay = Duration::from_millis(250);
        let machine = AddressRace::new(begin, addresses, delay, begin.checked_add(delay * 10));
        let mut future = pin!(race(
            machine,
            || clock.get(),
            |address| {
                let result = Cell::new(Some(open(address)));
                poll_fn(move |_| result.take().unwrap_or(Poll::Pending))
            },
            |until| {
                let clock = &clock;
                async move { clock.set(until) }
            },
        ));
        let mut cx = Context::from_waker(Waker::noop());
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(result) => (result, clock.get() - begin),
            Poll::Pending => panic!("nothing left to wait for"),
        }
    }

    fn refused() -> Fault {
        Fault::new(FaultKind::Refused, "refused")
    }

    #[test]
    fn the_first_to_connect_wins() {
        let (result, took) = run(|address| match address.port() {
            1 => Poll::Pending,
            port => Poll::Ready(Ok(port)),
        });
        assert_eq!(result.unwrap(), 2);
        assert_eq!(took, Duration::from_millis(250));
    }

    #[test]
    fn failures_move_on_at_once() {
        let (result, took) = run(|address| {
            Poll::Ready(match address.port() {
                3 => Ok(3),
                _ => Err(refused()),
            })
        });
        assert_eq!(result.unwrap(), 3);
        assert_eq!(took, Duration::ZERO);
    }

    #[test]
    fn nobody_wins() {
        let (result, _) = run(|_| Poll::Ready(Err(refused())));
        assert_eq!(result.unwrap_err().kind, FaultKind::Refused);
        let (result, took) = run(|_| Poll::Pending);
        assert_eq!(result.unwrap_err().kind, FaultKind::TimedOut);
        assert_eq!(took, Duration::from_millis(2500));
    }
}
