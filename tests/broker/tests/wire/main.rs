//! The broker over real sockets, byte for byte.

mod cluster;
mod faults;
mod framed;
mod lifecycle;
mod preamble;
mod raw;
mod recorded;
