use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, symlink};
use std::time::Duration;

use nix::sys::stat::{SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::Uid;
use tempfile::TempDir;

use super::*;

/// Opens a host directory through each kind of access that is possible here.
fn lowers(dir: &TempDir) -> Vec<HostLower> {
    let opened = HostLower::open(dir.path()).unwrap();
    let privileged = Uid::effective().is_root();
    assert_eq!(opened.access == Access::Private, privileged);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let shared = HostLower {
        dir: dir.path().to_owned(),
        number: LowerNumber(u64::MAX - opened.number.0),
        root: Arc::new(open(dir.path(), flags, Mode::empty()).unwrap()),
        access: Access::Shared,
    };
    vec![opened, shared]
}

fn path(path: impl AsRef<[u8]>) -> LowerPath {
    LowerPath::parse(path.as_ref()).unwrap()
}

fn file(lower: &HostLower, at: &str) -> LowerInode {
    match lower.lookup(&path(at)).unwrap() {
        LayerSays::File(inode) => inode,
        other => panic!("{at}: {other:?}"),
    }
}

fn opaque(lower: &HostLower, at: &str) -> bool {
    match lower.lookup(&path(at)).unwrap() {
        LayerSays::Directory { opaque, .. } => opaque,
        other => panic!("{at}: {other:?}"),
    }
}

fn entries(lower: &HostLower, at: &str) -> BTreeMap<Vec<u8>, (LowerEntryKind, u64)> {
    let mut entries = BTreeMap::new();
    lower
        .entries(&path(at), &mut |entry| {
            let old = entries.insert(entry.name.to_vec(), (entry.kind, entry.host_ino));
            assert_eq!(old, None);
        })
        .unwrap();
    entries
}

fn read(lower: &HostLower, at: &str, expected: &LowerStamp) -> Result<Vec<u8>, LowerError> {
    let mut buf = vec![0xee; 100];
    let len = lower.read_at(&path(at), expected, 0, &mut buf)?;
    assert!(buf[len..].iter().all(|byte| *byte == 0xee));
    buf.truncate(len);
    Ok(buf)
}

/// Sets times long past, so that the host would update the access time on any use.
fn age(dir: &TempDir, at: &str) {
    let past = TimeSpec::new(1_000_000_000, 5);
    let path = dir.path().join(at);
    utimensat(nix::fcntl::AT_FDCWD, &path, &past, &past, UtimensatFlags::NoFollowSymlink).unwrap();
}

fn set_xattr(path: &Path, key: &str, value: &[u8]) -> nix::Result<()> {
    let (path, key) = (CString::new(path.as_os_str().as_bytes()).unwrap(), CString::new(key).unwrap());
    // SAFETY: lsetxattr reads two NUL-terminated strings and `value.len()` bytes of `value`.
    let done = unsafe { libc::lsetxattr(path.as_ptr(), key.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(done).map(drop)
}

#[test]
fn lookup_tells_what_the_host_has() {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/file"), b"content").unwrap();
    symlink("nowhere", dir.path().join("a/link")).unwrap();
    mknod(&dir.path().join("a/fifo"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o640), 0).unwrap();
    for lower in lowers(&dir) {
        let host = fs::metadata(dir.path().join("a/b/file")).unwrap();
        let inode = file(&lower, "a/b/file");
        assert_eq!(inode.kind, FileKind::Regular);
        assert_eq!((inode.size, inode.stamp.size), (7, 7));
        assert_eq!((inode.host_dev, inode.stamp.host_ino), (host.dev(), host.ino()));
        assert_eq!((inode.uid, inode.gid), (host.uid(), host.gid()));
        assert_eq!(inode.perm, (host.mode() & 0o7777) as u16);
        assert_eq!((inode.nlink, inode.blocks), (1, host.blocks()));
        assert_eq!(inode.mtime, host.modified().unwrap().into());
        assert_eq!(inode.btime, host.created().unwrap().into());

        assert_eq!(file(&lower, "a/link").kind, FileKind::Symlink);
        assert_eq!(file(&lower, "a/fifo").kind, FileKind::Fifo);
        assert_eq!(file(&lower, "a/fifo").perm, 0o640 & file(&lower, "a/fifo").perm);
        assert!(!opaque(&lower, "") && !opaque(&lower, "a"));
        let long = "n".repeat(300);
        for absent in ["b", "a/c", "a/c/d", "a/b/file/x", &long] {
            assert_eq!(lower.lookup(&path(absent)).unwrap(), LayerSays::Absent, "{absent}");
        }
    }
}

#[test]
fn entries_lists_every_kind_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("dir")).unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    symlink("file", dir.path().join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    for lower in lowers(&dir) {
        let found = entries(&lower, "");
        let kinds: Vec<_> = found.iter().map(|(name, (kind, _))| (&name[..], *kind)).collect();
        let expected = [
            (&b"dir"[..], FileKind::Directory),
            (b"file", FileKind::Regular),
            (b"link", FileKind::Symlink),
            (b"socket", FileKind::Socket),
        ];
        assert_eq!(kinds, expected.map(|(name, kind)| (name, LowerEntryKind::Of(kind))));
        assert_eq!(found[&b"file"[..]].1, file(&lower, "file").stamp.host_ino);
        assert!(entries(&lower, "dir").is_empty());
        let listed = lower.entries(&path("gone"), &mut |_| {});
        assert!(matches!(listed, Err(LowerError::NotFound { .. })));
        let listed = lower.entries(&path("file"), &mut |_| {});
        assert!(matches!(listed, Err(LowerError::Changed { .. })));
        let listed = lower.entries(&path("link"), &mut |_| {});
        assert!(matches!(listed, Err(LowerError::Changed { .. })));
    }
}

#[test]
fn names_are_any_bytes_of_any_length() {
    let dir = TempDir::new().unwrap();
    let odd: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').chain([b'x']).collect();
    assert_eq!(odd.len(), 255);
    fs::create_dir(dir.path().join(OsStr::from_bytes(&odd))).unwrap();
    let inner = [&odd[..], b"/", &odd[..]].concat();
    fs::write(dir.path().join(OsStr::from_bytes(&inner)), b"deep").unwrap();
    for lower in lowers(&dir) {
        let Ok(LayerSays::File(inode)) = lower.lookup(&path(&inner)) else {
            panic!("the file is there");
        };
        let mut buf = [0; 9];
        let len = lower.read_at(&path(&inner), &inode.stamp, 0, &mut buf).unwrap();
        assert_eq!(&buf[..len], b"deep");
        assert_eq!(entries(&lower, "").into_keys().collect::<Vec<_>>(), std::slice::from_ref(&odd));
    }
}

#[test]
fn a_path_longer_than_one_system_call_takes_is_walked_in_steps() {
    let dir = TempDir::new().unwrap();
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let mut at = open(dir.path(), flags, Mode::empty()).unwrap();
    let mut deep = LowerPath::root();
    let name = [b'd'; 250];
    for _ in 0..40 {
        nix::sys::stat::mkdirat(&at, &name[..], Mode::S_IRWXU).unwrap();
        at = nix::fcntl::openat(&at, &name[..], flags, Mode::empty()).unwrap();
        deep = deep.join(&name);
    }
    for lower in lowers(&dir) {
        let bottom = lower.lookup(&deep).unwrap();
        assert!(matches!(bottom, LayerSays::Directory { .. }), "{bottom:?}");
        lower.entries(&deep, &mut |_| panic!("empty")).unwrap();
        assert_eq!(lower.lookup(&deep.join(b"x").join(b"y")).unwrap(), LayerSays::Absent);
    }
}

#[test]
fn reading_leaves_access_times_alone() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("dir")).unwrap();
    fs::write(dir.path().join("dir/file"), b"content").unwrap();
    symlink("target", dir.path().join("dir/link")).unwrap();
    for lower in lowers(&dir) {
        let paths = ["dir/file", "dir/link", "dir", ""];
        paths.iter().for_each(|at| age(&dir, at));
        let times = || paths.map(|at| fs::symlink_metadata(dir.path().join(at)).unwrap().accessed().unwrap());
        let before = times();

        let inode = file(&lower, "dir/file");
        assert_eq!(read(&lower, "dir/file", &inode.stamp).unwrap(), b"content");
        assert_eq!((entries(&lower, "").len(), entries(&lower, "dir").len()), (1, 2));
        lower.xattrs(&path("dir/file")).unwrap();
        if lower.access == Access::Private {
            assert_eq!(lower.readlink(&path("dir/link")).unwrap(), b"target");
        }
        assert_eq!(times(), before, "{:?}", lower.access);
    }
}

#[test]
fn readlink_returns_the_bytes_of_the_target() {
    let dir = TempDir::new().unwrap();
    let target = [&b"/../\xff\n"[..], &[b't'; 4000]].concat();
    symlink(OsStr::from_bytes(&target), dir.path().join("link")).unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    for lower in lowers(&dir) {
        assert_eq!(lower.readlink(&path("link")).unwrap(), target);
        let refused = lower.readlink(&path("file"));
        assert!(matches!(refused, Err(LowerError::Changed { .. })));
        let refused = lower.readlink(&path("gone"));
        assert!(matches!(refused, Err(LowerError::NotFound { .. })));
    }
}

#[test]
fn a_symlink_inside_a_path_is_refused() {
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("secret"), b"secret").unwrap();
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    fs::write(dir.path().join("real/secret"), b"").unwrap();
    symlink(outside.path(), dir.path().join("absolute")).unwrap();
    symlink("real", dir.path().join("relative")).unwrap();
    symlink("..", dir.path().join("up")).unwrap();
    for lower in lowers(&dir) {
        let stamp = file(&lower, "real/secret").stamp;
        for at in ["absolute/secret", "relative/secret", "up/secret"] {
            let at = path(at);
            let mut buf = [0; 8];
            let refused = [
                lower.lookup(&at).map(drop),
                lower.entries(&at, &mut |_| {}),
                lower.readlink(&at).map(drop),
                lower.read_at(&at, &stamp, 0, &mut buf).map(drop),
                lower.seek(&at, &stamp, 0, SeekTo::Data).map(drop),
                lower.xattrs(&at).map(drop),
                lower.xattr(&at, b"user.x").map(drop),
            ];
            for refused in refused {
                let escapes = matches!(refused, Err(LowerError::Escapes { .. }));
                assert!(escapes, "{at}: {refused:?}");
            }
            assert_eq!(buf, [0; 8]);
        }
    }
}

#[cfg(not(debug_assertions))]
#[test]
fn a_parent_is_not_reached_even_by_a_path_that_nobody_checked() {
    let dir = TempDir::new().unwrap();
    for lower in lowers(&dir) {
        for name in [&b".."[..], b"../..", b"../x", b".", b""] {
            let looked = lower.lookup(&LowerPath::root().join(name));
            let refused = matches!(looked, Err(LowerError::Escapes { .. }));
            assert!(refused || name.is_empty(), "{}: {looked:?}", name.escape_ascii());
        }
    }
}

#[test]
fn read_at_fills_the_buffer_as_far_as_the_file_goes() {
    let dir = TempDir::new().unwrap();
    let content: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    fs::write(dir.path().join("file"), &content).unwrap();
    fs::write(dir.path().join("empty"), b"").unwrap();
    for lower in lowers(&dir) {
        let stamp = file(&lower, "file").stamp;
        for (offset, want) in [(0, 200_000), (0, 300_000), (5, 7), (199_999, 10), (200_000, 10)] {
            let mut buf = vec![0; want];
            let len = lower.read_at(&path("file"), &stamp, offset as u64, &mut buf).unwrap();
            assert_eq!(len, want.min(200_000 - offset));
            assert!(buf[..len] == content[offset..offset + len]);
        }
        let mut buf = [0; 10];
        assert_eq!(lower.read_at(&path("file"), &stamp, u64::MAX, &mut buf).unwrap(), 0);
        let stamp = file(&lower, "empty").stamp;
        assert_eq!(lower.read_at(&path("empty"), &stamp, 0, &mut buf).unwrap(), 0);
    }
}

#[test]
fn a_replaced_or_rewritten_file_is_detected() {
    let dir = TempDir::new().unwrap();
    let at = dir.path().join("file");
    for lower in lowers(&dir) {
        let changed = |stamp: &LowerStamp| {
            matches!(read(&lower, "file", stamp), Err(LowerError::Changed { .. }))
                && matches!(
                    lower.seek(&path("file"), stamp, 0, SeekTo::Data),
                    Err(LowerError::Changed { .. })
                )
        };
        fs::write(&at, b"one").unwrap();
        let one = file(&lower, "file").stamp;
        assert_eq!(read(&lower, "file", &one).unwrap(), b"one");

        // Another file of the same size and modification time takes the name.
        let time = fs::metadata(&at).unwrap().modified().unwrap();
        fs::write(dir.path().join("other"), b"two").unwrap();
        File::options().write(true).open(dir.path().join("other")).unwrap().set_modified(time).unwrap();
        fs::rename(dir.path().join("other"), &at).unwrap();
        assert!(changed(&one));
        let two = file(&lower, "file").stamp;
        assert_eq!(read(&lower, "file", &two).unwrap(), b"two");

        // The same file is rewritten and its modification time set back.
        // Older kernels tell times apart only by the timer tick.
        std::thread::sleep(Duration::from_millis(20));
        let open = File::options().write(true).open(&at).unwrap();
        open.write_all_at(b"six", 0).unwrap();
        open.set_modified(time).unwrap();
        assert!(changed(&two));

        let six = file(&lower, "file").stamp;
        fs::remove_file(&at).unwrap();
        let gone = read(&lower, "file", &six);
        assert!(matches!(gone, Err(LowerError::Changed { .. } | LowerError::NotFound { .. })));
        fs::create_dir(&at).unwrap();
        assert!(changed(&six));
        fs::remove_dir(&at).unwrap();
        symlink("elsewhere", &at).unwrap();
        assert!(changed(&six));
        fs::remove_file(&at).unwrap();
        mknod(&at, SFlag::S_IFIFO, Mode::S_IRWXU, 0).unwrap();
        assert!(changed(&six));
        fs::remove_file(&at).unwrap();
    }
}

#[test]
fn seek_finds_data_and_holes() {
    let dir = TempDir::new().unwrap();
    let sparse = File::create(dir.path().join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.write_all_at(&[1; 4096], 1 << 20).unwrap();
    sparse.sync_all().unwrap();
    for lower in lowers(&dir) {
        let stamp = file(&lower, "sparse").stamp;
        let seek = |offset, to| lower.seek(&path("sparse"), &stamp, offset, to).unwrap();
        assert_eq!(seek(0, SeekTo::Data), Some(1 << 20));
        assert_eq!(seek((1 << 20) + 5, SeekTo::Data), Some((1 << 20) + 5));
        assert_eq!(seek(1 << 20, SeekTo::Hole), Some((1 << 20) + 4096));
        assert_eq!(seek(2 << 20, SeekTo::Data), None);
        assert_eq!(seek(3 << 20, SeekTo::Hole), None);
        assert_eq!(seek(u64::MAX, SeekTo::Hole), None);
    }
}

#[test]
fn overlay_private_xattrs_are_not_shown() {
    let dir = TempDir::new().unwrap();
    let at = dir.path().join("file");
    fs::write(&at, b"").unwrap();
    let large = vec![7; 3000];
    set_xattr(&at, "user.colour", b"red\0\xff").unwrap();
    set_xattr(&at, "user.large", &large).unwrap();
    set_xattr(&at, "user.overlay.origin", b"hidden").unwrap();
    symlink("file", dir.path().join("link")).unwrap();
    let root = Uid::effective().is_root();
    if root {
        set_xattr(&at, "trusted.overlay.metacopy", b"").unwrap();
        set_xattr(&dir.path().join("link"), "trusted.of", b"the link").unwrap();
    }
    for lower in lowers(&dir) {
        let mut all = lower.xattrs(&path("file")).unwrap();
        all.retain(|(key, _)| !key.starts_with(b"security."));
        all.sort();
        let expected =
            [(b"user.colour".to_vec(), b"red\0\xff".to_vec()), (b"user.large".to_vec(), large.clone())];
        assert_eq!(all, expected);
        let one = |key: &[u8]| lower.xattr(&path("file"), key).unwrap();
        assert_eq!(one(b"user.colour"), Some(b"red\0\xff".to_vec()));
        for hidden in [&b"user.overlay.origin"[..], b"trusted.overlay.metacopy", b"user.no", b"a\0b"] {
            assert_eq!(one(hidden), None);
        }
        assert_eq!(lower.xattr(&path("link"), b"user.colour").unwrap(), None);
        if root {
            let of_link = lower.xattr(&path("link"), b"trusted.of").unwrap();
            assert_eq!(of_link, Some(b"the link".to_vec()));
        }
        let gone = lower.xattrs(&path("gone"));
        assert!(matches!(gone, Err(LowerError::NotFound { .. })));
    }
}

#[test]
fn opaque_marks_of_the_kernel_are_honoured() {
    let dir = TempDir::new().unwrap();
    for name in ["plain", "user", "other", "crowded"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    set_xattr(&dir.path().join("user"), "user.overlay.opaque", b"y").unwrap();
    set_xattr(&dir.path().join("other"), "user.overlay.opaque", b"x").unwrap();
    set_xattr(&dir.path().join("crowded"), "user.overlay.opaque", b"y").unwrap();
    for number in 0..30 {
        let key = format!("user.{number}{}", "k".repeat(60));
        set_xattr(&dir.path().join("crowded"), &key, b"").unwrap();
    }
    set_xattr(dir.path(), "user.overlay.opaque", b"y").unwrap();
    let root = Uid::effective().is_root();
    if root {
        fs::create_dir(dir.path().join("trusted")).unwrap();
        set_xattr(&dir.path().join("trusted"), "trusted.overlay.opaque", b"y").unwrap();
    }
    for lower in lowers(&dir) {
        assert!(opaque(&lower, "user") && opaque(&lower, "crowded"));
        assert!(!opaque(&lower, "plain") && !opaque(&lower, "other"));
        assert!(!opaque(&lower, ""), "the root begins the stack");
        assert!(!root || opaque(&lower, "trusted"));
    }
}

#[test]
fn whiteouts_of_the_kernel_are_honoured() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: making device nodes needs root");
        return;
    }
    let dir = TempDir::new().unwrap();
    let node = |name: &str, device| {
        mknod(&dir.path().join(name), SFlag::S_IFCHR, Mode::S_IRUSR, device).unwrap();
    };
    node("deleted", 0);
    node("null", libc::makedev(1, 3));
    node("large", libc::makedev(0xabc, 0x12345));
    assert!(fs::metadata(dir.path().join("deleted")).unwrap().file_type().is_char_device());
    for lower in lowers(&dir) {
        assert_eq!(lower.lookup(&path("deleted")).unwrap(), LayerSays::Whiteout);
        assert_eq!(file(&lower, "null").rdev, 0x103);
        assert_eq!(file(&lower, "large").rdev, 0x123a_bc45);
        let found = entries(&lower, "");
        assert_eq!(found[&b"deleted"[..]].0, LowerEntryKind::Whiteout);
        assert_eq!(found[&b"null"[..]].0, LowerEntryKind::Of(FileKind::CharDevice));
    }
}

#[test]
fn the_private_copy_of_a_lower_cannot_be_written() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    let lower = HostLower::open(dir.path()).unwrap();
    if lower.access == Access::Private {
        let opened = openat2(lower.root.as_fd(), "file", confined(OFlag::O_RDWR));
        assert_eq!(opened.map(drop), Err(Errno::EROFS));
    } else {
        eprintln!("skipped: a private copy of a mount needs CAP_SYS_ADMIN");
    }
}

#[test]
fn only_a_directory_becomes_a_lower() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    symlink(".", dir.path().join("link")).unwrap();
    for (name, kind) in [("file", io::ErrorKind::NotADirectory), ("gone", io::ErrorKind::NotFound)] {
        match HostLower::open(&dir.path().join(name)) {
            Err(LowerError::Open { source, .. }) => assert_eq!(source.kind(), kind),
            other => panic!("{other:?}"),
        }
    }
    let lower = HostLower::open(&dir.path().join("link")).unwrap();
    assert_eq!(file(&lower, "file").kind, FileKind::Regular);
    assert!(lower.identity().ends_with("/link"));
}

#[test]
fn many_threads_read_while_names_are_looked_up() {
    let dir = TempDir::new().unwrap();
    for name in 0..600 {
        fs::create_dir(dir.path().join(format!("{name}"))).unwrap();
        fs::write(dir.path().join(format!("{name}/file")), format!("{name}")).unwrap();
    }
    for lower in lowers(&dir) {
        std::thread::scope(|scope| {
            for start in 0..4 {
                let lower = &lower;
                scope.spawn(move || {
                    for step in 0..1200 {
                        let name = (start * 150 + step) % 600;
                        let at = format!("{name}/file");
                        let stamp = file(lower, &at).stamp;
                        let content = read(lower, &at, &stamp).unwrap();
                        assert_eq!(content, format!("{name}").as_bytes());
                    }
                });
            }
        });
    }
}
