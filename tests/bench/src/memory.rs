//! The memory of this process.

/// Resident memory of this process, in bytes; `None` where there is no `/proc`.
pub(crate) fn resident() -> Option<u64> {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE)
}

/// Bytes that each of `count` items holds.
pub(crate) fn per_item<C>(count: u64, mut make: impl FnMut() -> C) -> Option<f64> {
    // What the first ones allocate once for all does not count.
    let first: Vec<C> = (0..count / 10 + 1).map(|_| make()).collect();
    let before = resident()?;
    let items: Vec<C> = (0..count).map(|_| make()).collect();
    let after = resident()?;
    drop((first, items));
    Some(after.saturating_sub(before) as f64 / count as f64)
}
