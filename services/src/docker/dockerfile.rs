//! What a Dockerfile builds on. It is read as the classic builders of old and new engines read it; what they might read
//! differently is refused.

/// Why a Dockerfile is not built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unclear {
    /// Some readers skip it, and some take it for a part of the first word.
    #[error("begins with a byte order mark: expected plain UTF-8")]
    Mark,
    /// Lines would end elsewhere.
    #[error("sets another escape character: expected the usual one")]
    Escape,
    /// Readers do not agree whether it parts words, or lines.
    #[error(
        "has a blank or control character that is neither a space, a tab nor a line break: expected these alone"
    )]
    Blank,
    /// For some readers the line goes on.
    #[error("has a line that ends with two backslashes: expected one, or none")]
    Backslashes,
    /// Readers take quotes off in different places.
    #[error("has quotes, a backslash or no ASCII in a flag or a FROM: expected plain words")]
    Flag,
    /// The classic builder does not know them, and newer readers skip what is in them.
    #[error("has `<<`: the engine's builder does not know here-documents")]
    Heredoc,
}

/// An image that is built on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    /// Its name, as it stands there.
    pub(super) image: String,
    /// Whether an argument of the build decides which it is.
    pub(super) varies: bool,
}

/// What a Dockerfile builds on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Built {
    /// The images that it begins with or copies from, stages of its own aside.
    pub(super) bases: Vec<Base>,
    /// Whether the engine itself may fetch something, from where its machine is.
    pub(super) fetches: bool,
    /// The stages that are over, by name.
    stages: Vec<Option<String>>,
}

/// What ends words.
const BLANKS: [char; 2] = [' ', '\t'];

/// Reads a Dockerfile.
pub(super) fn read(text: &str) -> Result<Built, Unclear> {
    if text.starts_with('\u{feff}') {
        return Err(Unclear::Mark);
    }
    let mut built = Built::default();
    // A stage can be copied from when it is over.
    let mut stage: Option<Option<String>> = None;
    for line in instructions(text)? {
        let (verb, rest) = line.split_once(BLANKS).unwrap_or((&line, ""));
        if verb.eq_ignore_ascii_case("FROM") {
            built.stages.extend(stage.take());
            stage = Some(built.begin(rest)?);
        } else {
            built.instruction(verb, rest)?;
        }
    }
    Ok(built)
}

impl Built {
    /// A stage begins; its name, if it has one.
    fn begin(&mut self, rest: &str) -> Result<Option<String>, Unclear> {
        let (_, rest) = flags(rest)?;
        if !is_plain(rest) {
            return Err(Unclear::Flag);
        }
        let mut words = rest.split(BLANKS).filter(|word| !word.is_empty());
        if let Some(image) = words.next().filter(|image| *image != "scratch" && !self.has_stage(image)) {
            self.base(image);
        }
        let is_named = words.next().is_some_and(|word| word.eq_ignore_ascii_case("as"));
        let name = words.next().filter(|_| is_named).map(str::to_ascii_lowercase);
        Ok(name.filter(|name| is_stage(name)))
    }

    fn instruction(&mut self, verb: &str, rest: &str) -> Result<(), Unclear> {
        let verb = verb.to_ascii_uppercase();
        match verb.as_str() {
            // What is built on this one, maybe a later stage, does it.
            "ONBUILD" => {
                let rest = rest.trim_start_matches(BLANKS);
                let (verb, rest) = rest.split_once(BLANKS).unwrap_or((rest, ""));
                self.instruction(verb, rest)
            }
            "COPY" | "ADD" | "RUN" => {
                if rest.contains("<<") {
                    return Err(Unclear::Heredoc);
                }
                let (flags, rest) = flags(rest)?;
                for image in flags.into_iter().flat_map(sources) {
                    let is_number = image.len() <= 4 && image.bytes().all(|byte| byte.is_ascii_digit());
                    let is_own = match image.parse::<usize>() {
                        Ok(number) if is_number => number < self.stages.len(),
                        _ => self.has_stage(image),
                    };
                    if !is_own && image != "scratch" {
                        self.base(image);
                    }
                }
                self.fetches |= verb == "ADD" && may_fetch(rest);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn base(&mut self, image: &str) {
        self.bases.push(Base { image: image.to_owned(), varies: image.contains('$') });
    }

    fn has_stage(&self, name: &str) -> bool {
        self.stages.iter().flatten().any(|stage| stage.eq_ignore_ascii_case(name))
    }
}

fn is_stage(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte))
}

fn is_plain(text: &str) -> bool {
    text.is_ascii() && !text.contains(['"', '\'', '\\'])
}

/// The flags before the words of an instruction, and these.
fn flags(rest: &str) -> Result<(Vec<&str>, &str), Unclear> {
    let (mut flags, mut rest) = (Vec::new(), rest.trim_start_matches(BLANKS));
    while rest.starts_with("--") {
        let (flag, words) = rest.split_once(BLANKS).unwrap_or((rest, ""));
        if !is_plain(flag) {
            return Err(Unclear::Flag);
        }
        flags.push(flag);
        rest = words.trim_start_matches(BLANKS);
    }
    Ok((flags, rest))
}

/// What a flag takes files from: `--from=IMAGE`, `--mount=type=bind,from=IMAGE`.
fn sources(flag: &str) -> Vec<&str> {
    let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
    if name.eq_ignore_ascii_case("--from") {
        return vec![value];
    }
    let mounts = name.eq_ignore_ascii_case("--mount").then(|| value.split(',')).into_iter().flatten();
    let parts = mounts.filter_map(|part| part.split_once('='));
    parts.filter(|(name, _)| name.eq_ignore_ascii_case("from")).map(|(_, image)| image).collect()
}

/// Whether what an ADD takes may be somewhere in the net.
fn may_fetch(rest: &str) -> bool {
    let is_remote = |source: &str| ["://", "git@", "$"].iter().any(|sign| source.contains(sign));
    if let Ok(list) = serde_json::from_str::<Vec<String>>(rest.trim_matches(BLANKS)) {
        return list.split_last().is_some_and(|(_, sources)| sources.iter().any(|source| is_remote(source)));
    }
    let words: Vec<_> = rest.split(BLANKS).filter(|word| !word.is_empty()).collect();
    let (_, sources) = words.split_last().unwrap_or((&"", &[]));
    rest.contains(['"', '\'', '\\']) || sources.iter().any(|source| is_remote(source))
}

/// The instructions, each in one line.
fn instructions(text: &str) -> Result<Vec<String>, Unclear> {
    let mut all = Vec::new();
    let mut open: Option<String> = None;
    for line in text.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let begun = line.trim_start_matches(BLANKS);
        if let Some(comment) = begun.strip_prefix('#') {
            // A directive counts at the beginning only; elsewhere nobody needs one.
            let name = comment.split('=').next().unwrap_or_default().trim();
            if comment.contains('=') && name.eq_ignore_ascii_case("escape") {
                return Err(Unclear::Escape);
            }
            continue;
        }
        let is_odd = |one: char| (one.is_control() || one.is_whitespace()) && !BLANKS.contains(&one);
        if line.contains(is_odd) {
            return Err(Unclear::Blank);
        }
        // Neither comments nor empty lines end an instruction that goes on.
        if begun.is_empty() {
            continue;
        }
        let (mut whole, part) = match open.take() {
            // A blank at the beginning of a line that goes on parts words.
            Some(whole) => (whole, line),
            None => (String::new(), begun),
        };
        match part.trim_end_matches(BLANKS).strip_suffix('\\') {
            Some(part) if part.ends_with('\\') => return Err(Unclear::Backslashes),
            Some(part) => {
                whole.push_str(part);
                open = Some(whole);
            }
            None => {
                whole.push_str(part);
                all.push(whole);
            }
        }
    }
    all.extend(open);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(text: &str) -> Vec<String> {
        read(text).expect("clear").bases.into_iter().map(|base| base.image).collect()
    }

    #[test]
    fn every_image_that_a_dockerfile_builds_on_is_found() {
        for (text, expected) in [
            (
                "FROM --platform=linux/amd64 rust:1 AS build\nRUN x\nFROM scratch\nCOPY --from=build /a /a\n",
                &["rust:1"][..],
            ),
            ("from a\ncopy --chown=1 --from=evil/image /b /b\n", &["a", "evil/image"]),
            ("FROM \\\n  alpine\nFROM build\nCOPY --from=0 / /\n", &["alpine", "build"]),
            // A blank behind the backslash: the engine goes on all the same.
            ("FROM a\nRUN echo \\ \nFROM ok AS evil\nFROM evil\n", &["a", "evil"]),
            ("FROM a\nCOPY \\\n# x\n\n--from=evil /a /a\n", &["a", "evil"]),
            ("FROM a\nCOPY --chown=0\\\n  # x\n\t--from=evil /a /a\n", &["a", "evil"]),
            ("FROM --platform=linux/amd64\\\n evil\n", &["evil"]),
            ("FROM a\r\nCOPY \\\r\n--from=evil /a /a\r\n", &["a", "evil"]),
            ("FROM 4\n", &["4"]),
            ("FROM a\nRUN --mount=type=bind,from=evil,target=/x cp /x /y\n", &["a", "evil"]),
            ("# FROM evil\nFROM a AS b\nFROM B\n", &["a"]),
            // A stage is one when it is over; numbers are no names.
            ("FROM a AS evil\nCOPY --from=evil / /\n", &["a", "evil"]),
            (
                "FROM a\nCOPY --from=0 / /\nFROM b\nCOPY --from=99999999999999999999 / /\n",
                &["a", "0", "b", "99999999999999999999"],
            ),
            ("FROM a AS evil/x\nFROM evil/x\n", &["a", "evil/x"]),
            ("FROM a AS b\nONBUILD COPY --from=evil / /x\nFROM b\n", &["a", "evil"]),
            ("FROM a \\", &["a"]),
            ("", &[]),
        ] {
            assert_eq!(images(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_could_be_read_differently_is_refused() {
        for (text, expected) in [
            ("\u{feff}FROM a\n", Unclear::Mark),
            ("# escape=`\nFROM a\n", Unclear::Escape),
            ("#Escape = `\nFROM a\n", Unclear::Escape),
            ("FROM a\n# escape=`\n", Unclear::Escape),
            ("FROM a\nRUN true \\\u{c}\nFROM evil\n", Unclear::Blank),
            ("FROM a\nRUN true\rFROM evil\n", Unclear::Blank),
            ("FROM\u{a0}a\n", Unclear::Blank),
            ("FROM a\nRUN echo \\\\\nFROM evil\n", Unclear::Backslashes),
            ("FROM a\nCOPY --fr\"om\"=evil / /\n", Unclear::Flag),
            ("FROM a\nCOPY --fr\\om=evil / /\n", Unclear::Flag),
            ("FROM a\nCOPY --chown=\"${X:+ b}\" --from=evil / /\n", Unclear::Flag),
            ("FROM --platform=\"linux/amd64${X:+ nginx:1}\" evil\n", Unclear::Flag),
            ("FROM \"evil\"\n", Unclear::Flag),
            ("FROM a\nRUN true <<E\nFROM b AS evil\nE\nFROM evil\n", Unclear::Heredoc),
            ("FROM a\nONBUILD RUN true <<E\n", Unclear::Heredoc),
        ] {
            assert_eq!(read(text), Err(expected), "{text:?}");
        }
        let varies = read("ARG X=1\nFROM nginx:${X}\n").expect("clear").bases;
        assert_eq!(varies, [Base { image: "nginx:${X}".into(), varies: true }]);
    }

    #[test]
    fn what_the_engine_would_fetch_itself_is_found() {
        for (add, expected) in [
            ("a.tar /", false),
            ("--chown=1:1 a b $HOME/", false),
            ("[\"a b\", \"/\"]", false),
            ("http://127.0.0.1/ /", true),
            ("https://a.example/x.tar /", true),
            ("git@a.example:x.git /", true),
            ("$X /", true),
            ("ht\"tp://a\" /", true),
            ("[\"http:\\u002f/a\", \"/\"]", true),
            ("[\"a\", \"http://a\", \"/\"]", true),
        ] {
            for before in ["ADD", "onbuild add"] {
                let text = format!("FROM a\n{before} {add}\n");
                assert_eq!(read(&text).expect("clear").fetches, expected, "{text}");
            }
        }
    }
}
