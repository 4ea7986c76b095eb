//! Response heads, bodies and their ends.

use super::*;

#[tokio::test]
async fn a_request_gets_its_response() {
    let mut line = Line::open().await;
    for stream in [1, 3] {
        let sent = line.get();
        let request = line.frame().await;
        assert_eq!((request.kind, request.stream), (kind::HEADERS, stream));
        assert_eq!(request.flags, flag::END_STREAM | flag::END_HEADERS);
        assert_eq!(line.in_flight(), 1);
        line.say(&[ok(stream), data(stream, true, "hello")].concat())
            .await;
        let response = sent.await.unwrap().unwrap();
        assert_eq!(text(response).await, "hello");
        assert_eq!(line.in_flight(), 0);
    }
    assert!(line.is_silent().await);
}

#[tokio::test]
async fn responses_without_content_end_with_their_heads() {
    for (method, status) in [("HEAD", "200"), ("GET", "204"), ("GET", "304")] {
        let mut line = Line::open().await;
        let fields = [(":status", status), ("content-length", "7")];
        let sent = line.send(method, RequestBody::Empty);
        line.frame().await;
        line.say(&head(1, true, &fields)).await;
        let response = sent.await.unwrap().unwrap();
        assert!(response.body().is_end_stream());
        assert_eq!(response.headers()["content-length"], "7");
        // END_STREAM may come in a separate frame.
        let sent = line.send(method, RequestBody::Empty);
        line.frame().await;
        line.say(&head(3, false, &fields)).await;
        let response = sent.await.unwrap().unwrap();
        assert_eq!(response.body().size_hint().exact(), Some(0));
        assert_eq!(text(response).await, "");
    }
}

#[tokio::test]
async fn interim_heads_are_skipped() {
    let mut line = Line::open().await;
    let sent = line.get();
    line.frame().await;
    line.say(&head(1, false, &[(":status", "103"), ("link", "a")]))
        .await;
    settle().await;
    assert!(!sent.is_finished());
    line.say(
        &[
            head(1, false, &[(":status", "100")]),
            ok(1),
            data(1, true, "x"),
        ]
        .concat(),
    )
    .await;
    let response = sent.await.unwrap().unwrap();
    assert_eq!(
        (response.status(), response.headers().len()),
        (StatusCode::OK, 0)
    );
}

#[tokio::test]
async fn a_body_arrives_frame_by_frame_with_a_known_length() {
    let mut line = Line::open().await;
    let sent = line.get();
    line.frame().await;
    line.say(&head(
        1,
        false,
        &[(":status", "200"), ("content-length", "6")],
    ))
    .await;
    let mut body = sent.await.unwrap().unwrap().into_body();
    assert_eq!(body.size_hint().exact(), Some(6));
    line.say(&data(1, false, "abc")).await;
    let piece = body.frame().await.unwrap().unwrap();
    assert_eq!(piece.into_data().unwrap(), "abc");
    assert_eq!(
        (body.size_hint().exact(), body.is_end_stream()),
        (Some(3), false)
    );
    line.say(&data(1, true, "def")).await;
    body.frame().await.unwrap().unwrap();
    // A server stops polling here.
    assert!(body.is_end_stream());
    until(|| line.in_flight() == 0).await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let mut line = Line::open().await;
    let (app, body) = upload(None);
    let sent = line.send("POST", body);
    line.frame().await;
    give(&app, "hi");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-api-key", "secret".parse().unwrap());
    trailers.insert("sum", "1".parse().unwrap());
    app.send(Ok(Frame::trailers(trailers))).unwrap();
    let frames = line.frames_until(|frame| frame.kind == kind::HEADERS).await;
    let last = frames.last().unwrap();
    assert_eq!(last.flags, flag::END_STREAM | flag::END_HEADERS);
    line.say(
        &[
            ok(1),
            data(1, false, "ho"),
            head(1, true, &[("grpc-status", "0")]),
        ]
        .concat(),
    )
    .await;
    let body = sent.await.unwrap().unwrap().into_body();
    let body = body.collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "ho");
    assert_eq!(line.in_flight(), 0);
    assert!(line.is_silent().await);
}

#[tokio::test]
async fn a_malformed_response_fails_only_its_stream() {
    let mut line = Line::open().await;
    let (first, second) = (line.get(), line.get());
    line.frames().await;
    line.say(&head(1, true, &[(":status", "200"), ("connection", "x")]))
        .await;
    let error = failure(first.await.unwrap());
    assert!(matches!(error.failure, SendFailure::Protocol(_)) && !error.unsent);
    line.say(&head(
        3,
        false,
        &[(":status", "200"), ("content-length", "2")],
    ))
    .await;
    let body = second.await.unwrap().unwrap().into_body();
    line.say(&data(3, true, "abc")).await;
    let error = body.collect().await.unwrap_err();
    assert!(matches!(error, BodyError::Protocol(_)), "{error}");
    let third = line.get();
    let frames = line.frames_until(|frame| frame.kind == kind::HEADERS).await;
    assert_eq!(frames.last().unwrap().stream, 5);
    line.say(&head(5, true, &[(":status", "204")])).await;
    third.await.unwrap().unwrap();
    assert_eq!(line.open_connections(), 1);
}

#[tokio::test]
async fn an_unread_response_does_not_delay_others() {
    const SIZE: usize = 24 * 1024 * 1024;
    let mut line = Line::open().await;
    let (first, second) = (line.get(), line.get());
    line.frames().await;
    line.say(&[ok(1), ok(3)].concat()).await;
    let unread = first.await.unwrap().unwrap();
    let read = second.await.unwrap().unwrap();
    let read = tokio::spawn(read.into_body().collect());
    let block = [0; 16 * 1024];
    // The whole stream window.
    line.say(data(1, false, block).repeat(64)).await;
    let mut room = STREAM_WINDOW as usize;
    for round in 1..=SIZE / block.len() {
        while room < block.len() {
            for frame in line.frames().await {
                assert_eq!((frame.kind, frame.stream), (kind::WINDOW_UPDATE, 3));
                let more = frame.payload.try_into().unwrap();
                room += u32::from_be_bytes(more) as usize;
            }
        }
        line.say(data(3, round == SIZE / block.len(), block)).await;
        room -= block.len();
    }
    let read = read.await.unwrap().unwrap().to_bytes();
    assert_eq!(read.len(), SIZE);
    line.say(data(1, true, "")).await;
    let read = unread.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(read.len(), 1024 * 1024);
}

#[tokio::test]
async fn many_unread_responses_do_not_delay_others() {
    const UNREAD: u32 = 40;
    let mut line = Line::open().await;
    let sent = Vec::from_iter((0..=UNREAD).map(|_| line.get()));
    line.frames().await;
    let heads = (0..=UNREAD).map(|index| ok(2 * index + 1));
    line.say(heads.collect::<Vec<_>>().concat()).await;
    let mut responses = Vec::new();
    for sent in sent {
        responses.push(sent.await.unwrap().unwrap());
    }
    for index in 0..UNREAD {
        let block = data(2 * index + 1, false, [0; 16 * 1024]);
        // Exactly the stream window.
        line.say(block.repeat(64)).await;
        settle().await;
    }
    line.say(data(2 * UNREAD + 1, true, "through")).await;
    assert_eq!(text(responses.pop().unwrap()).await, "through");
}

/// Includes the reasons that other clients take for the end of the body.
#[tokio::test]
async fn a_reset_inside_a_response_is_an_error() {
    for reason in [reason::NO_ERROR, reason::CANCEL] {
        for fields in [
            &[(":status", "200")][..],
            &[(":status", "200"), ("content-length", "9")],
        ] {
            let mut line = Line::open().await;
            let sent = line.get();
            line.frame().await;
            let begun = [
                head(1, false, fields),
                data(1, false, "some"),
                reset(1, reason),
            ];
            line.say(begun.concat()).await;
            let body = sent.await.unwrap().unwrap().into_body();
            let error = body.collect().await.unwrap_err();
            assert!(matches!(error, BodyError::Closed(_)), "{error}");
            assert_eq!((line.in_flight(), line.open_connections()), (0, 1));
        }
    }
}

#[tokio::test]
async fn a_response_of_the_wrong_length_is_an_error() {
    for (length, content) in [("5", "four"), ("5", "sixsix"), ("0", "x")] {
        let mut line = Line::open().await;
        let sent = line.get();
        line.frame().await;
        let fields = [(":status", "200"), ("content-length", length)];
        line.say(&head(1, false, &fields)).await;
        let body = sent.await.unwrap().unwrap().into_body();
        line.say(&data(1, true, content)).await;
        let error = body.collect().await.unwrap_err();
        assert!(matches!(error, BodyError::Protocol(_)), "{error}");
    }
}

#[tokio::test]
async fn trailers_lose_framing_fields() {
    let mut line = Line::open().await;
    let sent = line.get();
    line.frame().await;
    let trailers = [
        ("grpc-status", "0"),
        ("set-cookie", "a"),
        ("content-type", "b"),
    ];
    line.say([ok(1), data(1, false, "x"), head(1, true, &trailers)].concat())
        .await;
    let body = sent
        .await
        .unwrap()
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();
    let trailers = body.trailers().unwrap();
    assert_eq!(
        (trailers.len(), &trailers["grpc-status"]),
        (1, &"0".parse().unwrap())
    );
}

/// Each fails only its stream.
#[tokio::test]
async fn too_large_or_malformed_heads_are_rejected() {
    let many: Vec<_> = (0..=crate::fields::MAX_FIELDS)
        .map(|index| format!("x-{index}"))
        .collect();
    let mut many: Vec<_> = many.iter().map(|name| (name.as_str(), "y")).collect();
    many.insert(0, (":status", "200"));
    let long = "y".repeat(64 * 1024);
    let status = (":status", "200");
    let mut line = Line::open().await;
    for (index, fields) in [
        many.as_slice(),
        &[status, ("x", &long)],
        &[("a", "b")],
        &[status, ("transfer-encoding", "chunked")],
        &[status, ("upgrade", "x")],
        &[status, ("content-length", "1"), ("content-length", "1")],
        &[status, ("content-length", "")],
        &[status, ("content-length", "+1")],
    ]
    .into_iter()
    .enumerate()
    {
        let sent = line.get();
        line.frames_until(|frame| frame.kind == kind::HEADERS).await;
        line.say(head(2 * index as u32 + 1, false, fields)).await;
        let error = failure(sent.await.unwrap());
        let failure = &error.failure;
        assert!(
            matches!(failure, SendFailure::Protocol(_)),
            "{index} {failure}"
        );
        assert!(!error.unsent);
    }
    assert_eq!((line.in_flight(), line.open_connections()), (0, 1));
}

#[tokio::test]
async fn a_head_of_almost_64_kib_passes() {
    let mut line = Line::open().await;
    let sent = line.get();
    line.frame().await;
    let long = "y".repeat(64_000);
    line.say(head(1, true, &[(":status", "200"), ("x", &long)]))
        .await;
    assert_eq!(sent.await.unwrap().unwrap().headers()["x"], long);
}
