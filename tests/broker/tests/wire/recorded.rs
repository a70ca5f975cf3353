//! Conversations recorded from real servers.
