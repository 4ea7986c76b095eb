//! Malformed, ambiguous and unusual requests.

/// What must happen to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Forwarded as one request.
    Forwarded,
    /// One of Cupbearer's 4xx responses or a closed connection.
    Refused,
    /// [`Outcome::Forwarded`] or [`Outcome::Refused`].
    Either,
}
use Outcome::{Either, Forwarded, Refused};

/// Label, request, outcome, and the body that the upstream gets if the request is forwarded. In the
/// request, `{t}` is the target and `{secret}` is a value that must not reach the upstream.
pub(super) type Case = (&'static str, &'static str, Outcome, &'static str);

macro_rules! post {
    ($fields:literal, $body:literal) => {
        concat!(
            "POST {t} HTTP/1.1\r\nHost: localhost\r\n",
            $fields,
            "\r\n\r\n",
            $body
        )
    };
}

/// A POST with these fields and the body `hello` in one chunk.
macro_rules! chunked {
    ($fields:literal) => {
        post!($fields, "5\r\nhello\r\n0\r\n\r\n")
    };
}

macro_rules! get {
    ($fields:literal) => {
        concat!(
            "GET {t} HTTP/1.1\r\nHost: localhost\r\n",
            $fields,
            "\r\n\r\n"
        )
    };
}

/// A GET without `Host`, with this field instead.
macro_rules! host {
    ($host:literal) => {
        concat!("GET {t} HTTP/1.1\r\n", $host, "\r\n\r\n")
    };
}

/// A POST with a chunked body of these bytes.
macro_rules! chunks {
    ($chunks:literal) => {
        concat!(
            "POST {t} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
            $chunks
        )
    };
}

#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    // RFC 9112 §6.3: lengths.
    ("two different Content-Length fields",
     post!("Content-Length: 5\r\nContent-Length: 6", "hello!"), Refused, ""),
    ("the same Content-Length twice",
     post!("Content-Length: 5\r\nContent-Length: 5", "hello"), Either, "hello"),
    ("a list with one repeated Content-Length",
     post!("Content-Length: 5, 5", "hello"), Either, "hello"),
    ("a list of different Content-Lengths", post!("Content-Length: 5, 6", "hello!"), Refused, ""),
    ("a Content-Length with a sign", post!("Content-Length: +5", "hello"), Refused, ""),
    ("a negative Content-Length", post!("Content-Length: -5", "hello"), Refused, ""),
    ("a hexadecimal Content-Length", post!("Content-Length: 0x5", "hello"), Refused, ""),
    ("a Content-Length with a fraction", post!("Content-Length: 5.0", "hello"), Refused, ""),
    ("a Content-Length with a space inside", post!("Content-Length: 5 5", "hello"), Refused, ""),
    ("an empty Content-Length", post!("Content-Length:", "hello"), Refused, ""),
    ("a Content-Length beyond 64 bits",
     post!("Content-Length: 18446744073709551621", "hello"), Refused, ""),
    ("a Content-Length in non-ASCII digits",
     post!("Content-Length: \u{665}", "hello"), Refused, ""),
    ("a Content-Length with leading zeros",
     post!("Content-Length: 0005", "hello"), Either, "hello"),
    ("a Content-Length between tabs", post!("Content-Length:\t5\t", "hello"), Either, "hello"),
    ("Content-Length before chunked",
     chunked!("Content-Length: 5\r\nTransfer-Encoding: chunked"), Either, "hello"),
    ("chunked before Content-Length",
     chunked!("Transfer-Encoding: chunked\r\nContent-Length: 5"), Either, "hello"),
    ("Content-Length and the coding gzip",
     post!("Content-Length: 5\r\nTransfer-Encoding: gzip", "hello"), Refused, ""),
    // §6.1, §7: transfer codings.
    ("the coding gzip alone", post!("Transfer-Encoding: gzip", "hello"), Refused, ""),
    ("chunked before gzip", chunked!("Transfer-Encoding: chunked, gzip"), Refused, ""),
    ("gzip before chunked", chunked!("Transfer-Encoding: gzip, chunked"), Refused, ""),
    ("chunked twice", chunked!("Transfer-Encoding: chunked, chunked"), Refused, ""),
    ("chunked in two fields",
     chunked!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), Refused, ""),
    ("identity and chunked in two fields",
     chunked!("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"), Refused, ""),
    ("the coding identity", post!("Transfer-Encoding: identity", "hello"), Refused, ""),
    ("the coding identity with a Content-Length",
     post!("Transfer-Encoding: identity\r\nContent-Length: 5", "hello"), Refused, ""),
    ("a coding that ends in chunked", chunked!("Transfer-Encoding: xchunked"), Refused, ""),
    ("chunked with a parameter", chunked!("Transfer-Encoding: chunked;q=1"), Refused, ""),
    ("chunked as a quoted string", chunked!("Transfer-Encoding: \"chunked\""), Refused, ""),
    ("chunked with a trailing comma", chunked!("Transfer-Encoding: chunked,"), Refused, ""),
    ("chunked after a vertical tab", chunked!("Transfer-Encoding: \x0bchunked"), Refused, ""),
    ("an empty Transfer-Encoding", post!("Transfer-Encoding:", "hello"), Refused, ""),
    ("chunked in capital letters", chunked!("Transfer-Encoding: CHUNKED"), Either, "hello"),
    ("chunked after a tab", chunked!("Transfer-Encoding:\tchunked"), Either, "hello"),
    ("chunked in HTTP/1.0",
     "POST {t} HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n\
     0\r\n\r\n", Refused, ""),
    ("Transfer_Encoding with an underscore",
     post!("Transfer_Encoding: chunked\r\nContent-Length: 5", "hello"), Either, "hello"),
    // §5: fields.
    ("a folded field value", post!("X: a\r\n b\r\nContent-Length: 5", "hello"), Refused, ""),
    ("a folded Transfer-Encoding", chunked!("Transfer-Encoding:\r\n chunked"), Refused, ""),
    ("a first field that begins with a space",
     "POST {t} HTTP/1.1\r\n Host: localhost\r\nContent-Length: 5\r\n\r\nhello", Refused, ""),
    ("a folded field value of spaces",
     post!("X: a\r\n \r\nContent-Length: 5", "hello"), Refused, ""),
    ("a space before the colon", post!("Content-Length : 5", "hello"), Refused, ""),
    ("a tab before the colon", post!("Content-Length\t: 5", "hello"), Refused, ""),
    ("a space in a field name", post!("Content Length: 5", "hello"), Refused, ""),
    ("a space before the colon of Host", host!("Host : localhost"), Refused, ""),
    ("an empty field name", get!(": x"), Refused, ""),
    ("a field without a colon", get!("X"), Refused, ""),
    ("parentheses in a field name", get!("X(y): 1"), Refused, ""),
    ("a non-ASCII field name", get!("X\u{e9}: 1"), Refused, ""),
    ("NUL in a field value", get!("X: a\0b"), Refused, ""),
    ("NUL in a field name", get!("X\0: a"), Refused, ""),
    ("a control character in a field value", get!("X: a\x01b"), Refused, ""),
    ("DEL in a field value", get!("X: a\x7fb"), Refused, ""),
    ("a bare CR in a field value", get!("X: a\rb"), Refused, ""),
    ("a bare CR before a second Content-Length",
     post!("X: a\rContent-Length: 5\r\nContent-Length: 0", ""), Refused, ""),
    ("CR CR LF after a field", get!("X: a\r"), Refused, ""),
    ("a bare LF after a field", post!("X: a\nContent-Length: 5", "hello"), Either, "hello"),
    ("bare LFs as line ends",
     "POST {t} HTTP/1.1\nHost: localhost\nContent-Length: 5\n\nhello", Either, "hello"),
    ("a bare LF at the end of the head",
     "POST {t} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\nhello", Either, "hello"),
    // §7.1: chunks.
    ("a chunk size with a prefix", chunks!("0x5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk size with a sign", chunks!("+5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a negative chunk size", chunks!("-1\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("an empty chunk size", chunks!("\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk size that is not hexadecimal", chunks!("g\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk size of 17 digits", chunks!("10000000000000005\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk size with leading zeros", chunks!("0005\r\nhello\r\n0\r\n\r\n"), Either, "hello"),
    ("a space after a chunk size", chunks!("5 \r\nhello\r\n0\r\n\r\n"), Either, "hello"),
    ("a space before a chunk size", chunks!(" 5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("two chunk sizes in one line", chunks!("5 5\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a bare LF after a chunk size", chunks!("5\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a bare CR after a chunk size", chunks!("5\rhello\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk longer than its size", chunks!("5\r\nhello!\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk shorter than its size", chunks!("5\r\nhell\r\n0\r\n\r\n"), Refused, ""),
    ("a chunk without CRLF", chunks!("5\r\nhello0\r\n\r\n"), Refused, ""),
    ("a chunk that ends with a bare LF", chunks!("5\r\nhello\n0\r\n\r\n"), Refused, ""),
    ("a chunk extension", chunks!("5;a=b\r\nhello\r\n0;c\r\n\r\n"), Either, "hello"),
    ("a bare LF in a chunk extension", chunks!("5;a\nb\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a bare CR in a chunk extension", chunks!("5;a\rb\r\nhello\r\n0\r\n\r\n"), Refused, ""),
    ("a trailer without a colon", chunks!("5\r\nhello\r\n0\r\nX\r\n\r\n"), Refused, ""),
    ("a space before the colon of a trailer",
     chunks!("5\r\nhello\r\n0\r\nX : a\r\n\r\n"), Refused, ""),
    ("a folded trailer", chunks!("5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n"), Refused, ""),
    ("NUL in a trailer", chunks!("5\r\nhello\r\n0\r\nX: a\0\r\n\r\n"), Refused, ""),
    ("framing fields in trailers",
     chunks!("5\r\nhello\r\n0\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\
     Host: evil.example\r\n\r\n"), Either, "hello"),
    // §3.2: Host.
    ("no Host", "GET {t} HTTP/1.1\r\n\r\n", Refused, ""),
    ("absolute form without Host", "GET http://localhost{t} HTTP/1.1\r\n\r\n", Refused, ""),
    ("the same Host twice", host!("Host: localhost\r\nHost: localhost"), Refused, ""),
    ("two different Host fields", host!("Host: localhost\r\nHost: evil.example"), Refused, ""),
    ("an empty Host", host!("Host:"), Refused, ""),
    ("a list in Host", host!("Host: localhost, localhost"), Refused, ""),
    ("a port that is not a number", host!("Host: localhost:abc"), Refused, ""),
    ("a port with a sign", host!("Host: localhost:+80"), Refused, ""),
    ("a port beyond 16 bits", host!("Host: localhost:65536"), Refused, ""),
    ("two ports in Host", host!("Host: localhost:80:80"), Refused, ""),
    ("a user in Host", host!("Host: user@localhost"), Refused, ""),
    ("a password in Host", host!("Host: user:password@localhost"), Refused, ""),
    ("a path in Host", host!("Host: localhost/x"), Refused, ""),
    ("a URL in Host", host!("Host: http://localhost/"), Refused, ""),
    ("an unclosed IPv6 address in Host", host!("Host: [::1"), Refused, ""),
    ("an IPv6 address without brackets in Host", host!("Host: ::1"), Refused, ""),
    ("a non-ASCII Host", host!("Host: localhost\u{e9}"), Refused, ""),
    ("a space in Host", host!("Host: local host"), Refused, ""),
    ("absolute form with an invalid Host",
     "GET http://localhost{t} HTTP/1.1\r\nHost: a b\r\n\r\n", Refused, ""),
    ("a user in the absolute form",
     "GET http://user@localhost{t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    // §3: request lines.
    ("authority form of GET", "GET localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("CONNECT", "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n", Refused, ""),
    ("asterisk form of GET", "GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a path without a leading slash", "GET x HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("an empty request target", "GET  HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("an absolute form of another scheme",
     "GET ftp://localhost{t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a space in the request target", "GET {t} x HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a tab after the method", "GET\t{t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("NUL in the request target", "GET {t}\0 HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a bare CR in the request target",
     "GET {t}\r HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a control character in the request target",
     "GET {t}\x0b HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("an invalid method", "GE(T {t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a space before the method", " GET {t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("an empty line before the request line",
     "\r\nGET {t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Either, ""),
    ("a request line without a version", "GET {t}\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("HTTP/1.2", "GET {t} HTTP/1.2\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("HTTP/2.0", "GET {t} HTTP/2.0\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("HTTP/0.9", "GET {t} HTTP/0.9\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a version in small letters", "GET {t} http/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("a version with a suffix", "GET {t} HTTP/1.1x\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("dot segments", "GET /a/..{t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    ("TRACE", "TRACE {t} HTTP/1.1\r\nHost: localhost\r\n\r\n", Refused, ""),
    // Responses instead of requests.
    ("an interim response instead of a request",
     "HTTP/1.1 103 Early Hints\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n\r\n",
     Refused, ""),
    ("a response instead of a request",
     "HTTP/1.1 200 OK\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", Refused, ""),
    // RFC 9110 §7.6.1, §6.5.1: hop-by-hop fields, app credentials and trailers.
    ("app credentials",
     get!("Authorization: Bearer {secret}\r\nauthorization: Basic {secret}\r\n\
     Proxy-Authorization: Basic {secret}"), Forwarded, ""),
    ("Connection names Authorization",
     get!("Authorization: Bearer {secret}\r\nConnection: Authorization"), Forwarded, ""),
    ("two Connection fields",
     get!("Connection: keep-alive, X-One\r\nX-One: {secret}\r\n\
     Connection: ,, X-Two ,Authorization\r\nX-Two: {secret}"), Forwarded, ""),
    ("Connection names the injected header",
     get!("Connection: X-Access-Token\r\nX-Access-Token: {secret}"), Forwarded, ""),
    ("Connection names Content-Length and Host",
     post!("Connection: Content-Length, Host\r\nContent-Length: 5", "hello"), Forwarded, "hello"),
    ("Connection names Transfer-Encoding",
     chunked!("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked"), Forwarded, "hello"),
    ("look-alikes of the injected header",
     get!("X_Access_Token: {secret}\r\nx-access_token: {secret}\r\nX_Access-Token: {secret}"),
     Forwarded, ""),
    ("look-alikes of an injected header with an underscore",
     get!("api-key: {secret}\r\napi_key: {secret}"), Forwarded, ""),
    ("app credentials in trailers",
     chunks!("5\r\nhello\r\n0\r\nAuthorization: Bearer {secret}\r\nX-Access-Token: {secret}\r\n\
     x_access_token: {secret}\r\nProxy-Authorization: {secret}\r\nCookie: {secret}\r\n\
     X-Sum: 7\r\n\r\n"), Forwarded, "hello"),
    ("an upgrade to h2c",
     get!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: {secret}"),
     Forwarded, ""),
    ("an upgrade request with a body",
     post!("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5", "hello"),
     Forwarded, "hello"),
    ("an unknown Expect", post!("Expect: 200-ok\r\nContent-Length: 5", "hello"), Either, "hello"),
];
