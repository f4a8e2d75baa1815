//! The authorization server over its router: what clients, browsers and GitHub see of it.

mod counted;
mod signers;
mod site;
#[path = "../support/github/mod.rs"]
mod standin;
mod world;

mod apps;
mod assertion_grant;
mod code;
mod consents;
mod credentials;
mod cross_origin;
mod described;
mod device;
mod documents;
mod events;
mod exchange;
mod github_device;
mod groups;
mod heads;
mod interrupted;
mod introspect;
mod issuer;
mod limits;
mod logout;
mod mistakes;
mod people;
mod refresh;
mod register;
mod resources;
mod revoke;
mod rotation;
mod upstream_tokens;
mod userinfo;
mod verify;
