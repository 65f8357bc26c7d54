//! Calls with deadlines, repeated over broken connections.
//!
//! # Overview
//! A connection breaks when its daemon is killed, replaced, or ends; one that is about to end says so instead. The client then connects again, starting a private mountd
//! where one had been, and sends the same request with the same id: the daemon does it, or answers from its record what it
//! did before. Each command makes its requests once, so each of them has one id.
//!
//! ```text
//!   call ──▶ answer, or an error that the daemon reported ──▶ done
//!     ▲  └─▶ connection lost ──▶ wait, longer each time ──▶ connect, say hello ─┐
//!     └───────────────────────────────── same id ──────────────────────────────┘
//! ```
//!
//! # Invariants
//! - What the daemon reported is final: only a call without an answer is sent again.
//! - All attempts together take no longer than the call may; a call without a limit is not begun again later than
//!   [`USUAL`] after its first loss.
//! - A request that breaks [`MOST_LOSSES`] connections is given up: it may be what kills the daemon. A daemon that says it is
//!   about to end was not killed.
//! - A streamed answer is handed out when it is complete. So nobody has seen a part of it when it is begun anew.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{ClientError, Connection, autostart};
use crate::paths::Endpoint;
use crate::proto::{HelloResponse, REQUEST_ID_KEY};

/// How long a call may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// What is done in milliseconds unless the node is in trouble.
    Usual,
    /// What grows with the store: checks, sweeps, comparisons.
    Unlimited,
}

const USUAL: Duration = Duration::from_secs(60);
const HELLO: Duration = Duration::from_secs(10);
/// Connections that one request may break.
const MOST_LOSSES: u32 = 8;
/// A worker is started again within milliseconds.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A client of the mountd of one store.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    limit: Option<Duration>,
    /// Given by the user for the one request of a command; else each request gets its own.
    id: Option<Uuid>,
    connection: Mutex<Connection>,
}

impl Client {
    /// Connects to the mountd of a store, starting a private one if none runs. `limit` replaces
    /// the usual time that calls may take.
    pub async fn connect(endpoint: &Endpoint, limit: Option<Duration>) -> Result<Client, ClientError> {
        let mut retry = Retry::within(Some(limit.unwrap_or(USUAL)));
        let connection = loop {
            // Blocking is fine here: the command has nothing else to do.
            let stream = autostart::connect_or_start(endpoint)?;
            match Connection::over(stream, endpoint, retry.at_most(HELLO)).await {
                Ok(connection) => break connection,
                Err(error) => retry.after(error).await?,
            }
        };
        Ok(Client { endpoint: endpoint.clone(), limit, id: None, connection: Mutex::new(connection) })
    }

    /// Gives all requests of this client the same id: for a command that makes one.
    #[must_use]
    pub fn with_request_id(self, id: Option<Uuid>) -> Client {
        Client { id, ..self }
    }

    /// Connects to the mountd of a store if one runs.
    pub async fn connect_if_running(endpoint: &Endpoint) -> Result<Option<Client>, ClientError> {
        let asked = endpoint.clone();
        // A daemon that is stopped accepts nobody, and then even connecting may wait.
        let connecting = tokio::task::spawn_blocking(move || autostart::try_connect(&asked));
        let connected =
            connecting.await.map_err(|_| ClientError::ConnectionLost { socket: endpoint.socket.clone() })?;
        let Some(stream) = connected? else { return Ok(None) };
        let connection = Connection::over(stream, endpoint, HELLO).await?;
        let connection = Mutex::new(connection);
        Ok(Some(Client { endpoint: endpoint.clone(), limit: None, id: None, connection }))
    }

    /// What the daemon said of itself.
    pub fn hello(&self) -> HelloResponse {
        self.connection().hello().clone()
    }

    /// Makes a call: `send` sends the request over a connection, again and again until it is answered.
    pub async fn call<Q: Clone, T>(
        &self,
        patience: Patience,
        request: Q,
        send: impl AsyncFn(&Connection, tonic::Request<Q>) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, ClientError> {
        self.repeat(patience, request, async |connection, request| {
            send(connection, request).await.map(tonic::Response::into_inner)
        })
        .await
    }

    /// As [`Self::call`], for an answer in parts. Returns all of them.
    pub async fn collect<Q: Clone, T>(
        &self,
        patience: Patience,
        request: Q,
        send: impl AsyncFn(
            &Connection,
            tonic::Request<Q>,
        ) -> Result<tonic::Response<tonic::Streaming<T>>, tonic::Status>,
    ) -> Result<Vec<T>, ClientError> {
        self.repeat(patience, request, async |connection, request| {
            let mut stream = send(connection, request).await?.into_inner();
            let mut parts = Vec::new();
            while let Some(part) = stream.message().await? {
                parts.push(part);
            }
            Ok(parts)
        })
        .await
    }

    async fn repeat<Q: Clone, T>(
        &self,
        patience: Patience,
        request: Q,
        attempt: impl AsyncFn(&Connection, tonic::Request<Q>) -> Result<T, tonic::Status>,
    ) -> Result<T, ClientError> {
        let limit = match patience {
            Patience::Usual => Some(self.limit.unwrap_or(USUAL)),
            Patience::Unlimited => self.limit,
        };
        let id = self.id.unwrap_or_else(Uuid::new_v4).to_string();
        let id: tonic::metadata::AsciiMetadataValue = id.parse().expect("a UUID is plain ASCII");
        let mut retry = Retry::within(limit);
        loop {
            let connection = self.connection().clone();
            let mut request = tonic::Request::new(request.clone());
            request.metadata_mut().insert(REQUEST_ID_KEY, id.clone());
            let answering = attempt(&connection, request);
            let answer = match retry.left() {
                None => answering.await,
                Some(left) => {
                    let timed_out = |_| ClientError::TimedOut { after: limit.unwrap_or_default() };
                    tokio::time::timeout(left, answering).await.map_err(timed_out)?
                }
            };
            let mut lost = match answer {
                Ok(answer) => return Ok(answer),
                Err(status) => ClientError::from_status(&status, &self.endpoint.socket),
            };
            if !matches!(lost, ClientError::Ending { .. }) {
                retry.count_loss();
            }
            loop {
                retry.after(lost).await?;
                match self.reconnect(&connection, &retry).await {
                    Ok(connection) => {
                        *self.connection() = connection;
                        break;
                    }
                    Err(error) => lost = error,
                }
            }
        }
    }

    /// Connects again. A mountd that runs as a service is started again by whoever runs it; a private one by us.
    async fn reconnect(&self, broken: &Connection, retry: &Retry) -> Result<Connection, ClientError> {
        let endpoint = &self.endpoint;
        let stream = if broken.hello().private {
            autostart::connect_or_start(endpoint)?
        } else {
            autostart::try_connect(endpoint)?
                .ok_or_else(|| ClientError::ConnectionLost { socket: endpoint.socket.clone() })?
        };
        Connection::over(stream, endpoint, retry.at_most(HELLO)).await
    }

    fn connection(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.connection.lock().expect("nothing panics while it is held")
    }
}

/// When to try again, and when to give up.
struct Retry {
    begun: Instant,
    limit: Option<Duration>,
    first_loss: Option<Instant>,
    losses: u32,
    pause: Duration,
}

impl Retry {
    fn within(limit: Option<Duration>) -> Retry {
        Retry { begun: Instant::now(), limit, first_loss: None, losses: 0, pause: SHORTEST_PAUSE }
    }

    /// What is left of the time; `None`: there is no limit.
    fn left(&self) -> Option<Duration> {
        self.limit.map(|limit| limit.saturating_sub(self.begun.elapsed()))
    }

    fn at_most(&self, most: Duration) -> Duration {
        self.left().map_or(most, |left| left.min(most))
    }

    /// Notes that a connection broke under a request.
    fn count_loss(&mut self) {
        self.losses += 1;
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// Gives `error` back if it is no loss of a connection, nor a greeting without an answer, or if enough was tried.
    async fn after(&mut self, error: ClientError) -> Result<(), ClientError> {
        let first_loss = *self.first_loss.get_or_insert_with(Instant::now);
        // A successor that opens its store has the listener, and answers when it is done.
        let is_unanswered = matches!(error, ClientError::TimedOut { .. });
        if !(error.is_loss() || is_unanswered)
            || self.losses >= MOST_LOSSES
            || self.limit.is_some_and(|limit| self.begun.elapsed() + self.pause >= limit)
            || first_loss.elapsed() + self.pause >= USUAL
        {
            return Err(error);
        }
        // Clients of the same daemon lose it together, and are not to come back together.
        tokio::time::sleep(jittered(self.pause)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// Returns a random time between half of `pause` and all of it.
fn jittered(pause: Duration) -> Duration {
    let random = u32::from_le_bytes(*Uuid::new_v4().as_bytes().first_chunk().expect("it has 16 bytes"));
    pause.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::exit::ExitClass;

    fn lost() -> ClientError {
        ClientError::ConnectionLost { socket: PathBuf::from("/s") }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn only_a_lost_connection_or_a_silent_one_is_tried_again() {
        run(async {
            let mut retry = Retry::within(Some(USUAL));
            retry.after(lost()).await.unwrap();
            retry.after(ClientError::TimedOut { after: HELLO }).await.unwrap();
            let reported =
                ClientError::Reported { exit: ExitClass::Failed, message: String::new(), causes: Vec::new() };
            assert!(matches!(retry.after(reported).await, Err(ClientError::Reported { .. })));
        });
    }

    #[test]
    fn pauses_grow_and_differ() {
        run(async {
            let mut retry = Retry::within(None);
            for _ in 0..4 {
                retry.after(lost()).await.unwrap();
            }
            assert_eq!(retry.pause, SHORTEST_PAUSE * 16);
        });
        let pauses: Vec<_> = (0..64).map(|_| jittered(LONGEST_PAUSE)).collect();
        assert!(pauses.iter().all(|pause| (LONGEST_PAUSE / 2..=LONGEST_PAUSE).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }

    #[test]
    fn a_request_that_keeps_breaking_connections_is_given_up() {
        run(async {
            let mut retry = Retry::within(None);
            for _ in 1..MOST_LOSSES {
                retry.count_loss();
                retry.after(lost()).await.unwrap();
            }
            retry.count_loss();
            assert!(retry.after(lost()).await.is_err());
        });
    }

    #[test]
    fn nothing_is_tried_again_beyond_the_limit() {
        run(async {
            let mut retry = Retry::within(Some(Duration::from_millis(40)));
            while retry.after(lost()).await.is_ok() {}
            // A pause that would end behind the limit is not begun.
            assert!(retry.pause <= SHORTEST_PAUSE * 32, "{:?}", retry.pause);
        });
    }
}
