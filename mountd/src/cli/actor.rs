//! `durdir actor …`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::error::CliError;
use super::output::Output;
use super::run::{Session, call};
use super::table::{Align, Table};
use super::validate::{self, warning};
use crate::client::{Client, Connection, Patience};
use crate::exit::printable;
use crate::proto::{
    Actor, CapturePreview, CaptureRequest, CreateActorRequest, ForkActorRequest, GetActorRequest,
    ListActorsRequest, OperationResponse, Phase, PreviewCaptureRequest, RemoveActorPreview,
    RemoveActorRequest, RemoveActorResponse, ResumeActorRequest, StartActorRequest,
};
use crate::template::{Problem, Template};
use crate::units::{format_micros, format_rfc3339};

#[derive(Subcommand, Debug)]
pub(super) enum ActorCommand {
    /// Check a template, and tell everything that is wrong with it. Needs no mountd
    Validate {
        /// The template, YAML or JSON; - is standard input
        file: PathBuf,
    },
    /// Make an actor with its volumes; it does not run yet
    Create {
        /// Its template, YAML or JSON; - is standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// What it is called: lower-case letters, digits and '-' [default: something new]
        #[arg(long)]
        id: Option<String>,
    },
    /// List actors
    #[command(visible_alias = "list")]
    Ls,
    /// Show one actor
    Show {
        /// The actor
        id: String,
    },
    /// Start an actor that never ran, or that ended, on its volumes as they are
    Start {
        /// The actor
        id: String,
    },
    /// Stop an actor, with a capture on this node
    Pause(CaptureArgs),
    /// Let a paused or suspended actor go on
    Resume {
        /// The actor
        id: String,
    },
    /// Stop an actor that runs or is paused, with a committed capture
    Suspend(CaptureArgs),
    /// Make a committed capture; the actor goes on as before
    Commit(CaptureArgs),
    /// Make an actor out of a committed capture; it is suspended, and goes on from there
    Fork {
        /// The committed capture: a UUID
        commit: String,
        /// What the new actor is called
        #[arg(value_name = "NEWID")]
        id: String,
        /// Another template than that of the actor that was captured
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Less than the capture holds
        #[arg(long, value_parser = SCOPES)]
        scope: Option<String>,
    },
    /// Remove an actor, whatever it does, with its volumes and all that is not committed
    #[command(visible_alias = "remove")]
    Rm {
        /// The actor
        id: String,
        /// Only tell what would go
        #[arg(long)]
        dry_run: bool,
    },
}

const SCOPES: [&str; 3] = ["Full", "Data", "None"];

#[derive(Args, Debug)]
pub(super) struct CaptureArgs {
    /// The actor
    id: String,
    /// Capture less than the template says
    #[arg(long, value_parser = SCOPES)]
    scope: Option<String>,
    /// Only check, and tell what would be captured and what would be lost
    #[arg(long)]
    dry_run: bool,
}

/// What `actor pause|suspend|commit --dry-run --json` prints.
#[derive(Serialize, Debug)]
struct WouldCapture {
    dry_run: bool,
    id: String,
    state: String,
    scope: String,
    /// What there is that nothing would hold any more: `memory`, `volumes`.
    lost: Vec<String>,
}

/// What `actor create --json` prints.
#[derive(Serialize, Debug)]
struct Created {
    #[serde(flatten)]
    actor: ActorDocument,
    /// What is missing before it can be started here.
    warnings: Vec<Problem>,
}

/// What `actor show --json` prints.
#[derive(Serialize, Debug)]
struct ActorDocument {
    id: String,
    state: String,
    /// Why it ended, where it did by itself.
    reason: Option<String>,
    sandbox_class: String,
    runtime: String,
    volumes: Vec<VolumeDocument>,
    last_capture: Option<CaptureDocument>,
    pid: Option<u32>,
    created: String,
    /// The canonical template that it was made of.
    template: Option<Value>,
}

#[derive(Serialize, Debug)]
struct VolumeDocument {
    name: String,
    volume: String,
}

#[derive(Serialize, Debug)]
struct CaptureDocument {
    scope: String,
    kind: String,
    id: String,
    phases_ms: BTreeMap<String, f64>,
}

/// What `actor pause`, `suspend`, `commit`, `resume` and `start` print with `--json`.
#[derive(Serialize, Debug)]
struct OperationDocument {
    id: String,
    state: String,
    scope: Option<String>,
    capture: Option<String>,
    phases_ms: BTreeMap<String, f64>,
}

/// What `actor rm --json` prints.
#[derive(Serialize, Debug)]
struct Removed {
    removed: String,
    volumes: Vec<String>,
    /// The captures that would go; only of `--dry-run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    captures: Option<Vec<String>>,
    dry_run: bool,
}

impl From<&Actor> for ActorDocument {
    fn from(actor: &Actor) -> ActorDocument {
        let volumes = actor.volumes.iter();
        ActorDocument {
            id: actor.id.clone(),
            state: actor.state.clone(),
            reason: actor.reason.clone(),
            sandbox_class: actor.sandbox_class.clone(),
            runtime: actor.runtime.clone(),
            volumes: volumes
                .map(|volume| VolumeDocument { name: volume.name.clone(), volume: volume.volume.clone() })
                .collect(),
            last_capture: actor.last_capture.as_ref().map(|capture| CaptureDocument {
                scope: capture.scope.clone(),
                kind: capture.kind.clone(),
                id: capture.id.clone(),
                phases_ms: millis(&capture.phases),
            }),
            pid: actor.pid,
            created: format_rfc3339(actor.created_unix_ns),
            // It is JSON, but what an older mountd tells, which is nothing.
            template: serde_json::from_str(&actor.template).ok(),
        }
    }
}

impl From<&OperationResponse> for OperationDocument {
    fn from(done: &OperationResponse) -> OperationDocument {
        OperationDocument {
            id: done.id.clone(),
            state: done.state.clone(),
            scope: done.scope.clone(),
            capture: done.capture.clone(),
            phases_ms: millis(&done.phases),
        }
    }
}

fn millis(phases: &[Phase]) -> BTreeMap<String, f64> {
    // Divided once, so that it is the number that has three decimals.
    let millis = |micros: u64| micros as f64 / 1e3;
    phases.iter().map(|phase| (phase.name.clone(), millis(phase.micros))).collect()
}

pub(super) async fn run(session: &Session, command: ActorCommand) -> Result<(), CliError> {
    match command {
        ActorCommand::Validate { file } => validate::validate(session, &file),
        ActorCommand::Create { file, id } => create(session, &file, id).await,
        ActorCommand::Ls => list(session).await,
        ActorCommand::Show { id } => show(session, id).await,
        ActorCommand::Start { id } => {
            let request = StartActorRequest { id: id.clone() };
            operate(session, "start", &id, request, async |to, request| {
                to.actors().start_actor(request).await
            })
            .await
        }
        ActorCommand::Resume { id } => {
            let request = ResumeActorRequest { id: id.clone() };
            operate(session, "resume", &id, request, async |to, request| {
                to.actors().resume_actor(request).await
            })
            .await
        }
        ActorCommand::Pause(arguments) if arguments.dry_run => preview(session, "pause", arguments).await,
        ActorCommand::Suspend(arguments) if arguments.dry_run => preview(session, "suspend", arguments).await,
        ActorCommand::Commit(arguments) if arguments.dry_run => preview(session, "commit", arguments).await,
        ActorCommand::Pause(CaptureArgs { id, scope, .. }) => {
            let request = CaptureRequest { id: id.clone(), scope };
            operate(session, "pause", &id, request, async |to, request| {
                to.actors().pause_actor(request).await
            })
            .await
        }
        ActorCommand::Suspend(CaptureArgs { id, scope, .. }) => {
            let request = CaptureRequest { id: id.clone(), scope };
            operate(session, "suspend", &id, request, async |to, request| {
                to.actors().suspend_actor(request).await
            })
            .await
        }
        ActorCommand::Commit(CaptureArgs { id, scope, .. }) => {
            let request = CaptureRequest { id: id.clone(), scope };
            operate(session, "commit", &id, request, async |to, request| {
                to.actors().commit_actor(request).await
            })
            .await
        }
        ActorCommand::Fork { commit, id, file, scope } => fork(session, commit, id, file, scope).await,
        ActorCommand::Rm { id, dry_run } => remove(session, id, dry_run).await,
    }
}

async fn create(session: &Session, file: &Path, id: Option<String>) -> Result<(), CliError> {
    let template = read(file)?;
    // Errors are told by who makes it.
    let parsed = Template::parse_with_warnings(&template);
    let warnings = parsed.map_or(Vec::new(), |(_, warnings)| warnings);
    warnings.iter().for_each(|problem| eprint!("{}", warning(problem)));
    let client = session.connect().await?;
    let action = || format!("actor create -f {}", file.display());
    let request = CreateActorRequest { template, id };
    let actor = call(&client, Patience::Usual, action, request, async |to, request| {
        to.actors().create_actor(request).await
    })
    .await?;
    let document = Created { actor: ActorDocument::from(&actor), warnings };
    session.output.print(&document, || format!("created actor {}", actor.id))
}

async fn fork(
    session: &Session,
    commit: String,
    id: String,
    file: Option<PathBuf>,
    scope: Option<String>,
) -> Result<(), CliError> {
    let template = file.as_deref().map(read).transpose()?;
    let client = session.connect().await?;
    let action = || format!("actor fork {commit} {id}");
    let request = ForkActorRequest { commit: commit.clone(), id: id.clone(), template, scope };
    let actor = call(&client, Patience::Usual, action, request, async |to, request| {
        to.actors().fork_actor(request).await
    })
    .await?;
    session
        .output
        .print(&ActorDocument::from(&actor), || format!("forked actor {} ({})", actor.id, actor.state))
}

fn read(file: &Path) -> Result<Vec<u8>, CliError> {
    validate::read(file).map_err(|source| CliError::ReadFile { path: file.to_owned(), source })
}

async fn list(session: &Session) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || "actor ls".to_owned();
    let answer = call(&client, Patience::Usual, action, ListActorsRequest {}, async |to, request| {
        to.actors().list_actors(request).await
    })
    .await?;
    let documents: Vec<_> = answer.actors.iter().map(ActorDocument::from).collect();
    session.output.print(&documents, || table(&answer.actors, session.output))
}

/// Looks at an actor for the command `what`.
async fn get(client: &Client, id: &str, what: &str) -> Result<Actor, CliError> {
    let action = || format!("actor {what} {id}");
    let request = GetActorRequest { id: id.to_owned() };
    call(client, Patience::Usual, action, request, async |to, request| to.actors().get_actor(request).await)
        .await
}

async fn show(session: &Session, id: String) -> Result<(), CliError> {
    let client = session.connect().await?;
    let actor = get(&client, &id, "show").await?;
    session.output.print(&ActorDocument::from(&actor), || details(&actor, session.output))
}

/// Does what may take as long as a sandbox takes.
async fn operate<Q: Clone>(
    session: &Session,
    what: &str,
    id: &str,
    request: Q,
    send: impl AsyncFn(
        &Connection,
        tonic::Request<Q>,
    ) -> Result<tonic::Response<OperationResponse>, tonic::Status>,
) -> Result<(), CliError> {
    let client = session.connect().await?;
    let action = || format!("actor {what} {id}");
    let done = call(&client, Patience::Unlimited, action, request, send).await?;
    session.output.print(&OperationDocument::from(&done), || told(&done))
}

async fn remove(session: &Session, id: String, dry_run: bool) -> Result<(), CliError> {
    let client = session.connect().await?;
    if dry_run {
        return preview_remove(session, &client, id).await;
    }
    let action = || format!("actor rm {id}");
    let request = RemoveActorRequest { id: id.clone() };
    let removing = call(&client, Patience::Unlimited, action, request, async |to, request| {
        to.actors().remove_actor(request).await
    });
    let RemoveActorResponse { volumes } = removing.await?;
    let document = Removed { removed: id, volumes, captures: None, dry_run };
    session.output.print(&document, || format!("removed actor {}", document.removed))
}

async fn preview_remove(session: &Session, client: &Client, id: String) -> Result<(), CliError> {
    let action = || format!("actor rm --dry-run {id}");
    let request = RemoveActorRequest { id: id.clone() };
    let asking = call(client, Patience::Usual, action, request, async |to, request| {
        to.actors().preview_remove_actor(request).await
    });
    let RemoveActorPreview { volumes, captures } = asking.await?;
    let count = captures.len();
    let document = Removed { removed: id, volumes, captures: Some(captures), dry_run: true };
    session.output.print(&document, || {
        let captures = if count == 1 { "1 capture".to_owned() } else { format!("{count} captures") };
        let volumes = volumes_text(&document.volumes);
        format!(
            "would remove actor {} with {volumes}, and {captures} that are not committed",
            document.removed
        )
    })
}

async fn preview(session: &Session, kind: &str, arguments: CaptureArgs) -> Result<(), CliError> {
    let CaptureArgs { id, scope, .. } = arguments;
    let client = session.connect().await?;
    let action = || format!("actor {kind} --dry-run {id}");
    let request = PreviewCaptureRequest { id: id.clone(), kind: kind.to_owned(), scope };
    let asking = call(&client, Patience::Usual, action, request, async |to, request| {
        to.actors().preview_capture(request).await
    });
    let CapturePreview { id, state, scope, lost } = asking.await?;
    let document = WouldCapture { dry_run: true, id, state, scope, lost };
    session.output.print(&document, || {
        let WouldCapture { id, state, scope, lost, .. } = &document;
        let lost = if lost.is_empty() { "nothing".to_owned() } else { lost.join(" and ") };
        format!("{id} is {state}: would make a {scope} capture, and lose {lost}")
    })
}

fn volumes_text(volumes: &[String]) -> String {
    if volumes.is_empty() { "no volume".to_owned() } else { volumes.join(", ") }
}

/// `web is paused: Full capture 0194…, 151 ms (save 120 ms, …)`
fn told(done: &OperationResponse) -> String {
    let capture = match (&done.scope, &done.capture) {
        (Some(scope), Some(capture)) => format!(": {scope} capture {capture}"),
        _ => String::new(),
    };
    let of = |name: &str| done.phases.iter().find(|phase| phase.name == name).map(|phase| phase.micros);
    let total = of("total").map_or(String::new(), |micros| format!(", {}", format_micros(micros)));
    let phases = done.phases.iter().filter(|phase| phase.name != "total");
    let phases: Vec<_> =
        phases.map(|phase| format!("{} {}", phase.name, format_micros(phase.micros))).collect();
    let phases = if phases.is_empty() { String::new() } else { format!(" ({})", phases.join(", ")) };
    format!("{} is {}{capture}{total}{phases}", done.id, done.state)
}

fn details(actor: &Actor, output: Output) -> String {
    let volumes: Vec<_> = actor.volumes.iter().map(|volume| volume.volume.clone()).collect();
    let reason = actor.reason.as_ref().map_or(String::new(), |reason| format!(" ({})", printable(reason)));
    let capture = actor
        .last_capture
        .as_ref()
        .map_or("none".to_owned(), |capture| format!("{} {} {}", capture.kind, capture.scope, capture.id));
    format!(
        "actor         {}\nstate         {}{reason}\nsandbox       {} ({})\nvolumes       {}\nlast capture  {capture}\n\
         pid           {}\ncreated       {}\n",
        actor.id,
        actor.state,
        actor.sandbox_class,
        actor.runtime,
        volumes_text(&volumes),
        actor.pid.map_or("none".to_owned(), |pid| pid.to_string()),
        output.time(actor.created_unix_ns),
    )
}

fn table(actors: &[Actor], output: Output) -> String {
    let mut table = Table::new(&[
        ("ACTOR", Align::Left),
        ("STATE", Align::Left),
        ("SANDBOX", Align::Left),
        ("VOLUMES", Align::Right),
        ("CREATED", Align::Left),
    ]);
    for actor in actors {
        table.row([
            actor.id.clone(),
            actor.state.clone(),
            actor.runtime.clone(),
            actor.volumes.len().to_string(),
            output.time(actor.created_unix_ns),
        ]);
    }
    table.render("no actors; `durdir actor create -f TEMPLATE` makes one")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::{ActorCapture, ActorVolume};

    fn phase(name: &str, micros: u64) -> Phase {
        Phase { name: name.to_owned(), micros }
    }

    #[test]
    fn an_actor_has_the_pinned_fields() {
        let actor = Actor {
            id: "web".to_owned(),
            state: "paused".to_owned(),
            sandbox_class: "gvisor".to_owned(),
            runtime: "gvisor".to_owned(),
            volumes: vec![ActorVolume { name: "home".to_owned(), volume: "web.home".to_owned() }],
            template: r#"{"volumes":[]}"#.to_owned(),
            last_capture: Some(ActorCapture {
                id: "c".to_owned(),
                kind: "pause".to_owned(),
                scope: "Full".to_owned(),
                phases: vec![phase("save", 1500)],
            }),
            ..Actor::default()
        };
        let expected = json!({
            "id": "web", "state": "paused", "reason": null, "sandbox_class": "gvisor", "runtime": "gvisor",
            "volumes": [{"name": "home", "volume": "web.home"}],
            "last_capture": {"scope": "Full", "kind": "pause", "id": "c", "phases_ms": {"save": 1.5}},
            "pid": null, "created": "1970-01-01T00:00:00.000000000Z", "template": {"volumes": []},
        });
        assert_eq!(serde_json::to_value(ActorDocument::from(&actor)).unwrap(), expected);
    }

    #[test]
    fn times_have_three_decimals_and_no_noise() {
        let phases: Vec<_> = [("save", 96_320), ("cut", 1), ("total", 4_035_007)]
            .map(|(name, micros)| phase(name, micros))
            .into();
        let shown = serde_json::to_string(&millis(&phases)).unwrap();
        assert_eq!(shown, r#"{"cut":0.001,"save":96.32,"total":4035.007}"#);
    }

    #[test]
    fn an_operation_has_the_pinned_fields() {
        let done = OperationResponse {
            id: "web".to_owned(),
            state: "paused".to_owned(),
            scope: Some("Data".to_owned()),
            capture: Some("c".to_owned()),
            phases: vec![phase("quiesce", 250), phase("total", 2000)],
        };
        let expected = json!({
            "id": "web", "state": "paused", "scope": "Data", "capture": "c",
            "phases_ms": {"quiesce": 0.25, "total": 2.0},
        });
        assert_eq!(serde_json::to_value(OperationDocument::from(&done)).unwrap(), expected);
        assert!(told(&done).starts_with("web is paused: Data capture c, "));
    }
}
