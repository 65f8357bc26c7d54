//! `kill -9` of the daemon: everything that was acknowledged is there afterwards.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use durdir_tests::lower;
use durdir_tests::support::*;

/// Kills the daemon once `progress` shows that the writers are under way, and mounts again.
fn kill_under_way(
    mount: Mount,
    rounds: u64,
    work: impl Fn(&Mount, &AtomicU64, &AtomicBool) + Sync,
) -> (Mount, u64) {
    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| work(&mount, &acknowledged, &stop));
        eventually("the writer is under way", Duration::from_secs(60), || {
            (acknowledged.load(Ordering::SeqCst) >= rounds).then_some(())
        });
        mount.store().kill_daemon();
        stop.store(true, Ordering::SeqCst);
    });
    (mount.after_kill(), acknowledged.load(Ordering::SeqCst))
}

#[test]
fn acknowledged_appends_are_there() {
    let mut mount = Mount::empty();
    let mut kept = 0;
    for _ in 0..4 {
        let before = kept;
        let (next, acknowledged) = kill_under_way(mount, 200, |mount, acknowledged, stop| {
            let mut log = OpenOptions::new().append(true).create(true).open(mount.path("log")).unwrap();
            let mut number = before;
            // One call per line: `writeln!` would make two. No line crosses a page: the kernel would make two requests of it.
            while !stop.load(Ordering::SeqCst) && log.write_all(format!("{number:07}\n").as_bytes()).is_ok() {
                number += 1;
                acknowledged.store(number - before, Ordering::SeqCst);
            }
        });
        mount = next;
        let lines: Vec<u64> = mount.text("log").lines().map(|line| line.parse().unwrap()).collect();
        let count = lines.len() as u64;
        assert!(lines.iter().copied().eq(0..count), "the log has a gap or a line twice");
        // The one append that was under way may have happened.
        assert!(
            (before + acknowledged..=before + acknowledged + 1).contains(&count),
            "{count} of {}",
            before + acknowledged
        );
        kept = count;
    }
}

#[test]
fn acknowledged_files_are_there_and_whole() {
    let (mount, acknowledged) = kill_under_way(Mount::empty(), 150, |mount, acknowledged, stop| {
        for number in 0.. {
            let size = usize::try_from(number * 131 % 20_000).unwrap();
            let path = mount.path(format!("f{number}"));
            if stop.load(Ordering::SeqCst) || fs::write(path, noise(number, 0, size)).is_err() {
                break;
            }
            acknowledged.store(number + 1, Ordering::SeqCst);
        }
    });
    for number in 0..acknowledged {
        let size = usize::try_from(number * 131 % 20_000).unwrap();
        assert!(
            mount.read(format!("f{number}")) == noise(number, 0, size),
            "file {number} of {acknowledged}"
        );
    }
    assert!(mount.names("/").len() as u64 <= acknowledged + 1);
}

#[test]
fn acknowledged_rewrites_are_there_page_by_page() {
    const PAGES: u64 = 512;
    let mount = Mount::over(lower! { "file" => vec![0; 2 << 20] });
    let (mount, acknowledged) = kill_under_way(mount, 2000, |mount, acknowledged, stop| {
        let file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
        for number in 1.. {
            let page = number * 37 % PAGES;
            if stop.load(Ordering::SeqCst) || file.write_all_at(&noise(number, 0, 4096), page * 4096).is_err()
            {
                break;
            }
            acknowledged.store(number, Ordering::SeqCst);
        }
    });
    let file = File::open(mount.path("file")).unwrap();
    let mut newest = vec![0; usize::try_from(PAGES).unwrap()];
    for number in 1..=acknowledged {
        newest[usize::try_from(number * 37 % PAGES).unwrap()] = number;
    }
    for (page, &number) in newest.iter().enumerate() {
        let mut seen = vec![0; 4096];
        file.read_exact_at(&mut seen, page as u64 * 4096).unwrap();
        let wanted = if number == 0 { vec![0; 4096] } else { noise(number, 0, 4096) };
        // The write under way may have reached its page.
        let next = noise(acknowledged + 1, 0, 4096);
        assert!(
            seen == wanted || ((acknowledged + 1) * 37 % PAGES == page as u64 && seen == next),
            "page {page}"
        );
    }
}

#[test]
fn acknowledged_renames_and_removals_are_there() {
    let (mount, acknowledged) = kill_under_way(Mount::empty(), 100, |mount, acknowledged, stop| {
        let step = |number: u64| -> std::io::Result<()> {
            fs::create_dir(mount.path(format!("d{number}")))?;
            fs::write(mount.path(format!("d{number}/draft")), number.to_string())?;
            fs::rename(mount.path(format!("d{number}/draft")), mount.path(format!("d{number}/final")))?;
            if number > 0 {
                fs::remove_dir_all(mount.path(format!("d{}", number - 1)))?;
            }
            fs::hard_link(mount.path(format!("d{number}/final")), mount.path(format!("link-{number}")))
        };
        for number in 0.. {
            if stop.load(Ordering::SeqCst) || step(number).is_err() {
                break;
            }
            acknowledged.store(number + 1, Ordering::SeqCst);
        }
    });
    for number in 0..acknowledged {
        assert_eq!(mount.text(format!("link-{number}")), number.to_string());
    }
    for number in 0..acknowledged - 1 {
        assert!(!mount.path(format!("d{number}")).exists(), "d{number} was removed");
    }
}

#[test]
fn open_unlinked_file_leaves_no_room_taken_after_a_kill() {
    let mount = Mount::empty();
    let empty = mount.store().allocated();
    mount.write("file", noise(1, 0, 8 << 20));
    let file = open(mount.path("file"), libc::O_RDWR, 0).unwrap();
    file.sync_all().unwrap();
    fs::remove_file(mount.path("file")).unwrap();
    mount.store().kill_daemon();
    drop(file);
    let mount = mount.after_kill();
    assert!(mount.names("/").is_empty());
    let store = mount.store().clone();
    eventually("the orphan is gone", Duration::from_secs(30), || {
        (store.volume("v")["used_bytes"] == 0).then_some(())
    });
    store.ok(["gc"]);
    eventually("its space came back", Duration::from_secs(30), || {
        (store.allocated() < empty + 4 * MIB).then_some(())
    });
}

#[test]
fn snapshots_taken_under_fire_are_whole_or_not_there() {
    let mut mount = Mount::empty();
    for round in 0..3 {
        let (next, acknowledged) = kill_under_way(mount, 3, |mount, acknowledged, stop| {
            for number in 0.. {
                let content = format!("{round} {number}");
                if stop.load(Ordering::SeqCst) || fs::write(mount.path("file"), &content).is_err() {
                    break;
                }
                let name = format!("s-{round}-{number}");
                if !mount.store().durdir(["snapshot", "create", "v", "--name", &name]).status.success() {
                    break;
                }
                acknowledged.store(number + 1, Ordering::SeqCst);
            }
        });
        mount = next;
        let store = mount.store().clone();
        let listed = store.json(["snapshot", "ls", "v"]);
        let names: Vec<&str> =
            listed.as_array().unwrap().iter().filter_map(|line| line["name"].as_str()).collect();
        for number in 0..acknowledged {
            assert!(
                names.contains(&format!("s-{round}-{number}").as_str()),
                "{number} of {acknowledged} in {names:?}"
            );
        }
        for name in names.iter().filter(|name| name.starts_with(&format!("s-{round}-"))) {
            let content = name.trim_start_matches("s-").replace('-', " ");
            assert_eq!(fs::read_to_string(mount.path(format!(".snapshots/{name}/file"))).unwrap(), content);
        }
    }
}

#[test]
fn store_is_clean_after_a_kill() {
    let (mount, _) = kill_under_way(
        Mount::over(lower! { "low" => noise(1, 0, 50_000) }),
        100,
        |mount, acknowledged, stop| {
            for number in 0u64.. {
                let name = format!("f{}", number % 20);
                let done = fs::write(
                    mount.path(&name),
                    noise(number, 0, usize::try_from(number * 777 % 30_000).unwrap()),
                )
                .is_ok()
                    && fs::rename(mount.path(&name), mount.path(format!("g{}", number % 7))).is_ok();
                if stop.load(Ordering::SeqCst) || !done {
                    break;
                }
                acknowledged.store(number, Ordering::SeqCst);
            }
        },
    );
    let checked = mount.store().json(["fsck"]);
    assert_eq!(checked["clean"], true, "{checked}");
}
