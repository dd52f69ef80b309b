//! Requests that the daemon makes by itself: when they are due, and what was missed.

use std::str::FromStr;

use contract::{Error, ErrorKind};
use croner::Cron;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::config::{CatchUp, ScheduleConfig};

/// Refuses a schedule that can never be due or cannot be read.
///
/// # Errors
///
/// `Invalid`: with context `key`: `cron` or `zone`.
pub(crate) fn check(schedule: &ScheduleConfig) -> Result<(), Error> {
    next_after(schedule, Timestamp::now()).map(|_| ())
}

/// The first time after `after` at which the schedule is due.
///
/// # Errors
///
/// `Invalid`: the cron text or the zone cannot be read, or no such time exists.
pub(crate) fn next_after(schedule: &ScheduleConfig, after: Timestamp) -> Result<Timestamp, Error> {
    let cron = Cron::from_str(&schedule.cron).map_err(|cause| {
        Error::new(ErrorKind::Invalid, "the cron text cannot be read")
            .because(cause)
            .hint("five fields: minute, hour, day of month, month, day of week; such as `0 3 * * *`")
    })?;
    let zone = TimeZone::get(&schedule.zone).map_err(|cause| {
        Error::new(ErrorKind::Invalid, "this is no time zone")
            .with("key", "zone")
            .because(cause)
            .hint("use an IANA name such as `Europe/Berlin`, or `UTC`")
    })?;
    let from: Zoned = after.to_zoned(zone);
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

/// Applies the catch-up rule: times missed while the daemon was down are run once or not at all.
///
/// `tolerance_s` is how late a run may start and still count as in time.
///
/// # Errors
///
/// As [`next_after`].
pub(crate) fn due(
    schedule: &ScheduleConfig,
    due: Timestamp,
    now: Timestamp,
    tolerance_s: i64,
) -> Result<Due, Error> {
    if due > now {
        return Ok(Due { run: None, next: due });
    }
    let next = next_after(schedule, now)?;
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
            assert_eq!(next_after(&nightly, at(after)).expect(after), at(next), "{after}");
        }
    }

    #[test]
    fn missed_times_run_once_or_not_at_all() {
        let missed = at("2026-03-04T03:00:00Z");
        let now = at("2026-03-07T10:00:00Z");
        let once = due(&schedule("0 3 * * *", "UTC", CatchUp::Once), missed, now, 60).expect("a due time");
        assert_eq!(once, Due { run: Some(missed), next: at("2026-03-08T03:00:00Z") });
        let skip = due(&schedule("0 3 * * *", "UTC", CatchUp::Skip), missed, now, 60).expect("a due time");
        assert_eq!(skip, Due { run: None, next: at("2026-03-08T03:00:00Z") });
    }
}
