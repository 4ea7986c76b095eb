//! A server that says exactly what a test wants, without sockets.

mod responses;
mod uploads;

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::http2::MAX_WINDOW;
use crate::http2::frame::flag;
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
        ("ends of what is over", data(5, true, "")),
        ("ends behind the end", data(7, true, "")),
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
            assert!(frames < 10_000, "{name}");
        };
        assert_eq!(violation.reason, Reason::ENHANCE_YOUR_CALM, "{name}");
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

/// All that waited for a token begin when it has come, and each may carry one of 16 KiB.
#[test]
fn requests_of_one_moment_are_no_overflow() {
    let mut line = Line::with(&[]);
    let mut large = asked("GET");
    let value = "x".repeat(16 * 1024).parse().unwrap();
    large.headers.insert("authorization", value);
    for _ in 0..500 {
        assert!(line.session.begin(&large, None, true).is_ok());
    }
    let heads = line.frames();
    let begun = heads.iter().filter(|frame| frame.kind == kind::HEADERS);
    assert_eq!(begun.count(), 500);
    for id in (1..1000).step_by(2) {
        line.session.forget(id);
    }
    assert_eq!(line.session.heads, 0);
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
            "65 times 100",
            "GET",
            head(1, false, &[(":status", "100")]).repeat(65),
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
