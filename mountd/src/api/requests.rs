//! Each call that changes something is done once, however often its client has to send it.
//!
//! # Overview
//! A client gives each of its commands an id, in the metadata entry `durdir-request-id`, and sends it again with the same id
//! if the connection breaks. It is metadata and no field of the messages, so that no message can lack it and equal requests
//! have equal bytes: those, with the name of the call, are the fingerprint that tells another request with the same id.
//!
//! ```text
//!            ┌── nothing known ──▶ checks ──▶ effect + answer, one batch ───────────────▶ reply
//!   call ────┤                        └─────▶ intent ──▶ mount, unmount ──▶ answer ─────▶ reply
//!   with id  ├── intent ─────────────────────────────────▲                              ▲
//!            ├── answer or refusal ─────────────────────────────────────────────────────┘
//!            └── other fingerprint: conflict
//! ```
//!
//! # Invariants
//! - A handler that changes something gets a [`Ticket`] and must return [`Done`], which only the ticket makes: there is no
//!   way to answer without a record.
//! - Two calls with the same id never run at the same time: the second waits, and finds the record of the first.
//!
//! # Crash consistency
//! Killed before the batch, a call is done when it comes again; killed after it, it is answered from the record. Between
//! intent and answer the handler decides from what it finds; `mounts.rs` says how.

use std::collections::HashSet;

use durdir_fs::FsError;
use durdir_fs::ids::RequestId;
use durdir_fs::store::record::OutcomeV1;
use durdir_fs::store::{Known, Receipt, RequestKey, Store, StoreError};
use parking_lot::{Condvar, Mutex};
use prost::Message;
use tonic::metadata::MetadataMap;

use super::{ApiError, status};
use crate::exit::ExitClass;
use crate::proto::{ErrorDetail, REQUEST_ID_KEY};

/// An answer larger than this is not kept: the call is done again instead, which the large ones allow.
const LARGEST_KEPT: usize = 4 << 20;

/// Returns the id that a call came with.
pub(crate) fn id_of(metadata: &MetadataMap) -> Result<RequestId, ApiError> {
    let id = metadata.get(REQUEST_ID_KEY).ok_or(ApiError::Malformed {
        what: "a call that changes something needs the metadata durdir-request-id, a UUID",
    })?;
    let id = id.to_str().ok().and_then(|text| uuid::Uuid::try_parse(text).ok());
    id.map(|id| RequestId(id.into_bytes()))
        .ok_or(ApiError::Malformed { what: "the metadata durdir-request-id is not a UUID" })
}

/// Which calls are being answered.
#[derive(Default)]
pub(crate) struct InFlight {
    ids: Mutex<HashSet<RequestId>>,
    ended: Condvar,
}

/// The right to work on a request. Nobody else has it meanwhile.
pub(crate) struct Turn<'a> {
    all: &'a InFlight,
    id: RequestId,
}

impl InFlight {
    /// Waits until nobody works on the request.
    pub(crate) fn enter(&self, id: RequestId) -> Turn<'_> {
        let mut ids = self.ids.lock();
        while !ids.insert(id) {
            self.ended.wait(&mut ids);
        }
        Turn { all: self, id }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.all.ids.lock().remove(&self.id);
        self.all.ended.notify_all();
    }
}

/// What is known of a request before it is worked on.
pub(crate) enum Start<'a, T> {
    /// It is to be done, or to be gone on with.
    Work(Ticket<'a>),
    /// It was done before.
    Answered(T),
}

/// An answer that is on record.
pub(crate) struct Done<T>(T);

impl<T> Done<T> {
    pub(crate) fn into_answer(self) -> T {
        self.0
    }
}

/// A request that is worked on.
pub(crate) struct Ticket<'a> {
    store: &'a Store,
    key: RequestKey,
    begun: Option<Vec<u8>>,
}

impl<'a> Ticket<'a> {
    /// Looks up what became of a request, if it came before.
    pub(crate) fn look_up<T: Message + Default>(
        store: &'a Store,
        key: RequestKey,
    ) -> Result<Start<'a, T>, ApiError> {
        let begun = match store.reply_to(key)? {
            Known::Nothing => None,
            Known::Other => return Err(ApiError::OtherRequest { id: key.id }),
            Known::Outcome(OutcomeV1::Done(answer)) => return Ok(Start::Answered(decode(key.id, &answer)?)),
            Known::Outcome(OutcomeV1::Refused(detail)) => {
                let ErrorDetail { exit_class, message, causes } = decode(key.id, &detail)?;
                let class = crate::proto::ExitClass::try_from(exit_class).unwrap_or_default();
                return Err(ApiError::Recorded { exit: ExitClass::from_proto(class), message, causes });
            }
            Known::Outcome(OutcomeV1::Begun(intent)) => Some(intent),
        };
        Ok(Start::Work(Ticket { store, key, begun }))
    }

    /// Makes a change whose effect is there with one batch of the store. `answer` is what the client gets; it is stored in that
    /// batch.
    pub(crate) fn change<R, T: Message, E: Into<ApiError>>(
        self,
        effect: impl FnOnce(Receipt<'_, R>) -> Result<R, E>,
        answer: impl Fn(&R) -> T,
    ) -> Result<Done<T>, ApiError> {
        let receipt = Receipt::new(self.key, |done: &R| OutcomeV1::Done(answer(done).encode_to_vec()));
        let done = effect(receipt).map_err(Into::into)?;
        Ok(Done(answer(&done)))
    }

    /// Returns what makes receipts of intents, for who stores them while the ticket is in use.
    pub(crate) fn beginning<I: Message, R>(&self) -> impl Fn(&I) -> Receipt<'static, R> + use<I, R> {
        let key = self.key;
        move |intent: &I| {
            let intent = intent.encode_to_vec();
            Receipt::new(key, move |_| OutcomeV1::Begun(intent))
        }
    }

    /// Returns how far the request came before its daemon was killed, if it was.
    pub(crate) fn begun<I: Message + Default>(&self) -> Result<Option<I>, ApiError> {
        self.begun.as_ref().map(|intent| decode(self.key.id, intent)).transpose()
    }

    /// Stores what is about to be done outside the store.
    pub(crate) fn begin(&self, intent: &impl Message) -> Result<(), ApiError> {
        Ok(self.store.keep_reply(self.key, OutcomeV1::Begun(intent.encode_to_vec()))?)
    }

    /// Stores, with a change, what is about to be done outside the store after it.
    pub(crate) fn begin_with<R>(&self, intent: &impl Message) -> Receipt<'static, R> {
        let intent = intent.encode_to_vec();
        Receipt::new(self.key, move |_| OutcomeV1::Begun(intent))
    }

    /// Stores, with the change that takes back what was begun, why.
    pub(crate) fn refuse_with<R>(&self, error: &ApiError) -> Receipt<'static, R> {
        let detail = status::detail(error).encode_to_vec();
        Receipt::new(self.key, move |_| OutcomeV1::Refused(detail))
    }

    /// Stores that the request will not be done, where asking again would not change that.
    pub(crate) fn refuse(store: &Store, key: RequestKey, error: &ApiError) {
        if !status::is_final(error) {
            return;
        }
        let detail = status::detail(error).encode_to_vec();
        if let Err(error) = store.keep_reply(key, OutcomeV1::Refused(detail)) {
            // Nothing was done, so doing it again is no harm.
            tracing::warn!(error = crate::exit::one_line(&error), "a refusal could not be recorded");
        }
    }

    /// Stores what was done outside the store.
    pub(crate) fn done<T: Message>(self, answer: T) -> Done<T> {
        let bytes = answer.encode_to_vec();
        if bytes.len() <= LARGEST_KEPT {
            self.keep(OutcomeV1::Done(bytes));
        }
        Done(answer)
    }

    /// Stores an intent that was carried out, in place of its answer: if the request comes again, what it asked for is
    /// looked at anew.
    pub(crate) fn done_as<T>(self, answer: T, intent: &impl Message) -> Done<T> {
        self.keep(OutcomeV1::Begun(intent.encode_to_vec()));
        Done(answer)
    }

    fn keep(&self, outcome: OutcomeV1) {
        if let Err(error) = self.store.keep_reply(self.key, outcome) {
            // It is done, and its client is told so; only were the daemon killed now, it would be done again.
            tracing::error!(error = crate::exit::one_line(&error), "an answer could not be recorded");
        }
    }
}

fn decode<T: Message + Default>(id: RequestId, bytes: &[u8]) -> Result<T, ApiError> {
    T::decode(bytes)
        .map_err(|_| FsError::from(StoreError::Corrupt { what: format!("record of request {id}") }).into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use durdir_fs::StoreOptions;
    use durdir_fs::store::{VolumeInfo, VolumeSpec};

    use super::*;
    use crate::proto::{CreateVolumeRequest, Volume};

    fn store() -> (tempfile::TempDir, Arc<Store>) {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { background: false, ..StoreOptions::default() };
        let store = Store::open(dir.path(), &options).unwrap();
        (dir, store)
    }

    fn key(id: u8, name: &str) -> RequestKey {
        let request = CreateVolumeRequest { name: name.to_owned(), ..CreateVolumeRequest::default() };
        RequestKey::new(RequestId([id; 16]), "volume create", &request.encode_to_vec())
    }

    fn create(store: &Store, id: u8, name: &str) -> Result<Volume, ApiError> {
        let key = key(id, name);
        let done = match Ticket::look_up::<Volume>(store, key)? {
            Start::Answered(answer) => return Ok(answer),
            Start::Work(ticket) => ticket.change(
                |receipt| store.create_volume(name, &VolumeSpec::default(), receipt),
                |info: &VolumeInfo| Volume { name: info.name.clone(), ..Volume::default() },
            ),
        };
        done.map(Done::into_answer).inspect_err(|error| Ticket::refuse(store, key, error))
    }

    #[test]
    fn a_request_that_comes_again_gets_the_answer_it_got() {
        let (_dir, store) = store();
        let first = create(&store, 1, "v").unwrap();
        store.remove_volume("v", Receipt::none()).unwrap();
        assert_eq!(create(&store, 1, "v").unwrap(), first);
        assert!(store.volumes().unwrap().is_empty(), "it was not done again");
    }

    #[test]
    fn a_refusal_is_repeated_with_its_class() {
        let (_dir, store) = store();
        create(&store, 1, "v").unwrap();
        create(&store, 2, "v").unwrap_err();
        store.remove_volume("v", Receipt::none()).unwrap();
        let again = create(&store, 2, "v").unwrap_err();
        assert_eq!(again.to_string(), "volume v exists already");
        assert!(matches!(again, ApiError::Recorded { exit: ExitClass::Conflict, .. }));
    }

    #[test]
    fn another_request_with_the_id_is_a_conflict() {
        let (_dir, store) = store();
        create(&store, 1, "v").unwrap();
        let refused = create(&store, 1, "w").unwrap_err();
        assert!(matches!(refused, ApiError::OtherRequest { .. }), "{refused}");
        // And did not take the place of the first.
        create(&store, 1, "v").unwrap();
    }

    #[test]
    fn what_was_begun_is_gone_on_with() {
        let (_dir, store) = store();
        let intent = Volume { name: "v".to_owned(), ..Volume::default() };
        let begin = || match Ticket::look_up::<Volume>(&store, key(1, "v")).unwrap() {
            Start::Work(ticket) => ticket,
            Start::Answered(_) => panic!("nothing was answered yet"),
        };
        let ticket = begin();
        assert_eq!(ticket.begun::<Volume>().unwrap(), None);
        ticket.begin(&intent).unwrap();
        let ticket = begin();
        assert_eq!(ticket.begun::<Volume>().unwrap(), Some(intent.clone()));
        ticket.done(intent.clone());
        let again = Ticket::look_up::<Volume>(&store, key(1, "v")).unwrap();
        assert!(matches!(again, Start::Answered(answer) if answer == intent));
    }

    #[test]
    fn a_call_waits_for_another_with_its_id() {
        let all = InFlight::default();
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |id: u8| {
            let _turn = all.enter(RequestId([id; 16]));
            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            inside.fetch_sub(1, Ordering::SeqCst);
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..200).for_each(|_| work(1)));
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 1);
        // Other ids do not wait.
        let _one = all.enter(RequestId([1; 16]));
        drop(all.enter(RequestId([2; 16])));
    }

    #[test]
    fn an_id_is_a_uuid() {
        let mut metadata = MetadataMap::new();
        assert!(id_of(&metadata).is_err());
        metadata.insert(REQUEST_ID_KEY, "17".parse().unwrap());
        assert!(id_of(&metadata).is_err());
        let text = "0194c1f0-6f2a-7b3c-8d4e-5f6071829304";
        metadata.insert(REQUEST_ID_KEY, text.parse().unwrap());
        assert_eq!(id_of(&metadata).unwrap().to_string(), text);
    }
}
