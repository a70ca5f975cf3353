//! A socket whose bytes are given.

use std::time::Instant;

use fibp_proto::config::Endpoint;
use fibp_proto::machine::{DialId, Machine};
use fibp_proto::{Error, Fault, Secret};

use crate::pair::{Arrived, Dialed, Left, Network};

/// What one side of a connection reads, and what it wrote.
pub(crate) struct Stream<'a> {
    bytes: &'a [u8],
    /// How much was read.
    at: usize,
    /// How much is read at a time, from this place on.
    portion: &'a mut dyn FnMut(usize) -> usize,
    pub(crate) sent: Vec<u8>,
    /// The key that the first dial succeeds with.
    pub(crate) answer: Option<Result<Option<Secret>, Error>>,
    /// It was dialed again, which is to be answered by another.
    pub(crate) left: Option<DialId>,
}

impl<'a> Stream<'a> {
    pub(crate) fn new(bytes: &'a [u8], portion: &'a mut dyn FnMut(usize) -> usize) -> Self {
        Self {
            bytes,
            at: 0,
            portion,
            sent: Vec::new(),
            answer: None,
            left: None,
        }
    }

    pub(crate) fn is_read(&self) -> bool {
        self.at == self.bytes.len()
    }
}

impl<M: Machine> Network<M> for Stream<'_> {
    fn dial(&mut self, id: DialId, _: &Endpoint, _: Option<Instant>) -> Dialed {
        match self.answer.take() {
            Some(key) => Dialed::Open(key),
            None => {
                self.left = Some(id);
                Dialed::Pending
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        self.sent.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn read(&mut self, into: &mut [u8]) -> Arrived {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Arrived::Nothing;
        }
        let n = (self.portion)(self.at).clamp(1, rest.len()).min(into.len());
        into[..n].copy_from_slice(&rest[..n]);
        self.at += n;
        Arrived::Data(n)
    }

    fn half_close(&mut self) {}

    fn hang_up(&mut self, _: &mut M, _: Left) {
        self.at = self.bytes.len();
    }
}
