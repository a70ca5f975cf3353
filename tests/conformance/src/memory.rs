//! The memory of this process.

use std::net::SocketAddr;

/// Resident memory of this process, in bytes; `None` where there is no `/proc`.
pub fn resident() -> Option<u64> {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE)
}

/// Bytes per connection that `count` idle clients hold, the server's share included.
pub fn per_client<C>(addr: SocketAddr, count: u64, mut connect: impl FnMut(SocketAddr) -> C) -> Option<f64> {
    // What the first ones allocate once for all does not count.
    let first: Vec<C> = (0..count / 10 + 1).map(|_| connect(addr)).collect();
    let before = resident()?;
    let clients: Vec<C> = (0..count).map(|_| connect(addr)).collect();
    let after = resident()?;
    drop((first, clients));
    Some(after.saturating_sub(before) as f64 / count as f64)
}
