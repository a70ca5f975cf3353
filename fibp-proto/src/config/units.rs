//! Times and sizes as text.

use std::time::Duration;

/// Nanoseconds per unit, the largest first.
const TIMES: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Bytes per unit, the largest first.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("invalid duration \"{text}\": expected a number with a unit, such as 250ms, 5s or 2m");
    let (digits, unit) = split_unit(text);
    let (_, scale) = TIMES.iter().find(|(name, _)| *name == unit).ok_or_else(problem)?;
    let nanos = digits
        .parse::<u128>()
        .ok()
        .and_then(|count| count.checked_mul(*scale))
        .ok_or_else(problem)?;
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| problem())?;
    let rest = u32::try_from(nanos % 1_000_000_000).map_err(|_| problem())?;
    Ok(Duration::new(seconds, rest))
}

pub(super) fn show_duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    TIMES
        .iter()
        .find(|(_, scale)| nanos.is_multiple_of(*scale))
        .map_or_else(String::new, |(name, scale)| format!("{}{name}", nanos / scale))
}

pub(super) fn parse_size<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let problem = || format!("invalid size \"{text}\": expected a number of bytes, or a number with KiB, MiB or GiB");
    let (digits, unit) = split_unit(text);
    let (_, scale) = SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(problem)?;
    digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(*scale))
        .and_then(|bytes| T::try_from(bytes).ok())
        .ok_or_else(problem)
}

pub(super) fn show_size(bytes: usize) -> String {
    let bytes = bytes as u64;
    if bytes == 0 {
        return "0".to_owned();
    }
    SIZES
        .iter()
        .find(|(_, scale)| bytes.is_multiple_of(*scale))
        .map_or_else(String::new, |(name, scale)| format!("{}{name}", bytes / scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip() {
        for (text, time) in [
            ("0s", Duration::ZERO),
            ("1ns", Duration::from_nanos(1)),
            ("1500us", Duration::from_micros(1500)),
            ("250ms", Duration::from_millis(250)),
            ("5s", Duration::from_secs(5)),
            ("90s", Duration::from_secs(90)),
            ("2m", Duration::from_secs(120)),
            ("24h", Duration::from_secs(86_400)),
        ] {
            assert_eq!(parse_duration(text).unwrap(), time);
            assert_eq!(show_duration(time), text);
        }
        assert_eq!(parse_duration(&show_duration(Duration::MAX)).unwrap(), Duration::MAX);
        for text in ["", "5", "s", "-1s", "1.5s", "5 s", "5S", "99999999999999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_round_trip() {
        for (text, size) in [
            ("0", 0),
            ("1000", 1000),
            ("1KiB", 1024),
            ("32MiB", 32 << 20),
            ("1025MiB", 1025 << 20),
        ] {
            assert_eq!(parse_size::<usize>(text).unwrap(), size);
            assert_eq!(show_size(size), text);
        }
        for text in ["", "KiB", "1kb", "1 MiB", "-1", "99999999999999999999"] {
            assert!(parse_size::<usize>(text).is_err(), "{text}");
        }
        assert!(parse_size::<u32>("4GiB").is_err());
    }
}
