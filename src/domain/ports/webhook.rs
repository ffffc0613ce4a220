//! What the rules ask of the receiver of a webhook.

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::{types::Timestamp, watch_sessions::News};

/// What is handed over at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBatch {
    /// Names it, and stays the same however often it is sent.
    pub id: String,
    /// When it was put together.
    pub made_at: Timestamp,
    /// In the order in which it happened. Without heartbeats.
    pub news: Vec<News>,
}

/// Why a batch was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryError {
    /// What went wrong, for the log. Nothing secret.
    pub cause: String,
    /// How long the receiver asks to be left alone, where it does.
    pub retry_after: Option<Duration>,
}

/// Who is told of sessions as they end.
#[async_trait]
pub trait Receiver: Send + Sync {
    /// Hands a batch over. After an error it may or may not have been taken.
    async fn take(&self, batch: &EventBatch) -> Result<(), DeliveryError>;
}
