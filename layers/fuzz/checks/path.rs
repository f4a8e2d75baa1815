//! A path is refused, or what comes out is one path that everybody reads alike and that stays as it is.

use std::borrow::Cow;

use portcullis_layers::normalize::path::{PathRules, normalize};

pub(crate) fn check(input: &[u8]) {
    let Ok(path) = std::str::from_utf8(input) else { return };
    for (encoded_slash, refuse_empty_segments) in [(false, false), (true, false), (false, true), (true, true)]
    {
        let rules = PathRules { encoded_slash, refuse_empty_segments };
        let Ok(normal) = normalize(path, rules) else { continue };
        assert!(normal.starts_with('/') && normal.bytes().all(|byte| byte.is_ascii_graphic()), "{normal:?}");
        assert!(!normal.split('/').any(|segment| matches!(segment, "." | "..")), "{normal:?}");
        assert!(!normal.contains(['\\', '?', '#']), "{normal:?}");
        assert!(encoded_slash || !normal.contains("%2F"), "{normal:?}");
        match normalize(&normal, rules) {
            Ok(Cow::Borrowed(again)) => assert_eq!(again, normal, "from {path:?}"),
            other => panic!("{path:?} became {normal:?}, which became {other:?}"),
        }
    }
}
