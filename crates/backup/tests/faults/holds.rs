//! What must hold after a run, whatever happened in it.

use std::path::Path;

use backup::{Level, Manifest, Recorded, State};
use contract::{CheckDepth, ErrorKind, Kept, Listing, LoadTarget, Repository, Selection, sha256_hex};
use secrecy::{ExposeSecret as _, SecretString};

use crate::dice::Dice;
use crate::home::{Home, ROWS, Standing, digest_of, folder_of};
use crate::rows::TRUE_ALWAYS;
use crate::run::{Run, files};
use crate::trip::Trip;

type Answer = Result<(), String>;

fn must(holds: bool, otherwise: impl FnOnce() -> String) -> Answer {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// What this home promises, as it is seen now.
pub(crate) async fn holds(run: &Run, dice: &mut Dice, home: &Home) -> Answer {
    let repository = &*home.seen();
    let text = |error: contract::Error| error.to_string();
    let listing = repository.list(&home.ctx()).await.map_err(text)?;
    let check = repository.check(&home.ctx(), CheckDepth::Everything).await.map_err(text)?;
    let known = home.recorded().await;
    // A record that is gone is missed by who knows that it was there.
    let complete = || known.iter().filter(|backup| backup.state == State::Complete);
    let missed =
        complete().filter(|backup| !listing.kept.iter().any(|kept| kept.snapshot == backup.snapshot)).count();
    let pieces_missed = log_comes_back(run, home).await?;
    let noticed =
        !check.problems.is_empty() || !listing.unreadable.is_empty() || missed > 0 || pieces_missed > 0;
    // With a backup that was forgotten meanwhile its damaged record went too.
    let went =
        known.iter().any(|backup| backup.state == State::Forgotten && backup.snapshot == run.harmed_file);
    if run.harmed.is_some() && !went {
        must(noticed, || format!("the damage is not found: {check:?}"))?;
    } else {
        let found: Vec<&String> = check.problems.iter().chain(&listing.unreadable).collect();
        must(missed == 0, || format!("{missed} count and are not in the repository"))?;
        must(found.is_empty(), || format!("{found:?} is found in what nobody harmed"))?;
    }
    // One record at most was harmed; where that was the only one left, it is named.
    let is_named = run.harmed.is_some() && (!listing.unreadable.is_empty() || missed > 0);
    must(!listing.kept.is_empty() || is_named, || "nothing is listed".to_owned())?;
    all_come_back(run, dice, home, repository, &listing, &check.damaged).await?;
    if run.harmed.is_none() {
        let forgotten = |id: &str| known.iter().any(|it| it.id == id && it.state == State::Forgotten);
        for id in home.first_ids() {
            let is_there = listing.kept.iter().any(|kept| kept.id.as_ref() == Some(&id));
            must(is_there || forgotten(&id) || run.tells("prune"), || format!("{id} is lost"))?;
        }
    }
    if run.tended || run.harmed.is_some_and(|(_, kind)| kind == "keys") || dice.below(6) == 0 {
        keys_open(run, home, repository).await?;
    }
    // Whoever listens has no vault.
    must(!home.secrets().iter().any(|secret| run.said.contains(secret)), || "a secret was said".to_owned())
}

async fn all_come_back(
    run: &Run,
    dice: &mut Dice,
    home: &Home,
    repository: &dyn Repository,
    listing: &Listing,
    damaged: &[String],
) -> Answer {
    let mut whole = 0;
    let mut has_had_a_server = false;
    for kept in &listing.kept {
        let is_of_server = kept.store.as_deref() == Some(ROWS);
        // One server at most in a run over the server, none in the others.
        let restores = dice.below(3) == 0 && (!is_of_server || run.over_server && !has_had_a_server);
        has_had_a_server |= restores && is_of_server;
        match comes_back(home, repository, kept, restores).await {
            Ok(()) => whole += 1,
            // What is said to be damaged may come back or not; what comes back otherwise never may.
            Err(Lost::Otherwise(why)) => return Err(format!("{:?}: {why}", kept.id)),
            Err(Lost::Told(why)) => must(damaged.contains(&kept.snapshot), || {
                format!("{:?} is not damaged and does not come back: {why}", kept.id)
            })?,
        }
    }
    must(whole > 0 || run.harmed.is_some(), || "nothing comes back".to_owned())
}

enum Lost {
    /// With an error.
    Told(String),
    /// Without one.
    Otherwise(String),
}

/// Reads a backup to its last byte, or restores it, and compares it with what was dumped and with what there was.
async fn comes_back(
    home: &Home,
    repository: &dyn Repository,
    kept: &Kept,
    is_restored: bool,
) -> Result<(), Lost> {
    let told = |error: contract::Error| Lost::Told(error.to_string());
    // Nothing without a manifest is listed.
    let bytes = repository.manifest(&home.ctx(), kept).await.map_err(told)?;
    let manifest = Manifest::read(&bytes).map_err(told)?;
    if Some(&manifest.id) != kept.id.as_ref() || Some(&manifest.store) != kept.store.as_ref() {
        return Err(Lost::Otherwise(format!("the manifest is that of {}", manifest.id)));
    }
    let source = repository.open(&home.ctx(), kept, manifest.parts.clone()).await.map_err(told)?;
    let folder = tempfile::tempdir().unwrap();
    if is_restored {
        let store = home.store(&manifest.store);
        let load = contract::Store::load(&*store).unwrap();
        let target = LoadTarget::Scratch { folder: folder.path().join("scratch") };
        std::fs::create_dir(folder.path().join("scratch")).unwrap();
        let loaded = load.load(&home.ctx(), &manifest.dumped, &*source, &Selection::Whole, &target).await;
        let restored = loaded.map_err(told)?;
        let counted = restored.fingerprint(&home.ctx(), &manifest.dumped).await.map_err(told)?;
        let mut wrong = None;
        if manifest.store == ROWS {
            for sql in TRUE_ALWAYS {
                if !restored.probe(&home.ctx(), sql).await.map_err(told)? {
                    wrong = Some(format!("`{sql}` is not true of what came back"));
                }
            }
        } else {
            wrong = is_another_state(home, Path::new(&restored.address()));
        }
        if counted != manifest.dumped.tables {
            wrong.get_or_insert("other rows came back".to_owned());
        }
        restored.remove().await.map_err(told)?;
        return wrong.map_or(Ok(()), |wrong| Err(Lost::Otherwise(wrong)));
    }
    for (number, part) in manifest.parts.iter().enumerate() {
        let file = folder.path().join(number.to_string());
        source.read_into(&part.path, &file).await.map_err(told)?;
        let bytes = std::fs::read(&file).unwrap();
        if (bytes.len() as u64, sha256_hex(&bytes)) != (part.bytes, part.sha256.clone()) {
            return Err(Lost::Otherwise(format!("{} has other bytes", part.path)));
        }
        if manifest.store != ROWS
            && let Some(wrong) = is_another_state(home, &file)
        {
            return Err(Lost::Otherwise(wrong));
        }
    }
    Ok(())
}

fn is_another_state(home: &Home, file: &Path) -> Option<String> {
    match digest_of(file) {
        Ok(digest) if home.contents().lines().any(|known| known == digest) => None,
        Ok(_) => Some("it holds another state than the store ever had".to_owned()),
        Err(error) => Some(format!("what came back is no database: {error}")),
    }
}

/// How many pieces of the log are missing; what is there has the bytes that were written, or says that it has not.
async fn log_comes_back(run: &Run, home: &Home) -> Result<usize, String> {
    let plain = home.plain();
    let logs = Repository::logs(&plain).unwrap();
    let listed = logs.list(&home.ctx(), ROWS).await.map_err(|error| error.to_string())?;
    let mut missing = 0;
    for (piece, body) in home.log() {
        let is_there = listed.pieces.contains(&piece);
        missing += usize::from(!is_there);
        match logs.read(&home.ctx(), &piece).await {
            Ok(read) => must(read == body, || "a piece of the log has other bytes".to_owned())?,
            Err(error) => {
                let is_told = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound);
                let is_harmed = run.harmed.is_some_and(|(_, kind)| kind == "log");
                must(is_told && is_harmed, || format!("a piece of the log is lost: {error}"))?;
            }
        }
    }
    Ok(missing)
}

/// Every passphrase that was not taken away gives the master key, and no other does; a damaged key is no key.
async fn keys_open(run: &Run, home: &Home, repository: &dyn Repository) -> Answer {
    let plain = home.plain();
    let master = home.key().expose_secret();
    for standing in [Standing::Opens, Standing::OpensNothing, Standing::Unknown] {
        for (id, passphrase) in home.passphrases(standing) {
            let passphrase = SecretString::from(passphrase);
            match plain.unlock(&home.ctx(), &passphrase).await {
                Ok(key) => {
                    must(key.expose_secret() == master, || format!("the key {id} gives another master key"))?;
                    let may = standing != Standing::OpensNothing;
                    must(may, || format!("the key {id} was taken away and opens"))?;
                }
                Err(error) => {
                    let is_told = matches!(error.kind(), ErrorKind::Denied | ErrorKind::Corrupt);
                    must(is_told, || format!("a key that does not open became {error:?}"))?;
                    must(standing != Standing::Opens, || format!("the key {id} opens no more: {error}"))?;
                }
            }
            let opened = repository.opens_with(&home.ctx(), &passphrase).await;
            let opened = opened.map_err(|error| error.to_string())?;
            must(opened.is_none() || standing != Standing::OpensNothing, || {
                format!("the key {id} was taken away and is said to open")
            })?;
            // Damage to one of its two files takes it off the list until it is cleaned.
            let may_be_half = run.harmed.is_some_and(|(_, kind)| kind == "keys");
            must(opened.is_some() || standing != Standing::Opens || may_be_half, || {
                format!("the key {id} is said to open nothing")
            })?;
        }
    }
    let none = SecretString::from("a passphrase that nobody has ever added 0123456789");
    let opened = repository.opens_with(&home.ctx(), &none).await.map_err(|error| error.to_string())?;
    must(opened.is_none(), || "it opens with a passphrase that is none".to_owned())
}

/// Two days later everything that was left is cleaned away, and backups are made again.
pub(crate) async fn goes_on(run: &Run, home: &Home) -> Answer {
    let repository = home.plain();
    repository.clean(&home.ctx()).await.map_err(|error| format!("clean: {error}"))?;
    for file in files(&run.folder.join("backups")) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let is_of_log = file.components().any(|part| part.as_os_str() == "log");
        let expected = name == "config" || name.len() == 64 || is_of_log || run.harmed.is_some();
        must(expected, || format!("{} is left after cleaning", file.display()))?;
    }
    for layout in [contract::Layout::Pages, contract::Layout::Stream] {
        let locks = files(&run.folder.join("backups").join(folder_of(layout)).join("locks"));
        must(locks.is_empty(), || format!("locks are left after cleaning: {locks:?}"))?;
    }
    // What lies in two places is whole again when one of them was damaged.
    if run.harmed.is_none_or(|(_, kind)| kind == "keys") {
        let check = repository.check(&home.ctx(), CheckDepth::Structure).await;
        let check = check.map_err(|error| error.to_string())?;
        must(check.problems.is_empty(), || format!("{:?} is left after cleaning", check.problems))?;
        for (id, passphrase) in home.passphrases(Standing::Opens) {
            let opened = repository.opens_with(&home.ctx(), &passphrase.into()).await;
            let opened = opened.map_err(|error| error.to_string())?;
            must(opened.is_some(), || format!("the key {id} opens nothing after cleaning"))?;
        }
    }
    if run.harmed.is_some() {
        return Ok(());
    }
    home.change();
    for work in if run.over_server { &["backup", "backup-rows"][..] } else { &["backup"][..] } {
        home.work(work).await.map_err(|error| format!("a new {work}: {error:?}"))?;
    }
    for (store, level) in [("app", Level::L3), (ROWS, Level::L1)] {
        if store == ROWS && !run.over_server {
            continue;
        }
        let newest: Recorded = home
            .recorded()
            .await
            .into_iter()
            .find(|one| one.store == store && one.state == State::Complete)
            .ok_or("no backup is there")?;
        must(newest.level >= level || run.days < 0, || format!("the new one is not proven: {newest:?}"))?;
    }
    let left: Vec<_> =
        std::fs::read_dir(home.folder.join("scratch")).into_iter().flatten().flatten().collect();
    let kept = run.told.iter().filter(|told| told.contains("restore")).count();
    must(left.len() <= kept, || format!("{left:?} is left in the scratch folder"))
}

/// Looks at a home now and three days later.
pub(crate) async fn look(run: &Run, dice: &mut Dice) -> Answer {
    let text = |error: contract::Error| format!("the state cannot be opened: {error}");
    let home = Home::open(&run.folder, Trip::never(), run.days).await.map_err(text)?;
    holds(run, dice, &home).await?;
    drop(home);
    let later = Home::open(&run.folder, Trip::never(), run.days + 3).await.map_err(text)?;
    goes_on(run, &later).await
}
