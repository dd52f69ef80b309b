//! What the AI gateway costs, against the provider asked directly and against a bare proxy that is written for this.
//!
//! Keys, limits, budgets, ledger and metrics are on. Everything runs on this machine, which also makes the load, so CPU
//! time per request and ratios are the findings; requests per second are not. CPU time is what the kernel counted for
//! the threads of the process (`/proc/PID/task/*/schedstat`) over a fixed number of requests, in rounds that take turns.
//!
//! `cargo build --release -p steward && cargo run --release -p benches --bin gateway [full | peers | revoke] [STEWARD]`
//!
//! `full` asks longer and soaks five million requests. After `testbed/testbed install litellm portkey` those are measured
//! too; with `peers` nothing else is, and with `revoke` only how long a revoked key is still let in.

mod bare;
mod load;
mod peers;
mod process;
mod upstream;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use load::{Ask, Line};
use process::Program;

/// Connections of the load.
const LINES: usize = 16;
/// By then a daemon has written what was used.
const SETTLED: Duration = Duration::from_millis(100);
const ROUNDS: u64 = 5;
const ROUTE: &str = "fast";
const MODEL: &str = "gpt-5-mini";
const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
/// Keys that are revoked, one after the other.
const REVOKED: usize = 9;
const BARE_KEY: &str = "sk-bare-0123456789abcdef0123456789abcdef";

struct Sizes {
    plain: u64,
    streams: u64,
    at_a_rate: usize,
    soak: u64,
}

const SHORT: Sizes = Sizes { plain: 20_000, streams: 5_000, at_a_rate: 500, soak: 50_000 };
const FULL: Sizes = Sizes { plain: 100_000, streams: 25_000, at_a_rate: 3_000, soak: 5_000_000 };

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let print_port = |port: u16| {
        let mut out = io::stdout();
        writeln!(out, "{port}")?;
        out.flush()
    };
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["role=upstream"] => {
            return tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(upstream::serve(print_port));
        }
        ["role=bare", port] => {
            let port = port.parse().map_err(io::Error::other)?;
            return tokio::runtime::Runtime::new()?.block_on(bare::serve(port, BARE_KEY, ROUTE, print_port));
        }
        _ => {}
    }
    let full = arguments.iter().any(|argument| argument == "full");
    let only = arguments.iter().map(String::as_str).find(|argument| matches!(*argument, "peers" | "revoke"));
    let steward = arguments
        .iter()
        .find(|argument| !matches!(argument.as_str(), "full" | "peers" | "revoke"))
        .map_or_else(|| PathBuf::from("target/release/steward"), PathBuf::from)
        .canonicalize()?;
    // The load needs one core; the other is for what is measured.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(
        &steward,
        only,
        if full { &FULL } else { &SHORT },
    ))
}

async fn measure(steward: &Path, only: Option<&str>, sizes: &Sizes) -> io::Result<()> {
    let mut out = io::stdout();
    let (provider, provider_port) = Program::role(&["role=upstream"])?;
    let (mut bare, bare_port) = Program::role(&["role=bare", &provider_port.to_string()])?;
    let dir = tempfile::tempdir()?;
    let key = prepare(steward, dir.path(), provider_port)?;
    let port = free_port()?;
    configure(dir.path(), port, provider_port)?;

    let bare_plain = Ask::new(CHAT, BARE_KEY, ROUTE, false);
    let bare_stream = Ask::new(CHAT, BARE_KEY, ROUTE, true);
    let plain = Ask::new(CHAT, &key, ROUTE, false);
    let stream = Ask::new(CHAT, &key, ROUTE, true);
    let translated = Ask::new(MESSAGES, &key, ROUTE, true);

    let mut report = Report { out: io::stdout(), missed: 0 };
    let begun = Instant::now();
    let mut ours = Program::start(
        Command::new(steward)
            .current_dir(dir.path())
            .arg("up")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("up.log"))?),
    )?;
    let first = first_answer(port, &plain, &mut ours, begun).await?;
    report.promise("start to the first answer, ms", first.as_secs_f64() * 1e3, 300.0)?;
    let idle = ours.resident_kib()?;

    // Warm: connections, pages, the allocator.
    load::run(bare_port, &bare_plain, LINES, 1_000).await?;
    load::run(port, &plain, LINES, 1_000).await?;
    let direct = (provider_port, &bare_plain);
    match only {
        Some("peers") => {
            against_peers(dir.path(), direct, (&ours, port, &plain), sizes, &mut report).await?;
            return writeln!(out, "\n{} promises missed", report.missed);
        }
        Some(_) => {
            revocation(steward, dir.path(), port, &mut report).await?;
            return writeln!(out, "\n{} promises missed", report.missed);
        }
        None => {}
    }

    writeln!(
        out,
        "\nCPU per request, µs, {} plain and {} streams of {} events, {ROUNDS} rounds in turn",
        sizes.plain,
        sizes.streams,
        upstream::EVENTS
    )?;
    let itself = cpu(&provider, provider_port, &bare_plain, sizes.plain / ROUNDS).await?;
    writeln!(out, "  the provider itself, plain             {itself:>9.1}")?;
    let mut costs = [[0.0; 2]; 2];
    let mut cost_translated = 0.0;
    for _ in 0..ROUNDS {
        for (row, asks, count) in
            [(0, [&bare_plain, &plain], sizes.plain), (1, [&bare_stream, &stream], sizes.streams)]
        {
            costs[row][0] += cpu(&bare, bare_port, asks[0], count / ROUNDS).await?;
            costs[row][1] += cpu(&ours, port, asks[1], count / ROUNDS).await?;
        }
        cost_translated += cpu(&ours, port, &translated, sizes.streams / ROUNDS).await?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let rounds = ROUNDS as f64;
    for (name, [bare, ours]) in ["plain", "stream"].into_iter().zip(costs) {
        writeln!(out, "  bare proxy, {name:<27}{:>9.1}", bare / rounds)?;
        writeln!(out, "  this gateway, {name:<25}{:>9.1}", ours / rounds)?;
        report.promise(&format!("CPU, {name}: gateway / bare proxy"), ours / bare, 2.5)?;
    }
    writeln!(out, "  this gateway, Anthropic to OpenAI      {:>9.1}", cost_translated / rounds)?;
    report.promise("CPU, stream: translated / passed through", cost_translated / costs[1][1], 3.0)?;

    writeln!(out, "\nadded latency at 100 requests/s, µs, {} each, taking turns", sizes.at_a_rate)?;
    for (name, asks) in
        [("plain", [&bare_plain, &bare_plain, &plain]), ("stream", [&bare_stream, &bare_stream, &stream])]
    {
        let [direct, bare, ours] =
            latencies([provider_port, bare_port, port], asks, sizes.at_a_rate, 10).await?;
        writeln!(
            out,
            "  {name:<8} direct {direct:>7.0}, bare proxy +{:>6.0}, this gateway +{:>6.0}",
            bare - direct,
            ours - direct
        )?;
        report.promise(
            &format!("added p50, {name}: gateway / bare proxy"),
            (ours - direct) / (bare - direct),
            2.0,
        )?;
    }

    #[expect(clippy::cast_precision_loss, reason = "KiB")]
    let mib = |kib: u64| kib as f64 / 1024.0;
    let loaded = ours.resident_kib()?;
    writeln!(out, "\nresident memory: {:.1} MiB after the first answer", mib(idle))?;
    report.promise("resident memory after the load, MiB", mib(loaded), 40.0)?;
    // The first part fills what is allowed to fill: pools, caches, the allocator.
    load::run(port, &plain, LINES, sizes.soak / 5).await?;
    let before = ours.resident_kib()?;
    let rate = load::run(port, &plain, LINES, sizes.soak - sizes.soak / 5).await?;
    let after = ours.resident_kib()?;
    writeln!(
        out,
        "\nsoak of {} requests at {rate:.0}/s beside the load: {:.1} MiB, then {:.1} MiB",
        sizes.soak,
        mib(before),
        mib(after)
    )?;
    report.promise("growth in the soak, %", (mib(after) / mib(before) - 1.0) * 100.0, 10.0)?;
    bare.check()?;
    ours.check()?;
    revocation(steward, dir.path(), port, &mut report).await?;
    against_peers(dir.path(), direct, (&ours, port, &plain), sizes, &mut report).await?;
    writeln!(out, "\n{} promises missed", report.missed)
}

/// Prints measured values beside what was promised.
struct Report {
    out: io::Stdout,
    missed: usize,
}

impl Report {
    fn promise(&mut self, name: &str, value: f64, at_most: f64) -> io::Result<()> {
        self.line(name, value, "at most", at_most, value <= at_most)
    }

    fn at_least(&mut self, name: &str, value: f64, at_least: f64) -> io::Result<()> {
        self.line(name, value, "at least", at_least, value >= at_least)
    }

    fn line(&mut self, name: &str, value: f64, word: &str, limit: f64, kept: bool) -> io::Result<()> {
        self.missed += usize::from(!kept);
        let verdict = if kept { "kept" } else { "MISSED" };
        writeln!(self.out, "{name:<44} {value:>9.2}   promised {word} {limit}: {verdict}")
    }
}

/// CPU time of the program per request, in microseconds.
async fn cpu(program: &Program, port: u16, ask: &Ask, count: u64) -> io::Result<f64> {
    let before = program.cpu_time()?;
    load::run(port, ask, LINES, count).await?;
    // What is written behind the answers counts too.
    tokio::time::sleep(SETTLED).await;
    let taken = program.cpu_time()?.saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(taken.as_secs_f64() * 1e6 / count as f64)
}

/// Medians of the time until the whole answer, in microseconds.
async fn latencies(ports: [u16; 3], asks: [&Ask; 3], count: usize, beat_ms: u64) -> io::Result<[f64; 3]> {
    let mut lines = Vec::new();
    for port in ports {
        lines.push(Line::open(port).await?);
    }
    let mut times = [const { Vec::new() }; 3];
    let mut beat = tokio::time::interval(Duration::from_millis(beat_ms));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0..count {
        beat.tick().await;
        for turn in 0..3 {
            // Nobody is always the first after the pause.
            let at = (round + turn) % 3;
            let (_, whole) = lines[at].ask(asks[at]).await?;
            times[at].push(whole);
        }
    }
    Ok(times.map(|mut times| {
        times.sort_unstable();
        times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64) * 1e6
    }))
}

async fn first_answer(port: u16, ask: &Ask, program: &mut Program, begun: Instant) -> io::Result<Duration> {
    loop {
        program.check()?;
        if let Ok(mut line) = Line::open(port).await {
            line.ask(ask).await?;
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > Duration::from_mins(5) {
            return Err(io::Error::other("it did not start within five minutes"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn configure(dir: &Path, port: u16, provider: u16) -> io::Result<()> {
    let yaml = format!(
        "project: bench
http:
  listen: 127.0.0.1:{port}
ai:
  providers:
    openai: {{ kind: openai, url: \"http://127.0.0.1:{provider}/v1\", keys: [openai/main], formats: [chat] }}
  routes:
    {ROUTE}:
      targets: [ {{ provider: openai, model: {MODEL} }} ]
  budgets:
    month: {{ usd: 1000000, per: month, scope: project, enforce: strict }}
    day: {{ usd: 500000, per: day, scope: key, enforce: strict }}
  limits: {{ rpm: 4000000000, tpm: 4000000000000, concurrent: 10000 }}
"
    );
    std::fs::write(dir.join("steward.yaml"), yaml)
}

/// A project with the provider's key in its vault; returns a virtual key.
fn prepare(steward: &Path, dir: &Path, provider: u16) -> io::Result<String> {
    configure(dir, 0, provider)?;
    told(steward, dir, &["secret", "put", "openai/main"], "sk-provider")?;
    virtual_key(steward, dir, "bench")
}

/// How long a daemon still lets a key in whose withdrawal the person sees done.
async fn revocation(steward: &Path, dir: &Path, port: u16, report: &mut Report) -> io::Result<()> {
    let mut times = Vec::new();
    for number in 0..REVOKED {
        let name = format!("leaver-{number}");
        let ask = Ask::new(CHAT, &virtual_key(steward, dir, &name)?, ROUTE, false);
        let mut line = Line::open(port).await?;
        while !is_let_in(&mut line, &ask).await? {}
        told(steward, dir, &["ai", "keys", "revoke", &name], "")?;
        let revoked = Instant::now();
        while is_let_in(&mut line, &ask).await? {}
        times.push(revoked.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_unstable_by(f64::total_cmp);
    writeln!(report.out)?;
    report.promise("until a revoked key is refused, median, ms", times[REVOKED / 2], 1_000.0)?;
    report.promise("until a revoked key is refused, longest, ms", times[REVOKED - 1], 1_000.0)
}

async fn is_let_in(line: &mut Line, ask: &Ask) -> io::Result<bool> {
    match line.ask(ask).await {
        Ok(_) => Ok(true),
        Err(error) if error.to_string().contains("HTTP/1.1 401") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a key for clients.
fn virtual_key(steward: &Path, dir: &Path, name: &str) -> io::Result<String> {
    let printed =
        told(steward, dir, &["ai", "keys", "create", name, "--routes", ROUTE, "--yes", "--json"], "")?;
    let at = printed.find("sk-steward-").ok_or_else(|| io::Error::other(format!("no key in: {printed}")))?;
    let key = printed[at..].split(|letter: char| !letter.is_ascii_alphanumeric() && !"-_".contains(letter));
    Ok(key.into_iter().next().unwrap_or_default().to_owned())
}

fn told(program: &Path, dir: &Path, arguments: &[&str], input: &str) -> io::Result<String> {
    let mut child = Command::new(program)
        .current_dir(dir)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(io::Error::other(format!("`{}` failed: {}", arguments.join(" "), output.status)))
    }
}

/// The gateway beside those of others that are installed, one at a time: plain requests, the same provider behind.
async fn against_peers(
    dir: &Path,
    (provider, direct): (u16, &Ask),
    (ours, port, plain): (&Program, u16, &Ask),
    sizes: &Sizes,
    report: &mut Report,
) -> io::Result<()> {
    let mut out = io::stdout();
    let cost = cpu(ours, port, plain, sizes.plain).await?;
    let rate = load::run(port, plain, LINES, sizes.plain).await?;
    writeln!(
        out,
        "\nothers, plain requests on {LINES} connections\n  this gateway           {cost:>8.0} µs of CPU, {rate:>7.0}/s"
    )?;
    for at in 0..2 {
        let peer = if at == 0 {
            peers::litellm(dir, provider).await?
        } else {
            peers::portkey(dir, provider).await?
        };
        let Some(mut peer) = peer else {
            let name = ["LiteLLM", "Portkey"][at];
            writeln!(out, "  {name} is not installed: testbed/testbed install litellm portkey")?;
            continue;
        };
        let taken = peer.measure().await?;
        // A rate that the slowest of them bears.
        let [without, with, other] =
            latencies([provider, port, peer.port], [direct, plain, &peer.ask], sizes.at_a_rate / 5, 50)
                .await?;
        writeln!(
            out,
            "  {:<22} {:>8.0} µs of CPU, {:>7.0}/s, {} MiB; added p50 at 20/s {:.0} µs (this gateway {:.0} µs)",
            peer.name,
            taken.cpu,
            taken.rate,
            taken.resident_kib / 1024,
            other - without,
            with - without
        )?;
        if at == 0 {
            report.at_least("throughput per core: gateway / LiteLLM", taken.cpu / cost, 30.0)?;
            report.at_least("throughput on this machine: gateway / LiteLLM", rate / taken.rate, 30.0)?;
        }
    }
    Ok(())
}
