//! The store that nodes share: Redis 6.2 or later, alone, behind sentinels, or as a cluster.
//!
//! Every change is one Lua script, so that a commit is atomic. Every operation has a deadline; while
//! Redis is away operations fail with [`Error::Unavailable`], and work again when it is back, without
//! being told. What Redis loses when it fails (with AOF each second: up to a second) is lost here too.
//!
//! A stream's entries have one field, `r`, and ids of their time; its key is `{PREFIX:NAME}`. The layers'
//! `RedisStreams` sink writes the same form, so what other services logged there is read like our own.
//!
//! Documents are in one hash per kind, as `VERSION JSON`. One that was written by hand without a
//! version counts as version 0, and is served like the others.

mod feed;
mod keys;
mod link;
mod records;
mod target;

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use redis::{Cmd, FromRedisValue, Script, Value, cmd, from_redis_value};
use secrecy::SecretString;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::feed::Feed;
use self::keys::Keys;
use self::link::{Link, LinkError};
use self::target::Target;
pub use self::target::UrlError;
use super::{
    Document, Entry, EntryId, Error, Expect, ItemKey, Keep, Key, Kind, Lease, Logged, Range, Raw, Record,
    RecordCursor, RecordKey, RecordKind, RecordPage, RecordWrite, Result, Revision, Store, Stream, Write,
    milliseconds, new_epoch,
};

/// Where Redis is, and what we may do there.
#[derive(Clone)]
pub struct Options {
    /// `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, `rediss://…` for TLS, `unix:///PATH`,
    /// `redis+sentinel://HOST,HOST/MASTER[/DB]`, or `redis+cluster://HOST,HOST` (both with `rediss+` for
    /// TLS; `?sentinel_password=` for sentinels that have one).
    pub url: SecretString,
    /// The password, if the URL has none.
    pub password: Option<SecretString>,
    /// The certificate authority in PEM that TLS trusts instead of the well-known ones.
    pub ca: Option<Vec<u8>>,
    /// What all keys begin with.
    pub prefix: String,
    /// How long an operation may take.
    pub timeout: Duration,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, password: _, ca: _, prefix, timeout } = self;
        f.debug_struct("Options").field("prefix", prefix).field("timeout", timeout).finish_non_exhaustive()
    }
}

impl Options {
    /// The defaults for a URL.
    pub fn new(url: SecretString) -> Self {
        Self { url, password: None, ca: None, prefix: "portcullis".into(), timeout: Duration::from_secs(2) }
    }
}

/// How many changes the feed remembers; a reader needs none of them but the last.
const FEED_LENGTH: usize = 256;
/// How long a commit can be repeated without counting twice: longer than any client retries.
const COMMIT_MARK: Duration = Duration::from_secs(60);
/// Entries and bytes that one script appends: Redis does nothing else meanwhile.
const BATCH_ENTRIES: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// Entries that are read at once.
const PAGE: usize = 512;

static COMMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("commit.lua")));
static LOAD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("load.lua")));
static APPEND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("append.lua")));
static TAGGED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("tagged.lua")));
static ACQUIRE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("acquire.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("release.lua")));

/// The store in Redis.
#[derive(Debug)]
pub struct RedisStore {
    target: Arc<Target>,
    keys: Keys,
    link: Link,
    patience: Duration,
    closed: CancellationToken,
    /// Ends the feeds.
    _close: DropGuard,
}

impl RedisStore {
    /// A store that connects when it is first used: Redis may be away now.
    pub fn new(options: &Options) -> std::result::Result<Self, UrlError> {
        let keys = Keys::new(&options.prefix)?;
        let target = Arc::new(Target::new(options)?);
        let closed = CancellationToken::new();
        Ok(Self {
            link: Link::new(target.clone(), options.timeout),
            target,
            keys,
            patience: options.timeout,
            _close: closed.clone().drop_guard(),
            closed,
        })
    }

    async fn run<T: FromRedisValue>(&self, cmd: &Cmd, place: impl Fn() -> String) -> Result<T> {
        read(self.link.run(cmd, None).await.map_err(failed)?, place)
    }

    async fn run_script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        args: &[impl AsRef<[u8]>],
        place: impl Fn() -> String,
    ) -> Result<T> {
        let mut cmd = cmd("EVALSHA");
        cmd.arg(script.get_hash()).arg(keys.len()).arg(keys);
        for arg in args {
            cmd.arg(arg.as_ref());
        }
        read(self.link.run(&cmd, Some(script)).await.map_err(failed)?, place)
    }

    /// The keys that commits and loads always name: the revision, and the documents of all kinds.
    fn kinds(&self) -> impl Iterator<Item = String> {
        Kind::ALL.into_iter().map(|kind| self.keys.documents(kind))
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn load_raw(&self) -> Result<(Revision, Vec<Raw>)> {
        let keys: Vec<String> = std::iter::once(self.keys.revision()).chain(self.kinds()).collect();
        let place = || "the configuration".to_owned();
        let (epoch, n, kinds): (String, u64, Vec<Vec<Vec<u8>>>) =
            self.run_script(&LOAD, &keys, NO_ARGS, place).await?;
        let documents = Kind::ALL.into_iter().zip(kinds).flat_map(|(kind, rows)| raw_documents(kind, &rows));
        Ok((revision(epoch, n), documents.collect()))
    }

    async fn revision(&self) -> Result<Revision> {
        let key = self.keys.revision();
        let (epoch, n): (Option<String>, Option<u64>) =
            self.run(cmd("HMGET").arg(&key).arg("epoch").arg("n"), || key.clone()).await?;
        Ok(revision(epoch.unwrap_or_default(), n.unwrap_or_default()))
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Document>> {
        let key = self.keys.documents(kind);
        let rows: Vec<Vec<u8>> = self.run(cmd("HGETALL").arg(&key), || key.clone()).await?;
        Ok(raw_documents(kind, &rows).into_iter().map(Raw::read).collect())
    }

    async fn get(&self, key: &Key) -> Result<Option<Document>> {
        let documents = self.keys.documents(key.kind);
        let stored: Option<Vec<u8>> =
            self.run(cmd("HGET").arg(&documents).arg(&key.id), || key.to_string()).await?;
        Ok(stored.map(|stored| raw(key.clone(), &stored).read()))
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision> {
        // A random name for this commit, so that repeating it after a lost answer changes nothing.
        let id = new_epoch()?;
        let mut keys = vec![self.keys.revision(), self.keys.feed(), self.keys.commit(&id)];
        let first_kind = keys.len() + 1;
        keys.extend(self.kinds());
        let mut args: Vec<Vec<u8>> = vec![
            new_epoch()?.into_bytes(),
            FEED_LENGTH.to_string().into_bytes(),
            milliseconds(COMMIT_MARK).to_string().into_bytes(),
        ];
        for write in &writes {
            let (operation, id, expect, value) = match write {
                Write::Put { key, value, expect } => {
                    let json = serde_json::to_vec(value).map_err(|error| Error::Corrupt {
                        place: key.to_string(),
                        source: Box::new(error),
                    })?;
                    ("put", key.id.clone(), expectation(*expect), json)
                }
                Write::Delete { key, expect } => ("delete", key.id.clone(), expectation(*expect), Vec::new()),
                Write::Check { key, expect } => ("check", key.id.clone(), expectation(*expect), Vec::new()),
                Write::Fence { number, .. } => ("fence", number.to_string(), String::new(), Vec::new()),
            };
            let key = match write {
                Write::Put { key, .. } | Write::Delete { key, .. } | Write::Check { key, .. } => {
                    let place = Kind::ALL.iter().position(|kind| *kind == key.kind);
                    first_kind + place.expect("all kinds are listed")
                }
                Write::Fence { lease, .. } => {
                    keys.push(self.keys.lease(lease));
                    keys.len()
                }
            };
            args.extend([operation.into(), key.to_string().into(), id.into(), expect.into(), value]);
        }
        let place = || "the configuration".to_owned();
        let reply: Vec<String> = self.run_script(&COMMIT, &keys, &args, place).await?;
        outcome(&reply, &writes).ok_or_else(|| {
            let source = format!("unexpected answer {reply:?}").into();
            Error::Corrupt { place: place(), source }
        })?
    }

    fn changes(&self, since: Revision) -> BoxStream<'static, Revision> {
        let feed = Feed {
            target: self.target.clone(),
            keys: self.keys.clone(),
            patience: self.patience,
            seen: since,
            closed: self.closed.clone(),
            connection: None,
            failures: 0,
        };
        stream::unfold(feed, |mut feed| async move { Some((feed.next().await?, feed)) }).boxed()
    }

    async fn get_record(&self, key: &RecordKey) -> Result<Option<Record>> {
        self.read_record(key).await
    }

    async fn commit_records(&self, writes: Vec<RecordWrite>) -> Result<()> {
        self.write_records(writes).await
    }

    async fn list_records(
        &self,
        kind: RecordKind,
        index: Option<&str>,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> Result<RecordPage> {
        self.page_of_records(kind, index, after, limit).await
    }

    async fn count_records(&self, kind: RecordKind, index: Option<&str>) -> Result<u64> {
        self.number_of_records(kind, index).await
    }

    async fn put_item(&self, key: &ItemKey, value: &[u8], ttl: Duration) -> Result<()> {
        let name = self.keys.item(key);
        // Redis refuses a life of nothing; and the longest that it takes is shorter than ours.
        let life = milliseconds(ttl).clamp(1, u64::from(u32::MAX) * 1000);
        self.run(cmd("SET").arg(&name).arg(value).arg("PX").arg(life), || name.clone()).await
    }

    async fn get_item(&self, key: &ItemKey) -> Result<Option<Vec<u8>>> {
        let name = self.keys.item(key);
        self.run(cmd("GET").arg(&name), || name.clone()).await
    }

    async fn take_item(&self, key: &ItemKey) -> Result<Option<Vec<u8>>> {
        let name = self.keys.item(key);
        self.run(cmd("GETDEL").arg(&name), || name.clone()).await
    }

    async fn append(&self, stream: Stream, entries: Vec<Entry>, keep: Keep) -> Result<()> {
        let name = self.keys.stream(stream);
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let mut keys = vec![name.clone()];
            let mut tags: Vec<String> = Vec::new();
            let mut args: Vec<Bytes> = vec![
                keep.entries.to_string().into(),
                // A double holds whole numbers up to 2^53, which is enough for ages.
                milliseconds(keep.age).min(1 << 52).to_string().into(),
            ];
            let mut bytes = 0;
            let mut count = 0;
            while let Some(entry) = entries.next_if(|_| count < BATCH_ENTRIES && bytes < BATCH_BYTES) {
                count += 1;
                bytes += entry.record.len();
                args.extend([
                    entry.time.to_string().into(),
                    entry.record,
                    entry.tags.len().to_string().into(),
                ]);
                for tag in entry.tags {
                    let place = tags.iter().position(|known| *known == tag).unwrap_or_else(|| {
                        keys.push(self.keys.tag(stream, &tag));
                        tags.push(tag);
                        tags.len() - 1
                    });
                    args.push((place + 2).to_string().into());
                }
            }
            self.run_script::<()>(&APPEND, &keys, &args, || name.clone()).await?;
        }
        Ok(())
    }

    async fn range(&self, stream: Stream, range: &Range) -> Result<Vec<Logged>> {
        let name = self.keys.stream(stream);
        let mut found = Vec::new();
        let mut rest = range.clone();
        while let Some((first, last)) = rest.bounds() {
            let count = rest.limit.min(PAGE);
            let page: Value = match &range.tag {
                Some(tag) => {
                    let keys = [name.clone(), self.keys.tag(stream, tag)];
                    let direction = if range.newest_first { "backward" } else { "forward" };
                    let args = [direction.to_owned(), padded(first), padded(last), count.to_string()];
                    self.run_script(&TAGGED, &keys, &args, || name.clone()).await?
                }
                None => {
                    let (command, from, to) =
                        if range.newest_first { ("XREVRANGE", last, first) } else { ("XRANGE", first, last) };
                    let mut cmd = cmd(command);
                    cmd.arg(&name).arg(from.to_string()).arg(to.to_string()).arg("COUNT").arg(count);
                    self.run(&cmd, || name.clone()).await?
                }
            };
            let page = logged(page).map_err(|source| Error::Corrupt { place: name.clone(), source })?;
            let complete = page.len() < count;
            rest.limit -= page.len().min(rest.limit);
            rest.after = page.last().map(|logged| logged.id);
            found.extend(page);
            if complete {
                break;
            }
        }
        Ok(found)
    }

    async fn clear(&self, stream: Stream) -> Result<u64> {
        let name = self.keys.stream(stream);
        // Unlike deleting the key, this remembers the last id, so that ids go on growing.
        self.run(cmd("XTRIM").arg(&name).arg("MAXLEN").arg(0), || name.clone()).await
    }

    async fn acquire(&self, lease: &str, holder: &str, ttl: Duration) -> Result<Option<Lease>> {
        let keys = [self.keys.lease(lease), self.keys.lease_numbers()];
        let life = milliseconds(ttl).clamp(1, u64::from(u32::MAX) * 1000);
        let args = [holder.to_owned(), life.to_string(), lease.to_owned()];
        let number: Option<u64> = self.run_script(&ACQUIRE, &keys, &args, || keys[0].clone()).await?;
        Ok(number.map(|number| Lease { number }))
    }

    async fn release(&self, lease: &str, holder: &str) -> Result<()> {
        let keys = [self.keys.lease(lease)];
        self.run_script(&RELEASE, &keys, &[holder], || keys[0].clone()).await
    }

    async fn ping(&self) -> Result<()> {
        self.run::<Value>(&cmd("PING"), || "ping".to_owned()).await.map(drop)
    }
}

const NO_ARGS: &[&[u8]] = &[];

fn revision(epoch: String, n: u64) -> Revision {
    Revision { epoch, n }
}

fn expectation(expect: Expect) -> String {
    match expect {
        Expect::Any => "any".into(),
        Expect::Absent => "absent".into(),
        Expect::Present => "present".into(),
        Expect::Version(version) => version.to_string(),
    }
}

/// What `commit.lua` answered, if it is an answer of its.
fn outcome(reply: &[String], writes: &[Write]) -> Option<Result<Revision>> {
    match reply {
        [ok, epoch, n] if ok == "ok" => Some(Ok(revision(epoch.clone(), n.parse().ok()?))),
        [_, place] => match writes.get(place.parse::<usize>().ok()?)? {
            Write::Fence { lease, .. } => Some(Err(Error::Fenced { lease: lease.clone() })),
            Write::Put { key, .. } | Write::Delete { key, .. } | Write::Check { key, .. } => {
                Some(Err(Error::Conflict { key: key.clone() }))
            }
        },
        _ => None,
    }
}

/// The rows of a hash, by id.
fn raw_documents(kind: Kind, rows: &[Vec<u8>]) -> Vec<Raw> {
    let (pairs, _) = rows.as_chunks::<2>();
    let read = |[id, stored]: &[Vec<u8>; 2]| raw(Key::new(kind, String::from_utf8_lossy(id)), stored);
    let mut documents: Vec<Raw> = pairs.iter().map(read).collect();
    documents.sort_unstable_by(|a, b| a.key.id.cmp(&b.key.id));
    documents
}

/// `VERSION JSON`, or JSON alone.
fn raw(key: Key, stored: &[u8]) -> Raw {
    let digits = stored.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = stored.split_at(digits);
    let version = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
    let (version, json) = match (version, rest) {
        (Some(version), [b' ', json @ ..]) => (version, json),
        _ => (0, stored),
    };
    Raw { key, version, json: json.into() }
}

/// An id such that ids compare as strings.
fn padded(id: EntryId) -> String {
    format!("{:020}-{:020}", id.time, id.sequence)
}

/// What `XRANGE` answers: ids with fields, of which ours have one.
fn logged(page: Value) -> std::result::Result<Vec<Logged>, Box<dyn std::error::Error + Send + Sync>> {
    let page: Vec<Value> = from_redis_value(page)?;
    let mut entries = Vec::with_capacity(page.len());
    for entry in page {
        let [id, fields] = <[Value; 2]>::try_from(from_redis_value::<Vec<Value>>(entry)?)
            .map_err(|_| "an entry without id or fields")?;
        let id: String = from_redis_value(id)?;
        let mut fields = from_redis_value::<Vec<Value>>(fields)?.into_iter();
        let Some(Value::BulkString(record)) = fields.nth(1) else {
            return Err("an entry without a record".into());
        };
        entries.push(Logged { id: id.parse()?, record: record.into() });
    }
    Ok(entries)
}

fn read<T: FromRedisValue>(value: Value, place: impl Fn() -> String) -> Result<T> {
    from_redis_value(value).map_err(|error| Error::Corrupt { place: place(), source: Box::new(error) })
}

fn failed(error: LinkError) -> Error {
    Error::Unavailable(Box::new(error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_read_with_and_without_version() {
        let key = || Key::new(Kind::Proxy, "a");
        for (stored, version, value) in [
            (r#"12 {"a":1}"#, 12, json!({ "a": 1 })),
            (r#"{"a":1}"#, 0, json!({ "a": 1 })),
            ("7", 0, json!(7)),
            ("1 7", 1, json!(7)),
            ("1 not json", 1, json!("not json")),
            ("99999999999999999999999 1", 0, json!("99999999999999999999999 1")),
            ("", 0, json!("")),
        ] {
            assert_eq!(
                raw(key(), stored.as_bytes()).read(),
                Document { key: key(), version, value },
                "{stored}"
            );
        }
    }

    #[test]
    fn options_and_errors_do_not_show_the_password() {
        let options = Options {
            password: Some("hidden".into()),
            ..Options::new("redis://user:hidden@127.0.0.1:1/0".into())
        };
        let store = RedisStore::new(&options).expect("a good URL");
        assert!(!format!("{options:?} {store:?}").contains("hidden"));
        assert!(matches!(
            RedisStore::new(&Options { prefix: "a{b".into(), ..options }),
            Err(UrlError::Prefix { .. })
        ));
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_unavailable_at_once() {
        let options = Options::new("redis://:hidden@127.0.0.1:1/0".into());
        let store = RedisStore::new(&options).expect("a good URL");
        let Err(Error::Unavailable(source)) = store.ping().await else { panic!("nobody listens there") };
        let shown = format!("{source} {source:?}");
        assert!(shown.contains("127.0.0.1:1") && !shown.contains("hidden"), "{shown}");
    }
}
