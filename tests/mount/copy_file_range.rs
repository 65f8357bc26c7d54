//! Copies made by the kernel: inside a volume nothing but extents is copied, and the two files do
//! not know of each other afterwards.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

fn update(mount: &Mount, name: &str) -> File {
    open(mount.path(name), libc::O_RDWR | libc::O_CREAT, 0o644).unwrap()
}

#[test]
fn copy_is_equal_and_independent() {
    for size in [10, 4096, 5000, 200_000, 2_000_000] {
        on_both(lower! { "from" => noise(1, 0, size) }, |mount| {
            let (from, to) = (update(mount, "from"), update(mount, "to"));
            copy_whole_range(&from, &to, size).unwrap();
            assert!(mount.read("to") == noise(1, 0, size), "copy of {size}");
            from.write_all_at(b"FROM", 2).unwrap();
            to.write_all_at(b"TO", (size - 2) as u64).unwrap();
            for file in [&from, &to] {
                drop_cached_pages(file).unwrap();
            }
            let mut wanted = noise(1, 0, size);
            wanted[size - 2..].copy_from_slice(b"TO");
            assert!(mount.read("to") == wanted, "changed copy of {size}");
            wanted = noise(1, 0, size);
            wanted[2..6].copy_from_slice(b"FROM");
            assert!(mount.read("from") == wanted, "changed source of {size}");
        });
    }
}

#[test]
fn copy_outlives_its_source() {
    let mount = Mount::over(lower! { "low" => noise(1, 0, 500_000) });
    mount.write("up", noise(2, 0, 500_000));
    for name in ["low", "up"] {
        copy_whole_range(&update(&mount, name), &update(&mount, &format!("{name}-copy")), 500_000).unwrap();
        fs::remove_file(mount.path(name)).unwrap();
    }
    let mount = mount.restart();
    assert!(mount.read("low-copy") == noise(1, 0, 500_000));
    assert!(mount.read("up-copy") == noise(2, 0, 500_000));
}

#[test]
fn ranges_at_odd_offsets_are_copied_exactly() {
    for (from_offset, to_offset, len) in
        [(0, 0, 1), (1, 4095, 5000), (4096, 0, 4096), (70_000, 3, 65_536), (3, 250_000, 100)]
    {
        on_both(lower! { "from" => noise(1, 0, 200_000), "to" => noise(2, 0, 200_000) }, |mount| {
            let (from, to) = (update(mount, "from"), update(mount, "to"));
            let mut done = 0;
            while done < len {
                let step = i64::try_from(done).unwrap();
                done += copy_range(&from, from_offset + step, &to, to_offset + step, len - done).unwrap();
            }
            let (source, target) =
                (usize::try_from(from_offset).unwrap(), usize::try_from(to_offset).unwrap());
            let mut wanted = noise(2, 0, 200_000);
            wanted.resize(wanted.len().max(target + len), 0);
            wanted[target..target + len].copy_from_slice(&noise(1, 0, 200_000)[source..source + len]);
            drop_cached_pages(&to).unwrap();
            assert!(mount.read("to") == wanted, "{len} bytes from {from_offset} to {to_offset}");
            assert!(mount.read("from") == noise(1, 0, 200_000));
        });
    }
}

#[test]
fn copy_inside_one_file_works_where_the_ranges_do_not_overlap() {
    on_both(lower! { "file" => noise(1, 0, 200_000) }, |mount| {
        let file = update(mount, "file");
        assert_eq!(copy_range(&file, 0, &file, 100_000, 50_000).unwrap(), 50_000);
        let mut wanted = noise(1, 0, 200_000);
        wanted.copy_within(..50_000, 100_000);
        assert!(mount.read("file") == wanted);
        assert_errno!(copy_range(&file, 0, &file, 1000, 50_000), EINVAL);
        assert!(mount.read("file") == wanted);
    });
}

#[test]
fn copy_ends_at_the_end_of_the_source() {
    on_both(lower! { "from" => noise(1, 0, 10_000) }, |mount| {
        let (from, to) = (update(mount, "from"), update(mount, "to"));
        assert_eq!(copy_range(&from, 10_000, &to, 0, 100).unwrap(), 0);
        assert_eq!(copy_range(&from, 50_000, &to, 0, 100).unwrap(), 0);
        assert_eq!(copy_range(&from, 9000, &to, 0, 5000).unwrap(), 1000);
        assert_eq!(mount.read("to"), noise(1, 9000, 1000));
    });
}

#[test]
fn copy_behind_the_end_of_the_target_leaves_zeros_between() {
    on_both(lower! { "from" => noise(1, 0, 10_000), "to" => "start" }, |mount| {
        copy_range(&update(mount, "from"), 0, &update(mount, "to"), 20_000, 10_000).unwrap();
        let mut wanted = b"start".to_vec();
        wanted.resize(20_000, 0);
        wanted.extend(noise(1, 0, 10_000));
        assert!(mount.read("to") == wanted);
    });
}

#[test]
fn copied_holes_read_as_zeros() {
    on_both(
        lower! { "from" => sparse(1 << 20, &[(500_000, b"island")]), "to" => vec![7; 1 << 20] },
        |mount| {
            copy_whole_range(&update(mount, "from"), &update(mount, "to"), 1 << 20).unwrap();
            assert!(mount.read("to") == mount.read("from"));
            assert_eq!(&mount.read("to")[500_000..500_006], b"island");
        },
    );
}

#[test]
fn holes_are_not_stored_in_the_copy() {
    on_both(lower! { "old" => vec![7; 1 << 20] }, |mount| {
        let from = update(mount, "from");
        from.set_len(64 << 20).unwrap();
        for at in [0, 8192, 5 << 20, (64 << 20) - 4096] {
            from.write_all_at(&noise(at, 0, 4096), at).unwrap();
        }
        // Over nothing, and over what a lower has.
        let old = if mount.path("old").exists() { "old" } else { "new" };
        for target in ["to", old] {
            let to = update(mount, target);
            copy_whole_range(&from, &to, 64 << 20).unwrap();
            drop_cached_pages(&to).unwrap();
            assert!(mount.read(target) == mount.read("from"), "{target}");
        }
        assert_eq!(mount.stat("to").blocks(), mount.stat("from").blocks());
    });
}

#[test]
fn what_is_just_written_is_in_the_copy() {
    let mount = Mount::empty();
    let (from, to) = (update(&mount, "from"), update(&mount, "to"));
    for round in 0..20u64 {
        from.write_all_at(&noise(round, 0, 30_000), 0).unwrap();
        copy_whole_range(&from, &to, 30_000).unwrap();
        assert!(mount.read("to") == noise(round, 0, 30_000), "round {round}");
    }
}

#[test]
fn stores_through_a_mapping_are_in_the_copy() {
    on_both(lower! { "from" => noise(1, 0, 8192) }, |mount| {
        let from = update(mount, "from");
        let map = Mapping::shared(&from, 8192).unwrap();
        map.write(4000, b"dirty page");
        copy_whole_range(&from, &update(mount, "to"), 8192).unwrap();
        assert_eq!(&mount.read("to")[4000..4010], b"dirty page");
    });
}

#[test]
fn wrong_descriptors_are_refused() {
    on_both(lower! { "from" => "content", "to" => "", "d" => dir() }, |mount| {
        let (from, to) = (update(mount, "from"), update(mount, "to"));
        let write_only = open(mount.path("from"), libc::O_WRONLY, 0).unwrap();
        let read_only = File::open(mount.path("to")).unwrap();
        let appending = open(mount.path("to"), libc::O_RDWR | libc::O_APPEND, 0).unwrap();
        let directory = File::open(mount.path("d")).unwrap();
        assert_errno!(copy_range(&write_only, 0, &to, 0, 5), EBADF);
        assert_errno!(copy_range(&from, 0, &read_only, 0, 5), EBADF);
        assert_errno!(copy_range(&from, 0, &appending, 0, 5), EBADF);
        assert_errno!(copy_range(&directory, 0, &to, 0, 5), EISDIR);
    });
}

#[test]
fn set_id_bits_and_times_follow_a_copy() {
    on_both(lower! { "from" => "content", "to" => file("").mode(0o6777) }, |mount| {
        set_times(mount.path("to"), (10, 0), (20, 0)).unwrap();
        as_user(User::ANN, || {
            let from = File::open(mount.path("from")).unwrap();
            copy_range(&from, 0, &open(mount.path("to"), libc::O_RDWR, 0).unwrap(), 0, 7).unwrap();
        });
        assert_eq!((mount.text("to"), mount.mode("to")), ("content".into(), 0o777));
        assert!(mount.stat("to").mtime() > 20);
    });
}
