//! What a machine's `/init` is told of its work.
//!
//! # Overview
//! The files below are appended to the initial file system, as one more cpio archive: the kernel unpacks them at the same place. Any
//! monitor can load that, it has room for any environment, and nothing has to be mounted to read it. `docs/sandboxes.md` describes them for
//! those who write an `/init`; `examples/microvm/init` is one.
//!
//! | file | holds |
//! |---|---|
//! | `/durdir/mounts` | a line `TAG<tab>PATH` for each place at which a volume is to be mounted |
//! | `/durdir/command` | the program and its arguments, each ended by a NUL |
//! | `/durdir/environment` | `NAME=VALUE`, each ended by a NUL |
//! | `/durdir/directory` | where the program starts |
//! | `/durdir/user` | `UID:GID` |
//! | `/durdir/hostname` | the sandbox's id |
//! | `/durdir/network` | `ADDRESS/PREFIX GATEWAY RESOLVER`, or nothing |

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::files::at;
use super::virtiofsd::shares;
use super::{Container, RuntimeError, Sandbox};

/// Writes the initial file system of a machine: the template's, and what the guest is told.
pub(super) fn write_initramfs(
    sandbox: &Sandbox,
    container: &Container,
    initramfs: &Path,
    network: &str,
    target: &Path,
) -> Result<(), RuntimeError> {
    let mut source = File::open(initramfs).map_err(at("read", initramfs))?;
    let mut file = File::create(target).map_err(at("write", target))?;
    let mut write = |file: &mut File| {
        io::copy(&mut source, file)?;
        let length = file.stream_position()?;
        // An archive begins at a multiple of four.
        file.write_all(&vec![0; padding(length)])?;
        file.write_all(&archive(&told(sandbox, container, network)))
    };
    write(&mut file).map_err(at("write", target))
}

/// Returns the files of `/durdir`.
fn told(sandbox: &Sandbox, container: &Container, network: &str) -> Vec<(&'static str, Vec<u8>)> {
    let shares = shares(sandbox);
    let mut mounts = Vec::new();
    for mount in &container.mounts {
        if let Some(share) = shares.get(mount.volume.as_str()) {
            mounts.extend_from_slice(share.tag().as_bytes());
            mounts.push(b'\t');
            mounts.extend_from_slice(mount.destination.as_os_str().as_bytes());
            mounts.push(b'\n');
        }
    }
    let ended = |words: &mut dyn Iterator<Item = String>| {
        words.flat_map(|word| [word.into_bytes(), vec![0]]).flatten().collect::<Vec<u8>>()
    };
    let environment = ended(&mut container.env.iter().map(|(name, value)| format!("{name}={value}")));
    let (uid, gid) = container.user;
    vec![
        ("mounts", mounts),
        ("command", ended(&mut container.command.iter().cloned())),
        ("environment", environment),
        ("directory", container.working_directory.as_os_str().as_bytes().to_vec()),
        ("user", format!("{uid}:{gid}").into_bytes()),
        ("hostname", sandbox.id.clone().into_bytes()),
        ("network", network.as_bytes().to_vec()),
    ]
}

/// Returns a cpio archive of the format `newc` (see the kernel's `driver-api/early-userspace/buffer-format.rst`).
fn archive(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut add = |inode: usize, name: &str, mode: u32, content: &[u8]| {
        let links = if mode & 0o040_000 == 0 { 1 } else { 2 };
        let numbers: [usize; 13] =
            [inode, mode as usize, 0, 0, links, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend_from_slice(b"070701");
        for number in numbers {
            archive.extend_from_slice(format!("{number:08X}").as_bytes());
        }
        for part in [[name.as_bytes(), b"\0"].concat().as_slice(), content] {
            archive.extend_from_slice(part);
            archive.resize(archive.len() + padding(archive.len() as u64), 0);
        }
    };
    add(1, "durdir", 0o040_755, b"");
    for (inode, (name, content)) in (2..).zip(files) {
        add(inode, &format!("durdir/{name}"), 0o100_600, content);
    }
    add(0, "TRAILER!!!", 0, b"");
    archive
}

/// Returns how many bytes there are to the next multiple of four.
fn padding(length: u64) -> usize {
    (4 - (length % 4) as usize) % 4
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::super::{Network, VolumeMount};
    use super::*;

    #[test]
    fn what_is_appended_is_unpacked_by_cpio() {
        let mount = |volume: &str, destination: &str| VolumeMount {
            volume: volume.to_owned(),
            source: format!("/mnt/{volume}").into(),
            destination: destination.into(),
        };
        let container = Container {
            name: "main".to_owned(),
            rootfs: None,
            command: ["/bin/x", "a b", ""].map(str::to_owned).into(),
            env: vec![("A".to_owned(), "b\nc".to_owned())],
            working_directory: "/w".into(),
            user: (7, 8),
            mounts: vec![mount("z", "/z z"), mount("a", "/a"), mount("z", "/again")],
        };
        let sandbox = Sandbox {
            id: "vm-1".to_owned(),
            directory: "/d".into(),
            containers: vec![container.clone()],
            network: Network::None,
            machine: Default::default(),
        };
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("initramfs");
        // Of an odd length: zeros are skipped between archives.
        std::fs::write(dir.path().join("base"), [0; 3]).unwrap();
        write_initramfs(&sandbox, &container, &dir.path().join("base"), "", &target).unwrap();
        let bytes = std::fs::read(&target).unwrap();
        assert_eq!(bytes[..4], [0; 4]);
        std::fs::write(&target, &bytes[4..]).unwrap();
        let mut cpio = Command::new("cpio");
        cpio.args(["--quiet", "-id"])
            .current_dir(dir.path())
            .stdin(Stdio::from(File::open(&target).unwrap()));
        assert!(cpio.status().expect("the package cpio is needed").success());
        let read = |name: &str| std::fs::read_to_string(dir.path().join("durdir").join(name)).unwrap();
        assert_eq!(read("mounts"), "v1\t/z z\nv0\t/a\nv1\t/again\n");
        assert_eq!(read("command"), "/bin/x\0a b\0\0");
        assert_eq!(read("environment"), "A=b\nc\0");
        assert_eq!(
            (read("directory"), read("user"), read("hostname")),
            ("/w".into(), "7:8".into(), "vm-1".into())
        );
        assert_eq!(read("network"), "");
    }
}
