//! What must be there before anything is served: data folder, secret key, store, the first configuration, and
//! what the settings say about every host.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portcullis_layers::users::{InvalidUser, Users};
use portcullis_services::config::access::{Lists, Site};
use portcullis_services::oauth::Keys;
use portcullis_services::store::connect;
use portcullis_services::store::redis::Options;
use portcullis_services::store::snapshot_file::SnapshotFile;
use portcullis_services::store::{Document, Revision, Store};
use portcullis_services::vault::Vault;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::bootstrap::{self, BootstrapError};
use crate::daemon::DaemonError;
use crate::settings::Settings;

/// How often a store is asked that was not there at start.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What is known before anything is served.
pub(crate) struct FirstLook {
    pub(crate) keys: Keys,
    pub(crate) revision: Revision,
    pub(crate) documents: Vec<Document>,
    pub(crate) from_copy: bool,
    pub(crate) fresh: bool,
}

/// Reads the store, and makes what is missing there. While it is away, this node's own copy does; without one
/// there is nothing to serve, so it waits.
pub(crate) async fn first_look(
    settings: &Settings,
    store: &Arc<dyn Store>,
    vault: &Arc<Vault>,
    copy: Option<&SnapshotFile>,
    stop: &CancellationToken,
) -> Result<FirstLook, DaemonError> {
    let mut told = false;
    loop {
        match bootstrap::run(&**store, vault, settings).await {
            Ok(ready) => {
                let (revision, documents) = store.load().await.map_err(BootstrapError::from)?;
                let (keys, fresh) = (ready.keys, ready.fresh);
                return Ok(FirstLook { keys, revision, documents, from_copy: false, fresh });
            }
            Err(error) if error.is_temporary() => {
                if let Some(first) = from_copy(copy, vault)? {
                    warn!(%error, "the store is away: serving this node's copy of the configuration");
                    return Ok(first);
                }
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "the store is away, and there is no copy of the configuration: waiting");
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => {}
            () = stop.cancelled() => return Err(DaemonError::Interrupted),
        }
    }
}

fn from_copy(copy: Option<&SnapshotFile>, vault: &Vault) -> Result<Option<FirstLook>, DaemonError> {
    let read = copy.map(SnapshotFile::read).transpose().unwrap_or_else(|error| {
        warn!(%error, "this node's copy of the configuration can't be read");
        None
    });
    let Some((revision, documents)) = read.flatten() else { return Ok(None) };
    let Some(keys) = Keys::load(&documents, vault, jiff::Timestamp::now())? else { return Ok(None) };
    Ok(Some(FirstLook { keys, revision, documents, from_copy: true, fresh: false }))
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

    use super::*;

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
