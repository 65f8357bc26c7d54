//! Memory-mapped files.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use durdir_tests::lower;
use durdir_tests::support::*;

const LEN: usize = 3 * 4096;

fn update(mount: &Mount) -> File {
    open(mount.path("file"), libc::O_RDWR, 0).unwrap()
}

#[test]
fn mapping_shows_the_file() {
    on_both(lower! { "file" => noise(1, 0, LEN) }, |mount| {
        let map = Mapping::shared_read_only(&File::open(mount.path("file")).unwrap(), LEN).unwrap();
        assert!(map.read(0, LEN) == noise(1, 0, LEN));
    });
}

#[test]
fn store_through_a_shared_mapping_is_in_the_file() {
    on_both(lower! { "file" => noise(1, 0, LEN) }, |mount| {
        let file = update(mount);
        let map = Mapping::shared(&file, LEN).unwrap();
        map.write(5000, b"stored");
        let mut seen = [0; 6];
        file.read_exact_at(&mut seen, 5000).unwrap();
        assert_eq!(&seen, b"stored");
        map.sync().unwrap();
        assert_eq!(&mount.read("file")[5000..5006], b"stored");
        assert!(mount.read("file")[..5000] == noise(1, 0, 5000));
    });
}

#[test]
fn shared_mapping_outlives_its_descriptor_and_its_stores_the_mapping() {
    let mount = Mount::over(lower! { "file" => noise(1, 0, LEN) });
    let map = Mapping::shared(&update(&mount), LEN).unwrap();
    map.write(0, b"first");
    map.write(LEN - 4, b"last");
    drop(map);
    let mount = mount.restart();
    let seen = mount.read("file");
    assert_eq!((&seen[..5], &seen[LEN - 4..]), (&b"first"[..], &b"last"[..]));
    assert!(seen[5..LEN - 4] == noise(1, 0, LEN)[5..LEN - 4]);
}

#[test]
fn write_is_seen_in_every_shared_mapping() {
    on_both(lower! { "file" => noise(1, 0, LEN) }, |mount| {
        let reader = Mapping::shared_read_only(&File::open(mount.path("file")).unwrap(), LEN).unwrap();
        assert!(reader.read(4096, 7) == noise(1, 4096, 7));
        update(mount).write_all_at(b"written", 4096).unwrap();
        assert_eq!(reader.read(4096, 7), b"written");
        let writer = Mapping::shared(&update(mount), LEN).unwrap();
        writer.write(0, b"stored");
        assert_eq!(reader.read(0, 6), b"stored");
    });
}

#[test]
fn store_through_a_private_mapping_stays_private() {
    on_both(lower! { "file" => noise(1, 0, LEN) }, |mount| {
        let map = Mapping::private(&File::open(mount.path("file")).unwrap(), LEN).unwrap();
        map.write(10, b"private");
        assert_eq!(map.read(10, 7), b"private");
        assert!(mount.read("file") == noise(1, 0, LEN));
    });
}

#[test]
fn mapping_of_an_unlinked_file_goes_on() {
    on_both(lower! { "file" => noise(1, 0, LEN) }, |mount| {
        let file = update(mount);
        let map = Mapping::shared(&file, LEN).unwrap();
        fs::remove_file(mount.path("file")).unwrap();
        drop(file);
        map.write(0, b"gone");
        map.sync().unwrap();
        assert!(map.read(4096, 4096) == noise(1, 4096, 4096));
        assert_eq!(map.read(0, 4), b"gone");
    });
}

#[test]
fn bytes_behind_the_end_of_the_file_do_not_reach_it() {
    on_both(lower! { "file" => noise(1, 0, 5000) }, |mount| {
        let file = update(mount);
        let map = Mapping::shared(&file, 8192).unwrap();
        assert_eq!(map.read(5000, 3192), vec![0; 3192]);
        map.write(4990, &[7; 100]);
        map.sync().unwrap();
        assert_eq!(mount.stat("file").len(), 5000);
        file.set_len(8192).unwrap();
        let seen = mount.read("file");
        assert_eq!((&seen[4990..5000], &seen[5000..]), (&[7; 10][..], &[0; 3192][..]));
    });
}

#[test]
fn growing_a_mapped_file_makes_its_new_pages_usable() {
    let mount = Mount::empty();
    mount.write("file", "");
    let file = update(&mount);
    file.set_len(1 << 20).unwrap();
    let map = Mapping::shared(&file, 1 << 20).unwrap();
    map.write(700_000, &noise(3, 0, 10_000));
    drop((map, file));
    let mount = mount.restart();
    let seen = mount.read("file");
    assert!(seen[700_000..710_000] == noise(3, 0, 10_000));
    assert!(seen[..700_000].iter().all(|&byte| byte == 0));
}

#[test]
fn mapping_and_fsync_of_another_descriptor_work_together() {
    on_both(lower! { "file" => noise(1, 0, LEN) }, |mount| {
        let map = Mapping::shared(&update(mount), LEN).unwrap();
        map.write(4096, b"dirty");
        let other = update(mount);
        other.sync_all().unwrap();
        drop_cached_pages(&other).unwrap();
        assert_eq!(&mount.read("file")[4096..4101], b"dirty");
    });
}

#[test]
fn programs_run_from_the_mount() {
    let mount = Mount::empty();
    copy_program("/bin/true", mount.path("tool"));
    program_at(&mount.path("tool"), "coreutils").ok();
    write_script(mount.path("script"), "#!/bin/sh\necho hello from $1\n");
    let mount = mount.restart();
    program_at(&mount.path("tool"), "coreutils").ok();
    assert_eq!(program_at(&mount.path("script"), "dash").arg("here").ok().text(), "hello from here\n");
}

#[test]
fn private_mapping_of_a_program_in_the_lower_runs() {
    let mount = Mount::over(lower! { "tool" => file(fs::read("/bin/true").unwrap()).mode(0o755) });
    program_at(&mount.path("tool"), "coreutils").ok();
    // Metadata copied up, content still below.
    chmod(mount.path("tool"), 0o700).unwrap();
    program_at(&mount.path("tool"), "coreutils").ok();
}
