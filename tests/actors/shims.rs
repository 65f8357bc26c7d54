//! Programs that stand before the real ones in the `PATH` of a daemon.

use durdir_tests::support::*;

use super::agent::LIMIT;

/// Returns a store whose daemon finds these scripts first, by their names. They find the real one in `$REAL`.
pub(crate) fn store_with(scripts: &[(&str, String)]) -> Store {
    let store = Store::new();
    let directory = store.side_dir();
    for (name, script) in scripts {
        let real = real(name);
        write_script(directory.join(name), &format!("#!/bin/sh\nREAL={}\n{script}", real.display()));
    }
    let path = std::env::var("PATH").unwrap();
    start(&store, &format!("{}:{path}", directory.display()));
    store
}

/// Starts the daemon of a store with this `PATH`.
pub(crate) fn start(store: &Store, path: &str) {
    run(store.command().env("PATH", path).args(["volume", "ls"]), LIMIT).ok();
}

/// Returns where a program is.
pub(crate) fn real(name: &str) -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found =
        std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed"))
}
