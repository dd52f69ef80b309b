//! Amounts that several daemons share, each with a state of its own.

use std::time::Duration;

use async_trait::async_trait;

use crate::{Context, Error};

/// Counters with a limit from which holders take slices ahead of use, so that nobody waits for a server when something is
/// used.
///
/// What a holder took stays its own until it gives it back or is settled: a holder that nobody hears of any more keeps it,
/// so that the limit holds whatever happened to it.
#[async_trait]
pub trait SharedCounters: Send + Sync {
    /// Takes more of a counter: all that is left for a holder that is alone, else a fair part and at least what it needs;
    /// less, perhaps nothing, when there is no more. Says how the counter stands afterwards.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `TimedOut`: the server; nothing may have been taken, or something that the next call tells.
    /// `Invalid`: an amount that the server cannot hold exactly.
    async fn take(&self, ctx: &Context, ask: &TakeSlice<'_>) -> Result<Slice, Error>;

    /// Says that so much of the holder's slice was used.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `TimedOut`: the server; it may or may not have been said.
    async fn spend(&self, ctx: &Context, spent: &SliceSpent<'_>) -> Result<(), Error>;

    /// Gives so much of the holder's slice back, as far as it holds that.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `TimedOut`: the server.
    async fn give_back(&self, ctx: &Context, counter: &str, holder: &str, amount: i64) -> Result<(), Error>;

    /// Ends a holder's slice: `spent` is all that it used of it, the rest is free again.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `TimedOut`: the server.
    async fn settle(&self, ctx: &Context, spent: &SliceSpent<'_>) -> Result<(), Error>;

    /// Takes this holder's share of each of these rates, in the order of the asks. The shares of all holders together are
    /// never more than the limit; who wants little leaves the rest to the others. A share that is not taken again
    /// within [`TakeShare::keep_for`] is free for the others.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `TimedOut`: the server; some of the shares may have been taken. `Invalid`: an amount that the server
    /// cannot hold exactly.
    async fn share(&self, ctx: &Context, holder: &str, asks: &[TakeShare<'_>]) -> Result<Vec<Share>, Error>;
}

/// What a holder wants of a rate, such as requests in a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakeShare<'a> {
    /// The rate, such as `shop/rate/website/requests`.
    pub counter: &'a str,
    /// What all holders may have together.
    pub limit: i64,
    /// What the holder could use at present; 0 gives its share back.
    pub wants: i64,
    /// How long the share is good unless it is taken again.
    pub keep_for: Duration,
}

/// A holder's share of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// So much of the limit is the holder's; 0 when the others still have it all.
    pub amount: i64,
    /// Other holders.
    pub others: u32,
}

/// What a holder wants of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakeSlice<'a> {
    /// The counter, such as `shop/month/project/shop/1793491200000000`.
    pub counter: &'a str,
    /// Who takes it: a process, or a job, whose name begins with `job/` and who wants no part of what is left.
    pub holder: &'a str,
    /// The counter's limit.
    pub limit: i64,
    /// What the holder needs at least; 0 only looks.
    pub needs: i64,
    /// How long the counter matters; it may be forgotten after that.
    pub keep_for: Duration,
}

/// All that a holder has used of its slice so far, so that it can be said twice without harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceSpent<'a> {
    /// The counter.
    pub counter: &'a str,
    /// Who used it.
    pub holder: &'a str,
    /// All that it used of its slice.
    pub spent: i64,
}

/// How a counter stands for a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// All that the holder took and did not give back.
    pub amount: i64,
    /// What all holders used.
    pub spent_in_all: i64,
    /// What all holders took and have not used.
    pub held_in_all: i64,
    /// What jobs hold of that.
    pub held_for_jobs: i64,
    /// Other holders, without jobs.
    pub others: u32,
}
