//! DATA, the far side: connections to upstreams and token endpoints ([`connect`], [`tls`]).

pub mod connect;
pub mod tls;
