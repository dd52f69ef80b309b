//! 3-2-1-1-0 as five lamps: three copies, on two media, one elsewhere, one that nobody can change, no errors.
//!
//! Each lamp says what is true now, of the newest backup that was restored and compared. Source of the rule: Veeam,
//! "3-2-1-1-0".

use std::collections::{BTreeMap, BTreeSet};

use contract::{Context, Error, Medium, Whereabouts};
use serde::Serialize;

use crate::Surroundings;
use crate::catalog::{self, Recorded, State};
use crate::config::PlanConfig;

/// One lamp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Lamp {
    #[serde(rename = "lamp")]
    pub(crate) name: &'static str,
    pub(crate) on: bool,
    pub(crate) why: String,
    /// What to do, where it is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) todo: Option<String>,
}

/// What was asked of a repository, once for all lamps.
#[derive(Debug, Clone)]
struct Asked {
    whereabouts: Whereabouts,
    changeable: Option<String>,
}

/// Repositories that were asked already, by name.
#[derive(Default)]
pub(crate) struct Repositories(BTreeMap<String, Result<Asked, String>>);

impl Repositories {
    async fn ask(&mut self, ctx: &Context, around: &dyn Surroundings, name: &str) -> Result<Asked, String> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let asked = match around.repository(ctx, name).await {
            Ok(repository) => Ok(Asked {
                whereabouts: repository.whereabouts(),
                changeable: repository.changeable(ctx).await,
            }),
            Err(error) => Err(error.message().to_owned()),
        };
        self.0.insert(name.to_owned(), asked.clone());
        asked
    }
}

/// What the lamps are judged by.
struct Facts {
    source: Option<Whereabouts>,
    /// The repositories that have the backup whole, with where each lies and why it can be changed.
    sound: Vec<(String, Asked)>,
    /// What is wrong with the last verification, and what to do.
    errors: Option<(String, String)>,
    /// Where further copies are to be made.
    planned: Vec<String>,
    store: String,
}

/// Where a store's own data lies, by its address.
fn of_address(address: &str) -> Whereabouts {
    let Some((_, rest)) = address.split_once("://") else { return Whereabouts::default() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    Whereabouts::on(Medium::Disk, host)
}

/// The five lamps of a store.
///
/// # Errors
///
/// As the ledger's; what a store or a repository fails with is said by the lamps.
pub(crate) async fn lamps(
    ctx: &Context,
    around: &dyn Surroundings,
    plan: &PlanConfig,
    store: &str,
    repositories: &mut Repositories,
) -> Result<[Lamp; 5], Error> {
    let proven = catalog::newest_proven(ctx, around.ledger(), store).await?;
    let newest = catalog::list(ctx, around.ledger(), Some(store), NEWEST).await?;
    let newest = newest.into_iter().find(|backup| backup.state != State::Running);
    let source = match around.stores().open(ctx, store).await {
        Ok(opened) => opened.probe(ctx).await.ok().map(|probe| of_address(&probe.address)),
        Err(_) => None,
    };
    let mut facts = Facts {
        source,
        sound: Vec::new(),
        errors: errors(proven.as_ref(), newest.as_ref(), store),
        planned: plan.copies.clone(),
        store: store.to_owned(),
    };
    if let Some(backup) = &proven {
        let mut places = vec![backup.repository.clone()];
        let whole = backup.copies.iter().filter(|copied| copied.is_sound());
        places.extend(whole.map(|copied| copied.repository.clone()));
        for name in places {
            match repositories.ask(ctx, around, &name).await {
                Ok(asked) => facts.sound.push((name, asked)),
                Err(why) => {
                    let todo = format!("bring the repository {name} back: {why}");
                    facts
                        .errors
                        .get_or_insert((format!("the repository {name} cannot be asked: {why}"), todo));
                }
            }
        }
    }
    Ok(judged(&facts))
}

/// Records that are looked at for the newest that is not running.
const NEWEST: u32 = 20;

/// What was wrong when backups of the store were last looked at.
fn errors(proven: Option<&Recorded>, newest: Option<&Recorded>, store: &str) -> Option<(String, String)> {
    let run = format!("steward backup run {store}");
    let Some(newest) = newest else { return Some(("there is no backup".into(), run)) };
    if newest.state == State::Failed {
        let why = newest.problem.as_deref().unwrap_or("it was interrupted");
        return Some((format!("the newest backup failed: {why}"), run));
    }
    if let Some(problem) = &newest.problem {
        return Some((format!("the newest backup is damaged: {problem}"), run));
    }
    if newest.state == State::Complete && !newest.level.is_proven() {
        let todo = format!("steward backup verify {}", newest.id);
        return Some(("the newest backup was not restored and compared".into(), todo));
    }
    let Some(proven) = proven else {
        return Some(("no backup was restored and compared".into(), run));
    };
    proven.copies.iter().find_map(|copied| {
        let problem = copied.problem.as_ref()?;
        let todo = format!("steward backup copy {} --to {}", proven.id, copied.repository);
        Some((format!("the copy in {} is damaged: {problem}", copied.repository), todo))
    })
}

fn judged(facts: &Facts) -> [Lamp; 5] {
    let lamp = |name, off: Option<(String, String)>, on: String| match off {
        None => Lamp { name, on: true, why: on, todo: None },
        Some((why, todo)) => Lamp { name, on: false, why, todo: Some(todo) },
    };
    let store = &facts.store;
    let names: Vec<&str> = facts.sound.iter().map(|(name, _)| name.as_str()).collect();
    let nothing =
        || ("no backup was restored and compared".to_owned(), format!("steward backup run {store}"));
    let none = facts.sound.is_empty();
    let copies = if none {
        Some(nothing())
    } else if facts.sound.len() < 2 {
        let todo = match facts.planned.first() {
            Some(to) => format!("steward backup copy {store} --to {to}"),
            None => "name a further repository under `copies` in the plan".to_owned(),
        };
        Some((format!("the data and one backup, in {}, are two", names.join(", ")), todo))
    } else {
        None
    };
    let all = || facts.source.iter().chain(facts.sound.iter().map(|(_, asked)| &asked.whereabouts));
    let media: BTreeSet<Medium> = all().map(|it| it.medium).collect();
    let two = if none {
        Some(nothing())
    } else if media.len() < 2 {
        let todo =
            "copy it into a bucket: a repository with `url: s3://BUCKET/PREFIX`, and its name under `copies`";
        Some(("the data and every backup lie on disks".to_owned(), todo.to_owned()))
    } else {
        None
    };
    let elsewhere = match &facts.source {
        _ if none => Some(nothing()),
        None => Some((
            "the store does not answer, so where its data lies is not known".to_owned(),
            format!("steward store inspect {store}"),
        )),
        Some(source) => {
            let away = facts.sound.iter().any(|(_, asked)| asked.whereabouts.host != source.host);
            (!away).then(|| {
                let host = source.host.as_deref().unwrap_or("this machine");
                (
                    format!("the data and every backup are on {host}"),
                    "copy it to another host: a repository with an `endpoint` there, and its name under `copies`".to_owned(),
                )
            })
        }
    };
    let firm = facts.sound.iter().find(|(_, asked)| asked.changeable.is_none());
    let fixed = match (none, firm) {
        (true, _) => Some(nothing()),
        (_, Some(_)) => None,
        (_, None) => {
            let whys: Vec<String> = facts
                .sound
                .iter()
                .map(|(name, asked)| format!("{name}: {}", asked.changeable.as_deref().unwrap_or_default()))
                .collect();
            Some((whys.join("; "), "keep a copy in a bucket with `object_lock`".to_owned()))
        }
    };
    let where_it_is = || names.join(", ");
    let hosts: BTreeSet<&str> = facts
        .sound
        .iter()
        .map(|(_, asked)| asked.whereabouts.host.as_deref().unwrap_or("this machine"))
        .collect();
    [
        lamp("3 copies", copies, format!("the data, and backups in {}", where_it_is())),
        lamp("2 media", two, "on disk and in object storage".to_owned()),
        lamp("1 elsewhere", elsewhere, format!("on {}", hosts.into_iter().collect::<Vec<_>>().join(", "))),
        lamp(
            "1 immutable",
            fixed,
            format!(
                "the storage of {} forbids changes",
                firm.map(|(name, _)| name.as_str()).unwrap_or_default()
            ),
        ),
        lamp("0 errors", facts.errors.clone(), "the newest backup was restored and compared".to_owned()),
    ]
}

/// Such as `3 copies+, 2 media-`.
pub(crate) fn lit(lamps: &[Lamp]) -> String {
    let lit: Vec<String> =
        lamps.iter().map(|lamp| format!("{}{}", lamp.name, if lamp.on { "+" } else { "-" })).collect();
    lit.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(medium: Medium, host: &str, changeable: Option<&str>) -> Asked {
        Asked { whereabouts: Whereabouts::on(medium, host), changeable: changeable.map(str::to_owned) }
    }

    fn facts(sound: Vec<Asked>) -> Facts {
        let name = |(number, asked)| (format!("r{number}"), asked);
        Facts {
            source: Some(Whereabouts::default()),
            sound: sound.into_iter().enumerate().map(name).collect(),
            errors: None,
            planned: Vec::new(),
            store: "orders".into(),
        }
    }

    fn on(facts: &Facts) -> [bool; 5] {
        let lamps = judged(facts);
        for lamp in &lamps {
            assert_eq!(lamp.on, lamp.todo.is_none(), "{lamp:?}");
            assert!(!lamp.why.is_empty(), "{lamp:?}");
        }
        lamps.map(|lamp| lamp.on)
    }

    /// Each row turns one lamp on or off and leaves the others.
    #[test]
    fn each_lamp_says_what_is_true() {
        let folder = || at(Medium::Disk, "", Some("anybody"));
        let away = || at(Medium::Disk, "backup.example.net", Some("anybody"));
        let bucket = || at(Medium::ObjectStorage, "localhost", Some("anybody"));
        let far = || at(Medium::ObjectStorage, "s3.example.net", Some("anybody"));
        let locked = || at(Medium::ObjectStorage, "s3.example.net", None);
        for (what, sound, expected) in [
            ("nothing", vec![], [false, false, false, false, true]),
            ("a folder", vec![folder()], [false, false, false, false, true]),
            ("two folders", vec![folder(), folder()], [true, false, false, false, true]),
            ("a folder on another host", vec![away()], [false, false, true, false, true]),
            ("a bucket of this machine", vec![bucket()], [false, true, false, false, true]),
            ("a bucket elsewhere", vec![far()], [false, true, true, false, true]),
            ("a locked bucket", vec![locked()], [false, true, true, true, true]),
            ("all of it", vec![folder(), locked()], [true; 5]),
        ] {
            assert_eq!(on(&facts(sound)), expected, "{what}");
        }
        let broken = Facts { errors: Some(("bad".into(), "do".into())), ..facts(vec![folder(), locked()]) };
        assert_eq!(on(&broken), [true, true, true, true, false]);
        let silent = Facts { source: None, ..facts(vec![folder(), locked()]) };
        assert_eq!(on(&silent), [true, true, false, true, true]);
        // The data lies on the host of the bucket.
        let same =
            Facts { source: Some(Whereabouts::on(Medium::Disk, "S3.example.net")), ..facts(vec![locked()]) };
        assert_eq!(on(&same), [false, true, false, true, true]);
    }

    #[test]
    fn hosts_are_found_in_addresses() {
        for (address, host) in [
            ("/srv/app.db", None),
            ("app.db", None),
            ("postgres://db.internal:5432/shop", Some("db.internal")),
            ("postgres://user@DB.internal/shop", Some("db.internal")),
            ("postgres://127.0.0.1:5432/shop", None),
            ("postgres://[::1]:5432/shop", None),
            ("postgres://[2001:db8::1]:5432/shop", Some("2001:db8::1")),
            ("postgres:///shop?host=/run", None),
            ("postgres://localhost/shop", None),
        ] {
            assert_eq!(of_address(address).host.as_deref(), host, "{address}");
        }
    }
}
