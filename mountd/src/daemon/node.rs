//! What the handlers of the API share.

use std::sync::Arc;
use std::time::Instant;

use durdir_fs::store::Store;
use tonic::{Response, Status};

use super::Tally;
use crate::api::{ApiError, report};
use crate::keeper::Keeper;
use crate::mounts::Mounts;
use crate::paths::Endpoint;

/// An open store, its mounts, and who serves them.
pub(crate) struct Node {
    pub(crate) store: Arc<Store>,
    pub(crate) mounts: Mounts,
    pub(crate) endpoint: Endpoint,
    /// Who keeps descriptors for the next worker.
    pub(crate) keeper: Keeper,
    /// How many workers were replaced before this one.
    pub(crate) takeovers: u64,
    /// Whether this mountd ends when nothing is mounted.
    pub(crate) private: bool,
    pub(crate) started: Instant,
    pub(crate) tally: Tally,
}

impl Node {
    /// Does the work of one call on a blocking thread, to its end even if the client goes away, and
    /// turns its outcome into an answer. This is where a failed call is logged, once.
    pub(crate) async fn answer<T: Send + 'static>(
        self: &Arc<Self>,
        call: &'static str,
        work: impl FnOnce(&Node) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let node = Arc::clone(self);
        let begun = Instant::now();
        let done = tokio::task::spawn_blocking(move || work(&node)).await;
        match done.unwrap_or(Err(ApiError::Panicked { call })) {
            Ok(answer) => {
                tracing::debug!(call, micros = begun.elapsed().as_micros(), "call done");
                Ok(Response::new(answer))
            }
            Err(error) => Err(report(call, &error)),
        }
    }
}
