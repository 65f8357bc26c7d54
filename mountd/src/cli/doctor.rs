//! `durdir doctor`.

use serde::Serialize;

use super::error::{CliError, check_store};
use super::run::Session;
use crate::doctor::{self, Problem, Report};
use crate::exit::{ExitClass, printable};

/// What `doctor --json` prints.
#[derive(Serialize, Debug)]
pub(super) struct Diagnosis {
    supervisor_pid: Option<u32>,
    worker_pid: Option<u32>,
    takeovers: u64,
    problems: Vec<Found>,
}

#[derive(Serialize, Debug)]
struct Found {
    kind: &'static str,
    volume: Option<String>,
    detail: String,
    remedy: String,
}

impl From<Report> for Diagnosis {
    fn from(report: Report) -> Diagnosis {
        let Report { supervisor_pid, worker_pid, takeovers, problems } = report;
        let found = |Problem { kind, volume, detail, remedy }| Found { kind, volume, detail, remedy };
        Diagnosis {
            supervisor_pid,
            worker_pid,
            takeovers,
            problems: problems.into_iter().map(found).collect(),
        }
    }
}

impl Diagnosis {
    /// Leaves out what a program asked for when its request killed workers: names of files.
    pub(super) fn without_arguments(mut self) -> Diagnosis {
        for Found { detail, .. } in &mut self.problems {
            if let Some(at) = detail.find(", arguments ") {
                detail.truncate(at);
            }
        }
        self
    }
}

pub(super) async fn doctor(session: &Session) -> Result<(), CliError> {
    let endpoint = session.endpoint()?;
    if !endpoint.any_store {
        check_store(&endpoint.store)?;
    }
    let diagnosis = Diagnosis::from(doctor::examine(&endpoint).await);
    session.output.print(&diagnosis, || text(&diagnosis))?;
    match diagnosis.problems.len() {
        0 => Ok(()),
        1 => Err(CliError::Found { what: "doctor: 1 problem found".to_owned(), exit: ExitClass::Failed }),
        many => {
            Err(CliError::Found { what: format!("doctor: {many} problems found"), exit: ExitClass::Failed })
        }
    }
}

fn text(diagnosis: &Diagnosis) -> String {
    let pid = |pid: Option<u32>| pid.map_or("none".to_owned(), |pid| pid.to_string());
    let mut out = format!(
        "supervisor  {}\nworker      {}\ntakeovers   {}\n",
        pid(diagnosis.supervisor_pid),
        pid(diagnosis.worker_pid),
        diagnosis.takeovers
    );
    for Found { kind, volume, detail, remedy } in &diagnosis.problems {
        let volume = volume.as_ref().map_or(String::new(), |volume| format!("{volume}: "));
        out.push_str(&printable(&format!("{kind}: {volume}{detail}")));
        out.push_str(&format!("\n    {}\n", printable(remedy)));
    }
    if diagnosis.problems.is_empty() {
        out.push_str("no problems found\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_diagnosis_has_the_pinned_fields_with_nulls() {
        let problem = Problem {
            kind: "dead-mount",
            volume: Some("web".to_owned()),
            detail: "d".to_owned(),
            remedy: "r".to_owned(),
        };
        let report =
            Report { supervisor_pid: None, worker_pid: Some(7), takeovers: 0, problems: vec![problem] };
        let expected = json!({
            "supervisor_pid": null, "worker_pid": 7, "takeovers": 0,
            "problems": [{"kind": "dead-mount", "volume": "web", "detail": "d", "remedy": "r"}],
        });
        let diagnosis = Diagnosis::from(report);
        assert_eq!(serde_json::to_value(&diagnosis).unwrap(), expected);
        assert!(text(&diagnosis).contains("dead-mount: web: d\n    r\n"));
    }

    #[test]
    fn arguments_of_requests_can_be_left_out() {
        let detail = "the last was: unlink of node 1 by uid 0 pid 9, arguments \"secret\" = 736563726574";
        let problem = Problem {
            kind: "flagged-volume",
            volume: None,
            detail: detail.to_owned(),
            remedy: "r".to_owned(),
        };
        let report = Report { supervisor_pid: None, worker_pid: None, takeovers: 0, problems: vec![problem] };
        let left = Diagnosis::from(report).without_arguments();
        assert_eq!(left.problems[0].detail, "the last was: unlink of node 1 by uid 0 pid 9");
    }
}
