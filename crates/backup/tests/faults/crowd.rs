//! Many processes at one repository: runs, prunes and looks of Steward's, and a person with restic; some stop in the middle of a write and go on
//! when the others are done.

use std::path::Path;
use std::process::{Child, Command, Output};

use backup::State;

use crate::dice::Dice;
use crate::holds;
use crate::home::{Home, Standing};
use crate::run::{Run, STOP};
use crate::trip::Trip;

/// Stops the process that asks for it, until somebody else lets it go on.
pub(crate) fn stop_here() {
    let myself = std::process::id().to_string();
    assert!(Command::new("kill").args(["-STOP", &myself]).status().unwrap().success());
}

fn state_of(child: &Child) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Starts a process and waits until it has stopped where it should; the limit is far above what it takes.
fn stopped(run: &Run, work: &str) -> Result<Child, String> {
    let mut child = run.process_with(work, None, &[(STOP, "1".to_owned())]);
    for _ in 0..6_000 {
        if state_of(&child) == Some('T') {
            return Ok(child);
        }
        if child.try_wait().unwrap().is_some() {
            let Output { stdout, stderr, .. } = child.wait_with_output().unwrap();
            let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            return Err(format!("{work} never stopped: {stdout}{stderr}"));
        }
        std::thread::sleep(std::time::Duration::from_millis(20)); // The kernel tells nobody but a tracer.
    }
    Err(format!("{work} neither stopped nor ended"))
}

fn goes_on(child: &Child) {
    assert!(Command::new("kill").args(["-CONT", &child.id().to_string()]).status().unwrap().success());
}

/// A person's restic.
struct Restic<'a> {
    folder: &'a Path,
    passphrase: String,
}

impl Restic<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("restic");
        command
            .args(["--no-cache", "--repo"])
            .arg(self.folder.join("backups/pages"))
            .args(arguments)
            .env("RESTIC_PASSWORD", &self.passphrase)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        command
    }

    fn ended(child: Child) -> Result<bool, String> {
        let Output { status, stderr, .. } = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&stderr).into_owned();
        if status.success() || said.contains("already locked") { Ok(status.success()) } else { Err(said) }
    }

    fn done(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(arguments).output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(said(&output.stdout));
        }
        Err(format!("restic {arguments:?}: {}{}", said(&output.stdout), said(&output.stderr)))
    }
}

/// `impatient`: the person takes all locks away, those of the stopped ones too, and prunes.
pub(crate) async fn crowd(folder: &Path, impatient: bool) -> Result<(), String> {
    let mut run = Run::new(0, folder);
    std::fs::write(folder.join("hours"), "24").unwrap();
    let home = Home::open(folder, Trip::never(), 0).await.map_err(|error| error.to_string())?;
    let ids = |all: &[backup::Recorded]| {
        let complete = all.iter().filter(|it| it.state == State::Complete && it.store == "app");
        complete.map(|it| it.id.clone()).collect::<Vec<_>>()
    };
    home.change();
    let before = ids(&home.recorded().await).len();
    let passphrase = home.passphrases(Standing::Opens)[0].1.clone();
    let restic = Restic { folder, passphrase };
    run.told.push(format!("a crowd with a prune, impatient: {impatient}"));
    // What is forgotten is off the list, and its bytes are to be marked next: no lock is held at this moment.
    let pruning = stopped(&run, "prune@prune:0")?;
    let putting = stopped(&run, "backup@put:0")?;
    let committing = stopped(&run, "backup@commit:0")?;
    let reading = stopped(&run, "verify@read:0")?;
    std::fs::write(folder.join("letter"), "a person's own").unwrap();
    let letter = folder.join("letter");
    let others = [run.process("backup@never:0", None), run.process("prune@never:0", None)];
    let humans = [
        restic.command(&["backup", "--tag", "human", letter.to_str().unwrap()]).spawn().unwrap(),
        restic.command(&["prune"]).spawn().unwrap(),
    ];
    let mut humans = humans.into_iter().map(Restic::ended);
    for one in others {
        run.ended(one)?;
    }
    humans.next().unwrap()?;
    if humans.next().unwrap()? {
        return Err("restic pruned beside a backup that was being written".to_owned());
    }
    if impatient {
        restic.done(&["unlock", "--remove-all"])?;
        restic.done(&["prune"])?;
    }
    for one in [pruning, committing, reading, putting] {
        goes_on(&one);
        run.ended(one)?;
    }
    // The person ends what they have begun, and judges.
    let listed = restic.done(&["snapshots", "--json", "--tag", "human"])?;
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap_or_default();
    for one in &listed {
        restic.done(&["forget", one["id"].as_str().unwrap()])?;
    }
    restic.done(&["prune"])?;
    restic.done(&["check", "--read-data"])?;
    drop(home);
    let home = Home::open(folder, Trip::never(), 0).await.map_err(|error| error.to_string())?;
    let known = home.recorded().await;
    let failed = known.iter().filter(|it| it.state == State::Failed).count();
    // One came to its end beside them; those that had stopped did so too, unless what they had written was taken from them.
    let expected = if impatient { 2 } else { 0 };
    if failed != expected {
        return Err(format!("{failed} backups failed instead of {expected}: {}", run.said));
    }
    if ids(&known).is_empty() || before == 0 {
        return Err("no backup is left".to_owned());
    }
    holds::holds(&run, &mut Dice::new(1), &home).await?;
    drop(home);
    holds::goes_on(&run, &Home::open(folder, Trip::never(), 3).await.map_err(|error| error.to_string())?)
        .await
}
