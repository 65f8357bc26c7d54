//! Renaming directories that come from a lower: nothing is copied, and nobody can tell.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};
use libc::{RENAME_EXCHANGE, RENAME_NOREPLACE};

fn project() -> Layout {
    lower! {
        "src/lib.rs" => "lib", "src/deep/a" => "a", "src/deep/b" => "b", "src/deep/er/c" => noise(1, 0, 100_000),
        "docs/readme" => "r", "src" => dir().mode(0o750).mtime(1_000_000, 1).xattr("user.k", "v"),
    }
}

#[test]
fn lower_directory_is_renamed_without_exdev() {
    let mount = Mount::over(project());
    let ino = mount.ino("src");
    fs::rename(mount.path("src"), mount.path("source")).unwrap();
    let check = |mount: &Mount| {
        assert_eq!(mount.names("/"), ["docs", "source"]);
        assert_eq!(
            (mount.names("source"), mount.names("source/deep")),
            (vec!["deep".into(), "lib.rs".into()], vec!["a".into(), "b".into(), "er".into()])
        );
        assert!(mount.read("source/deep/er/c") == noise(1, 0, 100_000));
        assert_eq!((mount.ino("source"), mount.mode("source")), (ino, 0o750));
        assert_eq!(get_xattr(mount.path("source"), "user.k").unwrap(), b"v");
        assert_errno!(fs::symlink_metadata(mount.path("src/lib.rs")), ENOENT);
    };
    check(&mount);
    check(&mount.restart());
}

#[test]
fn inode_numbers_below_a_renamed_directory_stay() {
    let mount = Mount::over(project());
    let paths = ["lib.rs", "deep", "deep/a", "deep/er/c"];
    let before: Vec<u64> = paths.iter().map(|path| mount.ino(format!("src/{path}"))).collect();
    fs::rename(mount.path("src"), mount.path("docs/moved")).unwrap();
    let after: Vec<u64> = paths.iter().map(|path| mount.ino(format!("docs/moved/{path}"))).collect();
    assert_eq!(before, after);
    let mount = mount.restart();
    let after: Vec<u64> = paths.iter().map(|path| mount.ino(format!("docs/moved/{path}"))).collect();
    assert_eq!(before, after);
}

#[test]
fn renamed_directory_can_be_changed_like_any_other() {
    let mount = Mount::over(project());
    fs::rename(mount.path("src"), mount.path("source")).unwrap();
    mount.write("source/lib.rs", "changed");
    mount.write("source/deep/new", "new");
    fs::remove_file(mount.path("source/deep/a")).unwrap();
    fs::rename(mount.path("source/deep/b"), mount.path("b")).unwrap();
    chmod(mount.path("source/deep/er/c"), 0o600).unwrap();
    let mount = mount.restart();
    assert_eq!(
        (mount.text("source/lib.rs"), mount.text("source/deep/new"), mount.text("b")),
        ("changed".into(), "new".into(), "b".into())
    );
    assert_eq!(
        (mount.names("source/deep"), mount.mode("source/deep/er/c")),
        (vec!["er".into(), "new".into()], 0o600)
    );
}

#[test]
fn directory_is_renamed_after_it_was_changed() {
    let mount = Mount::over(project());
    mount.write("src/new", "new");
    fs::remove_file(mount.path("src/lib.rs")).unwrap();
    mount.write("src/deep/a", "changed");
    fs::rename(mount.path("src"), mount.path("source")).unwrap();
    let mount = mount.restart();
    assert_eq!(
        (mount.names("source"), mount.text("source/deep/a")),
        (vec!["deep".into(), "new".into()], "changed".into())
    );
}

#[test]
fn old_name_can_be_used_again_and_shows_nothing_old() {
    let mount = Mount::over(project());
    fs::rename(mount.path("src"), mount.path("source")).unwrap();
    fs::create_dir(mount.path("src")).unwrap();
    mount.write("src/fresh", "f");
    fs::create_dir(mount.path("src/deep")).unwrap();
    let mount = mount.restart();
    assert_eq!((mount.names("src"), mount.names("src/deep").len()), (vec!["deep".into(), "fresh".into()], 0));
    assert_eq!(mount.names("source"), ["deep", "lib.rs"]);
}

#[test]
fn directory_is_renamed_again_and_again_and_back() {
    let mut mount = Mount::over(project());
    let mut name = "src".to_owned();
    for round in 0..5 {
        let next = format!("docs/name-{round}");
        fs::rename(mount.path(&name), mount.path(&next)).unwrap();
        name = next;
        mount = mount.remount();
        assert_eq!(mount.names(&name), ["deep", "lib.rs"]);
    }
    fs::rename(mount.path(&name), mount.path("src")).unwrap();
    let mount = mount.restart();
    assert_same_tree(mount.lowers()[0].path().join("src"), mount.path("src"));
}

#[test]
fn nested_renames_do_not_get_confused() {
    let mount = Mount::over(project());
    fs::rename(mount.path("src/deep/er"), mount.path("src/deep/renamed")).unwrap();
    fs::rename(mount.path("src/deep"), mount.path("docs/deep")).unwrap();
    fs::rename(mount.path("docs"), mount.path("src/docs")).unwrap();
    fs::rename(mount.path("src"), mount.path("everything")).unwrap();
    let mount = mount.restart();
    assert_eq!(mount.names("/"), ["everything"]);
    assert!(mount.read("everything/docs/deep/renamed/c") == noise(1, 0, 100_000));
    assert_eq!(mount.text("everything/docs/readme"), "r");
    assert_eq!(mount.names("everything"), ["docs", "lib.rs"]);
}

#[test]
fn two_lower_directories_trade_places() {
    let mount = Mount::over(lower! { "a/one" => "1", "a/same" => "a", "b/two" => "2", "b/same" => "b" });
    rename_with(mount.path("a"), mount.path("b"), RENAME_EXCHANGE).unwrap();
    let mount = mount.restart();
    assert_eq!((mount.names("a"), mount.text("a/same")), (vec!["same".into(), "two".into()], "b".into()));
    assert_eq!((mount.names("b"), mount.text("b/same")), (vec!["one".into(), "same".into()], "a".into()));
    fs::remove_dir_all(mount.path("b")).unwrap();
    rename_with(mount.path("a"), mount.path("b"), RENAME_NOREPLACE).unwrap();
    let mount = mount.restart();
    assert_eq!((mount.names("/"), mount.text("b/same")), (vec!["b".into()], "b".into()));
}

#[test]
fn renamed_directory_replaces_an_emptied_lower_one() {
    let mount = Mount::over(lower! { "from/a" => "1", "to/b" => "2", "to/c" => "3" });
    fs::remove_file(mount.path("to/b")).unwrap();
    fs::remove_file(mount.path("to/c")).unwrap();
    fs::rename(mount.path("from"), mount.path("to")).unwrap();
    let mount = mount.restart();
    assert_eq!((mount.names("/"), mount.names("to")), (vec!["to".into()], vec!["a".into()]));
}

#[test]
fn new_directory_moved_over_a_removed_lower_one_does_not_merge_with_it() {
    let mount = Mount::over(lower! { "d/old" => "1" });
    fs::create_dir(mount.path("new")).unwrap();
    mount.write("new/fresh", "2");
    fs::remove_dir_all(mount.path("d")).unwrap();
    fs::rename(mount.path("new"), mount.path("d")).unwrap();
    let mount = mount.restart();
    assert_eq!(mount.names("d"), ["fresh"]);
}

#[test]
fn new_directory_moved_to_where_a_lower_has_one_elsewhere_does_not_merge_with_it() {
    let mount = Mount::over(lower! { "p/d/old" => "1", "q/x" => "" });
    fs::create_dir(mount.path("q/d")).unwrap();
    mount.write("q/d/fresh", "2");
    fs::rename(mount.path("p/d"), mount.path("moved")).unwrap();
    fs::rename(mount.path("q/d"), mount.path("p/d")).unwrap();
    let mount = mount.restart();
    assert_eq!((mount.names("p/d"), mount.names("moved")), (vec!["fresh".into()], vec!["old".into()]));
}

#[test]
fn directory_merged_from_two_lowers_is_renamed_whole() {
    let mount = Mount::over_stack(&[
        lower! { "d/top" => "t", "d/both" => "top" },
        lower! { "d/bottom" => "b", "d/both" => "bottom" },
    ]);
    mount.write("d/upper", "u");
    fs::rename(mount.path("d"), mount.path("e")).unwrap();
    let mount = mount.restart();
    assert_eq!(
        (mount.names("e"), mount.text("e/both")),
        (vec!["both".into(), "bottom".into(), "top".into(), "upper".into()], "top".into())
    );
}

#[test]
fn removed_renamed_directory_is_gone_under_both_names() {
    let mount = Mount::over(project());
    fs::rename(mount.path("src"), mount.path("source")).unwrap();
    fs::remove_dir_all(mount.path("source")).unwrap();
    let mount = mount.restart();
    assert_eq!(mount.names("/"), ["docs"]);
    fs::create_dir(mount.path("src")).unwrap();
    fs::create_dir(mount.path("source")).unwrap();
    assert!(mount.names("src").is_empty() && mount.names("source").is_empty());
}

#[test]
fn hard_links_of_a_lower_stay_linked_over_renames_of_their_directories() {
    let mount = Mount::over(lower! { "a/x" => "old", "b/y" => hard_link("a/x") });
    fs::rename(mount.path("a"), mount.path("c")).unwrap();
    mount.write("b/y", "new");
    let mount = mount.restart();
    assert_eq!(
        (mount.text("c/x"), mount.ino("c/x"), mount.stat("c/x").nlink()),
        ("new".into(), mount.ino("b/y"), 2)
    );
}

#[test]
fn renaming_a_large_lower_tree_is_quick_and_takes_no_room() {
    let mut layout = lower! {};
    for number in 0..2000 {
        layout = layout.with(format!("tree/{}/{number}", number / 100), noise(number, 0, 5000));
    }
    let mount = Mount::over(layout);
    mount.write("warm", noise(1, 0, 8192));
    let before = mount.store().allocated();
    let started = Instant::now();
    fs::rename(mount.path("tree"), mount.path("moved")).unwrap();
    let elapsed = started.elapsed();
    // Nothing is copied, which the room shows; a machine with other work may stop for a moment.
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
    assert!(mount.store().allocated().saturating_sub(before) < 64 * KIB);
    assert_same_tree(mount.lowers()[0].path().join("tree"), mount.path("moved"));
}
