//! Whether this program could take over a store from another version that serves it: asked by the supervisor of that
//! version before an upgrade, answered by this one on standard output.
//!
//! # Invariants
//! - Nothing is changed, and nothing is waited for: the other version has the store open, and is looked at beside it.
//! - A program that says nothing, or says something else, cannot take over.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use durdir_fs::fuse::SESSION_MEMORY_VERSION;
use durdir_fs::store::{FORMAT_VERSION, StoreError};
use serde::{Deserialize, Serialize};

use super::arguments::Arguments;
use super::start::StartError;
use crate::exit::ExitClass;
use crate::supervisor::STATE_VERSION;

/// Variables in which the other version tells what it will hand on.
const SESSION_MEMORY: &str = "DURDIR_SESSION_MEMORY";
const SUPERVISOR_STATE: &str = "DURDIR_SUPERVISOR_STATE";

/// What a program that could take over says of itself.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Abilities {
    pub(crate) version: String,
    /// The newest format of a store that it reads.
    format: u32,
    session_memory: u32,
    supervisor_state: u32,
}

/// Why this program cannot take over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelfCheckError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} does not tell the format of a store", path.display())]
    NoFormat { path: PathBuf },
    #[error("the store has format {found}; this mountd reads up to {supported}")]
    NewerFormat { found: u32, supported: u32 },
    #[error("open the store {} beside the mountd that has it", store.display())]
    Open { store: PathBuf, source: StoreError },
    #[error("this mountd would not understand the store: {unknown}")]
    NewerRecord { unknown: String },
    #[error("it would be handed {what} of version {found}; this mountd understands {supported}")]
    OtherVersion { what: &'static str, found: String, supported: u32 },
    #[error("write to standard output")]
    Output { source: std::io::Error },
}

impl SelfCheckError {
    pub(crate) fn exit_class(&self) -> ExitClass {
        match self {
            SelfCheckError::NewerFormat { .. }
            | SelfCheckError::NewerRecord { .. }
            | SelfCheckError::OtherVersion { .. } => ExitClass::Refused,
            SelfCheckError::Open { source, .. } if source.is_corruption() => ExitClass::Integrity,
            SelfCheckError::Open { .. } => ExitClass::Failed,
            SelfCheckError::NoFormat { .. } => ExitClass::Integrity,
            SelfCheckError::Read { .. } | SelfCheckError::Output { .. } => ExitClass::Failed,
        }
    }
}

impl Abilities {
    fn own() -> Abilities {
        Abilities {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            format: FORMAT_VERSION,
            session_memory: SESSION_MEMORY_VERSION,
            supervisor_state: STATE_VERSION,
        }
    }

    /// Returns what a program said; `None` if that is not what one says that could take over.
    pub(crate) fn parse(report: &str) -> Option<Abilities> {
        serde_json::from_str(report).ok()
    }
}

/// Returns the variables that tell another version what it would have to understand.
pub(crate) fn questions() -> [(&'static str, String); 2] {
    [(SESSION_MEMORY, SESSION_MEMORY_VERSION.to_string()), (SUPERVISOR_STATE, STATE_VERSION.to_string())]
}

/// Checks, and says what this program can do.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, StartError> {
    check_handover(|name| std::env::var(name).ok())?;
    if let Some(store) = &arguments.store {
        check_format(store)?;
        check_records(store)?;
    }
    let report = serde_json::to_string(&Abilities::own()).map_err(std::io::Error::from);
    report
        .and_then(|line| std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes()))
        .map_err(|source| SelfCheckError::Output { source })?;
    Ok(ExitCode::SUCCESS)
}

fn check_handover(var: impl Fn(&str) -> Option<String>) -> Result<(), SelfCheckError> {
    let handed = [
        ("sessions", SESSION_MEMORY, SESSION_MEMORY_VERSION),
        ("a supervisor's state", SUPERVISOR_STATE, STATE_VERSION),
    ];
    for (what, variable, supported) in handed {
        if let Some(found) = var(variable)
            && found != supported.to_string()
        {
            return Err(SelfCheckError::OtherVersion { what, found, supported });
        }
    }
    Ok(())
}

/// Refuses a store that a newer version has written. `docs/on-disk.md` has the line.
fn check_format(store: &Path) -> Result<(), SelfCheckError> {
    let path = store.join("FORMAT");
    let text = std::fs::read_to_string(&path)
        .map_err(|source| SelfCheckError::Read { path: path.clone(), source })?;
    let found = text.strip_prefix("durdir store format ").and_then(|version| version.trim().parse().ok());
    match found {
        None => Err(SelfCheckError::NoFormat { path }),
        Some(found) if found > FORMAT_VERSION => {
            Err(SelfCheckError::NewerFormat { found, supported: FORMAT_VERSION })
        }
        Some(_) => Ok(()),
    }
}

/// Refuses a store with records that this version does not know. What cannot be read at all is no reason: the other version
/// cannot read it either.
fn check_records(store: &Path) -> Result<(), SelfCheckError> {
    match durdir_fs::store::unknown_records(store) {
        Ok(unknown) => match unknown.into_iter().next() {
            None => check_documents(store),
            Some(unknown) => Err(SelfCheckError::NewerRecord { unknown }),
        },
        Err(source) => Err(SelfCheckError::Open { store: store.to_owned(), source }),
    }
}

/// The same for what is in the records of actors and captures, which the store itself does not look at.
fn check_documents(store: &Path) -> Result<(), SelfCheckError> {
    let records = durdir_fs::store::actor_records(store)
        .map_err(|source| SelfCheckError::Open { store: store.to_owned(), source })?;
    match crate::actor::newer_document(&records) {
        None => Ok(()),
        Some(unknown) => Err(SelfCheckError::NewerRecord { unknown }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_mountd_says_counts() {
        let line = serde_json::to_string(&Abilities::own()).unwrap();
        assert_eq!(Abilities::parse(&format!("{line}\n")), Some(Abilities::own()));
        for other in ["", "ok", "{}", r#"{"version":"1"}"#] {
            assert_eq!(Abilities::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_store_that_this_version_made_is_readable_and_a_newer_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let options = durdir_fs::store::StoreOptions { background: false, ..Default::default() };
        durdir_fs::store::Store::open(dir.path(), &options).unwrap().close().unwrap();
        check_format(dir.path()).unwrap();
        check_records(dir.path()).unwrap();
        let newer = format!("durdir store format {}\n", FORMAT_VERSION + 1);
        std::fs::write(dir.path().join("FORMAT"), newer).unwrap();
        assert_eq!(check_format(dir.path()).unwrap_err().exit_class(), ExitClass::Refused);
        std::fs::write(dir.path().join("FORMAT"), "?").unwrap();
        assert_eq!(check_format(dir.path()).unwrap_err().exit_class(), ExitClass::Integrity);
        std::fs::remove_file(dir.path().join("db/CURRENT")).unwrap();
        assert!(matches!(check_records(dir.path()), Err(SelfCheckError::Open { .. })));
    }

    #[test]
    fn a_store_with_an_actor_of_a_newer_version_is_refused() {
        use durdir_fs::store::{ActorChange, Durability, Receipt, record};
        let dir = tempfile::tempdir().unwrap();
        let options = durdir_fs::store::StoreOptions { background: false, ..Default::default() };
        let store = durdir_fs::store::Store::open(dir.path(), &options).unwrap();
        let put = |document: &str| {
            let (created, volumes) = (durdir_fs::attr::Timestamp::default(), Vec::new());
            let actor = record::Actor { created, volumes, document: document.as_bytes().to_vec() };
            let change = ActorChange { actors: vec![("a", Some(&actor))], captures: Vec::new() };
            store.change_actors(&change, Durability::Disk, Receipt::none(), &()).unwrap();
        };
        // What nobody can read is no reason.
        put("{");
        check_records(dir.path()).unwrap();
        put(r#"{"version": 2, "what": "is not known yet"}"#);
        let refused = check_records(dir.path()).unwrap_err();
        assert_eq!(refused.exit_class(), ExitClass::Refused);
        assert!(refused.to_string().contains("actor a"), "{refused}");
        store.close().unwrap();
    }

    #[test]
    fn what_would_not_be_understood_is_refused() {
        let with = |name: &'static str, value: u32| {
            check_handover(move |asked| (asked == name).then(|| value.to_string()))
        };
        check_handover(|_| None).unwrap();
        with(SESSION_MEMORY, SESSION_MEMORY_VERSION).unwrap();
        assert!(with(SESSION_MEMORY, SESSION_MEMORY_VERSION + 1).is_err());
        assert!(with(SUPERVISOR_STATE, 0).is_err());
    }
}
