//! Accepting clients: who they are, how many there are, and the server that answers them.
//!
//! # Invariants
//! - Only the user that mountd runs as, and root, get an answer. The socket is 0600 in a 0700
//!   directory already; this holds where somebody changes that.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::{Connected, UdsConnectInfo};

use super::actors::ActorsService;
use super::mounts::MountsService;
use super::node::NodeService;
use super::snapshots::SnapshotsService;
use super::volumes::VolumesService;
use crate::daemon::Node;
use crate::proto::actors_server::ActorsServer;
use crate::proto::mounts_server::MountsServer;
use crate::proto::node_server::NodeServer;
use crate::proto::snapshots_server::SnapshotsServer;
use crate::proto::volumes_server::VolumesServer;

/// Accept fails for a while when descriptors run out; trying at once again would burn a CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Counts the clients that are connected, until no more are let in.
#[derive(Clone, Default)]
pub(crate) struct Connections(Arc<Mutex<Door>>);

#[derive(Default)]
struct Door {
    inside: usize,
    closed: bool,
}

impl Connections {
    /// Returns whether anybody is connected.
    pub(crate) fn any(&self) -> bool {
        self.0.lock().inside > 0
    }

    /// Lets nobody in any more, if nobody is connected now, and returns whether that is so. A
    /// client that comes later finds its connection closed before anything was answered, so it may
    /// try again.
    pub(crate) fn close_if_none(&self) -> bool {
        let mut door = self.0.lock();
        door.closed |= door.inside == 0;
        door.closed
    }

    fn open(&self) -> Option<OpenConnection> {
        let mut door = self.0.lock();
        if door.closed {
            return None;
        }
        door.inside += 1;
        Some(OpenConnection(Connections::clone(self)))
    }
}

/// One client; counted while it lives.
struct OpenConnection(Connections);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.0.lock().inside -= 1;
    }
}

/// Returns a future that answers clients until `stopped` says so and calls in flight are done.
pub(crate) fn serve(
    node: Arc<Node>,
    listener: std::os::unix::net::UnixListener,
    connections: Connections,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let (admitted, clients) = mpsc::channel(16);
    tokio::spawn(accept(listener, connections, admitted, stopped.clone()));
    let server = Server::builder()
        .add_service(ActorsServer::new(ActorsService::new(Arc::clone(&node))))
        .add_service(MountsServer::new(MountsService::new(Arc::clone(&node))))
        .add_service(VolumesServer::new(VolumesService::new(Arc::clone(&node))))
        .add_service(SnapshotsServer::new(SnapshotsService::new(Arc::clone(&node))))
        .add_service(NodeServer::new(NodeService::new(node)));
    Ok(async move {
        let stop = async move {
            // An error means that the sender is gone, which ends the server just as well.
            drop(stopped.wait_for(|stopped| *stopped).await);
        };
        let served = server.serve_with_incoming_shutdown(ReceiverStream::new(clients), stop).await;
        if let Err(error) = served {
            tracing::error!(error = %crate::exit::one_line(&error), "the API server ended");
        }
    })
}

async fn accept(
    listener: UnixListener,
    connections: Connections,
    admitted: mpsc::Sender<io::Result<Client>>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Some(client) = admit(stream, &connections)
                    && admitted.send(Ok(client)).await.is_err()
                {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept a client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(stream: UnixStream, connections: &Connections) -> Option<Client> {
    match stream.peer_cred() {
        Ok(peer) if may_call(peer.uid(), nix::unistd::geteuid().as_raw()) => {
            connections.open().map(|open| Client { stream, _open: open })
        }
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "refused a client of another user");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "refused a client that cannot be identified");
            None
        }
    }
}

fn may_call(peer: libc::uid_t, own: libc::uid_t) -> bool {
    peer == own || peer == 0
}

/// A connection that was let in.
struct Client {
    stream: UnixStream,
    _open: OpenConnection,
}

impl Connected for Client {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_user_and_root_may_call() {
        assert!(may_call(1000, 1000));
        assert!(may_call(0, 1000));
        assert!(!may_call(1001, 1000));
        assert!(!may_call(1000, 0));
    }

    #[test]
    fn connections_are_counted_while_they_live() {
        let connections = Connections::default();
        let (one, two) = (connections.open(), connections.open());
        drop(one);
        assert!(connections.any() && !connections.close_if_none());
        drop(two);
        assert!(!connections.any());
    }

    #[test]
    fn nobody_comes_in_after_the_door_was_closed() {
        let connections = Connections::default();
        assert!(connections.close_if_none());
        assert!(connections.open().is_none());
        assert!(!connections.any());
    }
}
