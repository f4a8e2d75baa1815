//! What must be there before anything is served: data folder, secret key, store, the first configuration, and
//! what the settings say about every host.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portcullis_layers::users::{InvalidUser, Users};
use portcullis_services::config::access::{Lists, Site};
use portcullis_services::config::view::View;
use portcullis_services::mirror::Mirror;
use portcullis_services::oauth::Keys;
use portcullis_services::store::connect;
use portcullis_services::store::redis::Options;
use portcullis_services::store::snapshot_file::SnapshotFile;
use portcullis_services::store::{Raw, Revision, Store};
use portcullis_services::vault::Vault;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::bootstrap::{self, BootstrapError};
use crate::daemon::DaemonError;
use crate::settings::Settings;
use crate::succession::Served;

/// How often a store is asked that was not there at start.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What is known before anything is served.
pub(crate) struct FirstLook {
    pub(crate) keys: Arc<Keys>,
    pub(crate) view: Arc<View>,
    pub(crate) from_copy: bool,
    pub(crate) fresh: bool,
    /// The state of the store, when it is another one than the copy was made of, or an older state of it.
    pub(crate) replaced: Option<Revision>,
}

/// This node's copy of the configuration.
struct Kept {
    keys: Keys,
    view: View,
}

impl Kept {
    fn serve(self, settings: &Settings, replaced: Option<Revision>) -> Result<FirstLook, DaemonError> {
        let Self { keys, view } = self;
        bootstrap::check_view(&view, settings)?;
        Ok(FirstLook { keys: Arc::new(keys), view: Arc::new(view), from_copy: true, fresh: false, replaced })
    }

    /// Whether a store may not stand in its place without an admin's word.
    fn is_replaced_by(&self, found: &View) -> bool {
        Served::of(&self.view).is_replaced_by(found)
    }
}

/// Reads the store, and makes what is missing there. While it is away, or is another one than before, this node's
/// own copy does; without one there is nothing to serve, so it waits.
pub(crate) async fn first_look(
    settings: &Settings,
    mirror: &Mirror,
    vault: &Arc<Vault>,
    copy: Option<&SnapshotFile>,
    stop: &CancellationToken,
) -> Result<FirstLook, DaemonError> {
    let (mut kept, mut failure) = match read_copy(copy, vault) {
        Ok(kept) => (kept, None),
        Err(error) => (None, Some(error)),
    };
    if let Some(error) = &failure {
        warn!(%error, "there is a copy of the configuration, but it can't be used");
    }
    let mut told = false;
    loop {
        match from_store(settings, mirror, vault, &mut kept, &mut failure).await {
            Err(DaemonError::Bootstrap(error)) if error.is_temporary() => {
                if let Some(kept) = kept.take() {
                    warn!(%error, "the store is away: serving this node's copy of the configuration");
                    return kept.serve(settings, None);
                }
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "the store is away, and there is no copy of the configuration: waiting");
                }
            }
            outcome => return outcome,
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => {}
            () = stop.cancelled() => return Err(DaemonError::Interrupted),
        }
    }
}

/// What the store holds, unless what is kept must not make way for it. Nothing is written before that is known.
async fn from_store(
    settings: &Settings,
    mirror: &Mirror,
    vault: &Vault,
    kept: &mut Option<Kept>,
    failure: &mut Option<DaemonError>,
) -> Result<FirstLook, DaemonError> {
    let found = mirror.load().await.map_err(BootstrapError::from)?;
    if let Some(kept) = kept.take_if(|kept| kept.is_replaced_by(&found)) {
        return kept.serve(settings, Some(found.revision.clone()));
    }
    // The copy may be all that is left of an emptied store.
    if found.is_empty()
        && let Some(error) = failure.take()
    {
        return Err(error);
    }
    let ready = bootstrap::run(&**mirror.store(), vault, settings).await?;
    let view = mirror.load().await.map_err(BootstrapError::from)?;
    // It may have been replaced in between.
    if let Some(kept) = kept.take_if(|kept| kept.is_replaced_by(&view)) {
        return kept.serve(settings, Some(view.revision.clone()));
    }
    let (keys, fresh) = (Arc::new(ready.keys), ready.fresh);
    Ok(FirstLook { keys, view, from_copy: false, fresh, replaced: None })
}

fn read_copy(copy: Option<&SnapshotFile>, vault: &Vault) -> Result<Option<Kept>, DaemonError> {
    let Some(copy) = copy else { return Ok(None) };
    let read = copy.read().map_err(|source| DaemonError::Copy { source })?;
    let Some((revision, documents)) = read else { return Ok(None) };
    let Some(keys) = Keys::load(&documents, vault, jiff::Timestamp::now())? else { return Ok(None) };
    Ok(Some(Kept { keys, view: View::new(revision, documents.iter().map(Raw::from).collect(), None) }))
}

/// Which store a URL means: without credentials, which may change while the store stays the same.
pub(crate) fn store_address(url: &str) -> String {
    let url = url.trim().split('?').next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    format!("{}://{}{path}", scheme.to_ascii_lowercase(), hosts.to_ascii_lowercase())
}

pub(crate) fn open_vault(settings: &Settings) -> Result<Vault, DaemonError> {
    Ok(match (&settings.storage.secret_key, &settings.storage.redis_url) {
        (Some(key), _) => Vault::new(key)?,
        (None, None) => Vault::open_or_create(&settings.storage.data)?,
        (None, Some(_)) => {
            return Err(DaemonError::Setting {
                variable: "PORTCULLIS_SECRET_KEY",
                detail: "is required with REDIS_URL: every node needs the same one. Set at least 32 random characters, \
                         e.g. of `head -c 32 /dev/urandom | base64`"
                    .to_owned(),
            });
        }
    })
}

pub(crate) fn open_store(settings: &Settings) -> Result<Arc<dyn Store>, DaemonError> {
    let storage = &settings.storage;
    let (variable, chosen) = match &storage.redis_url {
        Some(url) => {
            let mut options = Options::new(url.clone());
            options.password.clone_from(&storage.redis_password);
            ("REDIS_URL", connect::Settings::Redis(options))
        }
        None => ("PORTCULLIS_DATA", connect::Settings::Embedded(storage.data.clone())),
    };
    connect::open(&chosen).map_err(|source| DaemonError::Connect { variable, source })
}

pub(crate) fn site(settings: &Settings) -> Result<Site, DaemonError> {
    let identity = &settings.identity;
    let list = |variable: &'static str, entries: &[String]| {
        let entries = entries.iter().map(|entry| entry.trim()).filter(|entry| !entry.is_empty());
        Users::parse(entries)
            .map_err(|error: InvalidUser| DaemonError::Setting { variable, detail: error.to_string() })
    };
    let no_wildcard = |variable: &'static str, users: Users| {
        if users.is_everyone() {
            let detail = "`*` is refused for admins: list logins, or service:NAME".to_owned();
            return Err(DaemonError::Setting { variable, detail });
        }
        Ok(users)
    };
    let defaults = Lists {
        admin: no_wildcard("OAUTH_ADMIN_USERS", list("OAUTH_ADMIN_USERS", &identity.oauth_admin_users)?)?,
        user: list("OAUTH_USER_USERS", &identity.oauth_user_users)?,
        mcp: list("OAUTH_MCP_USERS", &identity.oauth_mcp_users)?,
    };
    let own = |variable: &'static str, entries: &Option<Vec<String>>, default: &Users| match entries {
        Some(entries) => list(variable, entries),
        None => Ok(default.clone()),
    };
    let admin = "OAUTH_LOCALHOST_ADMIN_USERS";
    let localhost = Lists {
        admin: no_wildcard(admin, own(admin, &identity.oauth_localhost_admin_users, &defaults.admin)?)?,
        user: own("OAUTH_LOCALHOST_USER_USERS", &identity.oauth_localhost_user_users, &defaults.user)?,
        mcp: own("OAUTH_LOCALHOST_MCP_USERS", &identity.oauth_localhost_mcp_users, &defaults.mcp)?,
    };
    Ok(Site { issuer: settings.issuer(), port_suffix: settings.port_suffix(), defaults, localhost })
}

/// What shows that a folder is a data folder.
const OURS: [&str; 5] = ["lock", "secret.key", "store.redb", "admin.sock", "configuration.sealed"];

/// Makes the data folder, for its owner only. A folder that is in use for something else is left alone: closing
/// `/tmp` to all others would break the machine.
pub(crate) fn prepare(data: &Path) -> Result<(), DaemonError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let fail = |source| DaemonError::Data { path: data.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(fail)?;
    let mode = std::fs::metadata(data).map_err(fail)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let is_ours = OURS.iter().any(|name| data.join(name).symlink_metadata().is_ok());
    if !is_ours && std::fs::read_dir(data).map_err(fail)?.next().is_some() {
        let detail = format!(
            "{} holds other things and is open to others: name a folder of its own, or run chmod 700 on it",
            data.display()
        );
        return Err(DaemonError::Setting { variable: "PORTCULLIS_DATA", detail });
    }
    std::fs::set_permissions(data, PermissionsExt::from_mode(0o700)).map_err(fail)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use futures_util::stream::BoxStream;
    use portcullis_services::store::embedded::Embedded;
    use portcullis_services::store::{
        Document, Entry, Error, ItemKey, Keep, Key, Kind, Lease, Logged, Range, Record, RecordCursor,
        RecordKey, RecordKind, RecordPage, RecordWrite, Result, Stream, Write,
    };

    use super::*;

    /// A store that goes away just when it is to be loaded, and comes back later.
    #[derive(Debug)]
    struct Shaky {
        store: Embedded,
        failures: AtomicU32,
    }

    #[async_trait]
    impl Store for Shaky {
        async fn load_raw(&self) -> Result<(Revision, Vec<Raw>)> {
            let left =
                self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if left.is_ok() {
                return Err(Error::Unavailable("gone".into()));
            }
            self.store.load_raw().await
        }

        async fn revision(&self) -> Result<Revision> {
            self.store.revision().await
        }

        async fn list(&self, kind: Kind) -> Result<Vec<Document>> {
            self.store.list(kind).await
        }

        async fn get(&self, key: &Key) -> Result<Option<Document>> {
            self.store.get(key).await
        }

        async fn commit(&self, writes: Vec<Write>) -> Result<Revision> {
            self.store.commit(writes).await
        }

        fn changes(&self, since: Revision) -> BoxStream<'static, Revision> {
            self.store.changes(since)
        }

        async fn get_record(&self, key: &RecordKey) -> Result<Option<Record>> {
            self.store.get_record(key).await
        }

        async fn commit_records(&self, writes: Vec<RecordWrite>) -> Result<()> {
            self.store.commit_records(writes).await
        }

        async fn list_records(
            &self,
            kind: RecordKind,
            index: Option<&str>,
            after: Option<RecordCursor>,
            limit: usize,
        ) -> Result<RecordPage> {
            self.store.list_records(kind, index, after, limit).await
        }

        async fn count_records(&self, kind: RecordKind, index: Option<&str>) -> Result<u64> {
            self.store.count_records(kind, index).await
        }

        async fn put_item(&self, key: &ItemKey, value: &[u8], ttl: Duration) -> Result<()> {
            self.store.put_item(key, value, ttl).await
        }

        async fn get_item(&self, key: &ItemKey) -> Result<Option<Vec<u8>>> {
            self.store.get_item(key).await
        }

        async fn take_item(&self, key: &ItemKey) -> Result<Option<Vec<u8>>> {
            self.store.take_item(key).await
        }

        async fn append(&self, stream: Stream, entries: Vec<Entry>, keep: Keep) -> Result<()> {
            self.store.append(stream, entries, keep).await
        }

        async fn range(&self, stream: Stream, range: &Range) -> Result<Vec<Logged>> {
            self.store.range(stream, range).await
        }

        async fn clear(&self, stream: Stream) -> Result<u64> {
            self.store.clear(stream).await
        }

        async fn acquire(&self, lease: &str, holder: &str, ttl: Duration) -> Result<Option<Lease>> {
            self.store.acquire(lease, holder, ttl).await
        }

        async fn release(&self, lease: &str, holder: &str) -> Result<()> {
            self.store.release(lease, holder).await
        }

        async fn ping(&self) -> Result<()> {
            self.store.ping().await
        }
    }

    fn shaky(failures: u32) -> Mirror {
        let store = Embedded::in_memory().unwrap();
        Mirror::new(Arc::new(Shaky { store, failures: AtomicU32::new(failures) }))
    }

    #[tokio::test]
    async fn a_store_that_goes_away_during_the_first_look_is_waited_for() {
        let vault = Arc::new(Vault::new(&"0123456789abcdef0123456789abcdef".into()).unwrap());
        let settings = Settings::of_arguments([]).unwrap();
        let stop = CancellationToken::new();
        // Whatever step it fails at: keys are loaded more than once on the way.
        for failures in 1..4 {
            let first = first_look(&settings, &shaky(failures), &vault, None, &stop).await.unwrap();
            assert!(!first.view.config.proxies.is_empty(), "{failures}");
        }
        stop.cancel();
        let stopped = first_look(&settings, &shaky(u32::MAX), &vault, None, &stop).await;
        assert!(matches!(stopped, Err(DaemonError::Interrupted)));
    }

    #[test]
    fn a_store_is_known_by_its_address_and_not_by_its_password() {
        for (url, address) in [
            ("redis://:secret@Cache.local:6379/0", "redis://cache.local:6379/0"),
            ("redis://user:other@cache.local:6379/0?sentinel_password=x", "redis://cache.local:6379/0"),
            ("redis+sentinel://:p@a:1,b:2/Main/1", "redis+sentinel://a:1,b:2/Main/1"),
            ("redis://cache.local", "redis://cache.local"),
        ] {
            assert_eq!(store_address(url), address);
        }
    }

    #[test]
    fn only_a_folder_of_our_own_is_closed_to_others() {
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let open = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/data");
        prepare(&data).unwrap();
        assert_eq!(mode(&data), 0o700);
        open(&data);
        prepare(&data).unwrap();
        assert_eq!(mode(&data), 0o700, "an empty one, as a fresh volume is");
        std::fs::write(data.join("mine.txt"), "").unwrap();
        open(&data);
        let error = prepare(&data).unwrap_err().to_string();
        assert!(error.starts_with("PORTCULLIS_DATA: "), "{error}");
        assert_eq!(mode(&data), 0o755);
        std::fs::write(data.join("secret.key"), "").unwrap();
        prepare(&data).unwrap();
        assert_eq!(mode(&data), 0o700);
    }
}
