//! A real browser: headless Chromium, driven by the DevTools protocol over a pipe.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::harness::{eventually, soon};

/// One page in a browser of its own.
pub(crate) struct Browser {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    session: Option<String>,
    last_id: u64,
    _profile: tempfile::TempDir,
}

/// What the names of a machine's Chromium are.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

impl Browser {
    /// `None`, with a message, where there is no Chromium; in CI that is a failure.
    pub(crate) async fn open(url: &str) -> Option<Self> {
        let Some(program) = find() else {
            assert!(
                std::env::var_os("CI").is_none(),
                "Chromium is missing: .ci/run installs it"
            );
            eprintln!("skipped: there is no Chromium here");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        // The browser listens on descriptor 3 and answers on 4.
        let mut process = Command::new("sh")
            .args([
                "-c",
                "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null 2>&1",
            ])
            .arg(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--disable-extensions",
                "--disable-background-networking",
            ])
            .arg("--remote-debugging-pipe")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut browser = Self {
            commands: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()),
            process,
            session: None,
            last_id: 0,
            _profile: profile,
        };
        let target = browser
            .call("Target.createTarget", json!({ "url": "about:blank" }))
            .await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        browser.size(1200, 1400).await;
        browser.call("Page.navigate", json!({ "url": url })).await;
        Some(browser)
    }

    /// The value of a JavaScript expression; promises are awaited.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Json {
        let ask = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", ask).await;
        let failure = &answer["exceptionDetails"];
        assert!(failure.is_null(), "{expression}: {failure}");
        answer["result"]["value"].clone()
    }

    pub(crate) async fn text(&mut self, expression: &str) -> String {
        let value = self.evaluate(expression).await;
        value.as_str().map(str::to_owned).unwrap_or_default()
    }

    /// Waits until the expression is true.
    pub(crate) async fn wait(&mut self, expression: &str) {
        eventually(expression, async || {
            self.evaluate(expression).await == json!(true)
        })
        .await;
    }

    /// The viewport, in CSS pixels.
    pub(crate) async fn size(&mut self, width: u32, height: u32) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// `light` or `dark`.
    pub(crate) async fn prefers(&mut self, scheme: &str) {
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", media).await;
    }

    /// Presses and releases a key by its DOM name.
    pub(crate) async fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            other => panic!("no code for {other}"),
        };
        for phase in ["keyDown", "keyUp"] {
            let event = json!({
                "type": phase, "key": key, "code": key, "windowsVirtualKeyCode": code,
                "text": if phase == "keyDown" { text } else { "" },
            });
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// What a screen reader is told: role, name and value of everything that is not ignored.
    pub(crate) async fn spoken(&mut self) -> Vec<(String, String, String)> {
        let tree = self.call("Accessibility.getFullAXTree", json!({})).await;
        let word = |node: &Json, key: &str| match &node[key]["value"] {
            Json::String(text) => text.clone(),
            Json::Null => String::new(),
            other => other.to_string(),
        };
        tree["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|node| node["ignored"] != json!(true))
            .map(|node| (word(node, "role"), word(node, "name"), word(node, "value")))
            .collect()
    }

    /// For people who want to see it: a PNG in the folder that `CUPBEARER_SCREENSHOTS` names, if it does.
    pub(crate) async fn picture(&mut self, name: &str) {
        use base64::Engine as _;
        let Some(folder) = std::env::var_os("CUPBEARER_SCREENSHOTS") else {
            return;
        };
        let shot = self
            .call(
                "Page.captureScreenshot",
                json!({ "captureBeyondViewport": true }),
            )
            .await;
        let bytes = base64::prelude::BASE64_STANDARD
            .decode(shot["data"].as_str().unwrap())
            .unwrap();
        std::fs::write(
            std::path::Path::new(&folder).join(format!("{name}.png")),
            bytes,
        )
        .unwrap();
    }

    pub(crate) async fn close(mut self) {
        self.send("Browser.close", json!({})).await;
        let _ = soon("the browser's end", self.process.wait())
            .await
            .unwrap();
    }

    async fn call(&mut self, method: &str, params: Json) -> Json {
        let id = self.send(method, params).await;
        let answer = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                let message = self.receive().await;
                // Everything else is an event.
                if message["id"] == json!(id) {
                    return message;
                }
            }
        });
        let answer = answer
            .await
            .unwrap_or_else(|_| panic!("{method}: no answer"));
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    async fn send(&mut self, method: &str, params: Json) -> u64 {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = &self.session
            && !method.starts_with("Browser.")
        {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).await.unwrap();
        self.last_id
    }

    async fn receive(&mut self) -> Json {
        let mut bytes = Vec::new();
        self.answers.read_until(0, &mut bytes).await.unwrap();
        assert_eq!(bytes.pop(), Some(0), "the browser has ended");
        serde_json::from_slice(&bytes).unwrap()
    }
}

fn find() -> Option<&'static str> {
    let path = std::env::var_os("PATH")?;
    PROGRAMS
        .into_iter()
        .find(|program| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}
