//! What the clients hold in memory: a process of its own that counts its live heap bytes, with the broker in another
//! one. The cases run one after another, so that each measures itself alone.
//!
//! With `FILA_URL` set they are skipped by name.

mod calls;
mod heap;
mod paused;
mod restarts;
