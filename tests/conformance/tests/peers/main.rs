//! Cases whose other side is not a server under test: it is played by a script, is a cluster or a broker of this process
//! that the case steers, is no Fila server at all, or does not exist. `FILA_URL` means nothing to them.

mod clusters;
mod every_setting;
mod leases;
mod nowhere;
mod orphans;
mod real_peers;
mod redirects;
mod settings;
mod transcript;
mod wire;
