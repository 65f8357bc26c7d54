//! Reading and writing: every flag, every boundary, and random access against a copy in memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

/// Around everything that may matter inside: inline data, pages, the commit grid, the largest request.
const SIZES: [usize; 16] = [
    0, 1, 511, 4095, 4096, 4097, 8192, 12_287, 65_535, 65_536, 65_537, 131_073, 1_048_575, 1_048_576,
    1_048_577, 3_000_001,
];

fn update(mount: &Mount, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(mount.path(name)).unwrap()
}

#[test]
fn every_size_reads_back_before_and_after_a_restart() {
    let mount = Mount::empty();
    for size in SIZES {
        mount.write(size.to_string(), noise(size as u64, 0, size));
        assert!(mount.read(size.to_string()) == noise(size as u64, 0, size), "{size}");
    }
    let mount = mount.restart();
    for size in SIZES {
        assert_eq!(mount.stat(size.to_string()).size(), size as u64);
        assert!(mount.read(size.to_string()) == noise(size as u64, 0, size), "{size} after the restart");
    }
}

#[test]
fn every_size_of_a_lower_reads_through() {
    let mut layout = lower! {};
    for size in SIZES {
        layout = layout.with(size.to_string(), noise(size as u64, 0, size));
    }
    let mount = Mount::over(layout);
    for size in SIZES {
        assert!(mount.read(size.to_string()) == noise(size as u64, 0, size), "{size}");
    }
}

#[test]
fn file_that_grows_piece_by_piece_keeps_what_it_had() {
    for step in [1000, 4096, 5000] {
        on_both(lower! { "file" => noise(3, 0, 100) }, |mount| {
            let mut file = OpenOptions::new().append(true).open(mount.path("file")).unwrap();
            let mut len = 100;
            while len < 40_000 {
                file.write_all(&noise(3, len as u64, step)).unwrap();
                len += step;
                assert!(mount.read("file") == noise(3, 0, len), "steps of {step}, at {len}");
            }
            drop_cached_pages(&file).unwrap();
            assert!(mount.read("file") == noise(3, 0, len), "steps of {step}, from the filesystem");
        });
    }
}

#[test]
fn write_over_a_boundary_changes_only_its_bytes() {
    on_both(lower! { "file" => noise(1, 0, 200_000) }, |mount| {
        let mut wanted = noise(1, 0, 200_000);
        let file = update(mount, "file");
        for (number, (offset, len)) in [
            (0, 1),
            (4090, 12),
            (4096, 4096),
            (65_530, 10),
            (131_000, 5000),
            (199_999, 1),
            (65_536, 65_536),
            (7, 100_000),
        ]
        .into_iter()
        .enumerate()
        {
            let data = noise(100 + number as u64, 0, len);
            file.write_all_at(&data, offset as u64).unwrap();
            wanted[offset..offset + len].copy_from_slice(&data);
            assert!(mount.read("file") == wanted, "{len} bytes at {offset}");
        }
        drop_cached_pages(&file).unwrap();
        assert!(mount.read("file") == wanted, "from the filesystem");
    });
}

#[test]
fn appending_ignores_the_offset() {
    on_both(lower! { "file" => "start" }, |mount| {
        let mut one = OpenOptions::new().append(true).open(mount.path("file")).unwrap();
        let mut other = OpenOptions::new().append(true).open(mount.path("file")).unwrap();
        one.seek(SeekFrom::Start(0)).unwrap();
        one.write_all(b" one").unwrap();
        other.write_all(b" other").unwrap();
        one.write_all(b" again").unwrap();
        assert_eq!(mount.text("file"), "start one other again");
    });
}

#[test]
fn appends_of_many_threads_are_all_there_and_whole() {
    let mount = Mount::empty();
    mount.write("log", "");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let mount = &mount;
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).open(mount.path("log")).unwrap();
                for line in 0..250 {
                    file.write_all(
                        format!("writer {writer} line {line:04} {}\n", "x".repeat(line % 90)).as_bytes(),
                    )
                    .unwrap();
                }
            });
        }
    });
    let log = mount.text("log");
    for writer in 0..4 {
        let prefix = format!("writer {writer} line ");
        let lines: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
        assert_eq!(lines.len(), 250);
        for (number, line) in lines.iter().enumerate() {
            assert_eq!(*line, format!("{number:04} {}", "x".repeat(number % 90)));
        }
    }
}

#[test]
fn opening_with_truncation_empties_the_file_and_keeps_its_inode() {
    on_both(lower! { "file" => file(noise(1, 0, 100_000)).mode(0o640).xattr("user.k", "v") }, |mount| {
        let ino = mount.ino("file");
        drop(open(mount.path("file"), libc::O_WRONLY | libc::O_TRUNC, 0).unwrap());
        assert_eq!((mount.stat("file").size(), mount.ino("file"), mount.mode("file")), (0, ino, 0o640));
        assert_eq!(get_xattr(mount.path("file"), "user.k").unwrap(), b"v");
        mount.write("file", "short");
        assert_eq!(mount.text("file"), "short");
    });
}

#[test]
fn truncation_by_open_is_seen_by_other_handles() {
    on_both(lower! { "file" => "long content" }, |mount| {
        let reader = File::open(mount.path("file")).unwrap();
        assert_eq!(mount.text("file"), "long content");
        mount.write("file", "new");
        let mut buffer = [0; 64];
        assert_eq!(reader.read_at(&mut buffer, 0).unwrap(), 3);
        assert_eq!(&buffer[..3], b"new");
    });
}

#[test]
fn handles_opened_before_and_after_a_write_see_the_same() {
    on_both(lower! { "file" => "old content" }, |mount| {
        let before = File::open(mount.path("file")).unwrap();
        let mut buffer = [0; 11];
        before.read_exact_at(&mut buffer, 0).unwrap();
        update(mount, "file").write_all_at(b"new", 0).unwrap();
        before.read_exact_at(&mut buffer, 0).unwrap();
        assert_eq!((&buffer, mount.text("file")), (b"new content", "new content".into()));
    });
}

#[test]
fn reads_end_at_the_end_of_the_file() {
    on_both(lower! { "file" => noise(1, 0, 10_000), "empty" => "" }, |mount| {
        let file = File::open(mount.path("file")).unwrap();
        let mut buffer = vec![0; 8192];
        assert_eq!(file.read_at(&mut buffer, 9_999).unwrap(), 1);
        assert_eq!(file.read_at(&mut buffer, 10_000).unwrap(), 0);
        assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0);
        assert_eq!(File::open(mount.path("empty")).unwrap().read_at(&mut buffer, 0).unwrap(), 0);
    });
}

#[test]
fn wrong_direction_is_ebadf_and_directories_are_eisdir() {
    on_both(lower! { "file" => "x", "d" => dir() }, |mount| {
        let mut byte = [0];
        assert_errno!(File::open(mount.path("file")).unwrap().write_at(b"y", 0), EBADF);
        assert_errno!(
            OpenOptions::new().write(true).open(mount.path("file")).unwrap().read_at(&mut byte, 0),
            EBADF
        );
        assert_errno!(File::open(mount.path("d")).unwrap().read_at(&mut byte, 0), EISDIR);
    });
}

#[test]
fn sparse_file_reads_zeros_between_its_data() {
    let mount = Mount::empty();
    let file = File::create_new(mount.path("file")).unwrap();
    for offset in [0u64, 1 << 20, (1 << 30) + 4095, 1 << 40] {
        file.write_all_at(&noise(offset, 0, 5000), offset).unwrap();
    }
    drop(file);
    let mount = mount.restart();
    let file = File::open(mount.path("file")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (1 << 40) + 5000);
    for offset in [0u64, 1 << 20, (1 << 30) + 4095, 1 << 40] {
        let mut data = vec![0; 5000];
        file.read_exact_at(&mut data, offset).unwrap();
        assert!(data == noise(offset, 0, 5000), "{offset}");
    }
    for (offset, len) in
        [(5000, 100_000), ((1 << 20) + 5000, 4096), ((1 << 30) - 10, 4105), ((1 << 40) - 5000, 5000)]
    {
        let mut hole = vec![1; len];
        file.read_exact_at(&mut hole, offset).unwrap();
        assert!(hole.iter().all(|&byte| byte == 0), "{offset}");
    }
}

#[test]
fn offsets_of_many_terabytes_work() {
    let mount = Mount::empty();
    let file = open(mount.path("file"), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
    let far = 15 << 40;
    file.write_all_at(b"far away", far).unwrap();
    drop_cached_pages(&file).unwrap();
    let mut data = [0; 8];
    file.read_exact_at(&mut data, far).unwrap();
    assert_eq!((&data, file.metadata().unwrap().len()), (b"far away", far + 8));
    assert_errno!(file.write_at(b"x", u64::MAX / 2), EFBIG | EINVAL);
}

#[test]
fn direct_io_agrees_with_buffered_io() {
    on_both(lower! { "file" => noise(1, 0, 1 << 20) }, |mount| {
        let direct = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(mount.path("file"))
            .unwrap();
        let buffered = update(mount, "file");
        let mut aligned = Aligned::new(64 << 10);
        assert_eq!(direct.read_at(aligned.bytes(), 128 << 10).unwrap(), 64 << 10);
        assert!(aligned.bytes() == noise(1, 128 << 10, 64 << 10));

        aligned.bytes().copy_from_slice(&noise(2, 0, 64 << 10));
        assert_eq!(direct.write_at(aligned.bytes(), 256 << 10).unwrap(), 64 << 10);
        let mut seen = vec![0; 64 << 10];
        buffered.read_exact_at(&mut seen, 256 << 10).unwrap();
        assert!(seen == noise(2, 0, 64 << 10), "buffered read of a direct write");

        buffered.write_all_at(&noise(3, 0, 64 << 10), 512 << 10).unwrap();
        assert_eq!(direct.read_at(aligned.bytes(), 512 << 10).unwrap(), 64 << 10);
        assert!(aligned.bytes() == noise(3, 0, 64 << 10), "direct read of a buffered write");

        assert_eq!(direct.write_at(&aligned.bytes()[..4096], 1 << 20).unwrap(), 4096);
        assert_eq!(mount.stat("file").size(), (1 << 20) + 4096);
    });
}

#[test]
fn synchronous_writes_work() {
    on_both(lower! { "file" => "content" }, |mount| {
        for flag in [libc::O_SYNC, libc::O_DSYNC] {
            let file = OpenOptions::new().write(true).custom_flags(flag).open(mount.path("file")).unwrap();
            file.write_all_at(b"CON", 0).unwrap();
        }
        assert_eq!(mount.text("file"), "CONtent");
    });
}

#[test]
fn vectored_io_works() {
    let mount = Mount::empty();
    let mut file = open(mount.path("file"), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
    let parts = [noise(1, 0, 3), noise(2, 0, 5000), noise(3, 0, 70_000)];
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    assert_eq!(file.write_vectored(&slices).unwrap(), 75_003);
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut seen = [vec![0; 70_000], vec![0; 5000], vec![0; 3]];
    let mut slices: Vec<IoSliceMut<'_>> = seen.iter_mut().map(|part| IoSliceMut::new(part)).collect();
    assert_eq!(file.read_vectored(&mut slices).unwrap(), 75_003);
    assert!(parts.concat() == seen.concat());
}

#[test]
fn kernel_side_copies_work() {
    let mount = Mount::over(lower! { "source" => noise(1, 0, 300_000) });
    let source = File::open(mount.path("source")).unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    let sent = send_file(&source, outside.as_file(), 300_000);
    assert_eq!(sent.unwrap(), 300_000);
    assert!(fs::read(outside.path()).unwrap() == noise(1, 0, 300_000));
    let target = File::create(mount.path("target")).unwrap();
    let mut back = File::open(outside.path()).unwrap();
    io::copy(&mut back, &mut &target).unwrap();
    assert!(mount.read("target") == noise(1, 0, 300_000));
}

#[test]
fn large_file_is_right_from_cache_and_from_the_filesystem() {
    const SIZE: usize = 48 << 20;
    let mount = Mount::empty();
    let mut file = open(mount.path("file"), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
    for chunk in 0..SIZE >> 20 {
        file.write_all(&noise(5, (chunk as u64) << 20, 1 << 20)).unwrap();
    }
    for round in 0..2 {
        for chunk in 0..SIZE >> 20 {
            read_noise_at(&file, 5, (chunk as u64) << 20, 1 << 20);
        }
        if round == 0 {
            drop_cached_pages(&file).unwrap();
        }
    }
}

#[test]
fn concurrent_writers_of_one_file_do_not_disturb_each_other() {
    on_both(lower! { "file" => vec![0; 4 << 20] }, |mount| {
        std::thread::scope(|scope| {
            for writer in 0..4u64 {
                scope.spawn(move || {
                    let file = update(mount, "file");
                    // Interleaved, so that neighbours meet in the same page.
                    for block in 0..512u64 {
                        let offset = (block * 4 + writer) * 2000;
                        file.write_all_at(&noise(writer, offset, 2000), offset).unwrap();
                    }
                });
            }
        });
        let file = File::open(mount.path("file")).unwrap();
        drop_cached_pages(&file).unwrap();
        for block in 0..2048u64 {
            read_noise_at(&file, block % 4, block * 2000, 2000);
        }
    });
}

#[test]
fn hundreds_of_open_files_are_kept_apart() {
    let mount = Mount::empty();
    let files: Vec<File> = (0..400)
        .map(|number| open(mount.path(number.to_string()), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap())
        .collect();
    for (number, file) in files.iter().enumerate() {
        file.write_all_at(&noise(number as u64, 0, 6000), 0).unwrap();
    }
    for (number, file) in files.iter().enumerate() {
        drop_cached_pages(file).unwrap();
        read_noise_at(file, number as u64, 0, 6000);
    }
}

#[test]
fn random_access_agrees_with_a_copy_in_memory() {
    for seed in 1..=3 {
        on_both(lower! { "file" => noise(seed, 0, 150_000) }, |mount| {
            let mut model = noise(seed, 0, 150_000);
            let file = update(mount, "file");
            let mut dice = Dice(seed);
            for step in 0..600 {
                random_step(&file, &mut model, &mut dice, step);
            }
            assert!(mount.read("file") == model, "seed {seed}, at the end");
            drop_cached_pages(&file).unwrap();
            assert!(mount.read("file") == model, "seed {seed}, from the filesystem");
        });
    }
}

#[test]
fn random_access_agrees_after_a_restart() {
    let mut mount = Mount::over(lower! { "file" => noise(7, 0, 150_000) });
    let mut model = noise(7, 0, 150_000);
    let mut dice = Dice(7);
    for round in 0..4 {
        let file = update(&mount, "file");
        for step in 0..150 {
            random_step(&file, &mut model, &mut dice, step);
        }
        drop(file);
        mount = mount.restart();
        assert!(mount.read("file") == model, "after restart {round}");
    }
}

/// One random operation on the file and on its copy.
fn random_step(file: &File, model: &mut Vec<u8>, dice: &mut Dice, step: u32) {
    const LIMIT: usize = 400_000;
    let offset = dice.below(LIMIT);
    let len = 1 + dice.below(30_000).min(LIMIT - offset);
    match dice.below(10) {
        0..=4 => {
            let data = noise(1000 + u64::from(step), 0, len);
            file.write_all_at(&data, offset as u64).unwrap();
            if model.len() < offset + len {
                model.resize(offset + len, 0);
            }
            model[offset..offset + len].copy_from_slice(&data);
        }
        5 => {
            file.set_len(offset as u64).unwrap();
            model.resize(offset, 0);
        }
        6 => {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            fallocate(file, mode, offset as i64, len as i64).unwrap();
            let end = model.len().min(offset + len);
            if offset < end {
                model[offset..end].fill(0);
            }
        }
        7 => drop_cached_pages(file).unwrap(),
        _ => {
            let mut seen = vec![0; len];
            let got = file.read_at(&mut seen, offset as u64).unwrap();
            let end = model.len().min(offset + len);
            let wanted = model.get(offset..end).unwrap_or_default();
            assert!(seen[..got] == *wanted, "step {step}: {len} bytes at {offset}");
        }
    }
}

/// Random numbers that are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9);
        let word = noise(self.0, 0, 8).try_into().map(u64::from_le_bytes).unwrap();
        usize::try_from(word % limit as u64).unwrap()
    }
}

/// Memory that O_DIRECT accepts.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Aligned {
        let memory = vec![0; len + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Aligned { memory, start, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[test]
fn content_that_shrinks_and_grows_over_the_inline_limit_stays_right() {
    on_both(lower! { "file" => noise(1, 0, 3000) }, |mount| {
        let file = update(mount, "file");
        let mut buffer = Vec::new();
        for round in 0..6u64 {
            file.write_all_at(&noise(round, 0, 6000), 0).unwrap();
            file.set_len(2000).unwrap();
            file.write_all_at(&noise(round, 1000, 500), 1000).unwrap();
            drop_cached_pages(&file).unwrap();
            buffer.clear();
            File::open(mount.path("file")).unwrap().read_to_end(&mut buffer).unwrap();
            assert!(buffer == noise(round, 0, 2000), "round {round}");
        }
    });
}
