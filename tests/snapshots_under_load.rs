//! Snapshots taken while programs write.
//!
//! Every writer counts: it writes 1, 2, 3, … and remembers what was acknowledged. A snapshot must then
//! hold a prefix of what each writer did, with everything in it that was acknowledged before the
//! call began. Over several volumes a cut must be one instant: what was written to one volume after
//! something in another was read from there must not be in it without that.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with its location is the report")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use durdir_tests::lower;
use durdir_tests::support::*;

/// What a writer has been told is done, and what it has begun.
#[derive(Default)]
struct Progress {
    begun: AtomicU64,
    acknowledged: AtomicU64,
}

impl Progress {
    fn step(&self, number: u64, work: impl FnOnce()) {
        self.begun.store(number, Ordering::SeqCst);
        work();
        self.acknowledged.store(number, Ordering::SeqCst);
    }
}

/// Does the step of this number.
type Writer<'a> = &'a (dyn Fn(u64, &Progress) + Sync);

/// Runs writers until `body` is done with its snapshots.
fn under_load<const N: usize>(writers: [Writer<'_>; N], body: impl FnOnce(&[Progress; N])) {
    let progress: [Progress; N] = std::array::from_fn(|_| Progress::default());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (writer, progress) in writers.into_iter().zip(&progress) {
            let stop = &stop;
            scope.spawn(move || {
                for number in 1.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    writer(number, progress);
                }
            });
        }
        // The writers end also when an assertion here fails.
        let _stop = StopOnDrop(&stop);
        body(&progress);
    });
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A snapshot's name, and per writer what had to be and what could be in it.
struct Cut<const N: usize> {
    name: String,
    bounds: [(u64, u64); N],
}

/// Takes a snapshot of these volumes and notes what was acknowledged before, and begun after.
fn cut<const N: usize>(store: &Store, volumes: &[&str], name: String, progress: &[Progress; N]) -> Cut<N> {
    let before: [u64; N] = std::array::from_fn(|writer| progress[writer].acknowledged.load(Ordering::SeqCst));
    let made = store.json([&["snapshot", "create"], volumes, &["--name", &name]].concat());
    assert!(made["cut"]["held_us"].is_u64(), "{made}");
    let after: [u64; N] = std::array::from_fn(|writer| progress[writer].begun.load(Ordering::SeqCst));
    Cut { name, bounds: std::array::from_fn(|writer| (before[writer], after[writer])) }
}

#[track_caller]
fn within(what: &str, seen: u64, (least, most): (u64, u64)) {
    assert!(seen >= least, "{what}: {seen} of {least} acknowledged before the snapshot call");
    assert!(seen <= most, "{what}: {seen}, but only {most} were begun when it returned");
}

/// Appends a line in one request: in one call, where `writeln!` would make two, and within one page, as the kernel sends a call
/// that reaches over the end of a page it has not read in two.
fn append(mut log: &File, number: u64) -> std::io::Result<()> {
    log.write_all(format!("{number:07}\n").as_bytes())
}

/// Waits until every writer did something new, so that no two snapshots are the same.
fn let_them_write<const N: usize>(progress: &[Progress; N]) {
    let seen: [u64; N] = std::array::from_fn(|writer| progress[writer].acknowledged.load(Ordering::SeqCst));
    for (progress, seen) in progress.iter().zip(seen) {
        while progress.acknowledged.load(Ordering::SeqCst) < seen + 3 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn each_snapshot_holds_a_prefix_of_every_writer() {
    let mount = Mount::over(lower! { "pages" => vec![0; 1 << 20], "d/x" => "" });
    let store = mount.store().clone();
    let log = || OpenOptions::new().append(true).create(true).open(mount.path("log")).unwrap();
    let (log, pages) = (log(), open(mount.path("pages"), libc::O_RDWR, 0).unwrap());

    // Lines appended to a log.
    let appender = |number: u64, progress: &Progress| {
        progress.step(number, || append(&log, number).unwrap());
    };
    // Pages of a lower file, rewritten round and round.
    let rewriter = |number: u64, progress: &Progress| {
        progress.step(number, || {
            pages.write_all_at(&number.to_le_bytes().repeat(512), number % 64 * 4096).unwrap()
        });
    };
    // Files made, filled and renamed; old ones removed.
    let renamer = |number: u64, progress: &Progress| {
        progress.step(number, || {
            let path = mount.path(format!("d/{number:08}"));
            fs::write(mount.path("draft"), number.to_string()).unwrap();
            fs::rename(mount.path("draft"), &path).unwrap();
            if number > 20 {
                fs::remove_file(mount.path(format!("d/{:08}", number - 20))).unwrap();
            }
        });
    };
    // A file replaced by rename, as editors do, with fsync.
    let replacer = |number: u64, progress: &Progress| {
        progress.step(number, || {
            let mut draft = File::create(mount.path("config.new")).unwrap();
            write!(draft, "{number} {}", "x".repeat(usize::try_from(number % 3000).unwrap())).unwrap();
            draft.sync_all().unwrap();
            fs::rename(mount.path("config.new"), mount.path("config")).unwrap();
        });
    };
    let mut cuts = Vec::new();
    under_load([&appender, &rewriter, &renamer, &replacer], |progress| {
        let_them_write(progress);
        for round in 0..12 {
            cuts.push(cut(&store, &["v"], format!("s{round}"), progress));
            let_them_write(progress);
        }
    });
    for cut in &cuts {
        check_prefixes(&store.mount_snapshot(&format!("v@{}", cut.name)), cut);
    }
    // The same ones, after everything was closed.
    drop((log, pages));
    let mount = mount.restart();
    for cut in &cuts {
        check_prefixes(&store.mount_snapshot(&format!("v@{}", cut.name)), cut);
    }
    assert_eq!(store.json(["fsck"])["clean"], true);
    drop(mount);
}

fn check_prefixes(snapshot: &Mount, cut: &Cut<4>) {
    let name = &cut.name;
    let lines: Vec<u64> = snapshot.text("log").lines().map(|line| line.parse().unwrap()).collect();
    let gap = lines.iter().zip(1..).find(|&(&line, expected)| line != expected);
    assert_eq!(gap, None, "{name}: a line and which it should be, of {}", lines.len());
    within(&format!("{name}: lines"), lines.len() as u64, cut.bounds[0]);

    check_ring(name, &File::open(snapshot.path("pages")).unwrap(), cut.bounds[1]);

    let mut files: Vec<u64> =
        snapshot.names("d").iter().filter_map(|name| name.to_str()?.parse().ok()).collect();
    files.sort_unstable();
    let (first, last) = (files[0], files[files.len() - 1]);
    assert!(files.iter().copied().eq(first..=last), "{name}: files are missing: {files:?}");
    assert!(last - first <= 20, "{name}: removed files are there: {files:?}");
    for number in files {
        assert_eq!(snapshot.text(format!("d/{number:08}")), number.to_string(), "{name}");
    }
    within(&format!("{name}: files"), last, cut.bounds[2]);

    let config = snapshot.text("config");
    let (number, filling) = config.split_once(' ').unwrap();
    let number: u64 = number.parse().unwrap();
    assert_eq!(filling.len() as u64, number % 3000, "{name}: the replaced file is torn");
    within(&format!("{name}: replacements"), number, cut.bounds[3]);
}

/// Number n was written to page n mod 64: the newest 64 must be there, and nothing else.
#[track_caller]
fn check_ring(name: &str, file: &File, bounds: (u64, u64)) {
    let page = |number: u64| {
        let mut page = vec![0; 4096];
        file.read_exact_at(&mut page, number * 4096).unwrap();
        let first = u64::from_le_bytes(page[..8].try_into().unwrap());
        assert!(page == first.to_le_bytes().repeat(512), "{name}: page {number} is torn");
        first
    };
    let newest = (0..64).map(page).max().unwrap();
    for number in 0..64 {
        let last = (newest.saturating_sub(63)..=newest).rev().find(|write| write % 64 == number).unwrap_or(0);
        assert_eq!(page(number), last, "{name}: page {number}, when {newest} is there");
    }
    within(&format!("{name}: pages"), newest, bounds);
}

#[test]
fn cut_of_two_volumes_is_causally_consistent() {
    let store = Store::new();
    let (one, other) = (store.mount("one"), store.mount("other"));
    let file = |mount: &Mount| open(mount.path("n"), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
    let (first, second) = (file(&one), file(&other));
    for file in [&first, &second] {
        file.write_all_at(&0u64.to_le_bytes(), 0).unwrap();
    }
    // First here, then there: the second can never be ahead.
    let writer = |number: u64, progress: &Progress| {
        progress.step(number, || {
            first.write_all_at(&number.to_le_bytes(), 0).unwrap();
            second.write_all_at(&number.to_le_bytes(), 0).unwrap();
        });
    };
    let read = |mount: &Mount| u64::from_le_bytes(mount.read("n").try_into().unwrap());
    let mut cuts = Vec::new();
    under_load([&writer], |progress| {
        for round in 0..40 {
            let_them_write(progress);
            // In both orders: the order of the names must not matter.
            let volumes = if round % 2 == 0 { ["one", "other"] } else { ["other", "one"] };
            cuts.push(cut(&store, &volumes, format!("s{round}"), progress));
        }
    });
    for cut in &cuts {
        let (first, second) = (
            u64::from_le_bytes(
                fs::read(one.path(format!(".snapshots/{}/n", cut.name))).unwrap().try_into().unwrap(),
            ),
            u64::from_le_bytes(
                fs::read(other.path(format!(".snapshots/{}/n", cut.name))).unwrap().try_into().unwrap(),
            ),
        );
        assert!(second <= first && first <= second + 1, "{}: {first} and {second}", cut.name);
        within(&cut.name, first, cut.bounds[0]);
        assert!(second >= cut.bounds[0].0, "{}: {second} of {} acknowledged", cut.name, cut.bounds[0].0);
    }
    assert_eq!(read(&one), read(&other));
}

#[test]
fn message_passed_between_volumes_is_not_in_a_cut_without_its_cause() {
    let store = Store::new();
    let (one, other) = (store.mount("one"), store.mount("other"));
    // Each writer answers what it reads from the other's volume, by a file of the next number.
    let ping = |number: u64, progress: &Progress| {
        progress.step(number, || {
            one.write(format!("ping-{number}"), "");
            let deadline = Instant::now() + Duration::from_secs(60);
            while !other.path(format!("pong-{number}")).exists() {
                assert!(Instant::now() < deadline, "nobody answered ping {number}");
                std::thread::yield_now();
            }
        });
    };
    let answered = AtomicU64::new(0);
    let pong = |_: u64, progress: &Progress| {
        let next = answered.load(Ordering::SeqCst) + 1;
        if one.path(format!("ping-{next}")).exists() {
            progress.step(next, || other.write(format!("pong-{next}"), ""));
            answered.store(next, Ordering::SeqCst);
        }
    };
    let mut names = Vec::new();
    under_load([&pong], |_| {
        under_load([&ping], |progress| {
            for round in 0..15 {
                let_them_write(progress);
                let name = format!("s{round}");
                store.ok(["snapshot", "create", "one", "other", "--name", &name]);
                names.push(name);
            }
        });
    });
    let highest = |mount: &Mount, name: &str, prefix: &str| -> u64 {
        let names = names_in(mount.path(format!(".snapshots/{name}"))).unwrap();
        let numbers = names.iter().filter_map(|name| name.to_str()?.strip_prefix(prefix)?.parse().ok());
        numbers.max().unwrap_or(0)
    };
    for name in &names {
        let (pings, pongs) = (highest(&one, name, "ping-"), highest(&other, name, "pong-"));
        assert!(pongs <= pings && pings <= pongs + 1, "{name}: {pings} pings, {pongs} pongs");
    }
}

#[test]
fn stores_through_mappings_are_in_every_snapshot() {
    let mount = Mount::empty();
    mount.write("mapped", vec![0; 1 << 20]);
    let store = mount.store().clone();
    let map = Mapping::shared(&open(mount.path("mapped"), libc::O_RDWR, 0).unwrap(), 1 << 20).unwrap();
    let writer = |number: u64, progress: &Progress| {
        progress.step(number, || {
            // The second only after the first: a prefix has it never without.
            map.write(0, &number.to_le_bytes());
            map.write(900_000, &number.to_le_bytes());
        });
    };
    let mut cuts = Vec::new();
    under_load([&writer], |progress| {
        for round in 0..15 {
            let_them_write(progress);
            cuts.push(cut(&store, &["v"], format!("s{round}"), progress));
        }
    });
    for cut in &cuts {
        let content = fs::read(mount.path(format!(".snapshots/{}/mapped", cut.name))).unwrap();
        for offset in [0, 900_000] {
            let seen = u64::from_le_bytes(content[offset..offset + 8].try_into().unwrap());
            // Stores are not calls: the two pages may be of different moments, but none is lost.
            within(&format!("{}: page at {offset}", cut.name), seen, cut.bounds[0]);
        }
    }
}

#[test]
fn forks_taken_under_load_are_prefixes_too() {
    let mount = Mount::empty();
    let store = mount.store().clone();
    let log = OpenOptions::new().append(true).create(true).open(mount.path("log")).unwrap();
    let appender = |number: u64, progress: &Progress| {
        progress.step(number, || append(&log, number).unwrap());
    };
    let mut cuts = Vec::new();
    under_load([&appender], |progress| {
        for round in 0..5 {
            let_them_write(progress);
            let cut = cut(&store, &["v"], format!("s{round}"), progress);
            store.fork(&format!("v@s{round}"), &format!("w{round}"));
            let fork = store.mount(&format!("w{round}"));
            let lines: Vec<u64> = fork.text("log").lines().map(|line| line.parse().unwrap()).collect();
            assert!(lines.iter().copied().eq(1..=lines.len() as u64));
            within(&cut.name, lines.len() as u64, cut.bounds[0]);
            fork.write("log", "the fork goes its own way");
            cuts.push(cut);
        }
    });
    let lines: Vec<u64> = mount.text("log").lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines.iter().copied().eq(1..=lines.len() as u64));
}

#[test]
fn storm_of_snapshots_does_not_disturb_the_writers() {
    let mount = Mount::empty();
    let store = mount.store().clone();
    let log = OpenOptions::new().append(true).create(true).open(mount.path("log")).unwrap();
    let appender = |number: u64, progress: &Progress| {
        progress.step(number, || append(&log, number).unwrap());
    };
    let mut held = Vec::new();
    under_load([&appender], |progress| {
        for _ in 0..150 {
            let made = store.json(["snapshot", "create", "v"]);
            held.push(made["cut"]["held_us"].as_u64().unwrap());
            let before = progress[0].acknowledged.load(Ordering::SeqCst);
            while progress[0].acknowledged.load(Ordering::SeqCst) == before {
                std::thread::yield_now();
            }
        }
    });
    held.sort_unstable();
    // The benchmark holds it to 1 ms at the 99th percentile; here other tests run beside.
    assert!(held[held.len() / 10] <= 5000, "held for {held:?} µs");
    assert_eq!(store.json(["snapshot", "ls", "v"]).as_array().unwrap().len(), 150);
    let lines = mount.text("log").lines().count() as u64;
    assert!(mount.text("log").lines().map(|line| line.parse::<u64>().unwrap()).eq(1..=lines));
}

#[test]
fn removing_snapshots_beside_taking_them_damages_none() {
    let mount = Mount::empty();
    let store = mount.store().clone();
    let ring = open(mount.path("ring"), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
    ring.write_all_at(&vec![0; 64 * 4096], 0).unwrap();
    let rewriter = |number: u64, progress: &Progress| {
        let page = number.to_le_bytes().repeat(512);
        progress.step(number, || ring.write_all_at(&page, number % 64 * 4096).unwrap());
    };
    let mut kept: Vec<Cut<1>> = Vec::new();
    under_load([&rewriter], |progress| {
        let_them_write(progress);
        for round in 0..20 {
            // Two of three go, while the next but one is taken.
            let old = (round >= 2 && round % 3 != 0).then(|| format!("s{}", round - 2));
            let remove = |old: &String| store.ok(["snapshot", "rm", &format!("v@{old}")]);
            std::thread::scope(|scope| {
                if let Some(old) = &old {
                    scope.spawn(move || remove(old));
                }
                kept.push(cut(&store, &["v"], format!("s{round}"), progress));
            });
            kept.retain(|cut| Some(&cut.name) != old.as_ref());
            let_them_write(progress);
        }
    });
    store.ok(["gc"]);
    assert!(kept.len() >= 6);
    for cut in &kept {
        let file = File::open(mount.path(format!(".snapshots/{}/ring", cut.name))).unwrap();
        check_ring(&cut.name, &file, cut.bounds[0]);
    }
}

#[test]
fn rollback_under_load_leaves_the_snapshot_and_what_came_later() {
    let mount = Mount::empty();
    let store = mount.store().clone();
    fs::create_dir(mount.path("d")).unwrap();
    // While the tree is exchanged below it, a call may be told that its file is of the past.
    let maker = |number: u64, progress: &Progress| {
        progress.begun.store(number, Ordering::SeqCst);
        match fs::write(mount.path(format!("d/{number}")), number.to_string()) {
            Ok(()) => progress.acknowledged.store(number, Ordering::SeqCst),
            Err(err) => assert_eq!(err.raw_os_error(), Some(libc::ESTALE), "{err}"),
        }
    };
    let mut rounds = Vec::new();
    under_load([&maker], |progress| {
        for round in 0..6 {
            let_them_write(progress);
            let cut = cut(&store, &["v"], format!("s{round}"), progress);
            let_them_write(progress);
            let before = progress[0].begun.load(Ordering::SeqCst);
            store.ok(["volume", "rollback", "v", &format!("v@s{round}")]);
            rounds.push((cut, before));
        }
        let_them_write(progress);
    });
    let mount = mount.restart();
    let names = mount.names("d");
    let files: Vec<u64> = names.iter().map(|name| name.to_str().unwrap().parse().unwrap()).collect();
    for (cut, before) in &rounds {
        let (_, last_in) = cut.bounds[0];
        let lost = files.iter().find(|&&number| number > last_in && number < *before);
        assert_eq!(lost, None, "{}: a file of the abandoned time is there", cut.name);
    }
    for number in &files {
        let content = mount.text(format!("d/{number}"));
        assert!(content == number.to_string() || content.is_empty(), "{number}: {content:?}");
    }
    // What is in the first snapshot is in all of them.
    assert!((1..=rounds[0].0.bounds[0].0).all(|number| files.contains(&number)));
}

#[test]
fn check_beside_writers_and_snapshots_is_clean() {
    let mount = Mount::over(lower! { "low" => noise(1, 0, 500_000) });
    let store = mount.store().clone();
    let low = open(mount.path("low"), libc::O_RDWR, 0).unwrap();
    let rewriter = |number: u64, progress: &Progress| {
        progress.step(number, || low.write_all_at(&noise(number, 0, 3000), number * 7919 % 490_000).unwrap());
    };
    let maker = |number: u64, progress: &Progress| {
        progress.step(number, || {
            let path = mount.path(format!("f{}", number % 50));
            fs::write(&path, noise(number, 0, usize::try_from(number * 977 % 40_000).unwrap())).unwrap();
            if number.is_multiple_of(3) {
                fs::rename(&path, mount.path("renamed")).unwrap();
            } else if number.is_multiple_of(5) {
                fs::remove_file(&path).unwrap();
            }
        });
    };
    under_load([&rewriter, &maker], |progress| {
        for round in 0..8 {
            let_them_write(progress);
            store.json(["snapshot", "create", "v", "--name", &format!("s{round}")]);
            let checked = store.json(["fsck"]);
            assert_eq!(checked["clean"], true, "{checked}");
        }
    });
}
