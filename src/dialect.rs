//! Dialects: how a vendor's token endpoint is asked and answers, as data rather than code.
//!
//! [`compile()`] merges a dialect ([`DialectToml`]) with the dialects that it extends and with the
//! provider's overrides into a [`Plan`]: parsed templates that turn variables into a
//! [`TokenRequest`], and selectors that turn an [`Answer`] into [`Issued`] or a [`Refusal`].
//!
//! This module does no I/O and reads no clock; values that differ per fetch come in through
//! [`Frozen`].

pub mod schema;

mod answer;
mod assertion;
mod builtin;
mod compile;
mod computed;
mod date;
mod decode;
mod defaults;
mod document;
mod duration;
mod exchange;
mod expiry;
mod explain;
mod field;
mod filter;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod inject;
mod json;
mod jwt;
mod layer;
mod level;
mod local_token;
mod mask;
mod members;
mod needs;
mod one_or_many;
mod places;
mod redact;
mod request;
mod response;
mod selector;
mod source;
mod suggest;
mod template;
mod value;
mod vendor_time;
mod words;

pub use answer::{Answer, FailureClass, Issued, Refusal};
pub use builtin::{builtin, find_builtin};
pub use compile::{Plan, compile, compile_as, compile_static};
pub use defaults::{Defaults, UrlTemplate};
pub use duration::{DurationError, parse_duration};
pub use exchange::ExchangePlan;
pub use expiry::Expiry;
pub use field::Problem;
pub use inject::{InjectPlan, Injection, PerRequest, RejectRules};
pub use local_token::LocalTokenPlan;
pub use members::Members;
pub use needs::order;
pub use one_or_many::OneOrMany;
pub use request::{RequestPlan, TokenRequest};
pub use response::{LONGEST_TOKEN, ResponseRules, TOKEN_WITH_SCHEME, check_token};
pub use schema::{DialectToml, Overrides};
pub use source::{Extent, Source};
pub use suggest::nearest;
pub use template::{BUILT_INS, CHAINED, WELL_KNOWN};
pub use value::{Frozen, Var, Variables};

#[cfg(test)]
mod tests;
