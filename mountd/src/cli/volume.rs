//! `durdir volume …`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;

use super::arguments::{Limit, bytes, parse_count_limit, parse_limit, parse_snapshot, resolve};
use super::document::VolumeDocument;
use super::error::CliError;
use super::output::Output;
use super::run::{Session, call};
use super::table::{Align, Table};
use crate::client::{Client, Patience};
use crate::exit::printable;
use crate::proto::{
    CreateVolumeRequest, GetVolumeRequest, ListVolumesRequest, QuotaChange, RemovalPreview,
    RemoveVolumeRequest, RenameVolumeRequest, RollbackPreview, RollbackVolumeRequest, SetQuotaRequest,
    Volume,
};
use crate::units::format_size;

#[derive(Subcommand, Debug)]
pub(super) enum VolumeCommand {
    /// Create a volume
    Create(CreateArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls,
    /// Show one volume
    Show {
        /// The volume
        name: String,
    },
    /// Remove a volume with its snapshots
    #[command(visible_alias = "remove")]
    Rm {
        /// The volume
        name: String,
        /// Only tell what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a volume equal to one of its snapshots, also while it is mounted
    Rollback {
        /// The volume
        name: String,
        /// A snapshot in its history: VOLUME@NAME, VOLUME@EPOCH, or just NAME or EPOCH
        #[arg(value_name = "SNAP")]
        snapshot: String,
        /// Only tell what would be lost
        #[arg(long)]
        dry_run: bool,
    },
    /// Give a volume another name
    Rename {
        /// The volume
        old: String,
        /// Its new name
        new: String,
    },
    /// Change what a volume may store, also while it is mounted
    SetQuota(SetQuotaArgs),
}

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// The name: letters, digits, '.', '_' and '-'
    name: String,
    /// A directory shown below what is written; the first is the topmost. It must not change
    #[arg(long = "lower", value_name = "DIR")]
    lowers: Vec<PathBuf>,
    /// Most bytes it may store, or none
    #[arg(long, value_name = "N", value_parser = parse_limit)]
    quota_bytes: Option<Limit>,
    /// Most files and directories it may store, or none
    #[arg(long, value_name = "N", value_parser = parse_count_limit)]
    quota_inodes: Option<Limit>,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("limits").required(true).multiple(true).args(["bytes", "inodes"])))]
pub(super) struct SetQuotaArgs {
    /// The volume
    name: String,
    /// Most bytes it may store, or none
    #[arg(long, value_name = "N", value_parser = parse_limit)]
    bytes: Option<Limit>,
    /// Most files and directories it may store, or none
    #[arg(long, value_name = "N", value_parser = parse_count_limit)]
    inodes: Option<Limit>,
}

/// What `volume rm --json` prints.
#[derive(Serialize, Debug)]
struct Removed {
    removed: String,
}

/// What `volume rm --dry-run --json` prints.
#[derive(Serialize, Debug)]
struct WouldRemove {
    dry_run: bool,
    removed: String,
    snapshots: Vec<String>,
    bytes: u64,
}

/// What `volume rollback --dry-run --json` prints.
#[derive(Serialize, Debug)]
struct WouldRollBack {
    dry_run: bool,
    volume: String,
    snapshot: String,
    /// The newest snapshot of the head.
    since: Option<String>,
    /// What was changed since then.
    lost: Lost,
    bytes: u64,
}

#[derive(Serialize, Debug)]
struct Lost {
    added: u64,
    removed: u64,
    modified: u64,
    renamed: u64,
    metadata: u64,
}

pub(super) async fn run(session: &Session, command: VolumeCommand) -> Result<(), CliError> {
    match command {
        VolumeCommand::Create(arguments) => create(session, arguments).await,
        VolumeCommand::Ls => list(session).await,
        VolumeCommand::Show { name } => show(session, name).await,
        VolumeCommand::Rm { name, dry_run: false } => remove(session, name).await,
        VolumeCommand::Rm { name, dry_run: true } => preview_remove(session, name).await,
        VolumeCommand::Rollback { name, snapshot, dry_run } => {
            rollback(session, name, snapshot, dry_run).await
        }
        VolumeCommand::Rename { old, new } => rename(session, old, new).await,
        VolumeCommand::SetQuota(arguments) => set_quota(session, arguments).await,
    }
}

async fn create(session: &Session, arguments: CreateArgs) -> Result<(), CliError> {
    let client = session.connect().await?;
    let request = CreateVolumeRequest {
        name: arguments.name.clone(),
        lowers: arguments.lowers.iter().map(|lower| bytes(&resolve(lower))).collect(),
        quota_bytes: arguments.quota_bytes.and_then(|limit| limit.0),
        quota_inodes: arguments.quota_inodes.and_then(|limit| limit.0),
    };
    let action = || format!("volume create {}", arguments.name);
    let volume = call(&client, Patience::Usual, action, request, async |to, request| {
        to.volumes().create_volume(request).await
    })
    .await?;
    changed(session, volume, |volume| format!("created volume {}", volume.name))
}

async fn list(session: &Session) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || "volume ls".to_owned();
    let request = ListVolumesRequest {};
    let answer = call(&client, Patience::Usual, action, request, async |to, request| {
        to.volumes().list_volumes(request).await
    })
    .await?;
    let text = || table(&answer.volumes, session.output);
    let documents: Vec<VolumeDocument> = answer.volumes.iter().cloned().map(VolumeDocument::from).collect();
    session.output.print(&documents, text)
}

async fn show(session: &Session, name: String) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || format!("volume show {name}");
    let request = GetVolumeRequest { name: name.clone() };
    let volume = call(&client, Patience::Usual, action, request, async |to, request| {
        to.volumes().get_volume(request).await
    })
    .await?;
    let created = session.output.time(volume.created_unix_ns);
    changed(session, volume, |volume| details(volume, &created))
}

async fn remove(session: &Session, name: String) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || format!("volume rm {name}");
    let request = RemoveVolumeRequest { name: name.clone() };
    call(&client, Patience::Usual, action, request, async |to, request| {
        to.volumes().remove_volume(request).await
    })
    .await?;
    let document = Removed { removed: name };
    session.output.print(&document, || format!("removed volume {}", document.removed))
}

async fn preview_remove(session: &Session, name: String) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || format!("volume rm --dry-run {name}");
    let request = RemoveVolumeRequest { name: name.clone() };
    let asking = call(&client, Patience::Unlimited, action, request, async |to, request| {
        to.volumes().preview_remove_volume(request).await
    });
    let RemovalPreview { snapshots, bytes } = asking.await?;
    let document = WouldRemove { dry_run: true, removed: name, snapshots, bytes };
    session.output.print(&document, || {
        let snapshots = match document.snapshots.as_slice() {
            [] => "without snapshots".to_owned(),
            snapshots => format!("with {}", snapshots.join(", ")),
        };
        format!("would remove volume {} {snapshots}, and free {}", document.removed, format_size(bytes))
    })
}

async fn rollback(session: &Session, name: String, snapshot: String, dry_run: bool) -> Result<(), CliError> {
    let snapshot = if snapshot.contains('@') { snapshot } else { format!("{name}@{snapshot}") };
    parse_snapshot(&snapshot).map_err(CliError::Usage)?;
    let client = session.connect().await?;
    if dry_run {
        return preview_rollback(session, &client, name, snapshot).await;
    }
    let action = || format!("volume rollback {name} {snapshot}");
    let request = RollbackVolumeRequest { name: name.clone(), snapshot: snapshot.clone() };
    let volume = call(&client, Patience::Unlimited, action, request, async |to, request| {
        to.volumes().rollback_volume(request).await
    })
    .await?;
    changed(session, volume, |volume| format!("volume {} is as {snapshot} again", volume.name))
}

async fn preview_rollback(
    session: &Session,
    client: &Client,
    name: String,
    snapshot: String,
) -> Result<(), CliError> {
    let action = || format!("volume rollback --dry-run {name} {snapshot}");
    let request = RollbackVolumeRequest { name: name.clone(), snapshot: snapshot.clone() };
    let asking = call(client, Patience::Unlimited, action, request, async |to, request| {
        to.volumes().preview_rollback_volume(request).await
    });
    let answer = asking.await?;
    let RollbackPreview { since, added, removed, modified, renamed, metadata, bytes } = answer;
    let lost = Lost { added, removed, modified, renamed, metadata };
    let document = WouldRollBack { dry_run: true, volume: name, snapshot, since, lost, bytes };
    session.output.print(&document, || {
        let since = document.since.as_deref().unwrap_or("the beginning");
        format!(
            "would make volume {} as {} again; lost would be what changed since {since}: {added} added, {removed} removed, \
             {modified} modified, {renamed} renamed, {metadata} with other attributes; it would free {}",
            document.volume,
            document.snapshot,
            format_size(bytes)
        )
    })
}

async fn rename(session: &Session, old: String, new: String) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || format!("volume rename {old} {new}");
    let request = RenameVolumeRequest { name: old.clone(), new_name: new.clone() };
    let volume = call(&client, Patience::Usual, action, request, async |to, request| {
        to.volumes().rename_volume(request).await
    })
    .await?;
    changed(session, volume, |volume| format!("volume {old} is now {}", volume.name))
}

async fn set_quota(session: &Session, arguments: SetQuotaArgs) -> Result<(), CliError> {
    let client = session.connect().await?;
    let change = |limit: Option<Limit>| limit.map(|limit| QuotaChange { limit: limit.0 });
    let request = SetQuotaRequest {
        name: arguments.name.clone(),
        bytes: change(arguments.bytes),
        inodes: change(arguments.inodes),
    };
    let action = || format!("volume set-quota {}", arguments.name);
    let volume = call(&client, Patience::Usual, action, request, async |to, request| {
        to.volumes().set_quota(request).await
    })
    .await?;
    changed(session, volume, |volume| {
        format!(
            "volume {} may store {} in {} inodes",
            volume.name,
            volume.quota_bytes.map_or("any amount".to_owned(), format_size),
            volume.quota_inodes.map_or("any number of".to_owned(), |count| count.to_string()),
        )
    })
}

fn changed(
    session: &Session,
    volume: Volume,
    text: impl FnOnce(&VolumeDocument) -> String,
) -> Result<(), CliError> {
    let document = VolumeDocument::from(volume);
    session.output.print(&document, || text(&document))
}

fn table(volumes: &[Volume], output: Output) -> String {
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("EPOCH", Align::Right),
        ("USED", Align::Right),
        ("INODES", Align::Right),
        ("QUOTA", Align::Right),
        ("PARENT", Align::Left),
        ("CREATED", Align::Left),
        ("MOUNTED AT", Align::Left),
    ]);
    let mut flagged = String::new();
    for volume in volumes {
        let created = output.time(volume.created_unix_ns);
        let volume = VolumeDocument::from(volume.clone());
        if let Some(flag) = &volume.flag {
            flagged.push_str(&format!("{} is flagged: {}\n", volume.name, printable(&flag.what)));
        }
        table.row([
            volume.name,
            volume.epoch.to_string(),
            format_size(volume.used_bytes),
            volume.used_inodes.to_string(),
            volume.quota_bytes.map_or("-".to_owned(), format_size),
            volume.parent.unwrap_or_else(|| "-".to_owned()),
            created,
            printable(&volume.mounts.join(", ")),
        ]);
    }
    table.render("no volumes; `durdir volume create NAME` or `durdir mount NAME DIR --create` makes one")
        + &flagged
}

fn details(volume: &VolumeDocument, created: &str) -> String {
    let list = |items: &[String]| match items.len() {
        0 => "none".to_owned(),
        _ => items.iter().map(|item| printable(item)).collect::<Vec<_>>().join("\n            "),
    };
    let of = |used: String, quota: Option<String>| match quota {
        Some(quota) => format!("{used} of {quota}"),
        None => used,
    };
    let bytes = of(format_size(volume.used_bytes), volume.quota_bytes.map(format_size));
    let inodes = of(volume.used_inodes.to_string(), volume.quota_inodes.map(|count| count.to_string()));
    let flag = volume.flag.as_ref().map_or(String::new(), |flag| {
        let times = if flag.count == 1 { "once".to_owned() } else { format!("{} times", flag.count) };
        format!(
            "flag        {} (since {}, {times}); `durdir fsck` looks it over\n",
            printable(&flag.what),
            flag.since
        )
    });
    format!(
        "name        {}\nid          {}\nepoch       {}\nparent      {}\ncreated     {created}\n\
         used        {bytes}\ninodes      {inodes}\nlowers      {}\nmounted at  {}\n{flag}",
        volume.name,
        volume.id,
        volume.epoch,
        volume.parent.as_deref().unwrap_or("none"),
        list(&volume.lowers),
        list(&volume.mounts),
    )
}
