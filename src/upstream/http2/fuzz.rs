//! Fuzz target: what a server says to a connection with open streams.

use std::task::{Context, Poll, Waker};

use http::{HeaderMap, StatusCode};

use super::session::{Answer, Session};
use super::testing;

/// What came of a stream.
#[derive(Debug, PartialEq)]
struct Outcome {
    interim: usize,
    head: Option<(StatusCode, HeaderMap)>,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// What was wrong; `None` if it came to its end.
    fault: Option<String>,
}

/// All that the peer ever says, to a GET, a HEAD and an upload. However it arrives, it means the same, and every request is answered.
pub fn http2_response(data: &[u8]) {
    let whole = read(data, data.len().max(1));
    for step in [1, 2, 3, 7, 64] {
        assert_eq!(read(data, step), whole, "in steps of {step}");
    }
    for outcome in &whole.0 {
        check(outcome);
    }
}

/// The outcomes, and all that was written.
fn read(data: &[u8], step: usize) -> (Vec<Outcome>, Vec<u8>) {
    let mut session = Session::new();
    let ids: Vec<_> = ["GET", "HEAD", "POST"]
        .into_iter()
        .filter_map(|method| {
            let begun = session.begin(&testing::asked(method), None, method != "POST");
            begun.ok()
        })
        .collect();
    session.put(5, vec![b'x'; 100_000].into(), true);
    let mut cx = Context::from_waker(Waker::noop());
    for mut piece in data.chunks(step) {
        while let Poll::Ready(Ok(1..)) = session.poll_fill(&mut cx, &mut piece) {}
        if let Err(violation) = session.receive() {
            session.fail(super::session::End::Violation(violation));
            break;
        }
    }
    session.hang_up(std::io::ErrorKind::UnexpectedEof);
    session.take_leave();
    let outcomes = ids.iter().map(|id| outcome(&mut session, *id)).collect();
    for id in ids {
        session.forget(id);
    }
    assert!(session.is_over() && !session.has_streams());
    let mut written = Vec::new();
    assert!(session.poll_write(&mut cx, &mut written).is_ready());
    (outcomes, written)
}

fn outcome(session: &mut Session, id: u32) -> Outcome {
    let cx = Context::from_waker(Waker::noop());
    let mut outcome = Outcome {
        interim: 0,
        head: None,
        body: Vec::new(),
        trailers: None,
        fault: None,
    };
    while outcome.head.is_none() {
        match session.poll_answer(&cx, id) {
            Poll::Pending => panic!("nobody answers"),
            Poll::Ready(Err(fault)) => {
                outcome.fault = Some(fault.to_string());
                return outcome;
            }
            Poll::Ready(Ok(Answer::Interim(_))) => outcome.interim += 1,
            Poll::Ready(Ok(Answer::Final(head))) => {
                let (parts, ()) = head.response.into_parts();
                outcome.head = Some((parts.status, parts.headers));
            }
        }
    }
    loop {
        match session.poll_frame(&cx, id) {
            Poll::Pending => panic!("the body has no end"),
            Poll::Ready(None) => return outcome,
            Poll::Ready(Some(Err(fault))) => {
                outcome.fault = Some(fault.to_string());
                return outcome;
            }
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => outcome.body.extend_from_slice(&data),
                Err(frame) => outcome.trailers = frame.into_trailers().ok(),
            },
        }
    }
}

/// What holds of every response.
fn check(outcome: &Outcome) {
    assert!(outcome.interim <= 16);
    let Some((status, fields)) = &outcome.head else {
        return;
    };
    assert!(!status.is_informational());
    assert!(fields.len() <= crate::upstream::MAX_FIELDS);
    for name in ["connection", "transfer-encoding", "upgrade", "keep-alive"] {
        assert!(!fields.contains_key(name), "{name}");
    }
    for (name, value) in fields.iter().chain(outcome.trailers.iter().flatten()) {
        let breaks = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
        assert!(!value.as_bytes().iter().any(breaks), "{name}");
    }
    if *status == StatusCode::NO_CONTENT || *status == StatusCode::NOT_MODIFIED {
        assert!(outcome.body.is_empty());
    } else if let (Some(length), None) = (fields.get("content-length"), &outcome.fault) {
        let length: u64 = length
            .to_str()
            .unwrap_or_default()
            .parse()
            .unwrap_or(u64::MAX);
        assert!(outcome.body.is_empty() || outcome.body.len() as u64 == length);
    }
}
