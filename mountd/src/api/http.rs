//! Health and metrics over HTTP, for probes and Prometheus. Reads only; off unless configured.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::metrics;
use crate::daemon::Node;
use crate::exit::{one_line, printable};

/// Answers until `stopped` says so.
pub(crate) fn serve_http(
    node: Arc<Node>,
    listener: TcpListener,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let router =
        Router::new().route("/healthz", get(health)).route("/metrics", get(exposition)).with_state(node);
    Ok(tokio::spawn(async move {
        let stop = async move {
            // An error means that the sender is gone, which ends the server just as well.
            drop(stopped.wait_for(|stopped| *stopped).await);
        };
        let served = axum::serve(listener, router).with_graceful_shutdown(stop).await;
        if let Err(error) = served {
            tracing::error!(%error, "the metrics server ended");
        }
    }))
}

/// Whether this node can be used. A store that stopped answers every change with an error, until its disk can be written again.
async fn health(State(node): State<Arc<Node>>) -> impl IntoResponse {
    match node.store.stopped() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => {
            let why = printable(&why);
            (StatusCode::SERVICE_UNAVAILABLE, format!("the store stopped after a failed write: {why}\n"))
        }
    }
}

async fn exposition(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let text = tokio::task::spawn_blocking(move || metrics::exposition(&node)).await;
    match text {
        Ok(Ok(text)) => {
            let kind = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
            (StatusCode::OK, kind, text).into_response()
        }
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, one_line(&error)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
