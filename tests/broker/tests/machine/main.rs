//! The broker machine on virtual time.

mod access;
mod admin;
mod cluster;
mod delivery;
mod faults;
mod framed;
mod leases;
mod nodes;
mod world;
