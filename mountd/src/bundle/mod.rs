//! The support bundle: what somebody elsewhere needs to understand a node, and nothing that is not theirs to see.
//!
//! # Overview
//! ```text
//!   /proc of the daemon's processes ─┐
//!   the host, the log ───────────────┼─▶ Bundle ──▶ one tar file
//!   doctor, stats, config, counts ───┘   (members, and why others are missing)
//! ```
//! `docs/bundle.md` lists every member. What the daemon itself tells is gathered by `cli/bundle.rs`.
//!
//! # Invariants
//! - No name of a file in a volume and no content of one is ever in it, and no value of an environment variable. What might hold one is
//!   cut, not searched for secrets: of the log only what the program itself says is kept, never what it says it about.
//! - No mount is touched, and nothing waits for a daemon that hangs.
//! - What cannot be had is no reason to fail: the bundle says what is missing, and why.

mod host;
mod log;
mod processes;
mod tar;

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

/// The directory of all members.
const TOP: &str = "durdir-bundle";

/// A file of the bundle.
struct Member {
    name: String,
    content: Vec<u8>,
}

/// What was gathered so far.
#[derive(Default)]
pub(crate) struct Bundle {
    members: Vec<Member>,
    missing: Vec<String>,
}

/// What a finished bundle holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Listed {
    /// The path in the archive.
    pub(crate) name: String,
    pub(crate) bytes: usize,
}

impl Bundle {
    /// Adds a file of text.
    pub(crate) fn text(&mut self, name: &str, content: impl Into<Vec<u8>>) {
        self.members.push(Member { name: format!("{TOP}/{name}"), content: content.into() });
    }

    /// Adds a file of JSON, for people too.
    pub(crate) fn json(&mut self, name: &str, content: &impl Serialize) {
        match serde_json::to_string_pretty(content) {
            Ok(text) => self.text(name, text + "\n"),
            Err(error) => self.missing(name, &error.to_string()),
        }
    }

    /// Notes that a file is not there, and why.
    pub(crate) fn missing(&mut self, name: &str, why: &str) {
        self.missing.push(format!("{name}: {why}"));
    }

    /// Adds what the kernel tells about the host.
    pub(crate) fn host(&mut self) {
        host::gather(self);
    }

    /// Adds what the kernel tells about a process of the daemon.
    pub(crate) fn process(&mut self, role: &str, pid: u32) {
        processes::gather(self, role, pid);
    }

    /// Adds the end of a log.
    pub(crate) fn log(&mut self, path: &std::path::Path) {
        match log::tail(path) {
            Ok(lines) => self.text("log.txt", lines),
            Err(error) => self.missing("log.txt", &error.to_string()),
        }
    }

    /// Writes everything as one archive, of which the files have this age since 1970. Returns what is in it.
    pub(crate) fn write(mut self, made: Duration, out: &mut impl Write) -> io::Result<Vec<Listed>> {
        let missing = match self.missing.as_slice() {
            [] => "Nothing is missing.\n".to_owned(),
            missing => {
                format!("Missing:\n{}", missing.iter().map(|one| format!("  {one}\n")).collect::<String>())
            }
        };
        let about = format!(
            "A support bundle of durdir {}. docs/bundle.md of durdir lists what is in it.\n\n{missing}",
            env!("CARGO_PKG_VERSION")
        );
        self.members.insert(0, Member { name: format!("{TOP}/README.txt"), content: about.into_bytes() });
        let mut archive = tar::Archive::new(out, made.as_secs());
        for Member { name, content } in &self.members {
            archive.file(name, content)?;
        }
        archive.finish()?;
        let listed =
            self.members.iter().map(|one| Listed { name: one.name.clone(), bytes: one.content.len() });
        Ok(listed.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_says_what_it_holds_and_what_is_missing() {
        let mut bundle = Bundle::default();
        bundle.json("a.json", &serde_json::json!({"x": 1}));
        bundle.missing("b.txt", "no such file");
        let mut out = Vec::new();
        let listed = bundle.write(Duration::from_secs(7), &mut out).unwrap();
        let names: Vec<&str> = listed.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["durdir-bundle/README.txt", "durdir-bundle/a.json"]);
        assert_eq!(listed[1].bytes, "{\n  \"x\": 1\n}\n".len());
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("Missing:\n  b.txt: no such file\n") && text.contains("\"x\": 1"));
    }
}
