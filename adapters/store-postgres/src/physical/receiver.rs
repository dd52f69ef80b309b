//! The server's own program that receives its log, which ends when we end.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use contract::Error;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::received::cannot;
use crate::backup::Libpq;
use crate::backup::programs::{PATH, Programs};

/// The program.
pub(super) const PROGRAM: &str = "pg_receivewal";
/// Lines of the program's that are kept for an error.
const LINES_MAX: usize = 20;

/// How long what a program has said is waited for once it has ended.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a program that ends with the pipe, however we end.
const WATCH: &str = r#"
exec 3<&0
"$@" </dev/null &
child=$!
{ read -r word <&3; kill -TERM "$child"; } 2>/dev/null &
watcher=$!
wait "$child"
status=$?
kill "$watcher" 2>/dev/null
exit "$status"
"#;

/// The program while it runs.
pub(super) struct Receiver {
    pub(super) child: Child,
    /// The program ends with it. Not the child's own field, which a wait for the child closes.
    pipe: Option<ChildStdin>,
    said: Arc<Mutex<VecDeque<String>>>,
    /// Ends with the last that the program says.
    reader: Option<tokio::task::JoinHandle<()>>,
}

impl Receiver {
    pub(super) fn start(
        programs: &Programs,
        libpq: &Libpq,
        folder: &Path,
        slot: &str,
    ) -> Result<Self, Error> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCH, "steward-log"]).arg(programs.path(PROGRAM)).arg("-D").arg(folder);
        command.args(["-S", slot, "--synchronous", "--no-loop", "--no-password", "--status-interval=1"]);
        command.env_clear().env("LC_ALL", "C").env("PATH", PATH);
        command.envs(libpq.0.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot("the program cannot be run"))?;
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let reader = child.stderr.take().map(|stderr| {
            let said = Arc::clone(&said);
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let mut kept = said.lock().unwrap_or_else(PoisonError::into_inner);
                    if kept.len() == LINES_MAX {
                        kept.pop_front();
                    }
                    kept.push_back(line);
                }
            })
        });
        let pipe = child.stdin.take();
        Ok(Self { child, pipe, said, reader })
    }

    /// Ends it, unless it has ended; gives what it said last.
    pub(super) async fn stop(mut self) -> String {
        drop(self.pipe.take());
        drop(self.child.wait().await);
        if let Some(reader) = self.reader.take() {
            // Whatever else may hold the other end.
            drop(tokio::time::timeout(READ_TIMEOUT, reader).await);
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().cloned().collect::<Vec<_>>().join("; ")
    }
}
