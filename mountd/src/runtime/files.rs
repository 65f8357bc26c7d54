//! Files in a sandbox's directory.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::RuntimeError;
use crate::boot;

/// Writes a file.
pub(super) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<(), RuntimeError> {
    fs::write(path, content).map_err(at("write", path))
}

/// Reads a file, if there is one.
pub(super) fn read(path: &Path) -> Result<Option<String>, RuntimeError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(at("read", path)(source)),
    }
}

/// Makes a directory, and those it is in.
pub(super) fn create_directory(path: &Path) -> Result<(), RuntimeError> {
    fs::create_dir_all(path).map_err(at("create", path))
}

/// Removes a file. That there is none is no error.
pub(super) fn remove(path: &Path) -> Result<(), RuntimeError> {
    unless_absent(fs::remove_file(path), path)
}

/// Removes a directory with what is in it. That there is none is no error.
pub(super) fn remove_tree(path: &Path) -> Result<(), RuntimeError> {
    unless_absent(fs::remove_dir_all(path), path)
}

fn unless_absent(removed: io::Result<()>, path: &Path) -> Result<(), RuntimeError> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Returns what makes an error of the system's answer.
pub(super) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.to_owned();
    move |source| RuntimeError::Io { action, path, source }
}

/// Returns what tells this run of the host from any other.
pub(super) fn this_boot() -> Result<String, RuntimeError> {
    boot::this_boot().map_err(at("read", Path::new(boot::BOOT_ID)))
}

/// A directory whose files have short paths, for as long as this is held: the address of a Unix socket has room for 107 bytes.
pub(super) struct Shortcut(File);

impl Shortcut {
    /// Opens the directory.
    pub(super) fn to(directory: &Path) -> Result<Shortcut, RuntimeError> {
        File::open(directory).map(Shortcut).map_err(at("open", directory))
    }

    /// Returns a path of a file in it, which other processes may use as well.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        format!("/proc/{}/fd/{}/{name}", std::process::id(), self.0.as_raw_fd()).into()
    }
}
