//! Gateways of others, where `testbed/testbed install litellm portkey` has put them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::load::{self, Ask};
use crate::process::Program;
use crate::{BARE_KEY, CHAT, LINES, MODEL, ROUTE, cpu, first_answer, free_port};

/// Requests over which a peer is measured: each takes it milliseconds.
const COUNT: u64 = 1_000;

/// Node's servers listen on all interfaces unless they are told otherwise, and this one cannot be told.
const ONLY_HERE: &str = r#"
const { Server } = require("node:net");
const listen = Server.prototype.listen;
Server.prototype.listen = function (...given) {
  const options = typeof given[0] === "object" && given[0] !== null ? given[0] : { port: Number(given[0]) };
  return listen.call(this, { ...options, host: "127.0.0.1" }, ...given.filter((one) => typeof one === "function"));
};
"#;

/// One that runs.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    /// A plain request.
    pub(crate) ask: Ask,
    program: Program,
}

/// What it takes.
pub(crate) struct Taken {
    /// Microseconds of CPU time per plain request.
    pub(crate) cpu: f64,
    /// Plain requests per second on as many connections as the gateway has.
    pub(crate) rate: f64,
    pub(crate) resident_kib: u64,
}

/// Where the test bed installs programs.
fn installed(below: &str) -> Option<PathBuf> {
    let home = std::env::var_os("TESTBED_HOME").map(PathBuf::from).or_else(|| {
        std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/steward-testbed"))
    })?;
    Some(home.join(below)).filter(|path| path.exists())
}

/// Starts those that are installed, one after the other as they are asked for.
pub(crate) async fn litellm(dir: &Path, provider: u16) -> io::Result<Option<Peer>> {
    let Some(path) = installed("venv/litellm/bin/litellm") else { return Ok(None) };
    let port = free_port()?;
    let config = dir.join("litellm.yaml");
    let yaml = format!(
        "model_list:
  - model_name: {ROUTE}
    litellm_params: {{ model: openai/{MODEL}, api_base: \"http://127.0.0.1:{provider}/v1\", api_key: sk-provider }}
general_settings: {{ master_key: {BARE_KEY} }}
"
    );
    std::fs::write(&config, yaml)?;
    let mut command = Command::new(path);
    command
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        .env("LITELLM_LOG", "ERROR")
        .args(["--host", "127.0.0.1", "--num_workers", "1", "--telemetry", "False"])
        .args(["--port", &port.to_string(), "--config"])
        .arg(&config);
    start("LiteLLM, one worker", dir, command, port, Ask::new(CHAT, BARE_KEY, ROUTE, false)).await.map(Some)
}

/// See [`litellm`].
pub(crate) async fn portkey(dir: &Path, provider: u16) -> io::Result<Option<Peer>> {
    let server = "npm/portkey/node_modules/@portkey-ai/gateway/build/start-server.js";
    let Some(path) = installed(server) else { return Ok(None) };
    let port = free_port()?;
    let only_here = dir.join("only-here.cjs");
    std::fs::write(&only_here, ONLY_HERE)?;
    let mut command = Command::new("node");
    command.arg("--require").arg(only_here).arg(path).args(["--headless", &format!("--port={port}")]);
    let ask = Ask::new(CHAT, "sk-provider", MODEL, false)
        .with_header("x-portkey-provider", "openai")
        .with_header("x-portkey-custom-host", &format!("http://127.0.0.1:{provider}/v1"));
    start("Portkey", dir, command, port, ask).await.map(Some)
}

async fn start(
    name: &'static str,
    dir: &Path,
    mut command: Command,
    port: u16,
    ask: Ask,
) -> io::Result<Peer> {
    let begun = Instant::now();
    let log = std::fs::File::create(dir.join("peer.log"))?;
    let mut program =
        Program::start(command.current_dir(dir).stdout(Stdio::null()).stderr(Stdio::from(log)))?;
    first_answer(port, &ask, &mut program, begun).await?;
    load::run(port, &ask, LINES, COUNT / 10).await?;
    Ok(Peer { name, port, ask, program })
}

impl Peer {
    /// Measures it.
    pub(crate) async fn measure(&mut self) -> io::Result<Taken> {
        let cpu = cpu(&self.program, self.port, &self.ask, COUNT).await?;
        let rate = load::run(self.port, &self.ask, LINES, COUNT).await?;
        self.program.check()?;
        Ok(Taken { cpu, rate, resident_kib: self.program.resident_kib()? })
    }
}
