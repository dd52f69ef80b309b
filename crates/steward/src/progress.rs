//! Telling whoever asked how far a request has come: as a bar on a terminal, as events to programs.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use contract::quantity::size;
use contract::{Progress, Watch};
use tokio::sync::watch;

/// How often the bar is drawn.
const DRAWN_EVERY: Duration = Duration::from_millis(100);
/// How often a program is told, and the log.
pub(crate) const TOLD_EVERY: Duration = Duration::from_secs(1);
const LOGGED_EVERY: Duration = Duration::from_secs(10);
const BAR_CELLS: u64 = 24;
/// Back to the beginning of the line, which is emptied.
const EMPTY_LINE: &str = "\r\x1b[2K";

/// A bar on the terminal, or, where standard error is none, lines of the log.
pub(crate) struct Bar {
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stage: String,
    begun: Option<Instant>,
    told: Option<Instant>,
    drawn: bool,
}

impl Bar {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), state: Mutex::default() }
    }

    /// Takes it away; it comes back with the next word of progress.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.drawn {
            state.drawn = false;
            let mut err = std::io::stderr().lock();
            let _closed = err.write_all(EMPTY_LINE.as_bytes()).and_then(|()| err.flush());
        }
    }
}

impl Watch for Bar {
    fn progress(&self, progress: Progress) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.stage != progress.stage {
            *state =
                State { stage: progress.stage.clone(), begun: Some(now), told: None, drawn: state.drawn };
        }
        let every = if self.terminal { DRAWN_EVERY } else { LOGGED_EVERY };
        if state.told.is_some_and(|told| now.duration_since(told) < every) {
            return;
        }
        state.told = Some(now);
        if self.terminal {
            let took = state.begun.map_or(Duration::ZERO, |begun| now.duration_since(begun));
            state.drawn = true;
            let mut err = std::io::stderr().lock();
            let _closed = write!(err, "{EMPTY_LINE}{}", line(&progress, took)).and_then(|()| err.flush());
        } else {
            tracing::info!(stage = progress.stage, bytes = progress.bytes, expected = progress.expected);
        }
    }
}

/// What is told in one line, such as `orders: backup [####....] 12.0 MiB of 24.0 MiB, 6.0 MiB/s, 2 s left`.
fn line(progress: &Progress, took: Duration) -> String {
    let Progress { stage, bytes, expected } = progress;
    let mut line = match expected {
        // More than was expected is no share of it any more.
        Some(expected) if *expected > 0 && bytes <= expected => {
            let cells = usize::try_from(u128::from(*bytes) * u128::from(BAR_CELLS) / u128::from(*expected));
            let cells = cells.unwrap_or(0);
            let rest = usize::try_from(BAR_CELLS).unwrap_or(0) - cells;
            format!(
                "{stage} [{}{}] {} of {}",
                "#".repeat(cells),
                ".".repeat(rest),
                size(*bytes),
                size(*expected)
            )
        }
        _ => format!("{stage} {}", size(*bytes)),
    };
    let took_ms = took.as_millis();
    // The first moments say nothing about the pace.
    if took_ms >= 500 && *bytes > 0 {
        let per_second = u64::try_from(u128::from(*bytes) * 1_000 / took_ms).unwrap_or(u64::MAX);
        line = format!("{line}, {}/s", size(per_second));
        if let Some(left) = expected.and_then(|expected| expected.checked_sub(*bytes))
            && per_second > 0
        {
            line = format!("{line}, {} s left", left.div_ceil(per_second));
        }
    }
    line
}

/// The newest progress, for a program that is told of it from time to time.
pub(crate) struct Newest(watch::Sender<Option<Progress>>);

impl Newest {
    pub(crate) fn new() -> (Self, watch::Receiver<Option<Progress>>) {
        let (sender, receiver) = watch::channel(None);
        (Self(sender), receiver)
    }
}

impl Watch for Newest {
    fn progress(&self, progress: Progress) {
        self.0.send_replace(Some(progress));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_tells_share_pace_and_rest() {
        let progress = |bytes: u64, expected| Progress { stage: "orders: backup".into(), bytes, expected };
        let two_seconds = Duration::from_secs(2);
        assert_eq!(
            line(&progress(12 << 20, Some(24 << 20)), two_seconds),
            "orders: backup [############............] 12.0 MiB of 24.0 MiB, 6.0 MiB/s, 2 s left"
        );
        assert_eq!(
            line(&progress(0, Some(24 << 20)), Duration::ZERO),
            "orders: backup [........................] 0 B of 24.0 MiB"
        );
        assert_eq!(
            line(&progress(30 << 20, Some(24 << 20)), two_seconds),
            "orders: backup 30.0 MiB, 15.0 MiB/s"
        );
        assert_eq!(line(&progress(1 << 20, None), Duration::ZERO), "orders: backup 1.0 MiB");
        assert_eq!(line(&progress(0, Some(0)), two_seconds), "orders: backup 0 B");
    }
}
