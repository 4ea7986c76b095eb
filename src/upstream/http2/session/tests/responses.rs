//! Responses as they come in, and how streams end.

use super::*;

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
    // Not after a head, and be it an interim one.
    let mut line = Line::with(&["GET"]);
    line.say(&[head(1, false, &[(":status", "103")]), reset(1, 7)].concat())
        .unwrap();
    assert_eq!(line.status(1), 103);
    let fault = line.fault(1);
    assert!(!line.session.is_unsent(1, fault));
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

/// Else it would be there twice: the peer that broke a rule, or was silent for a while, reads the goodbye and what is before it.
#[test]
fn what_may_be_sent_again_does_not_go_out_behind_that() {
    let violation = Violation::protocol("something");
    for end in [
        End::Violation(violation),
        End::Silent,
        End::Closed(io::ErrorKind::UnexpectedEof),
    ] {
        let mut line = Line::with(&["POST"]);
        line.put(1, 10, true);
        let id = line.ask("POST");
        line.put(id, 10, true);
        line.session.fail(end);
        line.session.take_leave();
        let frames = line.frames();
        assert!(frames.iter().all(|frame| frame.stream != id), "{frames:?}");
        let fault = line.fault(id);
        assert!(line.session.is_unsent(id, fault), "{end}");
        let fault = line.fault(1);
        assert!(!line.session.is_unsent(1, fault), "{end}");
        let goodbye = frames.iter().any(|frame| frame.kind == kind::GOAWAY);
        assert_eq!(goodbye, end.is_protocol());
    }
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
