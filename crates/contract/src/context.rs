//! What every call outward carries: who asks, for which project, until when, and the clock.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{Actor, Error, ErrorKind, Progress, Watch};

/// Where wall-clock time comes from, so that tests can set it.
pub trait Clock: Send + Sync {
    /// The time now, UTC.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that stands still until it is set or moved, also backwards.
#[derive(Debug)]
pub struct TestClock(AtomicI64);

impl TestClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.as_microsecond()))
    }

    /// Moves the clock by this many microseconds; negative moves it back.
    pub fn advance_us(&self, by_us: i64) {
        self.0.fetch_add(by_us, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.0.load(Ordering::SeqCst)).expect("a test sets times that exist")
    }
}

/// Who asks, for which project and task, until when; cheap to clone.
#[derive(Clone)]
pub struct Context {
    actor: Arc<Actor>,
    project: Arc<str>,
    task: Option<Arc<str>>,
    deadline: Option<Instant>,
    cancellation: CancellationToken,
    clock: Arc<dyn Clock>,
    watch: Option<Arc<dyn Watch>>,
}

impl Context {
    /// A context without deadline, on the machine's clock.
    pub fn new(project: &str, actor: Actor) -> Self {
        Self {
            actor: Arc::new(actor),
            project: project.into(),
            task: None,
            deadline: None,
            cancellation: CancellationToken::new(),
            clock: Arc::new(SystemClock),
            watch: None,
        }
    }

    /// The same with another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The same for another actor.
    #[must_use]
    pub fn with_actor(mut self, actor: Actor) -> Self {
        self.actor = Arc::new(actor);
        self
    }

    /// The same on behalf of a task.
    #[must_use]
    pub fn with_task(mut self, task: &str) -> Self {
        self.task = Some(task.into());
        self
    }

    /// The same, to end no later than `timeout` from now; never later than before.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        // A time that the clock cannot reach is no deadline.
        if let Some(new) = Instant::now().checked_add(timeout) {
            self.deadline = Some(self.deadline.map_or(new, |old| old.min(new)));
        }
        self
    }

    /// The same, canceled also by `token`.
    #[must_use]
    pub fn with_cancellation(mut self, token: CancellationToken) -> Self {
        self.cancellation = token;
        self
    }

    /// The same, with someone who is told how far it has come.
    #[must_use]
    pub fn with_watch(mut self, watch: Arc<dyn Watch>) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Tells whoever watches how far it has come; `progress` is made only if someone does.
    pub fn report(&self, progress: impl FnOnce() -> Progress) {
        if let Some(watch) = &self.watch {
            watch.progress(progress());
        }
    }

    /// Who asks.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The project that every row, lease and secret of this call belongs to.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The task on whose behalf this runs, if any.
    pub fn task(&self) -> Option<&str> {
        self.task.as_deref()
    }

    /// Wall-clock time from the context's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The clock itself, for things that outlive the call.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// Time left until the deadline; `None` without one, zero once it has passed.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The token that cancels this call.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancellation
    }

    /// Runs `future` inside the deadline and the cancellation.
    ///
    /// # Errors
    ///
    /// `TimedOut`, `Canceled`: the future was dropped at an `.await`. Otherwise what the future returns.
    pub async fn run<T>(&self, future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let deadline = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cancellation.cancelled() => Err(Error::new(ErrorKind::Canceled, "canceled")),
            () = deadline => Err(Error::new(ErrorKind::TimedOut, "the deadline passed")),
            result = future => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn passed_deadline_reports_timed_out() {
        let ctx = Context::new("shop", Actor::local()).with_timeout(Duration::from_secs(1));
        let error = ctx.run(std::future::pending::<Result<(), Error>>()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_timeout_beyond_all_time_is_none() {
        let ctx = Context::new("shop", Actor::local()).with_timeout(Duration::from_millis(u64::MAX));
        ctx.run(async { Ok(()) }).await.unwrap();
        let ctx = Context::new("shop", Actor::local()).with_timeout(Duration::MAX);
        assert_eq!(ctx.remaining(), None);
    }

    #[tokio::test]
    async fn canceled_call_reports_canceled() {
        let ctx = Context::new("shop", Actor::local());
        ctx.cancellation().cancel();
        let error = ctx.run(std::future::pending::<Result<(), Error>>()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Canceled);
    }
}
