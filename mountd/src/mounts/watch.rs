//! The watchdog: a request that is not answered for long is told in the log, once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use durdir_fs::fuse::OldestRequest;

use super::Mounts;
use super::registry::MountView;

/// Longer than the slowest disk takes for anything that is not stuck.
const LONG: Duration = Duration::from_secs(10);

/// Which requests were told.
#[derive(Default)]
pub(super) struct Watch(HashMap<PathBuf, u64>);

impl Watch {
    /// Returns what is to be told of these requests, the oldest of each mount.
    fn look<'a>(&mut self, oldest: &'a [(MountView, OldestRequest)]) -> Vec<&'a (MountView, OldestRequest)> {
        self.0.retain(|mountpoint, id| {
            oldest.iter().any(|(view, request)| view.mountpoint == *mountpoint && request.id == *id)
        });
        let long = oldest.iter().filter(|(_, request)| request.age >= LONG);
        long.filter(|(view, request)| self.0.insert(view.mountpoint.clone(), request.id).is_none()).collect()
    }
}

impl Mounts {
    /// Warns of requests that take long.
    pub(crate) fn watch_requests(&self) {
        let oldest = self.oldest_requests();
        for (view, request) in self.watch.lock().look(&oldest) {
            tracing::warn!(
                volume = view.volume,
                mountpoint = %view.mountpoint.display(),
                operation = request.operation,
                age_s = request.age.as_secs(),
                "a request is not answered; `durdir doctor` may tell why"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use durdir_fs::fuse::CacheMode;
    use durdir_fs::ids::VolumeId;

    use super::*;
    use crate::mounts::Source;

    fn request(id: u64, secs: u64) -> (MountView, OldestRequest) {
        let view = MountView {
            volume: "v".to_owned(),
            volume_id: VolumeId(1),
            source: Source::Head,
            mountpoint: "/m".into(),
            read_only: false,
            cache: CacheMode::WriteThrough,
            transport: "",
        };
        (view, OldestRequest { operation: "read", age: Duration::from_secs(secs), id })
    }

    #[test]
    fn each_request_is_told_once_when_it_is_old() {
        let mut watch = Watch::default();
        let mut told = |requests: &[(MountView, OldestRequest)]| watch.look(requests).len();
        assert_eq!(told(&[request(1, 9)]), 0);
        assert_eq!(told(&[request(1, 10)]), 1);
        assert_eq!(told(&[request(1, 11)]), 0);
        assert_eq!(told(&[]), 0);
        assert_eq!(told(&[request(2, 12)]), 1);
    }
}
