//! The host, as the kernel tells of it.

use std::fs;
use std::path::Path;

use super::Bundle;

/// What is asked for, and under which name it is kept.
const FILES: [(&str, &str); 8] = [
    ("version", "/proc/version"),
    ("uptime", "/proc/uptime"),
    ("loadavg", "/proc/loadavg"),
    ("meminfo", "/proc/meminfo"),
    ("filesystems", "/proc/filesystems"),
    ("pressure-cpu", "/proc/pressure/cpu"),
    ("pressure-io", "/proc/pressure/io"),
    ("pressure-memory", "/proc/pressure/memory"),
];

/// Adds it.
pub(super) fn gather(bundle: &mut Bundle) {
    for (name, path) in FILES {
        let name = format!("host/{name}");
        match fs::read_to_string(path) {
            Ok(text) => bundle.text(&name, text),
            Err(error) => bundle.missing(&name, &error.to_string()),
        }
    }
    match connections(Path::new("/sys/fs/fuse/connections")) {
        Ok(text) => bundle.text("host/fuse-connections", text),
        Err(error) => bundle.missing("host/fuse-connections", &error.to_string()),
    }
}

/// How many requests of each FUSE connection wait. Whose they are is in `mounts.txt`.
fn connections(root: &Path) -> std::io::Result<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(root)?.flatten() {
        // Gone meanwhile, or of a file system that is not mounted.
        let Ok(waiting) = fs::read_to_string(entry.path().join("waiting")) else { continue };
        lines.push(format!("{} waiting {}\n", entry.file_name().to_string_lossy(), waiting.trim()));
    }
    lines.sort();
    Ok(lines.concat())
}
