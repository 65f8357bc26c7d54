//! POSIX ACLs, as far as they and the permission bits depend on each other.
//!
//! The kernel checks access by them. What a file system does is: keep the permission bits in step with the access ACL, and give new
//! files what their directory's default ACL says. The value is that of `linux/posix_acl_xattr.h`: a version, then entries
//! of tag, permissions and id, little-endian. See acl(5).

use super::Caller;
use super::node::{NodeRef, NodeState};
use crate::attr::FileKind;
use crate::error::FsError;
use crate::store::record::{Inode, Xattr};
use crate::store::{Prefix, Touch, Txn};

/// The attribute that holds the access ACL.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute that holds the default ACL of a directory.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct AclEntry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// Where an ACL has to be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stands {
    /// The permission bits say all of it.
    InModeAlone,
    /// It says more.
    InAttribute,
}

/// The ACLs a new file gets.
#[derive(Default)]
pub(super) struct Inherited {
    access: Option<Vec<u8>>,
    default: Option<Vec<u8>>,
}

impl Inherited {
    /// Returns them as attributes.
    pub(super) fn xattrs(self) -> impl Iterator<Item = (&'static [u8], Vec<u8>)> {
        [(ACCESS, self.access), (DEFAULT, self.default)]
            .into_iter()
            .filter_map(|(name, acl)| Some((name, acl?)))
    }
}

fn parse(value: &[u8]) -> Option<Vec<AclEntry>> {
    let (version, mut rest) = value.split_at_checked(4)?;
    if u32::from_le_bytes(version.try_into().ok()?) != VERSION {
        return None;
    }
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (entry, next) = rest.split_at_checked(8)?;
        entries.push(AclEntry {
            tag: u16::from_le_bytes(entry.get(..2)?.try_into().ok()?),
            perm: u16::from_le_bytes(entry.get(2..4)?.try_into().ok()?),
            id: u32::from_le_bytes(entry.get(4..8)?.try_into().ok()?),
        });
        rest = next;
    }
    Some(entries)
}

fn encode(entries: &[AclEntry]) -> Vec<u8> {
    let mut value = VERSION.to_le_bytes().to_vec();
    for entry in entries {
        value.extend_from_slice(&entry.tag.to_le_bytes());
        value.extend_from_slice(&entry.perm.to_le_bytes());
        value.extend_from_slice(&entry.id.to_le_bytes());
    }
    value
}

/// Computes what a new file gets from the default ACL of its directory: the ACLs and the permission bits. The umask has no say.
pub(super) fn inherit(default: &[u8], perm: u16, kind: FileKind) -> Result<(Inherited, u16), FsError> {
    let invalid = FsError::Invalid { what: "default ACL" };
    let mut access = parse(default).ok_or(invalid)?;
    let has_mask = access.iter().any(|entry| entry.tag == MASK);
    let mut bits = perm & !0o777;
    for entry in &mut access {
        match entry.tag {
            USER_OBJ => {
                entry.perm &= (perm >> 6) & 7;
                bits |= entry.perm << 6;
            }
            MASK => {
                entry.perm &= (perm >> 3) & 7;
                bits |= entry.perm << 3;
            }
            GROUP_OBJ if !has_mask => {
                entry.perm &= (perm >> 3) & 7;
                bits |= entry.perm << 3;
            }
            OTHER => {
                entry.perm &= perm & 7;
                bits |= entry.perm;
            }
            _ => {}
        }
    }
    let extended = access.iter().any(|entry| matches!(entry.tag, USER | GROUP | MASK));
    let inherited = Inherited {
        access: extended.then(|| encode(&access)),
        default: (kind == FileKind::Directory).then(|| default.to_vec()),
    };
    Ok((inherited, bits))
}

/// Stages the change that a `chmod` means for the access ACL.
pub(super) fn chmod(
    txn: &mut Txn<'_>,
    node: &NodeRef<'_>,
    state: &NodeState,
    inode: &mut Inode,
) -> Result<(), FsError> {
    if !inode.has_xattrs && inode.lower.is_none() {
        return Ok(());
    }
    let Some(value) = node.tree.merged.xattr(node.ino, &state.inode, ACCESS)? else { return Ok(()) };
    let Some(mut entries) = parse(&value) else { return Ok(()) };
    let has_mask = entries.iter().any(|entry| entry.tag == MASK);
    for entry in &mut entries {
        match entry.tag {
            USER_OBJ => entry.perm = (inode.perm >> 6) & 7,
            MASK => entry.perm = (inode.perm >> 3) & 7,
            GROUP_OBJ if !has_mask => entry.perm = (inode.perm >> 3) & 7,
            OTHER => entry.perm = inode.perm & 7,
            _ => {}
        }
    }
    inode.has_xattrs = true;
    let prefix = Prefix::xattr(txn.head().tree, node.ino, ACCESS);
    txn.put(&prefix, &Xattr::Value(encode(&entries)), Touch::First);
    Ok(())
}

/// Gives an inode the permission bits of a new access ACL.
pub(super) fn set_access(caller: &Caller, inode: &mut Inode, value: &[u8]) -> Result<Stands, FsError> {
    let entries = parse(value).ok_or(FsError::Invalid { what: "access ACL" })?;
    let perm_of = |tag: u16| entries.iter().find(|entry| entry.tag == tag).map(|entry| entry.perm & 7);
    let (Some(user), Some(group), Some(other)) = (perm_of(USER_OBJ), perm_of(GROUP_OBJ), perm_of(OTHER))
    else {
        return if entries.is_empty() {
            Ok(Stands::InModeAlone)
        } else {
            Err(FsError::Invalid { what: "access ACL" })
        };
    };
    let group = perm_of(MASK).unwrap_or(group);
    inode.perm = (inode.perm & !0o777) | user << 6 | group << 3 | other;
    if inode.perm & 0o2000 != 0 && caller.uid != 0 && caller.gid != inode.gid && !in_group(caller, inode.gid)
    {
        inode.perm &= !0o2000;
    }
    let extended = entries.iter().any(|entry| matches!(entry.tag, USER | GROUP | MASK));
    Ok(if extended { Stands::InAttribute } else { Stands::InModeAlone })
}

/// Tells whether a group is among the caller's supplementary ones. FUSE does not pass them on; proc(5) has them.
fn in_group(caller: &Caller, gid: u32) -> bool {
    // A process that is gone, or that we cannot see, is in no group.
    let status = std::fs::read_to_string(format!("/proc/{}/status", caller.pid)).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_ascii_whitespace().any(|group| group.parse() == Ok(gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        encode(&entries.iter().map(|&(tag, perm, id)| AclEntry { tag, perm, id }).collect::<Vec<_>>())
    }

    #[test]
    fn a_new_file_gets_what_both_the_default_acl_and_its_mode_allow() {
        let default =
            acl(&[(USER_OBJ, 7, 0), (USER, 7, 1000), (GROUP_OBJ, 5, 0), (MASK, 7, 0), (OTHER, 5, 0)]);
        let (inherited, perm) = inherit(&default, 0o640, FileKind::Regular).unwrap();
        assert_eq!(perm, 0o640);
        let expected =
            acl(&[(USER_OBJ, 6, 0), (USER, 7, 1000), (GROUP_OBJ, 5, 0), (MASK, 4, 0), (OTHER, 0, 0)]);
        assert_eq!(inherited.xattrs().collect::<Vec<_>>(), [(ACCESS, expected)]);
    }

    #[test]
    fn an_acl_that_the_mode_can_say_is_not_kept() {
        let default = acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 5, 0), (OTHER, 0, 0)]);
        let (inherited, perm) = inherit(&default, 0o777, FileKind::Directory).unwrap();
        assert_eq!(perm, 0o750);
        assert_eq!(inherited.xattrs().collect::<Vec<_>>(), [(DEFAULT, default)]);
    }

    #[test]
    fn bytes_that_are_no_acl_are_refused() {
        for bad in [&b""[..], b"\x01\0\0\0", b"\x02\0\0\0\x01"] {
            assert!(inherit(bad, 0o644, FileKind::Regular).is_err());
        }
    }
}
