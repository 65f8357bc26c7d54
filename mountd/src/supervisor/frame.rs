//! Questions to a supervisor, its answers, and how both look on the wire.
//!
//! ```text
//! "ddsv"   version: u16 LE   0: u16   length: u32 LE   JSON, `length` bytes
//! ```
//!
//! # Invariants
//! - A frame says where it ends, and which version of this protocol it belongs to, before anything of it is understood.
//! - Supervisors and `mountd upgrade` of different versions talk to each other: fields are added, never changed.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ending::End;

const MAGIC: [u8; 4] = *b"ddsv";
const VERSION: u16 = 1;
const HEADER: usize = 12;
/// No path is longer than 4 KiB, and nothing else in a frame is longer than a path.
pub(super) const LONGEST: usize = 64 << 10;

/// What can be asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Request {
    /// How are you?
    Status,
    /// Run this program from now on.
    Upgrade {
        /// Where it is.
        program: String,
        /// How long its check may take, and its start.
        limit_ms: u64,
    },
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// I am like this.
    Status(Status),
    /// It runs.
    Upgraded(Status),
    /// It was not done; everything is as before.
    Failed {
        /// The exit code for this.
        exit: u8,
        /// Why.
        message: String,
    },
}

/// How a mountd is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Status {
    /// The version of the supervisor.
    pub(super) version: String,
    pub(super) supervisor_pid: u32,
    /// Null while the next worker waits for its turn.
    pub(super) worker_pid: Option<i32>,
    /// Whether the worker serves.
    pub(super) ready: bool,
    /// When the worker was started, in milliseconds since 1970.
    pub(super) worker_since_ms: Option<u64>,
    /// What the worker says it is doing.
    pub(super) worker_status: Option<String>,
    /// How many workers were replaced.
    pub(super) takeovers: u64,
    /// How many descriptors are kept.
    pub(super) descriptors: usize,
    pub(super) last_death: Option<Death>,
}

/// The end of a worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Death {
    pub(super) pid: i32,
    pub(super) end: End,
    /// In words.
    pub(super) how: String,
    /// When, in milliseconds since 1970.
    pub(super) at_ms: u64,
}

/// A frame that cannot be understood.
#[derive(PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("this is not the protocol of a supervisor")]
    Foreign,
    #[error("version {0} of the supervisor's protocol is not understood")]
    OtherVersion(u16),
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    #[error("a frame holds something else than expected: {0}")]
    Malformed(String),
}

/// Returns a frame that holds `value`.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let body = serde_json::to_vec(value).map_err(|error| FrameError::Malformed(error.to_string()))?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= LONGEST);
    let length = length.ok_or(FrameError::TooLong(body.len()))?;
    let mut frame = MAGIC.to_vec();
    frame.extend(VERSION.to_le_bytes());
    frame.extend([0, 0]);
    frame.extend(length.to_le_bytes());
    frame.extend(body);
    Ok(frame)
}

/// Returns what the first frame in `bytes` holds; `None` if its end has not come yet.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<T>, FrameError> {
    let known = bytes.len().min(MAGIC.len());
    if bytes.get(..known) != MAGIC.get(..known) {
        return Err(FrameError::Foreign);
    }
    let Some(&[.., v0, v1, _, _, l0, l1, l2, l3]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Err(FrameError::OtherVersion(version));
    }
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if length > LONGEST {
        return Err(FrameError::TooLong(length));
    }
    let Some(body) = bytes.get(HEADER..HEADER + length) else { return Ok(None) };
    serde_json::from_slice(body).map(Some).map_err(|error| FrameError::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn upgrade() -> Request {
        Request::Upgrade { program: "/new".to_owned(), limit_ms: 5 }
    }

    #[test]
    fn a_frame_is_understood_when_all_of_it_has_come_and_not_before() {
        let frame = encode(&upgrade()).unwrap();
        for end in 0..frame.len() {
            assert_eq!(decode::<Request>(&frame[..end]), Ok(None), "{end}");
        }
        assert_eq!(decode(&frame), Ok(Some(upgrade())));
        let two = [frame, encode(&Request::Status).unwrap()].concat();
        assert_eq!(decode(&two), Ok(Some(upgrade())));
    }

    #[test]
    fn what_is_no_frame_is_refused_at_once() {
        let frame = encode(&Request::Status).unwrap();
        let broken = |at: usize, byte: u8| {
            let mut bytes = frame.clone();
            bytes[at] = byte;
            decode::<Request>(&bytes).unwrap_err()
        };
        assert_eq!(decode::<Request>(b"G"), Err(FrameError::Foreign));
        assert_eq!(broken(3, b'x'), FrameError::Foreign);
        assert_eq!(broken(4, 2), FrameError::OtherVersion(2));
        assert!(matches!(broken(11, 0xff), FrameError::TooLong(_)));
        assert!(matches!(broken(12, b'{'), FrameError::Malformed(_)));
        let long = Request::Upgrade { program: "x".repeat(LONGEST), limit_ms: 0 };
        assert!(matches!(encode(&long), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn fields_of_a_later_version_are_left_alone() {
        let body = br#"{"upgrade":{"program":"/new","limit_ms":5,"colour":"red"}}"#;
        let mut frame = encode(&Request::Status).unwrap();
        frame.truncate(8);
        frame.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        frame.extend(body);
        assert_eq!(decode(&frame), Ok(Some(upgrade())));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let header = [&MAGIC[..], &VERSION.to_le_bytes(), &[0, 0]].concat();
            for bytes in [&bytes[..], &[&header[..], &bytes].concat()] {
                // That there is none, or not all of it, or none that makes sense, are all fine.
                drop(decode::<Request>(bytes));
            }
        }

        #[test]
        fn one_wrong_byte_is_noticed_or_harmless(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut frame = encode(&upgrade()).unwrap();
            let at = at.index(frame.len());
            frame[at] = byte;
            if let Ok(Some(request)) = decode::<Request>(&frame) {
                prop_assert!(at >= HEADER || request == upgrade());
            }
        }
    }
}
