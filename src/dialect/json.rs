//! JSON bodies, from TOML tables whose strings are templates.

use serde_json::Value as JsonValue;

use super::field::{Field, Problem, join, template};
use super::template::{Place, Template};
use super::value::Value;

/// A JSON value whose strings are templates.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Literal(JsonValue),
    Text(Template),
    Array(Vec<Self>),
    Object(Vec<(String, Self)>),
}

pub(super) type JsonField = Field<String, Json>;

/// Fills or masks a template; `None` drops the key.
pub(super) type FillJson<'a> = dyn Fn(&Template) -> Result<Option<JsonValue>, String> + 'a;

pub(super) fn json_fields(
    table: &toml::Table,
    path: &str,
    place: Place,
    problems: &mut Vec<Problem>,
) -> Vec<JsonField> {
    let fields = table.iter().filter_map(|(name, value)| {
        let path = join(path, name);
        Some(Field {
            value: json(value, &path, place, problems)?,
            name: name.clone(),
            path,
        })
    });
    fields.collect()
}

pub(super) fn json_object(fields: &[JsonField], fill: &FillJson<'_>) -> Result<JsonValue, Problem> {
    let mut object = serde_json::Map::new();
    for field in fields {
        let value = field.value.build(fill);
        if let Some(value) = value.map_err(|message| field.problem(message))? {
            object.insert(field.name.clone(), value);
        }
    }
    Ok(JsonValue::Object(object))
}

pub(super) fn json_scalar(value: &Value) -> JsonValue {
    match value {
        Value::Integer(number) => (*number).into(),
        Value::Boolean(truth) => (*truth).into(),
        Value::Text(_) | Value::Digest(_) | Value::Bytes(_) => value.text().as_str().into(),
    }
}

impl Json {
    pub(super) fn templates<'a>(&'a self, into: &mut Vec<&'a Template>) {
        match self {
            Self::Literal(_) => {}
            Self::Text(template) => into.push(template),
            Self::Array(items) => items.iter().for_each(|item| item.templates(into)),
            Self::Object(entries) => entries.iter().for_each(|(_, value)| value.templates(into)),
        }
    }

    /// `None` drops the key.
    fn build(&self, fill: &FillJson<'_>) -> Result<Option<JsonValue>, String> {
        Ok(Some(match self {
            Self::Literal(value) => value.clone(),
            Self::Text(template) => return fill(template),
            Self::Array(items) => {
                let built: Result<Vec<_>, _> = items.iter().map(|item| item.build(fill)).collect();
                built?.into_iter().flatten().collect()
            }
            Self::Object(entries) => {
                let mut object = serde_json::Map::new();
                for (name, value) in entries {
                    if let Some(value) = value.build(fill)? {
                        object.insert(name.clone(), value);
                    }
                }
                JsonValue::Object(object)
            }
        }))
    }
}

fn json(
    value: &toml::Value,
    path: &str,
    place: Place,
    problems: &mut Vec<Problem>,
) -> Option<Json> {
    Some(match value {
        toml::Value::String(text) => Json::Text(template(text, path, place, problems)?),
        toml::Value::Integer(number) => Json::Literal((*number).into()),
        toml::Value::Float(number) if !number.is_finite() => {
            problems.push(Problem::new(path, "JSON has no infinity and no NaN"));
            return None;
        }
        toml::Value::Float(number) => Json::Literal((*number).into()),
        toml::Value::Boolean(truth) => Json::Literal((*truth).into()),
        toml::Value::Datetime(datetime) => Json::Literal(datetime.to_string().into()),
        toml::Value::Array(items) => Json::Array(
            (items.iter().enumerate())
                .filter_map(|(index, item)| {
                    json(item, &join(path, &index.to_string()), place, problems)
                })
                .collect(),
        ),
        toml::Value::Table(table) => Json::Object(
            (table.iter())
                .filter_map(|(name, value)| {
                    Some((
                        name.clone(),
                        json(value, &join(path, name), place, problems)?,
                    ))
                })
                .collect(),
        ),
    })
}
