//! What a proxy's upstream asks of whoever calls it: one credential for all callers, or one of each user. They go in and
//! never come out. Whether they are used is for the host to say (`mcp.credentials`).

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operation::{delete, get, put};
use super::{Access, Caller, Context, Control, Done, Endpoint, Error, Operation, Secret, Surface};
use crate::config::{FieldError, HostPattern, Proxy};
use crate::credentials::{Credential, Kept, MAX_CREDENTIAL, MAX_USERS};
use crate::store::{Expect, Key, Kind, Write};
use crate::vault::Vault;

/// Adds the operations.
pub fn register(surface: &mut impl Surface) {
    surface.add::<SetUpstreamCredential>();
    surface.add::<ListUpstreamCredentials>();
    surface.add::<ClearUpstreamCredential>();
}

/// Whose credential is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Args)]
pub struct Whose {
    /// That of all callers. For admins.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long, conflicts_with = "user")]
    pub shared: bool,
    /// That of a user, by the subject of the user's tokens: for people GitHub's number. For admins; absent: one's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub user: Option<String>,
}

impl Whose {
    /// The user; none for all of them.
    fn user(&self, ctx: &Context) -> Result<Option<String>, Error> {
        match (&self.user, self.shared) {
            (Some(_), true) => {
                Err(Error::invalid(FieldError::bare("user", "expected either this or `shared`")))
            }
            (None, true) => ctx.caller.check(Access::Admin).map(|()| None),
            (Some(user), false) => {
                ctx.caller.check(Access::Admin)?;
                if user.is_empty() || user.len() > 255 || user.chars().any(char::is_control) {
                    let detail = "expected the subject of a user's tokens, e.g. 583231";
                    return Err(Error::invalid(FieldError::new("user", user.as_str(), detail)));
                }
                Ok(Some(user.clone()))
            }
            (None, false) => match &ctx.caller {
                Caller::Principal(principal) => Ok(Some(principal.full_subject().into_owned())),
                _ => {
                    let detail =
                        "expected a user, or `shared`: whoever calls over the admin socket is nobody";
                    Err(Error::invalid(FieldError::bare("user", detail)))
                }
            },
        }
    }
}

/// Keep a credential for a proxy's upstream, sealed: the whole value of the header, e.g. `Bearer abc`.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct SetUpstreamCredential {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// The value of the header: itself, or `@file` or `@-` on a command line.
    #[serde(serialize_with = "Secret::reveal")]
    #[arg(value_name = "VALUE|@FILE", value_parser = Secret::from_argument)]
    pub credential: Secret,
    /// Whose it is.
    #[serde(flatten)]
    #[command(flatten)]
    pub whose: Whose,
}

impl Operation for SetUpstreamCredential {
    const NAME: &'static str = "set_upstream_credential";
    const COMMAND: &'static [&'static str] = &["proxy", "credential", "set"];
    const HTTP: Endpoint = put("/proxy/targets/{proxy_hostname}/upstream-credential");
    const SCOPE: Access = Access::User;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let user = self.whose.user(ctx)?;
        let Some(credential) = Credential::new(self.credential.expose()) else {
            let detail = format!("expected the value of a header: 1 to {MAX_CREDENTIAL} visible characters");
            return Err(Error::invalid(FieldError::bare("credential", detail)));
        };
        change(control, &self.proxy_hostname, |kept| {
            match user {
                None => kept.shared = Some(credential),
                Some(user) => {
                    if !kept.users.contains_key(&user) && kept.users.len() >= MAX_USERS {
                        let text = format!(
                            "{MAX_USERS} users have a credential here: clear those that are not used"
                        );
                        return Err(Error::Conflict(text));
                    }
                    kept.users.insert(user, credential);
                }
            }
            Ok(())
        })
        .await?;
        Ok(Done::new("set", &self.proxy_hostname))
    }
}

/// Who has a credential for a proxy's upstream.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UpstreamCredentials {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// Whether there is one for all callers.
    pub shared: bool,
    /// The users that have one, by subject; for users only whether they have one themselves.
    pub users: Vec<String>,
}

/// List who has a credential for a proxy's upstream. The credentials are never shown.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListUpstreamCredentials {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ListUpstreamCredentials {
    const NAME: &'static str = "list_upstream_credentials";
    const COMMAND: &'static [&'static str] = &["proxy", "credential", "list"];
    const HTTP: Endpoint = get("/proxy/targets/{proxy_hostname}/upstream-credential");
    const SCOPE: Access = Access::User;
    type Output = UpstreamCredentials;

    async fn run(self, control: &Control, ctx: &Context) -> Result<UpstreamCredentials, Error> {
        control.get::<Proxy>(self.proxy_hostname.as_str()).await?;
        let view = control.mirror.latest().await?;
        let kept = Kept::open(&control.vault, &view, &self.proxy_hostname).map_err(Error::internal)?;
        let own = match &ctx.caller {
            Caller::Principal(principal) => principal.full_subject().into_owned(),
            _ => String::new(),
        };
        let all = ctx.caller.may(Access::Admin);
        let users = kept.users.into_keys().filter(|user| all || *user == own).collect();
        Ok(UpstreamCredentials { proxy_hostname: self.proxy_hostname, shared: kept.shared.is_some(), users })
    }
}

/// Forget a credential for a proxy's upstream.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct ClearUpstreamCredential {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// Whose.
    #[serde(flatten)]
    #[command(flatten)]
    pub whose: Whose,
}

impl Operation for ClearUpstreamCredential {
    const NAME: &'static str = "clear_upstream_credential";
    const COMMAND: &'static [&'static str] = &["proxy", "credential", "clear"];
    const HTTP: Endpoint = delete("/proxy/targets/{proxy_hostname}/upstream-credential");
    const SCOPE: Access = Access::User;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let user = self.whose.user(ctx)?;
        change(control, &self.proxy_hostname, |kept| {
            match user {
                None => drop(kept.shared.take()),
                Some(user) => drop(kept.users.remove(&user)),
            }
            Ok(())
        })
        .await?;
        Ok(Done::new("cleared", &self.proxy_hostname))
    }
}

/// Changes what is kept of a host, if nobody else has meanwhile.
async fn change(
    control: &Control,
    host: &HostPattern,
    change: impl FnOnce(&mut Kept) -> Result<(), Error>,
) -> Result<(), Error> {
    control.get::<Proxy>(host.as_str()).await?;
    let view = control.mirror.latest().await?;
    let id = Kept::secret_id(host);
    let before = view.document(&Key::new(Kind::Secret, &*id));
    let mut kept = Kept::open(&control.vault, &view, host).map_err(Error::internal)?;
    change(&mut kept)?;
    let expect = before.as_ref().map_or(Expect::Absent, |before| Expect::Version(before.version));
    // Nothing is kept of a host that goes meanwhile.
    let there = Write::Check { key: Key::new(Kind::Proxy, host.as_str()), expect: Expect::Present };
    let write = match (kept.is_empty(), before.is_some()) {
        (true, false) => return Ok(()),
        (true, true) => Vault::delete(&id, expect),
        (false, _) => {
            let content =
                secrecy::zeroize::Zeroizing::new(serde_json::to_vec(&kept).map_err(Error::internal)?);
            control.vault.put(&id, &content, expect).map_err(Error::internal)?
        }
    };
    control.commit(vec![there, write]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::proxies::{CreateProxy, DeleteProxy};
    use crate::control::testing::{caller, control};

    const HOST: &str = "a.example";

    fn ctx(name: &str, scopes: &[&'static str]) -> Context {
        Context::of(caller(name, scopes))
    }

    async fn with_host() -> (std::sync::Arc<Control>, std::sync::Arc<dyn crate::store::Store>) {
        let (control, store) = control();
        let fields = json!({ "proxy_hostname": HOST, "target_url": "http://10.0.0.5" });
        let create: CreateProxy = serde_json::from_value(fields).expect("valid");
        control.call(create, &ctx("root", &["admin"])).await.expect("created");
        (control, store)
    }

    fn set(more: &serde_json::Value) -> SetUpstreamCredential {
        let mut fields = json!({ "proxy_hostname": HOST, "credential": "Bearer very-secret" });
        fields.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        serde_json::from_value(fields).expect("valid")
    }

    #[tokio::test]
    async fn users_have_their_own_and_admins_everybodys() {
        let (control, store) = with_host().await;
        let (root, mona) = (ctx("root", &["admin"]), ctx("mona", &["user"]));
        control.call(set(&json!({})), &mona).await.expect("set");
        for more in [json!({ "shared": true }), json!({ "user": "other" })] {
            let refused = control.call(set(&more), &mona).await;
            assert!(matches!(refused, Err(Error::Forbidden { .. })), "{more}");
            control.call(set(&more), &root).await.expect("set");
        }
        let list = || ListUpstreamCredentials { proxy_hostname: HOST.parse().expect("a host") };
        let seen = control.call(list(), &root).await.expect("listed");
        assert!(seen.shared && seen.users.len() == 2, "{seen:?}");
        let seen = control.call(list(), &mona).await.expect("listed");
        assert_eq!(seen.users.len(), 1, "{seen:?}");
        assert!(!format!("{:?}", store.load().await.expect("a store")).contains("very-secret"));
        let clear = ClearUpstreamCredential {
            proxy_hostname: HOST.parse().expect("a host"),
            whose: Whose { shared: true, user: None },
        };
        control.call(clear, &root).await.expect("cleared");
        assert!(!control.call(list(), &root).await.expect("listed").shared);
        let gone: DeleteProxy = serde_json::from_value(json!({ "proxy_hostname": HOST })).expect("valid");
        control.call(gone, &root).await.expect("deleted");
        let (_, documents) = store.load().await.expect("a store");
        assert!(documents.iter().all(|one| !one.key.id.contains("upstream-credentials")), "{documents:?}");
    }

    #[tokio::test]
    async fn what_is_wrong_is_named() {
        let (control, _) = with_host().await;
        let root = ctx("root", &["admin"]);
        for (more, field) in [
            (json!({ "credential": "a\nb" }), "credential"),
            (json!({ "shared": true, "user": "x" }), "user"),
            (json!({ "user": "" }), "user"),
        ] {
            let error = control.call(set(&more), &root).await.expect_err("refused");
            assert!(matches!(&error, Error::Invalid(fields) if fields[0].field == field), "{more}: {error}");
        }
        let local = control.call(set(&json!({})), &Context::of(Caller::Local)).await;
        assert!(matches!(local, Err(Error::Invalid(_))));
    }
}
