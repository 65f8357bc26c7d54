//! How identities stand in the JSON that is stored: as people write them.

use durdir_fs::ids::CaptureId;

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
