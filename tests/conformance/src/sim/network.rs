//! One direction of a simulated TCP connection.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::pair::random::Random;

/// How long bytes travel, and in what portions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// The longest delay of a segment.
    pub(super) latency: Duration,
    /// Bytes that fit a direction.
    pub(super) capacity: usize,
    /// The most bytes that one write or read moves.
    pub(super) portion: usize,
}

/// How a direction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Fin,
    Reset,
}

/// What reading brings.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Data(usize),
    Nothing,
    End(End),
}

#[derive(Debug)]
struct Segment {
    at: Instant,
    bytes: Vec<u8>,
    /// How much of it was read.
    read: usize,
}

impl Segment {
    /// Moves what fits to the front of `into`; how much that is.
    fn read(&mut self, into: &mut [u8]) -> usize {
        let left = self.bytes.get(self.read..).unwrap_or_default();
        let n = left.len().min(into.len());
        for (place, byte) in into.iter_mut().zip(left) {
            *place = *byte;
        }
        self.read += n;
        n
    }

    fn is_read(&self) -> bool {
        self.read == self.bytes.len()
    }
}

#[derive(Debug)]
pub(super) struct Pipe {
    weather: Weather,
    segments: VecDeque<Segment>,
    queued: usize,
    stalled_until: Option<Instant>,
    last_at: Instant,
    end: Option<(Instant, End)>,
    /// Bytes written and read since the beginning.
    pub(super) written: u64,
    pub(super) read: u64,
}

impl Pipe {
    pub(super) fn new(now: Instant, weather: Weather) -> Self {
        Self {
            weather,
            segments: VecDeque::new(),
            queued: 0,
            stalled_until: None,
            last_at: now,
            end: None,
            written: 0,
            read: 0,
        }
    }

    /// Takes what fits of `bytes`; `Err` if the connection was reset or the direction ended.
    pub(super) fn write(&mut self, now: Instant, random: &mut Random, bytes: &[u8]) -> Result<usize, End> {
        if let Some((_, end)) = self.end {
            return Err(end);
        }
        let room = self.weather.capacity.saturating_sub(self.queued);
        let n = bytes.len().min(room).min(random.spread(self.weather.portion));
        if n == 0 {
            return Ok(0);
        }
        let latency = usize::try_from(self.weather.latency.as_micros()).unwrap_or(0);
        let delay = Duration::from_micros(random.below(latency + 1) as u64);
        self.last_at = self.last_at.max(now + delay);
        self.segments.push_back(Segment {
            at: self.last_at,
            bytes: bytes.get(..n).unwrap_or_default().to_vec(),
            read: 0,
        });
        self.queued += n;
        self.written += n as u64;
        Ok(n)
    }

    /// Reads what has arrived, as far as it fits, in portions as the network likes.
    pub(super) fn read(&mut self, now: Instant, random: &mut Random, into: &mut [u8]) -> Read {
        if !self.is_readable(now) {
            return Read::Nothing;
        }
        if let Some((_, End::Reset)) = self.end {
            return Read::End(End::Reset);
        }
        let most = random.spread(self.weather.portion).min(into.len());
        let mut n = 0;
        while let Some(segment) = self.segments.front_mut().filter(|segment| segment.at <= now) {
            n += segment.read(into.get_mut(n..most).unwrap_or_default());
            if segment.is_read() {
                self.segments.pop_front();
            }
            if n >= most {
                break;
            }
        }
        self.queued -= n;
        self.read += n as u64;
        match (n, self.segments.is_empty(), self.end) {
            (0, true, Some((_, end))) => Read::End(end),
            (0, ..) => Read::Nothing,
            _ => Read::Data(n),
        }
    }

    /// When there is something to read, if anything is under way.
    pub(super) fn readable_at(&self) -> Option<Instant> {
        let at = match (self.segments.front(), self.end) {
            (_, Some((at, End::Reset))) => return Some(at),
            (Some(segment), _) => segment.at,
            (None, Some((at, End::Fin))) => at,
            (None, None) => return None,
        };
        Some(self.stalled_until.map_or(at, |until| at.max(until)))
    }

    pub(super) fn is_readable(&self, now: Instant) -> bool {
        self.readable_at().is_some_and(|at| at <= now)
    }

    /// Ends the direction: a FIN follows the data, a reset overtakes and destroys it.
    pub(super) fn end(&mut self, now: Instant, end: End) {
        match (self.end, end) {
            (Some((_, End::Reset)), _) | (Some(_), End::Fin) => {}
            (_, End::Reset) => {
                self.segments.clear();
                self.queued = 0;
                self.end = Some((now, End::Reset));
            }
            (None, End::Fin) => self.end = Some((self.last_at.max(now), End::Fin)),
        }
    }

    /// Nothing arrives before `until`.
    pub(super) fn stall(&mut self, until: Instant) {
        self.stalled_until = Some(until);
    }

    /// The network is well again.
    pub(super) fn calm(&mut self, weather: Weather) {
        self.weather = weather;
        self.stalled_until = None;
    }

    /// Fewer bytes fit from now on.
    pub(super) fn narrow(&mut self, capacity: usize) {
        self.weather.capacity = capacity.max(1);
    }
}
