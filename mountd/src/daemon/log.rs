//! The log of supervisor and worker: lines on standard error.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config::{Config, LogFormat};

/// Changes what is logged while the process runs.
pub(crate) type LogFilter = reload::Handle<EnvFilter, Registry>;

/// Begins to log as `config` says; `DURDIR_LOG` goes before it.
pub(crate) fn start(config: &Config) -> LogFilter {
    let directives = std::env::var("DURDIR_LOG").unwrap_or_else(|_| config.log_filter.clone());
    let filter = EnvFilter::try_new(&directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match config.log_format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    if let Err(error) = started {
        eprintln!("mountd: log: {error}");
    }
    handle
}
