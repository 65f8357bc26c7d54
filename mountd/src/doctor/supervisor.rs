//! Asking the supervisor, which answers whatever its worker does.

use crate::paths::Endpoint;
use crate::supervisor::{ControlError, Supervised, supervised};

/// Asks the supervisor of a store; `None` if there is none.
pub(super) fn ask(endpoint: &Endpoint) -> Result<Option<Supervised>, ControlError> {
    match supervised(&endpoint.store) {
        Ok(state) => Ok(Some(state)),
        Err(ControlError::Absent { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
