//! Processes of the daemon, as `/proc` shows them.
//!
//! What a process has open is counted by kind and not named: a daemon has files of lowers open.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::Bundle;

/// Files of `/proc/PID` that hold numbers, and names of the process itself.
const FILES: [&str; 7] = ["status", "stat", "limits", "io", "wchan", "oom_score", "cgroup"];

/// Adds what is known of a process.
pub(super) fn gather(bundle: &mut Bundle, role: &str, pid: u32) {
    let root = PathBuf::from(format!("/proc/{pid}"));
    for file in FILES {
        let name = format!("processes/{role}/{file}");
        match fs::read_to_string(root.join(file)) {
            Ok(text) => bundle.text(&name, text),
            Err(error) => bundle.missing(&name, &error.to_string()),
        }
    }
    type Told = (&'static str, fn(&Path) -> std::io::Result<String>);
    let told: [Told; 4] = [
        ("cmdline", command_line),
        ("environment", environment),
        ("descriptors", descriptors),
        ("threads", threads),
    ];
    for (file, tell) in told {
        let name = format!("processes/{role}/{file}");
        match tell(&root) {
            Ok(text) => bundle.text(&name, text),
            Err(error) => bundle.missing(&name, &error.to_string()),
        }
    }
}

fn command_line(root: &Path) -> std::io::Result<String> {
    let words = fs::read(root.join("cmdline"))?;
    let words = words.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    Ok(words.map(|word| format!("{}\n", String::from_utf8_lossy(word))).collect())
}

/// Names only: values are nobody's business, and may be credentials.
fn environment(root: &Path) -> std::io::Result<String> {
    let block = fs::read(root.join("environ"))?;
    Ok(names_of(&block).into_iter().map(|name| format!("{name}=(redacted)\n")).collect())
}

fn names_of(block: &[u8]) -> Vec<String> {
    let mut names: Vec<String> = block
        .split(|byte| *byte == 0)
        // What is no assignment has no name that could be told.
        .filter_map(|entry| entry.split_at_checked(entry.iter().position(|byte| *byte == b'=')?))
        .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
        .collect();
    names.sort();
    names
}

fn descriptors(root: &Path) -> std::io::Result<String> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for entry in fs::read_dir(root.join("fd"))?.flatten() {
        // Closed meanwhile.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        *kinds.entry(kind_of(&target)).or_default() += 1;
    }
    Ok(kinds.into_iter().map(|(kind, count)| format!("{count:6} {kind}\n")).collect())
}

/// `socket:[123]` is a socket, `/dev/fuse` itself, any other path a file.
fn kind_of(target: &Path) -> String {
    let text = target.to_string_lossy();
    match text.split_once(":[") {
        _ if text == "/dev/fuse" || text == "/dev/null" => text.into_owned(),
        _ if text.starts_with("/memfd:") => "memfd".to_owned(),
        _ if text.starts_with('/') => "file".to_owned(),
        Some((kind, _)) => kind.to_owned(),
        None => text.strip_prefix("anon_inode:").map_or("other".to_owned(), str::to_owned),
    }
}

/// The name, state and place in the kernel of each thread.
fn threads(root: &Path) -> std::io::Result<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(root.join("task"))?.flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let status = read("status");
        let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("?");
        let (id, name) = (entry.file_name(), read("comm"));
        lines.push(format!(
            "{:>8} {:16} {:16} {}\n",
            id.to_string_lossy(),
            name.trim_end(),
            state.trim(),
            read("wchan")
        ));
    }
    lines.sort();
    Ok(lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_environment_only_names_are_kept() {
        let block = b"PATH=/bin\0TOKEN=secret=x\0\0no assignment\0=x\0EMPTY=\0";
        assert_eq!(names_of(block), ["", "EMPTY", "PATH", "TOKEN"]);
    }

    #[test]
    fn descriptors_are_kinds() {
        for (target, kind) in [
            ("socket:[123]", "socket"),
            ("pipe:[9]", "pipe"),
            ("anon_inode:[eventpoll]", "anon_inode"),
            ("anon_inode:inotify", "inotify"),
            ("/dev/fuse", "/dev/fuse"),
            ("/memfd:session (deleted)", "memfd"),
            ("/home/agent/secret", "file"),
            ("/a:[b]", "file"),
        ] {
            assert_eq!(kind_of(Path::new(target)), kind, "{target}");
        }
    }

    #[test]
    fn this_process_can_be_described() {
        let mut bundle = Bundle::default();
        gather(&mut bundle, "own", std::process::id());
        let named = |name: &str| {
            let member = bundle.members.iter().find(|member| member.name.ends_with(name));
            String::from_utf8_lossy(&member.unwrap_or_else(|| panic!("{name}")).content).into_owned()
        };
        assert!(named("own/status").contains("VmRSS") && named("own/descriptors").contains("file"));
        assert!(named("own/threads").lines().count() > 1);
        assert!(!named("own/environment").is_empty());
        gather(&mut bundle, "none", 0);
        assert!(bundle.missing.iter().any(|missing| missing.starts_with("processes/none/status: ")));
    }
}
