#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admin;
mod client;
mod connect;
mod consumer;
mod driver;
mod environment;
mod pending;
mod producer;
mod wait;

pub use admin::Admin;
pub use client::{Client, Events, States};
pub use consumer::{AckError, AckReceipt, Acker, Consumer, ConsumerBuilder, Delivery};
pub use environment::FromEnv;
pub use producer::{Producer, ProducerBuilder, Receipt};

pub use fibp_proto::admin::{
    Acl, ApiKeyInfo, ApiKeySpec, CreatedApiKey, KeyStats, Permission, PermissionKind, QueueInfo, QueueList, QueueSpec,
    QueueStats, ThrottleStats,
};
pub use fibp_proto::client::AckItem;
pub use fibp_proto::config::{
    Backoff, Batching, Config, Credit, Endpoint, Expired, IntoEndpoints, OnFull, Reconnect, Replay,
};
pub use fibp_proto::event::StatKind;
pub use fibp_proto::machine::CloseReport;
pub use fibp_proto::request::NackItem;
#[cfg(feature = "tls")]
pub use fibp_proto::rustls;
pub use fibp_proto::{
    AdminRevision, Bytes, ConnectionRole, Dialect, Error, ErrorKind, Event, Headers, Message, MessageId, Op, Outcome,
    QueueName, Received, Secret, SendError, State, Stats, Tls, TraceContext,
};
