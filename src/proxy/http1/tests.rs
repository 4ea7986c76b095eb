use super::*;

fn size<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}

/// What an idle connection costs besides its socket. The future of a request is in it, and is copied from one caller to the next
/// for every request: what is rare belongs in a box.
#[test]
fn a_connection_is_small() {
    let task = size(serve);
    assert!(task <= 2816, "{task} bytes");
    assert!(size_of::<Wire>() <= 232, "{} bytes", size_of::<Wire>());
}

#[test]
fn faults_of_requests_are_told_by_their_rule() {
    let error = ProxyError::from(Fault::TooLarge);
    assert!(matches!(error, ProxyError::HeadersTooLarge));
    let rule = Malformed::Rule("more than one Content-Length");
    let error = ProxyError::from(Fault::Malformed(rule));
    assert_eq!(error.to_string(), "more than one Content-Length");
    let syntax = Malformed::Syntax(httparse::Error::Token);
    let error = ProxyError::from(Fault::Malformed(syntax));
    assert_eq!(error.to_string(), "the request is not valid HTTP/1.1");
}
