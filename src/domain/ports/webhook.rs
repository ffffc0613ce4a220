//! The port to the receiver of the webhook.

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::{types::Timestamp, watch_sessions::FeedEvent};

/// Events that are delivered together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBatch {
    /// The id of the batch, the same for every attempt to deliver it.
    pub id: String,
    /// The time at which the batch was created.
    pub created_at: Timestamp,
    /// The events in the order in which they happened, without heartbeats.
    pub events: Vec<FeedEvent>,
}

/// A failed attempt to deliver a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryError {
    /// The cause, for the log. It holds no secrets.
    pub cause: String,
    /// The pause that the receiver has asked for, if any.
    pub retry_after: Option<Duration>,
}

/// A receiver of webhook batches.
#[async_trait]
pub trait Receiver: Send + Sync {
    /// Delivers a batch. After an error the receiver may have accepted it or not.
    async fn deliver(&self, batch: &EventBatch) -> Result<(), DeliveryError>;
}
