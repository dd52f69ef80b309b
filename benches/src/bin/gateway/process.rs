//! Programs that are measured, from outside: their CPU time and memory as the kernel counts them.

use std::io::{self, BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

/// A program that ends with this value.
pub(crate) struct Program {
    child: Child,
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already gone is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        Ok(Self { child: command.stdin(Stdio::null()).spawn()? })
    }

    /// This program again in another role, which prints its port once it listens.
    pub(crate) fn role(arguments: &[&str]) -> io::Result<(Self, u16)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let printed = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let program = Self { child };
        let mut line = String::new();
        BufReader::new(printed).read_line(&mut line)?;
        let port = line.trim().parse().map_err(|_| io::Error::other("the role printed no port"))?;
        Ok((program, port))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(io::Error::other(format!("a measured program ended: {status}"))),
        }
    }

    /// Ticks of CPU time so far, of all threads, also those that have ended.
    pub(crate) fn cpu_ticks(&self) -> io::Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        // The name before may contain anything, so fields count from its closing bracket.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks =
            |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
        Ok(ticks(11) + ticks(12))
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
            .ok_or_else(|| io::Error::other("no VmRSS"))
    }
}
