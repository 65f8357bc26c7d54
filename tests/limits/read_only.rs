//! The filesystem under the store takes itself for damaged and stops taking writes, as ext4 does.

use std::fs;
use std::io::Write;

use durdir_tests::assert_errno;
use durdir_tests::support::*;

use crate::problems;

#[test]
fn store_on_a_read_only_disk_is_read_and_goes_on_when_the_disk_is_repaired() {
    let disk = SmallDisk::new(128);
    {
        let store = Store::in_dir(disk.path().join("store"));
        for alarm in ["Read-only file system", "store stops", "stopped after a failed write", "the store"] {
            store.expect_alarm(alarm);
        }
        let mount = store.mount("v");
        mount.write("kept", noise(1, 0, 1 << 20));
        store.snapshot("v", "s");
        let mut open = fs::File::create(mount.path("open")).unwrap();
        open.write_all(b"acknowledged").unwrap();
        open.sync_all().unwrap();
        let (worker, daemon) = (store.worker_pid(), store.daemon());
        disk.fail();
        assert_errno!(open.write_all(b" refused"), EROFS | EIO);
        assert_errno!(fs::create_dir(mount.path("refused")), EROFS | EIO);
        assert_errno!(fs::remove_file(mount.path("kept")), EROFS | EIO);
        assert!(mount.read("kept") == noise(1, 0, 1 << 20));
        assert_eq!(mount.text("open"), "acknowledged");
        assert!(problems(&store).contains(&"store-stopped".to_owned()));
        // It would be no better off.
        assert_eq!((store.worker_pid(), store.daemon()), (worker, daemon));
        drop(open);
        mount.unmount();
        store.stop_daemon();
        disk.repair();
        let mount = store.mount("v");
        assert_eq!(mount.text("open"), "acknowledged");
        assert!(mount.read("kept") == noise(1, 0, 1 << 20));
        assert_eq!(mount.names("/"), ["kept", "open"]);
        mount.write("again", "all");
        assert_eq!(mount.restart().text("again"), "all");
    }
}
