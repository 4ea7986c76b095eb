//! `cupbearer explain [CODE]`.

use std::io::Write;

use clap::Args;

use super::failure::Failure;
use crate::proxy::{ErrorCode, error_codes};

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Error code, such as `upstream_tls`, or `urn:cupbearer:error:upstream_tls`. Default: all.
    code: Option<String>,
}

pub(super) fn run(args: &ExplainArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let Some(code) = &args.code else {
        return list(out);
    };
    let code = code.strip_prefix("urn:cupbearer:error:").unwrap_or(code);
    let rows: Vec<_> = error_codes()
        .iter()
        .filter(|row| row.code == code)
        .collect();
    if rows.is_empty() {
        return Err(Failure::Usage(format!(
            "unknown error code `{code}`; `cupbearer explain` lists all codes"
        )));
    }
    for row in rows {
        explain(row, out)?;
    }
    Ok(())
}

fn list(out: &mut dyn Write) -> Result<(), Failure> {
    let width = error_codes()
        .iter()
        .map(|row| row.code.len())
        .max()
        .unwrap_or_default();
    let mut rows: Vec<_> = error_codes()
        .iter()
        .map(|row| (row.code, row.status, row.title))
        .collect();
    rows.dedup();
    for (code, status, title) in rows {
        writeln!(out, "{code:width$}  {}  {title}", status.as_u16())?;
    }
    writeln!(out, "\n`cupbearer explain CODE` says what to do.")?;
    Ok(())
}

fn explain(row: &ErrorCode, out: &mut dyn Write) -> Result<(), Failure> {
    let ErrorCode {
        code,
        status,
        title,
        proxy_error,
        grpc_status,
        advice,
        ..
    } = row;
    writeln!(out, "{code}: {title}")?;
    writeln!(
        out,
        "  HTTP {status}, Proxy-Status error {proxy_error}, grpc-status {grpc_status}"
    )?;
    let advice = match *advice {
        "" => "The response's `detail` says what to change.",
        advice => advice,
    };
    writeln!(out, "  {advice}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(code: Option<&str>) -> Result<String, Failure> {
        let mut out = Vec::new();
        run(
            &ExplainArgs {
                code: code.map(str::to_owned),
            },
            &mut out,
        )?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn list_has_every_code() {
        let list = output(None).unwrap();
        for row in error_codes() {
            assert!(list.contains(&format!("{} ", row.code)), "{}", row.code);
        }
    }

    #[test]
    fn a_code_is_explained_with_every_cause() {
        let text = output(Some("urn:cupbearer:error:upstream_tls")).unwrap();
        assert!(text.contains("HTTP 502 Bad Gateway, Proxy-Status error tls_certificate_error"));
        assert!(text.contains("tls_protocol_error"));
        assert!(text.contains("`tls.ca_file`"));
    }

    #[test]
    fn an_unknown_code_is_wrong_usage() {
        assert!(matches!(
            output(Some("upstream_tsl")),
            Err(Failure::Usage(_))
        ));
    }
}
