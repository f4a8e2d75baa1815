//! Text of strangers, made fit to be shown: templates escape markup, but not what misleads the eye.

/// A text of `max` characters at most, on one line, without controls and without characters that are
/// invisible or turn the direction of what follows.
pub(super) fn bounded(text: &str, max: usize) -> String {
    let mut shown = String::new();
    let mut count = 0;
    let mut blank = false;
    for char in text.chars().filter(|char| !is_deceptive(*char)) {
        if char.is_whitespace() || char.is_control() {
            blank = !shown.is_empty();
            continue;
        }
        if count + usize::from(blank) >= max {
            shown.push('…');
            break;
        }
        if std::mem::take(&mut blank) {
            shown.push(' ');
            count += 1;
        }
        shown.push(char);
        count += 1;
    }
    shown
}

/// Whether Latin letters stand beside letters of another script: `Сlaude` with a Cyrillic С.
pub(super) fn is_mixed(text: &str) -> bool {
    // Up to here are the Latin letters, with and without accents.
    let other = |char: char| char.is_alphabetic() && char > '\u{24f}';
    text.chars().any(|char| char.is_ascii_alphabetic()) && text.chars().any(other)
}

/// Unicode's format characters, fillers and tags, as far as they are of no use in a name.
fn is_deceptive(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_texts_are_made_fit_to_be_shown() {
        for (text, shown) in [
            ("Claude", "Claude"),
            ("  two \t\r\n words ", "two words"),
            ("1234567890", "1234567890"),
            ("12345678901", "1234567890…"),
            ("123456789 01", "123456789…"),
            ("a\u{202e}b\u{200b}c\u{feff}", "abc"),
            ("\u{e0041}\u{0}x\u{7f}", "x"),
            ("日本語のアプリ", "日本語のアプリ"),
            ("", ""),
        ] {
            assert_eq!(bounded(text, 10), shown, "{text:?}");
        }
        assert_eq!(bounded(&"x".repeat(100_000), 10).chars().count(), 11);
    }

    #[test]
    fn letters_of_two_scripts_are_noticed() {
        for (text, mixed) in [
            ("Claude", false),
            ("\u{421}laude", true),
            ("Café", false),
            ("Клод", false),
            ("日本語 2", false),
            ("", false),
        ] {
            assert_eq!(is_mixed(text), mixed, "{text}");
        }
    }
}
