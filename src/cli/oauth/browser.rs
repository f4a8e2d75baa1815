//! Opens the user's browser, where there is one.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

/// A program that opens URLs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Browser(OsString);

/// The program to open URLs with: the one that `BROWSER` names, else the desktop's if there is a display.
pub(super) fn find() -> Option<Browser> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(named) = set("BROWSER") {
        return Some(Browser(named));
    }
    if cfg!(target_os = "macos") {
        return Some(Browser("open".into()));
    }
    let display = set("WAYLAND_DISPLAY").or_else(|| set("DISPLAY"));
    let opener = "xdg-open";
    let there = std::env::split_paths(&set("PATH")?).any(|folder| folder.join(opener).is_file());
    (display.is_some() && there).then(|| Browser(opener.into()))
}

impl Browser {
    /// Opens a URL. Whether that works shows on the screen only, hence the URL is printed in any case.
    pub(super) fn open(&self, url: &str) {
        let mut command = Command::new(Path::new(&self.0));
        command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Err(error) = command.spawn() {
            eprintln!("{}: can't be started: {error}", self.0.display());
        }
    }
}
