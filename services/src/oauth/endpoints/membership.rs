//! Who somebody is to us, and to a host. A login on a list is the account's that first signed in with it. Groups count as far as they were learned through the GitHub app of the host, for
//! organisations choose which apps may know of their members, and not too long ago.

use portcullis_layers::Principal;
use smol_str::SmolStr;

use super::{Asked, unavailable};
use crate::oauth::audiences::{AudienceHost, Audiences, principal};
use crate::oauth::authorization_server::Event;
use crate::oauth::github::App;
use crate::oauth::pins::is_listed;
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::state::{Identity, Membership, after};

impl Asked {
    /// Lets somebody in who has just signed in: who may use nothing here gets no session, and neither does an account
    /// whose login is on a list for another one.
    pub(super) async fn admit(&self, identity: &Identity) -> Result<(), OAuthError> {
        let server = &self.server;
        let audiences = server.audiences().await.map_err(|error| unavailable(&error))?;
        let admits = |host: &AudienceHost| {
            let who = self.principal_at(host, identity);
            // Another app is asked about the groups that such a host wants.
            host.admits(&who) || !self.knows_groups(host, identity) && host.could_admit(&who)
        };
        if !audiences.all().any(|host| admits(&host)) {
            let why = "this account is on no list of this deployment";
            let error = OAuthError::new(ErrorCode::AccessDenied, why);
            server.note(&Event {
                subject: Some(&identity.subject),
                username: Some(&identity.login),
                ..self.event("user_check", Some(&error))
            });
            return Err(error);
        }
        if !is_listed(&server.site, audiences.config(), &identity.login)
            || server.pins.holds(identity, self.now).await.map_err(|error| unavailable(&error))?
        {
            return Ok(());
        }
        let why =
            "this login is on a list for the account that had it before: an administrator can release it";
        Err(OAuthError::new(ErrorCode::AccessDenied, why))
    }

    /// Whether the login of an account is its own as far as lists are concerned: GitHub gives logins that became free
    /// to others. What an account was called some time ago does not count where nobody has signed in with it since a
    /// list names it.
    pub(super) async fn owns_login(&self, identity: &Identity) -> Result<bool, OAuthError> {
        let server = &self.server;
        let view = server.mirror.latest().await.map_err(|error| unavailable(&error))?;
        if !is_listed(&server.site, &view.config, &identity.login) {
            return Ok(true);
        }
        let pin = server.pins.get(&identity.login).await.map_err(|error| unavailable(&error))?;
        Ok(pin.is_some_and(|pin| pin.subject == identity.subject))
    }

    /// Whether enough is known of somebody to decide about these hosts.
    pub(super) fn can_judge(
        &self,
        audiences: &Audiences,
        hosts: &[AudienceHost],
        identity: &Identity,
    ) -> bool {
        !audiences.need_groups() || hosts.iter().all(|host| self.knows_groups(host, identity))
    }

    /// Whether the groups of somebody that a host asks for are known, if it asks for any.
    pub(super) fn knows_groups(&self, host: &AudienceHost, identity: &Identity) -> bool {
        host.groups().next().is_none() || self.membership(host, identity).is_some()
    }

    /// The groups of somebody that count at a host.
    pub(super) fn groups_at<'a>(&self, host: &AudienceHost, identity: &'a Identity) -> &'a [String] {
        self.membership(host, identity).map(|membership| membership.groups.as_slice()).unwrap_or_default()
    }

    /// Somebody as the layers would see them at a host.
    pub(super) fn principal_at(&self, host: &AudienceHost, identity: &Identity) -> Principal {
        let groups = self.groups_at(host, identity).iter().map(SmolStr::new).collect();
        Principal { groups, ..principal(identity, self.server.issuer.as_str()) }
    }

    fn membership<'a>(&self, host: &AudienceHost, identity: &'a Identity) -> Option<&'a Membership> {
        let global = self.server.apps.global().ok();
        let app = host.app().or(global.as_ref().map(App::client_id))?;
        let recent = |told: &&Membership| {
            let lifetime = self.server.settings.groups;
            lifetime.is_none_or(|lifetime| self.now < after(told.at, lifetime))
        };
        identity.told(app).filter(recent)
    }
}
