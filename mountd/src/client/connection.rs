//! A connection to one mountd, and calls over it with deadlines.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint as ChannelEndpoint, Uri};

use super::{ClientError, autostart};
use crate::paths::Endpoint;
use crate::proto::mounts_client::MountsClient;
use crate::proto::node_client::NodeClient;
use crate::proto::snapshots_client::SnapshotsClient;
use crate::proto::volumes_client::VolumesClient;
use crate::proto::{API_REVISION, HelloRequest, HelloResponse};

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
/// A private mountd may end between the connection and the first call; the next one will not.
const ATTEMPTS: usize = 3;
/// Lists of a hundred thousand snapshots fit.
const LARGEST_ANSWER: usize = 256 << 20;

/// A connection to the mountd of one store. While it lives, a private mountd does not end.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    socket: PathBuf,
    limit: Option<Duration>,
    hello: HelloResponse,
}

impl Client {
    /// Connects to the mountd of a store, starting a private one if none runs. `limit` replaces
    /// the usual time that calls may take.
    pub async fn connect(endpoint: &Endpoint, limit: Option<Duration>) -> Result<Client, ClientError> {
        let mut attempt = 1;
        loop {
            // Blocking is fine here: the command has nothing else to do.
            let stream = autostart::connect_or_start(endpoint)?;
            match Client::over(stream, endpoint, limit).await {
                Err(ClientError::ConnectionLost { .. }) if attempt < ATTEMPTS => attempt += 1,
                done => return done,
            }
        }
    }

    /// Connects to the mountd of a store if one runs.
    pub async fn connect_if_running(endpoint: &Endpoint) -> Result<Option<Client>, ClientError> {
        match autostart::try_connect(endpoint)? {
            Some(stream) => Client::over(stream, endpoint, None).await.map(Some),
            None => Ok(None),
        }
    }

    async fn over(
        stream: std::os::unix::net::UnixStream,
        endpoint: &Endpoint,
        limit: Option<Duration>,
    ) -> Result<Client, ClientError> {
        let socket = endpoint.socket.clone();
        let connect = |source| ClientError::Connect { socket: socket.clone(), source };
        stream.set_nonblocking(true).map_err(connect)?;
        let stream = tokio::net::UnixStream::from_std(stream).map_err(connect)?;
        let channel =
            channel_over(stream).await.map_err(|_| ClientError::ConnectionLost { socket: socket.clone() })?;
        let mut client = Client { channel, socket, limit, hello: HelloResponse::default() };
        client.hello = client.say_hello(endpoint).await?;
        Ok(client)
    }

    async fn say_hello(&self, endpoint: &Endpoint) -> Result<HelloResponse, ClientError> {
        let mut node = self.node();
        let hello = self
            .within(Some(self.limit.map_or(HELLO, |limit| limit.min(HELLO))), node.hello(HelloRequest {}))
            .await?;
        if hello.api_revision != API_REVISION {
            return Err(ClientError::OtherProtocol { version: hello.version });
        }
        let theirs = Path::new(std::ffi::OsStr::from_bytes(&hello.store));
        if !endpoint.any_store && !same_directory(theirs, &endpoint.store) {
            return Err(ClientError::OtherStore {
                socket: endpoint.socket.clone(),
                theirs: theirs.to_owned(),
                ours: endpoint.store.clone(),
            });
        }
        Ok(hello)
    }

    /// What the daemon said of itself.
    pub fn hello(&self) -> &HelloResponse {
        &self.hello
    }

    /// The calls about mounts.
    pub fn mounts(&self) -> MountsClient<Channel> {
        MountsClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    /// The calls about volumes.
    pub fn volumes(&self) -> VolumesClient<Channel> {
        VolumesClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    /// The calls about snapshots.
    pub fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    /// The calls about the node.
    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    /// Awaits a call, no longer than `patience` and the limit given at connection allow.
    pub async fn call<T>(
        &self,
        patience: Patience,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, ClientError> {
        let limit = match patience {
            Patience::Usual => Some(self.limit.unwrap_or(USUAL)),
            Patience::Unlimited => self.limit,
        };
        self.within(limit, call).await
    }

    /// Awaits all parts of a streamed answer.
    pub async fn collect<T>(&self, mut stream: tonic::Streaming<T>) -> Result<Vec<T>, ClientError> {
        let mut parts = Vec::new();
        loop {
            match stream.message().await {
                Ok(Some(part)) => parts.push(part),
                Ok(None) => return Ok(parts),
                Err(status) => return Err(ClientError::from_status(&status, &self.socket)),
            }
        }
    }

    async fn within<T>(
        &self,
        limit: Option<Duration>,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, ClientError> {
        let answer = match limit {
            Some(after) => {
                tokio::time::timeout(after, call).await.map_err(|_| ClientError::TimedOut { after })?
            }
            None => call.await,
        };
        match answer {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(ClientError::from_status(&status, &self.socket)),
        }
    }
}

/// A channel over one connection that is there already. It does not connect again: calls are not
/// all retry-safe, and a daemon that went away took its mounts with it.
async fn channel_over(stream: tokio::net::UnixStream) -> Result<Channel, tonic::transport::Error> {
    let stream = Mutex::new(Some(stream));
    // The name is required by HTTP and used by nobody.
    ChannelEndpoint::from_static("http://mountd.invalid")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let taken = stream.lock().ok().and_then(|mut stream| stream.take());
            async move { taken.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        }))
        .await
}

fn same_directory(one: &Path, other: &Path) -> bool {
    one == other
        || match (std::fs::canonicalize(one), std::fs::canonicalize(other)) {
            (Ok(one), Ok(other)) => one == other,
            _ => false,
        }
}
