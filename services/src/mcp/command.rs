//! The tool that takes one of our own operations in the words of the command line. It runs no programs.

use std::fmt;
use std::sync::Arc;

use clap::Command;
use clap::error::ErrorKind;
use http::Method;
use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::schema;
use super::tools::title;
use crate::config::field::{self, FieldError};
use crate::control::Error;
use crate::control::commands::Commands;

/// Longer commands are refused.
const MAX_COMMAND: usize = 64 * 1024;

/// What is to be run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The command as for the command line, e.g. `proxy create app.example.com http://10.0.0.5 --auth-enabled`; with
    /// `--help` it is explained.
    command: String,
}

/// The grammar of the command line.
pub(super) struct RunCommand {
    commands: Commands,
    grammar: Command,
}

impl fmt::Debug for RunCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RunCommand").field(&self.commands).finish()
    }
}

impl RunCommand {
    pub(super) const NAME: &'static str = "run_command";

    pub(super) fn new() -> Self {
        let commands = Commands::new();
        let grammar = Command::new("portcullis")
            .about("One operation of the gateway; no other programs")
            .no_binary_name(true)
            .subcommand_required(true)
            .disable_help_subcommand(true)
            .subcommands(commands.subcommands().map(without_environment));
        Self { commands, grammar }
    }

    pub(super) fn tool() -> Tool {
        let input = Arc::new(schema::compact::<Input>());
        let about =
            "Run one operation of this gateway, written as for its command line. It runs no other programs.";
        // It is as harmless or not as what it is told to do, which is asked for again.
        let hints =
            ToolAnnotations::new().read_only(false).destructive(true).idempotent(false).open_world(false);
        Tool::new(Self::NAME, about, input).with_title(title(Self::NAME)).with_annotations(hints)
    }

    /// The operation that a command names, and its input.
    ///
    /// # Errors
    ///
    /// When it is none, with what clap says of it: that is the help, too, where it was asked for.
    pub(super) fn read(&self, input: &JsonObject) -> Result<(&'static str, JsonObject), Error> {
        let Input { command } = field::read(&Value::Object(input.clone())).map_err(Error::invalid)?;
        let wrong = |detail: String| Error::invalid(FieldError::bare("command", detail));
        if command.len() > MAX_COMMAND {
            return Err(wrong(format!("is longer than {MAX_COMMAND} bytes")));
        }
        let mut words = shlex::split(&command)
            .ok_or_else(|| wrong("a quote is not closed, or a backslash stands at the end".to_owned()))?;
        if words.first().is_some_and(|first| first == "portcullis") {
            words.remove(0);
        }
        // The command line reads files; this is another machine than the one whose files are meant.
        if words.iter().any(|word| names_file(word)) {
            return Err(wrong(
                "files can't be read here: give what is in them, or use the tool itself".to_owned(),
            ));
        }
        let told = |error: &clap::Error| {
            let text = error.render().to_string();
            let text = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => text,
                _ => text.trim_start_matches("error: ").to_owned(),
            };
            wrong(text.trim_end().to_owned())
        };
        let matches = self.grammar.clone().try_get_matches_from(words).map_err(|error| told(&error))?;
        let asked = self.commands.asked(&matches).map_err(|error| told(&error))?;
        let asked = asked.ok_or_else(|| wrong("names no operation: see `--help`".to_owned()))?;
        match asked.input {
            Value::Object(mut input) => {
                // What was not given is no wish for nothing; a change to the default is.
                let changes = asked.endpoint.method == Method::PUT || asked.endpoint.method == Method::PATCH;
                input.retain(|_, value| changes || !value.is_null());
                Ok((asked.name, input))
            }
            _ => Ok((asked.name, JsonObject::new())),
        }
    }
}

/// A command without values from the environment: that is the daemon's, not the caller's.
fn without_environment(command: Command) -> Command {
    let command = command.mut_args(|argument| argument.env(None::<&'static str>));
    command.mut_subcommands(without_environment)
}

/// Whether the command line would read a file in place of this: `@file`, `--flag=@file` or `-f@file`.
fn names_file(word: &str) -> bool {
    word.starts_with('@')
        || word.contains("=@")
        || (word.starts_with('-') && word.as_bytes().get(2) == Some(&b'@'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(command: &str) -> Result<(&'static str, Value), String> {
        let input = json!({ "command": command });
        let read = RunCommand::new().read(input.as_object().expect("an object"));
        read.map(|(name, input)| (name, Value::Object(input))).map_err(|error| error.to_string())
    }

    #[test]
    fn commands_are_operations() {
        let (name, input) = read("portcullis proxy delete app.example.com").expect("a command");
        assert_eq!((name, &input["proxy_hostname"]), ("delete_proxy", &json!("app.example.com")));
        let (name, input) = read("proxy create 'app.example.com' http://10.0.0.5").expect("a command");
        assert_eq!((name, &input["target_url"]), ("create_proxy", &json!("http://10.0.0.5")));
    }

    #[test]
    fn null_brings_back_the_default() {
        let (name, input) =
            read("proxy update a.example.com --cors null --allowed-networks null").expect("read");
        assert_eq!(name, "update_proxy");
        assert_eq!(
            input,
            json!({ "proxy_hostname": "a.example.com", "cors": null, "allowed_networks": null })
        );
        let (_, input) = read("proxy create a.example.com http://10.0.0.5 --cors null").expect("a command");
        assert_eq!(input.get("cors"), None, "there is nothing yet to bring back");
    }

    #[test]
    fn the_environment_of_the_daemon_is_not_the_callers() {
        let grammar = RunCommand::new().grammar;
        let mut left = vec![&grammar];
        while let Some(command) = left.pop() {
            for argument in command.get_arguments() {
                assert!(argument.get_env().is_none(), "{} {}", command.get_name(), argument.get_id());
            }
            left.extend(command.get_subcommands());
        }
    }

    #[test]
    fn what_is_none_is_told() {
        for (command, expected) in [
            ("ls -la", "unrecognized subcommand"),
            ("proxy delete", "required"),
            ("proxy delete a.example.com --nonsense", "unexpected argument"),
            ("proxy 'delete", "quote"),
            ("", "Usage"),
            ("serve", "unrecognized subcommand"),
            ("proxy --help", "create"),
            ("proxy github set a.example.com Iv1.0123456789abcdef @/etc/hostname", "files"),
            ("cert upload a --key=@-", "files"),
        ] {
            let error = read(command).expect_err(command);
            assert!(error.contains(expected), "{command}: {error}");
        }
    }
}
