//! What belongs to a named token beside the token: its e-mail address, and what its identity has created.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::certificates::Summary;
use super::operation::{get, put};
use super::{Access, Caller, Context, Control, Endpoint, Error, Operation, Surface};
use crate::config::{Certificate, Entity, FieldError, Proxy, Token, TokenName};

/// Adds the operations.
pub fn register(surface: &mut impl Surface) {
    surface.add::<SetTokenEmail>();
    surface.add::<TokenCertificates>();
    surface.add::<TokenProxies>();
}

/// Set the e-mail address for the certificates that a named token asks for: the caller's own, or, for admins, another.
/// The claim in the token itself changes when it is rotated.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct SetTokenEmail {
    /// The address.
    #[serde(alias = "cert_email")]
    pub email: String,
    /// The name of the token; absent: the token of this very call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub name: Option<TokenName>,
}

impl Operation for SetTokenEmail {
    const NAME: &'static str = "set_token_email";
    const COMMAND: &'static [&'static str] = &["token", "email"];
    const HTTP: Endpoint = put("/tokens/email");
    const ALIASES: &'static [Endpoint] = &[put("/tokens/{name}/email")];
    const SCOPE: Access = Access::Anyone;
    type Output = Token;

    fn subject(&self) -> Option<String> {
        self.name.as_ref().map(ToString::to_string)
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Token, Error> {
        let own = own(&ctx.caller);
        let name = match self.name {
            Some(name) => {
                if own.as_ref() != Some(&name) {
                    ctx.caller.check(Access::Admin)?;
                }
                name
            }
            None => own.ok_or_else(|| {
                let detail = "this call has no named token of its own: expected the name of one";
                Error::invalid(FieldError::bare("name", detail))
            })?,
        };
        let change = |token: Token, _: &_| Ok(Token { cert_email: Some(self.email.clone()), ..token });
        control.edit(ctx, name.as_str(), change).await.map_err(named_as_given)
    }
}

/// The named token that a caller sent.
fn own(caller: &Caller) -> Option<TokenName> {
    match caller {
        Caller::Principal(principal) if !principal.foreign => {
            principal.subject.strip_prefix(Token::SUBJECT)?.parse().ok()
        }
        Caller::Principal(_) | Caller::Local | Caller::Anonymous => None,
    }
}

/// The document calls it `cert_email`, the caller `email`.
fn named_as_given(error: Error) -> Error {
    match error {
        Error::Invalid(mut errors) => {
            for error in errors.iter_mut().filter(|error| error.field == "cert_email") {
                "email".clone_into(&mut error.field);
            }
            Error::Invalid(errors)
        }
        other => other,
    }
}

/// List the certificates that the identity of a named token has created.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct TokenCertificates {
    /// The name of the token.
    pub name: TokenName,
}

impl Operation for TokenCertificates {
    const NAME: &'static str = "token_certificates";
    const COMMAND: &'static [&'static str] = &["token", "certs"];
    const HTTP: Endpoint = get("/tokens/{name}/certificates");
    const SCOPE: Access = Access::Admin;
    type Output = Vec<Summary>;

    async fn run(self, control: &Control, _: &Context) -> Result<Vec<Summary>, Error> {
        let subject = subject(control, &self.name).await?;
        let all = control.list::<Certificate>().await?;
        Ok(all.into_iter().filter(|one| one.created_by() == Some(subject.as_str())).map(Into::into).collect())
    }
}

/// List the proxies that the identity of a named token has created.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct TokenProxies {
    /// The name of the token.
    pub name: TokenName,
}

impl Operation for TokenProxies {
    const NAME: &'static str = "token_proxies";
    const COMMAND: &'static [&'static str] = &["token", "proxies"];
    const HTTP: Endpoint = get("/tokens/{name}/proxies");
    const SCOPE: Access = Access::Admin;
    type Output = Vec<Proxy>;

    async fn run(self, control: &Control, _: &Context) -> Result<Vec<Proxy>, Error> {
        let subject = subject(control, &self.name).await?;
        let all = control.list::<Proxy>().await?;
        Ok(all.into_iter().filter(|one| one.created_by() == Some(subject.as_str())).collect())
    }
}

async fn subject(control: &Control, name: &TokenName) -> Result<String, Error> {
    Ok(Token::subject(&control.get::<Token>(name.as_str()).await?.name))
}
