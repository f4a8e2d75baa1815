//! What stands in the way of a certificate for a name.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::acme::doctor::Question;
use crate::acme::doctor::report::Report;
use crate::config::{Config, HostPattern};
use crate::control::operation::get;
use crate::control::{Access, Context, Control, Endpoint, Error, Operation};

/// Where authorities ask (RFC 8555, section 8.3; RFC 8737, section 3).
const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// Look at a name as a certificate authority would: does it resolve, are ports 80 and 443 reachable from here, is it this
/// gateway that answers the challenges there, do CAA records allow the authority, what went wrong last. Nothing is
/// changed, and only the name's own addresses are called. Names that no proxy and no certificate has are for an admin, and
/// so are calls to addresses of private networks where only public authorities issue.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct AcmeDoctor {
    /// The name, or a wildcard.
    #[arg(value_name = "NAME")]
    pub domain: HostPattern,
    /// The port of plain HTTP, instead of 80: for a look from behind whatever forwards that one. For an admin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub http_port: Option<u16>,
    /// The port of HTTPS, instead of 443. For an admin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub https_port: Option<u16>,
}

impl Operation for AcmeDoctor {
    const NAME: &'static str = "acme_doctor";
    const COMMAND: &'static [&'static str] = &["acme", "doctor"];
    // Below `/certificates/` a certificate of that name would be in its way.
    const HTTP: Endpoint = get("/acme/doctor/{domain}");
    const SCOPE: Access = Access::User;
    type Output = Report;

    async fn run(self, control: &Control, ctx: &Context) -> Result<Report, Error> {
        let config = control.config().await?;
        let (http_port, https_port) = (self.http_port.unwrap_or(HTTP), self.https_port.unwrap_or(HTTPS));
        // Else every user could have this machine knock at any door.
        if (http_port, https_port) != (HTTP, HTTPS) || !is_ours(&self.domain, &config) {
            ctx.caller.check(Access::Admin)?;
        }
        let anywhere = ctx.caller.check(Access::Admin).is_ok();
        let question = Question { name: &self.domain, http_port, https_port, anywhere };
        let report = control.doctor.examine(&question, &config, &*control.store, &control.vault).await;
        report.map_err(|busy| Error::Conflict(format!("{busy}: try again in a moment")))
    }
}

/// Whether a proxy or a certificate has the name.
fn is_ours(name: &HostPattern, config: &Config) -> bool {
    config.proxies.contains_key(name)
        || config.certificates.values().any(|certificate| certificate.domains.contains(name))
}
