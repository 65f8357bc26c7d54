//! Names: what finds an object, what does not, and with which errno.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

/// A name of every byte that a name may have, in pieces that are short enough.
fn odd_names() -> Vec<OsString> {
    let bytes: Vec<u8> = (1..=255).filter(|&byte| byte != b'/').collect();
    let mut names: Vec<OsString> =
        bytes.chunks(100).map(|chunk| OsString::from_vec(chunk.to_vec())).collect();
    names.extend(
        ["...", " ", "\n", "a\\b", "*", "-rf", ".wh.a", ".hidden", "caf\u{e9}", "cafe\u{301}"]
            .map(OsString::from),
    );
    names.push(OsString::from_vec(vec![0xff; 255]));
    names
}

#[test]
fn missing_name_is_enoent() {
    let mount = Mount::over(lower! { "d/a" => "" });
    assert_errno!(fs::symlink_metadata(mount.path("missing")), ENOENT);
    assert_errno!(fs::symlink_metadata(mount.path("d/missing")), ENOENT);
    assert_errno!(fs::symlink_metadata(mount.path("missing/a")), ENOENT);
}

#[test]
fn file_in_the_middle_of_a_path_is_enotdir() {
    on_both(lower! { "file" => "x" }, |mount| {
        assert_errno!(fs::symlink_metadata(mount.path("file/a")), ENOTDIR);
        assert_errno!(fs::symlink_metadata(mount.path("file/.")), ENOTDIR);
        assert_errno!(fs::symlink_metadata(mount.path("file/")), ENOTDIR);
    });
}

#[test]
fn dot_and_dot_dot_lead_to_the_directory_and_its_parent() {
    on_both(lower! { "a/b/c" => "" }, |mount| {
        assert_eq!(mount.ino("a/b/."), mount.ino("a/b"));
        assert_eq!(mount.ino("a/b/.."), mount.ino("a"));
        assert_eq!(mount.ino("a/b/../../a/b/c"), mount.ino("a/b/c"));
    });
}

#[test]
fn names_are_bytes() {
    let names = odd_names();
    let mut layout = lower! {};
    for (number, name) in names.iter().enumerate() {
        layout = layout.with(PathBuf::from("d").join(name), number.to_string().as_str());
    }
    on_both(layout, |mount| {
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(mount.names("d"), sorted);
        for (number, name) in names.iter().enumerate() {
            assert_eq!(mount.text(PathBuf::from("d").join(name)), number.to_string());
        }
    });
}

#[test]
fn odd_names_survive_a_restart() {
    let mount = Mount::empty();
    let mut names = odd_names();
    for name in &names {
        mount.write(name, name.as_encoded_bytes());
    }
    let mount = mount.restart();
    names.sort();
    assert_eq!(mount.names("/"), names);
    for name in &names {
        assert_eq!(mount.read(name), name.as_encoded_bytes());
    }
}

#[test]
fn case_matters() {
    let mount = Mount::over(lower! { "readme" => "small" });
    assert_errno!(fs::symlink_metadata(mount.path("README")), ENOENT);
    mount.write("README", "large");
    assert_eq!(mount.text("readme"), "small");
}

#[test]
fn name_of_255_bytes_is_fine_and_256_is_too_long() {
    let mount = Mount::over(lower! { "file" => "" });
    let (longest, too_long) = ("n".repeat(255), "n".repeat(256));
    mount.write(&longest, "x");
    fs::rename(mount.path(&longest), mount.path("m".repeat(255))).unwrap();

    let (file, target) = (mount.path("file"), mount.path(&too_long));
    assert_errno!(fs::symlink_metadata(&target), ENAMETOOLONG);
    assert_errno!(fs::File::create(&target), ENAMETOOLONG);
    assert_errno!(fs::create_dir(&target), ENAMETOOLONG);
    assert_errno!(mkfifo(&target, 0o600), ENAMETOOLONG);
    assert_errno!(std::os::unix::fs::symlink("t", &target), ENAMETOOLONG);
    assert_errno!(fs::hard_link(&file, &target), ENAMETOOLONG);
    assert_errno!(fs::rename(&file, &target), ENAMETOOLONG);
    assert_errno!(fs::rename(&target, &file), ENAMETOOLONG);
    assert_errno!(fs::remove_file(&target), ENAMETOOLONG);
    assert_errno!(fs::remove_dir(&target), ENAMETOOLONG);
}

#[test]
fn name_that_was_missing_is_found_once_it_exists() {
    let mount = Mount::empty();
    for round in 0..3 {
        assert_errno!(fs::read(mount.path("late")), ENOENT);
        mount.write("late", round.to_string());
        assert_eq!(mount.text("late"), round.to_string());
        fs::remove_file(mount.path("late")).unwrap();
    }
}

#[test]
fn every_object_is_on_the_device_of_the_mount() {
    on_both(lower! { "d/file" => "x", "d/link" => symlink_to("file") }, |mount| {
        let device = mount.stat("/").dev();
        for path in ["d", "d/file", "d/link"] {
            assert_eq!(mount.stat(path).dev(), device, "{path}");
        }
        if !mount.is_plain() {
            assert_ne!(fs::metadata(mount.root().parent().unwrap()).unwrap().dev(), device);
        }
    });
}

#[test]
fn searching_a_directory_needs_its_execute_bit() {
    let layout = lower! {
        "open/file" => "x",
        "open" => dir().mode(0o755),
        "listed/file" => "x",
        "listed" => dir().mode(0o744),
        "passed/file" => "x",
        "passed" => dir().mode(0o711),
    };
    on_both(layout, |mount| {
        as_user(User::ANN, || {
            assert!(fs::symlink_metadata(mount.path("open/file")).is_ok());
            assert_eq!(names_in(mount.path("listed")).unwrap(), ["file"]);
            assert_errno!(fs::symlink_metadata(mount.path("listed/file")), EACCES);
            assert!(fs::symlink_metadata(mount.path("passed/file")).is_ok());
            assert_errno!(names_in(mount.path("passed")), EACCES);
        });
    });
}

#[test]
fn deep_paths_work() {
    let mount = Mount::empty();
    let mut path = PathBuf::new();
    for depth in 0..120 {
        path.push(format!("level-{depth:03}"));
    }
    fs::create_dir_all(mount.path(&path)).unwrap();
    mount.write(path.join("leaf"), "deep");
    let mount = mount.restart();
    assert_eq!(mount.text(path.join("leaf")), "deep");
}
