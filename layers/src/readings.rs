//! The other ways in which an application may read a path. Pure.
//!
//! Java containers drop path parameters (`/admin;x` is `/admin` to them), many servers merge empty
//! segments (`//admin`), and some split at `%2F`. RFC 3986 says none of that, and such paths are in
//! honest use; so they are not refused as such, but only where a reading would lead to another route.

/// Whether the path can be read in another way at all: nearly none can.
pub fn is_ambiguous(path: &str) -> bool {
    path.contains(';') || path.contains("//") || path.contains("%3B") || path.contains("%2F")
}

/// Every other reading of a path in normal form, each once.
///
/// ```
/// use portcullis_layers::readings::others;
///
/// assert_eq!(others("/a;x//b"), ["/a//b", "/a;x/b", "/a/b"]);
/// assert!(others("/a/b").is_empty());
/// ```
pub fn others(path: &str) -> Vec<String> {
    let steps: [fn(&str) -> String; 3] = [split_encoded, without_parameters, merged];
    let mut readings: Vec<String> = Vec::new();
    for chosen in 1..1_u8 << steps.len() {
        let mut reading = path.to_owned();
        for (bit, step) in steps.iter().enumerate() {
            if chosen & (1 << bit) != 0 {
                reading = step(&reading);
            }
        }
        if reading != path && !readings.contains(&reading) {
            readings.push(reading);
        }
    }
    readings
}

fn split_encoded(path: &str) -> String {
    path.replace("%2F", "/")
}

fn without_parameters(path: &str) -> String {
    let name = |segment: &str| {
        let end = segment.find(';').into_iter().chain(segment.find("%3B")).min().unwrap_or(segment.len());
        segment[..end].to_owned()
    };
    path.split('/').map(name).collect::<Vec<_>>().join("/")
}

fn merged(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reading_is_named_once() {
        for (path, expected) in [
            ("/a/b", &[][..]),
            ("/a;x=1", &["/a"]),
            ("/a%3Bx/b", &["/a/b"]),
            ("/a;b%3Bc;d", &["/a"]),
            ("//a", &["/a"]),
            ("///", &["/"]),
            ("/;/a", &["//a", "/a"]),
            ("/a%2Fb", &["/a/b"]),
            ("/a;x%2Fb", &["/a;x/b", "/a", "/a/b"]),
        ] {
            assert_eq!(others(path), expected, "{path}");
            assert_eq!(is_ambiguous(path), !expected.is_empty(), "{path}");
        }
    }
}
