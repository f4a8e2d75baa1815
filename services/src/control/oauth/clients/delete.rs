//! The end of a client, and of all that it was given.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClientId, check_match, is_built_in, not_found};
use crate::control::operation::delete;
use crate::control::{Access, Context, Control, Done, Endpoint, Error, Operation};
use crate::oauth::Filter;
use crate::oauth::authorization_server::Event;
use crate::store::{Expect, Key, Kind, Write};

/// Delete a client of the authorization server, and end all that it was given. A client that is known by the URL of
/// its document can ask its users again; it loses what it has.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct DeleteOauthClient {
    /// Its id.
    pub client_id: ClientId,
}

impl Operation for DeleteOauthClient {
    const NAME: &'static str = "delete_oauth_client";
    const COMMAND: &'static [&'static str] = &["oauth", "client", "delete"];
    const HTTP: Endpoint = delete("/oauth/clients/{client_id}");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.client_id.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let server = control.oauth()?;
        let id = self.client_id.as_str();
        let now = Timestamp::now();
        if is_built_in(server, id) {
            let why =
                format!("{id:?} is a part of portcullis: end its grants one by one, or those of a user");
            return Err(Error::Conflict(why));
        }
        let key = Key::new(Kind::Client, id);
        let document = server.mirror.store().get(&key).await?;
        let version = document.as_ref().map(|document| document.version);
        check_match(ctx, id, version)?;
        let filter = Filter::Client(id);
        let granted = server.grants.count(filter).await?;
        // The client goes first: then it can be given nothing more while its grants are looked for.
        let known = match version {
            Some(version) => {
                let expect = Expect::Version(version);
                control.commit(vec![Write::Delete { key, expect }]).await?;
                true
            }
            None => server.registrations.end(id, now).await?,
        };
        let left = server.end_grants(filter, now).await?.grants;
        let consents = server.consents.forget_all(filter).await?;
        // Of one that went before, but did not get this far, the rest is ended now.
        if !known && left == 0 && consents == 0 {
            return Err(not_found(id));
        }
        let who = ctx.caller.name();
        server.note(&Event {
            kind: "client_deletion",
            client_ip: ctx.client,
            client_id: Some(id),
            username: who.as_deref(),
            ..Event::default()
        });
        let also = vec![format!("{} grants ended", granted.max(left as u64))];
        Ok(Done { also, ..Done::new("deleted", id) })
    }
}
