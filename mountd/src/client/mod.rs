//! The client side of the API: connecting, starting a private mountd where none runs, deadlines,
//! and errors as the command line reports them.

mod autostart;
mod connection;
mod error;

pub use connection::{Client, Patience};
pub use error::ClientError;
