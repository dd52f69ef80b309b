//! The `steward` program.

use std::process::ExitCode;

use steward::Surroundings;

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
    let code = runtime.block_on(steward::run(std::env::args_os().collect(), surroundings));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ExitCode::from(code)
}
