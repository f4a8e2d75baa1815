//! Replays the corpora of the fuzz targets, and many small variations of each input, through what the
//! targets check: so it is checked on every run, without a fuzzer.

use std::fs;
use std::path::Path;

#[path = "../fuzz/checks/head.rs"]
mod head;
#[path = "../fuzz/checks/path.rs"]
mod path;
#[path = "../fuzz/checks/proxy_header.rs"]
mod proxy_header;
#[path = "../fuzz/checks/response.rs"]
mod response;
#[path = "../fuzz/checks/route.rs"]
mod route;
#[path = "../fuzz/checks/token.rs"]
mod token;

/// Bytes that mean something to one parser or another.
const TELLING: &[u8] = b"\0\t\n\r \"#%*+./012:;<>?@AZ[\\]`az{}\x7f\x80\xff";

/// Checks each input as it is and with one byte changed, removed or doubled, or cut off there, at every
/// `stride`th place.
fn replay(name: &str, stride: usize, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut seeds = 0;
    for entry in fs::read_dir(folder).expect("the corpus is part of the sources") {
        let input = fs::read(entry.expect("a readable folder").path()).expect("a readable file");
        seeds += 1;
        check(&input);
        for at in (0..input.len()).step_by(stride) {
            let (before, after) = input.split_at(at);
            check(before);
            check(&[before, &after[1..]].concat());
            check(&[before, &after[..1], after].concat());
            for byte in TELLING.iter().chain(&[after[0] ^ 1, after[0] ^ 0x20]) {
                check(&[before, &[*byte], &after[1..]].concat());
            }
        }
    }
    assert!(seeds > 0, "the corpus {name} is empty");
}

#[test]
fn heads() {
    replay("head", 1, head::check);
}

#[test]
fn paths() {
    replay("path", 1, path::check);
}

#[test]
fn proxy_headers() {
    replay("proxy_header", 1, proxy_header::check);
}

#[test]
fn responses() {
    replay("response", 1, response::check);
}

/// Each variation costs the compilation of some expressions.
#[test]
fn routes() {
    replay("route", 7, route::check);
}

/// Each variation costs some signatures.
#[test]
fn tokens() {
    replay("token", 7, token::check);
}
