//! The client side of the API: connecting, starting a private mountd where none runs, deadlines, calls that outlive their
//! connection, and errors as the command line reports them.

mod autostart;
mod calls;
mod connection;
mod error;

pub use calls::{Client, Patience};
pub use connection::Connection;
pub use error::ClientError;
