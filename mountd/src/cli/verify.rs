//! `durdir verify`: whether the disk still has what was written.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::check::{FoundIssue, issue_line};
use super::error::CliError;
use super::output::Progress;
use super::run::{Session, call_quietly};
use crate::client::{Client, Patience};
use crate::exit::ExitClass;
use crate::proto::{GetStatsRequest, VerifyRequest, VerifyResponse};
use crate::units::format_size;

/// How large a page is.
const PAGE_BYTES: u64 = 4096;

/// How often is asked how far it is.
const ASKED_EVERY: Duration = Duration::from_millis(500);

/// Read what is stored, and compare it with its checksums. Programs may go on.
#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// Read only about this share of the file data, chosen by chance anew each time: 10%, 0.5%
    #[arg(long, value_name = "N%", value_parser = parse_sample)]
    sample: Option<u32>,
}

/// Reads a share as so many of a million.
fn parse_sample(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no share; write a percentage from 0% to 100%: 10%, 0.5%");
    let number = text.strip_suffix('%').ok_or_else(wrong)?;
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(wrong());
    }
    let percent: f64 = number.parse().map_err(|_| wrong())?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(wrong());
    }
    // At most a million, and not negative.
    Ok((percent * 10_000.0).round() as u32)
}

/// What `verify --json` prints: what `fsck --json` does, and how much was read.
#[derive(Serialize, Debug)]
struct Verified {
    clean: bool,
    issues: Vec<FoundIssue>,
    /// Issues that are not listed, for there are too many of their kind.
    omitted: u64,
    records: u64,
    pages: u64,
    bytes: u64,
}

impl From<VerifyResponse> for Verified {
    fn from(answer: VerifyResponse) -> Verified {
        let VerifyResponse { issues, omitted, records, pages } = answer;
        let issues: Vec<FoundIssue> = issues.into_iter().map(FoundIssue::from).collect();
        let clean = issues.is_empty();
        Verified { clean, issues, omitted, records, pages, bytes: pages * PAGE_BYTES }
    }
}

pub(super) async fn verify(session: &Session, arguments: VerifyArgs) -> Result<(), CliError> {
    let client = session.connect().await?;
    let request = VerifyRequest { sample_per_million: arguments.sample };
    let reading = call_quietly(
        &client,
        Patience::Unlimited,
        || "verify".to_owned(),
        request,
        async |to, request| to.node().verify(request).await,
    );
    let document = Verified::from(with_pages_left(&client, reading).await?);
    session.output.print(&document, || {
        let mut out: String = document.issues.iter().map(issue_line).collect();
        if document.omitted > 0 {
            out.push_str(&format!("{} more\n", document.omitted));
        }
        let (records, bytes) = (document.records, format_size(document.bytes));
        let clean = if document.clean { "clean: " } else { "" };
        out.push_str(&format!("{clean}{records} records and {bytes} of file data read\n"));
        out
    })?;
    if document.clean {
        return Ok(());
    }
    let found = u64::try_from(document.issues.len()).unwrap_or(u64::MAX) + document.omitted;
    Err(CliError::Found { what: format!("verify: {found} issues found"), exit: ExitClass::Integrity })
}

/// Waits, and tells on a terminal how much there is left to read.
async fn with_pages_left<T>(client: &Client, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut progress = Progress::new("verifying");
    if !progress.is_shown() {
        return work.await;
    }
    let begun = Instant::now();
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(ASKED_EVERY) => {}
        }
        if begun.elapsed() < Duration::from_secs(1) {
            continue;
        }
        let asking = client.call(Patience::Usual, GetStatsRequest::default(), async |to, request| {
            to.node().get_stats(request).await
        });
        let left = tokio::select! {
            done = &mut work => return done,
            answer = asking => answer.ok().and_then(|stats| {
                stats.counters.into_iter().find(|counter| counter.name == "verify_pages_left")
            }),
        };
        progress.show(
            &left.map_or(String::new(), |left| format!(", {} to go", format_size(left.value * PAGE_BYTES))),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::Issue;

    #[test]
    fn shares_are_percentages() {
        for (text, per_million) in
            [("100%", 1_000_000), ("10%", 100_000), ("0.5%", 5_000), ("0%", 0), ("33.3333%", 333_333)]
        {
            assert_eq!(parse_sample(text), Ok(per_million), "{text}");
        }
        for text in ["", "%", "10", "-1%", "+1%", "100.1%", "1e1%", "inf%", "nan%", "ten%", "1.2.3%", "10 %"]
        {
            assert!(parse_sample(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_document_has_the_shape_of_fsck() {
        let issue = Issue { kind: "wrong-checksum".to_owned(), detail: "x".to_owned(), ..Issue::default() };
        let answer = VerifyResponse { issues: vec![issue], omitted: 2, records: 3, pages: 4 };
        let expected = json!({
            "clean": false,
            "issues": [{
                "kind": "wrong-checksum", "volume": null, "inode": null, "path": null, "path_hex": null, "detail": "x",
                "repaired": false, "repairable": false,
            }],
            "omitted": 2, "records": 3, "pages": 4, "bytes": 16384,
        });
        assert_eq!(serde_json::to_value(Verified::from(answer)).unwrap(), expected);
    }
}
