//! `durdir log`.

use clap::Args;
use serde::Serialize;

use super::error::CliError;
use super::graph;
use super::output::Output;
use super::run::{Session, call};
use super::table::{Align, Table};
use crate::client::Patience;
use crate::proto::{LogEntry, LogRequest};
use crate::units::format_rfc3339;

/// Show the history of cuts and forks, newest first.
#[derive(Args, Debug)]
pub(super) struct LogArgs {
    /// Only this volume and what it was forked from
    volume: Option<String>,
    /// Draw how snapshots and volumes descend from each other
    #[arg(long)]
    graph: bool,
}

/// One element of what `log --json` prints.
#[derive(Serialize, Debug)]
struct Logged {
    volume: String,
    snapshot: String,
    name: Option<String>,
    epoch: u64,
    created: String,
    parent: Option<String>,
    forks: Vec<String>,
    head_of: Option<String>,
}

impl From<&LogEntry> for Logged {
    fn from(entry: &LogEntry) -> Logged {
        Logged {
            volume: entry.volume.clone(),
            snapshot: entry.snapshot.clone(),
            name: entry.name.clone(),
            epoch: entry.epoch,
            created: format_rfc3339(entry.created_unix_ns),
            parent: entry.parent.clone(),
            forks: entry.forks.clone(),
            head_of: entry.head_of.clone(),
        }
    }
}

pub(super) async fn log(session: &Session, arguments: LogArgs) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || match &arguments.volume {
        Some(volume) => format!("log {volume}"),
        None => "log".to_owned(),
    };
    let request = LogRequest { volume: arguments.volume.clone() };
    let answer = call(&client, Patience::Usual, action, request, async |to, request| {
        to.snapshots().log(request).await
    })
    .await?;
    let documents: Vec<Logged> = answer.entries.iter().map(Logged::from).collect();
    session.output.print(&documents, || {
        if answer.entries.is_empty() {
            "no snapshots; `durdir snapshot create VOLUME` takes one".to_owned()
        } else if arguments.graph {
            graph::draw(&answer.entries, |unix_ns| session.output.time(unix_ns))
        } else {
            table(&answer.entries, session.output)
        }
    })
}

fn table(entries: &[LogEntry], output: Output) -> String {
    let mut table = Table::new(&[
        ("SNAPSHOT", Align::Left),
        ("NAME", Align::Left),
        ("CREATED", Align::Left),
        ("PARENT", Align::Left),
        ("FOLLOWED BY", Align::Left),
    ]);
    for entry in entries {
        let mut followed: Vec<String> =
            entry.head_of.iter().map(|volume| format!("head of {volume}")).collect();
        followed.extend(entry.forks.iter().map(|volume| format!("fork {volume}")));
        table.row([
            entry.snapshot.clone(),
            entry.name.clone().unwrap_or_else(|| "-".to_owned()),
            output.time(entry.created_unix_ns),
            entry.parent.clone().unwrap_or_else(|| "-".to_owned()),
            followed.join(", "),
        ]);
    }
    table.render("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_snapshot_has_nulls_where_there_is_nothing() {
        let entry = LogEntry {
            volume: "web".to_owned(),
            snapshot: "web@1".to_owned(),
            epoch: 1,
            forks: vec!["fork".to_owned()],
            ..LogEntry::default()
        };
        let expected = serde_json::json!({
            "volume": "web", "snapshot": "web@1", "name": null, "epoch": 1,
            "created": "1970-01-01T00:00:00.000000000Z", "parent": null, "forks": ["fork"],
            "head_of": null,
        });
        assert_eq!(serde_json::to_value(Logged::from(&entry)).unwrap(), expected);
    }
}
