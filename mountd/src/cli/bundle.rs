//! `durdir bundle`: everything about a node that helps somebody elsewhere, in one file.

use std::fs::OpenOptions;
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use durdir_fs::fuse;
use durdir_fs::store;
use serde::Serialize;

use super::doctor::Diagnosis;
use super::document::path_text;
use super::error::{CliError, check_store};
use super::output::with_progress;
use super::run::Session;
use super::stats::Stats;
use crate::bundle::{Bundle, Listed};
use crate::client::{Client, ClientError, Patience};
use crate::config::Config;
use crate::doctor;
use crate::exit::{one_line, printable};
use crate::paths::Endpoint;
use crate::proto::{GetStatsRequest, GetStatsResponse, HelloResponse};
use crate::units::format_size;

/// How long the daemon may take to answer: it may be what the bundle is about.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take to count records beside the daemon.
const COUNTING: Duration = Duration::from_secs(30);

/// Gather what helps to find out what is wrong, without names or contents of files in volumes and without secrets.
///
/// Works while mountd hangs; touches no mount. docs/bundle.md lists what is in it.
#[derive(Args, Debug)]
pub(super) struct BundleArgs {
    /// The tar file to be written; it must not exist
    file: PathBuf,
}

/// What `bundle --json` prints.
#[derive(Serialize, Debug)]
struct Bundled {
    file: String,
    members: Vec<Listed>,
}

#[derive(Serialize, Debug)]
struct Versions {
    durdir: &'static str,
    /// Null where none answers.
    mountd: Option<String>,
    api_revision: Option<u32>,
    private: Option<bool>,
    store_format: u32,
}

#[derive(Serialize, Debug)]
struct Settings {
    store: String,
    socket: String,
    /// The rest is null where no mountd runs, or where it has no configuration file.
    config_file: Option<String>,
    metrics: Option<String>,
    log_filter: Option<String>,
    log_format: Option<String>,
    shutdown_mounts: Option<&'static str>,
    shutdown_grace_ms: Option<u128>,
}

/// How many records there are, by kind.
#[derive(Serialize, Debug)]
struct Counted {
    kind: String,
    records: u64,
    /// Whether the number is the database's guess.
    estimated: bool,
}

pub(super) async fn bundle(session: &Session, arguments: BundleArgs) -> Result<(), CliError> {
    let BundleArgs { file } = arguments;
    let endpoint = &session.endpoint()?;
    if !endpoint.any_store {
        check_store(&endpoint.store)?;
    }
    let failed = |source: io::Error| CliError::WriteFile { path: file.clone(), source };
    // First, so that nothing is gathered in vain. Whoever looks at it decides who else may.
    let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).map_err(failed)?;
    let bundle = with_progress("gathering", gather(endpoint)).await;
    let made = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let written = bundle.write(made, &mut BufWriter::new(&out)).and_then(|members| {
        out.sync_all()?;
        Ok(members)
    });
    let members = written.map_err(|error| {
        // A part of a bundle is worth nothing; that it cannot be removed is not what went wrong.
        std::fs::remove_file(&file).ok();
        failed(error)
    })?;
    let document = Bundled { file: path_text(&file), members };
    session.output.print(&document, || {
        let bytes: usize = document.members.iter().map(|member| member.bytes).sum();
        let (count, bytes) = (document.members.len(), format_size(bytes as u64));
        let mut out: String = document.members.iter().map(|member| format!("{}\n", member.name)).collect();
        out.push_str(&format!(
            "{count} files, {bytes}, in {}; look at it before you send it\n",
            printable(&document.file)
        ));
        out
    })
}

async fn gather(endpoint: &Endpoint) -> Bundle {
    let mut bundle = Bundle::default();
    let asked = tokio::time::timeout(PATIENCE, ask(endpoint)).await;
    let (hello, stats) = match asked {
        Ok(Ok(Some((hello, stats)))) => (Some(hello), Some(stats)),
        Ok(Ok(None)) => (None, None),
        Ok(Err(error)) => {
            bundle.missing("what mountd tells", &one_line(&error));
            (None, None)
        }
        Err(_) => {
            bundle.missing("what mountd tells", "no answer in time");
            (None, None)
        }
    };
    let store = match &hello {
        Some(hello) if endpoint.any_store => {
            use std::os::unix::ffi::OsStrExt;
            PathBuf::from(std::ffi::OsStr::from_bytes(&hello.store))
        }
        _ => endpoint.store.clone(),
    };
    let endpoint = &Endpoint { store, ..endpoint.clone() };
    bundle.json("versions.json", &versions(hello.as_ref()));
    let report = doctor::examine(endpoint).await;
    let (supervisor, worker) = (report.supervisor_pid, report.worker_pid);
    bundle.json("doctor.json", &Diagnosis::from(report).without_arguments());
    match stats {
        Some(stats) => bundle.json("stats.json", &Stats::from(stats)),
        None => bundle.missing("stats.json", "mountd does not answer"),
    }
    bundle.json("config.json", &settings(endpoint, supervisor.or(worker)));
    let dir = endpoint.store.clone();
    let counting = tokio::task::spawn_blocking(move || store::count_records(&dir));
    match tokio::time::timeout(COUNTING, counting).await {
        Ok(Ok(Ok(counts))) => {
            let counted = |one: store::RecordCount| Counted {
                kind: one.kind,
                records: one.records,
                estimated: one.estimated,
            };
            bundle.json("records.json", &counts.into_iter().map(counted).collect::<Vec<_>>());
        }
        Ok(Ok(Err(error))) => bundle.missing("records.json", &one_line(&error)),
        Ok(Err(error)) => bundle.missing("records.json", &error.to_string()),
        Err(_) => bundle.missing("records.json", "the records could not be counted in time"),
    }
    match fuse::mounted_volumes() {
        Ok(mounted) => bundle.text("mounts.txt", mounted.iter().map(mount_line).collect::<String>()),
        Err(error) => bundle.missing("mounts.txt", &error.to_string()),
    }
    bundle.host();
    for (role, pid) in [("supervisor", supervisor), ("worker", worker)] {
        match pid {
            Some(pid) => bundle.process(role, pid),
            None => bundle.missing(&format!("processes/{role}"), "there is none"),
        }
    }
    bundle.log(&endpoint.log());
    bundle
}

async fn ask(endpoint: &Endpoint) -> Result<Option<(HelloResponse, GetStatsResponse)>, ClientError> {
    let Some(client) = Client::connect_if_running(endpoint).await? else { return Ok(None) };
    let stats = client
        .call(Patience::Usual, GetStatsRequest::default(), async |to, request| {
            to.node().get_stats(request).await
        })
        .await?;
    Ok(Some((client.hello(), stats)))
}

fn versions(hello: Option<&HelloResponse>) -> Versions {
    Versions {
        durdir: env!("CARGO_PKG_VERSION"),
        mountd: hello.map(|hello| hello.version.clone()),
        api_revision: hello.map(|hello| hello.api_revision),
        private: hello.map(|hello| hello.private),
        store_format: store::FORMAT_VERSION,
    }
}

/// Returns what the daemon was told. Only settings that mountd knows are read from its file: what else stands there, a comment with a
/// password perhaps, is not looked at.
fn settings(endpoint: &Endpoint, pid: Option<u32>) -> Settings {
    let file = pid.and_then(config_of);
    let config = file.as_deref().and_then(|file| Config::load(file).ok());
    Settings {
        store: path_text(&endpoint.store),
        socket: path_text(&endpoint.socket),
        config_file: file.as_deref().map(path_text),
        metrics: config.as_ref().and_then(|config| Some(config.metrics?.to_string())),
        log_filter: config.as_ref().map(|config| config.log_filter.clone()),
        log_format: config.as_ref().map(|config| format!("{:?}", config.log_format).to_lowercase()),
        shutdown_mounts: config.as_ref().map(|config| config.shutdown.mounts.name()),
        shutdown_grace_ms: config.as_ref().map(|config| config.shutdown.grace.as_millis()),
    }
}

/// Returns the configuration file of a mountd, from its command line.
fn config_of(pid: u32) -> Option<PathBuf> {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> =
        words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let joined = words.iter().find_map(|word| word.strip_prefix("--config=").map(str::to_owned));
    let apart = || {
        let at = words.iter().position(|word| word == "--config")?;
        words.get(at + 1).cloned()
    };
    let file = PathBuf::from(joined.or_else(apart)?);
    let working_directory = Path::new("/proc").join(pid.to_string()).join("cwd");
    Some(if file.is_absolute() { file } else { std::fs::read_link(working_directory).ok()?.join(file) })
}

fn mount_line(mount: &fuse::MountedVolume) -> String {
    format!("{} at {} connection {}\n", mount.name, mount.mountpoint.display(), mount.connection)
}
