//! Token rejections: how a response shows that the API refuses the token.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, WWW_AUTHENTICATE};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, timeout, timeout_at};

use super::headers::without_parameters;
use super::target::Target;
use crate::upstream::{BodyError, PollFrame, Tunnel, UpstreamBody};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Bytes of a JSON response that are inspected, and of a rejected response that are drained.
const PEEK: usize = 64 * 1024;

/// A response that lasts longer is forwarded unchecked: it is a stream, whatever its type says.
const PEEK_TIME: Duration = Duration::from_secs(2);

/// How long the rest of a rejected response may take before its connection is closed.
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// An upstream's body: the frames that were read ahead, then the rest.
pub(super) struct ForwardedBody {
    front: VecDeque<Frame<Bytes>>,
    rest: Option<UpstreamBody>,
}

/// Returns whether the response head rejects the token.
pub(super) fn rejects<B>(response: &Response<B>, target: &Target) -> bool {
    let rules = &target.reject;
    (rules.status.contains(&response.status().as_u16())
        || grpc_rejects(response.headers(), &rules.grpc_status))
        && !insufficient_scope(response.headers())
}

/// Returns whether the response body may reject the token.
pub(super) fn must_peek<B>(response: &Response<B>, target: &Target) -> bool {
    target.reject.reads_bodies() && peekable(response.headers())
}

/// Returns whether the response body rejects the token, and the response with its whole body.
pub(super) async fn examine(
    response: Response<UpstreamBody>,
    target: &Target,
) -> (bool, Response<ForwardedBody>) {
    let (parts, body) = response.into_parts();
    let (text, body) = peek(body).await;
    let rejected = text.is_some_and(|text| target.reject.body_matches(&text, &parts.headers));
    (rejected, Response::from_parts(parts, body))
}

/// Reads the rest of a rejected response to reuse its connection. A long rest is dropped, which
/// closes the connection.
pub(super) async fn drain(response: Response<ForwardedBody>) {
    let mut body = Limited::new(response.into_body(), PEEK);
    let read = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = timeout(DRAIN_TIME, read).await;
}

/// RFC 6750 §3.1: the token is valid but lacks a scope, which a new token would lack, too.
fn insufficient_scope(headers: &HeaderMap) -> bool {
    let mut challenges = headers.get_all(WWW_AUTHENTICATE).iter();
    let lacks_scope = |text: &str| text.contains("insufficient_scope");
    challenges.any(|value| value.to_str().is_ok_and(lacks_scope))
}

/// Reads trailers-only responses; trailers that follow messages come too late for a replay.
fn grpc_rejects(headers: &HeaderMap, statuses: &[u16]) -> bool {
    let status = || headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok();
    !statuses.is_empty() && status().is_some_and(|status| statuses.contains(&status))
}

fn peekable(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name)?.to_str().ok();
    let length = text(CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    text(CONTENT_TYPE).is_some_and(is_json) && length.is_none_or(|length| length <= PEEK)
}

/// `application/json`, `text/json` and `…+json` (RFC 6839), but no streams of JSON texts.
fn is_json(content_type: &str) -> bool {
    let essence = without_parameters(content_type.as_bytes()).trim_ascii();
    essence.last_chunk().is_some_and(|end: &[u8; 5]| {
        end.eq_ignore_ascii_case(b"/json") || end.eq_ignore_ascii_case(b"+json")
    })
}

/// Returns the bytes if the body ends within the limits, and the body with every frame in place.
async fn peek(mut body: UpstreamBody) -> (Option<BytesMut>, ForwardedBody) {
    let (mut front, mut text) = (VecDeque::new(), BytesMut::new());
    let deadline = Instant::now() + PEEK_TIME;
    while !body.is_end_stream() {
        let rest = match timeout_at(deadline, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => {
                text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                front.push_back(frame);
                if text.len() <= PEEK {
                    continue;
                }
                body
            }
            // Put back, so that the frames before the error do not pass for the whole body.
            Ok(Some(Err(error))) => UpstreamBody::failed(error),
            Err(_) => body,
        };
        let rest = Some(rest);
        return (None, ForwardedBody { front, rest });
    }
    (Some(text), ForwardedBody { front, rest: None })
}

impl ForwardedBody {
    /// See [`UpstreamBody::detach_upload`].
    pub(super) fn detach_upload(self) -> Self {
        let rest = self.rest.map(UpstreamBody::detach_upload);
        Self { rest, ..self }
    }

    pub(super) fn take_tunnel(&mut self) -> Option<Tunnel> {
        self.rest.as_mut()?.take_tunnel()
    }
}

impl From<UpstreamBody> for ForwardedBody {
    fn from(body: UpstreamBody) -> Self {
        Self {
            front: VecDeque::new(),
            rest: Some(body),
        }
    }
}

impl Body for ForwardedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame<BodyError> {
        let this = self.get_mut();
        match (this.front.pop_front(), &mut this.rest) {
            (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
            (None, Some(body)) => Pin::new(body).poll_frame(cx),
            (None, None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.front.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.front.iter().filter_map(Frame::data_ref);
        let ahead = SizeHint::with_exact(ahead.map(|data| data.len() as u64).sum());
        match &self.rest {
            Some(rest) => ahead + rest.size_hint(),
            None => ahead,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_challenge_for_insufficient_scope_is_recognized() {
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
    fn only_json_types_are_inspected() {
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
