//! POSIX access control lists in the encoding of `system.posix_acl_access` and `…_default`
//! (acl(5), `linux/posix_acl_xattr.h`), so that no test depends on setfacl.

use std::io;
use std::path::Path;

use super::xattr::{get_xattr, set_xattr};

const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;

/// Whom an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclTag {
    /// The owner.
    UserObj,
    /// A named user.
    User(u32),
    /// The owning group.
    GroupObj,
    /// A named group.
    Group(u32),
    /// The most that named users, named groups and the owning group get.
    Mask,
    /// Everybody else.
    Other,
}

/// One line of an access control list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AclEntry {
    /// Whom.
    pub tag: AclTag,
    /// What, as in one digit of a mode.
    pub perm: u16,
}

/// A whole access control list, in the order the kernel wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(pub Vec<AclEntry>);

impl Acl {
    /// The attribute that says who may access the file itself.
    pub const ACCESS: &'static str = "system.posix_acl_access";
    /// The attribute of a directory that says what its new children get.
    pub const DEFAULT: &'static str = "system.posix_acl_default";

    /// Builds a list from pairs.
    pub fn of(entries: &[(AclTag, u16)]) -> Acl {
        Acl(entries.iter().map(|&(tag, perm)| AclEntry { tag, perm }).collect())
    }

    /// Returns the permission of one entry, where there is one.
    pub fn perm(&self, tag: AclTag) -> Option<u16> {
        self.0.iter().find(|entry| entry.tag == tag).map(|entry| entry.perm)
    }

    /// Writes the list to an attribute of `path`.
    pub fn set(&self, path: impl AsRef<Path>, attribute: &str) -> io::Result<()> {
        set_xattr(path, attribute, self.encode())
    }

    /// Reads the list from an attribute of `path`.
    pub fn get(path: impl AsRef<Path>, attribute: &str) -> io::Result<Acl> {
        Ok(Acl::decode(&get_xattr(path, attribute)?))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            let (tag, id): (u16, u32) = match entry.tag {
                AclTag::UserObj => (0x01, NO_ID),
                AclTag::User(uid) => (0x02, uid),
                AclTag::GroupObj => (0x04, NO_ID),
                AclTag::Group(gid) => (0x08, gid),
                AclTag::Mask => (0x10, NO_ID),
                AclTag::Other => (0x20, NO_ID),
            };
            bytes.extend(tag.to_le_bytes());
            bytes.extend(entry.perm.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Acl {
        let (version, entries) = bytes.split_at(4);
        assert_eq!(version, VERSION.to_le_bytes(), "version of an access control list");
        let half = |bytes: &[u8]| u16::from_le_bytes(bytes.try_into().unwrap());
        let parse = |entry: &[u8]| {
            let id = u32::from_le_bytes(entry[4..8].try_into().unwrap());
            let tag = match half(&entry[..2]) {
                0x01 => AclTag::UserObj,
                0x02 => AclTag::User(id),
                0x04 => AclTag::GroupObj,
                0x08 => AclTag::Group(id),
                0x10 => AclTag::Mask,
                0x20 => AclTag::Other,
                tag => panic!("unknown tag {tag:#x} in an access control list"),
            };
            AclEntry { tag, perm: half(&entry[2..4]) }
        };
        Acl(entries.chunks_exact(8).map(parse).collect())
    }
}
