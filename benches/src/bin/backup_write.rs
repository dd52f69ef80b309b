//! What a backup of rows costs, next to restic with the same files: processor time, memory, bytes kept.
//!
//! restic reads everything too (`--force`): a dump has no times by which it could be skipped.
//!
//! `cargo run --release -p benches --bin backup_write [MIB]`; needs `restic`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use contract::{
    Actor, BackupLabel, Context, Error, ErrorKind, Layout, Part, PartBody, Repository as _, SecretSource,
};
use repository_restic::Config;
use secrecy::SecretString;

const MIB: usize = 1024;
const PART_MIB: usize = 8;
/// Promises: of the processor time that restic takes, and of memory.
const CPU_MAX: f64 = 0.8;
const MEMORY_MIB_MAX: f64 = 256.0;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [mode, source, target] if mode == "--write" => write(Path::new(source), Path::new(target)),
        [] => compare(MIB),
        [text] => compare(text.parse().map_err(|_| Error::new(ErrorKind::Invalid, "MIB is not a number"))?),
        _ => Err(Error::new(ErrorKind::Invalid, "one argument: MIB")),
    }
}

fn compare(mib: usize) -> Result<(), Error> {
    let folder = tempfile::tempdir().map_err(other)?;
    let path = |name: &str| folder.path().join(name);
    let source = path("source");
    std::fs::create_dir(&source).map_err(other)?;
    let mut seed = 1;
    for n in 0..mib / PART_MIB {
        std::fs::write(source.join(format!("{n:05}")), rows(PART_MIB << 20, &mut seed)).map_err(other)?;
    }
    let restic = |repository: &Path, arguments: &[&str]| {
        let mut command = Command::new("restic");
        command.args(["--no-cache", "--quiet", "--repo"]).arg(repository).args(arguments);
        command.env("RESTIC_PASSWORD", "bench").stdout(Stdio::null());
        command
    };
    measure(&mut restic(&path("theirs"), &["init"]))?;
    let ours = || {
        let mut command = Command::new(std::env::current_exe().map_err(other)?);
        command.arg("--write").arg(&source).arg(path("ours"));
        Ok::<_, Error>(command)
    };
    let source_text = source.display().to_string();
    let mut lines = vec![format!("{mib} MiB of rows in files of {PART_MIB} MiB")];
    for round in ["first", "unchanged"] {
        let theirs = measure(&mut restic(&path("theirs"), &["backup", "--force", &source_text]))?;
        let own = measure(&mut ours()?)?;
        for (name, used, kept) in [("restic", &theirs, "theirs"), ("steward", &own, "ours")] {
            lines.push(format!(
                "{round:<10} {name:<8} {:7.2} s CPU {:7.2} s wall {:6.0} MiB memory {:7.1} MiB kept",
                used.cpu.as_secs_f64(),
                used.wall.as_secs_f64(),
                used.memory_mib,
                mib_in(&path(kept)).map_err(other)?,
            ));
        }
        let share = own.cpu.as_secs_f64() / theirs.cpu.as_secs_f64();
        lines.push(format!("{round:<10} {share:.2} of restic's processor time"));
        if round == "first" {
            let verdict = |kept: bool| if kept { "kept" } else { "NOT KEPT" };
            lines.push(format!(
                "           at most {CPU_MAX}: {}; at most {MEMORY_MIB_MAX} MiB of memory: {}",
                verdict(share <= CPU_MAX),
                verdict(own.memory_mib <= MEMORY_MIB_MAX),
            ));
        }
    }
    writeln!(std::io::stdout(), "{}", lines.join("\n")).map_err(other)
}

/// Rows as a dump writes them; zstd makes them about a third.
fn rows(bytes: usize, seed: &mut u64) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes + 128);
    while text.len() < bytes {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        let (id, city) = (*seed % 1_000_000, *seed >> 40 & 63);
        writeln!(
            text,
            "{id}\tcustomer {id}\tcity {city}\t2026-11-{:02}\t{:016x}\t{}.{:02}",
            id % 28 + 1,
            *seed,
            id % 997,
            city
        )
        .expect("a vector takes everything");
    }
    text.truncate(bytes);
    text
}

struct Used {
    cpu: Duration,
    wall: Duration,
    memory_mib: f64,
}

/// Runs a program and reads from `/proc` what it has used, until it is gone.
fn measure(command: &mut Command) -> Result<Used, Error> {
    let before = children_cpu()?;
    let started = Instant::now();
    let mut child = command.spawn().map_err(other)?;
    let mut memory_mib: f64 = 0.0;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(other)? {
            break status;
        }
        if let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", child.id())) {
            let peak = status.lines().find_map(|line| {
                line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok()
            });
            memory_mib = memory_mib.max(peak.unwrap_or_default() / 1024.0);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    if !status.success() {
        return Err(Error::new(ErrorKind::Other, format!("a program ended with {status}")));
    }
    Ok(Used { wall: started.elapsed(), cpu: children_cpu()?.saturating_sub(before), memory_mib })
}

/// Processor time of all children that have ended.
fn children_cpu() -> Result<Duration, Error> {
    /// Linux counts in hundredths of a second.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(other)?;
    // The name of the program, in parentheses, may hold anything; `cutime` and `cstime` are fields 16 and 17.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |field: usize| fields.get(field).and_then(|text| text.parse::<u32>().ok()).unwrap_or_default();
    Ok(TICK * (ticks(13) + ticks(14)))
}

fn mib_in(folder: &Path) -> std::io::Result<f64> {
    let (mut bytes, mut folders) = (0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                bytes += entry.metadata()?.len();
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a number for people")]
    Ok(bytes as f64 / 1_048_576.0)
}

struct Vault;

#[async_trait]
impl SecretSource for Vault {
    async fn secret(&self, _ctx: &Context, _name: &str) -> Result<SecretString, Error> {
        // 64 times the byte 1, in base64.
        Ok(format!("{}AQ==", "AQEB".repeat(21)).into())
    }
}

/// The backup itself, in a process of its own.
fn write(source: &Path, target: &Path) -> Result<(), Error> {
    let runtime = tokio::runtime::Runtime::new().map_err(other)?;
    runtime.block_on(async {
        let config = Config::new(&target.display().to_string());
        let repository = repository_restic::open("bench", &config, Path::new("/"), Arc::new(Vault))?;
        let ctx = Context::new("bench", Actor::local());
        repository.create(&ctx).await?;
        let label = BackupLabel {
            id: "bench".into(),
            project: "bench".into(),
            store: "rows".into(),
            plan: "bench".into(),
            at: jiff::Timestamp::now(),
            layout: Layout::Stream,
        };
        let writer = repository.begin(&ctx, &label).await?;
        let mut files: Vec<PathBuf> = std::fs::read_dir(source)
            .map_err(other)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(other)?;
        files.sort();
        for (n, file) in files.iter().enumerate() {
            let bytes = Bytes::from(std::fs::read(file).map_err(other)?);
            writer.put(Part { path: format!("{n:05}"), body: PartBody::Bytes(bytes) }).await?;
        }
        writer.commit(Box::new(|parts| Bytes::from(format!("{} parts", parts.len())))).await?;
        Ok(())
    })
}

fn other(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Other, "the benchmark failed").because(cause)
}
