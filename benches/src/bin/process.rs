//! The program as a process: time to the first output, and the memory of an idle daemon.
//!
//! `cargo build --release && cargo run --release -p benches --bin process [PATH-OF-STEWARD]`

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use contract::{Error, ErrorKind};

const ROUNDS: usize = 100;
/// How long the daemon idles before its memory is read.
const IDLE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Error> {
    let steward =
        std::env::args().nth(1).map_or_else(|| PathBuf::from("target/release/steward"), PathBuf::from);
    let steward = steward.canonicalize().map_err(other)?;
    let dir = tempfile::tempdir().map_err(other)?;
    run(&steward, dir.path(), &["init", "--project", "bench"])?;
    run(&steward, dir.path(), &["status"])?;
    let mut out = std::io::stdout();
    writeln!(out, "{ROUNDS} starts each; milliseconds from start to end, 50th and 99th percentile")
        .map_err(other)?;
    // The peer is the least that starting any program costs here.
    for (name, program, args) in [
        ("true (the floor)", Path::new("true"), &[][..]),
        ("steward --version", &*steward, &["--version"][..]),
        ("steward status", &*steward, &["status"][..]),
    ] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let started = Instant::now();
            run(program, dir.path(), args)?;
            times.push(started.elapsed());
        }
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1].as_secs_f64() * 1e3;
        writeln!(out, "{name:<20} {:>8.2} {:>8.2}", at(50), at(99)).map_err(other)?;
    }
    let config = std::fs::read_to_string(dir.path().join("steward.yaml")).map_err(other)?;
    std::fs::write(dir.path().join("steward.yaml"), format!("{config}\nhttp:\n  listen: 127.0.0.1:0\n"))
        .map_err(other)?;
    let mut daemon = Command::new(&steward)
        .current_dir(dir.path())
        .arg("up")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(other)?;
    std::thread::sleep(IDLE);
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).map_err(other);
    daemon.kill().map_err(other)?;
    daemon.wait().map_err(other)?;
    let status = status?;
    let kib = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<f64>().ok())
    };
    let resident = kib("VmRSS:").unwrap_or_default() / 1024.0;
    let own = kib("RssAnon:").unwrap_or_default() / 1024.0;
    writeln!(
        out,
        "idle daemon after {} s: {resident:.1} MiB resident, {own:.1} MiB of it its own; promise 40 MiB",
        IDLE.as_secs()
    )
    .map_err(other)?;
    Ok(())
}

fn run(program: &Path, dir: &Path, args: &[&str]) -> Result<(), Error> {
    let status = Command::new(program)
        .current_dir(dir)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(other)?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Other, format!("{} failed: {status}", program.display())))
    }
}

fn other(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Other, "the benchmark failed").because(cause)
}
