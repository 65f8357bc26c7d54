//! As much of HTTP/1.1 as a readiness probe and the monitor of a microVM need: one request on a connection of its own.

use std::io::{self, Read, Write};

use super::{Connection, Deadline};

/// More than this in an answer is an error.
const HEAD_LIMIT: usize = 64 << 10;
const BODY_LIMIT: usize = 4 << 20;

/// An answer.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Answer {
    /// Its status, e.g. 200.
    pub(super) status: u16,
    /// Its body; empty where only the status was asked for.
    pub(super) body: Vec<u8>,
}

/// How much of an answer is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// Its first line.
    Status,
    /// All of it.
    Body,
}

/// Sends a request and reads the answer.
pub(super) fn ask(
    connection: &mut Connection,
    method: &str,
    path: &str,
    body: &[u8],
    wanted: Wanted,
    deadline: Deadline,
) -> io::Result<Answer> {
    let length = body.len();
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    if length > 0 {
        request.push_str(&format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"));
    }
    request.push_str("\r\n");
    connection.set_timeout(deadline.left())?;
    connection.write_all(request.as_bytes())?;
    connection.write_all(body)?;

    let mut read = Vec::new();
    let end = if wanted == Wanted::Status { b"\r\n".as_slice() } else { b"\r\n\r\n" };
    let head = loop {
        if let Some(head) = read.windows(end.len()).position(|window| window == end) {
            break head;
        }
        if read.len() > HEAD_LIMIT {
            return Err(malformed("its head does not end"));
        }
        more(connection, &mut read, deadline)?;
    };
    let text = String::from_utf8_lossy(read.get(..head).unwrap_or_default()).into_owned();
    let mut lines = text.split("\r\n");
    let status =
        parse_status(lines.next().unwrap_or_default()).ok_or_else(|| malformed("it has no status"))?;
    if wanted == Wanted::Status {
        return Ok(Answer { status, body: Vec::new() });
    }
    let length = lines.filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())
    });
    let length = length.unwrap_or(Some(0)).filter(|length| *length <= BODY_LIMIT);
    let length = length.ok_or_else(|| malformed("its length is none"))?;
    let mut body = read.split_off(head + end.len());
    while body.len() < length {
        more(connection, &mut body, deadline)?;
    }
    body.truncate(length);
    Ok(Answer { status, body })
}

/// Reads what is there.
fn more(connection: &mut Connection, read: &mut Vec<u8>, deadline: Deadline) -> io::Result<()> {
    if deadline.passed() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    connection.set_timeout(deadline.left())?;
    let mut buffer = [0; 4096];
    match connection.read(&mut buffer) {
        Ok(0) => Err(malformed("it ends early")),
        Ok(count) => {
            read.extend_from_slice(buffer.get(..count).unwrap_or_default());
            Ok(())
        }
        // What a socket says whose time is up.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
        Err(error) => Err(error),
    }
}

fn malformed(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP answer: {why}"))
}

/// Parses `HTTP/1.1 200 OK`.
fn parse_status(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("HTTP/1.")?;
    rest.split(' ').nth(1)?.parse().ok().filter(|status| (100..600).contains(status))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Asks a server that says exactly this, whatever it is asked.
    fn answer(said: &'static [u8], wanted: Wanted) -> io::Result<Answer> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || {
            let mut request = [0; 512];
            let count = theirs.read(&mut request).unwrap();
            theirs.write_all(said).unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let soon = Deadline::after(Duration::from_secs(20));
        let answer = ask(&mut Connection::Unix(ours), "PUT", "/x", b"{}", wanted, soon);
        let request = server.join().unwrap();
        assert!(request.starts_with("PUT /x HTTP/1.1\r\nHost: localhost\r\n"), "{request}");
        answer
    }

    #[test]
    fn an_answer_is_read_as_far_as_its_length_says() {
        let read = answer(b"HTTP/1.1 404 No\r\ncontent-LENGTH: 3\r\n\r\nabcdef", Wanted::Body).unwrap();
        assert_eq!(read, Answer { status: 404, body: b"abc".to_vec() });
        let read = answer(b"HTTP/1.0 204 \r\n\r\n", Wanted::Body).unwrap();
        assert_eq!(read, Answer { status: 204, body: Vec::new() });
        let read = answer(b"HTTP/1.1 200 OK\r\nContent-Le", Wanted::Status).unwrap();
        assert_eq!(read.status, 200);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let cases: [&[u8]; 6] = [
            b"",
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 999 x\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        ];
        for said in cases {
            assert!(answer(said, Wanted::Body).is_err(), "{}", String::from_utf8_lossy(said));
        }
    }

    #[test]
    fn a_server_that_says_nothing_is_left_in_time() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let soon = Deadline::after(Duration::from_millis(20));
        let error = ask(&mut Connection::Unix(ours), "GET", "/", b"", Wanted::Status, soon).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
