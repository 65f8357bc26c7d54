//! Allocating, punching and zeroing ranges.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};
use libc::{
    FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
};

const PUNCH: i32 = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

fn update(mount: &Mount) -> File {
    open(mount.path("file"), libc::O_RDWR, 0).unwrap()
}

/// Asserts the content as the page cache has it, and again as the filesystem has it.
#[track_caller]
fn holds(mount: &Mount, wanted: &[u8]) {
    assert!(mount.read("file") == wanted, "content");
    drop_cached_pages(&update(mount)).unwrap();
    assert!(mount.read("file") == wanted, "content, from the filesystem");
}

#[test]
fn allocation_extends_the_file_with_zeros() {
    on_both(lower! { "file" => noise(1, 0, 5000) }, |mount| {
        fallocate(&update(mount), 0, 4000, 10_000).unwrap();
        let mut wanted = noise(1, 0, 5000);
        wanted.resize(14_000, 0);
        holds(mount, &wanted);
        fallocate(&update(mount), 0, 0, 100).unwrap();
        holds(mount, &wanted);
    });
}

#[test]
fn allocation_that_keeps_the_size_changes_nothing_one_can_read() {
    on_both(lower! { "file" => noise(1, 0, 5000) }, |mount| {
        fallocate(&update(mount), FALLOC_FL_KEEP_SIZE, 0, 1 << 20).unwrap();
        holds(mount, &noise(1, 0, 5000));
        assert_eq!(mount.stat("file").size(), 5000);
        // The room promised beyond the end reads as zeros once the file gets there.
        update(mount).set_len(9000).unwrap();
        let mut wanted = noise(1, 0, 5000);
        wanted.resize(9000, 0);
        holds(mount, &wanted);
    });
}

#[test]
fn punched_range_reads_as_zeros_wherever_it_begins_and_ends() {
    for (offset, len) in [
        (0, 4096),
        (4096, 8192),
        (1, 10),
        (100, 4096),
        (4000, 200),
        (65_536, 65_536),
        (0, 200_000),
        (150_000, 50_000),
    ] {
        on_both(lower! { "file" => noise(1, 0, 200_000) }, |mount| {
            fallocate(&update(mount), PUNCH, offset, len).unwrap();
            let (start, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset + len).unwrap());
            let mut wanted = noise(1, 0, 200_000);
            wanted[start..end].fill(0);
            holds(mount, &wanted);
        });
    }
}

#[test]
fn punching_a_small_file_works() {
    on_both(lower! { "file" => noise(1, 0, 1000) }, |mount| {
        fallocate(&update(mount), PUNCH, 100, 200).unwrap();
        let mut wanted = noise(1, 0, 1000);
        wanted[100..300].fill(0);
        holds(mount, &wanted);
    });
}

#[test]
fn punching_behind_the_end_changes_nothing() {
    on_both(lower! { "file" => noise(1, 0, 10_000) }, |mount| {
        fallocate(&update(mount), PUNCH, 20_000, 10_000).unwrap();
        holds(mount, &noise(1, 0, 10_000));
        fallocate(&update(mount), PUNCH, 8000, 10_000).unwrap();
        let mut wanted = noise(1, 0, 10_000);
        wanted[8000..].fill(0);
        holds(mount, &wanted);
        assert_eq!(mount.stat("file").size(), 10_000);
    });
}

#[test]
fn punching_gives_the_blocks_back() {
    on_both(lower! { "file" => noise(1, 0, 1 << 20) }, |mount| {
        let file = update(mount);
        file.sync_all().unwrap();
        fallocate(&file, PUNCH, 0, 1 << 20).unwrap();
        assert_eq!(mount.stat("file").size(), 1 << 20);
        assert!(mount.stat("file").blocks() * 512 <= 64 * KIB, "{}", mount.stat("file").blocks());
    });
}

#[test]
fn zeroed_range_reads_as_zeros() {
    on_both(lower! { "file" => noise(1, 0, 100_000) }, |mount| {
        fallocate(&update(mount), FALLOC_FL_ZERO_RANGE, 5000, 50_000).unwrap();
        let mut wanted = noise(1, 0, 100_000);
        wanted[5000..55_000].fill(0);
        holds(mount, &wanted);
        fallocate(&update(mount), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 90_000, 50_000).unwrap();
        wanted[90_000..].fill(0);
        holds(mount, &wanted);
        fallocate(&update(mount), FALLOC_FL_ZERO_RANGE, 99_000, 11_000).unwrap();
        wanted.resize(110_000, 0);
        holds(mount, &wanted);
    });
}

#[test]
fn everything_stays_after_a_restart() {
    let mount = Mount::over(lower! { "file" => noise(1, 0, 300_000) });
    let file = update(&mount);
    fallocate(&file, PUNCH, 10_000, 100_000).unwrap();
    fallocate(&file, FALLOC_FL_ZERO_RANGE, 200_000, 10_000).unwrap();
    fallocate(&file, 0, 300_000, 50_000).unwrap();
    drop(file);
    let mut wanted = noise(1, 0, 300_000);
    wanted[10_000..110_000].fill(0);
    wanted[200_000..210_000].fill(0);
    wanted.resize(350_000, 0);
    let mount = mount.restart();
    holds(&mount, &wanted);
}

#[test]
fn write_into_a_punched_or_allocated_range_is_kept() {
    on_both(lower! { "file" => noise(1, 0, 100_000) }, |mount| {
        let file = update(mount);
        fallocate(&file, PUNCH, 0, 100_000).unwrap();
        file.write_all_at(b"back", 50_000).unwrap();
        fallocate(&file, 0, 100_000, 100_000).unwrap();
        file.write_all_at(b"filled", 150_000).unwrap();
        let mut wanted = vec![0; 200_000];
        wanted[50_000..50_004].copy_from_slice(b"back");
        wanted[150_000..150_006].copy_from_slice(b"filled");
        holds(mount, &wanted);
    });
}

#[test]
fn what_makes_no_sense_is_refused() {
    on_both(lower! { "file" => noise(1, 0, 10_000), "d" => dir(), "p" => fifo() }, |mount| {
        let file = update(mount);
        assert_errno!(fallocate(&file, 0, 0, 0), EINVAL);
        assert_errno!(fallocate(&file, 0, -1, 10), EINVAL);
        assert_errno!(fallocate(&file, 0, 0, -10), EINVAL);
        assert_errno!(fallocate(&file, 0, i64::MAX - 10, 100), EFBIG);
        assert_errno!(fallocate(&file, FALLOC_FL_PUNCH_HOLE, 0, 10), EOPNOTSUPP);
        assert_errno!(
            fallocate(&file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 10),
            EOPNOTSUPP
        );
        assert_errno!(fallocate(&File::open(mount.path("file")).unwrap(), 0, 0, 10), EBADF);
        let pipe = open(mount.path("p"), libc::O_RDWR, 0).unwrap();
        assert_errno!(fallocate(&pipe, 0, 0, 10), ESPIPE);
        assert_eq!(fs::read(mount.path("file")).unwrap(), noise(1, 0, 10_000));
    });
}

#[test]
fn moving_ranges_is_not_supported_and_changes_nothing() {
    let mount = Mount::over(lower! { "file" => noise(1, 0, 100_000) });
    if mount.is_plain() {
        return;
    }
    for mode in [FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE] {
        assert_errno!(fallocate(&update(&mount), mode, 4096, 4096), EOPNOTSUPP);
    }
    holds(&mount, &noise(1, 0, 100_000));
}

#[test]
fn posix_fallocate_works() {
    let mount = Mount::empty();
    mount.write("file", "x");
    nix::fcntl::posix_fallocate(update(&mount), 0, 1 << 20).unwrap();
    assert_eq!(mount.stat("file").size(), 1 << 20);
}

#[test]
fn large_range_of_a_lower_is_punched() {
    // More than is changed in one batch, twice.
    const SIZE: usize = 10_000 * 65_536;
    let far = [(0, b"begin".as_slice()), (SIZE / 2, b"middle"), (SIZE - 10, b"end")];
    for (from, to, kept) in [(4096, SIZE - 4096, true), (4096, SIZE, false)] {
        let mount =
            Mount::over(lower! { "file" => sparse(SIZE as u64, &far.map(|(at, bytes)| (at as u64, bytes))) });
        let file = update(&mount);
        fallocate(&file, PUNCH, from as i64, (to - from) as i64).unwrap();
        for (at, bytes) in far {
            let mut seen = vec![0; bytes.len()];
            file.read_exact_at(&mut seen, at as u64).unwrap();
            let is_there = at == 0 || (kept && at > SIZE / 2);
            assert_eq!(seen, if is_there { bytes.to_vec() } else { vec![0; bytes.len()] }, "{at}");
        }
    }
}
