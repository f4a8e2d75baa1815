//! What a request is for.

use super::Asked;
use crate::oauth::audiences::{AudienceHost, Audiences};
use crate::oauth::clients::Client;
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::resource::{Resource, requested};
use crate::oauth::server::scope::Scopes;

/// Resources in our spelling, and the scopes among those asked for that mean something there
/// and that the client may ask.
pub(super) fn wanted(
    asked: &Asked,
    audiences: &Audiences,
    client: &Client,
    resources: &[String],
    scope: Option<&Scopes>,
) -> Result<(Vec<String>, Scopes), OAuthError> {
    let identity_only = scope.is_some_and(Scopes::has_openid);
    let implied = audiences.implied(asked.acting_host(), identity_only);
    let known = |resource: &Resource| audiences.find(resource).map(|found| found.resource);
    let resources = requested(resources, known, implied.as_ref().map(|implied| implied.resource.as_str()))?;
    let hosts = found(audiences, &resources)?;
    let ceiling = client.metadata.scope.as_deref().map(Scopes::parse).transpose()?;
    let scopes = match scope {
        Some(asked_for) => {
            let meant = asked_for.only(|scope| hosts.iter().any(|host| host.knows(scope)));
            if meant.is_empty() && !asked_for.is_empty() {
                let why = "none of the scopes means anything at this resource";
                return Err(OAuthError::new(ErrorCode::InvalidScope, why));
            }
            meant.permitted(ceiling.as_ref())?
        }
        None => {
            let usual: Vec<String> = hosts.iter().flat_map(AudienceHost::usual_scopes).collect();
            let usual = Scopes::parse(&usual.join(" "))?;
            match &ceiling {
                Some(ceiling) if !ceiling.is_empty() => usual.only(|scope| ceiling.contains(scope)),
                _ => usual,
            }
        }
    };
    Ok((resources, scopes))
}

/// The hosts of resources that were found before: one may be gone by now.
pub(super) fn found(audiences: &Audiences, resources: &[String]) -> Result<Vec<AudienceHost>, OAuthError> {
    let find = |resource: &String| {
        let gone = || OAuthError::new(ErrorCode::InvalidTarget, "the resource is not known here");
        audiences.find(&Resource::parse(resource)?).ok_or_else(gone)
    };
    resources.iter().map(find).collect()
}
