//! The tokens of a client.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::details::find;
use super::{ClientId, not_found};
use crate::control::oauth::paging;
use crate::control::oauth::tokens::{ListOauthTokens, TokenPage};
use crate::control::operation::get;
use crate::control::{Access, Context, Control, Endpoint, Error, Operation};

/// List the tokens of a client of the authorization server: what is known of them, never the tokens.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct TokensOfOauthClient {
    /// Its id.
    pub client_id: ClientId,
    /// Which page.
    #[serde(default = "paging::first")]
    #[arg(long, default_value_t = 1)]
    pub page: u32,
    /// How many on a page, 1 to 100.
    #[serde(default = "paging::fifty")]
    #[arg(long, default_value_t = 50)]
    pub per_page: u32,
}

impl Operation for TokensOfOauthClient {
    const NAME: &'static str = "tokens_of_oauth_client";
    const COMMAND: &'static [&'static str] = &["oauth", "client", "tokens"];
    const HTTP: Endpoint = get("/oauth/clients/{client_id}/tokens");
    const SCOPE: Access = Access::Admin;
    type Output = TokenPage;

    async fn run(self, control: &Control, ctx: &Context) -> Result<TokenPage, Error> {
        let id = self.client_id.as_str();
        find(control.oauth()?, id, Timestamp::now()).await?.ok_or_else(|| not_found(id))?;
        let Self { client_id, page, per_page } = self;
        let client_id = Some(client_id.to_string());
        ListOauthTokens {
            token_type: None,
            username: None,
            client_id,
            include_expired: false,
            page,
            per_page,
        }
        .run(control, ctx)
        .await
    }
}
