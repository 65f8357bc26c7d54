//! Copying between files of one volume without a trip through the program.

use super::VolumeFs;
use super::io::KillSuid;
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::NodeId;

/// Bytes that are copied in one transaction.
const STEP: usize = 1 << 20;

impl VolumeFs {
    /// `copy_file_range(2)`. Returns how much was copied, less than `len` only at the end of the source.
    pub fn copy_file_range(
        &self,
        from: NodeId,
        from_offset: u64,
        to: NodeId,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, FsError> {
        {
            let (source, target) = (self.node(from)?, self.node(to)?);
            if !std::sync::Arc::ptr_eq(&source.tree, &target.tree) {
                return Err(FsError::CrossVolume);
            }
            for node in [&source, &target] {
                if node.state.read().inode.kind != FileKind::Regular {
                    return Err(FsError::Invalid { what: "not a regular file" });
                }
            }
            let overlaps =
                from_offset < to_offset.saturating_add(len) && to_offset < from_offset.saturating_add(len);
            if from == to && overlaps {
                return Err(FsError::Invalid { what: "source and target overlap" });
            }
        }
        let mut done = 0;
        let mut buffer = Vec::new();
        while done < len {
            buffer.clear();
            let step = usize::try_from(len - done).unwrap_or(STEP).min(STEP);
            self.read(from, from_offset + done, step, &mut buffer)?;
            if buffer.is_empty() {
                break;
            }
            self.write(to, to_offset + done, &buffer, KillSuid::No)?;
            done += buffer.len() as u64;
        }
        Ok(done)
    }
}
