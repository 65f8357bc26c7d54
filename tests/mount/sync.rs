//! Asking for durability. What it is worth shows in the kill and crash suites; here it must work on
//! everything that can be opened.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use durdir_tests::lower;
use durdir_tests::support::*;

#[test]
fn fsync_and_fdatasync_work_on_files_and_directories() {
    on_both(lower! { "d/file" => "x" }, |mount| {
        let file = open(mount.path("d/file"), libc::O_RDWR, 0).unwrap();
        file.write_all_at(&noise(1, 0, 100_000), 0).unwrap();
        file.sync_all().unwrap();
        file.sync_data().unwrap();
        let dir = File::open(mount.path("d")).unwrap();
        dir.sync_all().unwrap();
        dir.sync_data().unwrap();
        File::open(mount.root()).unwrap().sync_all().unwrap();
        File::open(mount.path("d/file")).unwrap().sync_all().unwrap();
    });
}

#[test]
fn fsync_of_an_unlinked_file_works() {
    on_both(lower! { "file" => "x" }, |mount| {
        let mut file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
        std::fs::remove_file(mount.path("file")).unwrap();
        file.write_all(b"still here").unwrap();
        file.sync_all().unwrap();
    });
}

#[test]
fn syncfs_is_answered() {
    let mount = Mount::empty();
    mount.write("file", "x");
    sync_filesystem(&File::open(mount.root()).unwrap()).unwrap();
}

#[test]
fn many_threads_syncing_at_once_all_finish() {
    let mount = Mount::empty();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let mount = &mount;
            scope.spawn(move || {
                let file =
                    open(mount.path(format!("f{writer}")), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
                for round in 0..20 {
                    file.write_all_at(&noise(writer, 0, 4096), round * 4096).unwrap();
                    file.sync_data().unwrap();
                }
            });
        }
    });
}
