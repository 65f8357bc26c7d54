//! Every record by itself: its key parses, and its value.

use super::{CheckReport, Issue};
use crate::error::FsError;
use crate::store::record::{Dentry, Group, Inode, Record, Xattr};
use crate::store::{Family, Store, VersionedKey, hex};

/// Reads every versioned record.
pub(super) fn check(store: &Store, report: &mut CheckReport) -> Result<(), FsError> {
    for family in Family::ALL {
        store.db.scan(family.name(), &[], &[], |key, value| {
            report.records += 1;
            if VersionedKey::parse(family, key).is_none() {
                report.issues.push(Issue::UnreadableKey { family: family.name(), key: hex(key) });
            }
            let readable = match family {
                Family::Inode => <Option<Inode>>::decode(value).is_some(),
                Family::Dentry => Dentry::decode(value).is_some(),
                Family::Xattr => Xattr::decode(value).is_some(),
                Family::Extent => Group::decode(value).is_some(),
            };
            if !readable {
                report.issues.push(Issue::UnreadableRecord { family: family.name(), key: hex(key) });
            }
            Ok(true)
        })?;
    }
    Ok(())
}
