//! `cupbearer status`: what the running proxy says of itself, as a table.

use std::io::Write;
use std::time::{Duration, SystemTime};

use clap::Args;
use clap::builder::BoolishValueParser;
use http::StatusCode;
use serde_json::Value;

use super::admin::AdminArgs;
use super::failure::Failure;
use super::table::Table;
use super::words;
use crate::clock::unix_seconds;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print the JSON of the admin port as it is
    #[arg(long, env = "CUPBEARER_JSON", hide_env_values = true, value_parser = BoolishValueParser::new())]
    json: bool,

    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(args: &StatusArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let server = args.admin.server()?;
    let answer = server
        .get_blocking("/status")
        .map_err(|error| Failure::Runtime(format!("{error}; is the proxy running?")))?;
    if answer.status != StatusCode::OK {
        return Err(Failure::Runtime(format!(
            "the admin port answered {} to /status",
            answer.status
        )));
    }
    if args.json {
        out.write_all(&answer.body)?;
        if !answer.body.ends_with(b"\n") {
            writeln!(out)?;
        }
        return Ok(());
    }
    let status: Value = serde_json::from_slice(&answer.body).map_err(|_| {
        Failure::Runtime("what answers there is no admin port of Cupbearer".to_owned())
    })?;
    out.write_all(render(&status, SystemTime::now()).as_bytes())?;
    Ok(())
}

fn render(status: &Value, now: SystemTime) -> String {
    let mut text = providers(&status["providers"], now);
    let upstreams = upstreams(&status["upstreams"]);
    if !upstreams.is_empty() {
        text.push('\n');
        text.push_str(&upstreams);
    }
    text
}

fn providers(providers: &Value, now: SystemTime) -> String {
    let mut table = Table::new([
        "PROVIDER",
        "TOKEN",
        "NO.",
        "EXPIRES",
        "NEXT FETCH",
        "FAILURES",
        "LAST ERROR",
    ]);
    for (name, provider) in named(providers) {
        table.row([
            name,
            text(&provider["state"]),
            text(&provider["generation"]),
            when(&provider["expires_at"], now),
            when(&provider["next_fetch_at"], now),
            text(&provider["failures"]),
            text(&provider["last_error"]),
        ]);
    }
    table.to_string()
}

fn upstreams(upstreams: &Value) -> String {
    let rows = named(upstreams);
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["UPSTREAM", "ROUTE", "URL", "PROVIDER"]);
    for (name, upstream) in rows {
        table.row([
            name,
            text(&upstream["route"]),
            text(&upstream["url"]),
            text(&upstream["provider"]),
        ]);
    }
    table.to_string()
}

/// A list of objects with a `name`, or an object by name.
fn named(entries: &Value) -> Vec<(String, &Value)> {
    match entries {
        Value::Array(list) => list
            .iter()
            .map(|entry| (text(&entry["name"]), entry))
            .collect(),
        Value::Object(map) => map
            .iter()
            .map(|(name, entry)| (name.clone(), entry))
            .collect(),
        _ => Vec::new(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Unix seconds or RFC 3339, told from now.
fn when(value: &Value, now: SystemTime) -> String {
    let at = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text
            .parse::<jiff::Timestamp>()
            .ok()
            .map(|at| at.as_millisecond() as f64 / 1000.0),
        _ => None,
    };
    let Some(at) = at else {
        return "-".to_owned();
    };
    let left = at - unix_seconds(now);
    // Not a number, or further away than a Duration reaches: nothing that can be told in words.
    match Duration::try_from_secs_f64(left.abs()) {
        Err(_) => "-".to_owned(),
        Ok(left_or_gone) if left < 0.0 => format!("{} ago", words::duration(left_or_gone)),
        Ok(left_or_gone) => format!("in {}", words::duration(left_or_gone)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_told_from_now_in_either_form() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        let status = json!({
            "providers": [
                { "name": "cncn", "state": "valid", "generation": 3, "expires_at": 1_767_225_614,
                  "next_fetch_at": "2026-01-01T00:00:10Z", "failures": 0, "last_error": null },
                { "name": "x", "state": "expired", "generation": 1, "expires_at": 1_767_225_540.0,
                  "next_fetch_at": null, "failures": 2, "last_error": "HTTP 400, invalid_client: 用户名或密码错误" },
            ],
            "upstreams": [
                { "name": "cncn", "route": "/cncn", "url": "https://api.example.cn/api", "provider": "cncn" },
            ],
        });
        let text = render(&status, now);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "PROVIDER  TOKEN    NO.  EXPIRES    NEXT FETCH  FAILURES  LAST ERROR",
                "cncn      valid    3    in 14 s    in 10 s     0         -",
                "x         expired  1    1 min ago  -           2         HTTP 400, invalid_client: 用户名或密码错误",
                "",
                "UPSTREAM  ROUTE  URL                         PROVIDER",
                "cncn      /cncn  https://api.example.cn/api  cncn",
            ]
        );
    }

    #[test]
    fn other_shapes_do_not_panic() {
        for status in [
            json!(null),
            json!([]),
            json!({ "providers": { "a": {} } }),
            json!({ "providers": [1] }),
        ] {
            render(&status, SystemTime::now());
        }
        assert_eq!(when(&json!(1e300), SystemTime::now()), "-");
    }
}
