//! An access token for an access token (RFC 8693): of the same grant and client, with no right that the first one
//! does not have, and never good for longer.
//!
//! It ends with its grant, as all of them do, and with each of the tokens that it comes of.

use jiff::Timestamp;
use portcullis_layers::auth::{ADMIN, MCP, USER};

use super::family::{Family, Stored};
use super::{Access, Error, Grant, Grants, Issued, Wanted, key};
use crate::oauth::state::{Scopes, left};
use crate::store::{self, Expect, RecordKey, RecordKind, RecordWrite};

/// How often others may change the grant meanwhile.
const ATTEMPTS: usize = 16;

/// How often what came of an exchange may be exchanged again: each step is one more index of a record.
const DEPTH: usize = 4;

impl Grants {
    /// Issues a further access token for one that a client has, which was authenticated. Without a word the new
    /// token is for the same; there is no refresh token.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the token is unknown, has ended, is another client's, or has come of too many
    /// exchanges; [`Error::Scope`] and [`Error::Target`] for what it does not have.
    pub async fn exchange(
        &self,
        jti: &str,
        client_id: &str,
        wanted: Wanted<'_>,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        for _ in 0..ATTEMPTS {
            let (first, unchanged) = self.versioned_access(jti, now).await?.ok_or(Error::Invalid)?;
            if first.client_id != client_id || first.from.len() >= DEPTH {
                return Err(Error::Invalid);
            }
            let record = self.store.get_record(&key(&first.grant)).await?.ok_or(Error::Invalid)?;
            let Stored::Live(family) = record.read()? else { return Err(Error::Invalid) };
            let family: Family = *family;
            if now >= self.ends(&family.grant) {
                return Err(Error::Invalid);
            }
            let access = self.derive(&first, &family.grant, wanted, now)?;
            self.check_room(&first.grant, now).await?;
            // Whoever ends the grant or the token at this moment either sees the new one, or wins here.
            let live = RecordWrite::Check { key: key(&first.grant), expect: Expect::Version(record.version) };
            match self.store.commit_records(vec![live, unchanged, access.write(Expect::Absent, now)?]).await {
                Ok(()) => return Ok(Issued { grant: family.grant, access, refresh: None }),
                Err(store::Error::RecordConflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let key = RecordKey::new(RecordKind::Access, jti);
        Err(Error::Store(store::Error::RecordConflict { key }))
    }

    fn derive(
        &self,
        first: &Access,
        grant: &Grant,
        wanted: Wanted<'_>,
        now: Timestamp,
    ) -> Result<Access, Error> {
        let scopes = wanted.scopes.unwrap_or(&first.scopes);
        if !scopes.iter().all(|scope| covers(&first.scopes, scope)) {
            return Err(Error::Scope);
        }
        let resources = if wanted.resources.is_empty() { &first.resources } else { wanted.resources };
        if !resources.iter().all(|resource| first.resources.contains(resource)) {
            return Err(Error::Target);
        }
        let mut access = Access::new(grant, Wanted { scopes: None, resources }, self.lifetimes.access, now)?;
        access.expires_at = access.expires_at.min(first.expires_at);
        if left(access.expires_at, access.issued_at).as_secs() == 0 {
            return Err(Error::Invalid);
        }
        access.scopes = scopes.clone();
        access.from = first.from.iter().chain([&first.jti]).cloned().collect();
        Ok(access)
    }
}

/// Whether a token with these scopes has this one: `admin` implies `user` and `mcp`.
fn covers(held: &Scopes, scope: &str) -> bool {
    held.contains(scope) || held.contains(ADMIN) && [USER, MCP].contains(&scope)
}
