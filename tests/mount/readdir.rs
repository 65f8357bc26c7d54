//! Listing directories: everything once, whatever happens meanwhile.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use durdir_tests::lower;
use durdir_tests::support::*;

/// A directory with this many numbered files.
fn crowd(count: usize) -> Layout {
    (0..count).fold(lower! { "d" => dir() }, |layout, number| layout.with(format!("d/f{number:05}"), ""))
}

fn stream(mount: &Mount) -> DirStream {
    DirStream::open(mount.path("d")).unwrap()
}

fn visible(entries: &[Dirent]) -> Vec<OsString> {
    let names = entries.iter().map(|entry| entry.name.clone());
    names.filter(|name| name != "." && name != "..").collect()
}

/// Asserts that no name comes twice, and returns them as a set.
#[track_caller]
fn once_each(names: Vec<OsString>) -> HashSet<OsString> {
    let count = names.len();
    let set: HashSet<OsString> = names.into_iter().collect();
    assert_eq!(set.len(), count, "a name was listed twice");
    set
}

#[test]
fn dot_and_dot_dot_come_with_their_inode_numbers() {
    on_both(lower! { "d/sub" => dir() }, |mount| {
        for (path, parent) in [("d", "/"), ("d/sub", "d")] {
            let entries = DirStream::open(mount.path(path)).unwrap().rest().unwrap();
            let ino = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap().ino;
            assert_eq!((ino("."), ino("..")), (mount.ino(path), mount.ino(parent)), "{path}");
        }
    });
}

#[test]
fn types_and_inode_numbers_agree_with_stat() {
    let layout = lower! {
        "d/file" => "x", "d/dir" => dir(), "d/link" => symlink_to("x"), "d/pipe" => fifo(), "d/socket" => socket(),
        "d/char" => device(libc::S_IFCHR, 1, 3), "d/block" => device(libc::S_IFBLK, 8, 1), "d/twin" => hard_link("d/file"),
    };
    on_both(layout, |mount| {
        let entries = stream(mount).rest().unwrap();
        assert_eq!(entries.len(), 10);
        for entry in entries.iter().filter(|entry| entry.name != "." && entry.name != "..") {
            let meta = fs::symlink_metadata(mount.path("d").join(&entry.name)).unwrap();
            assert_eq!(entry.ino, meta.ino(), "{:?}", entry.name);
            assert_eq!(u32::from(entry.kind), (meta.mode() & libc::S_IFMT) >> 12, "{:?}", entry.name);
        }
    });
}

#[test]
fn empty_directory_lists_only_the_dots() {
    on_both(lower! { "d" => dir() }, |mount| {
        let mut entries = stream(mount);
        assert_eq!(entries.rest().unwrap().len(), 2);
        assert!(entries.rest().unwrap().is_empty());
    });
}

#[test]
fn ten_thousand_entries_are_listed_once_each() {
    let mount = Mount::over(crowd(5000));
    for number in 5000..10_000 {
        mount.write(format!("d/f{number:05}"), "");
    }
    let wanted: HashSet<OsString> = (0..10_000).map(|number| format!("f{number:05}").into()).collect();
    assert!(once_each(visible(&stream(&mount).rest().unwrap())) == wanted);
    let mount = mount.restart();
    assert!(once_each(visible(&stream(&mount).rest().unwrap())) == wanted);
    fs::remove_dir_all(mount.path("d")).unwrap();
    assert!(mount.names("/").is_empty());
}

#[test]
fn small_and_large_buffers_see_the_same() {
    on_both(crowd(300), |mount| {
        let whole = stream(mount).rest().unwrap();
        for capacity in [64, 200, 1000, 1 << 20] {
            let mut entries = stream(mount);
            let mut seen = Vec::new();
            loop {
                let batch = entries.next_batch(capacity).unwrap();
                if batch.is_empty() {
                    break;
                }
                seen.extend(visible(&batch));
            }
            assert_eq!(seen, visible(&whole), "buffers of {capacity}");
        }
    });
}

#[test]
fn removing_what_was_listed_does_not_hide_the_rest() {
    on_both(crowd(2000), |mount| {
        let mut entries = stream(mount);
        let mut seen = Vec::new();
        loop {
            let batch = entries.next_batch(1000).unwrap();
            if batch.is_empty() {
                break;
            }
            for name in visible(&batch) {
                fs::remove_file(mount.path("d").join(&name)).unwrap();
                seen.push(name);
            }
        }
        assert_eq!(once_each(seen).len(), 2000);
        assert!(mount.names("d").is_empty());
    });
}

#[test]
fn creating_meanwhile_neither_repeats_nor_hides_what_was_there() {
    on_both(crowd(1000), |mount| {
        let mut entries = stream(mount);
        let mut seen = Vec::new();
        for round in 0.. {
            let batch = entries.next_batch(2000).unwrap();
            if batch.is_empty() {
                break;
            }
            seen.extend(visible(&batch));
            for name in ["a", "f00500-", "z"] {
                mount.write(format!("d/{name}{round}"), "");
            }
        }
        let seen = once_each(seen);
        let missing =
            (0..1000).map(|number| OsString::from(format!("f{number:05}"))).find(|name| !seen.contains(name));
        assert_eq!(missing, None);
    });
}

#[test]
fn renaming_meanwhile_does_not_repeat_a_name() {
    on_both(crowd(1000), |mount| {
        let mut entries = stream(mount);
        let mut seen = visible(&entries.next_batch(4000).unwrap());
        for number in 0..1000 {
            fs::rename(mount.path(format!("d/f{number:05}")), mount.path(format!("d/g{number:05}"))).unwrap();
        }
        seen.extend(visible(&entries.rest().unwrap()));
        once_each(seen);
        assert_eq!(mount.names("d").len(), 1000);
    });
}

#[test]
fn position_can_be_returned_to() {
    on_both(crowd(500), |mount| {
        let mut entries = stream(mount);
        let whole = entries.rest().unwrap();
        for at in [0, 1, 2, 250, 498, 501] {
            entries.seek(whole[at].next).unwrap();
            assert_eq!(entries.rest().unwrap(), whole[at + 1..], "after entry {at}");
        }
        entries.seek(0).unwrap();
        assert_eq!(entries.rest().unwrap(), whole);
    });
}

#[test]
fn position_holds_for_another_handle_and_over_removals_before_it() {
    on_both(crowd(500), |mount| {
        let whole = stream(mount).rest().unwrap();
        for entry in whole[..200].iter().filter(|entry| entry.name != "." && entry.name != "..") {
            fs::remove_file(mount.path("d").join(&entry.name)).unwrap();
        }
        let mut another = stream(mount);
        another.seek(whole[300].next).unwrap();
        assert_eq!(visible(&another.rest().unwrap()), visible(&whole[301..]));
    });
}

#[test]
fn rewinding_shows_what_changed() {
    on_both(lower! { "d/a" => "", "d/b" => "" }, |mount| {
        let mut entries = stream(mount);
        assert_eq!(entries.rest().unwrap().len(), 4);
        mount.write("d/c", "");
        fs::remove_file(mount.path("d/a")).unwrap();
        entries.seek(0).unwrap();
        assert_eq!(once_each(visible(&entries.rest().unwrap())), HashSet::from(["b".into(), "c".into()]));
    });
}

#[test]
fn order_does_not_change_between_listings() {
    on_both(crowd(300), |mount| {
        let first = visible(&stream(mount).rest().unwrap());
        assert_eq!(visible(&stream(mount).rest().unwrap()), first);
    });
}

#[test]
fn names_of_255_bytes_fill_a_directory() {
    let mount = Mount::empty();
    fs::create_dir(mount.path("d")).unwrap();
    let names: HashSet<OsString> = (0..200u8)
        .map(|number| OsString::from_vec([&[0xff; 252][..], format!("{number:03}").as_bytes()].concat()))
        .collect();
    for name in &names {
        mount.write(std::path::Path::new("d").join(name), "");
    }
    let mount = mount.restart();
    assert!(once_each(visible(&stream(&mount).rest().unwrap())) == names);
}

#[test]
fn listing_while_others_create_and_remove_keeps_what_stays() {
    let mount = Mount::over(crowd(300));
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let mount = &mount;
            scope.spawn(move || {
                for round in 0..300 {
                    let path = mount.path(format!("d/w{worker}-{round}"));
                    File::create(&path).unwrap();
                    fs::remove_file(path).unwrap();
                }
            });
        }
        for _ in 0..30 {
            let seen = once_each(visible(&stream(&mount).rest().unwrap()));
            let missing = (0..300)
                .map(|number| OsString::from(format!("f{number:05}")))
                .find(|name| !seen.contains(name));
            assert_eq!(missing, None);
        }
    });
    assert_eq!(mount.names("d").len(), 300);
}

#[test]
fn listing_and_stat_of_everything_agree_after_many_changes() {
    let mount = Mount::over(crowd(400));
    for number in (0..400).step_by(3) {
        fs::remove_file(mount.path(format!("d/f{number:05}"))).unwrap();
    }
    for number in (1..400).step_by(3) {
        fs::rename(mount.path(format!("d/f{number:05}")), mount.path(format!("d/n{number:05}"))).unwrap();
    }
    let listed = visible(&stream(&mount).rest().unwrap());
    for name in &listed {
        fs::symlink_metadata(mount.path("d").join(name)).unwrap();
    }
    let mount = mount.restart();
    assert_eq!(once_each(listed), once_each(visible(&stream(&mount).rest().unwrap())));
}
