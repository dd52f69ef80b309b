//! Damage to any file is found, and costs no more than what was in that file.

use std::path::{Path, PathBuf};
use std::{fs, io};

use contract::{CheckDepth, ErrorKind, Repository};

use super::home::{Dice, Home, cases};
use crate::seal::Key;

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// What befalls a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Bit,
    Cut,
    Empty,
    Gone,
}

fn harm(path: &Path, harm: Harm, dice: &mut Dice) {
    let mut bytes = fs::read(path).unwrap();
    match harm {
        Harm::Bit => {
            let at = dice.below(bytes.len());
            bytes[at] ^= 1 << dice.below(8);
        }
        Harm::Cut => bytes.truncate(1 + dice.below(bytes.len() - 1)),
        Harm::Empty => bytes.clear(),
        Harm::Gone => return fs::remove_file(path).unwrap(),
    }
    fs::write(path, bytes).unwrap();
}

/// A repository with three backups and a passphrase.
async fn sound() -> Home {
    let home = Home::new();
    let repository = home.created().await;
    for seed in 1..=3 {
        home.clock.advance_us(1_000_000);
        home.write(&repository, seed).await.unwrap();
    }
    let strong = "kJ8+dT2/xQv7LmN4pRs6WyZ0aBcDeFgH".into();
    repository.add_key(&home.ctx(), "recovery", &strong).await.unwrap();
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_and_stays_where_it_is() {
    let origin = sound().await;
    let kinds = ["config", "keys", "index", "snapshots", "data"];
    let mut files: Vec<(&str, Vec<PathBuf>)> = Vec::new();
    for kind in kinds {
        let paths =
            if kind == "config" { vec![origin.root.join("stream/config")] } else { origin.files(kind) };
        assert!(!paths.is_empty(), "{kind}");
        files.push((kind, paths));
    }
    let (mut found, mut restored, mut lost) = (0, 0, 0);
    let rounds = cases(2, 60);
    for round in 0..rounds {
        for (number, (kind, paths)) in files.iter().enumerate() {
            for what in [Harm::Bit, Harm::Cut, Harm::Empty, Harm::Gone] {
                let mut dice = Dice::new(round * 1000 + number as u64 * 10 + what as u64);
                let folder = tempfile::tempdir().unwrap();
                copy(&origin.root, folder.path()).unwrap();
                let path = &paths[dice.below(paths.len())];
                harm(&folder.path().join(path.strip_prefix(&origin.root).unwrap()), what, &mut dice);
                let home = Home::at(folder.path(), Key::from_text(&origin.key.to_text()).unwrap());
                let repository = home.repository();
                let case = format!("{what:?} {kind} round {round}");

                let listing =
                    repository.list(&home.ctx()).await.unwrap_or_else(|error| panic!("{case}: {error}"));
                let expected = if *kind == "snapshots" { 2 } else { 3 };
                assert_eq!(listing.kept.len(), expected, "{case}: {listing:?}");
                let shown = *kind == "config" || (*kind == "snapshots" && what != Harm::Gone);
                assert_eq!(listing.unreadable.len(), usize::from(shown), "{case}: {listing:?}");

                let check = repository.check(&home.ctx(), CheckDepth::Everything).await.unwrap();
                // A record that is gone leaves no trace here: the catalog of the backups knows it.
                let is_forgotten = *kind == "snapshots" && what == Harm::Gone;
                assert_eq!(check.problems.is_empty(), is_forgotten, "{case}: {check:?}");
                found += 1;

                for kept in &listing.kept {
                    let answer = home.restores(&repository, kept).await;
                    let damaged = check.damaged.contains(&kept.snapshot);
                    match answer {
                        Ok(()) => restored += 1,
                        Err(error) => {
                            lost += 1;
                            assert_eq!(error.kind(), ErrorKind::Corrupt, "{case}: {error}");
                            assert!(
                                damaged,
                                "{case}: the check does not say that {} is lost: {error}",
                                kept.snapshot
                            );
                        }
                    }
                    assert!(!damaged || *kind == "data", "{case}: {check:?}");
                }
                // All backups share one pack; a pack of another takes none but that one with it.
                if *kind == "data" {
                    assert!([1, 3].contains(&check.damaged.len()), "{case}: {check:?}");
                }
            }
        }
    }
    eprintln!("{found} damaged repositories, {restored} backups restored, {lost} lost with what was damaged");
    assert!(restored > lost && lost > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_cleaning_backups_go_on() {
    for what in [Harm::Bit, Harm::Cut, Harm::Empty, Harm::Gone] {
        for kind in ["config", "index"] {
            let home = sound().await;
            let repository = home.repository();
            let path = if kind == "config" {
                home.root.join("stream/config")
            } else {
                home.files("index")[0].clone()
            };
            harm(&path, what, &mut Dice::new(7));
            let case = format!("{what:?} {kind}");
            if (kind, what) != ("index", Harm::Gone) {
                let error = home.write(&repository, 4).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{case}: {error}");
                assert!(error.hint_text().is_some_and(|hint| hint.contains("clean")), "{case}: {error}");
            }
            let done = repository.clean(&home.ctx()).await.unwrap();
            assert!(!done.is_empty(), "{case}");
            home.write(&repository, 4).await.unwrap_or_else(|error| panic!("{case}: {error}"));
            let check = repository.check(&home.ctx(), CheckDepth::Everything).await.unwrap();
            assert_eq!(check.problems, Vec::<String>::new(), "{case}");
            let kept = home.kept(&repository).await;
            assert_eq!(kept.len(), 4, "{case}");
            for one in &kept {
                home.restores(&repository, one).await.unwrap_or_else(|error| panic!("{case}: {error}"));
            }
            let aside = home.files("aside").len();
            assert_eq!(aside, usize::from(what != Harm::Gone), "{case}");
            assert_eq!(repository.clean(&home.ctx()).await.unwrap(), Vec::<String>::new(), "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_reads_some_of_the_data_and_all_shares_all() {
    let home = sound().await;
    let repository = home.repository();
    let all = repository.check(&home.ctx(), CheckDepth::Everything).await.unwrap().bytes_read;
    let mut shares = 0;
    for nth in 1..=5 {
        shares += repository.check(&home.ctx(), CheckDepth::Share { nth, of: 5 }).await.unwrap().bytes_read;
    }
    let structure = repository.check(&home.ctx(), CheckDepth::Structure).await.unwrap();
    assert_eq!((shares, structure.bytes_read), (all, 0));
    assert!(all > 4_000_000);
}
