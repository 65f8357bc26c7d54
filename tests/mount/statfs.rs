//! What `df` shows.

use durdir_tests::lower;
use durdir_tests::support::*;
use nix::sys::statvfs::{FsFlags, statvfs};

#[test]
fn limits_and_sizes_make_sense() {
    let mount = Mount::over(lower! { "file" => "x" });
    let stat = statvfs(mount.root()).unwrap();
    assert_eq!(stat.name_max(), 255);
    assert!(stat.block_size() >= 512 && stat.fragment_size() >= 512);
    assert!(stat.blocks() >= stat.blocks_free() && stat.blocks_free() >= stat.blocks_available());
    assert!(stat.blocks_available() > 0 && stat.files() >= stat.files_free() && stat.files_free() > 0);
    assert!(!stat.flags().contains(FsFlags::ST_RDONLY));
}

#[test]
fn every_object_answers_for_the_whole() {
    on_both(lower! { "d/file" => "x" }, |mount| {
        let whole = statvfs(mount.root()).unwrap();
        let part = statvfs(&mount.path("d/file")).unwrap();
        assert_eq!((whole.blocks(), whole.name_max()), (part.blocks(), part.name_max()));
    });
}

#[test]
fn room_without_a_quota_is_that_of_the_disk() {
    let mount = Mount::empty();
    let (inside, outside) =
        (statvfs(mount.root()).unwrap(), statvfs(mount.root().parent().unwrap()).unwrap());
    let room = |stat: nix::sys::statvfs::Statvfs| stat.blocks_available() * stat.fragment_size();
    let (inside, outside) = (room(inside), room(outside));
    // Other tests fill and empty the same disk meanwhile; the store keeps a reserve.
    assert!(
        inside <= outside + 2 * GIB && inside + outside / 4 + 2 * GIB >= outside,
        "{inside} of {outside}"
    );
}
