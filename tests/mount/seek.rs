//! `SEEK_DATA` and `SEEK_HOLE`. Data and holes here are multiples of 64 KiB, so that no filesystem
//! has a reason to round.

use std::fs::File;
use std::os::unix::fs::FileExt;

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

const UNIT: i64 = 64 << 10;

/// Data in units 1, 2 and 5 of 8.
fn islands() -> Item {
    let (one, five) = (noise(1, 0, 2 << 16), noise(5, 0, 1 << 16));
    sparse(8 << 16, &[(1 << 16, &one), (5 << 16, &five)])
}

#[test]
fn holes_and_data_are_found() {
    on_both(lower! { "file" => islands() }, |mount| {
        let file = File::open(mount.path("file")).unwrap();
        assert_eq!(data_ranges(&file).unwrap(), [(UNIT, 3 * UNIT), (5 * UNIT, 6 * UNIT)]);
        assert_eq!(seek_data(&file, UNIT + 17).unwrap(), UNIT + 17);
        assert_eq!(seek_hole(&file, 17).unwrap(), 17);
        assert_eq!(seek_hole(&file, UNIT).unwrap(), 3 * UNIT);
        assert_eq!(seek_hole(&file, 5 * UNIT + 1).unwrap(), 6 * UNIT);
        assert_errno!(seek_data(&file, 6 * UNIT), ENXIO);
    });
}

#[test]
fn file_without_holes_is_one_range_of_data() {
    on_both(lower! { "file" => noise(1, 0, 2 << 16), "small" => "x" }, |mount| {
        let file = File::open(mount.path("file")).unwrap();
        assert_eq!(data_ranges(&file).unwrap(), [(0, 2 * UNIT)]);
        assert_eq!(seek_hole(&file, 0).unwrap(), 2 * UNIT);
        let small = File::open(mount.path("small")).unwrap();
        assert_eq!((seek_data(&small, 0).unwrap(), seek_hole(&small, 0).unwrap()), (0, 1));
    });
}

#[test]
fn file_without_data_is_one_hole() {
    on_both(lower! { "file" => sparse(4 << 16, &[]) }, |mount| {
        let file = File::open(mount.path("file")).unwrap();
        assert_errno!(seek_data(&file, 0), ENXIO);
        assert_eq!((seek_hole(&file, 0).unwrap(), seek_hole(&file, UNIT).unwrap()), (0, UNIT));
    });
}

#[test]
fn nothing_is_found_at_or_behind_the_end() {
    on_both(lower! { "file" => noise(1, 0, 1 << 16), "empty" => "" }, |mount| {
        for (name, end) in [("file", UNIT), ("empty", 0)] {
            let file = File::open(mount.path(name)).unwrap();
            for offset in [end, end + 1, -1] {
                assert_errno!(seek_data(&file, offset), ENXIO);
                assert_errno!(seek_hole(&file, offset), ENXIO);
            }
        }
    });
}

#[test]
fn punched_range_becomes_a_hole() {
    on_both(lower! { "file" => noise(1, 0, 8 << 16) }, |mount| {
        let file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
        fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 2 * UNIT, 3 * UNIT).unwrap();
        assert_eq!(data_ranges(&file).unwrap(), [(0, 2 * UNIT), (5 * UNIT, 8 * UNIT)]);
    });
}

#[test]
fn written_range_becomes_data() {
    on_both(lower! { "file" => islands() }, |mount| {
        let file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
        file.write_all_at(&noise(9, 0, 1 << 16), 4 << 16).unwrap();
        file.sync_all().unwrap();
        assert_eq!(data_ranges(&file).unwrap(), [(UNIT, 3 * UNIT), (4 * UNIT, 6 * UNIT)]);
    });
}

/// An image of a disk, as sandboxes have them.
#[test]
fn holes_of_a_huge_lower_are_crossed_in_a_few_steps() {
    const END: i64 = 1 << 40;
    let (head, tail, middle) = (noise(1, 0, 1 << 16), noise(2, 0, 1 << 16), noise(3, 0, 4096));
    let image = sparse(1 << 40, &[(0, &head), ((1 << 40) - (1 << 16), &tail)]);
    let mount = Mount::over(lower! { "image" => image });
    let file = open(mount.path("image"), libc::O_RDWR, 0).unwrap();
    assert_eq!(data_ranges(&file).unwrap(), [(0, UNIT), (END - UNIT, END)]);
    file.write_all_at(&middle, 1 << 39).unwrap();
    file.sync_all().unwrap();
    let there = END / 2;
    assert_eq!(data_ranges(&file).unwrap(), [(0, UNIT), (there, there + 4096), (END - UNIT, END)]);
    assert_eq!(seek_data(&file, UNIT + 5).unwrap(), there);
    assert_eq!(seek_hole(&file, there + 5).unwrap(), there + 4096);
    assert_eq!(seek_hole(&file, END - UNIT).unwrap(), END);
    fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 1 << 16).unwrap();
    assert_eq!(data_ranges(&file).unwrap(), [(there, there + 4096), (END - UNIT, END)]);
}

#[test]
fn extending_a_file_adds_a_hole() {
    on_both(lower! { "file" => noise(1, 0, 1 << 16) }, |mount| {
        let file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
        file.set_len(4 << 16).unwrap();
        assert_eq!(data_ranges(&file).unwrap(), [(0, UNIT)]);
    });
}

#[test]
fn holes_survive_copy_up_and_restart() {
    let mount = Mount::over(lower! { "file" => islands() });
    chmod(mount.path("file"), 0o600).unwrap();
    let file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
    file.write_all_at(&noise(9, 0, 1 << 16), 7 << 16).unwrap();
    drop(file);
    let mount = mount.restart();
    let file = File::open(mount.path("file")).unwrap();
    assert_eq!(data_ranges(&file).unwrap(), [(UNIT, 3 * UNIT), (5 * UNIT, 6 * UNIT), (7 * UNIT, 8 * UNIT)]);
}

/// A range called a hole that is not one would be lost by every program that copies files.
#[test]
fn hole_never_holds_data() {
    let mount = Mount::over(lower! { "file" => islands() });
    let file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
    for (number, offset) in [100, 4095, 70_000, 262_143, 400_001, 524_280].into_iter().enumerate() {
        file.write_all_at(&[number as u8 + 1; 8], offset).unwrap();
    }
    let content = mount.read("file");
    let mut covered = vec![false; content.len()];
    for (start, end) in data_ranges(&file).unwrap() {
        covered[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()].fill(true);
    }
    let lost = (0..content.len()).find(|&at| content[at] != 0 && !covered[at]);
    assert_eq!(lost, None);
}
