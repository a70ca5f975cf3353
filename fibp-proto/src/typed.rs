//! Requests as types with a typed result, so that an adapter needs one generic call.

use crate::admin::{Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, Permission, QueueList, QueueSpec, QueueStats};
use crate::error::{Error, ErrorKind, Outcome};
use crate::message::QueueName;
use crate::prelude::*;
use crate::request::Request;
use crate::response::Response;

/// A request whose answer has a type. [`Op`](crate::Op) is the mere name of an operation.
pub trait TypedRequest {
    /// What a successful answer carries.
    type Output;

    /// The request to send.
    fn into_request(self) -> Request;

    /// Takes the result out of the answer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`] if the answer belongs to another operation.
    fn output(response: Response) -> Result<Self::Output, Error>;
}

/// Declares typed requests: `Name(fields) -> Output { request, answer pattern => result }`.
macro_rules! typed_requests {
    ($($(#[$doc:meta])* $name:ident($($field:ident: $type:ty),*) -> $output:ty {
        $request:expr, $response:pat => $value:expr
    })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $(
                /// See the request of the same name.
                pub $field: $type,
            )*
        }

        impl TypedRequest for $name {
            type Output = $output;

            fn into_request(self) -> Request {
                let Self { $($field),* } = self;
                $request
            }

            fn output(response: Response) -> Result<$output, Error> {
                match response {
                    $response => Ok($value),
                    _ => Err(mismatch(stringify!($name))),
                }
            }
        }
    )+};
}

typed_requests! {
    /// Creates a queue and its dead-letter queue; the result is the queue's id.
    CreateQueue(spec: QueueSpec) -> String {
        Request::CreateQueue(spec), Response::CreateQueue { queue_id } => queue_id
    }
    /// Deletes a queue and its dead-letter queue.
    DeleteQueue(queue: QueueName) -> () {
        Request::DeleteQueue { queue }, Response::DeleteQueue => ()
    }
    /// Asks for a queue's figures.
    GetQueueStats(queue: QueueName) -> QueueStats {
        Request::QueueStats { queue }, Response::QueueStats(stats) => stats
    }
    /// Lists all queues.
    ListQueues() -> QueueList {
        Request::ListQueues, Response::ListQueues(list) => list
    }
    /// Moves messages from a dead-letter queue back to its parent; the result is how many.
    Redrive(dlq: QueueName, count: u64) -> u64 {
        Request::Redrive { dlq, count }, Response::Redrive { redriven } => redriven
    }
    /// Sets a configuration value; an empty value deletes it.
    SetConfig(key: String, value: String) -> () {
        Request::SetConfig { key, value }, Response::SetConfig => ()
    }
    /// Asks for a configuration value; the result is empty if it is unset.
    GetConfig(key: String) -> String {
        Request::GetConfig { key }, Response::GetConfig { value } => value
    }
    /// Lists the configuration values whose keys start with `prefix`.
    ListConfig(prefix: String) -> Vec<(String, String)> {
        Request::ListConfig { prefix }, Response::ListConfig { entries } => entries
    }
    /// Creates an API key.
    CreateApiKey(spec: ApiKeySpec) -> CreatedApiKey {
        Request::CreateApiKey(spec), Response::CreateApiKey(key) => key
    }
    /// Revokes an API key.
    RevokeApiKey(key_id: String) -> () {
        Request::RevokeApiKey { key_id }, Response::RevokeApiKey => ()
    }
    /// Lists API keys.
    ListApiKeys() -> Vec<ApiKeyInfo> {
        Request::ListApiKeys, Response::ListApiKeys(keys) => keys
    }
    /// Replaces the grants of an API key.
    SetAcl(key_id: String, permissions: Vec<Permission>) -> () {
        Request::SetAcl { key_id, permissions }, Response::SetAcl => ()
    }
    /// Asks for the grants of an API key.
    GetAcl(key_id: String) -> Acl {
        Request::GetAcl { key_id }, Response::GetAcl(acl) => acl
    }
    /// Asks the server for a sign of life.
    Heartbeat() -> () {
        Request::Heartbeat, Response::Heartbeat => ()
    }
}

fn mismatch(operation: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("the answer does not belong to {operation}"),
    )
    .with_outcome(Outcome::Unknown)
}
