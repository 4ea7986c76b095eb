//! Opens a browser, if there is one.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// Returns whether a program was started to open `url`. Later failures of the program are not seen.
pub(super) fn open(url: &str) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let program = match () {
        () if cfg!(target_os = "macos") => "open",
        // Without a display, xdg-open may start a text browser that takes over the terminal.
        () if set("DISPLAY") || set("WAYLAND_DISPLAY") => "xdg-open",
        () => return false,
    };
    start(OsStr::new(program), url)
}

fn start(program: &OsStr, url: &str) -> bool {
    Command::new(program)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_opener_returns_false() {
        assert!(!start(OsStr::new("/nonexistent/opener"), "https://x"));
        assert!(start(OsStr::new("true"), "https://x"));
    }
}
