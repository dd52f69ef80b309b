//! Whether the clock went only as far as the machine ran: what waits for days must not be hurried by a wrong clock.

use std::time::Duration;

use contract::{Context, Error, ErrorKind};
use ledger::Write;

use crate::Surroundings;

/// A step of the clock that is no correction any more.
const JUMP_US: i64 = 3_600_000_000;
/// How long nothing is deleted after a jump: what was marked before it is then as old as it seems.
const WAIT_US: i64 = 48 * 3_600_000_000;

const LAST: &str = "SELECT ahead_us, jumped_us FROM backup_clocks WHERE project = ? AND boot = ?";
const SET: &str = "INSERT INTO backup_clocks (project, boot, ahead_us, jumped_us) VALUES (?, ?, ?, ?) \
     ON CONFLICT (project, boot) DO UPDATE SET ahead_us = excluded.ahead_us, jumped_us = excluded.jumped_us";

/// How long the machine has run, sleep included, by a count that no setting of the clock moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uptime {
    /// Names this start of the machine.
    pub boot: String,
    /// Since then.
    pub ran: Duration,
}

impl Uptime {
    /// Of this machine; `None` where it does not say.
    pub fn of_machine() -> Option<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let ran = std::fs::read_to_string("/proc/uptime").ok()?;
        let seconds = ran.split_whitespace().next()?.parse().ok()?;
        Some(Self { boot: boot.trim().to_owned(), ran: Duration::try_from_secs_f64(seconds).ok()? })
    }
}

/// Notes how the clock stands beside the time that the machine ran; gives for how many hours more it is not believed.
async fn look(ctx: &Context, around: &dyn Surroundings) -> Result<Option<i64>, Error> {
    let Some(uptime) = around.uptime() else { return Ok(None) };
    let ran_us = i64::try_from(uptime.ran.as_micros()).unwrap_or(i64::MAX);
    let ahead_us = ctx.now().as_microsecond().saturating_sub(ran_us);
    let key = || vec![ctx.project().into(), uptime.boot.as_str().into()];
    let rows = around.ledger().query(LAST, key()).await?;
    let (last_us, mut jumped_us) = match rows.first() {
        None => (ahead_us, None),
        Some(row) => (row.get_i64("ahead_us")?, row.get_opt_i64("jumped_us")?),
    };
    let step_us = ahead_us.saturating_sub(last_us);
    if step_us > JUMP_US {
        tracing::warn!(seconds = step_us / 1_000_000, "the clock went further than the machine ran");
        jumped_us = Some(ran_us);
    } else if step_us < -JUMP_US {
        // It was set back: a backup from the time ahead, if there is one, stands against deleting by itself.
        jumped_us = None;
    }
    if rows.is_empty() || step_us.abs() > JUMP_US {
        let parameters = [key(), vec![ahead_us.into(), jumped_us.into()]].concat();
        around.ledger().write(ctx, Write::new().exec(SET, parameters)).await?;
    }
    let left_us = jumped_us.map_or(0, |jumped_us| WAIT_US - (ran_us - jumped_us));
    Ok((left_us > 0).then(|| left_us / 3_600_000_000 + 1))
}

/// Notes how the clock stands, so that a jump is seen later.
///
/// # Errors
///
/// As the ledger's.
pub(crate) async fn note(ctx: &Context, around: &dyn Surroundings) -> Result<(), Error> {
    look(ctx, around).await.map(|_| ())
}

/// Refuses while the clock cannot be believed. A jump while the machine was off is not seen.
///
/// # Errors
///
/// `Conflict`: it jumped forward. As the ledger's.
pub(crate) async fn check(ctx: &Context, around: &dyn Surroundings) -> Result<(), Error> {
    match look(ctx, around).await? {
        None => Ok(()),
        Some(hours) => Err(Error::new(
            ErrorKind::Conflict,
            format!("the clock went further than the machine ran: it says {}", ctx.now()),
        )
        .hint(format!(
            "set the clock right; if it is right now, what was deleted may go in {hours} hours of running time"
        ))),
    }
}
