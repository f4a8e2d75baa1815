//! Says on a terminal that something takes long.

use std::io::IsTerminal;
use std::pin::pin;
use std::time::{Duration, Instant};

/// How often the line is written again, and how long nothing is said at first.
const STEP: Duration = Duration::from_secs(1);

/// Waits for `work`. When it takes long and somebody watches, a line on standard error tells for how long.
pub(crate) async fn shown<F: Future>(work: F) -> F::Output {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let mut work = pin!(work);
    let begun = Instant::now();
    let mut said = false;
    loop {
        if let Ok(done) = tokio::time::timeout(STEP, work.as_mut()).await {
            if said {
                eprint!("\r\u{1b}[K");
            }
            return done;
        }
        eprint!("\rwaiting for the gateway: {} s", begun.elapsed().as_secs());
        said = true;
    }
}
