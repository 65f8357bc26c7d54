//! The log of supervisor and worker: lines on standard error.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{Config, LogFormat};

/// Changes what is logged while the process runs.
pub(crate) type LogFilter = reload::Handle<EnvFilter, Registry>;

/// Begins to log as `config` says; `DURDIR_LOG` goes before it.
pub(crate) fn start(config: &Config) -> LogFilter {
    let directives = std::env::var("DURDIR_LOG").unwrap_or_else(|_| config.log_filter.clone());
    let filter = EnvFilter::try_new(&directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter).with(LateReplies);
    let started = match config.log_format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    if let Err(error) = started {
        eprintln!("mountd: log: {error}");
    }
    handle
}

/// Leaves out what fuser takes for an error: the kernel asks to interrupt a request, of a program that is being killed, and that
/// request is answered first. The answer to the interrupt finds nobody then, as it should.
struct LateReplies;

impl<S: Subscriber> Layer<S> for LateReplies {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let mut message = Message::default();
        event.record(&mut message);
        !message.is_late_reply
    }
}

#[derive(Default)]
struct Message {
    is_late_reply: bool,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.is_late_reply = is_late_reply(&format!("{value:?}"));
        }
    }
}

fn is_late_reply(message: &str) -> bool {
    message.starts_with("Failed to send FUSE reply: ") && message.ends_with("(os error 2)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_nobody_waits_for_is_told_from_one_that_is_lost() {
        let text = |errno| format!("Failed to send FUSE reply: {}", std::io::Error::from_raw_os_error(errno));
        assert!(is_late_reply(&text(nix::libc::ENOENT)));
        assert!(!is_late_reply(&text(nix::libc::EINVAL)));
        assert!(!is_late_reply("call failed: No such file or directory (os error 2)"));
    }
}
