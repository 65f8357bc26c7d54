//! Which records differ between two views, found through what their epochs touched since they parted.

use hashbrown::HashSet;

use super::view::View;
use super::{Prefix, Store, StoreError, TOUCHED, parse_touched, touched_start};
use crate::error::FsError;
use crate::ids::{BranchId, Epoch};

impl Store {
    /// Returns every record of which the two views see different versions. Takes time that follows what was
    /// written since they parted.
    ///
    /// `None` if they never were one.
    pub(crate) fn changed_records(&self, from: &View, to: &View) -> Result<Option<Vec<Prefix>>, FsError> {
        let shared = from.lineage().iter().find_map(|&(branch, last)| {
            let other = to.lineage().iter().find(|&&(other, _)| other == branch)?;
            Some((branch, last.min(other.1)))
        });
        let Some((shared, parted)) = shared.filter(|_| from.tree() == to.tree()) else { return Ok(None) };
        let mut seen = HashSet::new();
        for view in [from, to] {
            for &(branch, last) in view.lineage().iter().take_while(|&&(branch, _)| branch >= shared) {
                let after = if branch == shared { parted } else { Epoch(0) };
                self.touched_between(view, branch, after, last, &mut seen)?;
            }
        }
        let mut changed = Vec::new();
        for prefix in seen {
            if from.version(&self.db, &prefix)? != to.version(&self.db, &prefix)? {
                changed.push(prefix);
            }
        }
        changed.sort_unstable();
        Ok(Some(changed))
    }

    fn touched_between(
        &self,
        view: &View,
        branch: BranchId,
        after: Epoch,
        last: Epoch,
        seen: &mut HashSet<Prefix>,
    ) -> Result<(), FsError> {
        self.db.scan(TOUCHED, &branch.0.to_be_bytes(), &touched_start(branch, after.next()), |key, _| {
            let Some((_, epoch, prefix)) = parse_touched(view.tree(), key) else {
                return Err(StoreError::Corrupt { what: format!("touched key {}", super::hex(key)) });
            };
            if epoch > last {
                return Ok(false);
            }
            seen.insert(prefix);
            Ok(true)
        })?;
        Ok(())
    }
}
