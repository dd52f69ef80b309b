//! Requests that the daemon makes by itself: when they are due, and what was missed.

use std::str::FromStr;

use contract::{Context, Error, ErrorKind, Request};
use croner::Cron;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::{CatchUp, Config, ScheduleConfig};

/// Everything that the daemon makes by itself: the project's schedules, and those of its backup plans.
pub(crate) fn all(config: &Config) -> Vec<(String, ScheduleConfig)> {
    let mut all: Vec<(String, ScheduleConfig)> =
        config.schedules.iter().map(|(name, schedule)| (name.clone(), schedule.clone())).collect();
    for (plan, declared) in &config.backup.plans {
        let Some(schedule) = &declared.schedule else { continue };
        let arguments = json!({ "plan": plan });
        let schedule = ScheduleConfig {
            cron: schedule.cron.clone(),
            zone: schedule.zone.clone(),
            request: backup::RunBackup::NAME.to_owned(),
            arguments: match arguments {
                Value::Object(arguments) => arguments,
                _ => unreachable!("it was written as an object"),
            },
            catch_up: CatchUp::Once,
            jitter_minutes: schedule.jitter_minutes,
            hours: schedule.hours.clone(),
        };
        // A colon stands in no name of the project file.
        all.push((format!("backup:{plan}"), schedule));
    }
    all
}

/// What the jitter of a schedule is made of.
pub(crate) fn seed(ctx: &Context, name: &str) -> String {
    format!("{} {name}", ctx.project())
}

/// When a schedule is due, as text that changes with it.
pub(crate) fn timing(schedule: &ScheduleConfig) -> String {
    let hours = schedule.hours.as_deref().unwrap_or_default();
    format!("{} {} {} {hours}", schedule.cron, schedule.zone, schedule.jitter_minutes)
}

/// Refuses a schedule that can never be due or cannot be read.
///
/// # Errors
///
/// `Invalid`: with context `key`: `cron`, `zone`, `jitter_minutes` or `hours`.
pub(crate) fn check(schedule: &ScheduleConfig) -> Result<(), Error> {
    let first = slot_after(schedule, Timestamp::now()).map_err(|error| {
        if error.context().iter().any(|(key, _)| *key == "key") { error } else { error.with("key", "cron") }
    })?;
    Hours::of(schedule)?;
    if schedule.jitter_minutes > 0
        && let Ok(second) = slot_after(schedule, first)
        && second.duration_since(first) <= SignedDuration::from_mins(schedule.jitter_minutes.into())
    {
        return Err(Error::new(ErrorKind::Invalid, "a run could be put off beyond the next one")
            .with("key", "jitter_minutes")
            .hint("write fewer minutes than lie between two times of `cron`"));
    }
    Ok(())
}

/// The first time after `after` at which the schedule is due: a time of its cron text, put off by a share of its jitter that
/// is the same for the same `seed`, and then until its hours begin.
///
/// # Errors
///
/// `Invalid`: the cron text, the zone or the hours cannot be read, or no such time exists.
pub(crate) fn next_after(
    schedule: &ScheduleConfig,
    seed: &str,
    after: Timestamp,
) -> Result<Timestamp, Error> {
    let slot = slot_after(schedule, after)?;
    let most_s = u64::from(schedule.jitter_minutes) * 60;
    // Not drawn: after a new start the same time must come out again.
    let drawn = Sha256::digest(format!("{seed} {slot}"));
    let drawn = u64::from_be_bytes(drawn[..8].try_into().expect("SHA-256 has 32 bytes"));
    let put_off_s = i64::try_from(drawn % (most_s + 1)).unwrap_or(0);
    let at = slot.checked_add(SignedDuration::from_secs(put_off_s)).unwrap_or(slot);
    opening(schedule, at)
}

/// `at`, if it lies in the hours of the schedule, else when they begin next.
fn opening(schedule: &ScheduleConfig, at: Timestamp) -> Result<Timestamp, Error> {
    let Some(hours) = Hours::of(schedule)? else { return Ok(at) };
    let local = at.to_zoned(zone_of(schedule)?);
    if hours.contain(local.time()) {
        return Ok(at);
    }
    let today = local.date().to_datetime(hours.from).to_zoned(local.time_zone().clone());
    let opens = today.and_then(|today| {
        if today > local {
            return Ok(today);
        }
        let tomorrow = local.date().checked_add(1.day())?;
        tomorrow.to_datetime(hours.from).to_zoned(local.time_zone().clone())
    });
    opens.map(|opens| opens.timestamp()).map_err(|cause| {
        Error::new(ErrorKind::Invalid, "no such time exists").with("key", "hours").because(cause)
    })
}

/// Hours of the day, which may go over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hours {
    from: Time,
    to: Time,
}

impl Hours {
    fn of(schedule: &ScheduleConfig) -> Result<Option<Self>, Error> {
        let Some(text) = &schedule.hours else { return Ok(None) };
        let read = |part: &str| Time::strptime("%H:%M", part.trim()).ok();
        match text.split_once('-').map(|(from, to)| (read(from), read(to))) {
            Some((Some(from), Some(to))) if from != to => Ok(Some(Self { from, to })),
            _ => Err(Error::new(ErrorKind::Invalid, format!("`{text}` names no hours of the day"))
                .with("key", "hours")
                .hint("write from and to, such as `22:00-06:00`")),
        }
    }

    fn contain(self, time: Time) -> bool {
        if self.from < self.to {
            self.from <= time && time < self.to
        } else {
            self.from <= time || time < self.to
        }
    }
}

fn zone_of(schedule: &ScheduleConfig) -> Result<TimeZone, Error> {
    TimeZone::get(&schedule.zone).map_err(|cause| {
        Error::new(ErrorKind::Invalid, "this is no time zone")
            .with("key", "zone")
            .because(cause)
            .hint("use an IANA name such as `Europe/Berlin`, or `UTC`")
    })
}

/// The first time of the cron text after `after`.
fn slot_after(schedule: &ScheduleConfig, after: Timestamp) -> Result<Timestamp, Error> {
    let cron = Cron::from_str(&schedule.cron).map_err(|cause| {
        Error::new(ErrorKind::Invalid, "the cron text cannot be read")
            .because(cause)
            .hint("five fields: minute, hour, day of month, month, day of week; such as `0 3 * * *`")
    })?;
    let from: Zoned = after.to_zoned(zone_of(schedule)?);
    let next = cron.find_next_occurrence(&from, false).map_err(|cause| {
        Error::new(ErrorKind::Invalid, "the cron text names no time that exists")
            .because(cause)
            .hint("check day and month")
    })?;
    Ok(next.timestamp())
}

/// What to do now about a job whose next due time was `due`: when to count it as run (if at all), and when it is due next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// The due time that is run now; `None` when nothing is run.
    pub run: Option<Timestamp>,
    /// The next due time.
    pub next: Timestamp,
}

/// Applies the catch-up rule: times missed while the daemon was down are run once or not at all, in the schedule's hours.
///
/// A due time beyond the next one after `now` was noted by a clock that ran ahead, and is taken back to that.
///
/// `tolerance_s` is how late a run may start and still count as in time; `seed` as in [`next_after`].
///
/// # Errors
///
/// As [`next_after`].
pub(crate) fn due(
    schedule: &ScheduleConfig,
    seed: &str,
    due: Timestamp,
    now: Timestamp,
    tolerance_s: i64,
) -> Result<Due, Error> {
    if due > now {
        return Ok(Due { run: None, next: due.min(next_after(schedule, seed, now)?) });
    }
    let opens = opening(schedule, now)?;
    if opens > now {
        return Ok(Due { run: None, next: opens });
    }
    let next = next_after(schedule, seed, now)?;
    let late_s = now.as_second() - due.as_second();
    let run = match schedule.catch_up {
        CatchUp::Skip if late_s > tolerance_s => None,
        CatchUp::Once | CatchUp::Skip => Some(due),
    };
    Ok(Due { run, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(cron: &str, zone: &str, catch_up: CatchUp) -> ScheduleConfig {
        ScheduleConfig {
            cron: cron.into(),
            zone: zone.into(),
            request: "status.show".into(),
            arguments: serde_json::Map::new(),
            catch_up,
            jitter_minutes: 0,
            hours: None,
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn times_are_read_in_the_zone_across_daylight_saving() {
        let nightly = schedule("30 2 * * *", "Europe/Berlin", CatchUp::Once);
        // 2026-03-29: 02:30 does not exist; 2026-10-25: it exists twice and is due once.
        for (after, next) in [
            ("2026-03-27T12:00:00Z", "2026-03-28T01:30:00Z"),
            ("2026-07-01T12:00:00Z", "2026-07-02T00:30:00Z"),
            ("2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"),
        ] {
            assert_eq!(next_after(&nightly, "", at(after)).expect(after), at(next), "{after}");
        }
    }

    #[test]
    fn missed_times_run_once_or_not_at_all() {
        let missed = at("2026-03-04T03:00:00Z");
        let now = at("2026-03-07T10:00:00Z");
        let once =
            due(&schedule("0 3 * * *", "UTC", CatchUp::Once), "", missed, now, 60).expect("a due time");
        assert_eq!(once, Due { run: Some(missed), next: at("2026-03-08T03:00:00Z") });
        let skip =
            due(&schedule("0 3 * * *", "UTC", CatchUp::Skip), "", missed, now, 60).expect("a due time");
        assert_eq!(skip, Due { run: None, next: at("2026-03-08T03:00:00Z") });
    }

    #[test]
    fn what_a_clock_that_ran_ahead_has_noted_is_taken_back() {
        let nightly = schedule("0 3 * * *", "UTC", CatchUp::Once);
        let night = ScheduleConfig { hours: Some("22:00-06:00".into()), ..nightly.clone() };
        let jitter = ScheduleConfig { jitter_minutes: 50, ..schedule("0 * * * *", "UTC", CatchUp::Once) };
        for (schedule, now, noted, next) in [
            (&nightly, "2026-03-04T10:00:00Z", "2026-03-07T03:00:00Z", "2026-03-05T03:00:00Z"),
            (&nightly, "2026-03-04T10:00:00Z", "2031-03-07T03:00:00Z", "2026-03-05T03:00:00Z"),
            (&nightly, "2026-03-04T10:00:00Z", "2026-03-05T03:00:00Z", "2026-03-05T03:00:00Z"),
            // Put off until its hours begin, which is before its next time.
            (&night, "2026-03-04T10:00:00Z", "2026-03-04T22:00:00Z", "2026-03-04T22:00:00Z"),
        ] {
            let due = due(schedule, "", at(noted), at(now), 60).expect("a due time");
            assert_eq!(due, Due { run: None, next: at(next) }, "{now} {noted}");
        }
        // Between its time and its share of the jitter it stays due.
        let mut now = at("2026-03-04T10:59:59Z");
        let noted = next_after(&jitter, "seed", now).expect("a time");
        while now < noted {
            assert_eq!(due(&jitter, "seed", noted, now, 60).expect("a due time").next, noted, "{now}");
            now += SignedDuration::from_secs(30);
        }
    }

    #[test]
    fn jitter_is_the_same_again_and_spreads() {
        let hourly = ScheduleConfig { jitter_minutes: 20, ..schedule("10 * * * *", "UTC", CatchUp::Once) };
        check(&hourly).expect("20 minutes are fewer than an hour");
        let after = at("2026-03-04T03:30:00Z");
        let (from, to) = (at("2026-03-04T04:10:00Z"), at("2026-03-04T04:30:00Z"));
        let drawn: std::collections::BTreeSet<Timestamp> = (0..50)
            .map(|seed| {
                let seed = seed.to_string();
                let next = next_after(&hourly, &seed, after).expect("a time");
                assert_eq!(next_after(&hourly, &seed, after).expect("a time"), next);
                assert!(from <= next && next <= to, "{next}");
                // At the time that came out, the next one is of the next hour.
                assert!(next_after(&hourly, &seed, next).expect("a time") >= at("2026-03-04T05:10:00Z"));
                next
            })
            .collect();
        assert!(drawn.len() > 40, "{drawn:?}");
        let error = check(&ScheduleConfig { jitter_minutes: 60, ..hourly }).expect_err("as long as the hour");
        assert_eq!(error.context(), [("key", "jitter_minutes".to_owned())]);
    }

    #[test]
    fn runs_wait_for_their_hours() {
        let hours = |hours: &str, cron: &str| ScheduleConfig {
            hours: Some(hours.into()),
            ..schedule(cron, "Europe/Berlin", CatchUp::Once)
        };
        // Berlin is one hour ahead of UTC in March.
        for (within, after, next) in [
            ("22:00-06:00", "2026-03-04T07:30:00Z", "2026-03-04T21:00:00Z"),
            ("22:00-06:00", "2026-03-04T22:30:00Z", "2026-03-04T23:00:00Z"),
            ("22:00-06:00", "2026-03-05T03:30:00Z", "2026-03-05T04:00:00Z"),
            ("22:00-06:00", "2026-03-05T04:30:00Z", "2026-03-05T21:00:00Z"),
            ("01:00-05:00", "2026-03-05T04:30:00Z", "2026-03-06T00:00:00Z"),
        ] {
            let hourly = hours(within, "0 * * * *");
            assert_eq!(next_after(&hourly, "", at(after)).expect(after), at(next), "{within} {after}");
        }
        // What was missed is caught up when the hours begin, not before.
        let nightly = hours("22:00-06:00", "0 3 * * *");
        let missed = at("2026-03-04T02:00:00Z");
        let put_off = due(&nightly, "", missed, at("2026-03-04T10:00:00Z"), 60).expect("a due time");
        assert_eq!(put_off, Due { run: None, next: at("2026-03-04T21:00:00Z") });
        let now = at("2026-03-04T21:00:00Z");
        let caught_up = due(&nightly, "", put_off.next, now, 60).expect("a due time");
        assert_eq!(caught_up, Due { run: Some(now), next: at("2026-03-05T02:00:00Z") });
        for wrong in ["22-06", "22:00", "22:00-22:00", "25:00-06:00", ""] {
            let error = check(&hours(wrong, "0 3 * * *")).expect_err(wrong);
            assert_eq!(error.context(), [("key", "hours".to_owned())], "{wrong}");
        }
    }
}
