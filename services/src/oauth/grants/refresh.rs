//! Using a refresh token: rotation, its parallel replay, and what ends a family.

use std::time::Duration;

use jiff::Timestamp;

use super::family::{Family, Standing, Stored};
use super::token::RefreshToken;
use super::{Access, Error, Grant, Grants, Issued, Wanted, key};
use crate::oauth::state::after;
use crate::store::{self, Expect, RecordWrite};

/// The shortest life of an access token: a grant that has less left has ended.
const SHORTEST: Duration = Duration::from_secs(1);

/// How often others may win before we give up. After the first round the others are replays, which
/// only a further rotation can disturb.
const ATTEMPTS: usize = 16;

impl Grants {
    /// Issues tokens for a refresh token (RFC 6749, section 6) of a client that was authenticated.
    ///
    /// The token is rotated. If it was rotated just now, within the window, its successor is returned
    /// once more, with an access token of its own; if it was rotated before that, the family ends.
    /// A family that has as many access tokens as it may has to wait: to revoke one for each new one would
    /// let a single client fill the list of revocations.
    /// The scopes of a request narrow the access token, not the grant.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn refresh(
        &self,
        token: &str,
        client_id: &str,
        wanted: Wanted<'_>,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        let token = RefreshToken::parse(token).ok_or(Error::Invalid)?;
        let id = token.family_id();
        for _ in 0..ATTEMPTS {
            let record = self.store.get_record(&key(&id)).await?.ok_or(Error::Invalid)?;
            let Stored::Live(family) = record.read()? else {
                // Whoever ended it may have failed halfway.
                self.revoke_access_of(&id, now).await?;
                return Err(Error::Invalid);
            };
            let mut family: Family = *family;
            // An access token lives a whole second at least, and ends with the grant; idle it is no more.
            if now >= self.ends(&family.grant) || after(now, SHORTEST) > family.grant.expires_at {
                return Err(Error::Invalid);
            }
            let standing = family.standing(&token, self.lifetimes.window, now);
            if matches!(standing, Standing::Foreign) || family.grant.client.id != client_id {
                return Err(Error::Invalid);
            }
            if matches!(standing, Standing::Spent) {
                self.revoke(&id, now).await?;
                return Err(Error::Replayed { grant: id });
            }
            let access = Access::new(&family.grant, wanted, self.lifetimes.access, now)?;
            // Before the rotation: what fails after it would cost the client its token.
            self.check_room(&id, now).await?;
            let expect = Expect::Version(record.version);
            let (successor, step) = match standing {
                Standing::Predecessor(successor) => (successor, RecordWrite::Check { key: key(&id), expect }),
                _ => {
                    let successor =
                        family.rotate(&token, self.lifetimes.window, now).ok_or(Error::Invalid)?;
                    (successor, self.write_family(&family, expect, now)?)
                }
            };
            match self.store.commit_records(vec![step, access.write(Expect::Absent, now)?]).await {
                Ok(()) => {}
                Err(store::Error::RecordConflict { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            return Ok(Issued { grant: family.grant, access, refresh: Some(successor.text()) });
        }
        Err(Error::Store(store::Error::RecordConflict { key: key(&id) }))
    }

    /// The grant of a refresh token that could be used now: for introspection (RFC 7662).
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn find_refresh(&self, token: &str, now: Timestamp) -> store::Result<Option<Grant>> {
        let Some((token, family)) = self.live_family_of(token).await? else { return Ok(None) };
        let current = matches!(family.standing(&token, self.lifetimes.window, now), Standing::Current);
        Ok((current && now < self.ends(&family.grant)).then_some(family.grant))
    }

    /// The grant that a refresh token is or was of: to look at it before [`Self::refresh`] decides.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn of_refresh(&self, token: &str, now: Timestamp) -> store::Result<Option<Grant>> {
        let Some((token, family)) = self.live_family_of(token).await? else { return Ok(None) };
        let foreign = matches!(family.standing(&token, self.lifetimes.window, now), Standing::Foreign);
        Ok((!foreign && now < self.ends(&family.grant)).then_some(family.grant))
    }

    /// The client of a refresh token whose grant has not wholly ended.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn owner_of_refresh(&self, token: &str, now: Timestamp) -> store::Result<Option<String>> {
        let Some((token, stored)) = self.family_of(token).await? else { return Ok(None) };
        let (Stored::Live(family) | Stored::Ending(family)) = stored else { return Ok(None) };
        let foreign = matches!(family.standing(&token, self.lifetimes.window, now), Standing::Foreign);
        Ok((!foreign).then_some(family.grant.client.id))
    }

    /// Ends the grant of a refresh token (RFC 7009, section 2.1) of a client that was authenticated;
    /// tells whether there was one. Also for a token that was rotated: the client wants to be rid of it.
    ///
    /// # Errors
    ///
    /// When the store fails: then it has to be repeated.
    pub async fn revoke_refresh(&self, token: &str, client_id: &str, now: Timestamp) -> store::Result<bool> {
        if self.owner_of_refresh(token, now).await?.is_none_or(|owner| owner != client_id) {
            return Ok(false);
        }
        let Some(token) = RefreshToken::parse(token) else { return Ok(false) };
        self.revoke(&token.family_id(), now).await
    }

    async fn live_family_of(&self, token: &str) -> store::Result<Option<(RefreshToken, Family)>> {
        Ok(match self.family_of(token).await? {
            Some((token, Stored::Live(family))) => Some((token, *family)),
            _ => None,
        })
    }

    async fn family_of(&self, token: &str) -> store::Result<Option<(RefreshToken, Stored)>> {
        let Some(token) = RefreshToken::parse(token) else { return Ok(None) };
        let Some(record) = self.store.get_record(&key(&token.family_id())).await? else { return Ok(None) };
        Ok(Some((token, record.read()?)))
    }
}
