//! The README and the guides in docs/guides, whose code is compiled and run as documentation tests.

#[doc = include_str!("../../../README.md")]
pub mod readme {}
#[doc = include_str!("../../../docs/guides/choosing-an-adapter.md")]
pub mod choosing_an_adapter {}
#[doc = include_str!("../../../docs/guides/clusters.md")]
pub mod clusters {}
#[doc = include_str!("../../../docs/guides/leaving-async-std.md")]
pub mod leaving_async_std {}
#[doc = include_str!("../../../docs/guides/migrating.md")]
pub mod migrating {}
#[doc = include_str!("../../../docs/guides/observing.md")]
pub mod observing {}
#[doc = include_str!("../../../docs/guides/producing.md")]
pub mod producing {}
#[doc = include_str!("../../../docs/guides/testing.md")]
pub mod testing {}
#[doc = include_str!("../../../docs/guides/tls-and-keys.md")]
pub mod tls_and_keys {}
#[doc = include_str!("../../../docs/guides/tools.md")]
pub mod tools {}
#[doc = include_str!("../../../docs/guides/worker-service.md")]
pub mod worker_service {}
