//! Programs that are measured from outside: time, processor time of them and of all that they started, memory.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Linux counts processor time in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

/// What a program has used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) wall: f64,
    /// Seconds of processor time of the program and its children, and of the server meanwhile.
    pub(crate) cpu: f64,
    pub(crate) cpu_server: f64,
    /// Most memory of the program itself; children have their own.
    pub(crate) memory_mib: f64,
}

/// Runs a program to its end; what it printed.
pub(crate) fn measure(command: &mut Command, server: Option<u32>) -> io::Result<(Used, Output)> {
    let at_server = || server.map_or(Ok(Duration::ZERO), cpu_of);
    let (before, server_before) = (children_cpu()?, at_server()?);
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let id = child.id();
    let printed = child.stdout.take().map(reader);
    let said = child.stderr.take().map(reader);
    let mut memory_mib: f64 = 0.0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if let Ok(status) = std::fs::read_to_string(format!("/proc/{id}/status")) {
            let peak = status.lines().find_map(|line| {
                line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok()
            });
            memory_mib = memory_mib.max(peak.unwrap_or_default() / 1024.0);
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let wall = started.elapsed().as_secs_f64();
    let cpu = children_cpu()?.saturating_sub(before).as_secs_f64();
    let cpu_server = at_server()?.saturating_sub(server_before).as_secs_f64();
    let joined = |text: Option<std::thread::JoinHandle<Vec<u8>>>| {
        text.and_then(|text| text.join().ok()).unwrap_or_default()
    };
    let output = Output { status, stdout: joined(printed), stderr: joined(said) };
    Ok((Used { wall, cpu, cpu_server, memory_mib }, output))
}

/// The same for a program that must end well.
pub(crate) fn good(command: &mut Command, server: Option<u32>) -> io::Result<(Used, String)> {
    let (used, output) = measure(command, server)?;
    if !output.status.success() {
        return Err(io::Error::other(format!(
            "{command:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )));
    }
    Ok((used, String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// A program that runs beside, until it is dropped: then it and all that it started are killed at once.
pub(crate) struct Beside(std::process::Child);

impl Beside {
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        silent.process_group(0).spawn().map(Self)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(group) = process_id(self.0.id()) {
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap_or_default();
        }
        drop(self.0.wait());
    }
}

pub(crate) fn process_id(id: u32) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(i32::try_from(id).ok()?)
}

/// Those that a process has started and that run.
pub(crate) fn children(of: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may be gone by now.
        if fields(&format!("{id}")).is_ok_and(|fields| fields.get(1) == Some(&u64::from(of))) {
            children.push(id);
        }
    }
    Ok(children)
}

fn reader(mut stream: impl io::Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap_or_default();
        bytes
    })
}

fn fields(id: &str) -> io::Result<Vec<u64>> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name before may contain anything, so fields count from its closing bracket.
    let rest = stat.rsplit(')').next().unwrap_or_default();
    Ok(rest.split_whitespace().map(|field| field.parse().unwrap_or_default()).collect())
}

fn ticks(fields: &[u64], which: &[usize]) -> Duration {
    let sum: u64 = which.iter().filter_map(|at| fields.get(*at)).sum();
    TICK * u32::try_from(sum).unwrap_or(u32::MAX)
}

/// Of all children of this process that have ended.
fn children_cpu() -> io::Result<Duration> {
    Ok(ticks(&fields("self")?, &[13, 14]))
}

/// Of a server, of its processes that have ended, and of those that run.
fn cpu_of(server: u32) -> io::Result<Duration> {
    let mut all = ticks(&fields(&server.to_string())?, &[11, 12, 13, 14]);
    for child in children(server)? {
        all += fields(&child.to_string()).map_or(Duration::ZERO, |fields| ticks(&fields, &[11, 12]));
    }
    Ok(all)
}

/// MiB of everything below a folder, or of a file.
pub(crate) fn mib_in(path: &std::path::Path) -> io::Result<f64> {
    let (mut bytes, mut open) = (0, vec![path.to_owned()]);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        } else {
            bytes += path.metadata()?.len();
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a number for people")]
    Ok(bytes as f64 / 1_048_576.0)
}
