//! Asking the supervisor, which answers whatever its worker does.
//!
//! There is no supervisor in this version: nobody listens at [`SOCKET`]. What it will tell is here, so that the rest of the
//! doctor does not change with it.

use crate::paths::Endpoint;

/// Where it will listen, in the directory of the store.
const SOCKET: &str = "supervisor.sock";

/// What a supervisor knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SupervisorState {
    pub(super) pid: u32,
    /// `None` while it starts one.
    pub(super) worker_pid: Option<u32>,
    pub(super) takeovers: u64,
}

/// Asks the supervisor of a store; `None` if there is none.
pub(super) fn ask(endpoint: &Endpoint) -> Option<SupervisorState> {
    // TODO: speak its protocol when a supervisor listens there.
    let _socket = endpoint.store.join(SOCKET);
    None
}
