//! Rejection → renewal → replay (DESIGN.md §6.4): how an API says that the token is dead, and what is done about it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, WWW_AUTHENTICATE};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::target::Target;
use crate::provider::cell::CellReader;
use crate::upstream::{BodyError, Tunnel, UpstreamBody};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// How much of a JSON answer is looked into, and of a rejected answer is read to keep its connection.
const PEEK: usize = 64 * 1024;

/// An answer that has not ended by then is passed on: it is a stream, whatever its type says.
const PEEK_TIME: Duration = Duration::from_secs(2);

/// How long the rest of a rejected answer may take before its connection is given up.
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// Renewals for an upstream that has never accepted any of the tokens it rejects.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// An upstream's body, or what was peeked at and the rest.
pub(super) enum ForwardedBody {
    Live(UpstreamBody),
    Peeked {
        front: VecDeque<Frame<Bytes>>,
        rest: Option<UpstreamBody>,
    },
}

impl ForwardedBody {
    /// See [`UpstreamBody::detach_upload`].
    pub(super) fn detach_upload(self) -> Self {
        match self {
            Self::Live(body) => Self::Live(body.detach_upload()),
            Self::Peeked { front, rest } => Self::Peeked {
                front,
                rest: rest.map(UpstreamBody::detach_upload),
            },
        }
    }
}

/// What an upstream has made of the tokens so far.
#[derive(Default)]
pub(super) struct Record {
    /// The newest generation that it accepted.
    accepted: AtomicU64,
    /// The newest generation whose rejection was logged.
    told: AtomicU64,
    pause: Mutex<Pause>,
}

#[derive(Default)]
struct Pause {
    /// No renewal before this.
    until: Option<Instant>,
    length: Duration,
}

/// Whether an answer says in its head that its token is dead.
pub(super) fn rejects<B>(response: &Response<B>, target: &Target) -> bool {
    let rules = &target.reject;
    (rules.status.contains(&response.status().as_u16())
        || grpc_rejects(response.headers(), &rules.grpc_status))
        && !insufficient_scope(response.headers())
}

/// Whether an answer can say so in its body.
pub(super) fn must_peek<B>(response: &Response<B>, target: &Target) -> bool {
    target.reject.reads_bodies() && peekable(response.headers())
}

/// Whether an answer says in its body that its token is dead.
pub(super) async fn examine(
    response: Response<UpstreamBody>,
    target: &Target,
) -> (bool, Response<ForwardedBody>) {
    let (parts, body) = response.into_parts();
    let (json, body) = peek(body).await;
    let rejected = json.is_some_and(|json| target.reject.body_matches(&json));
    (rejected, Response::from_parts(parts, body))
}

/// Reads what is left of a rejected answer, so that its connection can be used again; gives up on long ones.
pub(super) async fn drain(response: Response<ForwardedBody>) {
    let mut body = response.into_body();
    let read = async {
        let mut left = PEEK;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Dropped unfinished, the connection is closed.
    let _ = tokio::time::timeout(DRAIN_TIME, read).await;
}

// === impl Record ===

impl Record {
    /// The upstream took this generation.
    pub(super) fn accepted(&self, generation: u64) {
        // Almost always equal: a load is cheaper than a store that other cores see.
        if self.accepted.load(Ordering::Relaxed) >= generation {
            return;
        }
        self.accepted.fetch_max(generation, Ordering::Relaxed);
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = Pause::default();
    }

    /// Whether this is the first rejection of the generation here: worth a line of the log, which a hundred are not.
    pub(super) fn is_news(&self, generation: u64) -> bool {
        self.told.fetch_max(generation, Ordering::Relaxed) < generation
    }

    /// Asks for a newer token, unless this upstream rejects whatever it gets: then a broken API could make us hammer the token
    /// endpoint, or kill the tokens of its siblings. Whether it asked.
    pub(super) fn renew(&self, generation: u64, token: &CellReader) -> bool {
        if self.accepted.load(Ordering::Relaxed) < generation && !self.may_renew(Instant::now()) {
            return false;
        }
        token.reject(generation);
        true
    }

    fn may_renew(&self, now: Instant) -> bool {
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        if pause.until.is_some_and(|until| now < until) {
            return false;
        }
        pause.length = (pause.length * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        pause.until = Some(now + pause.length);
        true
    }
}

/// RFC 6750 §3.1: the token is good, it just may not do this. A new one would not help.
fn insufficient_scope(headers: &HeaderMap) -> bool {
    headers.get_all(WWW_AUTHENTICATE).iter().any(|challenge| {
        challenge
            .to_str()
            .is_ok_and(|challenge| challenge.contains("insufficient_scope"))
    })
}

/// A trailers-only answer: later trailers come when the stream is over, too late for a replay.
fn grpc_rejects(headers: &HeaderMap, statuses: &[u16]) -> bool {
    !statuses.is_empty()
        && headers
            .get(GRPC_STATUS)
            .and_then(|status| status.to_str().ok()?.parse().ok())
            .is_some_and(|status| statuses.contains(&status))
}

fn peekable(headers: &HeaderMap) -> bool {
    let json = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(is_json);
    let long = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok())
        .is_some_and(|length| length > PEEK);
    json && !long
}

/// `application/json`, `text/json` and `…+json` (RFC 6839); not streams of JSON texts.
fn is_json(kind: &str) -> bool {
    let essence = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// The JSON, if the body ends within the bounds, and the body as if nobody had looked.
async fn peek(mut body: UpstreamBody) -> (Option<serde_json::Value>, ForwardedBody) {
    let mut front = VecDeque::new();
    let mut text = BytesMut::new();
    let deadline = Instant::now() + PEEK_TIME;
    loop {
        if body.is_end_stream() {
            let json = serde_json::from_slice(&text).ok();
            return (json, ForwardedBody::Peeked { front, rest: None });
        }
        match tokio::time::timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    text.extend_from_slice(data);
                }
                front.push_back(frame);
            }
            Ok(None) => {
                let json = serde_json::from_slice(&text).ok();
                return (json, ForwardedBody::Peeked { front, rest: None });
            }
            // Put back, so that what is there is not taken for the whole.
            Ok(Some(Err(error))) => {
                let rest = Some(UpstreamBody::failed(error));
                return (None, ForwardedBody::Peeked { front, rest });
            }
            Err(_) => {
                return (
                    None,
                    ForwardedBody::Peeked {
                        front,
                        rest: Some(body),
                    },
                );
            }
        }
        if text.len() > PEEK {
            return (
                None,
                ForwardedBody::Peeked {
                    front,
                    rest: Some(body),
                },
            );
        }
    }
}

// === impl ForwardedBody ===

impl ForwardedBody {
    /// The connection to the upstream, if that switched protocols.
    pub(super) fn take_tunnel(&mut self) -> Option<Tunnel> {
        match self {
            Self::Live(body) => body.take_tunnel(),
            Self::Peeked { .. } => None,
        }
    }
}

impl Body for ForwardedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Live(body) => Pin::new(body).poll_frame(cx),
            Self::Peeked { front, rest } => match (front.pop_front(), rest) {
                (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
                (None, Some(body)) => Pin::new(body).poll_frame(cx),
                (None, None) => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Live(body) => body.is_end_stream(),
            Self::Peeked { front, rest } => {
                front.is_empty() && rest.as_ref().is_none_or(Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Live(body) => body.size_hint(),
            Self::Peeked { front, rest } => {
                let ahead: usize = front
                    .iter()
                    .filter_map(Frame::data_ref)
                    .map(Bytes::len)
                    .sum();
                let ahead = ahead as u64;
                let rest = rest
                    .as_ref()
                    .map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower() + ahead);
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper + ahead);
                }
                hint
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_accepts_nothing_slows_its_renewals_down() {
        let record = Record::default();
        let started = Instant::now();
        let mut asked = 0;
        while started.elapsed() < Duration::from_secs(3600) {
            asked += u32::from(record.may_renew(Instant::now()));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        // 5, 10, … 320 s make 7 in the first 635 s, then one every 10 minutes.
        assert!((11..=14).contains(&asked), "{asked}");
        record.accepted(1);
        assert!(record.may_renew(Instant::now()));
    }

    #[test]
    fn the_rejection_of_a_generation_is_told_once() {
        let record = Record::default();
        let told = [1, 1, 2, 1, 2, 3].map(|generation| record.is_news(generation));
        assert_eq!(told, [true, false, true, false, false, true]);
    }

    #[test]
    fn scope_is_not_a_matter_of_the_token() {
        let challenge = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(text));
            insufficient_scope(&headers)
        };
        assert!(challenge(
            "Bearer realm=\"x\", error=\"insufficient_scope\", scope=\"a\""
        ));
        assert!(!challenge("Bearer error=\"invalid_token\""));
    }

    #[test]
    fn only_json_texts_are_peeked() {
        for good in [
            "application/json",
            "application/JSON; charset=utf-8",
            "text/json",
            "application/problem+json",
        ] {
            assert!(is_json(good), "{good}");
        }
        for bad in [
            "application/x-ndjson",
            "text/event-stream",
            "application/json-seq",
            "text/plain",
            "",
        ] {
            assert!(!is_json(bad), "{bad}");
        }
    }
}
