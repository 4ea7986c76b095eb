//! `cupbearer health`: exec probes for images without a shell.

use std::io::Write;

use clap::Args;

use super::admin::AdminArgs;
use super::failure::Failure;

#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// Check liveness (/livez) instead of readiness (/readyz)
    #[arg(long, env = "CUPBEARER_LIVE")]
    live: bool,

    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(args: &HealthArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let (path, word, expected) = if args.live {
        ("/livez", "alive", "ok")
    } else {
        ("/readyz", "ready", "ready")
    };
    let server = args.admin.server()?;
    let answer = super::tokio_runtime()?.block_on(server.get(path));
    let answer = answer.map_err(Failure::runtime)?;
    let body = String::from_utf8_lossy(&answer.body);
    if answer.status == http::StatusCode::OK {
        // Another program may answer 200 to everything.
        if body.trim_end() != expected {
            return Err(Failure::Runtime(format!(
                "not {word}: this is no admin port of Cupbearer; check --admin and server.admin"
            )));
        }
        writeln!(out, "{word}")?;
        return Ok(());
    }
    // The reasons follow the first line. Another program may answer with a whole page.
    let lines = body.lines().map(str::trim).filter(|line| !line.is_empty());
    let reason = lines.take(20).collect::<Vec<_>>().join("; ");
    let text = format!("not {word}: {} {reason}", answer.status);
    Err(Failure::runtime(text.trim_end()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use clap::Parser as _;

    use crate::cli::{Cli, Failure};

    /// Runs `health` against a server that sends this response.
    fn ask(flag: Option<&str>, status: &str, body: &str) -> Result<String, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let args = ["cupbearer", "health", "--admin", &address];
        let mut out = Vec::new();
        let ran = Cli::try_parse_from(args.into_iter().chain(flag))
            .unwrap()
            .run(&mut out);
        server.join().unwrap();
        ran.map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn only_cupbearers_own_answer_counts() {
        assert_eq!(ask(None, "200 OK", "ready\n").unwrap(), "ready\n");
        assert_eq!(ask(Some("--live"), "200 OK", "ok\n").unwrap(), "alive\n");
        for (flag, status, body, said) in [
            (None, "200 OK", "<html>hello</html>", "no admin port"),
            (None, "200 OK", "ok\n", "no admin port"),
            (None, "200 OK", "", "no admin port"),
            (Some("--live"), "200 OK", "ready\n", "no admin port"),
            (
                None,
                "503 No",
                "not ready\nprovider x: expired\n",
                "not ready: 503 Service Unavailable not ready; provider x: expired",
            ),
        ] {
            let failure = ask(flag, status, body).unwrap_err().to_string();
            assert!(failure.contains(said), "{failure}");
        }
    }
}
