//! The binary: reads the command line and becomes the daemon or a client.

use std::process::ExitCode;

use portcullis::cli::{self, Invocation};
use portcullis::{daemon, demo};

// Small allocations on many threads are what a proxy does all day.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A missing `.env` is the normal case; one that can't be read is reported by the settings that it lacks.
    let _loaded = dotenvy::dotenv();
    let outcome: Result<(), Box<dyn std::error::Error>> = match cli::run() {
        Invocation::Client(code) => return code,
        Invocation::Serve(settings) => daemon::run(*settings).map_err(Into::into),
        Invocation::Demo(options) => demo::run(&options).map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}
