//! `main` of durdir: parse, run, report.

use std::io::{self, Write};
use std::process::ExitCode;

use super::arguments::{Arguments, Command, GlobalArgs};
use super::error::CliError;
use super::output::{Output, with_progress};
use super::{actor, bundle, check, doctor, fork, log, mount, shell, snapshot, stats, top, verify, volume};
use crate::client::{Client, ClientError, Connection, Patience};
use crate::exit::one_line;
use crate::paths::Endpoint;
use crate::usage;

/// What every command has at hand.
pub(super) struct Session {
    pub(super) output: Output,
    global: GlobalArgs,
}

impl Session {
    fn new(global: GlobalArgs) -> Session {
        Session { output: Output::new(global.json), global }
    }

    /// Returns where the store is. Only who needs one fails where there is no place for it.
    pub(super) fn endpoint(&self) -> Result<Endpoint, CliError> {
        Endpoint::resolve(self.global.store.as_deref(), self.global.socket.as_deref())
            .map_err(CliError::Endpoint)
    }

    /// Returns a connection to the mountd of the store, which is started if none runs.
    pub(super) async fn connect(&self) -> Result<Client, CliError> {
        let endpoint = self.endpoint()?;
        let client = Client::connect(&endpoint, self.global.timeout).await?;
        let client = client.with_request_id(self.global.request_id);
        self.say(|| {
            let hello = client.hello();
            let kind = if hello.private { "private mountd" } else { "mountd" };
            let store = endpoint.store.display();
            format!("{kind} {} (pid {}) serves {store}", hello.version, hello.pid)
        });
        Ok(client)
    }

    /// Tells something on standard error with `-v`.
    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.global.verbose {
            complain(&what());
        }
    }
}

/// Tells something on standard error. Where nobody reads that either, the exit code has to do.
fn complain(line: &str) {
    writeln!(io::stderr(), "durdir: {line}").ok();
}

/// Makes a call, and tells on a terminal that it takes long; `action` says in the words of the command what it is for.
pub(super) async fn call<Q: Clone, T>(
    client: &Client,
    patience: Patience,
    action: impl FnOnce() -> String,
    request: Q,
    send: impl AsyncFn(&Connection, tonic::Request<Q>) -> Result<tonic::Response<T>, tonic::Status>,
) -> Result<T, CliError> {
    let action = action();
    let calling = client.call(patience, request, send);
    with_progress(&action, calling).await.map_err(|source| CliError::Call { action, source })
}

/// As [`call`], for who tells of it otherwise.
pub(super) async fn call_quietly<Q: Clone, T>(
    client: &Client,
    patience: Patience,
    action: impl FnOnce() -> String,
    request: Q,
    send: impl AsyncFn(&Connection, tonic::Request<Q>) -> Result<tonic::Response<T>, tonic::Status>,
) -> Result<T, CliError> {
    client.call(patience, request, send).await.map_err(|source| failed(action, source))
}

/// Returns the error of a call.
pub(super) fn failed(action: impl FnOnce() -> String, source: ClientError) -> CliError {
    CliError::Call { action: action(), source }
}

/// Runs durdir with the arguments of this process.
pub fn main() -> ExitCode {
    let arguments = match usage::parse("durdir") {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_reader_gone() => ExitCode::SUCCESS,
        Err(error) => {
            complain(&one_line(&error));
            error.exit_class().into()
        }
    }
}

fn run(arguments: Arguments) -> Result<(), CliError> {
    let session = Session::new(arguments.global);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)?;
    let done = runtime.block_on(dispatch(&session, arguments.command));
    // Nothing that is left is worth waiting for: the answer is here, or it was given up.
    runtime.shutdown_background();
    done
}

async fn dispatch(session: &Session, command: Command) -> Result<(), CliError> {
    match command {
        Command::Mount(arguments) => mount::mount(session, arguments).await,
        Command::Umount(arguments) => mount::umount(session, arguments).await,
        Command::Volume(command) => volume::run(session, command).await,
        Command::Snapshot(command) => snapshot::run(session, command).await,
        Command::Fork(arguments) => fork::fork(session, arguments).await,
        Command::Actor(command) => actor::run(session, command).await,
        Command::Log(arguments) => log::log(session, arguments).await,
        Command::Fsck(arguments) => check::fsck(session, arguments).await,
        Command::Verify(arguments) => verify::verify(session, arguments).await,
        Command::Gc(arguments) => check::gc(session, arguments).await,
        Command::Stats(arguments) => stats::stats(session, arguments).await,
        Command::Top(arguments) => top::top(session, arguments).await,
        Command::Bundle(arguments) => bundle::bundle(session, arguments).await,
        Command::Doctor => doctor::doctor(session).await,
        Command::Completions(arguments) => shell::completions(session, &arguments),
        Command::Man(arguments) => shell::man(session, &arguments),
        Command::Version => shell::version(session).await,
    }
}
