//! How identities stand in the JSON that is stored: as people write them. And names of volumes that are not for people to give.

use durdir_fs::FsError;
use durdir_fs::ids::CaptureId;

/// How the names of volumes that stand for those of commits begin.
const RESERVED: &str = "_commit.";

/// Refuses a name for a new volume that looks like one of a commit.
pub(crate) fn check_not_reserved(volume: &str) -> Result<(), FsError> {
    if volume.starts_with(RESERVED) {
        let why = "names that begin with _commit. are reserved for the volumes of commits";
        return Err(FsError::BadName { name: volume.to_owned(), why });
    }
    Ok(())
}

/// Reads a capture's id as people write it.
pub(crate) fn parse_capture_id(text: &str) -> Option<CaptureId> {
    uuid::Uuid::try_parse(text).ok().map(|id| CaptureId(id.into_bytes()))
}

macro_rules! stored_as {
    ($module:ident, $type:ty, $stored:ty, $write:expr, $read:expr) => {
        pub(super) mod $module {
            use serde::{Deserialize, Deserializer, Serialize, Serializer};

            pub(crate) fn serialize<S: Serializer>(value: &$type, to: S) -> Result<S::Ok, S::Error> {
                let write: fn(&$type) -> $stored = $write;
                write(value).serialize(to)
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                let stored = <$stored>::deserialize(from)?;
                let read: fn(&$stored) -> Option<$type> = $read;
                read(&stored).ok_or_else(|| serde::de::Error::custom(stringify!($module)))
            }
        }
    };
}

stored_as!(capture_id, durdir_fs::ids::CaptureId, String, |id| id.to_string(), |text| {
    crate::actor::names::parse_capture_id(text)
});
stored_as!(
    optional_capture_id,
    Option<durdir_fs::ids::CaptureId>,
    Option<String>,
    |id| id.map(|id| id.to_string()),
    |text| match text {
        None => Some(None),
        Some(text) => crate::actor::names::parse_capture_id(text).map(Some),
    }
);
stored_as!(scope, crate::template::Scope, String, |scope| scope.name().to_owned(), |name| {
    crate::template::Scope::from_name(name)
});
stored_as!(volume_id, durdir_fs::ids::VolumeId, u32, |id| id.0, |id| Some(durdir_fs::ids::VolumeId(*id)));
stored_as!(epoch, durdir_fs::ids::Epoch, u64, |epoch| epoch.0, |epoch| Some(durdir_fs::ids::Epoch(*epoch)));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::capture::published_name;

    #[test]
    fn what_stands_for_a_commit_is_called_as_nothing_else_can_be() {
        let published = published_name(CaptureId([7; 16]), "home");
        for reserved in [&published, "_commit.", "_commit.x"] {
            assert!(check_not_reserved(reserved).is_err(), "{reserved}");
        }
        for free in ["_commit", "_commits.x", "x._commit.y", "commit.x"] {
            check_not_reserved(free).unwrap();
        }
    }
}
