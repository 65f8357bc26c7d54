//! `durdir actor validate`: what is wrong with a template, or what it says.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::error::CliError;
use super::run::Session;
use crate::exit::{ExitClass, printable};
use crate::template::{MAX_BYTES, Problem, Template, directory_of};

/// What `actor validate --json` prints.
#[derive(Serialize, Debug)]
struct Validated {
    valid: bool,
    errors: Vec<Problem>,
    /// What is missing before an actor of it can be started here.
    warnings: Vec<Problem>,
    /// The canonical template, with every default; null where there are errors.
    template: Option<Value>,
}

pub(super) fn validate(session: &Session, file: &Path) -> Result<(), CliError> {
    let document = read(file).map_err(|source| CliError::ReadFile { path: file.to_owned(), source })?;
    let (template, warnings) = match Template::parse_with_warnings(&document) {
        Ok(parsed) => parsed,
        Err(error) => {
            let found = error.problems.len();
            let text = || error.problems.iter().map(line).collect();
            let errors = error.problems.clone();
            let document = Validated { valid: false, errors, warnings: Vec::new(), template: None };
            session.output.print(&document, text)?;
            let errors = if found == 1 { "error" } else { "errors" };
            let what = format!("actor validate {}: {found} {errors}", file.display());
            return Err(CliError::Found { what, exit: ExitClass::Refused });
        }
    };
    let text = || warnings.iter().map(warning).fold(summary(&template), |text, warning| text + &warning);
    let template = Some(template.to_value());
    let document = Validated { valid: true, errors: Vec::new(), warnings: warnings.clone(), template };
    session.output.print(&document, text)
}

/// `warning: containers[0].rootfs: is needed to start it`
pub(super) fn warning(problem: &Problem) -> String {
    format!("warning: {}", line(problem))
}

/// Reads a file, but no more than is needed to refuse it for its size.
pub(super) fn read(file: &Path) -> io::Result<Vec<u8>> {
    let most = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut document = Vec::new();
    if file == Path::new("-") {
        io::stdin().lock().take(most).read_to_end(&mut document)?;
    } else {
        File::open(file)?.take(most).read_to_end(&mut document)?;
    }
    Ok(document)
}

/// `containers[0].name: is required`
fn line(problem: &Problem) -> String {
    format!("{}\n", printable(&problem.to_string()))
}

fn summary(template: &Template) -> String {
    let containers = match template.containers.len() {
        1 => "1 container".to_owned(),
        count => format!("{count} containers"),
    };
    let volumes: Vec<&str> = template.volumes.iter().map(|volume| volume.name.as_str()).collect();
    let location = template.snapshots.location.as_str();
    let hint = match directory_of(location) {
        Some(_) => "",
        None => " (not by this version: it commits to file:///DIRECTORY alone)",
    };
    let volumes = if volumes.is_empty() { "no volume".to_owned() } else { volumes.join(", ") };
    format!(
        "valid\ncontainers  {containers}\nvolumes     {volumes}\nsandbox     {} ({})\ncaptures    pause {}, commit {} to {location}{hint}\n",
        template.sandbox_class(),
        template.sandbox.runtime.name(),
        template.snapshots.on_pause,
        template.snapshots.on_commit,
    )
}
