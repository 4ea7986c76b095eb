//! A dialect's fields, each with its path in the configuration, and the problems found at a path.

use http::{HeaderName, HeaderValue, header};
use zeroize::Zeroizing;

use super::one_or_many::OneOrMany;
use super::schema::{Ordered, Scalar};
use super::template::{Place, Scope, Template};

/// An error in a dialect or in a provider's use of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path inside the dialect or provider table: `grants.sms.form.phone`. May be empty.
    pub path: String,
    /// The mistake and its remedy; quotes no value.
    pub message: String,
}

impl Problem {
    pub(super) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

/// A named value and its path in the configuration.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field<N, V> {
    pub(super) name: N,
    pub(super) value: V,
    pub(super) path: String,
}

pub(super) type TextField = Field<String, Template>;
pub(super) type HeaderField = Field<HeaderName, Template>;

/// Fields that the connection sets, never a dialect.
const FRAMING: [HeaderName; 8] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
];

impl<N> Field<N, Template> {
    pub(super) fn fill(&self, scope: Scope<'_>) -> Result<Option<Zeroizing<String>>, Problem> {
        let filled = self.value.fill(scope);
        filled.map_err(|message| self.problem(message))
    }

    pub(super) fn redacted(&self, scope: Scope<'_>) -> Result<Option<String>, Problem> {
        let redacted = self.value.redacted(scope);
        redacted.map_err(|message| self.problem(message))
    }
}

impl<N, V> Field<N, V> {
    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::new(&*self.path, message)
    }
}

pub(super) fn text_fields(
    table: &Ordered<OneOrMany<Scalar>>,
    path: &str,
    place: Place,
    problems: &mut Vec<Problem>,
) -> Vec<TextField> {
    let mut fields = Vec::new();
    for (name, OneOrMany(values)) in table.iter() {
        let path = join(path, name);
        if values.is_empty() {
            let message = "an empty list; remove the key";
            problems.push(Problem::new(&*path, message));
        }
        for (index, value) in values.iter().enumerate() {
            let path = match values.len() {
                1 => path.clone(),
                _ => format!("{path}[{index}]"),
            };
            if let Some(value) = template(&value.to_string(), &path, place, problems) {
                let name = name.to_owned();
                fields.push(Field { name, value, path });
            }
        }
    }
    fields
}

pub(super) fn header_fields(
    table: &Ordered<Scalar>,
    path: &str,
    place: Place,
    problems: &mut Vec<Problem>,
) -> Vec<HeaderField> {
    let mut fields: Vec<HeaderField> = Vec::new();
    for (name, value) in table.iter() {
        let path = join(path, name);
        let template = template(&value.to_string(), &path, place, problems);
        let message = match HeaderName::from_bytes(name.as_bytes()) {
            Err(_) => "not a header name",
            Ok(name) if FRAMING.contains(&name) => "is set by the connection itself",
            Ok(name) if fields.iter().any(|field| field.name == name) => {
                "is written twice; header names are case-insensitive"
            }
            Ok(name) => {
                if let Some(value) = template {
                    let field = Field { name, value, path };
                    problems.extend(bad_literal(&field));
                    fields.push(field);
                }
                continue;
            }
        };
        problems.push(Problem::new(path, message));
    }
    fields
}

/// A header value without variables can be checked before the first fetch.
fn bad_literal(field: &HeaderField) -> Option<Problem> {
    HeaderValue::from_str(field.value.as_literal()?).err()?;
    Some(field.problem("contains a character that a header cannot carry"))
}

pub(super) fn template(
    text: &str,
    path: &str,
    place: Place,
    problems: &mut Vec<Problem>,
) -> Option<Template> {
    report(Template::parse(text, place), path, problems)
}

/// [`template`] with its path.
pub(super) fn field(
    text: &str,
    path: String,
    place: Place,
    problems: &mut Vec<Problem>,
) -> Option<Field<(), Template>> {
    let value = template(text, &path, place, problems)?;
    Some(Field {
        name: (),
        value,
        path,
    })
}

/// Returns the value, or adds the error to `problems`.
pub(super) fn report<T>(
    result: Result<T, String>,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let report = |message| problems.push(Problem::new(path, message));
    result.map_err(report).ok()
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        return key.to_owned();
    }
    format!("{path}.{key}")
}
