//! Tells the first admin how to become one.

use portcullis_services::control::setup::CreateSetupToken;
use portcullis_services::control::{Caller, Context, Control};
use tracing::warn;

use crate::settings::Settings;

/// Prints a setup token: on an empty store nobody is admin yet. Standard output only, never a log.
pub(crate) async fn announce(control: &Control, settings: &Settings) {
    match control.call(CreateSetupToken {}, &Context::of(Caller::Local)).await {
        Ok(setup) => {
            let url = format!("https://localhost{}", settings.port_suffix());
            println!(
                "Nobody is admin yet. On this machine the command line needs no token; from elsewhere, within an hour:"
            );
            println!("  portcullis login --base-url {url} --setup {}", setup.token.expose());
        }
        Err(error) => warn!(%error, "no setup token could be made: run `portcullis setup-token`"),
    }
}
