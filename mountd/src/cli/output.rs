//! Standard output: text for people, or one JSON document.

use std::io::{self, IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::error::CliError;
use crate::units::{format_ago, format_second};

/// How a command tells what it has to tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
    /// Whether a person is reading along. Otherwise times are absolute and nothing moves.
    terminal: bool,
    now_unix_ns: i64,
}

impl Output {
    /// Writes to standard output.
    pub(super) fn new(json: bool) -> Output {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Output {
            json,
            terminal: io::stdout().is_terminal(),
            now_unix_ns: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
        }
    }

    /// Prints the document with `--json`, else what `text` says.
    pub(super) fn print<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        let mut out = if self.json {
            let json = serde_json::to_string(document);
            json.map_err(|error| CliError::Output(error.into()))?
        } else {
            text()
        };
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush()).map_err(CliError::Output)
    }

    /// As [`Self::print`], for what is shown again and again: on a terminal in the same place.
    pub(super) fn refresh<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        let clear = if self.terminal { "\x1b[H\x1b[J" } else { "" };
        self.print(document, || format!("{clear}{}", text()))
    }

    /// Returns whether JSON was asked for.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Returns a moment for people: relative where a person reads along.
    pub(super) fn time(&self, unix_ns: i64) -> String {
        if self.terminal { format_ago(unix_ns, self.now_unix_ns) } else { format_second(unix_ns) }
    }
}

/// Shows on a terminal that something takes long, and for how long by now.
pub(super) async fn with_progress<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    if !io::stderr().is_terminal() {
        return work.await;
    }
    let begun = std::time::Instant::now();
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(250));
    let mut shown = false;
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = ticks.tick() => {
                let seconds = begun.elapsed().as_secs();
                if seconds >= 1 {
                    shown = true;
                    eprint!("\r{what} … {seconds} s");
                }
            }
        }
    };
    if shown {
        eprint!("\r\x1b[K");
    }
    done
}
