//! What unit tests of several modules need.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a program that can be run at once. Another process writes it: whatever a thread of this one starts meanwhile has copies of all that is
/// open here, and a file that somebody has open for writing is not executed (ETXTBSY).
#[track_caller]
pub(crate) fn write_program(to: &Path, content: &[u8]) {
    let mut writer = Command::new("/bin/sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(to)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdin.take().unwrap().write_all(content).unwrap();
    assert!(writer.wait().unwrap().success(), "cannot write {}", to.display());
}
