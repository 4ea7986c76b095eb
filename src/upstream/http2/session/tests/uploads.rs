//! Content that goes out, by windows and turns.

use http::HeaderMap;

use super::*;

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
