//! The version of a store, in a file of its own: it is read before anything else is touched.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::error::StoreError;

/// The format this durdir writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

const PREFIX: &str = "durdir store format ";

/// Refuses a store that a newer durdir wrote; marks a new one.
pub(crate) fn check(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join("FORMAT");
    let io = |action, source| StoreError::Io { action, path: path.clone(), source };
    match check_existing(dir) {
        Err(StoreError::Io { source: error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
            if dir.join("db").exists() {
                return Err(StoreError::Corrupt { what: format!("{}: missing", path.display()) });
            }
            let temporary = dir.join("FORMAT.new");
            let mut file = File::create(&temporary).map_err(|source| io("create", source))?;
            writeln!(file, "{PREFIX}{FORMAT_VERSION}").map_err(|source| io("write", source))?;
            file.sync_all().map_err(|source| io("sync", source))?;
            std::fs::rename(&temporary, &path).map_err(|source| io("rename", source))?;
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| io("sync", source))
        }
        checked => checked,
    }
}

/// Refuses a store that a newer durdir wrote, and what is no store.
pub fn check_existing(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join("FORMAT");
    let text = std::fs::read_to_string(&path).map_err(|source| StoreError::Io {
        action: "read",
        path: path.clone(),
        source,
    })?;
    let found = text.strip_prefix(PREFIX).and_then(|version| version.trim().parse().ok());
    match found {
        Some(found) if found > FORMAT_VERSION => {
            Err(StoreError::NewerFormat { dir: dir.to_owned(), found, supported: FORMAT_VERSION })
        }
        Some(_) => Ok(()),
        None => Err(StoreError::Corrupt { what: format!("{}: not a store's format file", path.display()) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_store_is_refused_and_a_new_one_is_marked() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path()).unwrap();
        check(dir.path()).unwrap();
        std::fs::write(dir.path().join("FORMAT"), "durdir store format 2\n").unwrap();
        assert!(matches!(check(dir.path()), Err(StoreError::NewerFormat { found: 2, .. })));
        std::fs::write(dir.path().join("FORMAT"), "hello").unwrap();
        assert!(matches!(check(dir.path()), Err(StoreError::Corrupt { .. })));
    }
}
