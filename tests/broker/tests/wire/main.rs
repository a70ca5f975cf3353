//! The broker over real sockets, byte for byte.

mod cluster;
mod faults;
mod framed;
mod framed_spec;
mod lifecycle;
mod preamble;
mod raw;
mod recorded;
