//! The filesystem under the store is frozen, as for a backup of its disk: whoever writes to it waits in the kernel.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use durdir_tests::support::*;

use crate::problems;

/// Longer than the doctor takes to call a thread stuck, and than a sign of life may be late.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn frozen_disk_is_waited_for_and_the_doctor_tells_who_waits() {
    let disk = SmallDisk::new(128);
    {
        let store = Store::in_dir(disk.path().join("store"));
        let mount = store.mount("v");
        mount.write("before", "b");
        let path = mount.path("during");
        let frozen = disk.freeze();
        let writer = std::thread::spawn(move || -> std::io::Result<()> {
            let mut file = File::create(path)?;
            file.write_all(&noise(1, 0, 100_000))?;
            file.sync_all()
        });
        eventually("the doctor tells of a stuck thread", LIMIT, || {
            problems(&store).contains(&"stuck-thread".to_owned()).then_some(())
        });
        assert!(!writer.is_finished());
        drop(frozen);
        writer.join().unwrap().unwrap();
        assert_eq!(mount.text("before"), "b");
        let mount = mount.restart();
        assert!(mount.read("during") == noise(1, 0, 100_000));
        assert!(problems(&store).is_empty());
    }
}
