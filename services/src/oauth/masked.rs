//! Texts of events without what is nobody's to read: tokens that somebody has put where a name or a reason belongs,
//! and e-mail addresses.

use std::borrow::Cow;

use super::grants;

/// The longest text of an event: a client's id may be a URL.
const MAX_TEXT: usize = 2_048;

/// What stays of a token, at its begin and at its end.
const KEPT: (usize, usize) = (10, 4);

/// A text as events have it: bounded, of tokens the first 10 and the last 4 characters, of e-mail addresses the first
/// letter and the domain.
pub(crate) fn masked(text: &str) -> Cow<'_, str> {
    mask(text, address)
}

/// The same where a name stands that may look like an address, as the id of a client does: without the tokens.
pub(crate) fn without_tokens(text: &str) -> Cow<'_, str> {
    mask(text, |_| None)
}

fn mask(text: &str, address: impl Fn(&str) -> Option<(char, &str)>) -> Cow<'_, str> {
    let text = &text[..text.floor_char_boundary(MAX_TEXT)];
    if !text.split(is_border).any(|word| is_token(word) || address(word).is_some()) {
        return Cow::Borrowed(text);
    }
    let mut masked = String::with_capacity(text.len());
    for piece in text.split_inclusive(is_border) {
        let word = piece.trim_end_matches(is_border);
        if is_token(word) {
            // Of a secret that never ends by itself nothing is told but what it is.
            let token = word.trim_end_matches('.');
            if SECRETS.iter().any(|prefix| token.starts_with(prefix)) {
                masked.push_str(&token[..SECRETS[0].len()]);
                masked.push_str("...");
            } else {
                masked.push_str(&token[..KEPT.0]);
                masked.push_str("...");
                masked.push_str(&token[token.len() - KEPT.1..]);
            }
            masked.push_str(&word[token.len()..]);
        } else if let Some((first, domain)) = address(word) {
            masked.push(first);
            masked.push_str("***@");
            masked.push_str(domain);
        } else {
            masked.push_str(word);
        }
        masked.push_str(&piece[word.len()..]);
    }
    Cow::Owned(masked)
}

/// What stands between words: everything that neither tokens nor addresses have.
const fn is_border(char: char) -> bool {
    !(char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.' | '@' | '+' | '~'))
}

/// What begins a client's secret, and the token of a registration.
const SECRETS: [&str; 2] = ["pcs_", "pcm_"];

/// What begins a secret of ours, or of GitHub's.
const PREFIXES: [&str; 9] =
    [grants::PREFIX, SECRETS[0], SECRETS[1], "gho_", "ghp_", "ghr_", "ghs_", "ghu_", "github_pat_"];

/// A token or a secret, or three parts of a JWT (RFC 7515, section 7.1): `eyJ` is how every object begins.
fn is_token(word: &str) -> bool {
    let word = word.trim_end_matches('.');
    let long = word.len() > 2 * (KEPT.0 + KEPT.1);
    let is_secret = || PREFIXES.iter().any(|prefix| word.starts_with(prefix));
    long && (is_secret() || word.starts_with("eyJ") && word.matches('.').count() == 2)
}

/// The first letter and the domain of an e-mail address.
fn address(word: &str) -> Option<(char, &str)> {
    let (local, domain) = word.split_once('@')?;
    let first = local.chars().next()?;
    (!domain.contains('@') && domain.trim_end_matches('.').contains('.')).then_some((first, domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_addresses_are_masked_and_nothing_else_is() {
        let jwt = format!("eyJhbGciOiJSUzI1NiJ9.{}.{}", "p".repeat(40), "s".repeat(40));
        let refresh = format!("pcr_{}", "x".repeat(43));
        for (text, expected) in [
            (jwt.clone(), "eyJhbGciOi...ssss"),
            (format!("no client \"{jwt}\", sorry"), "no client \"eyJhbGciOi...ssss\", sorry"),
            (refresh, "pcr_xxxxxx...xxxx"),
            (format!("see {jwt}."), "see eyJhbGciOi...ssss."),
            (format!("pcs_{}", "x".repeat(43)), "pcs_..."),
            (format!("pcm_{}.", "x".repeat(43)), "pcm_...."),
            (format!("gho_{}", "x".repeat(36)), "gho_xxxxxx...xxxx"),
            ("of mona@example.com.".to_owned(), "of m***@example.com."),
            ("https://user@client.example/eyJ.a.b".to_owned(), "https://u***@client.example/eyJ.a.b"),
        ] {
            assert_eq!(masked(&text), expected, "{text}");
        }
        for plain in [
            "",
            "@",
            "a@b",
            "the code is not known, or has expired",
            "https://client.example/metadata.json",
            "token is for [\"https://app.example.com\"], not for this resource",
            "é é@é",
        ] {
            assert!(matches!(masked(plain), Cow::Borrowed(text) if text == plain), "{plain}");
        }
    }

    #[test]
    fn names_keep_what_looks_like_an_address() {
        let name = "https://unpkg.com/client@1.2.3/metadata.json";
        assert_eq!(without_tokens(name), name);
        assert_eq!(without_tokens(&format!("pcs_{}", "x".repeat(43))), "pcs_...");
    }

    #[test]
    fn no_text_is_longer_than_its_bound() {
        assert_eq!(masked(&"é".repeat(5_000)).len(), MAX_TEXT);
    }
}
