//! The `steward` program.

use std::process::ExitCode;

use steward::Surroundings;

/// The settings are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit code of a program that panicked.
const PANICKED: u8 = 101;

fn main() -> ExitCode {
    // One provider for every TLS connection; a second one in the graph would make the choice ambiguous.
    let _already_chosen = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // A variable that is not UTF-8 cannot be a key of ours.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let surroundings = Surroundings { variables: variables.collect() };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            steward::terminal::note(&format!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // On a worker, where what it waits for wakes it: this thread would have to be woken by the system each time.
    let work = runtime.spawn(steward::run(std::env::args_os().collect(), surroundings));
    let code = runtime.block_on(work).unwrap_or(PANICKED);
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ExitCode::from(code)
}
