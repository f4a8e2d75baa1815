//! The command line: `serve` and `demo` run the daemon, everything else is a call of the API.

mod call;
mod client;
mod diagnosis;
mod exporting;
mod files;
mod follow;
mod issuing;
mod login;
mod oauth;
mod output;
mod profile;
mod progress;
mod service_logs;
mod service_stats;
mod steps;
mod web;
mod wrap;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use http::{Method, StatusCode};
use portcullis_services::control::commands::{self, Commands};
use secrecy::SecretString;
use serde_json::Value;

use self::call::Call;
use self::client::{Answer, Client, ClientError, Gateway};
use self::oauth::LoginError;
use self::output::Format;
use self::profile::{Profile, ProfileError, Profiles};
use crate::settings::Settings;

/// Something failed.
const FAILED: u8 = 1;
/// The arguments or the configuration of the client are wrong.
const MISUSED: u8 = 2;
/// The gateway wants another token.
const UNAUTHENTICATED: u8 = 3;
/// Interrupted from the keyboard.
const INTERRUPTED: u8 = 130;

/// Where the gateway is looked for when nothing names one and no admin socket is there.
const DEFAULT_URL: &str = "http://localhost:80";

/// The operation whose answer decides the exit code.
const HEALTH: &str = "/health";

/// What the command line asks the program to be.
#[derive(Debug)]
pub enum Invocation {
    /// The daemon.
    Serve(Box<Settings>),
    /// The daemon with something to try.
    Demo(crate::demo::Options),
    /// A client; it has run, and this is its result.
    Client(ExitCode),
}

/// The id of the option for an access token.
const TOKEN: &str = "client_token";

/// Options that every client command takes. Their ids are their own, because operations have fields of the same names.
#[derive(Debug, Args)]
struct Global {
    /// Where the gateway is [default: the admin socket in PORTCULLIS_DATA, else http://localhost:80]
    #[arg(
        id = "client_base_url",
        long = "base-url",
        global = true,
        env = "API_URL",
        alias = "url",
        value_name = "URL",
        help_heading = "Client"
    )]
    base_url: Option<String>,

    /// An access token.
    #[arg(
        id = TOKEN,
        long = "token",
        value_name = "TOKEN",
        global = true,
        env = "OAUTH_ACCESS_TOKEN",
        hide_env_values = true,
        help_heading = "Client"
    )]
    token: Option<SecretString>,

    /// How answers look.
    #[arg(id = "client_format", long = "format", value_name = "FORMAT", global = true, value_enum, default_value_t = Format::Auto, help_heading = "Client")]
    format: Format,

    /// Which profile of the configuration file to use.
    #[arg(id = "client_profile", long = "profile", value_name = "NAME", global = true, default_value = profile::DEFAULT, help_heading = "Client")]
    profile: String,

    /// The configuration file [default: ~/.config/portcullis/profiles.yml]
    #[arg(
        id = "client_config",
        long = "config",
        global = true,
        value_name = "FILE",
        help_heading = "Client"
    )]
    config: Option<PathBuf>,

    /// Seconds until an answer must be there.
    #[arg(id = "client_timeout", long = "timeout", value_name = "SECONDS", global = true, default_value_t = 120, value_parser = value_parser!(u64).range(1..=86_400), help_heading = "Client")]
    timeout: u64,

    /// Certificates to trust beside the system's, as PEM.
    #[arg(
        id = "client_cacert",
        long = "cacert",
        global = true,
        value_name = "FILE",
        help_heading = "Client"
    )]
    cacert: Option<PathBuf>,

    /// Print the request and send nothing. An operation that has a dry run of its own does that instead.
    #[arg(long, global = true, action = ArgAction::SetTrue, help_heading = "Client")]
    dry_run: bool,
}

/// Reads the command line and, unless it asks for the daemon, does what it says.
pub fn run() -> Invocation {
    let commands = Commands::new();
    let matches = match command(&commands).try_get_matches() {
        Ok(matches) => matches,
        Err(error) => explained(error, &command(&commands)).exit(),
    };
    match matches.subcommand() {
        Some(("serve", below)) => match Settings::from_arg_matches(below) {
            Ok(settings) => Invocation::Serve(Box::new(settings)),
            Err(error) => error.exit(),
        },
        Some(("demo", below)) => match crate::demo::Options::from_arg_matches(below) {
            Ok(options) => Invocation::Demo(options),
            Err(error) => error.exit(),
        },
        Some(("completions", below)) => {
            let shell = *below.get_one::<clap_complete::Shell>("shell").expect("the shell is required");
            clap_complete::generate(shell, &mut command(&commands), "portcullis", &mut std::io::stdout());
            Invocation::Client(ExitCode::SUCCESS)
        }
        _ => Invocation::Client(client(&commands, &matches)),
    }
}

/// Names the variable that sets an option, where its value is wrong: clap names the flag only.
fn explained(mut error: clap::Error, command: &Command) -> clap::Error {
    let Some(ContextValue::String(invalid)) = error.get(ContextKind::InvalidArg) else { return error };
    let Some(flag) = invalid.split([' ', '=']).next().and_then(|flag| flag.strip_prefix("--")) else {
        return error;
    };
    let below = command.find_subcommand("serve").into_iter().flat_map(Command::get_arguments);
    let mut options = command.get_arguments().chain(below);
    let variable = options.find(|option| option.get_long() == Some(flag)).and_then(Arg::get_env);
    if let Some(variable) = variable.filter(|variable| std::env::var_os(variable).is_some()) {
        let tip = format!("{} is set in the environment (or in .env)", variable.display());
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// The whole command line.
fn command(commands: &Commands) -> Command {
    let serve = Settings::augment_args(Command::new("serve"))
        .about("Run the gateway")
        .mut_args(|arg| arg.hide_default_value(false));
    let demo = crate::demo::Options::augment_args(Command::new("demo"))
        .about("Run a gateway with something to try: ports 8080 and 8443, a data folder of its own");
    let completions = Command::new("completions")
        .about("Print completions for a shell")
        .arg(Arg::new("shell").required(true).value_parser(value_parser!(clap_complete::Shell)));
    let mut nouns: Vec<Command> = commands.subcommands().collect();
    if nouns.iter().all(|noun| noun.get_name() != oauth::NOUN) {
        nouns.push(oauth::noun());
    }
    let nouns = nouns.into_iter().map(|noun| match noun.get_name() {
        "log" => follow::extend(noun),
        "cert" => issuing::extend(exporting::extend(noun)),
        "proxy" => issuing::extend(noun),
        "service" => service_stats::extend(service_logs::extend(noun)),
        oauth::NOUN => oauth::extend(noun),
        _ => noun,
    });
    let root = Command::new("portcullis")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .infer_long_args(true)
        .subcommands([serve, demo])
        .subcommands(nouns)
        .subcommands(login::commands())
        .subcommand(wrap::noun())
        .subcommand(completions);
    // The documentation of the options would stand in its place.
    Global::augment_args(root)
        .about("A public edge with HTTPS, OAuth 2.1 authentication, routes and logs")
        .long_about(None)
}

fn client(commands: &Commands, matches: &ArgMatches) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(error).report(&[]),
    };
    runtime.block_on(async {
        tokio::select! {
            outcome = answer(commands, matches) => match outcome {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => failure.report(&commands::words(matches)),
            },
            // Without a handler the signal ends the program just the same. A server ends what it has begun first.
            Ok(()) = tokio::signal::ctrl_c(), if !wrap::is_asked(matches) => ExitCode::from(INTERRUPTED),
        }
    })
}

async fn answer(commands: &Commands, matches: &ArgMatches) -> Result<(), Failure> {
    let global = Global::from_arg_matches(matches).map_err(Failure::Arguments)?;
    let (profiles, path) = profiles(&global)?;
    let profile = profiles.profiles.get(&global.profile);
    let mut client = connect(&global, profile)?;
    let login = login::Login::of(matches);
    if profile.is_none() && login.is_none() && global.profile != profile::DEFAULT {
        let known = profiles.profiles.into_keys().collect::<Vec<_>>().join(", ");
        return Err(Failure::NoProfile { name: global.profile, known, path });
    }
    if let Some(command) = login {
        return command.run(client, &global.profile, &path, global.format).await;
    }
    if client.token.is_none() && !global.dry_run {
        client.token = oauth::session::token(&client, profile, &global.profile, &path).await?;
    }
    if let Some(command) = oauth::Asked::of(matches).map_err(Failure::Arguments)? {
        return command.run(client, &global.profile, &path, global.format).await;
    }
    if let Some(command) = wrap::Wrap::of(matches).map_err(Failure::Arguments)? {
        return command.run(&client).await;
    }
    if let Some(query) = follow::query(matches) {
        return follow::run(&client, &query, global.format).await;
    }
    if let Some(path) = service_logs::path(matches) {
        return service_logs::run(&client, &path).await;
    }
    if let Some(path) = service_stats::path(matches) {
        return service_stats::run(&client, &path, global.format).await;
    }
    let asked = commands.asked(matches).map_err(Failure::Arguments)?.ok_or(Failure::Unknown)?;
    let mut call = Call::of(asked);
    let waits = issuing::take_wait(&commands::words(matches), &mut call);
    let own_dry_run = call.body.as_ref().is_some_and(|body| body.get("dry_run").is_some());
    if global.dry_run && !own_dry_run {
        println!("{} {}", call.method, call.path);
        if let Some(body) = &call.body {
            println!("{body:#}");
        }
        return Ok(());
    }
    if let Some(export) = exporting::Export::of(matches).map_err(Failure::Arguments)? {
        return export.run(&client, &call, global.format).await;
    }
    let mut answer = if steps::are_told(&commands::words(matches), &call) {
        steps::send(&client, &call).await?
    } else {
        progress::shown(send(&client, &call)).await?
    };
    if waits {
        answer = issuing::watch(&client, answer).await?;
    }
    if diagnosis::is_asked(&commands::words(matches)) {
        return diagnosis::show(&answer.json(), global.format);
    }
    if exporting::wants_pem(matches) {
        return exporting::print_pem(&answer);
    }
    print(&answer, global.format)?;
    if waits && !issuing::is_issued(&answer.json()) {
        return Err(Failure::NotIssued);
    }
    // So that scripts and health checks see it, too.
    if call.path == HEALTH && answer.json()["status"] != "healthy" { Err(Failure::Degraded) } else { Ok(()) }
}

fn profiles(global: &Global) -> Result<(Profiles, PathBuf), Failure> {
    let Some(path) = global.config.clone().or_else(Profiles::path) else {
        return Ok((Profiles::default(), PathBuf::from("portcullis-profiles.yml")));
    };
    Ok((Profiles::read(&path)?, path))
}

/// Finds the gateway: argument or environment, then the profile, then the admin socket, then this machine's port 80.
fn connect(global: &Global, profile: Option<&Profile>) -> Result<Client, Failure> {
    let named = global.base_url.clone().or_else(|| profile.and_then(|profile| profile.base_url.clone()));
    let socket = std::env::var_os("PORTCULLIS_DATA").map_or_else(|| PathBuf::from("data"), PathBuf::from);
    let socket = socket.join(crate::settings::SOCKET);
    let gateway = match named {
        Some(url) => Gateway::Url(gateway_url(&url).ok_or(Failure::BadUrl(url))?),
        None if socket.exists() => Gateway::Socket(socket),
        None => Gateway::Url(http::Uri::from_static(DEFAULT_URL)),
    };
    Ok(Client {
        gateway,
        token: global.token.clone().or_else(|| profile.and_then(|profile| profile.token.clone())),
        timeout: Duration::from_secs(global.timeout),
        cacert: global.cacert.clone().or_else(|| profile.and_then(|profile| profile.cacert.clone())),
    })
}

fn gateway_url(text: &str) -> Option<http::Uri> {
    let url: http::Uri = text.trim_end_matches('/').parse().ok()?;
    matches!(url.scheme_str()?, "http" | "https").then_some(url)
}

async fn send(client: &Client, call: &Call) -> Result<Answer, Failure> {
    let answer = client.send(call.method.clone(), &call.path, call.body.as_ref()).await?;
    if answer.status.is_success() { Ok(answer) } else { Err(Failure::Refused(answer)) }
}

fn print(answer: &Answer, format: Format) -> Result<(), Failure> {
    let text = format.render(&answer.json()).map_err(|error| Failure::Render(error.to_string()))?;
    print_text(&text);
    Ok(())
}

/// Prints, and ends quietly when nobody reads any more: `portcullis log search | head`.
fn print_text(text: &str) {
    use std::io::Write;
    if std::io::stdout().lock().write_all(text.as_bytes()).is_err() {
        std::process::exit(0);
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Arguments(#[source] clap::Error),
    #[error("{0}")]
    Wrap(String),
    #[error("no such command: try --help")]
    Unknown,
    #[error("{0:?} is no URL of a gateway: write http://HOST[:PORT] or https://HOST[:PORT]")]
    BadUrl(String),
    #[error("there is no profile {name:?} in {} (it has: {known}): make it with portcullis login --profile", path.display())]
    NoProfile { name: String, known: String, path: PathBuf },
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the gateway refused")]
    Refused(Answer),
    #[error("the gateway is degraded: it serves, but `store` is away, or `problems` are not in force")]
    Degraded,
    #[error("the certificate could not be issued: `error` says why")]
    NotIssued,
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(
        "over the admin socket everybody is admin: name a gateway to log in at with --base-url https://HOST[:PORT]"
    )]
    NoLogin,
    #[error("{0} of the checks failed")]
    Unwell(usize),
    #[error("the answer can't be shown in this format: {0}")]
    Render(String),
    #[error("the gateway's answer has no {0}: is the certificate issued yet? `portcullis cert status` tells")]
    Incomplete(&'static str),
    #[error("{} is there already: --force replaces it, --output-dir names another folder", .0.display())]
    Exists(PathBuf),
    #[error("{} is no folder: make it first, or name another one with --output-dir", .0.display())]
    NoFolder(PathBuf),
    #[error("{} can't be written", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the system refuses")]
    System(#[from] std::io::Error),
}

impl Failure {
    /// Says what is wrong with the command of these words, and what to do next.
    fn report(&self, words: &[&str]) -> ExitCode {
        match self {
            Self::Arguments(error) => {
                // Broken pipes are all that can happen here, and then nobody reads.
                let _printed = error.print();
                return ExitCode::from(MISUSED);
            }
            Self::Refused(answer) => return refusal(answer, words),
            Self::Unknown
            | Self::BadUrl(_)
            | Self::NoProfile { .. }
            | Self::Profile(_)
            | Self::Client(_)
            | Self::Login(_)
            | Self::NoLogin
            | Self::Unwell(_)
            | Self::Degraded
            | Self::NotIssued
            | Self::Wrap(_)
            | Self::Render(_)
            | Self::Incomplete(_)
            | Self::Exists(_)
            | Self::NoFolder(_)
            | Self::Write { .. }
            | Self::System(_) => {}
        }
        eprintln!("error: {self}");
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            eprintln!("  because: {cause}");
            source = cause.source();
        }
        ExitCode::from(match self {
            Self::BadUrl(_) | Self::NoProfile { .. } | Self::Profile(_) | Self::Unknown | Self::NoLogin => {
                MISUSED
            }
            Self::Login(LoginError::Ended(_)) => UNAUTHENTICATED,
            _ => FAILED,
        })
    }
}

/// Explains a problem+json answer (RFC 9457), field by field, and what to do next.
fn refusal(answer: &Answer, words: &[&str]) -> ExitCode {
    let problem = answer.json();
    let text = |name: &str| problem.get(name).and_then(Value::as_str);
    let errors = problem.get("errors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let said =
        text("detail").or_else(|| text("title")).or(problem.as_str()).unwrap_or("no explanation given");
    // The detail of a refused input is the list that follows.
    let said = if errors.is_empty() { said } else { "the gateway does not accept this" };
    eprintln!("error: {said} ({})", answer.status.as_u16());
    for error in errors {
        let field = error.get("field").and_then(Value::as_str).unwrap_or_default();
        let detail = error.get("detail").and_then(Value::as_str).unwrap_or_default();
        match error.get("value") {
            Some(value) if !value.is_null() => eprintln!("  {field}: {value}: {detail}"),
            _ => eprintln!("  {field}: {detail}"),
        }
    }
    if let Some(hint) = hint(answer.status, words) {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(match answer.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => UNAUTHENTICATED,
        _ => FAILED,
    })
}

/// What to do next.
fn hint(status: StatusCode, words: &[&str]) -> Option<String> {
    Some(match status {
        StatusCode::UNAUTHORIZED => {
            "on the gateway's machine set PORTCULLIS_DATA; else: portcullis login, portcullis login --setup TOKEN, or --token"
                .to_owned()
        }
        StatusCode::FORBIDDEN => {
            "this token is not enough here: use one with the scope that is named".to_owned()
        }
        StatusCode::NOT_FOUND => {
            let group = words.split_last().map_or(words, |(_, group)| group).join(" ");
            format!("portcullis {group} --help lists the commands; those that list show what there is")
        }
        StatusCode::UNPROCESSABLE_ENTITY => {
            format!("portcullis {} --help tells what is possible", words.join(" "))
        }
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => {
            "look at what is there now, then try again".to_owned()
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            "portcullis system health tells more; traffic is served meanwhile".to_owned()
        }
        status if status.is_redirection() => {
            "the gateway wants HTTPS: --base-url https://HOST[:PORT]".to_owned()
        }
        _ => return None,
    })
}

/// A call that no operation stands for: other people's protocols.
fn call(method: Method, path: &str, body: Option<Value>) -> Call {
    Call { method, path: path.to_owned(), body }
}
