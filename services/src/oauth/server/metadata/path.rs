//! The paths of the endpoints, behind the issuer: those that its metadata names, and our own. The router serves them,
//! the daemon sends them there.

use portcullis_layers::auth::SESSION_PATH;

use crate::config::access::LOGIN_PATH;

/// RFC 6749, section 3.1.
pub const AUTHORIZE: &str = "/authorize";
/// RFC 6749, section 3.2.
pub const TOKEN: &str = "/token";
/// RFC 7517.
pub const JWKS: &str = "/jwks";
/// RFC 7591.
pub const REGISTER: &str = "/register";
/// RFC 7592: the id of a registration follows.
pub const REGISTRATIONS: &str = "/register/";
/// RFC 7009.
pub const REVOKE: &str = "/revoke";
/// RFC 7662.
pub const INTROSPECT: &str = "/introspect";
/// RFC 8628, section 3.1.
pub const DEVICE_CODE: &str = "/device/code";
/// RFC 8628, section 3.3: the page where users enter their code.
pub const DEVICE: &str = "/device";
/// Where older devices ask for their token.
pub const DEVICE_TOKEN: &str = "/device/token";
/// OpenID Connect Core 1.0, section 5.3.
pub const USERINFO: &str = "/userinfo";
/// OpenID Connect RP-Initiated Logout 1.0.
pub const LOGOUT: &str = "/logout";
/// Where other proxies ask whether a request may pass.
pub const VERIFY: &str = "/verify";
/// Where GitHub sends browsers back to.
pub const CALLBACK: &str = "/callback";
/// Where forms of consent are sent.
pub const CONSENT: &str = "/consent";
/// Where browsers sign in.
pub const LOGIN: &str = LOGIN_PATH;
/// Where a host takes a ticket, and what the audience of its cookies ends with.
pub const HOST_SESSION: &str = SESSION_PATH;
/// Where a browser ends its session on a host.
pub const HOST_LOGOUT: &str = "/.portcullis/logout";

/// What is served at the issuer; and what is behind [`REGISTRATIONS`].
pub const OF_ISSUER: [&str; 15] = [
    JWKS,
    AUTHORIZE,
    CALLBACK,
    CONSENT,
    LOGIN,
    LOGOUT,
    TOKEN,
    DEVICE,
    DEVICE_CODE,
    DEVICE_TOKEN,
    REGISTER,
    INTROSPECT,
    REVOKE,
    VERIFY,
    USERINFO,
];

/// What clients look for on a resource's host.
pub const OF_RESOURCE: [&str; 3] = [AUTHORIZE, TOKEN, REGISTER];

/// What browsers ask of a host with sessions.
pub const OF_SESSION: [&str; 2] = [HOST_SESSION, HOST_LOGOUT];
