//! A control with an authorization server over a store in memory, and what people and clients do there.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use portcullis_layers::auth::Revoked;
use portcullis_layers::deadline::Ticker;
use portcullis_layers::forward::{Client as HttpClient, PoolSettings, Tunnels};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::applied::Applied;
use crate::control::proxies::CreateProxy;
use crate::control::testing::{build, caller};
use crate::control::{Context, Control, Error, Operation};
use crate::oauth::authorization_server::{Event, Parts, Settings};
use crate::oauth::clients::{Exceptions, Guard, registration};
use crate::oauth::github::{self, Apps};
use crate::oauth::grants::{self, Issued, NewGrant, Wanted, new_id};
use crate::oauth::server::metadata::Issuer;
use crate::oauth::sessions::{self, Session};
use crate::oauth::{AuthorizationServer, Github, Identity, Keys, Revocations, Trust, consents};

pub(super) const ISSUER: &str = "https://auth.example.com";

/// The resource of [`Given::proxy`].
pub(super) const RESOURCE: &str = "https://app.example.com";

pub(super) struct Given {
    pub(super) control: Arc<Control>,
    pub(super) server: Arc<AuthorizationServer>,
    revoked: Arc<Revoked>,
}

/// Nobody has signed in yet.
pub(super) async fn given() -> Given {
    let (_, applied) = watch::channel(Applied::default());
    let (control, store) = build(applied);
    let now = Timestamp::now();
    let keys = Keys::ensure_active(&*store, &control.vault, None, now, now).await.expect("a key");
    let trust = Trust::new(ISSUER, &keys, 1).expect("keys");
    let client = HttpClient::new(1, Ticker::new(1), Tunnels::new(1), PoolSettings::default());
    // Nobody is asked there.
    let nowhere = github::Settings::new("http://127.0.0.1:9".parse().expect("a URL"), None);
    let exceptions = Exceptions::default();
    let server = Arc::new(AuthorizationServer::new(Parts {
        mirror: control.mirror.clone(),
        vault: Arc::clone(&control.vault),
        site: control.site.clone(),
        issuer: Issuer::parse(ISSUER).expect("an issuer"),
        revocations: Arc::new(Revocations::new(Arc::clone(&store), Arc::clone(trust.revoked()))),
        keys: Arc::new(keys),
        verifier: Arc::new(trust.verifier([])),
        github: Github::new(&client, nowhere).expect("settings"),
        apps: Apps::new(Arc::clone(&store), Arc::clone(&control.vault), None),
        guard: Guard::new(client, None, exceptions),
        writers: control.writers.clone(),
        settings: Settings {
            tokens: grants::Lifetimes::default(),
            sessions: sessions::Lifetimes::default(),
            host_session: Duration::from_secs(8 * 3600),
            login: Duration::from_secs(600),
            groups: Some(Duration::from_secs(604_800)),
            registration: Some(registration::Settings::new(format!("{ISSUER}/register"))),
            assertion_grants: false,
            assertion_issuers: Vec::new(),
        },
    }));
    let control = Arc::new(control.with_oauth(Arc::clone(&server)));
    Given { control, server, revoked: Arc::clone(trust.revoked()) }
}

pub(super) fn admin() -> Context {
    Context::of(caller("root", &["admin"]))
}

/// Somebody with an e-mail address.
pub(super) fn person(id: u32, login: &str) -> Identity {
    Identity {
        subject: id.to_string(),
        login: login.to_owned(),
        name: None,
        emails: vec![format!("{login}@mail.example")],
        memberships: Vec::new(),
    }
}

impl Given {
    /// What an admin is answered.
    pub(super) async fn ask<O: Operation>(&self, input: Value) -> Value {
        let output = self.call::<O>(input, &admin()).await;
        output.unwrap_or_else(|error| panic!("{}: {error}", O::NAME))
    }

    pub(super) async fn call<O: Operation>(&self, input: Value, ctx: &Context) -> Result<Value, Error> {
        let input: O = serde_json::from_value(input).expect("an input");
        let output = self.control.call(input, ctx).await?;
        Ok(serde_json::to_value(output).expect("JSON"))
    }

    pub(super) async fn proxy(&self, host: &str) {
        let fields = json!({
            "proxy_hostname": host, "target_url": "http://10.0.0.5",
            "auth_enabled": true, "auth_required_users": ["octocat"],
        });
        self.ask::<CreateProxy>(fields).await;
    }

    pub(super) async fn session(&self, identity: &Identity) -> Session {
        self.server.sessions.create(identity.clone(), Timestamp::now()).await.expect("stored").1
    }

    /// A grant with a refresh token, for [`RESOURCE`].
    pub(super) async fn grant(&self, client: &str, who: &Identity, session: Option<&Session>) -> Issued {
        self.granted(client, who, session, RESOURCE).await.expect("granted")
    }

    pub(super) async fn granted(
        &self,
        client: &str,
        who: &Identity,
        session: Option<&Session>,
        resource: &str,
    ) -> Result<Issued, grants::Error> {
        let new = NewGrant {
            id: new_id(),
            subject: who.subject.clone(),
            identity: Some(who.clone()),
            client: grants::Client { id: client.to_owned(), snapshot: json!({ "client_name": "Snapped" }) },
            resources: vec![resource.to_owned()],
            scopes: ["read".to_owned()].into(),
            session: session.map(|session| session.id.clone()),
            refreshable: !resource.ends_with("/session"),
        };
        self.server.grants.create(new, Wanted::default(), Timestamp::now()).await
    }

    /// An access token that has ended a minute ago, of a grant that had nothing else; its id.
    pub(super) async fn ended_access(&self, client: &str, who: &Identity) -> String {
        let new = NewGrant {
            id: new_id(),
            subject: who.subject.clone(),
            identity: Some(who.clone()),
            client: grants::Client { id: client.to_owned(), snapshot: Value::Null },
            resources: vec![RESOURCE.to_owned()],
            scopes: ["read".to_owned()].into(),
            session: None,
            refreshable: false,
        };
        let ago = grants::Lifetimes::default().access + Duration::from_secs(60);
        let then = Timestamp::now() - ago;
        self.server.grants.create(new, Wanted::default(), then).await.expect("granted").access.jti
    }

    pub(super) async fn consent(&self, client: &str, who: &Identity) {
        let request = consents::Request {
            subject: &who.subject,
            client_id: client,
            redirect_host: "client.example",
            resources: &[RESOURCE.to_owned()],
            scopes: &["read".to_owned()].into(),
            memorable: true,
        };
        self.server.consents.remember(&request, Timestamp::now()).await.expect("remembered");
    }

    /// Notes events, and waits until they can be read.
    pub(super) async fn note(&self, events: &[Event<'_>]) {
        for event in events {
            self.server.note(event);
        }
        assert!(self.control.writers.oauth.flush(Duration::from_secs(10)).await);
    }

    /// Whether an access token is refused on this node.
    pub(super) fn is_revoked(&self, issued: &Issued) -> bool {
        self.revoked.contains(Some(&issued.access.jti), u64::MAX)
    }
}
