//! Whether something may be done with an actor now: a pure function of where it stands and what is in hand.
//!
//! # Invariants
//! - One operation of an actor is in hand at a time. Another one is refused, not queued: by the time it came to its turn, the actor
//!   would not be what its client saw.
//! - What mountd does of itself, after its start or when a sandbox ended, is waited for: no client asked for it, and it is short.

use super::state::{OperationKind, Standing};

/// What is being done with an actor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum InHand {
    /// What a client asked for.
    Asked(OperationKind),
    /// What mountd does of itself.
    Own,
}

/// What is to be done with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Do it.
    Do,
    /// Ask again when what is in hand is done.
    Wait,
    /// Something else is in hand.
    Busy(OperationKind),
    /// It makes no sense for an actor that stands there: what does.
    Misplaced(&'static str),
}

/// Decides on `asked`.
pub(crate) fn decide(standing: &Standing, in_hand: Option<InHand>, asked: OperationKind) -> Verdict {
    match in_hand {
        Some(InHand::Own) => return Verdict::Wait,
        Some(InHand::Asked(other)) => return Verdict::Busy(other),
        None => {}
    }
    match (asked, standing) {
        (OperationKind::Create, _) => Verdict::Misplaced("it exists"),
        // Of one that runs a container may have ended: its sandbox tells.
        (OperationKind::Start, Standing::Created | Standing::Running | Standing::Exited { .. }) => {
            Verdict::Do
        }
        (OperationKind::Start, Standing::Paused | Standing::Suspended) => {
            Verdict::Misplaced("`durdir actor resume` lets it go on")
        }
        // One that is at rest may be narrowed: that depends on what it holds.
        (OperationKind::Pause, Standing::Running | Standing::Paused) => Verdict::Do,
        (OperationKind::Pause, _) => Verdict::Misplaced("only what runs can be paused"),
        (OperationKind::Resume, Standing::Paused | Standing::Suspended) => Verdict::Do,
        (OperationKind::Resume, Standing::Running) => Verdict::Misplaced("it runs already"),
        (OperationKind::Resume, Standing::Created) => Verdict::Misplaced("`durdir actor start` starts it"),
        (OperationKind::Resume, Standing::Exited { .. }) => {
            Verdict::Misplaced("`durdir actor start` starts it anew, on its volumes as they are")
        }
        (OperationKind::Suspend, Standing::Running | Standing::Paused | Standing::Suspended) => Verdict::Do,
        (OperationKind::Suspend, Standing::Created | Standing::Exited { .. }) => Verdict::Misplaced(
            "only what runs or is paused can be suspended; `durdir actor commit` keeps its volumes",
        ),
        (OperationKind::Commit | OperationKind::Remove, _) => Verdict::Do,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn standings() -> [Standing; 5] {
        [
            Standing::Created,
            Standing::Running,
            Standing::Paused,
            Standing::Suspended,
            Standing::Exited { reason: String::new() },
        ]
    }

    const KINDS: [OperationKind; 7] = [
        OperationKind::Create,
        OperationKind::Start,
        OperationKind::Pause,
        OperationKind::Resume,
        OperationKind::Suspend,
        OperationKind::Commit,
        OperationKind::Remove,
    ];

    fn standing() -> impl Strategy<Value = Standing> {
        proptest::sample::select(standings().to_vec())
    }

    fn kind() -> impl Strategy<Value = OperationKind> {
        proptest::sample::select(KINDS.to_vec())
    }

    proptest! {
        #[test]
        fn two_operations_are_never_in_hand(standing in standing(), asked in kind(), other in kind()) {
            prop_assert_eq!(decide(&standing, Some(InHand::Asked(other)), asked), Verdict::Busy(other));
            prop_assert_eq!(decide(&standing, Some(InHand::Own), asked), Verdict::Wait);
        }

        #[test]
        fn without_anything_in_hand_nothing_waits(standing in standing(), asked in kind()) {
            let verdict = decide(&standing, None, asked);
            prop_assert!(matches!(verdict, Verdict::Do | Verdict::Misplaced(_)));
        }

        /// Whatever was done last, an actor can always be brought to run, and be removed.
        #[test]
        fn no_actor_is_stuck(standing in standing()) {
            let may = |asked| decide(&standing, None, asked) == Verdict::Do;
            let runs = standing == Standing::Running;
            prop_assert!(may(OperationKind::Start) != may(OperationKind::Resume));
            prop_assert!(!runs || may(OperationKind::Start));
            prop_assert!(may(OperationKind::Remove) && may(OperationKind::Commit));
        }
    }

    #[test]
    fn only_what_runs_or_is_narrowed_is_paused() {
        for standing in standings() {
            let paused = decide(&standing, None, OperationKind::Pause) == Verdict::Do;
            assert_eq!(paused, matches!(standing, Standing::Running | Standing::Paused), "{standing:?}");
        }
    }
}
