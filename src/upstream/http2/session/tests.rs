//! A server that says exactly what a test wants, without sockets.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::http2::MAX_WINDOW;
use crate::http2::frame::kind;
use crate::upstream::http2::testing::{
    Seen, asked, block, data, frame, go_away, head, hello, ok, parse, reset, settings, window,
};

struct Line {
    session: Session,
    /// What was written and not looked at.
    written: Vec<u8>,
}

impl Line {
    fn new() -> Self {
        Self {
            session: Session::new(),
            written: Vec::new(),
        }
    }

    /// With streams 1, 3 and so on, on which this was asked.
    fn with(methods: &[&str]) -> Self {
        let mut line = Self::new();
        line.say(&hello()).unwrap();
        for method in methods {
            line.ask(method);
        }
        line.frames();
        line
    }

    fn ask(&mut self, method: &str) -> u32 {
        let ends = !matches!(method, "POST" | "PUT");
        let begun = self.session.begin(&asked(method), None, ends);
        begun.ok().unwrap()
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.session.read.extend_from_slice(bytes);
        self.session.receive()
    }

    /// What was written since the last call.
    fn frames(&mut self) -> Vec<Seen> {
        let mut cx = Context::from_waker(Waker::noop());
        let written = self.session.poll_write(&mut cx, &mut self.written);
        assert!(matches!(written, Poll::Ready(Ok(()))));
        if self.written.starts_with(frame::PREFACE) {
            self.written.drain(..frame::PREFACE.len());
        }
        let seen = parse(&mut self.written);
        assert!(self.written.is_empty());
        seen
    }

    fn answer(&mut self, id: u32) -> Poll<Result<Answer, Fault>> {
        let cx = Context::from_waker(Waker::noop());
        self.session.poll_answer(&cx, id)
    }

    #[track_caller]
    fn status(&mut self, id: u32) -> u16 {
        match self.answer(id) {
            Poll::Ready(Ok(Answer::Final(head))) => head.response.status().as_u16(),
            Poll::Ready(Ok(Answer::Interim(head))) => head.status().as_u16(),
            Poll::Ready(Err(fault)) => panic!("{fault}"),
            Poll::Pending => panic!("no answer"),
        }
    }

    #[track_caller]
    fn fault(&mut self, id: u32) -> Fault {
        match self.answer(id) {
            Poll::Ready(Err(fault)) => fault,
            Poll::Ready(Ok(_)) => panic!("an answer"),
            Poll::Pending => panic!("nothing"),
        }
    }

    fn next(&mut self, id: u32) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let cx = Context::from_waker(Waker::noop());
        self.session.poll_frame(&cx, id)
    }

    /// All the content that has come, and whether it is to its end.
    fn content(&mut self, id: u32) -> (Vec<u8>, bool) {
        let mut content = Vec::new();
        loop {
            match self.next(id) {
                Poll::Ready(Some(Ok(frame))) => content.extend(frame.into_data().unwrap()),
                Poll::Ready(Some(Err(fault))) => panic!("{fault}"),
                Poll::Ready(None) => return (content, true),
                Poll::Pending => return (content, false),
            }
        }
    }

    fn put(&mut self, id: u32, length: usize, ends: bool) {
        self.session.put(id, vec![b'x'; length].into(), ends);
    }
}

/// Of DATA: stream, length and end.
fn sizes(frames: &[Seen]) -> Vec<(u32, usize, bool)> {
    frames
        .iter()
        .filter(|frame| frame.kind == kind::DATA)
        .map(|frame| {
            (
                frame.stream,
                frame.payload.len(),
                frame.flags == flag::END_STREAM,
            )
        })
        .collect()
}

fn resets(frames: &[Seen]) -> Vec<(u32, Reason)> {
    frames
        .iter()
        .filter(|frame| frame.kind == kind::RST_STREAM)
        .map(|frame| {
            (
                frame.stream,
                Reason(frame::number(&frame.payload, "").unwrap()),
            )
        })
        .collect()
}

fn gain(frames: &[Seen], stream: u32) -> u32 {
    frames
        .iter()
        .filter(|frame| frame.kind == kind::WINDOW_UPDATE && frame.stream == stream)
        .map(|frame| frame::number(&frame.payload, "").unwrap())
        .sum()
}

// === the beginning ===

#[test]
fn a_connection_begins_with_preface_settings_and_a_window() {
    let mut line = Line::new();
    let id = line.ask("GET");
    assert_eq!(id, 1);
    let mut cx = Context::from_waker(Waker::noop());
    let mut written = Vec::new();
    assert!(line.session.poll_write(&mut cx, &mut written).is_ready());
    let mut frames = written.strip_prefix(frame::PREFACE).unwrap().to_vec();
    let frames = parse(&mut frames);
    let kinds = Vec::from_iter(frames.iter().map(|frame| frame.kind));
    assert_eq!(kinds, [kind::SETTINGS, kind::WINDOW_UPDATE, kind::HEADERS]);
    let ours = Vec::from_iter(frame::settings(&frames[0].payload).unwrap());
    assert_eq!(ours, [(2, 0), (4, 1024 * 1024), (6, 64 * 1024)]);
    assert_eq!(gain(&frames, 0), 4 * 1024 * 1024 - 65_535);
    assert_eq!(frames[2].flags, flag::END_STREAM | flag::END_HEADERS);
    // RFC 7541 §4.2: no table, from the first block on.
    assert_eq!(frames[2].payload[0], 0x20);
    line.ask("GET");
    assert_ne!(line.frames()[0].payload[0], 0x20);
}

#[test]
fn settings_are_answered_and_kept() {
    let mut line = Line::new();
    assert_eq!(line.session.take_max_streams(), None);
    line.say(&settings(&[])).unwrap();
    assert_eq!(line.session.take_max_streams(), Some(usize::MAX));
    let answer = line.frames().pop().unwrap();
    assert_eq!(
        (answer.kind, answer.flags, answer.payload.len()),
        (kind::SETTINGS, flag::ACK, 0)
    );
    line.say(&settings(&[
        (3, 7),
        (0x99, 1),
        (2, 0),
        (5, 1 << 14),
        (5, (1 << 24) - 1),
    ]))
    .unwrap();
    assert_eq!(line.session.take_max_streams(), Some(7));
    line.say(&settings(&[(4, 1)])).unwrap();
    assert_eq!(line.session.take_max_streams(), None);
    line.say(&frame(kind::SETTINGS, flag::ACK, 0, "")).unwrap();
    line.say(&settings(&[(3, 0)])).unwrap();
    assert_eq!(line.session.take_max_streams(), Some(0));
    assert_eq!(line.frames().len(), 3);
}

// === errors of the connection ===

#[test]
fn who_does_not_begin_with_settings_speaks_no_http2() {
    for first in [
        frame(kind::PING, 0, 0, [0; 8]),
        frame(kind::SETTINGS, flag::ACK, 0, ""),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        frame(0x77, 0, 0, ""),
    ] {
        let violation = Line::new().say(&first).unwrap_err();
        assert!(
            violation.reason == Reason::PROTOCOL_ERROR
                || violation.reason == Reason::FRAME_SIZE_ERROR
        );
    }
}

/// RFC 9113 §4 to §6, with stream 1 asked and stream 3 not.
#[test]
fn what_breaks_the_rules_of_a_connection_ends_it() {
    let protocol = Reason::PROTOCOL_ERROR;
    let size = Reason::FRAME_SIZE_ERROR;
    let flow = Reason::FLOW_CONTROL_ERROR;
    let all = flag::END_HEADERS;
    let begun = || frame(kind::HEADERS, 0, 1, block(&[(":status", "200")]));
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        (
            "too large",
            vec![0, 0x40, 1, kind::DATA, 0, 0, 0, 0, 1],
            size,
        ),
        (
            "too large, unknown",
            vec![0, 0x40, 1, 0x55, 0, 0, 0, 0, 0],
            size,
        ),
        ("DATA of none", data(0, false, "a"), protocol),
        ("DATA of an even one", data(2, false, "a"), protocol),
        ("DATA of an idle one", data(3, false, "a"), protocol),
        (
            "DATA without a padding length",
            frame(kind::DATA, flag::PADDED, 1, ""),
            size,
        ),
        (
            "DATA of padding",
            frame(kind::DATA, flag::PADDED, 1, [3, 0, 0]),
            protocol,
        ),
        (
            "HEADERS of none",
            head(0, true, &[(":status", "200")]),
            protocol,
        ),
        (
            "HEADERS of an even one",
            head(2, true, &[(":status", "200")]),
            protocol,
        ),
        (
            "HEADERS of an idle one",
            head(3, true, &[(":status", "200")]),
            protocol,
        ),
        (
            "HEADERS of padding",
            frame(kind::HEADERS, all | flag::PADDED, 1, [3, 0, 0]),
            protocol,
        ),
        (
            "HEADERS cut off",
            frame(kind::HEADERS, all | flag::PRIORITY, 1, [0; 4]),
            size,
        ),
        (
            "HPACK",
            frame(kind::HEADERS, all, 1, [0xff]),
            Reason::COMPRESSION_ERROR,
        ),
        (
            "HPACK of no stream",
            [reset(1, 8), frame(kind::HEADERS, all, 1, [0xff])].concat(),
            Reason::COMPRESSION_ERROR,
        ),
        (
            "PRIORITY of none",
            frame(kind::PRIORITY, 0, 0, [0; 5]),
            protocol,
        ),
        ("RST_STREAM of none", reset(0, 8), protocol),
        ("RST_STREAM of an idle one", reset(3, 8), protocol),
        (
            "RST_STREAM, short",
            frame(kind::RST_STREAM, 0, 1, [0; 3]),
            size,
        ),
        (
            "RST_STREAM, long",
            frame(kind::RST_STREAM, 0, 1, [0; 5]),
            size,
        ),
        (
            "SETTINGS of a stream",
            frame(kind::SETTINGS, 0, 1, ""),
            protocol,
        ),
        (
            "SETTINGS, cut off",
            frame(kind::SETTINGS, 0, 0, [0; 5]),
            size,
        ),
        (
            "SETTINGS ACK with some",
            frame(kind::SETTINGS, flag::ACK, 0, [0; 6]),
            size,
        ),
        ("push", settings(&[(2, 1)]), protocol),
        ("a window", settings(&[(4, 1 << 31)]), flow),
        ("small frames", settings(&[(5, (1 << 14) - 1)]), protocol),
        ("large frames", settings(&[(5, 1 << 24)]), protocol),
        (
            "a stream's window",
            [window(1, (1 << 31) - 1 - 65_535), settings(&[(4, 65_536)])].concat(),
            flow,
        ),
        (
            "PUSH_PROMISE",
            frame(kind::PUSH_PROMISE, all, 1, [0, 0, 0, 2]),
            protocol,
        ),
        (
            "PING of a stream",
            frame(kind::PING, 0, 1, [0; 8]),
            protocol,
        ),
        ("PING, short", frame(kind::PING, 0, 0, [0; 7]), size),
        ("PING, long", frame(kind::PING, 0, 0, [0; 9]), size),
        (
            "GOAWAY of a stream",
            frame(kind::GOAWAY, 0, 1, [0; 8]),
            protocol,
        ),
        ("GOAWAY, short", frame(kind::GOAWAY, 0, 0, [0; 7]), size),
        (
            "WINDOW_UPDATE, short",
            frame(kind::WINDOW_UPDATE, 0, 0, [0; 3]),
            size,
        ),
        (
            "WINDOW_UPDATE, long",
            frame(kind::WINDOW_UPDATE, 0, 0, [1; 5]),
            size,
        ),
        ("WINDOW_UPDATE of nothing", window(0, 0), protocol),
        ("WINDOW_UPDATE of an idle stream", window(3, 1), protocol),
        (
            "a connection's window",
            window(0, (1 << 31) - 1 - 65_534),
            flow,
        ),
        (
            "CONTINUATION of nothing",
            frame(kind::CONTINUATION, all, 1, ""),
            protocol,
        ),
        (
            "CONTINUATION after the end",
            [ok(1), frame(kind::CONTINUATION, all, 1, "")].concat(),
            protocol,
        ),
        (
            "a block and DATA",
            [begun(), data(1, true, "")].concat(),
            protocol,
        ),
        (
            "a block and PING",
            [begun(), frame(kind::PING, 0, 0, [0; 8])].concat(),
            protocol,
        ),
        (
            "a block and an unknown frame",
            [begun(), frame(0x55, 0, 0, "")].concat(),
            protocol,
        ),
        (
            "a block that goes on elsewhere",
            [begun(), frame(kind::CONTINUATION, all, 3, "")].concat(),
            protocol,
        ),
    ];
    for (name, bytes, reason) in cases {
        let mut line = Line::with(&["POST"]);
        let violation = line.say(&bytes).expect_err(name);
        assert_eq!(violation.reason, reason, "{name}: {violation}");
        line.session.fail(End::Violation(violation));
        line.session.take_leave();
        let goodbye = line.frames().pop().unwrap();
        let expected = [&[0; 4][..], &reason.0.to_be_bytes()].concat();
        assert_eq!(
            (goodbye.kind, goodbye.payload),
            (kind::GOAWAY, expected),
            "{name}"
        );
        assert!(line.session.begin(&asked("GET"), None, true).is_err());
    }
}

/// CVE-2024-27316 and its like.
#[test]
fn a_header_block_without_end_ends_the_connection() {
    for fragment in [vec![], vec![b'x'; 16 * 1024], vec![0x90]] {
        let mut line = Line::with(&["GET"]);
        line.say(&frame(kind::HEADERS, 0, 1, [0x88])).unwrap();
        let mut frames = 0;
        let violation = loop {
            match line.say(&frame(kind::CONTINUATION, 0, 1, &fragment)) {
                Ok(()) => frames += 1,
                Err(violation) => break violation,
            }
        };
        assert_eq!(violation.reason, Reason::ENHANCE_YOUR_CALM);
        assert!(frames < 64, "{frames}");
    }
}

/// CVE-2019-9512, 9514, 9515 and 9518, and whatever else costs its sender next to nothing.
#[tokio::test(start_paused = true)]
async fn floods_end_the_connection_and_what_comes_now_and_then_does_not() {
    for (name, one) in [
        ("PING", frame(kind::PING, 0, 0, [0; 8])),
        ("PING ACK", frame(kind::PING, flag::ACK, 0, [0; 8])),
        ("SETTINGS", settings(&[(3, 100)])),
        ("SETTINGS ACK", frame(kind::SETTINGS, flag::ACK, 0, "")),
        ("empty DATA", data(1, false, "")),
        ("padding", frame(kind::DATA, flag::PADDED, 1, [1, 0])),
        ("WINDOW_UPDATE", window(3, 1)),
        ("WINDOW_UPDATE of the connection", window(0, 1)),
        ("PRIORITY", frame(kind::PRIORITY, 0, 9, [0; 5])),
        ("unknown", frame(0xee, 0, 0, "")),
        (
            "heads of what is over",
            head(5, true, &[(":status", "200")]),
        ),
        ("resets of what is over", reset(5, 8)),
        ("resets behind the end", reset(7, 0)),
        ("GOAWAY", go_away(MAX_STREAM, 0)),
    ] {
        let mut line = Line::with(&["GET", "POST", "GET", "GET"]);
        line.say(&[ok(1), head(7, true, &[(":status", "200")])].concat())
            .unwrap();
        line.session.forget(5);
        // Slowly.
        for _ in 0..100 {
            for _ in 0..100 {
                line.say(&one).expect(name);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
            line.frames();
        }
        let mut frames = 0;
        let violation = loop {
            match line.say(&one) {
                Ok(()) => frames += 1,
                Err(violation) => break violation,
            }
        };
        assert_eq!(violation.reason, Reason::ENHANCE_YOUR_CALM, "{name}");
        assert!(frames < 10_000, "{name}: {frames}");
    }
}

/// A peer that asks for answers and reads none of them.
#[test]
fn answers_that_nobody_reads_end_the_connection() {
    struct Full;
    impl AsyncWrite for Full {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }
    let mut line = Line::with(&[]);
    let mut cx = Context::from_waker(Waker::noop());
    for round in 0.. {
        assert!(round < 1_000_000, "nothing ends it");
        let id = line.ask("GET");
        line.session.forget(id);
        if let Poll::Ready(end) = line.session.poll_write(&mut cx, &mut Full) {
            assert!(end.is_err());
            break;
        }
    }
}

// === errors of a stream ===

/// RFC 9113 §5.4.2 and §8.1.1: the stream is reset, its request fails, and the other stream is answered.
#[test]
fn what_is_no_response_is_an_error_of_its_stream_alone() {
    let protocol = Reason::PROTOCOL_ERROR;
    let flow = Reason::FLOW_CONTROL_ERROR;
    let status = (":status", "200");
    let long = "x".repeat(60_000);
    let many = vec![("a", ""); 257];
    let cases: Vec<(&str, &str, Vec<u8>, Reason)> = vec![
        ("no status", "GET", head(1, true, &[]), protocol),
        ("DATA first", "GET", data(1, true, "a"), protocol),
        (
            "less than announced",
            "GET",
            [
                head(1, false, &[status, ("content-length", "2")]),
                data(1, true, "a"),
            ]
            .concat(),
            protocol,
        ),
        (
            "nothing of what was announced",
            "GET",
            head(1, true, &[status, ("content-length", "2")]),
            protocol,
        ),
        (
            "trailers before the end",
            "GET",
            [
                head(1, false, &[status, ("content-length", "2")]),
                head(1, true, &[("a", "b")]),
            ]
            .concat(),
            protocol,
        ),
        (
            "more than announced",
            "GET",
            [
                head(1, false, &[status, ("content-length", "2")]),
                data(1, true, "abc"),
            ]
            .concat(),
            protocol,
        ),
        (
            "content of HEAD",
            "HEAD",
            [ok(1), data(1, true, "a")].concat(),
            protocol,
        ),
        (
            "content of 204",
            "GET",
            [head(1, false, &[(":status", "204")]), data(1, true, "a")].concat(),
            protocol,
        ),
        (
            "content of 304",
            "GET",
            [head(1, false, &[(":status", "304")]), data(1, true, "a")].concat(),
            protocol,
        ),
        ("a second head", "GET", [ok(1), ok(1)].concat(), protocol),
        (
            "a status in trailers",
            "GET",
            [ok(1), head(1, true, &[status])].concat(),
            protocol,
        ),
        (
            "100 and the end",
            "GET",
            head(1, true, &[(":status", "100")]),
            protocol,
        ),
        (
            "17 times 100",
            "GET",
            head(1, false, &[(":status", "100")]).repeat(17),
            protocol,
        ),
        ("WINDOW_UPDATE of nothing", "POST", window(1, 0), protocol),
        ("a window", "POST", window(1, (1 << 31) - 1 - 65_534), flow),
        (
            "PRIORITY",
            "GET",
            frame(kind::PRIORITY, 0, 1, [0; 4]),
            Reason::FRAME_SIZE_ERROR,
        ),
        (
            "257 fields",
            "GET",
            head(1, true, &[&[status], &many[..]].concat()),
            protocol,
        ),
        (
            "257 trailers",
            "GET",
            [ok(1), head(1, true, &many)].concat(),
            protocol,
        ),
        (
            "a large head",
            "GET",
            [
                frame(kind::HEADERS, 0, 1, block(&[status])),
                large(&[("a", &long[..])]),
                frame(
                    kind::CONTINUATION,
                    flag::END_HEADERS,
                    1,
                    block(&[("b", "x"); 200]),
                ),
            ]
            .concat(),
            protocol,
        ),
    ];
    for (name, method, bytes, reason) in cases {
        let mut line = Line::with(&[method, "GET"]);
        line.say(&bytes).expect(name);
        assert_eq!(resets(&line.frames()), [(1, reason)], "{name}");
        assert!(matches!(line.fault(1), Fault::Malformed(_)), "{name}");
        // What comes behind it was on the way.
        line.say(
            &[
                data(1, false, "late"),
                head(1, true, &[("a", "b")]),
                reset(1, 8),
                window(1, 1),
            ]
            .concat(),
        )
        .expect(name);
        line.session.forget(1);
        line.say(
            &[
                data(1, false, "late"),
                head(1, true, &[("a", "b")]),
                reset(1, 8),
                window(1, 1),
            ]
            .concat(),
        )
        .expect(name);
        line.say(&[ok(3), data(3, true, "fine")].concat())
            .expect(name);
        assert_eq!(line.status(3), 200, "{name}");
        assert_eq!(line.content(3), (b"fine".to_vec(), true), "{name}");
        assert_eq!(resets(&line.frames()), [], "{name}");
    }
}

/// A block in CONTINUATION frames.
fn large(fields: &[(&str, &str)]) -> Vec<u8> {
    let block = block(fields);
    let mut out = Vec::new();
    for piece in block.chunks(16 * 1024) {
        out.extend(frame(kind::CONTINUATION, 0, 1, piece));
    }
    out
}

#[test]
fn more_than_a_streams_window_is_an_error_of_the_stream() {
    let mut line = Line::with(&["GET", "GET"]);
    line.say(&[ok(1), ok(3)].concat()).unwrap();
    for _ in 0..64 {
        line.say(&data(1, false, [0; 16 * 1024])).unwrap();
    }
    line.say(&data(3, false, "a")).unwrap();
    assert_eq!(resets(&line.frames()), []);
    line.say(&data(1, false, "a")).unwrap();
    assert_eq!(resets(&line.frames()), [(1, Reason::FLOW_CONTROL_ERROR)]);
}

// === responses ===

#[test]
fn a_response_is_read_however_it_arrives() {
    let padded = frame(
        kind::DATA,
        flag::PADDED,
        1,
        [&[4][..], b"pad", &[0; 4]].concat(),
    );
    let script = [
        head(1, false, &[(":status", "103"), ("link", "a")]),
        frame(kind::HEADERS, 0, 1, &block(&[(":status", "200")])[..5]),
        frame(kind::CONTINUATION, 0, 1, &block(&[(":status", "200")])[5..]),
        frame(
            kind::CONTINUATION,
            flag::END_HEADERS,
            1,
            block(&[("a", "b")]),
        ),
        data(1, false, "one"),
        frame(0x55, 0xff, 1, "unknown"),
        padded,
        frame(kind::PING, 0, 0, [7; 8]),
        data(1, false, "two"),
        head(1, true, &[("sum", "1")]),
    ]
    .concat();
    for step in [1, 2, 3, 7, 9, 64, script.len()] {
        let mut line = Line::with(&["GET"]);
        for piece in script.chunks(step) {
            line.say(piece).unwrap();
        }
        assert_eq!((line.status(1), line.status(1)), (103, 200));
        let mut content = Vec::new();
        let trailers = loop {
            match line.next(1) {
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                    content.extend(frame.into_data().unwrap());
                }
                Poll::Ready(Some(Ok(frame))) => break frame.into_trailers().unwrap(),
                _ => panic!("more"),
            }
        };
        assert_eq!(
            (&content[..], &trailers["sum"]),
            (
                &b"onepadtwo"[..],
                &"1".parse::<http::HeaderValue>().unwrap()
            )
        );
        assert!(line.session.is_read(1));
        let pong = line.frames();
        assert_eq!(
            (
                pong.len(),
                pong[0].kind,
                pong[0].flags,
                &pong[0].payload[..]
            ),
            (1, kind::PING, flag::ACK, &[7; 8][..])
        );
        line.session.forget(1);
        assert_eq!(line.frames(), []);
    }
}

#[test]
fn small_pieces_that_nobody_reads_are_put_together() {
    let mut line = Line::with(&["GET"]);
    line.say(&ok(1)).unwrap();
    line.say(&data(1, false, "a").repeat(40_000)).unwrap();
    let large = [b'b'; 16 * 1024];
    line.say(&data(1, false, large)).unwrap();
    line.say(&data(1, true, "c")).unwrap();
    let mut pieces = Vec::new();
    while let Poll::Ready(Some(Ok(frame))) = line.next(1) {
        pieces.push(frame.into_data().unwrap());
    }
    assert_eq!(
        Vec::from_iter(pieces.iter().map(Bytes::len)),
        [1, 32 * 1024, 40_000 - 1 - 32 * 1024, 16 * 1024, 1]
    );
    let expected = [&b"a".repeat(40_000)[..], &large, b"c"].concat();
    assert_eq!(pieces.concat(), expected);
}

#[test]
fn the_connections_window_is_given_back_whoever_reads() {
    let mut line = Line::with(&["GET", "GET", "GET"]);
    line.say(&[ok(1), ok(3), ok(5)].concat()).unwrap();
    line.session.forget(5);
    line.frames();
    let (mut first, mut sent) = (0, 0_u32);
    // Nobody reads stream 1; stream 5 is gone.
    for _ in 0..64 {
        line.say(&data(1, false, [0; 16 * 1024])).unwrap();
        line.say(&data(5, false, [0; 16 * 1024])).unwrap();
        sent += 32 * 1024;
        first += gain(&line.frames(), 0);
    }
    assert_eq!(first, sent);
    let mut own = 0;
    for _ in 0..640 {
        line.say(&data(3, false, [0; 16 * 1024])).unwrap();
        assert_eq!(line.content(3).0.len(), 16 * 1024);
        sent += 16 * 1024;
        let frames = line.frames();
        first += gain(&frames, 0);
        own += gain(&frames, 3);
        assert_eq!(gain(&frames, 1), 0);
    }
    assert_eq!((own, first), (10 * 1024 * 1024, sent));
    // And its own when it is read, once for half of it.
    assert_eq!(line.content(1).0.len(), 1024 * 1024);
    let frames = line.frames();
    assert_eq!(gain(&frames, 1), 1024 * 1024);
    assert_eq!(frames.len(), 2);
}

#[test]
fn padding_is_given_back_unread() {
    let mut line = Line::with(&["GET"]);
    line.say(&ok(1)).unwrap();
    let padded = frame(
        kind::DATA,
        flag::PADDED,
        1,
        [&[255][..], b"a", &[0; 255]].concat(),
    );
    let mut given = 0;
    for _ in 0..20_000 {
        line.say(&padded).unwrap();
        assert!(line.content(1).0 == b"a");
        given += gain(&line.frames(), 1);
    }
    assert!(given > 9 * 512 * 1024, "{given}");
    assert!(resets(&line.frames()).is_empty());
}

#[test]
fn what_comes_with_the_head_is_whole() {
    let mut line = Line::with(&["GET", "GET", "GET", "GET"]);
    line.say(&[ok(1), data(1, true, "all")].concat()).unwrap();
    line.say(&head(3, true, &[(":status", "200")])).unwrap();
    line.say(&[ok(5), data(5, false, "a"), head(5, true, &[("a", "b")])].concat())
        .unwrap();
    line.say(&[ok(7), data(7, false, "a")].concat()).unwrap();
    assert_eq!(line.session.take_whole(1), Some(Bytes::from("all")));
    assert_eq!(line.session.take_whole(3), Some(Bytes::new()));
    assert_eq!(line.session.take_whole(5), None);
    assert_eq!(line.session.take_whole(7), None);
}

#[test]
fn what_was_received_is_read_though_the_connection_broke() {
    let mut line = Line::with(&["GET", "POST", "GET"]);
    line.say(&[ok(1), data(1, true, "all"), ok(3), data(3, false, "some")].concat())
        .unwrap();
    line.session.hang_up(io::ErrorKind::ConnectionReset);
    assert_eq!((line.status(1), line.status(3)), (200, 200));
    assert_eq!(line.content(1), (b"all".to_vec(), true));
    let Poll::Ready(Some(Ok(some))) = line.next(3) else {
        panic!("it had come");
    };
    assert_eq!(some.into_data().unwrap(), "some");
    assert!(matches!(
        line.next(3),
        Poll::Ready(Some(Err(Fault::Connection(End::Closed(_)))))
    ));
    assert!(matches!(
        line.fault(5),
        Fault::Connection(End::Closed(io::ErrorKind::ConnectionReset))
    ));
}

// === ends ===

#[test]
fn a_stream_that_is_not_wanted_is_reset_once() {
    let mut line = Line::with(&["GET", "GET", "POST", "GET"]);
    // Answered; answered while the upload goes on; reset by the peer.
    line.say(
        &[
            ok(3),
            data(3, true, "x"),
            ok(5),
            data(5, true, "x"),
            reset(7, 8),
        ]
        .concat(),
    )
    .unwrap();
    for id in [1, 3, 5, 7, 7, 9] {
        line.session.forget(id);
    }
    assert_eq!(
        resets(&line.frames()),
        [(1, Reason::CANCEL), (5, Reason::CANCEL)]
    );
    assert!(!line.session.has_streams());
}

/// RFC 9113 §8.1: a server may answer before it has read the request, and say that it reads no more of it.
#[test]
fn a_reset_after_the_response_is_no_error() {
    for reason in [0, 8] {
        let mut line = Line::with(&["POST"]);
        line.put(1, 100_000, false);
        line.say(&[ok(1), data(1, true, "done"), reset(1, reason)].concat())
            .unwrap();
        line.frames();
        assert_eq!(line.status(1), 200);
        assert_eq!(line.content(1), (b"done".to_vec(), true));
        let cx = Context::from_waker(Waker::noop());
        assert!(matches!(line.session.turn(&cx, 1), Turn::Never));
        line.say(&[window(0, 1 << 20), window(1, 1 << 20)].concat())
            .unwrap();
        line.session.forget(1);
        assert_eq!(line.frames(), []);
    }
}

#[test]
fn what_comes_behind_the_end_stops_the_request_and_spoils_nothing() {
    for (late, reason) in [
        (data(1, false, "late"), Reason::STREAM_CLOSED),
        (head(1, true, &[("a", "b")]), Reason::STREAM_CLOSED),
        (window(1, 0), Reason::PROTOCOL_ERROR),
        (window(1, (1 << 31) - 1), Reason::FLOW_CONTROL_ERROR),
        (
            frame(kind::PRIORITY, 0, 1, [0; 4]),
            Reason::FRAME_SIZE_ERROR,
        ),
    ] {
        let mut line = Line::with(&["POST"]);
        line.say(&[ok(1), data(1, true, "done")].concat()).unwrap();
        line.say(&late.repeat(3)).unwrap();
        assert_eq!(resets(&line.frames()), [(1, reason)]);
        assert_eq!(line.status(1), 200);
        assert_eq!(line.content(1), (b"done".to_vec(), true));
        line.session.forget(1);
        assert_eq!(line.frames(), []);
    }
}

#[test]
fn a_reset_says_whether_the_request_was_looked_at() {
    for (reason, unsent) in [
        (0, false),
        (2, false),
        (7, true),
        (8, false),
        (0xd, false),
        (0x99, false),
    ] {
        let mut line = Line::with(&["GET", "GET"]);
        line.say(&reset(1, reason)).unwrap();
        let fault = line.fault(1);
        assert_eq!(line.session.is_unsent(1, fault), unsent, "{fault}");
        assert!(matches!(line.answer(3), Poll::Pending));
    }
    // Not after a head.
    let mut line = Line::with(&["GET"]);
    line.say(&[ok(1), reset(1, 7)].concat()).unwrap();
    line.status(1);
    assert!(matches!(
        line.next(1),
        Poll::Ready(Some(Err(Fault::Reset(Reason::REFUSED_STREAM))))
    ));
}

/// RFC 9113 §6.8, with the first GOAWAY that names no stream yet.
#[test]
fn after_goaway_streams_it_names_go_on_and_others_were_never_looked_at() {
    let mut line = Line::with(&["GET", "GET", "GET"]);
    line.say(&go_away(MAX_STREAM, 0)).unwrap();
    assert!(line.session.is_leaving() && !line.session.is_over());
    assert!(line.session.begin(&asked("GET"), None, true).is_err());
    assert!(matches!(line.answer(5), Poll::Pending));
    line.say(&go_away(3, 0)).unwrap();
    let fault = line.fault(5);
    assert!(line.session.is_unsent(5, fault));
    line.say(&[ok(1), data(1, true, "a"), ok(3)].concat())
        .unwrap();
    assert_eq!((line.status(1), line.status(3)), (200, 200));
    for id in [1, 3, 5] {
        assert!(!line.session.is_over());
        line.session.forget(id);
    }
    assert!(line.session.is_over());
    line.session.take_leave();
    let frames = line.frames();
    assert_eq!(resets(&frames), [(3, Reason::CANCEL)]);
    assert_eq!(frames.last().unwrap().kind, kind::GOAWAY);
}

#[test]
fn who_goes_away_for_a_reason_is_quoted() {
    let mut line = Line::with(&["GET"]);
    line.say(&go_away(1, 0xb)).unwrap();
    line.session.hang_up(io::ErrorKind::UnexpectedEof);
    assert!(matches!(
        line.fault(1),
        Fault::Connection(End::GoneAway(Reason::ENHANCE_YOUR_CALM))
    ));
}

#[test]
fn a_request_of_which_nothing_was_written_may_be_sent_again() {
    let mut line = Line::with(&["GET"]);
    let id = line.ask("GET");
    line.session.hang_up(io::ErrorKind::ConnectionReset);
    let (first, second) = (line.fault(1), line.fault(id));
    assert!(!line.session.is_unsent(1, first));
    assert!(line.session.is_unsent(id, second));
}

/// What is longer than a TLS record may have been sent in part though its writing failed.
#[test]
fn a_request_of_a_long_write_that_failed_may_have_been_written() {
    struct Broken;
    impl AsyncWrite for Broken {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    for (length, unsent) in [(100, true), (20_000, false)] {
        let mut line = Line::with(&[]);
        let id = line.ask("POST");
        line.put(id, length, false);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(
            line.session.poll_write(&mut cx, &mut Broken),
            Poll::Ready(Err(_))
        ));
        line.session.hang_up(io::ErrorKind::BrokenPipe);
        let fault = line.fault(id);
        assert_eq!(line.session.is_unsent(id, fault), unsent);
    }
}

#[test]
fn streams_have_an_end() {
    let mut line = Line::with(&[]);
    line.session.next = MAX_STREAM;
    assert_eq!(line.ask("GET"), MAX_STREAM);
    assert!(line.session.begin(&asked("GET"), None, true).is_err());
    line.say(&head(MAX_STREAM, true, &[(":status", "200")]))
        .unwrap();
    assert_eq!(line.status(MAX_STREAM), 200);
}

// === uploads ===

#[test]
fn an_upload_keeps_to_both_windows() {
    let mut line = Line::with(&["POST"]);
    line.put(1, 70_000, true);
    let first = line.frames();
    assert_eq!(
        sizes(&first),
        [
            (1, 16_384, false),
            (1, 16_384, false),
            (1, 16_384, false),
            (1, 16_383, false)
        ]
    );
    let cx = Context::from_waker(Waker::noop());
    assert!(matches!(line.session.turn(&cx, 1), Turn::Later));
    // One of them alone does not help.
    line.say(&window(1, 10_000)).unwrap();
    assert_eq!(sizes(&line.frames()), []);
    line.say(&window(0, 100)).unwrap();
    assert_eq!(sizes(&line.frames()), [(1, 100, false)]);
    line.say(&window(0, 100_000)).unwrap();
    assert_eq!(sizes(&line.frames()), [(1, 70_000 - 65_535 - 100, true)]);
    assert!(matches!(line.session.turn(&cx, 1), Turn::Now));
}

/// RFC 9113 §6.9.2.
#[test]
fn a_window_may_become_negative() {
    let mut line = Line::with(&["POST"]);
    line.say(&window(0, 1 << 20)).unwrap();
    line.put(1, 60_000, false);
    line.frames();
    line.say(&settings(&[(4, 1 << 20), (4, 10_000)])).unwrap();
    line.put(1, 1000, true);
    assert_eq!(sizes(&line.frames()), []);
    line.say(&window(1, 50_000)).unwrap();
    assert_eq!(sizes(&line.frames()), []);
    line.say(&window(1, 1)).unwrap();
    assert_eq!(sizes(&line.frames()), [(1, 1, false)]);
    line.say(&settings(&[(4, 20_000)])).unwrap();
    assert_eq!(sizes(&line.frames()), [(1, 999, true)]);
    // New streams have the new one.
    let id = line.ask("POST");
    line.put(id, 30_000, false);
    assert_eq!(
        sizes(&line.frames()),
        [(id, 16_384, false), (id, 3616, false)]
    );
}

#[test]
fn the_end_needs_no_window() {
    let mut line = Line::with(&["POST", "POST", "POST"]);
    line.put(1, 65_535, false);
    line.frames();
    // Another one waits for the connection's window.
    line.put(5, 10, true);
    line.put(1, 0, true);
    assert_eq!(sizes(&line.frames()), [(1, 0, true)]);
    let mut trailers = HeaderMap::new();
    trailers.insert("sum", "1".parse().unwrap());
    trailers.insert("content-length", "1".parse().unwrap());
    line.session.put_trailers(3, &trailers);
    let frames = line.frames();
    assert_eq!((frames[0].kind, frames[0].flags), (kind::HEADERS, 5));
    assert_eq!(frames[0].payload, b"\0\x03sum\x011");
}

#[test]
fn uploads_share_the_connections_window() {
    let mut line = Line::with(&["POST", "POST", "POST"]);
    line.say(&settings(&[(4, 1 << 20)])).unwrap();
    for id in [1, 3, 5] {
        line.put(id, 200_000, false);
    }
    line.frames();
    // Whoever came first has had the first window; from there on they take turns.
    let mut had = [0; 3];
    for _ in 0..9 {
        line.say(&window(0, 16 * 1024)).unwrap();
        for (id, size, _) in sizes(&line.frames()) {
            had[id as usize / 2] += size;
        }
    }
    assert_eq!(had, [48 * 1024; 3]);
}

/// Neither a stream whose window is closed, nor one that is gone, holds up the others.
#[test]
fn an_upload_that_cannot_go_on_gives_way() {
    let mut line = Line::with(&["POST", "POST", "POST"]);
    line.say(&[window(0, 1 << 20), window(5, 1 << 20)].concat())
        .unwrap();
    line.put(1, 100_000, false);
    line.put(3, 100_000, false);
    line.frames();
    line.session.forget(3);
    line.put(5, 100_000, true);
    let sent: usize = sizes(&line.frames())
        .iter()
        .filter(|(id, ..)| *id == 5)
        .map(|(_, size, _)| size)
        .sum();
    assert_eq!(sent, 100_000);
    line.say(&window(1, 100_000)).unwrap();
    assert_eq!(
        sizes(&line.frames())
            .iter()
            .map(|(_, size, _)| size)
            .sum::<usize>(),
        100_000 - 65_535
    );
}

#[test]
fn windows_may_be_as_large_as_can_be() {
    let mut line = Line::with(&["POST"]);
    let most = (MAX_WINDOW - 65_535) as u32;
    line.say(&[window(1, most), window(0, most)].concat())
        .unwrap();
    line.put(1, 3 << 20, true);
    assert_eq!(sizes(&line.frames()).len(), 192);
    assert_eq!(resets(&line.frames()), []);
}

#[test]
fn an_idle_session_keeps_next_to_nothing() {
    let mut line = Line::with(&["POST", "GET"]);
    line.put(1, 60_000, true);
    line.say(
        &[
            ok(1),
            data(1, true, [b'x'; 10_000]),
            ok(3),
            data(3, true, "a"),
        ]
        .concat(),
    )
    .unwrap();
    line.frames();
    line.content(1);
    line.session.forget(1);
    line.session.shed();
    assert!(line.session.streams.capacity() > 0);
    line.session.forget(3);
    line.session.shed();
    assert_eq!(
        (
            line.session.read.capacity(),
            line.session.streams.capacity()
        ),
        (0, 0)
    );
    assert!(line.session.output.text().capacity() <= 4096);
    // And goes on.
    let id = line.ask("GET");
    line.say(&ok(id)).unwrap();
    assert_eq!(line.status(id), 200);
    assert!(matches!(line.next(id), Poll::Pending));
}

// === anything ===

/// What a server might say next, often in place and often not.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let stream = prop::sample::select(vec![0, 1, 1, 3, 3, 5, 5, 5, 7, 2]);
    let fields = prop::sample::select(vec![
        block(&[(":status", "200")]),
        block(&[(":status", "100")]),
        block(&[(":status", "204"), ("content-length", "3")]),
        block(&[(":status", "200"), ("content-length", "3")]),
        b"\x88\x40\x01a\x01b".to_vec(),
        b"\xbe".to_vec(),
        block(&[("a", "b")]),
        block(&[("Upper", "b")]),
        vec![],
    ]);
    let number = prop::sample::select(vec![0_u32, 1, 3, 7, 100, 65_535, 1 << 20, (1 << 31) - 1]);
    (0..16_u8, stream, fields, number, any::<u8>()).prop_map(
        |(kind, stream, fields, number, any)| match kind {
            0 => frame(kind::HEADERS, flag::END_HEADERS, stream, fields),
            1 => frame(kind::HEADERS, 5, stream, fields),
            2 => frame(kind::HEADERS, any & 0x2d, stream, fields),
            3 => frame(kind::CONTINUATION, any & 4, stream, fields),
            4 => data(stream, false, &b"abc"[..usize::from(any) % 4]),
            5 => data(stream, true, &b"abc"[..usize::from(any) % 4]),
            6 => frame(kind::DATA, any & 9, stream, [any % 4, 0, 0, 0]),
            7 => reset(stream, number),
            8 | 9 => window(stream, number),
            10 => go_away(number, u32::from(any % 2)),
            11 => settings(&[(u16::from(any % 7), number)]),
            12 => settings(&[(4, number), (3, number)]),
            13 => frame(kind::PING, any & 1, 0, [any; 8]),
            14 => frame(kind::PRIORITY, 0, stream, &[0; 5][..usize::from(any) % 6]),
            _ => frame(any, any, stream, fields),
        },
    )
}

proptest! {
    /// Whatever it is, and however it arrives: nothing panics, and every request is answered.
    #[test]
    fn whatever_a_server_says_is_an_answer(frames in prop::collection::vec(anything(), 0..20)) {
        crate::upstream::http2_response(&[hello(), frames.concat()].concat());
    }
}
