//! The errors that apps get, one row each: responses, metrics and `cupbearer explain` read this
//! table.

use http::StatusCode;

/// One of Cupbearer's errors. Rows of the same code differ in cause and advice.
#[derive(Debug)]
pub struct ErrorCode {
    /// The last part of `urn:cupbearer:error:…`, and the `error` label of the metrics.
    pub code: &'static str,
    pub party: Party,
    pub status: StatusCode,
    pub title: &'static str,
    /// RFC 9209 §2.3.
    pub proxy_error: &'static str,
    /// The `grpc-status` of gRPC calls.
    pub grpc_status: u16,
    /// What the operator or developer can do. Empty if the error's `detail` says that.
    pub advice: &'static str,
}

/// The party that has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    App,
    Cupbearer,
    Vendor,
    Upstream,
}

/// Returns every row, in the order in which a request can meet them.
pub fn error_codes() -> &'static [&'static ErrorCode] {
    ALL
}

/// Defines a constant for each row and the list of all rows, so that no row can be missing there.
macro_rules! rows {
    ($($name:ident: $code:literal $party:ident $status:ident $proxy_error:ident $grpc:ident
        $title:literal $advice:literal)*) => {
        $(pub(super) const $name: &ErrorCode = &ErrorCode {
            code: $code,
            party: Party::$party,
            status: StatusCode::$status,
            title: $title,
            proxy_error: stringify!($proxy_error),
            grpc_status: $grpc,
            advice: $advice,
        };)*
        const ALL: &[&ErrorCode] = &[$($name),*];
    };
}

// gRPC status codes.
const INVALID_ARGUMENT: u16 = 3;
const DEADLINE_EXCEEDED: u16 = 4;
const NOT_FOUND: u16 = 5;
const PERMISSION_DENIED: u16 = 7;
const RESOURCE_EXHAUSTED: u16 = 8;
const UNIMPLEMENTED: u16 = 12;
const GRPC_INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;
const UNAUTHENTICATED: u16 = 16;

rows! {
    HEADERS_TOO_LARGE: "headers_too_large" App REQUEST_HEADER_FIELDS_TOO_LARGE
        http_request_error INVALID_ARGUMENT
        "The request head is too large"
        "Send fewer or shorter fields."
    HEAD_TIMEOUT: "request_timeout" App REQUEST_TIMEOUT http_request_error DEADLINE_EXCEEDED
        "The request came in too slowly"
        "See `server.header_timeout`."
    BODY_TIMEOUT: "request_timeout" App REQUEST_TIMEOUT http_request_error DEADLINE_EXCEEDED
        "The request came in too slowly"
        "See `server.body_timeout`; the upstream may have acted on the part that arrived."
    BAD_REQUEST: "bad_request" App BAD_REQUEST http_request_error INVALID_ARGUMENT
        "The request is malformed or ambiguous"
        ""
    BODY_BROKEN: "bad_request" App BAD_REQUEST http_request_error INVALID_ARGUMENT
        "The request body was cut off"
        "Send the request again."
    CONNECT_UNSUPPORTED: "connect_unsupported" App NOT_IMPLEMENTED http_request_denied UNIMPLEMENTED
        "CONNECT is not supported"
        "A tunnel would hide the request from the proxy, which could add no token. Let the app use \
         http:// URLs with this proxy; the proxy speaks TLS to the upstream."
    HOST_NOT_ALLOWED: "host_not_allowed" App MISDIRECTED_REQUEST
        http_request_denied PERMISSION_DENIED
        "This proxy does not serve the request's host"
        "Add the host to `server.allow_hosts` if it is right."
    ORIGIN_NOT_ALLOWED: "origin_not_allowed" App FORBIDDEN http_request_denied PERMISSION_DENIED
        "Cross-site requests are refused"
        "Add the Origin to `server.allow_origins` if it is right."
    CLIENT_NOT_ALLOWED: "client_not_allowed" App FORBIDDEN http_request_denied UNAUTHENTICATED
        "This client may not use the proxy"
        "See `server.client_auth`."
    LOOP_DETECTED: "loop_detected" App LOOP_DETECTED proxy_loop_detected GRPC_INTERNAL
        "The request came back to this proxy"
        "Change the upstream `url` that leads back to this proxy."
    NO_ROUTE: "no_route" App NOT_FOUND destination_not_found NOT_FOUND
        "No upstream for this request"
        "Check the upstreams' `route` keys."
    REQUEST_NOT_ALLOWED: "request_not_allowed" App FORBIDDEN http_request_denied PERMISSION_DENIED
        "The configuration does not allow this request"
        "See the upstream's `allow` and `existing_credential`."
    TOO_MANY_REQUESTS: "overloaded" Cupbearer SERVICE_UNAVAILABLE
        connection_limit_reached RESOURCE_EXHAUSTED
        "Too many requests at once"
        "See `max_in_flight` and `server.max_connections`."
    OUT_OF_FILES: "overloaded" Cupbearer SERVICE_UNAVAILABLE
        connection_limit_reached RESOURCE_EXHAUSTED
        "Too many connections at once"
        "Raise the proxy's open-file limit (`ulimit -n`, LimitNOFILE), or lower \
         `server.max_connections`."
    TOKEN_UNAVAILABLE: "token_unavailable" Vendor SERVICE_UNAVAILABLE
        proxy_internal_error UNAVAILABLE
        "No valid token is available"
        "The token endpoint fails; the proxy keeps trying. See /status on the admin port."
    CREDENTIALS_REJECTED: "credentials_rejected" Vendor BAD_GATEWAY
        proxy_configuration_error UNAVAILABLE
        "The token endpoint rejects the credentials"
        "Correct the provider's credentials; /status on the admin port and the log have the \
         endpoint's answer."
    LOGIN_REQUIRED: "login_required" Vendor SERVICE_UNAVAILABLE proxy_internal_error UNAVAILABLE
        "A new login is needed"
        "The provider's one-time input was used, or its refresh token is no longer valid: run \
         `cupbearer login PROVIDER`. The proxy need not be restarted."
    UNRESOLVED: "upstream_unresolved" Upstream BAD_GATEWAY dns_error UNAVAILABLE
        "The upstream's name cannot be resolved"
        "Check the upstream's `url` and the DNS."
    CONNECTION_REFUSED: "upstream_refused" Upstream BAD_GATEWAY connection_refused UNAVAILABLE
        "The upstream refuses connections"
        "Check the upstream's `url`, and whether the upstream is up."
    UNTRUSTED: "upstream_tls" Upstream BAD_GATEWAY tls_certificate_error UNAVAILABLE
        "The upstream's certificate is not trusted"
        "See `tls.ca_file` and `tls.server_name`; verification cannot be turned off."
    TLS_FAILED: "upstream_tls" Upstream BAD_GATEWAY tls_protocol_error UNAVAILABLE
        "TLS with the upstream failed"
        "See the upstream's `tls` and `http`."
    CLOSED_AT_CONNECT: "upstream_closed" Upstream BAD_GATEWAY connection_terminated UNAVAILABLE
        "The upstream closed the connection"
        "The request may be sent again."
    CLOSED_AFTER_REQUEST: "upstream_closed" Upstream BAD_GATEWAY connection_terminated UNAVAILABLE
        "The upstream closed the connection"
        "The upstream may have acted on the request."
    UPSTREAM_CONNECT_TIMEOUT: "upstream_connect_timeout" Upstream GATEWAY_TIMEOUT
        connection_timeout UNAVAILABLE
        "The upstream does not accept a connection in time"
        "See `timeouts.connect`."
    UPSTREAM_TIMEOUT: "upstream_timeout" Upstream GATEWAY_TIMEOUT
        http_response_timeout DEADLINE_EXCEEDED
        "The upstream does not respond in time"
        "See `timeouts.response`; the upstream may have acted on the request."
    UPSTREAM_PROTOCOL: "upstream_protocol" Upstream BAD_GATEWAY http_protocol_error GRPC_INTERNAL
        "The upstream's response is not valid HTTP"
        "The upstream may have acted on the request."
    SHUTTING_DOWN: "shutting_down" Cupbearer SERVICE_UNAVAILABLE proxy_internal_response UNAVAILABLE
        "The proxy is shutting down"
        "Send the request again: no part of the request was sent."
    FAULT: "internal" Cupbearer INTERNAL_SERVER_ERROR proxy_internal_error GRPC_INTERNAL
        "A fault in the proxy"
        "Please report it."
}
