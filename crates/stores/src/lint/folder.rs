//! The files of a folder one after the other: each is judged by what the ones before it made.
//!
//! The world is carried along, so that a folder is gone through once, however many of its files are judged. Two copies
//! of it are kept in step: to be judged a file runs as it says, in a transaction or not, while what it leaves for the
//! next ones does not depend on that.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::judge::{judge, replay};
use super::operation::Script;
use super::parse::read;
use super::verdict::Verdict;
use super::world::World;
use crate::lint::Blocking;
use crate::migration::MigrationFile;

/// Folder and number of a migration; `None` where the name has no number.
fn place(path: &str) -> Option<(&str, u64)> {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    Some((folder, file.split('_').next()?.parse().ok()?))
}

/// A file that ran before others.
struct Earlier<'a> {
    number: u64,
    path: &'a str,
    script: Cow<'a, Script>,
}

/// What is known on the way through one folder.
struct Way {
    /// What all files before the next one have made.
    world: World,
    /// The same, to be judged in.
    copy: World,
    /// The copy has also taken in this file and is otherwise the same; `None`: it is the same.
    ahead: Option<Ahead>,
    /// Files of the folder that have been taken in.
    taken: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ahead {
    By(usize),
    /// By something that cannot be caught up with.
    Apart,
}

impl Way {
    fn start(version: Option<u32>) -> Self {
        let world = World::offline(version);
        Self { copy: world.clone(), world, ahead: None, taken: 0 }
    }

    /// Takes in the files with smaller numbers.
    fn go_on(&mut self, history: &[Earlier<'_>], number: u64) {
        while let Some(file) = history.get(self.taken).filter(|file| file.number < number) {
            replay(&file.script, &mut self.world);
            match self.ahead {
                None => replay(&file.script, &mut self.copy),
                Some(Ahead::By(at)) if at == self.taken => {
                    self.copy.settle();
                    self.ahead = None;
                }
                Some(_) => self.ahead = Some(Ahead::Apart),
            }
            self.taken += 1;
        }
        if self.ahead.is_some() {
            self.copy = self.world.clone();
            self.ahead = None;
        }
    }
}

/// Judges files, given with content, path and script, each after the files of its folder with smaller numbers.
pub(super) fn judge_in_order(
    given: &[(&[u8], &str, &Script)],
    migrations: &[MigrationFile],
    version: Option<u32>,
) -> Vec<Vec<Verdict>> {
    // What is to be judged has been read already.
    let read_before: BTreeMap<&str, (&[u8], &Script)> =
        given.iter().map(|(content, path, script)| (*path, (*content, *script))).collect();
    let mut folders: BTreeMap<&str, Vec<Earlier<'_>>> = BTreeMap::new();
    for file in migrations {
        let Some((folder, number)) = place(&file.path) else { continue };
        let script = match read_before.get(file.path.as_str()) {
            Some((content, script)) if *content == file.content.as_slice() => Cow::Borrowed(*script),
            _ => {
                let Ok(text) = std::str::from_utf8(&file.content) else { continue };
                Cow::Owned(read(text))
            }
        };
        folders.entry(folder).or_default().push(Earlier { number, path: &file.path, script });
    }
    for history in folders.values_mut() {
        history.sort_by_key(|file| file.number);
    }
    let mut order: Vec<usize> = (0..given.len()).collect();
    order.sort_by_key(|at| place(given[*at].1));
    let mut ways: BTreeMap<&str, Way> = BTreeMap::new();
    let mut verdicts: Vec<Vec<Verdict>> = vec![Vec::new(); given.len()];
    for at in order {
        let (_, path, script) = given[at];
        let known = place(path).and_then(|(folder, number)| Some((folder, number, folders.get(folder)?)));
        let Some((folder, number, history)) = known else {
            verdicts[at] = judge(script, &mut World::offline(version));
            continue;
        };
        let way = ways.entry(folder).or_insert_with(|| Way::start(version));
        way.go_on(history, number);
        verdicts[at] = judge(script, &mut way.copy);
        let itself = |file: &Earlier<'_>| file.path == path && *file.script == *script;
        let next = way.taken..history.len();
        let found = next.take_while(|at| history[*at].number == number).find(|at| itself(&history[*at]));
        // What the server refuses leaves nothing behind; what it leaves in the next file's eyes is decided without a transaction.
        let refused = verdicts[at].iter().any(|verdict| verdict.blocking == Blocking::Fails);
        way.ahead = Some(found.filter(|_| !refused).map_or(Ahead::Apart, Ahead::By));
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: [&str; 2] =
        [include_str!("../../tests/lint/cases.sql"), include_str!("../../tests/lint/held_out.sql")];
    const WORLD: &str = include_str!("../../tests/lint/world.sql");

    fn files() -> Vec<MigrationFile> {
        let cases = CASES.iter().flat_map(|text| text.split("--- case ").skip(1));
        let texts = cases.map(|part| part.split_once('\n').expect("a case has a name").1);
        std::iter::once(WORLD)
            .chain(texts)
            .enumerate()
            .map(|(at, text)| MigrationFile::new(format!("migrations/shop/{:04}_case.sql", at + 1), text))
            .collect()
    }

    fn scripts(files: &[MigrationFile]) -> Vec<Script> {
        let text = |file: &MigrationFile| String::from_utf8(file.content.clone()).expect("UTF-8");
        files.iter().map(|file| read(&text(file))).collect()
    }

    fn judged(given: &[MigrationFile], migrations: &[MigrationFile]) -> Vec<Vec<Verdict>> {
        let scripts = scripts(given);
        let given: Vec<(&[u8], &str, &Script)> = given
            .iter()
            .zip(&scripts)
            .map(|(file, script)| (file.content.as_slice(), file.path.as_str(), script))
            .collect();
        judge_in_order(&given, migrations, Some(17))
    }

    /// The way it was: a file in a world of its own, in which all files before it ran.
    fn judged_alone(path: &str, script: &Script, migrations: &[(&str, &Script)]) -> Vec<Verdict> {
        let mut world = World::offline(Some(17));
        for (_, before) in migrations.iter().filter(|(before, _)| place(before) < place(path)) {
            replay(before, &mut world);
        }
        judge(script, &mut world)
    }

    #[test]
    fn a_world_that_is_carried_along_says_what_one_made_anew_says() {
        let all = files();
        let read_once = scripts(&all);
        let migrations: Vec<(&str, &Script)> =
            all.iter().zip(&read_once).map(|(file, script)| (file.path.as_str(), script)).collect();
        let alone = |path: &str, script: &Script| judged_alone(path, script, &migrations);
        let expected: Vec<Vec<Verdict>> =
            migrations.iter().map(|(path, script)| alone(path, script)).collect();
        assert_eq!(judged(&all, &all), expected, "all of a folder");
        // Out of order, with gaps, one twice, and one that is not as the folder has it.
        let mut some: Vec<usize> = (0..all.len()).rev().filter(|at| at % 3 != 1).collect();
        some.push(12);
        let mut given: Vec<MigrationFile> = some.iter().map(|at| all[*at].clone()).collect();
        let mut expected: Vec<Vec<Verdict>> = some.iter().map(|at| expected[*at].clone()).collect();
        let (path, text) = ("migrations/shop/0020_other.sql", "DROP TABLE orders CASCADE;");
        given.push(MigrationFile::new(path, text));
        expected.push(alone(path, &read(text)));
        given.push(MigrationFile::new("elsewhere/notes.sql", "CREATE INDEX i ON orders (price);"));
        expected.push(judge(&read("CREATE INDEX i ON orders (price);"), &mut World::offline(Some(17))));
        for ((file, found), expected) in given.iter().zip(judged(&given, &all)).zip(expected) {
            assert_eq!(found, expected, "{}", file.path);
        }
    }

    /// Counted, not timed: what is carried along is copied only after a file that fails.
    #[test]
    fn a_folder_is_gone_through_once() {
        let file = |at: usize| {
            MigrationFile::new(
                format!("migrations/shop/{at:04}_t.sql"),
                format!("CREATE TABLE t{at} (id int);\nCREATE INDEX i{at} ON t{at} (id);\n"),
            )
        };
        let all: Vec<MigrationFile> = (1..=300).map(file).collect();
        let replayed = super::super::judge::statements_judged();
        judged(&all, &all);
        let once = super::super::judge::statements_judged() - replayed;
        assert_eq!(
            once,
            2 * 2 * 300 - 2,
            "each statement is judged once and taken in once, but of the last file"
        );
    }
}
