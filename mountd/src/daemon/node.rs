//! What the handlers of the API share.

use std::sync::Arc;
use std::time::Instant;

use durdir_fs::failpoint;
use durdir_fs::store::{RequestKey, Store};
use prost::Message;
use tonic::{Request, Response, Status};

use super::Tally;
use crate::actor::{Actors, Watch};
use crate::api::{ApiError, Done, InFlight, Start, Ticket, id_of, report};
use crate::keeper::Keeper;
use crate::mounts::Mounts;
use crate::paths::Endpoint;

/// An open store, its mounts, and who serves them.
pub(crate) struct Node {
    pub(crate) store: Arc<Store>,
    pub(crate) mounts: Arc<Mounts>,
    pub(crate) actors: Arc<Actors>,
    /// Which sandboxes are known to live.
    pub(crate) watch: Watch,
    pub(crate) endpoint: Endpoint,
    /// Who keeps descriptors for the next worker.
    pub(crate) keeper: Keeper,
    /// How many workers were replaced before this one.
    pub(crate) takeovers: u64,
    /// Whether this mountd ends when nothing is mounted.
    pub(crate) private: bool,
    pub(crate) started: Instant,
    pub(crate) tally: Tally,
    pub(crate) in_flight: InFlight,
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
        let done = tokio::task::spawn_blocking(move || {
            let answer = work(&node);
            failpoint::hit("api.before-reply");
            answer
        });
        let done = done.await;
        let done = done.unwrap_or(Err(ApiError::Panicked { call }));
        self.tally.count_request(done.is_err());
        match done {
            Ok(answer) => {
                tracing::debug!(call, micros = begun.elapsed().as_micros(), "call done");
                Ok(Response::new(answer))
            }
            Err(error) => Err(report(call, &error)),
        }
    }

    /// As [`Self::answer`], for a call that changes something: a request that comes again is answered from the record.
    pub(crate) async fn perform<Q, T>(
        self: &Arc<Self>,
        call: &'static str,
        request: Request<Q>,
        work: impl FnOnce(&Node, Q, Ticket<'_>) -> Result<Done<T>, ApiError> + Send + 'static,
    ) -> Result<Response<T>, Status>
    where
        Q: Message + 'static,
        T: Message + Default + 'static,
    {
        let id = id_of(request.metadata());
        let request = request.into_inner();
        let once = move |node: &Node| {
            let id = id?;
            let _turn = node.in_flight.enter(id);
            let key = RequestKey::new(id, call, &request.encode_to_vec());
            let ticket = match Ticket::look_up(&node.store, key) {
                Ok(Start::Work(ticket)) => ticket,
                Ok(Start::Answered(answer)) => {
                    tracing::info!(call, request = %id, "answered from the record");
                    node.tally.count_replay();
                    return Ok(answer);
                }
                Err(error) => {
                    if matches!(error, ApiError::Recorded { .. }) {
                        node.tally.count_replay();
                    }
                    return Err(error);
                }
            };
            let done = work(node, request, ticket);
            done.map(Done::into_answer).inspect_err(|error| Ticket::refuse(&node.store, key, error))
        };
        self.answer(call, once).await
    }
}
