//! A connection to one mountd: who is at the other end, and the calls it answers.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint as ChannelEndpoint, Uri};

use super::ClientError;
use crate::paths::Endpoint;
use crate::proto::actors_client::ActorsClient;
use crate::proto::mounts_client::MountsClient;
use crate::proto::node_client::NodeClient;
use crate::proto::snapshots_client::SnapshotsClient;
use crate::proto::volumes_client::VolumesClient;
use crate::proto::{API_REVISION, HelloRequest, HelloResponse};

/// Lists of a hundred thousand snapshots fit.
const LARGEST_ANSWER: usize = 256 << 20;

/// Errors come in headers, with all that is wrong with a template. The server limits them to a third of this.
const LARGEST_HEADERS: u32 = 4 << 20;

/// A connection to a daemon that said hello. While it lives, a private mountd does not end.
#[derive(Clone, Debug)]
pub struct Connection {
    channel: Channel,
    hello: HelloResponse,
}

impl Connection {
    /// Greets the daemon at the other end of a stream, and makes sure that it is the one that is meant.
    pub(super) async fn over(
        stream: std::os::unix::net::UnixStream,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<Connection, ClientError> {
        let lost = || ClientError::ConnectionLost { socket: endpoint.socket.clone() };
        let connect = |source| ClientError::Connect { socket: endpoint.socket.clone(), source };
        stream.set_nonblocking(true).map_err(connect)?;
        let stream = tokio::net::UnixStream::from_std(stream).map_err(connect)?;
        let channel = channel_over(stream).await.map_err(|_| lost())?;
        let mut connection = Connection { channel, hello: HelloResponse::default() };
        let mut node = connection.node();
        let greeting = tokio::time::timeout(limit, node.hello(HelloRequest {})).await;
        let answer = greeting.map_err(|_| ClientError::TimedOut { after: limit })?;
        let hello =
            answer.map_err(|status| ClientError::from_status(&status, &endpoint.socket))?.into_inner();
        check(&hello, endpoint)?;
        connection.hello = hello;
        Ok(connection)
    }

    /// What the daemon said of itself.
    pub fn hello(&self) -> &HelloResponse {
        &self.hello
    }

    /// The calls about actors.
    pub fn actors(&self) -> ActorsClient<Channel> {
        ActorsClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
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
}

fn check(hello: &HelloResponse, endpoint: &Endpoint) -> Result<(), ClientError> {
    if hello.api_revision != API_REVISION {
        return Err(ClientError::OtherProtocol { version: hello.version.clone() });
    }
    let theirs = Path::new(std::ffi::OsStr::from_bytes(&hello.store));
    if !endpoint.any_store && !same_directory(theirs, &endpoint.store) {
        return Err(ClientError::OtherStore {
            socket: endpoint.socket.clone(),
            theirs: theirs.to_owned(),
            ours: endpoint.store.clone(),
        });
    }
    Ok(())
}

/// A channel over one connection that is there already. It does not connect again by itself: who is at the other end then has
/// to be asked first.
async fn channel_over(stream: tokio::net::UnixStream) -> Result<Channel, tonic::transport::Error> {
    let stream = Mutex::new(Some(stream));
    // The name is required by HTTP and used by nobody.
    ChannelEndpoint::from_static("http://mountd.invalid")
        .http2_max_header_list_size(LARGEST_HEADERS)
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
