//! What happens in a run.

use std::fmt::Write as _;
use std::path::PathBuf;

use contract::{CheckDepth, ErrorKind, Repository as _};
use repository_restic::ResticRepository;

use crate::dice::{Dice, Harm};
use crate::disk::Disk;
use crate::home::{Home, ROWS};
use crate::rows::{self, CHANGES_COUNT, Hunter};
use crate::run::{FILL, Run, files};
use crate::trip::Trip;

type Answer = Result<(), String>;

/// The moments of a piece of work, each with about how often it comes.
const MOMENTS: [(&str, &[(&str, usize)]); 5] = [
    (
        "backup",
        &[
            ("begin", 1),
            ("put", 1),
            ("commit", 1),
            ("committed", 1),
            ("ledger", 9),
            ("manifest", 2),
            ("open", 1),
            ("read", 1),
        ],
    ),
    (
        "backup-rows",
        &[
            ("begin", 1),
            ("put", 12),
            ("commit", 1),
            ("committed", 1),
            ("ledger", 7),
            ("manifest", 2),
            ("open", 1),
        ],
    ),
    ("prune", &[("ledger", 5), ("forget", 2), ("prune", 2), ("ledger", 5)]),
    ("restore", &[("ledger", 3), ("manifest", 2), ("open", 1), ("read", 1)]),
    ("key-", &[("key", 4)]),
];

/// One of the moments of this work.
fn moment(work: &str, dice: &mut Dice) -> String {
    let fits =
        |(begins, _): &&(&str, _)| work == *begins || begins.ends_with('-') && work.starts_with(begins);
    let (_, moments) = MOMENTS.iter().find(fits).unwrap();
    let (name, times) = dice.one_of(moments);
    format!("{name}:{}", dice.below(times))
}

/// Draws something and lets it happen.
pub(crate) async fn something(run: &mut Run, dice: &mut Dice) -> Answer {
    // Otherwise a new backup would have nothing to write.
    if dice.below(2) == 0 {
        open(run, Trip::never()).await?.change();
    }
    match dice.below(16) {
        0..=4 => crash(run, dice),
        5 => full(run, dice).await,
        6..=8 => small_disk(run, dice).await,
        9 => at_once(run, dice),
        10 => {
            run.days = dice.one_of(&[-2, 2]);
            run.told.push(format!("clock: {} days", run.days));
            Ok(())
        }
        11..=13 => {
            harm(run, dice);
            Ok(())
        }
        _ => keys(run, dice).await,
    }
}

async fn open(run: &Run, trip: Trip) -> Result<Home, String> {
    Home::open(&run.folder, trip, run.days).await.map_err(|error| error.to_string())
}

fn backup_of(run: &Run) -> &'static str {
    if run.over_server { "backup-rows" } else { "backup" }
}

fn crash(run: &mut Run, dice: &mut Dice) -> Answer {
    // A server in scratch would outlive a process that dies.
    let work = [backup_of(run), backup_of(run), "prune", "restore"][dice.below(4)];
    let point = moment(work, dice);
    let child = run.process(&format!("{work}@{point}"), None);
    let died = run.ended(child)?;
    run.told.push(format!("crash: {work} at {point}, {}", if died { "died" } else { "came to its end" }));
    Ok(())
}

async fn full(run: &mut Run, dice: &mut Dice) -> Answer {
    let work = [backup_of(run), "prune"][dice.below(2)];
    let moments: &[&str] = if work == "prune" { &["forget", "prune"] } else { &["begin", "put", "commit"] };
    let point = format!("{}:{}", dice.one_of(moments), dice.below(2));
    run.told.push(format!("full: {work} at {point}"));
    let home = open(run, Trip::full_at(&point)).await?;
    if let Err(error) = home.work(work).await {
        write!(run.said, "{error:?} {error}").unwrap();
    }
    Ok(())
}

fn at_once(run: &mut Run, dice: &mut Dice) -> Answer {
    let other = dice.one_of(&["backup", "prune", "restore", "key-new"]);
    run.tended |= other == "key-new";
    let first = backup_of(run);
    run.told.push(format!("two at once: {first} and {other}"));
    let both =
        [run.process(&format!("{first}@never:0"), None), run.process(&format!("{other}@never:0"), None)];
    for one in both {
        run.ended(one)?;
    }
    Ok(())
}

/// The repository, the scratch copies or the ledger lie on a disk that has too little room.
async fn small_disk(run: &mut Run, dice: &mut Dice) -> Answer {
    open(run, Trip::never()).await?.change();
    let target = dice.one_of(&["backups", "backups", "scratch", "state"]);
    let work = match target {
        "backups" => [backup_of(run), backup_of(run), "prune", "key-add"][dice.below(4)],
        "scratch" => [backup_of(run), "restore"][dice.below(2)],
        _ => [backup_of(run), "prune", "restore"][dice.below(3)],
    };
    run.tended |= work == "key-add";
    // A copy is not begun where less than 64 MiB would stay free.
    let kept_free = if target == "scratch" { 64 << 10 } else { 0 };
    let (disk, point) = match dice.below(5) {
        0 | 1 => (Disk::Room(target, kept_free + dice.below(1_500)), None),
        2 => (Disk::Inodes(target, dice.below(14)), None),
        3 => {
            let point = moment(work, dice);
            (Disk::Room(target, kept_free + 8_000), Some((point, dice.below(64) << 10)))
        }
        _ => (Disk::FileLength(dice.below(3_000)), None),
    };
    run.told.push(format!("disk: {work} on {disk:?}, filled at {point:?}"));
    let child = match &point {
        Some((point, leave)) => {
            let fill = format!("{}:{leave}", run.folder.join(target).display());
            run.process_with(&format!("{work}@{point}"), Some(&disk), &[(FILL, fill)])
        }
        None => run.process(&format!("{work}@never:0"), Some(&disk)),
    };
    run.ended(child)?;
    if run.folder.join("small").exists() {
        return Err("the small disk was not taken away".to_owned());
    }
    Ok(())
}

/// Damages one file of the repository.
fn harm(run: &mut Run, dice: &mut Dice) {
    if run.harmed.is_some() {
        return;
    }
    let folder = dice.one_of(&["pages", "stream"]);
    let kind = dice.one_of(&["data", "data", "index", "snapshots", "config", "keys", "keys", "log"]);
    // Logs lie beside the pages.
    let folder = if kind == "log" { "pages" } else { folder };
    let at = run.folder.join("backups").join(folder).join(kind);
    let all: Vec<PathBuf> = if at.is_dir() { files(&at) } else { vec![at] };
    let Some(file) = all.get(dice.below(all.len().max(1))) else { return };
    let harm = Harm::any(dice);
    harm.apply(file, dice);
    run.told.push(format!("harm: {harm:?} to one of {folder}/{kind}"));
    run.harmed = Some((folder, kind));
    run.harmed_file = file.file_name().unwrap().to_string_lossy().into_owned();
}

/// Passphrases come and go, the recovery key is made anew, the vault gives another key.
async fn keys(run: &mut Run, dice: &mut Dice) -> Answer {
    run.tended = true;
    match dice.below(6) {
        0 => work_in(run, "key-add").await,
        1 => {
            work_in(run, "key-add").await?;
            work_in(run, "key-remove").await
        }
        2 => work_in(run, "key-new").await,
        3 => {
            let work = dice.one_of(&["key-add", "key-new"]);
            let point = moment(work, dice);
            let child = run.process(&format!("{work}@{point}"), None);
            let died = run.ended(child)?;
            run.told.push(format!("key: {work} at {point}, {}", if died { "died" } else { "ended" }));
            Ok(())
        }
        _ => {
            run.told.push("key: another in the vault".to_owned());
            let home = open(run, Trip::never()).await?;
            let other = repository_restic::new_master_key().unwrap();
            is_refused(&home, &home.with_key(&other)).await
        }
    }
}

async fn work_in(run: &mut Run, work: &str) -> Answer {
    run.told.push(format!("key: {work}"));
    let home = open(run, Trip::never()).await?;
    match home.work(work).await {
        Ok(done) => write!(run.said, "{} {}", done.text, done.value).unwrap(),
        // What is damaged is not written to.
        Err(error) if run.harmed.is_some() => write!(run.said, "{error:?} {error}").unwrap(),
        Err(error) => return Err(format!("{work}: {error}")),
    }
    Ok(())
}

/// With another master key nothing is read, written or taken away, and the error says that it is the key.
async fn is_refused(home: &Home, stranger: &ResticRepository) -> Answer {
    let ctx = &home.ctx();
    let before = all_files(home);
    let kept = home.plain().list(ctx).await.map_err(|error| error.to_string())?.kept;
    let keys = home.plain().keys(ctx).await.map_err(|error| error.to_string())?;
    let mut answers = vec![
        ("list", stranger.list(ctx).await.err()),
        ("check", stranger.check(ctx, CheckDepth::Structure).await.err()),
        ("prune", stranger.prune(ctx).await.err()),
        ("clean", stranger.clean(ctx).await.err()),
        ("keys", stranger.keys(ctx).await.err()),
        ("create", stranger.create(ctx).await.err()),
        ("add a key", stranger.add_key(ctx, "x", home.key()).await.err()),
        ("open with the key of the vault", stranger.opens_with(ctx, home.key()).await.err()),
    ];
    if let Some(one) = kept.first() {
        answers.push(("read", stranger.manifest(ctx, one).await.err()));
        answers.push(("forget", stranger.forget(ctx, std::slice::from_ref(one)).await.err()));
    }
    if let Some(key) = keys.first() {
        answers.push(("remove a key", stranger.remove_key(ctx, &key.id).await.err()));
    }
    for (what, error) in answers {
        let Some(error) = error else {
            return Err(format!("with another key one may {what}"));
        };
        let expected = if what == "create" { ErrorKind::Conflict } else { ErrorKind::Denied };
        if error.kind() != expected {
            return Err(format!("with another key one may not {what}, and is told: {error:?}"));
        }
    }
    if all_files(home) == before { Ok(()) } else { Err("another key has changed files".to_owned()) }
}

fn all_files(home: &Home) -> Vec<PathBuf> {
    files(&home.folder.join("backups"))
}

/// A dump of the server's database is cut off or meets changes.
pub(crate) async fn source(run: &mut Run, dice: &mut Dice) -> Answer {
    let database = std::fs::read_to_string(run.folder.join(ROWS)).unwrap();
    let kind = dice.below(6);
    let point = format!("{}:{}", dice.one_of(&["begin", "put", "put", "put", "commit"]), dice.below(9));
    let (trip, watch, holder) = match kind {
        0 | 1 => {
            run.told.push(format!("source: its sessions end at {point}"));
            let database = database.clone();
            (Trip::act_at(&point, move || rows::end_sessions(&database)), None, None)
        }
        2 => {
            run.told.push("source: the session of pg_dump ends".to_owned());
            (Trip::never(), Some(Hunter::start(&database)), None)
        }
        3 | 4 => {
            let number = dice.below(CHANGES_COUNT);
            run.told.push(format!("source: change {number} at {point}"));
            let database = database.clone();
            (Trip::act_at(&point, move || rows::change(&database, number)), None, None)
        }
        _ => {
            run.told.push("source: a table is locked".to_owned());
            let holder = rows::connect(&database).await;
            holder.batch_execute("BEGIN; LOCK TABLE total IN ACCESS EXCLUSIVE MODE").await.unwrap();
            (Trip::never(), None, Some(holder))
        }
    };
    let home = open(run, trip).await?;
    let before = home.recorded().await.len();
    let made = home.work("backup-rows").await;
    let was_cut_off = watch.map(Hunter::end);
    match (&made, &holder) {
        (Err(error), _) => write!(run.said, "{error:?} {error}").unwrap(),
        (Ok(_), Some(_)) => return Err("a table was dumped that another had locked".to_owned()),
        (Ok(_), None) => {}
    }
    match (&made, was_cut_off) {
        (Ok(_), Some(true)) => return Err("`pg_dump` was cut off, and the backup was made".to_owned()),
        (Err(error), Some(false)) => return Err(format!("nothing was done to the dump: {error}")),
        _ => {}
    }
    let has_changed_only = matches!(kind, 3 | 4);
    if let (Err(error), true) = (&made, has_changed_only)
        && !matches!(error.kind(), ErrorKind::Conflict | ErrorKind::TimedOut)
    {
        return Err(format!("a change of the schema became {error:?}"));
    }
    if let (Err(error), Some(_)) = (&made, &holder)
        && error.kind() != ErrorKind::Conflict
    {
        return Err(format!("a lock of another became {error:?}"));
    }
    let after = home.recorded().await;
    let newest = after.iter().find(|backup| backup.store == ROWS).unwrap();
    if after.len() != before + 1 || (newest.state == backup::State::Complete) != made.is_ok() {
        return Err(format!("what is recorded is not what happened: {newest:?}"));
    }
    Ok(())
}
