//! A build context as an archive: what is below its folder, without what `.dockerignore` names, and never what links
//! lead to.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::Stream;
use regex::Regex;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, readlinkat, statat};
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
    root: OwnedFd,
    dockerfile: PathBuf,
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

/// Why an archive ended early, when it did: whoever reads it hears only that it did.
pub(super) type Broken = Arc<OnceLock<String>>;

impl Context {
    /// Opens a context below the folder where contexts are.
    pub(super) fn open(contexts: &Path, folder: &Path, dockerfile: &str) -> Result<Self, Unusable> {
        let wrong = |field, detail: String| Unusable { field, detail };
        let unread = |path: &Path, error: io::Error| {
            wrong("build_context", format!("{} can't be read: {error}", path.display()))
        };
        let real = |path: &Path| fs::canonicalize(path).map_err(|error| unread(path, error));
        let (contexts, root) = (real(contexts)?, real(folder)?);
        let Ok(below) = root.strip_prefix(&contexts) else {
            let detail = "leads out of PORTCULLIS_DOCKER_CONTEXTS: expected a folder in it";
            return Err(wrong("build_context", detail.to_owned()));
        };
        let plain = Path::new(dockerfile).components();
        if dockerfile.is_empty()
            || !plain.into_iter().all(|part| matches!(part, std::path::Component::Normal(_)))
        {
            let detail = "expected the path of a Dockerfile in the build context, without `..`";
            return Err(wrong("dockerfile_path", detail.to_owned()));
        }
        // From here on nothing is found by a path again that somebody could make a link of.
        let contexts_open = openat(CWD, &contexts, FOLDER, Mode::empty()).map_err(io::Error::from);
        let contexts_open = contexts_open.map_err(|error| unread(&contexts, error))?;
        let root = folder_below(contexts_open, below).map_err(|error| unread(folder, error))?;
        let dockerfile: PathBuf = Path::new(dockerfile).components().collect();
        let text = text_below(&root, &dockerfile).map_err(|error| {
            let dockerfile = dockerfile.display();
            let detail =
                format!("{dockerfile} can't be read in the build context: {error}; links are not followed");
            wrong("dockerfile_path", detail)
        })?;
        let unread = |error| wrong("build_context", format!(".dockerignore can't be read: {error}"));
        let ignored = match text_below(&root, Path::new(".dockerignore")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            // Without it, what it leaves out would be built.
            read => read.map_err(unread)?,
        };
        let lines = ignored.strip_prefix('\u{feff}').unwrap_or(&ignored).lines();
        let ignored = lines.filter_map(|line| Pattern::parse(line).transpose()).collect::<Result<_, _>>();
        let ignored = ignored.map_err(|line| {
            wrong("build_context", format!(".dockerignore has a pattern that can't be read: {line:?}"))
        })?;
        Ok(Self { root, dockerfile, ignored, text })
    }

    /// The archive, made while it is read.
    pub(super) fn archive(self) -> (impl Stream<Item = io::Result<Bytes>> + Send + 'static, Broken) {
        let (sender, mut chunks) = mpsc::channel(CHUNKS);
        let broken = Broken::default();
        let tell = Arc::clone(&broken);
        tokio::task::spawn_blocking(move || {
            let chunks = Chunks { sender: sender.clone(), buffer: Vec::with_capacity(CHUNK) };
            if let Err(error) = self.write(chunks) {
                let _first = tell.set(error.to_string());
                // Nobody reads any more, or it is told to whoever does.
                let _told = sender.blocking_send(Err(error));
            }
        });
        (futures_util::stream::poll_fn(move |context| chunks.poll_recv(context)), broken)
    }

    fn write(self, out: Chunks) -> io::Result<()> {
        let mut archive = tar::Builder::new(out);
        // What was judged is what is built, whatever stands there by now.
        let mut header = tar::Header::new_gnu();
        header.set_size(self.text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, &self.dockerfile, self.text.as_bytes())?;
        let mut left = (MAX_FILES, MAX_BYTES);
        self.add(&mut archive, &self.root, Path::new(""), &mut left)?;
        archive.into_inner()?.flush()
    }

    fn add(
        &self,
        archive: &mut tar::Builder<Chunks>,
        folder: &OwnedFd,
        at: &Path,
        left: &mut (usize, u64),
    ) -> io::Result<()> {
        // The same context is the same archive, so that the engine's cache knows it.
        for name in names(folder)? {
            let path = at.join(&name);
            let here = |error: rustix::io::Errno| unread(&path, &error.into());
            if path == self.dockerfile {
                continue;
            }
            let found = statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(here)?;
            let kind = FileType::from_raw_mode(found.st_mode);
            if self.dockerfile.starts_with(&path) && kind != FileType::Directory {
                return Err(io::Error::other("the folder of the Dockerfile was replaced meanwhile"));
            }
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_mode(found.st_mode & 0o777);
            let ignored = self.is_ignored(&path);
            if kind == FileType::Directory {
                // Something in it may be taken all the same.
                if !ignored {
                    header.set_entry_type(tar::EntryType::Directory);
                    archive.append_data(&mut header, &path, io::empty())?;
                }
                if !ignored || self.ignored.iter().any(|pattern| pattern.negated) {
                    let inner = openat(folder, &name, FOLDER, Mode::empty()).map_err(here)?;
                    self.add(archive, &inner, &path, left)?;
                }
                continue;
            }
            if ignored {
                continue;
            }
            left.0 = left.0.checked_sub(1).ok_or_else(|| too_large("files"))?;
            if kind == FileType::Symlink {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                let target = readlinkat(folder, &name, Vec::new()).map_err(here)?;
                archive.append_link(&mut header, &path, OsStr::from_bytes(target.as_bytes()))?;
            } else if kind == FileType::RegularFile {
                let file = File::from(openat(folder, &name, FILE, Mode::empty()).map_err(here)?);
                let found = file.metadata()?;
                if !found.is_file() {
                    return Err(unread(&path, &io::Error::other("it was replaced meanwhile")));
                }
                left.1 = left.1.checked_sub(found.len()).ok_or_else(|| too_large("bytes"))?;
                header.set_size(found.len());
                header.set_mode(found.mode() & 0o777);
                header.set_mtime(u64::try_from(found.mtime()).unwrap_or_default());
                archive.append_data(&mut header, &path, Exactly { file, left: found.len() })?;
            }
        }
        Ok(())
    }

    fn is_ignored(&self, path: &Path) -> bool {
        // The engine needs this one, whatever stands in it.
        if *path == *Path::new(".dockerignore") {
            return false;
        }
        let text = path.to_string_lossy();
        let last = self.ignored.iter().rev().find(|pattern| pattern.regex.is_match(&text));
        last.is_some_and(|pattern| !pattern.negated)
    }
}

/// How folders and files are opened: nothing that a link leads to, and nothing that waits.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What is in a folder, in order.
fn names(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort();
    Ok(names)
}

fn folder_below(mut folder: OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    for part in path {
        folder = openat(&folder, part, FOLDER, Mode::empty())?;
    }
    Ok(folder)
}

fn text_below(folder: &OwnedFd, path: &Path) -> io::Result<String> {
    let folder = folder_below(folder.try_clone()?, path.parent().unwrap_or(Path::new("")))?;
    let name = path.file_name().unwrap_or_default();
    let file = File::from(openat(&folder, name, FILE, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut text = String::new();
    file.take(MAX_TEXT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_TEXT {
        return Err(io::Error::other(format!("it is longer than {MAX_TEXT} bytes")));
    }
    Ok(text)
}

fn unread(path: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("{} can't be read in the build context: {error}", path.display()))
}

/// As many bytes of a file as were announced. What grows or shrinks meanwhile must not break the archive.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = (&mut self.file).take(self.left).read(buffer)?;
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::other("a file of the build context became shorter meanwhile"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

fn too_large(what: &str) -> io::Error {
    io::Error::other(format!(
        "the build context has too many {what}: name what the build does not need in .dockerignore"
    ))
}

/// A line of `.dockerignore`.
#[derive(Debug)]
struct Pattern {
    regex: Regex,
    negated: bool,
}

impl Pattern {
    /// A pattern, nothing where the line has none; else the line.
    fn parse(line: &str) -> Result<Option<Self>, String> {
        let unread = || line.to_owned();
        if line.starts_with('#') {
            return Ok(None);
        }
        let pattern = line.trim();
        let (negated, pattern) =
            pattern.strip_prefix('!').map_or((false, pattern), |rest| (true, rest.trim()));
        let pattern = pattern.trim_start_matches("./").trim_matches('/');
        if pattern.is_empty() {
            return if negated { Err(unread()) } else { Ok(None) };
        }
        let mut regex = String::from("^");
        let mut rest = pattern;
        while let Some(next) = rest.chars().next() {
            let (taken, part) = match next {
                '*' if rest.starts_with("**/") => (3, "(.*/)?".to_owned()),
                '*' if rest.starts_with("**") => (2, ".*".to_owned()),
                '*' => (1, "[^/]*".to_owned()),
                '?' => (1, "[^/]".to_owned()),
                '[' => {
                    let end = rest.find(']').filter(|end| *end > 1).ok_or_else(unread)?;
                    // Sets of characters are written alike in both; further brackets are none of them.
                    let set = rest[1..end].replace('[', "\\[").replace("&&", "&\\&").replace("~~", "~\\~");
                    (end + 1, format!("[{}]", set.replace("--", "-\\-")))
                }
                '\\' => {
                    let escaped = rest[1..].chars().next().ok_or_else(unread)?;
                    (1 + escaped.len_utf8(), regex::escape(escaped.encode_utf8(&mut [0; 4])))
                }
                other => (other.len_utf8(), regex::escape(other.encode_utf8(&mut [0; 4]))),
            };
            regex.push_str(&part);
            rest = &rest[taken..];
        }
        // What is below an ignored folder is ignored with it.
        regex.push_str("(/.*)?$");
        let regex = Regex::new(&regex).map_err(|_| unread())?;
        Ok(Some(Self { regex, negated }))
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
        let chunks: Vec<_> = context.archive().0.collect().await;
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

        fs::write(root.join("a.log"), "x").expect("written");
        let (mut archive, broken) = {
            let context = Context::open(&contexts, &root, "Dockerfile").expect("a context");
            fs::remove_file(root.join("Dockerfile")).expect("removed");
            std::os::unix::fs::symlink(&outside, root.join("Dockerfile")).expect("linked");
            context.archive()
        };
        let mut bytes = Vec::new();
        while let Some(chunk) = archive.next().await {
            bytes.extend(chunk.expect("a chunk"));
        }
        assert!(
            broken.get().is_none() && String::from_utf8_lossy(&bytes).contains("FROM scratch"),
            "what was judged"
        );
        assert!(!String::from_utf8_lossy(&bytes).contains("secret"));
        assert!(Context::open(&contexts, &root, "Dockerfile").is_err(), "a Dockerfile that is a link");

        std::os::unix::fs::symlink(dir.path(), contexts.join("out")).expect("linked");
        assert!(
            Context::open(&contexts, &contexts.join("out"), "outside").is_err(),
            "a link out of the contexts"
        );
        assert!(Context::open(&contexts, &root, "../../outside").is_err());
        assert!(Context::open(&contexts, &root, "link").is_err(), "a Dockerfile that is a link out");
    }

    #[test]
    fn patterns_leave_out_what_the_engine_would() {
        let leaves_out = |pattern: &str, path: &str| {
            let pattern = Pattern::parse(pattern).expect("a pattern").expect("there");
            pattern.regex.is_match(path)
        };
        for (pattern, path, expected) in [
            ("secret[0-9].pem", "secret1.pem", true),
            ("secret[^0-9].pem", "secret1.pem", false),
            ("\\#x", "#x", true),
            ("*/temp*", "a/temporary.txt", true),
            ("**/*.go", "a/b/c.go", true),
            ("a.b", "axb", false),
            ("/a/", "a/b", true),
        ] {
            assert_eq!(leaves_out(pattern, path), expected, "{pattern} {path}");
        }
        for wrong in ["[a", "a\\", "!", "[]", "[z-a]"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Pattern::parse("# x").expect("a comment").is_none());
    }
}
