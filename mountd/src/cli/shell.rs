//! `durdir completions`, `durdir man` and `durdir version`.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use serde::Serialize;

use super::arguments::Arguments;
use super::document::path_text;
use super::error::CliError;
use super::run::Session;
use crate::client::Client;

/// Print completions for a shell, to be sourced by it.
#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Write the man pages of durdir and mountd into a directory.
#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// An existing directory, such as /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Serialize, Debug)]
struct Completions {
    shell: String,
    script: String,
}

#[derive(Serialize, Debug)]
struct Written {
    files: Vec<String>,
}

/// What `version --json` prints; `mountd` is null where none runs.
#[derive(Serialize, Debug)]
struct Versions {
    durdir: &'static str,
    mountd: Option<DaemonVersion>,
}

#[derive(Serialize, Debug)]
struct DaemonVersion {
    version: String,
    pid: u32,
    private: bool,
}

pub(super) fn completions(session: &Session, arguments: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "durdir", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let document = Completions { shell: arguments.shell.to_string(), script };
    session.output.print(&document, || document.script.clone())
}

pub(super) fn man(session: &Session, arguments: &ManArgs) -> Result<(), CliError> {
    let mut files = Vec::new();
    for (name, page) in man_pages().map_err(CliError::Output)? {
        let path = arguments.directory.join(name);
        std::fs::write(&path, page).map_err(|source| CliError::WriteFile { path: path.clone(), source })?;
        files.push(path_text(&path));
    }
    let document = Written { files };
    session.output.print(&document, || document.files.join("\n"))
}

/// Returns the file name and the text of every page: one for each program and each command.
fn man_pages() -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let durdir = Arguments::command();
    let mountd = crate::daemon::arguments::Arguments::command();
    let mut pages = Vec::new();
    add_page(&mut pages, durdir, "durdir", "1")?;
    add_page(&mut pages, mountd, "mountd", "8")?;
    Ok(pages)
}

fn add_page(
    pages: &mut Vec<(String, Vec<u8>)>,
    command: clap::Command,
    name: &str,
    section: &str,
) -> std::io::Result<()> {
    let children: Vec<clap::Command> =
        command.get_subcommands().filter(|child| !child.is_hide_set()).cloned().collect();
    // Command names live as long as the program.
    let static_name: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let page =
        clap_mangen::Man::new(command.name(static_name).disable_help_subcommand(true)).section(section);
    let mut text = Vec::new();
    page.render(&mut text)?;
    pages.push((format!("{name}.{section}"), text));
    for child in children {
        let child_name = format!("{name}-{}", child.get_name());
        add_page(pages, child, &child_name, section)?;
    }
    Ok(())
}

pub(super) async fn version(session: &Session) -> Result<(), CliError> {
    // Not started for this: a version can be told of what is not installed properly, too.
    let running = Client::connect_if_running(&session.endpoint()?).await?;
    let document = Versions {
        durdir: env!("CARGO_PKG_VERSION"),
        mountd: running.as_ref().map(|client| DaemonVersion {
            version: client.hello().version.clone(),
            pid: client.hello().pid,
            private: client.hello().private,
        }),
    };
    session.output.print(&document, || match &document.mountd {
        None => format!("durdir {}", document.durdir),
        Some(mountd) => {
            format!("durdir {}\nmountd {} (pid {})", document.durdir, mountd.version, mountd.pid)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_man_page() {
        let names: Vec<String> = man_pages().unwrap().into_iter().map(|(name, _)| name).collect();
        for name in ["durdir.1", "durdir-mount.1", "durdir-snapshot-create.1", "mountd.8"] {
            assert!(names.iter().any(|found| found == name), "{name} of {names:?}");
        }
    }

    #[test]
    fn every_shell_gets_completions() {
        use clap::ValueEnum;
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "durdir", &mut script);
            assert!(!script.is_empty(), "{shell}");
        }
    }
}
