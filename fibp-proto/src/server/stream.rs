//! A server connection over a stream of the caller's: what most servers with a thread per connection do.

use std::io::{self, Read, Write};

use super::ServerConnection;
use crate::message::{QueueName, Received};
use crate::request::Request;
use crate::response::{ItemResult, Response};

impl ServerConnection {
    /// Reads once from the client's socket, unless no input is wanted. A socket that has nothing yet is left alone: one that
    /// does not block, or one with a read timeout.
    ///
    /// # Errors
    ///
    /// Reading failed: drop the connection.
    pub fn read_from<R: Read + ?Sized>(&mut self, from: &mut R) -> io::Result<()> {
        let Some(mut buffer) = self.take_read_buffer() else {
            return Ok(());
        };
        let read = buffer.read_from(from);
        self.handle_input(buffer);
        if read? == Some(0) {
            self.handle_eof();
        }
        Ok(())
    }

    /// Writes what is to be written to the client's socket: all of it, or as much as a socket takes that does not block or
    /// has a write timeout; the rest goes first the next time. Polling for events comes before and after.
    ///
    /// # Errors
    ///
    /// Writing failed: drop the connection.
    pub fn write_to<W: Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        let mut transmit = std::mem::take(&mut self.unwritten);
        let mut result = Ok(1);
        while matches!(result, Ok(1..)) && (!transmit.is_empty() || self.take_transmit(&mut transmit)) {
            result = transmit.write_to(to);
            if let Ok(n) = result {
                self.transmitted(&mut transmit, n);
            }
        }
        self.unwritten = transmit;
        result.map(drop)
    }

    /// Serves a client over its socket until it leaves: whatever it asks for is answered by `answer`, and while it consumes,
    /// `deliver` is asked for the next message of the queue, before anything is read. The socket blocks. Give it a read timeout: so
    /// often `deliver` is asked while the client is silent. What needs no decision is done as by
    /// [`poll_request`](Self::poll_request).
    ///
    /// # Errors
    ///
    /// Reading or writing failed, or an answer or a delivery is more than the wire can carry.
    pub fn serve<S: Read + Write + ?Sized>(
        &mut self,
        stream: &mut S,
        mut answer: impl FnMut(Request) -> ItemResult<Response>,
        mut deliver: impl FnMut(&QueueName) -> Option<Received>,
    ) -> io::Result<()> {
        while !self.is_finished() {
            while let Some((id, request)) = self.poll_request() {
                self.respond(id, &answer(request).into())?;
            }
            while let Some(delivery) = self.consumer_queue().and_then(&mut deliver) {
                self.push(&delivery.into())?;
            }
            self.write_to(stream)?;
            self.read_from(stream)?;
        }
        Ok(())
    }
}
