//! Administration.

use fibp_proto::admin::{Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, Permission, QueueList, QueueSpec, QueueStats};
use fibp_proto::{Error, typed as op};

use crate::wait::{Handle, call};

/// Administrative operations; see [`Client::admin`](crate::Client::admin).
///
/// # Errors
///
/// Each fails with the server's refusal, or with why there is no answer.
#[derive(Debug, Clone)]
pub struct Admin {
    pub(crate) handle: Handle,
}

#[expect(clippy::missing_errors_doc, reason = "the same for all, and stated once above")]
impl Admin {
    /// Creates a queue and its dead-letter queue; the result is the queue's id.
    pub fn create_queue(&self, queue: impl Into<QueueSpec>) -> Result<String, Error> {
        call(&self.handle, op::CreateQueue { spec: queue.into() })
    }

    /// Deletes a queue and its dead-letter queue.
    pub fn delete_queue(&self, queue: &str) -> Result<(), Error> {
        call(&self.handle, op::DeleteQueue { queue: queue.into() })
    }

    /// A queue's figures.
    pub fn queue_stats(&self, queue: &str) -> Result<QueueStats, Error> {
        call(&self.handle, op::GetQueueStats { queue: queue.into() })
    }

    /// All queues.
    pub fn list_queues(&self) -> Result<QueueList, Error> {
        call(&self.handle, op::ListQueues {})
    }

    /// Moves at most `count` messages (0: all) from a dead-letter queue, named with its `.dlq`, back to its parent; the
    /// result is how many.
    pub fn redrive(&self, dlq: &str, count: u64) -> Result<u64, Error> {
        call(&self.handle, op::Redrive { dlq: dlq.into(), count })
    }

    /// Sets a configuration value; an empty value deletes it.
    pub fn set_config(&self, key: &str, value: &str) -> Result<(), Error> {
        let (key, value) = (key.to_owned(), value.to_owned());
        call(&self.handle, op::SetConfig { key, value })
    }

    /// A configuration value; empty if it is unset.
    pub fn get_config(&self, key: &str) -> Result<String, Error> {
        call(&self.handle, op::GetConfig { key: key.to_owned() })
    }

    /// The configuration values whose keys start with `prefix`.
    pub fn list_config(&self, prefix: &str) -> Result<Vec<(String, String)>, Error> {
        let prefix = prefix.to_owned();
        call(&self.handle, op::ListConfig { prefix })
    }

    /// Creates an API key, which the server shows only this once.
    pub fn create_api_key(&self, spec: ApiKeySpec) -> Result<CreatedApiKey, Error> {
        call(&self.handle, op::CreateApiKey { spec })
    }

    /// Revokes an API key by its id.
    pub fn revoke_api_key(&self, key_id: &str) -> Result<(), Error> {
        let key_id = key_id.to_owned();
        call(&self.handle, op::RevokeApiKey { key_id })
    }

    /// All API keys, without their secrets.
    pub fn list_api_keys(&self) -> Result<Vec<ApiKeyInfo>, Error> {
        call(&self.handle, op::ListApiKeys {})
    }

    /// Replaces the grants of an API key.
    pub fn set_acl(&self, key_id: &str, permissions: Vec<Permission>) -> Result<(), Error> {
        let key_id = key_id.to_owned();
        call(&self.handle, op::SetAcl { key_id, permissions })
    }

    /// The grants of an API key.
    pub fn get_acl(&self, key_id: &str) -> Result<Acl, Error> {
        let key_id = key_id.to_owned();
        call(&self.handle, op::GetAcl { key_id })
    }
}
