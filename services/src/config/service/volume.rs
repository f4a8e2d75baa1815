//! What a service mounts: `SOURCE:/path[:ro|rw]`.

use std::path::{Component, Path};
use std::str::FromStr;

use crate::config::names::Expected;

const EXPECTED: &str = "`NAME:/path`, or `/host/path:/path`, and `:ro` behind it if it shall not be written";

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// What is mounted.
    pub source: Source,
    /// Where.
    pub target: String,
    /// Whether it can't be written.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A volume that the engine keeps.
    Named(String),
    /// A path of the engine's machine.
    Path(String),
}

impl FromStr for Volume {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let wrong = Expected(EXPECTED);
        let mut parts = text.split(':');
        let (source, target, mode) = (parts.next(), parts.next(), parts.next());
        let (Some(source), Some(target), None) = (source, target, parts.next()) else { return Err(wrong) };
        let read_only = match mode {
            None | Some("rw") => false,
            Some("ro") => true,
            Some(_) => return Err(wrong),
        };
        if !is_plain(target) || target == "/" {
            return Err(wrong);
        }
        let source = match source.strip_prefix('/') {
            Some(_) if is_plain(source) => Source::Path(source.to_owned()),
            Some(_) => return Err(wrong),
            None if is_name(source) => Source::Named(source.to_owned()),
            None => return Err(wrong),
        };
        Ok(Self { source, target: target.to_owned(), read_only })
    }
}

/// An absolute path without `.`, `..` or control characters.
fn is_plain(path: &str) -> bool {
    path.len() <= 1024
        && !path.chars().any(char::is_control)
        && Path::new(path).is_absolute()
        && Path::new(path).components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

fn is_name(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_names_or_plain_paths() {
        let read = |text: &str| text.parse::<Volume>();
        let data = read("data:/var/lib/app").expect("a volume");
        assert_eq!((data.source, data.read_only), (Source::Named("data".into()), false));
        let path = read("/srv/www:/www:ro").expect("a path");
        assert_eq!((path.source, path.read_only), (Source::Path("/srv/www".into()), true));
        for wrong in
            ["", "data", "data:", "data:www", "/srv/../etc:/etc", "data:/", "a:/b:z", "a:/b:ro:z", "../x:/b"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
