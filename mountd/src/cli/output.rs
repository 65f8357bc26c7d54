//! Standard output: text for people, or one JSON document.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::error::CliError;
use crate::exit::printable;
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

    /// Prints the document with `--json`, else what `text` says. Whoever has read enough of it may close the pipe: `durdir volume ls |
    /// head -1`. The outcome of the command is the same.
    pub(super) fn print<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        match self.write(document, text) {
            Err(error) if error.is_reader_gone() => Ok(()),
            written => written,
        }
    }

    fn write<T: Serialize>(&self, document: &T, text: impl FnOnce() -> String) -> Result<(), CliError> {
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

    /// As [`Self::print`], for what is shown again and again, on a terminal in the same place, for as long as anybody reads.
    pub(super) fn refresh<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        let clear = if self.terminal { "\x1b[H\x1b[J" } else { "" };
        self.write(document, || format!("{clear}{}", text()))
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

/// How many characters of what takes long are shown.
const MOST_SHOWN: usize = 50;

/// A line on standard error, where a person sees it, that something takes long.
pub(super) struct Progress {
    what: String,
    terminal: bool,
    begun: Instant,
    shown: bool,
}

impl Progress {
    /// Nothing is shown yet.
    pub(super) fn new(what: &str) -> Progress {
        let terminal = io::stderr().is_terminal();
        let what = shortened(what);
        Progress { what, terminal, begun: Instant::now(), shown: false }
    }

    /// Tells whether anything will ever be shown.
    pub(super) fn is_shown(&self) -> bool {
        self.terminal
    }

    /// Shows how long it takes by now, and more. What takes less than a second is not worth it.
    pub(super) fn show(&mut self, more: &str) {
        let seconds = self.begun.elapsed().as_secs();
        if self.terminal && seconds >= 1 {
            self.shown = true;
            // Where nobody reads it, nobody misses it.
            write!(io::stderr(), "\r\x1b[K{} … {seconds} s{more}", self.what).ok();
        }
    }
}

/// Returns a text as it fits a line with room for more: a line that wraps could not be cleared.
fn shortened(what: &str) -> String {
    let what = printable(what);
    if what.chars().count() <= MOST_SHOWN {
        return what;
    }
    what.chars().take(MOST_SHOWN).collect()
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            write!(io::stderr(), "\r\x1b[K").ok();
        }
    }
}

/// Shows on a terminal that something takes long, and for how long by now.
pub(super) async fn with_progress<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut progress = Progress::new(what);
    if !progress.is_shown() {
        return work.await;
    }
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => progress.show(""),
        }
    }
}
