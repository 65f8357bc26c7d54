//! What a capture costs on this disk at the least.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The log, in place: what is written over has its blocks already.
const LOG_BYTES: usize = 4 << 20;
/// What a record of a cut takes, and a manifest.
const RECORD: [u8; 600] = [7; 600];
const MANIFEST: [u8; 1500] = [7; 1500];

/// Brings to the disk what a capture has to, and nothing else: memory, a record of the cut, a manifest, all side by side.
pub(crate) struct Disk {
    place: PathBuf,
    log: File,
    records: u64,
}

impl Disk {
    pub(crate) fn at(place: &Path) -> Disk {
        let log = File::options().create_new(true).write(true).open(place.join("log")).unwrap();
        log.write_all_at(&vec![0; LOG_BYTES], 0).unwrap();
        log.sync_all().unwrap();
        Disk { place: place.to_owned(), log, records: 0 }
    }

    /// Returns how long that takes. `image`: memory to be brought there, too.
    pub(crate) fn take(&mut self, image: Option<&Path>) -> Duration {
        let directory = self.place.join("capture");
        let memory = directory.join("image");
        fs::create_dir_all(&memory).unwrap();
        let mut paths = vec![memory.clone()];
        for entry in image.iter().flat_map(|image| fs::read_dir(image).unwrap()) {
            let entry = entry.unwrap();
            let copy = memory.join(entry.file_name());
            // Written, as the runtime leaves it.
            fs::write(&copy, fs::read(entry.path()).unwrap()).unwrap();
            paths.push(copy);
        }
        let at = self.records * RECORD.len() as u64 % (LOG_BYTES - RECORD.len()) as u64;
        self.records += 1;
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for path in paths.iter().filter(|_| image.is_some()) {
                scope.spawn(move || File::open(path).unwrap().sync_all().unwrap());
            }
            scope.spawn(|| {
                self.log.write_all_at(&RECORD, at).unwrap();
                self.log.sync_data().unwrap();
            });
            let manifest = directory.join("manifest.json");
            fs::write(directory.join("draft"), MANIFEST).unwrap();
            fs::rename(directory.join("draft"), &manifest).unwrap();
            scope.spawn(move || File::open(&manifest).unwrap().sync_all().unwrap());
            File::open(&directory).unwrap().sync_all().unwrap();
        });
        let took = begun.elapsed();
        fs::remove_dir_all(&directory).unwrap();
        took
    }
}
