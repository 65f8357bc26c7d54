//! The calls about actors.
//!
//! # Crash consistency
//! The intent that is stored with the first step of an operation names it; its later steps are in the actor's record. A call that comes
//! again waits until whoever goes on with the operation is done. If the operation was completed, its outcome is the answer; if it was
//! taken back, it is done again.

use std::sync::Arc;

use durdir_fs::ids::{Epoch, VolumeId};
use durdir_fs::store::Receipt;
use tonic::{Request, Response, Status};

use super::{ApiError, Done, Ticket, convert};
use crate::actor::{self, ActorError, CaptureKind, CaptureView, Outcome, Phases, Standing};
use crate::daemon::Node;
use crate::proto::actors_server::Actors;
use crate::proto::{
    Actor, ActorCapture, ActorIntent, ActorVolume, CapturePreview, CaptureRequest, CreateActorRequest,
    ForkActorRequest, GetActorRequest, ListActorsRequest, ListActorsResponse, OperationResponse, Phase,
    PreviewCaptureRequest, RemoveActorPreview, RemoveActorRequest, RemoveActorResponse, ResumeActorRequest,
    StartActorRequest,
};
use crate::template::{Scope, Template};

/// Answers the calls about actors.
pub(super) struct ActorsService {
    node: Arc<Node>,
}

impl ActorsService {
    pub(super) fn new(node: Arc<Node>) -> ActorsService {
        ActorsService { node }
    }
}

#[tonic::async_trait]
impl Actors for ActorsService {
    async fn create_actor(&self, request: Request<CreateActorRequest>) -> Result<Response<Actor>, Status> {
        let work = |node: &Node, CreateActorRequest { template, id }, ticket: Ticket<'_>| {
            let template = Template::parse(&template)?;
            make(node, ticket, |request, receipt| node.actors.create(template, id, request, receipt))
        };
        self.node.perform("actor create", request, work).await
    }

    async fn list_actors(
        &self,
        _: Request<ListActorsRequest>,
    ) -> Result<Response<ListActorsResponse>, Status> {
        let work = |node: &Node| {
            let unreadable = node.actors.unreadable().map(|id| Actor {
                id: id.to_owned(),
                state: "unreadable".to_owned(),
                ..Actor::default()
            });
            let mut actors: Vec<_> =
                node.actors.all().iter().map(|actor| show(node, actor)).chain(unreadable).collect();
            actors.sort_by(|one, other| one.id.cmp(&other.id));
            Ok(ListActorsResponse { actors })
        };
        self.node.answer("actor ls", work).await
    }

    async fn get_actor(&self, request: Request<GetActorRequest>) -> Result<Response<Actor>, Status> {
        let id = request.into_inner().id;
        let work = move |node: &Node| Ok(show(node, &node.actors.get(&id)?));
        self.node.answer("actor show", work).await
    }

    async fn start_actor(
        &self,
        request: Request<StartActorRequest>,
    ) -> Result<Response<OperationResponse>, Status> {
        let work = |node: &Node, StartActorRequest { id }, ticket: Ticket<'_>| {
            operate(ticket, |request, receipt| node.actors.start(&id, request, receipt))
        };
        self.node.perform("actor start", request, work).await
    }

    async fn pause_actor(
        &self,
        request: Request<CaptureRequest>,
    ) -> Result<Response<OperationResponse>, Status> {
        let work =
            |node: &Node, request, ticket: Ticket<'_>| capture(node, CaptureKind::Pause, request, ticket);
        self.node.perform("actor pause", request, work).await
    }

    async fn suspend_actor(
        &self,
        request: Request<CaptureRequest>,
    ) -> Result<Response<OperationResponse>, Status> {
        let work =
            |node: &Node, request, ticket: Ticket<'_>| capture(node, CaptureKind::Suspend, request, ticket);
        self.node.perform("actor suspend", request, work).await
    }

    async fn commit_actor(
        &self,
        request: Request<CaptureRequest>,
    ) -> Result<Response<OperationResponse>, Status> {
        let work =
            |node: &Node, request, ticket: Ticket<'_>| capture(node, CaptureKind::Commit, request, ticket);
        self.node.perform("actor commit", request, work).await
    }

    async fn preview_capture(
        &self,
        request: Request<PreviewCaptureRequest>,
    ) -> Result<Response<CapturePreview>, Status> {
        let PreviewCaptureRequest { id, kind, scope } = request.into_inner();
        let work = move |node: &Node| {
            let kind = match kind.as_str() {
                "pause" => CaptureKind::Pause,
                "suspend" => CaptureKind::Suspend,
                "commit" => CaptureKind::Commit,
                _ => return Err(ActorError::UnknownKind { name: kind }.into()),
            };
            let actor::Preview { actor, scope, lost } =
                node.actors.preview_capture(&id, kind, parse_scope(scope)?)?;
            Ok(CapturePreview {
                id: actor.id.clone(),
                state: actor.state().name().to_owned(),
                scope: scope.name().to_owned(),
                lost: lost.into_iter().map(str::to_owned).collect(),
            })
        };
        self.node.answer("actor preview", work).await
    }

    async fn resume_actor(
        &self,
        request: Request<ResumeActorRequest>,
    ) -> Result<Response<OperationResponse>, Status> {
        let work = |node: &Node, ResumeActorRequest { id }, ticket: Ticket<'_>| {
            operate(ticket, |request, receipt| node.actors.resume(&id, request, receipt))
        };
        self.node.perform("actor resume", request, work).await
    }

    async fn fork_actor(&self, request: Request<ForkActorRequest>) -> Result<Response<Actor>, Status> {
        let work = |node: &Node, request: ForkActorRequest, ticket: Ticket<'_>| {
            let ForkActorRequest { commit, id, template, scope } = request;
            let template = template.map(|template| Template::parse(&template)).transpose()?;
            let scope = parse_scope(scope)?;
            make(node, ticket, |request, receipt| {
                node.actors.fork(&commit, id, template, scope, request, receipt)
            })
        };
        self.node.perform("actor fork", request, work).await
    }

    async fn remove_actor(
        &self,
        request: Request<RemoveActorRequest>,
    ) -> Result<Response<RemoveActorResponse>, Status> {
        let work = |node: &Node, RemoveActorRequest { id }, ticket: Ticket<'_>| {
            // Kept with the intent: whoever completes it finds no volumes any more.
            let (begun, volumes) = match ticket.begun::<ActorIntent>()? {
                Some(ActorIntent { operation, volumes }) => (Some(operation), volumes),
                None => (None, volumes_of(&node.actors.get(&id)?).map(|volume| volume.volume).collect()),
            };
            let begin = ticket.beginning();
            let begin =
                |operation: &str| begin(&ActorIntent { volumes: volumes.clone(), ..intent_of(operation) });
            let request = actor::Request { begin: &begin, begun, at_the_end: false };
            let remove = |receipt: Receipt<'_, ()>| node.actors.remove(&id, &request, receipt);
            ticket.change(remove, |()| RemoveActorResponse { volumes: volumes.clone() })
        };
        self.node.perform("actor rm", request, work).await
    }

    async fn preview_remove_actor(
        &self,
        request: Request<RemoveActorRequest>,
    ) -> Result<Response<RemoveActorPreview>, Status> {
        let id = request.into_inner().id;
        let work = move |node: &Node| {
            let (actor, captures) = node.actors.preview_remove(&id)?;
            Ok(RemoveActorPreview {
                volumes: volumes_of(&actor).map(|volume| volume.volume).collect(),
                captures: captures.iter().map(ToString::to_string).collect(),
            })
        };
        self.node.answer("actor rm --dry-run", work).await
    }
}

fn capture(
    node: &Node,
    kind: CaptureKind,
    request: CaptureRequest,
    ticket: Ticket<'_>,
) -> Result<Done<OperationResponse>, ApiError> {
    let CaptureRequest { id, scope } = request;
    let scope = parse_scope(scope)?;
    operate(ticket, |request, receipt| node.actors.make_capture(&id, kind, scope, request, receipt))
}

/// Does an operation on an actor that exists.
fn operate(
    ticket: Ticket<'_>,
    work: impl FnOnce(&actor::Request<'_>, Receipt<'_, Outcome>) -> Result<Outcome, ApiError>,
) -> Result<Done<OperationResponse>, ApiError> {
    perform(ticket, work, response)
}

/// Makes an actor.
fn make(
    node: &Node,
    ticket: Ticket<'_>,
    work: impl FnOnce(&actor::Request<'_>, Receipt<'_, Outcome>) -> Result<Outcome, ApiError>,
) -> Result<Done<Actor>, ApiError> {
    perform(ticket, work, |outcome| show(node, &outcome.actor))
}

fn perform<T: prost::Message>(
    ticket: Ticket<'_>,
    work: impl FnOnce(&actor::Request<'_>, Receipt<'_, Outcome>) -> Result<Outcome, ApiError>,
    answer: impl Fn(&Outcome) -> T,
) -> Result<Done<T>, ApiError> {
    let begun = ticket.begun::<ActorIntent>()?.map(|intent| intent.operation);
    let begin = ticket.beginning();
    let begin = |operation: &str| begin(&intent_of(operation));
    let request = actor::Request { begin: &begin, begun, at_the_end: false };
    ticket.change(|receipt| work(&request, receipt), answer)
}

fn intent_of(operation: &str) -> ActorIntent {
    ActorIntent { operation: operation.to_owned(), volumes: Vec::new() }
}

fn parse_scope(name: Option<String>) -> Result<Option<Scope>, ActorError> {
    let parse = |name: String| Scope::from_name(&name).ok_or(ActorError::UnknownScope { name });
    name.map(parse).transpose()
}

fn response(outcome: &Outcome) -> OperationResponse {
    let capture = outcome.capture.as_ref();
    OperationResponse {
        id: outcome.actor.id.clone(),
        state: outcome.actor.state().name().to_owned(),
        scope: capture.map(|capture| capture.scope.name().to_owned()),
        capture: capture.map(|capture| capture.id.clone()),
        phases: phases(&outcome.phases),
    }
}

fn show(node: &Node, actor: &actor::Actor) -> Actor {
    let reason = match &actor.document.standing {
        Standing::Exited { reason } => Some(reason.clone()),
        Standing::Created | Standing::Running | Standing::Paused | Standing::Suspended => None,
    };
    Actor {
        id: actor.id.clone(),
        state: actor.state().name().to_owned(),
        reason,
        sandbox_class: actor.recipe.sandbox_class.to_owned(),
        runtime: actor.recipe.runtime.to_owned(),
        volumes: volumes_of(actor).collect(),
        last_capture: actor.document.last_capture.as_ref().map(last_capture),
        pid: node.actors.pid_of(actor),
        created_unix_ns: convert::unix_ns(actor.created),
        template: actor.document.template.clone(),
    }
}

fn volumes_of(actor: &actor::Actor) -> impl Iterator<Item = ActorVolume> {
    let volumes = actor.recipe.volumes.iter();
    volumes.map(|volume| ActorVolume { name: volume.name.clone(), volume: actor.volume_name(&volume.name) })
}

fn last_capture(capture: &CaptureView) -> ActorCapture {
    ActorCapture {
        id: capture.id.clone(),
        kind: shown_kind(capture.kind).to_owned(),
        scope: capture.scope.name().to_owned(),
        phases: phases(&capture.phases),
    }
}

/// Returns what people know a capture as: a suspend commits.
fn shown_kind(kind: CaptureKind) -> &'static str {
    if kind.is_committed() { CaptureKind::Commit.name() } else { kind.name() }
}

fn phases(phases: &Phases) -> Vec<Phase> {
    phases.iter().map(|(name, micros)| Phase { name: name.to_owned(), micros }).collect()
}

/// Refuses what would change a volume under its actor.
pub(super) fn check_not_owned(node: &Node, volume: &str, id: VolumeId) -> Result<(), ApiError> {
    if let Some(actor) = node.actors.owner_of_volume(id) {
        let remedy = "look at a snapshot of it, or remove the actor";
        return Err(ActorError::Owned { what: format!("volume {volume}"), actor, remedy }.into());
    }
    check_not_published(node, volume, id)
}

/// Refuses what would change a volume that stands for one of a commit.
pub(super) fn check_not_published(node: &Node, volume: &str, id: VolumeId) -> Result<(), ApiError> {
    if node.actors.is_published(volume, id) {
        let (what, remedy) = (format!("volume {volume}"), "it is what forks of a commit begin with");
        return Err(ActorError::Owned { what, actor: "captures".to_owned(), remedy }.into());
    }
    Ok(())
}

/// Refuses what would take a snapshot away from a capture.
pub(super) fn check_not_held(
    node: &Node,
    snapshot: &str,
    volume: VolumeId,
    epoch: Epoch,
) -> Result<(), ApiError> {
    // It may be one that a capture in hand has just made.
    if let Some(actor) = node.actors.owner_of_volume(volume) {
        node.actors.check_idle(&actor)?;
    }
    let what = format!("snapshot {snapshot}");
    match node.actors.owner_of_snapshot(volume, epoch) {
        None if node.actors.is_held_by_unreadable(volume, epoch) => {
            let remedy = "a capture needs that, of which the record cannot be read";
            Err(ActorError::Owned { what, actor: "captures".to_owned(), remedy }.into())
        }
        None => Ok(()),
        Some(actor) => {
            let remedy = "a capture of it needs that";
            Err(ActorError::Owned { what, actor, remedy }.into())
        }
    }
}
