//! `cert export` into files, and `cert show --pem`: for programs that read PEM.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use portcullis_services::config::CertName;
use serde_json::{Value, json};

use super::call::Call;
use super::client::{Answer, Client};
use super::files::{self, PRIVATE, PUBLIC};
use super::output::Format;
use super::{Failure, print_text, send};

/// The members of the gateway's answer.
const CHAIN: &str = "fullchain_pem";
const KEY: &str = "private_key_pem";

/// What stands for standard output.
const STDOUT: &str = "-";

// The documentation of the options would stand in place of the command's.
#[derive(Debug, Args)]
struct Exporting {
    /// The folder for NAME.fullchain.pem and NAME.key.pem; `-` prints their contents instead.
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    output_dir: PathBuf,

    /// The chain and the key in a file each; so it is without --combined.
    #[arg(long, overrides_with = "combined")]
    separate: bool,

    /// The chain and the key in one file, NAME.pem, as HAProxy has them.
    #[arg(long, overrides_with = "separate", requires = "include_key")]
    combined: bool,

    /// Replace files that are there.
    #[arg(long, short)]
    force: bool,
}

/// An export that was asked for.
#[derive(Debug)]
pub(crate) struct Export {
    options: Exporting,
    name: CertName,
    with_key: bool,
}

/// A file of an export.
struct Part {
    path: PathBuf,
    members: &'static [&'static str],
    mode: u32,
}

/// Adds what only this program does to the noun `cert`.
pub(crate) fn extend(cert: Command) -> Command {
    let pem = Arg::new("pem").long("pem").help("Print the chain as PEM, and nothing else");
    cert.mut_subcommand("export", Exporting::augment_args)
        .mut_subcommand("show", |show| show.arg(pem.action(ArgAction::SetTrue)))
        .mut_subcommand("convert-to-production", |convert| convert.alias("to-production"))
}

impl Export {
    /// The export, if that is what these words ask for.
    pub(crate) fn of(matches: &ArgMatches) -> Result<Option<Self>, clap::Error> {
        let below = matches.subcommand_matches("cert").and_then(|cert| cert.subcommand_matches("export"));
        let Some(below) = below else { return Ok(None) };
        let name = below.get_one::<CertName>("cert_name").expect("the name is required").clone();
        let options = Exporting::from_arg_matches(below)?;
        Ok(Some(Self { options, name, with_key: below.get_flag("include_key") }))
    }

    /// Asks the gateway, and writes what it gives. Nothing is asked for that could not be written: each export of a key is
    /// in the audit log.
    pub(crate) async fn run(self, client: &Client, call: &Call, format: Format) -> Result<(), Failure> {
        let parts = self.parts();
        if self.prints() {
            let answer = send(client, call).await?.json();
            let texts: Result<Vec<_>, _> =
                parts.iter().flat_map(|part| part.members).map(|member| text(&answer, member)).collect();
            print_text(&texts?.concat());
            return Ok(());
        }
        self.check(&parts)?;
        let answer = send(client, call).await?.json();
        for part in &parts {
            let texts: Result<Vec<_>, _> = part.members.iter().map(|member| text(&answer, member)).collect();
            self.write(part, texts?.concat().as_bytes())?;
        }
        let files: Vec<_> = parts.iter().map(|part| part.path.display().to_string()).collect();
        let done = json!({ "cert_name": self.name, "files": files });
        print_text(&format.render(&done).map_err(|error| Failure::Render(error.to_string()))?);
        Ok(())
    }

    fn prints(&self) -> bool {
        self.options.output_dir.as_os_str() == STDOUT
    }

    fn parts(&self) -> Vec<Part> {
        let part = |ending: &str, members, mode| Part {
            path: self.options.output_dir.join(format!("{}{ending}", self.name)),
            members,
            mode,
        };
        match (self.with_key, self.options.combined) {
            (true, true) => vec![part(".pem", &[CHAIN, KEY], PRIVATE)],
            (true, false) => {
                vec![part(".fullchain.pem", &[CHAIN], PUBLIC), part(".key.pem", &[KEY], PRIVATE)]
            }
            (false, _) => vec![part(".fullchain.pem", &[CHAIN], PUBLIC)],
        }
    }

    fn check(&self, parts: &[Part]) -> Result<(), Failure> {
        if !self.options.output_dir.is_dir() {
            return Err(Failure::NoFolder(self.options.output_dir.clone()));
        }
        // A link that leads nowhere is there, too.
        let is_there = |path: &Path| path.symlink_metadata().is_ok();
        match parts.iter().find(|part| !self.options.force && is_there(&part.path)) {
            Some(part) => Err(Failure::Exists(part.path.clone())),
            None => Ok(()),
        }
    }

    fn write(&self, part: &Part, content: &[u8]) -> Result<(), Failure> {
        let write = if self.options.force { files::replace } else { files::create };
        write(&part.path, content, part.mode)
            .map_err(|source| Failure::Write { path: part.path.clone(), source })
    }
}

/// Whether `cert show` is to print PEM.
pub(crate) fn wants_pem(matches: &ArgMatches) -> bool {
    let below = matches.subcommand_matches("cert").and_then(|cert| cert.subcommand_matches("show"));
    below.is_some_and(|show| show.get_flag("pem"))
}

/// Prints the chain of a certificate.
pub(crate) fn print_pem(answer: &Answer) -> Result<(), Failure> {
    print_text(&text(&answer.json(), CHAIN)?);
    Ok(())
}

/// A member of an answer, with a line end.
fn text(answer: &Value, member: &'static str) -> Result<String, Failure> {
    let text = answer.get(member).and_then(Value::as_str).ok_or(Failure::Incomplete(member))?;
    Ok(format!("{}\n", text.trim_end()))
}
