use super::*;

fn parts(request: Request<()>) -> Parts {
    request.into_parts().0
}

fn fields(request: &Request<()>) -> Vec<(&str, &str)> {
    let fields = request.headers().iter();
    fields
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect()
}

#[test]
fn a_request_loses_connection_specific_fields() {
    let head = Request::put("http://api:81?q")
        .header("host", "other")
        .header("connection", "x")
        .header("keep-alive", "1")
        .header("proxy-connection", "1")
        .header("transfer-encoding", "chunked")
        .header("upgrade", "x")
        .header("expect", "100-continue")
        .header("content-length", "9")
        .header("te", "gzip")
        .header("accept", "*/*")
        .header("te", "trailers")
        .header("x", "y")
        .header("x", "z")
        .body(());
    let head = parts(head.unwrap());
    let request = request(&head, Some(3));
    assert_eq!(request.method(), Method::PUT);
    assert_eq!(request.uri().authority().unwrap(), "api:81");
    assert_eq!(request.uri().path_and_query().unwrap(), "/?q");
    assert_eq!(
        fields(&request),
        [
            ("te", "trailers"),
            ("accept", "*/*"),
            ("x", "y"),
            ("x", "z"),
            ("content-length", "3"),
        ]
    );
}

#[test]
fn an_empty_body_is_announced_if_expected_or_declared() {
    for (method, announced, expected) in [
        ("GET", false, None),
        ("HEAD", false, None),
        ("DELETE", false, None),
        ("DELETE", true, Some(0)),
        ("POST", false, Some(0)),
        ("PUT", false, Some(0)),
    ] {
        let mut head = Request::builder().method(method).uri("http://api/");
        if announced {
            head = head.header("content-length", "9");
        }
        let head = parts(head.body(()).unwrap());
        assert_eq!(length(&head, &RequestBody::Empty), expected, "{method}");
    }
}

#[test]
fn secrets_stay_sensitive_and_never_print() {
    let secret = "0123456789abcdef0123456789abcdef";
    let mut value = HeaderValue::from_static(secret);
    value.set_sensitive(true);
    let head = Request::get("http://api/").header("authorization", value);
    let request = request(&parts(head.body(()).unwrap()), None);
    assert!(request.headers()["authorization"].is_sensitive());
    assert!(!format!("{request:?}").contains(secret));
}
