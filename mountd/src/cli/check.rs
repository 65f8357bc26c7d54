//! `durdir fsck` and `durdir gc`: the health and the space of the store.

use clap::Args;
use serde::Serialize;

use super::document::{hex_unless_text, text};
use super::error::{CliError, check_store};
use super::output::with_progress;
use super::run::{Session, call};
use crate::api::check_offline;
use crate::client::Patience;
use crate::exit::{ExitClass, printable};
use crate::proto::{CheckRequest, CheckResponse, CollectGarbageRequest, CollectGarbageResponse, Issue};
use crate::units::format_size;

/// Check every invariant of the store. Programs may go on.
#[derive(Args, Debug)]
pub(super) struct FsckArgs {
    /// Repair what can be repaired without guessing
    #[arg(long)]
    repair: bool,
    /// Open the store without a mountd; none may run on it
    #[arg(long)]
    offline: bool,
}

/// Free the space of what was removed now, instead of in the background.
#[derive(Args, Debug)]
pub(super) struct GcArgs {
    /// Only tell how much that is
    #[arg(long)]
    dry_run: bool,
}

/// What `fsck --json` prints.
#[derive(Serialize, Debug)]
struct Checked {
    clean: bool,
    issues: Vec<FoundIssue>,
    records: u64,
}

/// An issue, as `fsck --json` and `verify --json` print it.
#[derive(Serialize, Debug)]
pub(super) struct FoundIssue {
    kind: String,
    volume: Option<String>,
    inode: Option<u64>,
    path: Option<String>,
    /// The exact bytes of `path` in hexadecimal, where they are no text.
    path_hex: Option<String>,
    detail: String,
    repaired: bool,
    repairable: bool,
}

impl From<Issue> for FoundIssue {
    fn from(issue: Issue) -> FoundIssue {
        FoundIssue {
            kind: issue.kind,
            volume: issue.volume,
            inode: issue.inode,
            path: issue.path.as_deref().map(text),
            path_hex: issue.path.as_deref().and_then(hex_unless_text),
            detail: issue.detail,
            repaired: issue.repaired,
            repairable: issue.repairable,
        }
    }
}

impl From<CheckResponse> for Checked {
    fn from(answer: CheckResponse) -> Checked {
        let issues: Vec<FoundIssue> = answer.issues.into_iter().map(FoundIssue::from).collect();
        Checked { clean: issues.is_empty(), issues, records: answer.records }
    }
}

pub(super) async fn fsck(session: &Session, arguments: FsckArgs) -> Result<(), CliError> {
    let FsckArgs { repair, offline } = arguments;
    let answer = if offline {
        let store = session.endpoint()?.store;
        // Opening would make one.
        check_store(&store)?;
        let action = format!("fsck --offline {}", store.display());
        let checking = tokio::task::spawn_blocking(move || check_offline(&store, repair));
        let checked = with_progress("checking", checking).await;
        checked
            .map_err(|error| CliError::Runtime(error.into()))?
            .map_err(|source| CliError::Store { action, source })?
    } else {
        let client = session.connect().await?;
        let request = CheckRequest { repair };
        let checking = call(
            &client,
            Patience::Unlimited,
            || "fsck".to_owned(),
            request,
            async |to, request| to.node().check(request).await,
        );
        checking.await?
    };
    let document = Checked::from(answer);
    session.output.print(&document, || {
        let mut out = String::new();
        for issue in &document.issues {
            out.push_str(&issue_line(issue));
        }
        if document.clean {
            out.push_str(&format!("clean: {} records checked\n", document.records));
        }
        out
    })?;
    if document.clean {
        return Ok(());
    }
    Err(CliError::Found { what: summary(&document.issues, repair), exit: ExitClass::Integrity })
}

/// Returns one line about what was found, and what can be done.
fn summary(issues: &[FoundIssue], repair: bool) -> String {
    let all = issues.len();
    let count = |wanted: fn(&FoundIssue) -> bool| issues.iter().filter(|issue| wanted(issue)).count();
    let (repaired, repairable) = (count(|issue| issue.repaired), count(|issue| issue.repairable));
    let found = if all == 1 { "fsck: 1 issue found".to_owned() } else { format!("fsck: {all} issues found") };
    match (repair, repairable, all - repaired) {
        (true, _, 0) => format!("{found} and repaired"),
        (true, _, left) if left < all => format!("{found}, {left} cannot be repaired"),
        (true, ..) | (false, 0, _) => format!("{found}, which cannot be repaired"),
        (false, some, _) if some < all => format!("{found}; --repair can repair {some}"),
        (false, ..) => format!("{found}; --repair can repair {}", if all == 1 { "it" } else { "them" }),
    }
}

/// `extent-overlap: web: inode 42: a/b: pages 3 to 5 (repaired)`
pub(super) fn issue_line(issue: &FoundIssue) -> String {
    let mut parts = vec![issue.kind.clone()];
    parts.extend(issue.volume.clone());
    parts.extend(issue.inode.map(|inode| format!("inode {inode}")));
    parts.extend(issue.path.clone());
    parts.push(issue.detail.clone());
    let repaired = if issue.repaired { " (repaired)" } else { "" };
    format!("{}{repaired}\n", printable(&parts.join(": ")))
}

/// What `gc --json` prints.
#[derive(Serialize, Debug)]
struct Collected {
    dry_run: bool,
    bytes: u64,
    versions: u64,
    segments: u64,
}

impl Collected {
    fn new(dry_run: bool, answer: &CollectGarbageResponse) -> Collected {
        let dropped = |name: &str| {
            let counters = answer.dropped.iter().filter(|counter| counter.name == name);
            counters.map(|counter| counter.value).sum()
        };
        Collected {
            dry_run,
            bytes: answer.bytes,
            versions: dropped("versions"),
            segments: dropped("segments"),
        }
    }
}

pub(super) async fn gc(session: &Session, arguments: GcArgs) -> Result<(), CliError> {
    let GcArgs { dry_run } = arguments;
    let client = session.connect().await?;
    let request = CollectGarbageRequest { dry_run };
    let collecting = call(
        &client,
        Patience::Unlimited,
        || "gc".to_owned(),
        request,
        async |to, request| to.node().collect_garbage(request).await,
    );
    let answer = collecting.await?;
    let document = Collected::new(dry_run, &answer);
    session.output.print(&document, || {
        let freed = if dry_run { "would free" } else { "freed" };
        let (bytes, versions) = (format_size(document.bytes), document.versions);
        format!("{freed} {bytes} of file data and {versions} old versions of records")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_check_has_the_pinned_fields_with_nulls() {
        let answer = CheckResponse {
            issues: vec![Issue {
                kind: "orphan".to_owned(),
                volume: Some("web".to_owned()),
                detail: "x".to_owned(),
                repaired: true,
                repairable: true,
                ..Issue::default()
            }],
            records: 3,
        };
        let expected = json!({
            "clean": false,
            "issues": [{
                "kind": "orphan", "volume": "web", "inode": null, "path": null, "path_hex": null, "detail": "x",
                "repaired": true, "repairable": true,
            }],
            "records": 3,
        });
        assert_eq!(serde_json::to_value(Checked::from(answer)).unwrap(), expected);
        let odd = FoundIssue::from(Issue { path: Some(b"a\xff".to_vec()), ..Issue::default() });
        assert_eq!(odd.path_hex.as_deref(), Some("61ff"));
        let clean = Checked::from(CheckResponse::default());
        assert!(clean.clean);
    }

    #[test]
    fn a_repair_is_offered_where_there_is_something_to_be_repaired() {
        let said = |issues: &[(bool, bool)], repair| {
            let found = issues.iter().map(|&(repairable, repaired)| {
                FoundIssue::from(Issue { repairable, repaired, ..Issue::default() })
            });
            summary(&found.collect::<Vec<_>>(), repair)
        };
        let (open, hopeless, mended) = ((true, false), (false, false), (true, true));
        for (issues, repair, line) in [
            (&[open][..], false, "fsck: 1 issue found; --repair can repair it"),
            (&[open, open], false, "fsck: 2 issues found; --repair can repair them"),
            (&[open, hopeless], false, "fsck: 2 issues found; --repair can repair 1"),
            (&[hopeless], false, "fsck: 1 issue found, which cannot be repaired"),
            (&[hopeless, hopeless], false, "fsck: 2 issues found, which cannot be repaired"),
            (&[mended], true, "fsck: 1 issue found and repaired"),
            (&[mended, hopeless], true, "fsck: 2 issues found, 1 cannot be repaired"),
            (&[hopeless], true, "fsck: 1 issue found, which cannot be repaired"),
        ] {
            assert_eq!(said(issues, repair), line);
        }
    }

    #[test]
    fn an_issue_is_one_line() {
        let issue = FoundIssue {
            kind: "extent-overlap".to_owned(),
            volume: Some("web".to_owned()),
            inode: Some(42),
            path: None,
            path_hex: None,
            detail: "pages\n3".to_owned(),
            repaired: false,
            repairable: false,
        };
        assert_eq!(issue_line(&issue), "extent-overlap: web: inode 42: pages\\n3\n");
    }
}
