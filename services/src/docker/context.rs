//! A build context as an archive: what is below its folder, without what `.dockerignore` names, and never what links
//! lead to.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::Stream;
use regex::Regex;
use tokio::sync::mpsc;

/// The largest file of patterns, and the largest Dockerfile.
const MAX_TEXT: u64 = 1 << 20;

/// The most files of a context, and their most bytes.
const MAX_FILES: usize = 100_000;
const MAX_BYTES: u64 = 4 << 30;

/// Chunks on their way to the engine.
const CHUNKS: usize = 16;
const CHUNK: usize = 64 * 1024;

/// A folder that is built.
#[derive(Debug)]
pub(super) struct Context {
    root: PathBuf,
    dockerfile: String,
    ignored: Vec<Pattern>,
    /// What is written in the Dockerfile.
    pub(super) text: String,
}

/// Why a context can't be built.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {detail}")]
pub(super) struct Unusable {
    pub(super) field: &'static str,
    pub(super) detail: String,
}

impl Context {
    /// Opens a context below the folder where contexts are.
    pub(super) fn open(contexts: &Path, folder: &Path, dockerfile: &str) -> Result<Self, Unusable> {
        let wrong = |field, detail: String| Unusable { field, detail };
        let real = |path: &Path| {
            fs::canonicalize(path)
                .map_err(|error| wrong("build_context", format!("{} can't be read: {error}", path.display())))
        };
        let (contexts, root) = (real(contexts)?, real(folder)?);
        if !root.starts_with(&contexts) {
            let detail = "leads out of PORTCULLIS_DOCKER_CONTEXTS: expected a folder in it";
            return Err(wrong("build_context", detail.to_owned()));
        }
        let plain = Path::new(dockerfile).components();
        if dockerfile.is_empty()
            || !plain.into_iter().all(|part| matches!(part, std::path::Component::Normal(_)))
        {
            let detail = "expected the path of a Dockerfile in the build context, without `..`";
            return Err(wrong("dockerfile_path", detail.to_owned()));
        }
        let path = root.join(dockerfile);
        let inside = fs::canonicalize(&path).is_ok_and(|path| path.starts_with(&root));
        let text = if inside { read_text(&path) } else { Err(io::ErrorKind::NotFound.into()) };
        let text = text.map_err(|error| {
            wrong("dockerfile_path", format!("{dockerfile} can't be read in the build context: {error}"))
        })?;
        let ignored = read_text(&root.join(".dockerignore")).unwrap_or_default();
        let ignored = ignored.lines().filter_map(Pattern::parse).collect();
        Ok(Self { root, dockerfile: dockerfile.to_owned(), ignored, text })
    }

    /// The images that the Dockerfile begins with or copies from, stages of its own aside.
    pub(super) fn bases(&self) -> Vec<String> {
        let mut stages: Vec<String> = Vec::new();
        let mut bases = Vec::new();
        for line in self.text.replace("\\\n", " ").lines() {
            let mut words = line.split_whitespace();
            let verb = words.next().unwrap_or_default().to_ascii_uppercase();
            let image = match verb.as_str() {
                "FROM" => words.by_ref().find(|word| !word.starts_with("--")),
                "COPY" | "ADD" => words.clone().find_map(|word| word.strip_prefix("--from=")),
                _ => None,
            };
            let Some(image) = image else { continue };
            let own = stages.iter().any(|stage| stage.eq_ignore_ascii_case(image));
            let number = image.bytes().all(|byte| byte.is_ascii_digit());
            if image != "scratch" && !own && !number {
                bases.push(image.to_owned());
            }
            if verb == "FROM" && words.next().is_some_and(|word| word.eq_ignore_ascii_case("as")) {
                stages.extend(words.next().map(str::to_owned));
            }
        }
        bases
    }

    /// The archive, made while it is read.
    pub(super) fn archive(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let (sender, mut chunks) = mpsc::channel(CHUNKS);
        tokio::task::spawn_blocking(move || {
            let chunks = Chunks { sender: sender.clone(), buffer: Vec::with_capacity(CHUNK) };
            if let Err(error) = self.write(chunks) {
                // Nobody reads any more, or it is told to whoever does.
                let _told = sender.blocking_send(Err(error));
            }
        });
        futures_util::stream::poll_fn(move |context| chunks.poll_recv(context))
    }

    fn write(self, out: Chunks) -> io::Result<()> {
        let mut archive = tar::Builder::new(out);
        archive.follow_symlinks(false);
        let mut left = (MAX_FILES, MAX_BYTES);
        self.add(&mut archive, Path::new(""), &mut left)?;
        archive.into_inner()?.flush()
    }

    fn add(
        &self,
        archive: &mut tar::Builder<Chunks>,
        folder: &Path,
        left: &mut (usize, u64),
    ) -> io::Result<()> {
        let mut entries = fs::read_dir(self.root.join(folder))?.collect::<io::Result<Vec<_>>>()?;
        // The same context is the same archive, so that the engine's cache knows it.
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = folder.join(entry.file_name());
            let kind = entry.file_type()?;
            let ignored = self.is_ignored(&path);
            if kind.is_dir() {
                // Something in it may be taken all the same.
                if !ignored {
                    archive.append_dir(&path, entry.path())?;
                }
                if !ignored
                    || self.ignored.iter().any(|pattern| pattern.negated)
                    || self.holds_dockerfile(&path)
                {
                    self.add(archive, &path, left)?;
                }
                continue;
            }
            if ignored {
                continue;
            }
            left.0 = left.0.checked_sub(1).ok_or_else(|| too_large("files"))?;
            if kind.is_symlink() {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                header.set_mode(0o777);
                archive.append_link(&mut header, &path, fs::read_link(entry.path())?)?;
            } else if kind.is_file() {
                let file = open_itself(&entry.path())?;
                let found = file.metadata()?;
                left.1 = left.1.checked_sub(found.len()).ok_or_else(|| too_large("bytes"))?;
                let mut header = tar::Header::new_gnu();
                header.set_size(found.len());
                header.set_mode(found.mode() & 0o777);
                header.set_mtime(u64::try_from(found.mtime()).unwrap_or_default());
                // What grows meanwhile must not break the archive.
                archive.append_data(&mut header, &path, file.take(found.len()))?;
            }
        }
        Ok(())
    }

    fn holds_dockerfile(&self, folder: &Path) -> bool {
        Path::new(&self.dockerfile).starts_with(folder)
    }

    fn is_ignored(&self, path: &Path) -> bool {
        let text = path.to_string_lossy();
        // The engine needs these two, whatever stands in the second.
        if *text == *self.dockerfile || *text == *".dockerignore" {
            return false;
        }
        let last = self.ignored.iter().rev().find(|pattern| pattern.regex.is_match(&text));
        last.is_some_and(|pattern| !pattern.negated)
    }
}

fn too_large(what: &str) -> io::Error {
    io::Error::other(format!(
        "the build context has too many {what}: name what the build does not need in .dockerignore"
    ))
}

/// Opens a file, but not what a link of its name leads to.
fn open_itself(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
    fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open_itself(path)?.take(MAX_TEXT).read_to_string(&mut text)?;
    Ok(text)
}

/// A line of `.dockerignore`.
#[derive(Debug)]
struct Pattern {
    regex: Regex,
    negated: bool,
}

impl Pattern {
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (negated, line) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest.trim()));
        let line = line.trim_start_matches("./").trim_matches('/');
        let mut regex = String::from("^");
        let mut rest = line;
        while let Some(next) = rest.chars().next() {
            let (taken, part) = match next {
                '*' if rest.starts_with("**/") => (3, "(.*/)?".to_owned()),
                '*' if rest.starts_with("**") => (2, ".*".to_owned()),
                '*' => (1, "[^/]*".to_owned()),
                '?' => (1, "[^/]".to_owned()),
                other => (other.len_utf8(), regex::escape(other.encode_utf8(&mut [0; 4]))),
            };
            regex.push_str(&part);
            rest = &rest[taken..];
        }
        // What is below an ignored folder is ignored with it.
        regex.push_str("(/.*)?$");
        Some(Self { regex: Regex::new(&regex).ok()?, negated })
    }
}

/// Hands an archive on in chunks; waits while nobody takes them.
struct Chunks {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::StreamExt;

    use super::*;

    async fn archived(context: Context) -> BTreeMap<String, String> {
        let chunks: Vec<_> = context.archive().collect().await;
        let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.expect("a chunk")).collect();
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries = archive.entries().expect("entries").map(|entry| {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").to_string_lossy().trim_end_matches('/').to_owned();
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("a text");
            if entry.header().entry_type().is_symlink() {
                text = format!("-> {}", entry.link_name().expect("a link").expect("there").display());
            }
            (path, text)
        });
        entries.collect()
    }

    #[tokio::test]
    async fn an_archive_has_what_is_in_the_folder_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let outside = dir.path().join("outside");
        fs::write(&outside, "secret").expect("written");
        let contexts = dir.path().join("contexts");
        let root = contexts.join("app");
        fs::create_dir_all(root.join("target/deep")).expect("made");
        for (name, text) in [
            ("Dockerfile", "FROM scratch"),
            (".dockerignore", "# nothing of these\n*.log\ntarget\n!target/keep\nDockerfile\n"),
            ("main.c", "main"),
            ("a.log", "x"),
            ("target/keep", "kept"),
            ("target/deep/gone", "x"),
        ] {
            fs::write(root.join(name), text).expect("written");
        }
        std::os::unix::fs::symlink(&outside, root.join("link")).expect("linked");
        let context = Context::open(&contexts, &root, "Dockerfile").expect("a context");
        let found = archived(context).await;
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(names, [".dockerignore", "Dockerfile", "link", "main.c", "target/keep"]);
        assert!(found["link"].starts_with("-> ") && found["main.c"] == "main");
        assert!(!format!("{found:?}").contains("secret"));

        std::os::unix::fs::symlink(dir.path(), contexts.join("out")).expect("linked");
        assert!(
            Context::open(&contexts, &contexts.join("out"), "outside").is_err(),
            "a link out of the contexts"
        );
        assert!(Context::open(&contexts, &root, "../../outside").is_err());
        assert!(Context::open(&contexts, &root, "link").is_err(), "a Dockerfile that is a link out");
    }

    #[test]
    fn every_image_that_a_dockerfile_begins_with_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let text = "FROM --platform=linux/amd64 rust:1 AS build\nRUN x\nFROM scratch\nCOPY --from=build /a /a\n\
                    copy --from=evil/image /b /b\nFROM \\\n  alpine\nFROM build\nCOPY --from=0 / /\n";
        fs::write(dir.path().join("Dockerfile"), text).expect("written");
        let context = Context::open(dir.path(), dir.path(), "Dockerfile").expect("a context");
        assert_eq!(context.bases(), ["rust:1", "evil/image", "alpine"]);
    }
}
