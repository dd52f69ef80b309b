//! Which backups are kept: grandfather, father, son, with brakes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::catalog::{Recorded, State};
use crate::config::Retention;

/// Why a backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Someone ordered it.
    LegalHold,
    /// It is younger than `within_hours`.
    Young,
    /// The newest of its hour.
    Hourly,
    /// The newest of its day.
    Daily,
    /// The newest of its week.
    Weekly,
    /// The newest of its month.
    Monthly,
    /// The newest of its year.
    Yearly,
    /// One of the newest that were restored and compared.
    Verified,
    /// Something is odd about one of the store's: nothing is deleted until a person has looked.
    Frozen,
    /// It is not finished, or its time lies ahead of the clock.
    Unclear,
}

/// A backup with why it is kept; one without reasons is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    /// The backup's id.
    pub id: String,
    /// Why.
    pub reasons: BTreeSet<Reason>,
}

/// Says of each backup of one store and plan whether it is kept, and why.
///
/// Hours, days, weeks (from Monday), months and years are those of UTC. Rules look at backups that are complete and
/// undamaged; of each period the newest is kept, and only periods that have a backup count. A backup from after `now`
/// is kept and counts for nothing: a clock that ran ahead must not push the others out. While something is odd about one of
/// them that nobody has accepted, all are kept: what is compared with a backup of nothing is odd no more.
pub fn keep(backups: &[Recorded], rules: &Retention, now: Timestamp) -> Vec<Kept> {
    let mut kept: BTreeMap<&str, BTreeSet<Reason>> =
        backups.iter().map(|backup| (backup.id.as_str(), BTreeSet::new())).collect();
    let mut give = |id: &str, reason: Reason| {
        kept.get_mut(id).expect("every backup has its entry").insert(reason);
    };
    let mut sound: Vec<(&Recorded, Timestamp)> = Vec::new();
    for backup in backups {
        let at = backup.point_at.unwrap_or(backup.begun_at);
        if rules.legal_hold.contains(&backup.id) {
            give(&backup.id, Reason::LegalHold);
        }
        if backup.state == State::Running || at > now {
            give(&backup.id, Reason::Unclear);
        } else if backup.state == State::Complete {
            if now.duration_since(at) < SignedDuration::from_hours(i64::from(rules.within_hours)) {
                give(&backup.id, Reason::Young);
            }
            if backup.problem.is_none() {
                sound.push((backup, at));
            }
        }
    }
    sound.sort_by_key(|(backup, at)| (std::cmp::Reverse(*at), backup.id.clone()));
    if backups.iter().any(|backup| backup.state == State::Complete && backup.is_suspicious()) {
        backups.iter().filter(|backup| backup.state == State::Complete).for_each(|backup| {
            give(&backup.id, Reason::Frozen);
        });
    }
    for (reason, count, period) in [
        (Reason::Hourly, rules.hourly, "%Y-%m-%d %H"),
        (Reason::Daily, rules.daily, "%Y-%m-%d"),
        (Reason::Weekly, rules.weekly, "%G-%V"),
        (Reason::Monthly, rules.monthly, "%Y-%m"),
        (Reason::Yearly, rules.yearly, "%Y"),
    ] {
        let mut periods = BTreeSet::new();
        for (backup, at) in &sound {
            if periods.len() == count as usize {
                break;
            }
            if periods.insert(at.to_zoned(TimeZone::UTC).strftime(period).to_string()) {
                give(&backup.id, reason);
            }
        }
    }
    let proven = sound.iter().filter(|(backup, _)| backup.level.is_proven());
    for (backup, _) in proven.take(rules.verified_min as usize) {
        give(&backup.id, Reason::Verified);
    }
    backups
        .iter()
        .map(|backup| Kept {
            id: backup.id.clone(),
            reasons: kept.remove(backup.id.as_str()).unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use contract::BackupMethod;

    use super::*;
    use crate::catalog::Level;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn backup(id: &str, point: &str, level: Level) -> Recorded {
        Recorded {
            together: None,
            id: id.into(),
            plan: "shop".into(),
            store: "shop".into(),
            repository: "local".into(),
            snapshot: id.into(),
            method: BackupMethod::Logical,
            state: State::Complete,
            holder: String::new(),
            begun_at: at(point),
            point_at: Some(at(point)),
            finished_at: None,
            bytes: None,
            bytes_added: None,
            rows: None,
            level,
            verified_at: None,
            restore_ms: None,
            problem: None,
            suspicions: Vec::new(),
            accepted_at: None,
            copies: Vec::new(),
            origin: crate::catalog::Origin::Made,
            signed: crate::signature::Signed::Signed,
        }
    }

    fn rules() -> Retention {
        Retention {
            within_hours: 2,
            hourly: 0,
            daily: 2,
            weekly: 0,
            monthly: 2,
            yearly: 0,
            verified_min: 1,
            legal_hold: vec![],
        }
    }

    fn ids(backups: &[Recorded], rules: &Retention, now: &str) -> Vec<String> {
        keep(backups, rules, at(now))
            .into_iter()
            .filter(|it| !it.reasons.is_empty())
            .map(|it| it.id)
            .collect()
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_periods() {
        let backups = [
            backup("a", "2026-01-10T01:00:00Z", Level::L0),
            backup("b", "2026-01-31T23:00:00Z", Level::L0),
            backup("c", "2026-02-27T01:00:00Z", Level::L3),
            backup("d", "2026-02-28T01:00:00Z", Level::L0),
            backup("e", "2026-02-28T22:00:00Z", Level::L0),
            backup("f", "2026-03-01T08:00:00Z", Level::L0),
            backup("g", "2026-03-01T09:00:00Z", Level::L0),
        ];
        // g: daily, monthly; f: young; e: daily, monthly; c: the newest proven one.
        assert_eq!(ids(&backups, &rules(), "2026-03-01T09:30:00Z"), ["c", "e", "f", "g"]);
        let held = Retention { legal_hold: vec!["a".into()], ..rules() };
        assert_eq!(ids(&backups, &held, "2026-03-01T09:30:00Z"), ["a", "c", "e", "f", "g"]);
        // The 29th of February is a day like others.
        let leap =
            [backup("x", "2028-02-29T12:00:00Z", Level::L0), backup("y", "2028-03-01T00:00:00Z", Level::L0)];
        let one = Retention { daily: 1, monthly: 0, verified_min: 0, ..rules() };
        assert_eq!(ids(&leap, &one, "2028-03-02T00:00:00Z"), ["y"]);
    }

    #[test]
    fn damaged_and_unfinished_backups_push_no_sound_one_out() {
        let one = Retention { within_hours: 0, daily: 1, monthly: 0, ..rules() };
        let mut backups = [
            backup("sound", "2026-03-01T01:00:00Z", Level::L3),
            backup("later", "2026-03-01T09:00:00Z", Level::L3),
        ];
        assert_eq!(ids(&backups, &one, "2026-03-02T00:00:00Z"), ["later"]);
        backups[1].problem = Some("3 rows are missing".into());
        assert_eq!(ids(&backups, &one, "2026-03-02T00:00:00Z"), ["sound"]);
        backups[1].problem = None;
        backups[1].state = State::Failed;
        assert_eq!(ids(&backups, &one, "2026-03-02T00:00:00Z"), ["sound"]);
    }

    #[test]
    fn one_that_is_odd_keeps_all_and_a_clock_that_ran_ahead_deletes_none() {
        let one = Retention { within_hours: 0, daily: 1, monthly: 0, ..rules() };
        let mut backups = [
            backup("old", "2026-03-01T01:00:00Z", Level::L3),
            backup("odd", "2026-03-02T01:00:00Z", Level::L3),
        ];
        backups[1].suspicions = vec!["empty now: orders".into()];
        assert_eq!(ids(&backups, &one, "2026-03-03T00:00:00Z"), ["old", "odd"]);
        // Also when the next one is as empty and therefore odd no more, when it is damaged, and when the rows are back.
        backups[1].problem = Some("3 rows are missing".into());
        let mut later = backups.to_vec();
        later.push(backup("next", "2026-03-03T01:00:00Z", Level::L3));
        assert_eq!(ids(&later, &one, "2026-03-04T00:00:00Z"), ["old", "odd", "next"]);
        later[1].accepted_at = Some(at("2026-03-03T02:00:00Z"));
        assert_eq!(ids(&later, &one, "2026-03-04T00:00:00Z"), ["next"]);
        let ahead = [
            backup("true", "2026-03-01T01:00:00Z", Level::L3),
            backup("ahead", "2031-01-01T00:00:00Z", Level::L3),
        ];
        assert_eq!(ids(&ahead, &one, "2026-03-02T00:00:00Z"), ["true", "ahead"]);
    }

    #[test]
    fn never_fewer_than_the_verified_ones_and_none_that_is_younger_than_the_rule() {
        // 2,000 random sets: the brakes hold whatever the rules are.
        let mut seed = 7_u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..2_000 {
            let now = at("2026-06-01T00:00:00Z");
            let backups: Vec<Recorded> = (0..next(40))
                .map(|n| {
                    let hours = i64::try_from(next(24 * 400)).expect("small");
                    let point = now - SignedDuration::from_hours(hours);
                    let level = if next(3) == 0 { Level::L3 } else { Level::L1 };
                    backup(&format!("b{n}"), &point.to_string(), level)
                })
                .collect();
            let small = |n: u64| u32::try_from(n).expect("small");
            let rules = Retention {
                within_hours: small(next(100)),
                hourly: small(next(3)),
                daily: small(next(5)),
                weekly: small(next(3)),
                monthly: small(next(3)),
                yearly: small(next(2)),
                verified_min: small(next(4)),
                legal_hold: Vec::new(),
            };
            let kept = keep(&backups, &rules, now);
            let is_kept = |id: &str| kept.iter().any(|it| it.id == id && !it.reasons.is_empty());
            let proven: Vec<&Recorded> = backups.iter().filter(|it| it.level.is_proven()).collect();
            let left = proven.iter().filter(|it| is_kept(&it.id)).count();
            assert!(left >= proven.len().min(rules.verified_min as usize), "{rules:?}");
            for backup in &backups {
                let age = now.duration_since(backup.begun_at);
                if age < SignedDuration::from_hours(i64::from(rules.within_hours)) {
                    assert!(is_kept(&backup.id), "{rules:?} {backup:?}");
                }
            }
        }
    }
}
