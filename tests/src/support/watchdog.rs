//! Nothing hangs for ever: a mount that outlives its deadline has its FUSE connection aborted, so
//! that whatever waits on it fails, and the test with it.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Longer than any test takes.
const LIFETIME: Duration = Duration::from_secs(400);
/// Says, in seconds, that one takes longer: the long form of a storm.
const PATIENCE: &str = "DURDIR_TEST_PATIENCE";

static WATCHED: LazyLock<Mutex<HashMap<u64, (Instant, PathBuf)>>> = LazyLock::new(|| {
    thread::Builder::new().name("watchdog".to_owned()).spawn(watch).expect("a thread can be started");
    Mutex::default()
});

/// Puts the connection behind `mountpoint` under watch.
pub(super) fn guard(connection: u64, mountpoint: PathBuf) {
    let longer = std::env::var(PATIENCE).ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    WATCHED.lock().unwrap().insert(connection, (Instant::now() + longer.unwrap_or(LIFETIME), mountpoint));
}

/// Ends the watch.
pub(super) fn release(connection: u64) {
    WATCHED.lock().unwrap().remove(&connection);
}

/// Aborts one FUSE connection: all its requests fail with ECONNABORTED, now and later.
pub(super) fn abort(connection: u64) {
    mount_control_filesystem();
    let control = format!("{CONNECTIONS}/{connection}/abort");
    if let Err(err) = fs::write(&control, "1") {
        eprintln!("cannot abort through {control}: {err}");
    }
}

fn watch() {
    loop {
        thread::sleep(Duration::from_secs(1));
        let now = Instant::now();
        let late: Vec<(u64, PathBuf)> = {
            let watched = WATCHED.lock().unwrap();
            let late = watched.iter().filter(|(_, (deadline, _))| *deadline < now);
            late.map(|(&connection, (_, mountpoint))| (connection, mountpoint.clone())).collect()
        };
        for (connection, mountpoint) in late {
            eprintln!("{} is late: aborting its connection", mountpoint.display());
            abort(connection);
            release(connection);
        }
    }
}

fn mount_control_filesystem() {
    let empty = fs::read_dir(CONNECTIONS).map_or(true, |mut entries| entries.next().is_none());
    if empty {
        let none: Option<&str> = None;
        let flags = nix::mount::MsFlags::empty();
        // An empty directory may also be one without connections; then the write that follows says so.
        if let Err(err) = nix::mount::mount(Some("none"), CONNECTIONS, Some("fusectl"), flags, none) {
            eprintln!("cannot mount fusectl: {err}");
        }
    }
}
