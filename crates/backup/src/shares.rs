//! Reading back what nobody restores: each day has its share of a repository, and 28 days in turn are all of it.

use std::sync::Arc;

use contract::{CheckDepth, Context, Error, Finding, Repository, RepositoryCheck, Severity, Trigger};
use ledger::{Ledger, Write};

use crate::Surroundings;
use crate::catalog;

/// Days in which a repository is read back whole.
const DAYS: i64 = 28;
/// Problems that are said of one repository.
const SAID_MAX: usize = 5;

const LAST: &str = "SELECT last_day FROM repository_shares WHERE project = ? AND repository = ?";
const SET: &str = "INSERT INTO repository_shares (project, repository, last_day) VALUES (?, ?, ?) \
     ON CONFLICT (project, repository) DO UPDATE SET last_day = max(last_day, excluded.last_day)";

/// Reads back the shares of the days since the last look, today's included. Damage is recorded with the backups that need
/// the damaged bytes, and found; a repository that does not answer is a finding and looked at next time.
///
/// # Errors
///
/// As the ledger's.
pub(crate) async fn look(
    ctx: &Context,
    around: &dyn Surroundings,
    repository: &Arc<dyn Repository>,
) -> Result<Vec<Finding>, Error> {
    let ledger = around.ledger();
    let today = ctx.now().as_second().div_euclid(24 * 3_600);
    let last = last_day(ctx, ledger, repository.name()).await?.unwrap_or(today - 1);
    let mut findings = Vec::new();
    for depth in depths(last, today) {
        match repository.check(ctx, depth).await {
            Ok(check) => findings.extend(record(ctx, ledger, repository.name(), &check).await?),
            Err(error) => {
                findings.push(finding(
                    "repository_not_read",
                    Severity::Warning,
                    format!(
                        "the repository {} could not be read back: {}",
                        repository.name(),
                        error.message()
                    ),
                    repository.name(),
                ));
                return Ok(findings);
            }
        }
    }
    let arguments = vec![ctx.project().into(), repository.name().into(), today.into()];
    ledger.write(ctx, Write::new().exec(SET, arguments)).await?;
    Ok(findings)
}

async fn last_day(ctx: &Context, ledger: &Ledger, repository: &str) -> Result<Option<i64>, Error> {
    let rows = ledger.query(LAST, vec![ctx.project().into(), repository.into()]).await?;
    rows.first().map(|row| row.get_i64("last_day")).transpose()
}

/// What is read back when everything up to the day `last` was: one share a day, or all of it after four weeks.
fn depths(last: i64, today: i64) -> Vec<CheckDepth> {
    if today - last >= DAYS {
        return vec![CheckDepth::Everything];
    }
    let share = |day: i64| u32::try_from(day.rem_euclid(DAYS) + 1).unwrap_or(1);
    let of = u32::try_from(DAYS).unwrap_or(1);
    (last + 1..=today).map(|day| CheckDepth::Share { nth: share(day), of }).collect()
}

async fn record(
    ctx: &Context,
    ledger: &Ledger,
    repository: &str,
    check: &RepositoryCheck,
) -> Result<Vec<Finding>, Error> {
    let Some(problem) = check.problems.first() else { return Ok(Vec::new()) };
    let mut findings = Vec::new();
    for backup in catalog::list(ctx, ledger, None, u32::MAX).await? {
        if backup.repository == repository
            && backup.state == catalog::State::Complete
            && check.damaged.contains(&backup.snapshot)
        {
            catalog::doubt(ctx, ledger, &backup.id, problem).await?;
            findings.push(finding(
                "backup_damaged",
                Severity::Critical,
                format!("the backup {} of {} cannot be relied on: {problem}", backup.id, backup.store),
                &backup.store,
            ));
        }
    }
    findings.extend(check.problems.iter().take(SAID_MAX).map(|problem| {
        let title = format!("the repository {repository} is damaged: {problem}");
        finding("repository_damaged", Severity::Critical, title, repository)
    }));
    Ok(findings)
}

fn finding(code: &str, severity: Severity, title: String, object: &str) -> Finding {
    Finding {
        code: code.to_owned(),
        severity,
        title,
        object: object.to_owned(),
        recommendation: Some(
            "make another backup, and look at the disk or bucket that it lies on".to_owned(),
        ),
        evidence: Vec::new(),
        escalate: (severity == Severity::Critical).then_some(Trigger::BackupFailure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_weeks_are_all_of_it_however_seldom_one_looks() {
        for every in [1, 2, 7, 13, 27, 28, 40] {
            let (mut last, mut read) = (20_000 - 1, std::collections::BTreeSet::new());
            let mut today = 20_000;
            while today < 20_000 + 28 + every {
                for depth in depths(last, today) {
                    match depth {
                        CheckDepth::Share { nth, of: 28 } => {
                            assert!((1..=28).contains(&nth), "{nth}");
                            read.insert(nth);
                        }
                        CheckDepth::Everything => read.extend(1..=28),
                        other => panic!("{other:?}"),
                    }
                }
                last = today;
                today += every;
            }
            assert_eq!(read.len(), 28, "every {every} days");
        }
        assert_eq!(depths(20_000, 20_000), [], "once a day");
        assert_eq!(depths(20_001, 20_000), [], "a clock that went back reads nothing twice");
    }
}
