//! `durdir fork`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::arguments::parse_snapshot;
use super::document::{MountDocument, VolumeDocument};
use super::error::CliError;
use super::mount::{mounted_line, plain_options};
use super::run::{Session, call};
use crate::client::Patience;
use crate::proto::ForkRequest;

/// Make a new volume out of a snapshot, whatever its size. With --mount, both or neither is done.
#[derive(Args, Debug)]
pub(super) struct ForkArgs {
    /// VOLUME@NAME or VOLUME@EPOCH
    #[arg(value_name = "SNAP", value_parser = parse_snapshot_to_fork)]
    snapshot: String,
    /// The name of the new volume
    #[arg(value_name = "NEWVOLUME")]
    volume: String,
    /// Mount it there
    #[arg(long, value_name = "MOUNTPOINT")]
    mount: Option<PathBuf>,
}

/// What `fork --json` prints: the new volume, and its mount or null.
#[derive(Serialize, Debug)]
struct Forked {
    #[serde(flatten)]
    volume: VolumeDocument,
    mount: Option<MountDocument>,
}

fn parse_snapshot_to_fork(text: &str) -> Result<String, String> {
    parse_snapshot(text).map_err(|error| {
        if text.contains('@') {
            return error;
        }
        format!("{error}; to fork a volume as it is now, `durdir snapshot create {text}` first")
    })
}

pub(super) async fn fork(session: &Session, arguments: ForkArgs) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || format!("fork {} {}", arguments.snapshot, arguments.volume);
    let request = ForkRequest {
        snapshot: arguments.snapshot.clone(),
        volume: arguments.volume.clone(),
        mount: arguments.mount.as_deref().map(plain_options),
    };
    let answer = call(&client, Patience::Usual, action, request, async |to, request| {
        to.snapshots().fork(request).await
    })
    .await?;
    let mounted = answer.mount.as_ref().map(mounted_line);
    let document = Forked {
        volume: answer.volume.unwrap_or_default().into(),
        mount: answer.mount.map(MountDocument::from),
    };
    session.output.print(&document, || {
        let forked = format!("forked {} as volume {}", arguments.snapshot, arguments.volume);
        match mounted {
            Some(mounted) => format!("{forked}\n{mounted}"),
            None => forked,
        }
    })
}
