//! Reading a command line, and telling on one line what is wrong with it.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::exit::{ExitClass, printable};

/// Reads the arguments of this process. Where there is nothing to run, since help was asked for or
/// the arguments make no sense, says so and returns what to exit with.
pub(crate) fn parse<T: Parser>(program: &str) -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| {
        if is_request(&error) {
            // Help and versions are output; that nobody reads it is not for us to tell.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        let report = match error.kind() {
            // Its own report is the help.
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "error: a command is missing".to_owned(),
            _ => error.to_string(),
        };
        eprintln!("{program}: {}", one_line(&report));
        ExitClass::Usage.into()
    })
}

fn is_request(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
}

/// Keeps what is wrong and what was meant, without the usage that follows.
fn one_line(report: &str) -> String {
    let report = report.strip_prefix("error: ").unwrap_or(report);
    let paragraphs = report
        .split("\n\n")
        .take_while(|text| !text.starts_with("Usage:") && !text.starts_with("For more information"));
    let squeezed = paragraphs.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let line = squeezed.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
    format!("{}; see --help", printable(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_one_line() {
        let report = "error: the following required arguments were not provided:\n  <VOLUME>\n  \
                      <DIR>\n\nUsage: durdir mount <VOLUME> <DIR>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            one_line(report),
            "the following required arguments were not provided: <VOLUME> <DIR>; see --help"
        );
        let report = "error: unrecognized subcommand 'mout'\n\n  tip: a similar subcommand exists: \
                      'mount'\n\nUsage: durdir [OPTIONS] <COMMAND>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            one_line(report),
            "unrecognized subcommand 'mout'; tip: a similar subcommand exists: 'mount'; see --help"
        );
    }
}
