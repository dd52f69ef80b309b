//! Programs that are measured, from outside: their CPU time and memory as the kernel counts them.

use std::io::{self, BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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

    /// CPU time of its threads so far. In nanoseconds as the scheduler counts them: the ticks of `/proc/PID/stat` are a tenth of what a
    /// round takes. A thread that ends takes its time along, so a round is too short for those that wait for work to end.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        let mut nanos = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let Ok(said) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
            nanos += said.split(' ').next().and_then(|on_cpu| on_cpu.parse::<u64>().ok()).unwrap_or_default();
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
            .ok_or_else(|| io::Error::other("no VmRSS"))
    }
}
