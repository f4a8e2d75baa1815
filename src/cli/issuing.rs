//! `cert … --wait`: shows each step of an attempt to issue a certificate as it is done; and how the older command line
//! said that this is not wanted.

use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, Command};
use http::Method;
use serde_json::Value;

use super::call::Call;
use super::client::{Answer, Client};
use super::{Failure, send};

/// How often the status is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// How long a gateway may do nothing until it is not waited for any more.
const PATIENCE: Duration = Duration::from_secs(600);

/// What asks a gateway to wait, in a body and in a query.
const WAIT: &str = "wait";
const WAIT_QUERY: &str = "wait=true";

/// Flags of the older command line that say what is so anyway, and what they take back.
const OPPOSITES: [(&str, &str); 2] = [("wait", "no-wait"), ("staging", "production")];

/// Adds them to the commands of a noun that have the other one.
pub(crate) fn extend(noun: Command) -> Command {
    noun.mut_subcommands(|command| {
        OPPOSITES.iter().fold(command, |command, (flag, opposite)| {
            let has = command.get_arguments().any(|arg| arg.get_id() == *flag);
            let opposite = Arg::new(*opposite).long(*opposite).hide(true).action(ArgAction::SetTrue);
            if has { command.arg(opposite.overrides_with(*flag)) } else { command }
        })
    })
}

/// Takes the wish to wait out of a call, because it is this program that waits.
pub(crate) fn take_wait(words: &[&str], call: &mut Call) -> bool {
    if words.first() != Some(&"cert") {
        return false;
    }
    if let Some(body) = call.body.as_mut().and_then(Value::as_object_mut) {
        return body.remove(WAIT) == Some(Value::Bool(true));
    }
    let Some((path, query)) = call.path.split_once('?') else { return false };
    let rest: Vec<_> = query.split('&').filter(|pair| *pair != WAIT_QUERY).collect();
    let waits = rest.len() < query.split('&').count();
    call.path = if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) };
    waits
}

/// Shows the steps until the attempt has ended; the last status.
pub(crate) async fn watch(client: &Client, first: Answer) -> Result<Answer, Failure> {
    let mut answer = first;
    let mut last = String::new();
    let mut patience = Instant::now() + PATIENCE;
    loop {
        let status = answer.json();
        for step in status["steps"].as_array().into_iter().flatten() {
            let (at, text) =
                (step["at"].as_str().unwrap_or_default(), step["text"].as_str().unwrap_or_default());
            // Times are in one form, which sorts as they do; an attempt that begins anew is later than the one before.
            if at > last.as_str() {
                eprintln!("{at} {text}");
                at.clone_into(&mut last);
                patience = Instant::now() + PATIENCE;
            }
        }
        let Some(name) = status["cert_name"].as_str().filter(|_| status["in_progress"] == true) else {
            return Ok(answer);
        };
        if Instant::now() >= patience {
            eprintln!("nothing has been done for ten minutes: `cert status {name}` tells how it goes on");
            return Ok(answer);
        }
        tokio::time::sleep(LOOK).await;
        let path = format!("/certificates/{name}/status");
        answer = send(client, &Call { method: Method::GET, path, body: None }).await?;
    }
}

/// Whether what was waited for is there.
pub(crate) fn is_issued(status: &Value) -> bool {
    status.get("error").is_none() && status["status"] != "pending" && status["in_progress"] != true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_wish_to_wait_stays_here() {
        let call = |path: &str, body| Call { method: Method::POST, path: path.to_owned(), body };
        let mut create = call("/certificates/", Some(json!({ "domain": "a.example.com", "wait": true })));
        assert!(take_wait(&["cert", "create"], &mut create));
        assert_eq!(create.body, Some(json!({ "domain": "a.example.com" })));
        assert!(!take_wait(&["cert", "create"], &mut create));
        for (path, waits, left) in [
            ("/certificates/a/status?wait=true", true, "/certificates/a/status"),
            ("/certificates/a/renew?force=true&wait=true", true, "/certificates/a/renew?force=true"),
            ("/certificates/a/status", false, "/certificates/a/status"),
        ] {
            let mut status = call(path, None);
            assert_eq!((take_wait(&["cert", "status"], &mut status), &*status.path), (waits, left));
        }
        let mut other = call("/x?wait=true", None);
        assert!(!take_wait(&["proxy", "show"], &mut other));
    }
}
