//! Every versioned record by itself: its key parses and its value, the branch and the epoch that wrote it exist, and
//! the list of what the epoch touched has it. Of epochs that count as settled it is the only version of its record.

use super::history::History;
use super::{Check, Issue, Repair, repair};
use crate::ids::{BranchId, Epoch, Ino, TreeId};
use crate::store::record::{Dentry, Group, Inode, Record, Xattr};
use crate::store::{Family, PrefixOf, StoreError, TIDIED, TOUCHED, VersionedKey, hex, parse_touched};

/// What was learned from all records together.
pub(super) struct Records {
    /// The largest number of an inode that the store made.
    pub(super) last_inode: u64,
    /// Whether every record of the extent family parses.
    pub(super) extents_readable: bool,
}

/// Reads every versioned record and the list of what was touched.
pub(super) fn check(check: &mut Check<'_>, history: &History) -> Result<Records, StoreError> {
    let mut records = Records { last_inode: 0, extents_readable: true };
    for family in Family::ALL {
        check_family(check, history, family, &mut records)?;
    }
    check_touched(check, history)?;
    Ok(records)
}

fn check_family(
    check: &mut Check<'_>,
    history: &History,
    family: Family,
    records: &mut Records,
) -> Result<(), StoreError> {
    let Check { store, frozen, repair, findings } = check;
    let name = family.name();
    // Keys have the newer versions of a record first.
    let mut newer: Option<VersionedKey> = None;
    frozen.scan(name, &[], &[], |key, value| {
        findings.report.records += 1;
        if !is_readable(family, value) {
            records.extents_readable &= family != Family::Extent;
            findings.add(Issue::UnreadableRecord { family: name, key: hex(key) });
        }
        let Some(parsed) = VersionedKey::parse(family, key) else {
            records.extents_readable &= family != Family::Extent;
            findings.add(Issue::UnreadableKey { family: name, key: hex(key) });
            return Ok(true);
        };
        let of_same =
            newer.as_ref().filter(|newer| newer.prefix == parsed.prefix && newer.branch == parsed.branch);
        if let Some(after) =
            of_same.and_then(|newer| history.settled(parsed.branch, parsed.epoch, newer.epoch))
        {
            let repaired = *repair == Repair::Yes;
            if repaired {
                repair::unsettle(store, parsed.branch, after)?;
            }
            findings.add(Issue::UnsettledVersion { family: name, key: hex(key), repaired });
        }
        match parsed.prefix.parse() {
            Some(PrefixOf::Dentry { hash, name, .. }) if hash != store.hasher.hash(name) => {
                findings.add(Issue::MisplacedName { key: hex(key) });
            }
            Some(PrefixOf::Inode { ino }) if !ino.is_lower() => {
                records.last_inode = records.last_inode.max(ino.0);
            }
            _ => {}
        }
        let (branch, epoch) = (parsed.branch.0, parsed.epoch.0);
        match history.branch(parsed.branch) {
            None => findings.add(Issue::VersionWithoutBranch { family: name, key: hex(key), branch }),
            Some(found) if found.tree != parsed.tree() => {
                findings.add(Issue::VersionOfOtherTree { family: name, key: hex(key), branch });
            }
            Some(found) if parsed.epoch > found.epoch => {
                findings.add(Issue::VersionOfFuture { family: name, key: hex(key), branch, epoch });
            }
            // The only record of epoch 0 is the root of a volume without lowers.
            Some(_)
                if parsed.epoch == Epoch(0)
                    && parsed.prefix.parse() == Some(PrefixOf::Inode { ino: Ino::ROOT }) => {}
            Some(_) => {
                let touched = parsed.prefix.touched(parsed.branch, parsed.epoch);
                if !frozen.contains(TOUCHED, &touched)? {
                    let repaired = *repair == Repair::Yes;
                    if repaired {
                        repair::list_as_touched(store, &touched)?;
                    }
                    findings.add(Issue::UntouchedVersion { family: name, key: hex(key), repaired });
                }
            }
        }
        newer = Some(parsed);
        Ok(true)
    })
}

fn is_readable(family: Family, value: &[u8]) -> bool {
    match family {
        Family::Inode => <Option<Inode>>::decode(value).is_some(),
        Family::Dentry => Dentry::decode(value).is_some(),
        Family::Xattr => Xattr::decode(value).is_some(),
        Family::Extent => Group::decode(value).is_some(),
    }
}

fn check_touched(check: &mut Check<'_>, history: &History) -> Result<(), StoreError> {
    let (frozen, findings) = (&check.frozen, &mut check.findings);
    let mut without: Option<BranchId> = None;
    frozen.scan(TOUCHED, &[], &[], |key, value| {
        findings.report.records += 1;
        let Some((branch, _, _)) = parse_touched(TreeId(0), key) else {
            findings.add(Issue::UnreadableKey { family: TOUCHED, key: hex(key) });
            return Ok(true);
        };
        if !value.is_empty() && value != TIDIED {
            findings.add(Issue::UnreadableRecord { family: TOUCHED, key: hex(key) });
        }
        if history.branch(branch).is_none() && without != Some(branch) {
            without = Some(branch);
            findings.add(Issue::TouchedWithoutBranch { branch: branch.0 });
        }
        Ok(true)
    })
}
