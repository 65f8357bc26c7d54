//! `durdir snapshot …`.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::arguments::parse_snapshot;
use super::document::{hex_unless_text, text};
use super::error::CliError;
use super::output::{Output, with_progress};
use super::run::{Session, call, failed};
use super::table::{Align, Table};
use crate::client::Patience;
use crate::exit::printable;
use crate::proto::{
    Change, ChangeKind, CreateSnapshotRequest, CreateSnapshotResponse, DiffRequest, GetSnapshotRequest,
    ListSnapshotsRequest, RemoveSnapshotsRequest, Snapshot,
};
use crate::units::{format_micros, format_rfc3339, format_size};

#[derive(Subcommand, Debug)]
pub(super) enum SnapshotCommand {
    /// Take a snapshot of volumes, all in one cut
    Create(CreateArgs),
    /// List snapshots
    #[command(visible_alias = "list")]
    Ls {
        /// Only those of this volume
        volume: Option<String>,
    },
    /// Show one snapshot
    Show {
        /// VOLUME@NAME or VOLUME@EPOCH
        #[arg(value_name = "SNAP", value_parser = parse_snapshot)]
        snapshot: String,
    },
    /// Remove snapshots
    #[command(visible_alias = "remove")]
    Rm {
        /// VOLUME@NAME or VOLUME@EPOCH
        #[arg(value_name = "SNAP", required = true, value_parser = parse_snapshot)]
        snapshots: Vec<String>,
        /// Only tell what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what changed between two snapshots, or between a snapshot and a volume
    ///
    /// Where both have a common ancestor, of one volume or of its forks and forks of those, this takes as long as there are changes. Any other two
    /// snapshots are walked and read, and nothing in them counts as renamed.
    Diff {
        /// The older side: VOLUME@NAME or VOLUME@EPOCH
        #[arg(value_name = "SNAP", value_parser = parse_snapshot)]
        from: String,
        /// The newer side [default: the volume that SNAP belongs to]
        #[arg(value_name = "SNAP|VOLUME")]
        to: Option<String>,
    },
}

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// The volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
    /// A name for the snapshot
    #[arg(long)]
    name: Option<String>,
}

/// What `snapshot create --json` prints.
#[derive(Serialize, Debug)]
struct Created {
    cut: Cut,
    snapshots: Vec<CreatedSnapshot>,
}

#[derive(Serialize, Debug)]
struct Cut {
    id: u64,
    held_us: u64,
    drained_inodes: u64,
    sync_us: u64,
}

#[derive(Serialize, Debug)]
struct CreatedSnapshot {
    volume: String,
    snapshot: String,
    epoch: u64,
    name: Option<String>,
    changed: bool,
}

/// One element of what `snapshot ls --json` prints, and what `snapshot show --json` prints.
#[derive(Serialize, Debug)]
struct Listed {
    volume: String,
    snapshot: String,
    name: Option<String>,
    epoch: u64,
    created: String,
    exclusive_bytes: u64,
    shared_bytes: u64,
    files_changed: u64,
}

/// What `snapshot rm --json` prints.
#[derive(Serialize, Debug)]
struct Removed {
    removed: Vec<String>,
}

/// What `snapshot rm --dry-run --json` prints.
#[derive(Serialize, Debug)]
struct WouldRemove {
    dry_run: bool,
    /// `VOLUME@EPOCH`, each once.
    removed: Vec<String>,
    bytes: u64,
}

/// One element of what `snapshot diff --json` prints.
#[derive(Serialize, Debug)]
struct Changed {
    path: String,
    change: &'static str,
    from: Option<String>,
    bytes_changed: u64,
    /// The exact path in hexadecimal, only where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    /// As `path_hex`, of `from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    from_hex: Option<String>,
}

impl From<CreateSnapshotResponse> for Created {
    fn from(answer: CreateSnapshotResponse) -> Created {
        let snapshots = answer.snapshots.into_iter().map(|snapshot| CreatedSnapshot {
            volume: snapshot.volume,
            snapshot: snapshot.snapshot,
            epoch: snapshot.epoch,
            name: snapshot.name,
            changed: snapshot.changed,
        });
        Created {
            cut: Cut {
                id: answer.cut_id,
                held_us: answer.held_us,
                drained_inodes: answer.drained_inodes,
                sync_us: answer.sync_us,
            },
            snapshots: snapshots.collect(),
        }
    }
}

impl From<&Snapshot> for Listed {
    fn from(snapshot: &Snapshot) -> Listed {
        Listed {
            volume: snapshot.volume.clone(),
            snapshot: snapshot.snapshot.clone(),
            name: snapshot.name.clone(),
            epoch: snapshot.epoch,
            created: format_rfc3339(snapshot.created_unix_ns),
            exclusive_bytes: snapshot.exclusive_bytes,
            shared_bytes: snapshot.shared_bytes,
            files_changed: snapshot.files_changed,
        }
    }
}

impl From<&Change> for Changed {
    fn from(change: &Change) -> Changed {
        Changed {
            path: text(&change.path),
            change: match change.change() {
                ChangeKind::Added => "added",
                ChangeKind::Removed => "removed",
                ChangeKind::Renamed => "renamed",
                ChangeKind::Metadata => "metadata",
                // A kind that this client does not know is some modification.
                ChangeKind::Modified | ChangeKind::Unspecified => "modified",
            },
            from: change.from.as_deref().map(text),
            bytes_changed: change.bytes_changed,
            path_hex: hex_unless_text(&change.path),
            from_hex: change.from.as_deref().and_then(hex_unless_text),
        }
    }
}

pub(super) async fn run(session: &Session, command: SnapshotCommand) -> Result<(), CliError> {
    match command {
        SnapshotCommand::Create(arguments) => create(session, arguments).await,
        SnapshotCommand::Ls { volume } => list(session, volume).await,
        SnapshotCommand::Show { snapshot } => show(session, snapshot).await,
        SnapshotCommand::Rm { snapshots, dry_run: false } => remove(session, snapshots).await,
        SnapshotCommand::Rm { snapshots, dry_run: true } => preview_remove(session, snapshots).await,
        SnapshotCommand::Diff { from, to } => diff(session, from, to).await,
    }
}

async fn create(session: &Session, arguments: CreateArgs) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || format!("snapshot create {}", arguments.volumes.join(" "));
    let request = CreateSnapshotRequest { volumes: arguments.volumes.clone(), name: arguments.name.clone() };
    let answer = call(&client, Patience::Usual, action, request, async |to, request| {
        to.snapshots().create_snapshot(request).await
    })
    .await?;
    let document = Created::from(answer);
    session.output.print(&document, || {
        let mut out = String::new();
        for snapshot in &document.snapshots {
            let name = snapshot.name.as_ref().map_or(String::new(), |name| format!(" ({name})"));
            let unchanged = if snapshot.changed { "" } else { ", nothing changed since" };
            out.push_str(&format!("{}{name}{unchanged}\n", snapshot.snapshot));
        }
        let Cut { held_us, sync_us, drained_inodes, .. } = document.cut;
        out.push_str(&format!("held {}, synced in {}", format_micros(held_us), format_micros(sync_us)));
        if drained_inodes > 0 {
            out.push_str(&format!(", wrote out {drained_inodes} mapped files before"));
        }
        out
    })
}

async fn list(session: &Session, volume: Option<String>) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || match &volume {
        Some(volume) => format!("snapshot ls {volume}"),
        None => "snapshot ls".to_owned(),
    };
    let request = ListSnapshotsRequest { volume: volume.clone() };
    let listing = call(&client, Patience::Unlimited, action, request, async |to, request| {
        to.snapshots().list_snapshots(request).await
    });
    let answer = listing.await?;
    let documents: Vec<Listed> = answer.snapshots.iter().map(Listed::from).collect();
    session.output.print(&documents, || table(&answer.snapshots, session.output))
}

async fn show(session: &Session, snapshot: String) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || format!("snapshot show {snapshot}");
    let request = GetSnapshotRequest { snapshot: snapshot.clone() };
    let answer = call(&client, Patience::Usual, action, request, async |to, request| {
        to.snapshots().get_snapshot(request).await
    })
    .await?;
    session.output.print(&Listed::from(&answer), || {
        format!(
            "snapshot       {}\nname           {}\nvolume         {}\nepoch          {}\n\
             created        {}\nexclusive      {}\nshared         {}\nfiles changed  {}\n",
            answer.snapshot,
            answer.name.as_deref().unwrap_or("none"),
            answer.volume,
            answer.epoch,
            session.output.time(answer.created_unix_ns),
            format_size(answer.exclusive_bytes),
            format_size(answer.shared_bytes),
            answer.files_changed,
        )
    })
}

async fn preview_remove(session: &Session, snapshots: Vec<String>) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || format!("snapshot rm --dry-run {}", snapshots.join(" "));
    let request = RemoveSnapshotsRequest { snapshots: snapshots.clone() };
    let asking = call(&client, Patience::Unlimited, action, request, async |to, request| {
        to.snapshots().preview_remove_snapshots(request).await
    });
    let answer = asking.await?;
    let document = WouldRemove { dry_run: true, removed: answer.snapshots, bytes: answer.bytes };
    session.output.print(&document, || {
        format!("would remove {}, and free {}", document.removed.join(", "), format_size(document.bytes))
    })
}

async fn remove(session: &Session, snapshots: Vec<String>) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || format!("snapshot rm {}", snapshots.join(" "));
    let request = RemoveSnapshotsRequest { snapshots: snapshots.clone() };
    call(&client, Patience::Usual, action, request, async |to, request| {
        to.snapshots().remove_snapshots(request).await
    })
    .await?;
    let document = Removed { removed: snapshots };
    session.output.print(&document, || {
        document.removed.iter().map(|snapshot| format!("removed snapshot {snapshot}\n")).collect()
    })
}

async fn diff(session: &Session, from: String, to: Option<String>) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || match &to {
        Some(to) => format!("snapshot diff {from} {to}"),
        None => format!("snapshot diff {from}"),
    };
    let request = DiffRequest { from: from.clone(), to: to.clone() };
    let comparing =
        client.collect(Patience::Unlimited, request, async |to, request| to.snapshots().diff(request).await);
    let parts = with_progress("comparing", comparing).await.map_err(|source| failed(action, source))?;
    let changes = || parts.iter().flat_map(|part| &part.changes);
    let documents: Vec<Changed> = changes().map(Changed::from).collect();
    session.output.print(&documents, || documents.iter().map(diff_line).collect())
}

/// `+ path`, `- path`, `M path (4.0 KiB)`, `R old -> new`, `m path`
fn diff_line(change: &Changed) -> String {
    let sign = match change.change {
        "added" => '+',
        "removed" => '-',
        "renamed" => 'R',
        "metadata" => 'm',
        _ => 'M',
    };
    let from = change.from.as_ref().map_or(String::new(), |from| format!("{} -> ", printable(from)));
    let bytes = match change.bytes_changed {
        0 => String::new(),
        bytes => format!("  ({})", format_size(bytes)),
    };
    format!("{sign} {from}{}{bytes}\n", printable(&change.path))
}

fn table(snapshots: &[Snapshot], output: Output) -> String {
    let mut table = Table::new(&[
        ("SNAPSHOT", Align::Left),
        ("NAME", Align::Left),
        ("CREATED", Align::Left),
        ("EXCLUSIVE", Align::Right),
        ("SHARED", Align::Right),
        ("CHANGED", Align::Right),
    ]);
    for snapshot in snapshots {
        table.row([
            snapshot.snapshot.clone(),
            snapshot.name.clone().unwrap_or_else(|| "-".to_owned()),
            output.time(snapshot.created_unix_ns),
            format_size(snapshot.exclusive_bytes),
            format_size(snapshot.shared_bytes),
            snapshot.files_changed.to_string(),
        ]);
    }
    table.render("no snapshots; `durdir snapshot create VOLUME` takes one")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::CutSnapshot;

    #[test]
    fn a_cut_has_the_pinned_fields() {
        let answer = CreateSnapshotResponse {
            cut_id: 9,
            held_us: 14,
            drained_inodes: 2,
            sync_us: 500,
            snapshots: vec![CutSnapshot {
                volume: "web".to_owned(),
                snapshot: "web@3".to_owned(),
                epoch: 3,
                name: None,
                changed: true,
            }],
        };
        let expected = json!({
            "cut": {"id": 9, "held_us": 14, "drained_inodes": 2, "sync_us": 500},
            "snapshots": [{
                "volume": "web", "snapshot": "web@3", "epoch": 3, "name": null, "changed": true
            }],
        });
        assert_eq!(serde_json::to_value(Created::from(answer)).unwrap(), expected);
    }

    #[test]
    fn a_listed_snapshot_has_the_pinned_fields() {
        let snapshot = Snapshot {
            volume: "web".to_owned(),
            snapshot: "web@3".to_owned(),
            name: Some("n".to_owned()),
            epoch: 3,
            created_unix_ns: 1,
            exclusive_bytes: 4,
            shared_bytes: 5,
            files_changed: 6,
        };
        let expected = json!({
            "volume": "web", "snapshot": "web@3", "name": "n", "epoch": 3,
            "created": "1970-01-01T00:00:00.000000001Z",
            "exclusive_bytes": 4, "shared_bytes": 5, "files_changed": 6,
        });
        assert_eq!(serde_json::to_value(Listed::from(&snapshot)).unwrap(), expected);
    }

    fn change(path: &[u8], kind: ChangeKind, from: Option<&[u8]>, bytes: u64) -> Changed {
        let mut change = Change {
            path: path.to_vec(),
            from: from.map(<[u8]>::to_vec),
            bytes_changed: bytes,
            ..Change::default()
        };
        change.set_change(kind);
        Changed::from(&change)
    }

    #[test]
    fn a_change_has_the_pinned_fields_and_exact_bytes_only_where_needed() {
        let renamed = change(b"b", ChangeKind::Renamed, Some(b"a"), 0);
        let expected = json!({"path": "b", "change": "renamed", "from": "a", "bytes_changed": 0});
        assert_eq!(serde_json::to_value(renamed).unwrap(), expected);
        let odd = serde_json::to_value(change(b"\xff", ChangeKind::Added, None, 7)).unwrap();
        assert_eq!(odd["from"], json!(null));
        assert_eq!(odd["path_hex"], json!("ff"));
        let words: Vec<_> = [
            ChangeKind::Added,
            ChangeKind::Removed,
            ChangeKind::Modified,
            ChangeKind::Renamed,
            ChangeKind::Metadata,
        ]
        .into_iter()
        .map(|kind| change(b"x", kind, None, 0).change)
        .collect();
        assert_eq!(words, ["added", "removed", "modified", "renamed", "metadata"]);
    }

    #[test]
    fn a_diff_line_shows_kind_paths_and_size() {
        assert_eq!(diff_line(&change(b"d/n", ChangeKind::Modified, None, 4096)), "M d/n  (4.0 KiB)\n");
        assert_eq!(diff_line(&change(b"b", ChangeKind::Renamed, Some(b"a"), 0)), "R a -> b\n");
        assert_eq!(diff_line(&change(b"a\nb", ChangeKind::Removed, None, 0)), "- a\\nb\n");
    }
}
