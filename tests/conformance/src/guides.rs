//! The guides in docs/guides, whose code is compiled and run as documentation tests.

#[doc = include_str!("../../../docs/guides/testing.md")]
pub mod testing {}
