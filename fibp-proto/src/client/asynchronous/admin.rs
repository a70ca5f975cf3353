//! Administration.

use super::runtime::{HandleOf, Runtime};
use crate::admin::{Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, Permission, QueueList, QueueSpec, QueueStats};
use crate::error::Error;
use crate::typed as op;

/// Administrative operations; see [`Client::admin`](super::Client::admin).
///
/// # Errors
///
/// Each fails with the server's refusal, or with why there is no answer.
#[derive(Debug, Clone)]
pub struct Admin<R: Runtime> {
    handle: HandleOf<R>,
}

#[expect(clippy::missing_errors_doc, reason = "the same for all, and stated once above")]
impl<R: Runtime> Admin<R> {
    pub(super) fn new(handle: HandleOf<R>) -> Self {
        Self { handle }
    }

    /// Creates a queue and its dead-letter queue; the result is the queue's id.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws the operation if it is not sent yet; one that is sent may be carried out.
    pub async fn create_queue(&self, queue: impl Into<QueueSpec>) -> Result<String, Error> {
        self.handle.call(op::CreateQueue { spec: queue.into() }).await
    }

    /// Deletes a queue and its dead-letter queue.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws the operation if it is not sent yet; one that is sent may be carried out.
    pub async fn delete_queue(&self, queue: &str) -> Result<(), Error> {
        self.handle.call(op::DeleteQueue { queue: queue.into() }).await
    }

    /// A queue's figures.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is harmless: nothing is changed.
    pub async fn queue_stats(&self, queue: &str) -> Result<QueueStats, Error> {
        self.handle.call(op::GetQueueStats { queue: queue.into() }).await
    }

    /// All queues.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is harmless: nothing is changed.
    pub async fn list_queues(&self) -> Result<QueueList, Error> {
        self.handle.call(op::ListQueues {}).await
    }

    /// Moves at most `count` messages (0: all) from a dead-letter queue, named with its `.dlq`, back to its parent; the
    /// result is how many.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws the operation if it is not sent yet; one that is sent may be carried out.
    pub async fn redrive(&self, dlq: &str, count: u64) -> Result<u64, Error> {
        self.handle.call(op::Redrive { dlq: dlq.into(), count }).await
    }

    /// Sets a configuration value; an empty value deletes it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws the operation if it is not sent yet; one that is sent may be carried out.
    pub async fn set_config(&self, key: &str, value: &str) -> Result<(), Error> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.handle.call(op::SetConfig { key, value }).await
    }

    /// A configuration value; empty if it is unset.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is harmless: nothing is changed.
    pub async fn get_config(&self, key: &str) -> Result<String, Error> {
        self.handle.call(op::GetConfig { key: key.to_owned() }).await
    }

    /// The configuration values whose keys start with `prefix`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is harmless: nothing is changed.
    pub async fn list_config(&self, prefix: &str) -> Result<Vec<(String, String)>, Error> {
        let prefix = prefix.to_owned();
        self.handle.call(op::ListConfig { prefix }).await
    }

    /// Creates an API key, which the server shows only this once.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws the operation if it is not sent yet; one that is sent may be carried out.
    pub async fn create_api_key(&self, spec: ApiKeySpec) -> Result<CreatedApiKey, Error> {
        self.handle.call(op::CreateApiKey { spec }).await
    }

    /// Revokes an API key by its id.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws the operation if it is not sent yet; one that is sent may be carried out.
    pub async fn revoke_api_key(&self, key_id: &str) -> Result<(), Error> {
        let key_id = key_id.to_owned();
        self.handle.call(op::RevokeApiKey { key_id }).await
    }

    /// All API keys, without their secrets.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is harmless: nothing is changed.
    pub async fn list_api_keys(&self) -> Result<Vec<ApiKeyInfo>, Error> {
        self.handle.call(op::ListApiKeys {}).await
    }

    /// Replaces the grants of an API key.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws the operation if it is not sent yet; one that is sent may be carried out.
    pub async fn set_acl(&self, key_id: &str, permissions: Vec<Permission>) -> Result<(), Error> {
        let key_id = key_id.to_owned();
        self.handle.call(op::SetAcl { key_id, permissions }).await
    }

    /// The grants of an API key.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is harmless: nothing is changed.
    pub async fn get_acl(&self, key_id: &str) -> Result<Acl, Error> {
        let key_id = key_id.to_owned();
        self.handle.call(op::GetAcl { key_id }).await
    }
}
