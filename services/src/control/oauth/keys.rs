//! The keys that sign tokens: public parts and dates, never the private halves.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::view::View;
use crate::config::{FieldError, Token};
use crate::control::operation::{get, post};
use crate::control::{Access, Context, Control, Done, Endpoint, Error, Operation, Surface};
use crate::oauth::keys::{self, Keys, Record, State};
use crate::oauth::rotation::{LEAD, Rotation};
use crate::store::{Expect, Kind, Write};

/// The longest time between the publication of a key and its first signature: a day.
const MOST_LEAD: u64 = 24 * 60 * 60;

/// Adds the operations of signing keys.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListKeys>();
    surface.add::<RotateKeys>();
    surface.add::<RetireKeys>();
}

impl From<keys::Error> for Error {
    fn from(error: keys::Error) -> Self {
        match error {
            keys::Error::Store(error) => error.into(),
            other => Self::internal(other),
        }
    }
}

/// A key.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KeyInfo {
    /// Its id: the thumbprint of the public half (RFC 7638).
    pub kid: String,
    /// The algorithm that it signs with.
    pub algorithm: String,
    /// Whether it is to sign (`next`), signs (`active`), or only verifies what it signed (`retiring`).
    #[schemars(with = "String")]
    pub state: State,
    /// When it was made or imported.
    pub created_at: Timestamp,
    /// When it is to sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signs_at: Option<Timestamp>,
    /// When the last token that it signed has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retire_at: Option<Timestamp>,
}

/// The keys of the deployment.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KeyList {
    /// All that verify.
    pub keys: Vec<KeyInfo>,
    /// When the next key is published, because the one that signs has its age.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotates_at: Option<Timestamp>,
}

impl KeyList {
    fn of(view: &View, control: &Control) -> Result<Self, Error> {
        let keys = Keys::load(&view.documents(&Keys::KINDS), &control.vault, Timestamp::now())?;
        let keys = keys.ok_or_else(|| Error::internal("there is no signing key yet"))?;
        let mut records: Vec<&Record> = keys.records().iter().collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.created_at));
        let is_next = |record: &&Record| record.state == State::Next;
        let active = records.iter().find(|record| record.id() == keys.active().id());
        // Not twice: the next one is there already.
        let rotates_at = active.filter(|_| !records.iter().any(is_next));
        Ok(Self {
            rotates_at: rotates_at.and_then(|active| control.key_policy.rotates_at(active)),
            keys: records.into_iter().map(info).collect(),
        })
    }
}

fn info(record: &Record) -> KeyInfo {
    KeyInfo {
        kid: record.id().to_owned(),
        algorithm: record.algorithm().to_owned(),
        state: record.state,
        created_at: record.created_at,
        signs_at: record.signs_at,
        retire_at: record.retire_at,
    }
}

/// List the keys that sign tokens or verify them.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListKeys {}

impl Operation for ListKeys {
    const NAME: &'static str = "list_signing_keys";
    const COMMAND: &'static [&'static str] = &["oauth", "keys", "list"];
    const HTTP: Endpoint = get("/oauth/keys");
    const SCOPE: Access = Access::Admin;
    type Output = KeyList;

    async fn run(self, control: &Control, _: &Context) -> Result<KeyList, Error> {
        KeyList::of(&*control.mirror.latest().await?, control)
    }
}

/// Let another key sign. It is published at once and signs a while later, so that no node and no client meets a
/// token whose key it does not know. Tokens of the old key stay good.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RotateKeys {
    /// Seconds until it signs, 300 unless told; 0: at once, as for a key that somebody may have stolen. Then others
    /// may refuse tokens until they have fetched the key set again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub signs_in: Option<u64>,
}

impl Operation for RotateKeys {
    const NAME: &'static str = "rotate_signing_keys";
    const COMMAND: &'static [&'static str] = &["oauth", "keys", "rotate"];
    const HTTP: Endpoint = post("/oauth/keys/rotate");
    const SCOPE: Access = Access::Admin;
    type Output = KeyList;

    async fn run(self, control: &Control, _: &Context) -> Result<KeyList, Error> {
        let lead = self.signs_in.unwrap_or(LEAD.as_secs());
        if lead > MOST_LEAD {
            return Err(Error::invalid(FieldError::new("signs_in", lead, "expected at most 86400 seconds")));
        }
        let (rotation, fence) = alone(control).await?;
        let outcome = add(control, &rotation, fence, lead).await;
        rotation.release().await;
        outcome?;
        KeyList::of(&*control.mirror.load().await?, control)
    }
}

/// Forget old keys before their time: every token that they signed ends at once.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RetireKeys {
    /// Which one; absent: all that sign no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// Says that their tokens may end.
    #[serde(default)]
    #[arg(long, visible_alias = "force")]
    pub confirm: bool,
}

impl Operation for RetireKeys {
    const NAME: &'static str = "retire_signing_keys";
    const COMMAND: &'static [&'static str] = &["oauth", "keys", "retire"];
    const HTTP: Endpoint = post("/oauth/keys/retire");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        self.kid.clone()
    }

    async fn run(self, control: &Control, _: &Context) -> Result<Done, Error> {
        let (rotation, fence) = alone(control).await?;
        let outcome = self.forget(control, fence).await;
        rotation.release().await;
        outcome
    }
}

/// Lets another key sign in so many seconds.
async fn add(control: &Control, rotation: &Rotation, fence: Write, lead: u64) -> Result<(), Error> {
    let view = control.mirror.load().await?;
    let now = Timestamp::now();
    let mut writes = rotation.requested(&view, now + Duration::from_secs(lead), now).await?;
    writes.push(fence);
    control.commit(writes).await.map(drop)
}

impl RetireKeys {
    async fn forget(&self, control: &Control, fence: Write) -> Result<Done, Error> {
        let view = control.mirror.load().await?;
        let old = self.chosen(&view)?;
        let ends: Vec<_> = old.iter().flat_map(|(record, _)| named(&view, record)).collect();
        if !self.confirm {
            let also =
                if ends.is_empty() { String::new() } else { format!(", among them {}", ends.join(", ")) };
            let detail = format!("every token that they signed ends at once{also}: say so with true");
            return Err(Error::invalid(FieldError::bare("confirm", detail)));
        }
        if !old.is_empty() {
            let removed = old.iter().flat_map(|(record, version)| record.remove(Expect::Version(*version)));
            control.commit(removed.chain([fence]).collect()).await?;
        }
        let mut done = Done::new("retired", self.kid.as_deref().unwrap_or("all"));
        done.also = old.iter().map(|(record, _)| format!("key {} forgotten", record.id())).collect();
        done.also.extend(ends.iter().map(|name| format!("{name} ended")));
        Ok(done)
    }

    /// The keys that are meant, with the versions of their documents.
    fn chosen(&self, view: &View) -> Result<Vec<(Record, u64)>, Error> {
        let documents = view.documents(&[Kind::Key]);
        let records: Vec<_> = documents
            .iter()
            .map(|document| Ok((keys::record(document)?, document.version)))
            .collect::<Result<_, keys::Error>>()?;
        let Some(kid) = &self.kid else {
            return Ok(records.into_iter().filter(|(record, _)| record.state == State::Retiring).collect());
        };
        match records.into_iter().find(|(record, _)| record.id() == kid) {
            Some(found) if found.0.state == State::Retiring => Ok(vec![found]),
            Some(_) => {
                let detail = "signs, or is to sign: only keys that sign no longer can be forgotten";
                Err(Error::invalid(FieldError::new("kid", kid.as_str(), detail)))
            }
            None => Err(Error::NotFound { what: "signing key", id: kid.clone() }),
        }
    }
}

/// The named tokens that a key signed.
fn named(view: &View, record: &Record) -> Vec<String> {
    let tokens = view.config.tokens.values();
    let signed = tokens.filter(|token| token.key_id.as_deref() == Some(record.id()));
    signed.map(|token| Token::subject(&token.name)).collect()
}

/// What changes keys while nobody else does, and the step that proves it.
async fn alone(control: &Control) -> Result<(Rotation, Write), Error> {
    let rotation = Rotation::new(control.mirror.clone(), Arc::clone(&control.vault), control.key_policy);
    match rotation.fence().await? {
        Some(fence) => Ok((rotation, fence)),
        None => Err(Error::Conflict("another node is changing the signing keys: try again".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Entity;
    use crate::control::testing::{caller, control};

    async fn with_keys() -> (Arc<Control>, Context) {
        let (control, store) = control();
        let now = Timestamp::now();
        Keys::ensure_active(&*store, &control.vault, None, now, now).await.expect("a key");
        (control, Context::of(caller("root", &["admin"])))
    }

    fn states(list: &KeyList) -> Vec<State> {
        list.keys.iter().map(|key| key.state).collect()
    }

    #[tokio::test]
    async fn a_key_is_published_then_signs_and_then_is_forgotten() {
        let (control, ctx) = with_keys().await;
        let rotate = async |signs_in| control.call(RotateKeys { signs_in }, &ctx).await;
        let listed = control.call(ListKeys {}, &ctx).await.expect("listed");
        let first = listed.keys[0].kid.clone();
        assert_eq!(states(&listed), [State::Active]);
        let published = rotate(None).await.expect("published");
        assert_eq!(states(&published), [State::Next, State::Active]);
        let lead = published.keys[0].signs_at.expect("a time").duration_since(Timestamp::now()).as_secs();
        assert!((295..=300).contains(&lead), "{lead}");
        let rotated = rotate(Some(0)).await.expect("rotated");
        assert_eq!(states(&rotated), [State::Active, State::Retiring]);
        assert_eq!((&rotated.keys[0].kid, &rotated.keys[1].kid), (&published.keys[0].kid, &first));
        let text = json!(rotated).to_string();
        assert!(!text.contains("\"n\"") && !text.contains("null") && !text.contains("nonce"), "{text}");

        let retire = |kid: Option<&str>, confirm| RetireKeys { kid: kid.map(str::to_owned), confirm };
        for (wrong, field) in
            [(retire(None, false), "confirm"), (retire(Some(&rotated.keys[0].kid), true), "kid")]
        {
            let Err(Error::Invalid(errors)) = control.call(wrong, &ctx).await else {
                panic!("must be refused")
            };
            assert_eq!(errors[0].field, field);
        }
        let unknown = control.call(retire(Some("none"), true), &ctx).await;
        assert!(matches!(unknown, Err(Error::NotFound { .. })));
        let done = control.call(retire(Some(&first), true), &ctx).await.expect("retired");
        assert_eq!(done.also, [format!("key {first} forgotten")]);
        assert_eq!(states(&control.call(ListKeys {}, &ctx).await.expect("listed")), [State::Active]);
        let again = control.call(retire(None, true), &ctx).await.expect("nothing to do");
        assert!(again.also.is_empty());
    }

    #[tokio::test]
    async fn whose_tokens_end_is_told_before() {
        let (control, ctx) = with_keys().await;
        let old = control.call(RotateKeys { signs_in: Some(0) }, &ctx).await.expect("rotated");
        let token = json!({
            "name": "ci", "scopes": ["user"], "audience": ["https://app.example.com"], "jti": "j",
            "key_id": old.keys[1].kid, "issued_at": Timestamp::now(), "expires_at": Timestamp::MAX,
        });
        let token = Token::from_fields(token.as_object().expect("an object").clone()).expect("a token");
        let write = Write::Put { key: token.key(), value: token.stored(), expect: Expect::Absent };
        control.store.commit(vec![write]).await.expect("stored");
        let asked = control.call(RetireKeys { kid: None, confirm: false }, &ctx).await.expect_err("asks");
        assert!(asked.to_string().contains("service:ci"), "{asked}");
        let done = control.call(RetireKeys { kid: None, confirm: true }, &ctx).await.expect("retired");
        assert_eq!(done.also[1], "service:ci ended");
    }

    #[tokio::test]
    async fn keys_are_for_admins_and_for_one_at_a_time() {
        let (control, ctx) = with_keys().await;
        let reader = Context::of(caller("eve", &["user"]));
        assert!(matches!(control.call(ListKeys {}, &reader).await, Err(Error::Forbidden { .. })));
        let rotate = |signs_in| RotateKeys { signs_in: Some(signs_in) };
        assert!(matches!(control.call(rotate(0), &reader).await, Err(Error::Forbidden { .. })));
        assert!(matches!(control.call(rotate(86_401), &ctx).await, Err(Error::Invalid(_))));
        let (other, _fence) = alone(&control).await.expect("free");
        assert!(matches!(control.call(rotate(0), &ctx).await, Err(Error::Conflict(_))));
        other.release().await;
        assert!(control.call(rotate(0), &ctx).await.is_ok());
    }
}
