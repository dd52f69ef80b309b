//! The counters: one hash each, every call one script.

use std::time::Duration;

use async_trait::async_trait;
use contract::{Context, Error, ErrorKind, Share, SharedCounters, Slice, SliceSpent, TakeShare, TakeSlice};
use secrecy::SecretString;
use tokio::sync::Mutex;

use crate::config::{Address, RedisConfig};
use crate::connection::{Connection, Reply};
use crate::error;

const TAKE: &str = include_str!("lua/take.lua");
const SPEND: &str = include_str!("lua/spend.lua");
const GIVE_BACK: &str = include_str!("lua/give_back.lua");
const SETTLE: &str = include_str!("lua/settle.lua");
const SHARE: &str = include_str!("lua/share.lua");

/// The largest amount that the server's scripts add without rounding.
const AMOUNT_MAX: i64 = (1 << 53) - 1;
/// A call that takes longer has failed.
const CALL_MAX: Duration = Duration::from_secs(5);

/// Counters on a Redis server, over one connection that is made when it is needed.
pub struct RedisCounters {
    address: Address,
    user: Option<String>,
    password: Option<SecretString>,
    connection: Mutex<Option<Connection>>,
}

impl RedisCounters {
    /// Counters on this server; nothing is connected yet.
    ///
    /// # Errors
    ///
    /// `Invalid`: the address.
    pub fn new(config: &RedisConfig, password: Option<SecretString>) -> Result<Self, Error> {
        Ok(Self {
            address: config.address()?,
            user: config.user.clone(),
            password,
            connection: Mutex::new(None),
        })
    }

    async fn script(
        &self,
        ctx: &Context,
        script: &str,
        counters: &[&str],
        arguments: &[&str],
    ) -> Result<Reply, Error> {
        let (count, keys) =
            (counters.len().to_string(), counters.iter().map(|counter| format!("steward:{counter}")));
        let keys: Vec<String> = keys.collect();
        let mut words = vec!["EVAL", script, &count];
        words.extend(keys.iter().map(String::as_str));
        words.extend(arguments);
        let call = async {
            let mut slot = self.connection.lock().await;
            // A connection is put back only when its reply has been read to the end.
            let mut connection = match slot.take() {
                Some(connection) => connection,
                None => Connection::open(&self.address, self.user.as_deref(), self.password.as_ref()).await?,
            };
            let reply = connection.call(&words).await?;
            *slot = Some(connection);
            Ok(reply)
        };
        ctx.clone().with_timeout(CALL_MAX).run(call).await.map_err(|error| {
            error.with("server", format_args!("{}:{}", self.address.host, self.address.port))
        })
    }
}

fn exact(amount: i64) -> Result<String, Error> {
    if (0..=AMOUNT_MAX).contains(&amount) {
        return Ok(amount.to_string());
    }
    Err(Error::new(ErrorKind::Invalid, "shared counters hold no such amount")
        .with("amount", amount)
        .with("amount_max", AMOUNT_MAX))
}

#[async_trait]
impl SharedCounters for RedisCounters {
    async fn take(&self, ctx: &Context, ask: &TakeSlice<'_>) -> Result<Slice, Error> {
        let keep_ms = ask.keep_for.as_millis().clamp(1_000, 10_000_000_000_000).to_string();
        let arguments = [ask.holder, &exact(ask.limit)?, &exact(ask.needs.min(AMOUNT_MAX))?, &keep_ms];
        let Reply::List(list) = self.script(ctx, TAKE, &[ask.counter], &arguments).await? else {
            return Err(error::odd_reply());
        };
        let number = |at: usize| -> Result<i64, Error> {
            list.get(at).and_then(|text| text.parse().ok()).ok_or_else(error::odd_reply)
        };
        Ok(Slice {
            amount: number(0)?,
            spent_in_all: number(1)?,
            held_in_all: number(2)?,
            held_for_jobs: number(3)?,
            others: u32::try_from(number(4)?).unwrap_or(u32::MAX),
        })
    }

    async fn spend(&self, ctx: &Context, spent: &SliceSpent<'_>) -> Result<(), Error> {
        self.script(ctx, SPEND, &[spent.counter], &[spent.holder, &exact(spent.spent)?]).await.map(drop)
    }

    async fn give_back(&self, ctx: &Context, counter: &str, holder: &str, amount: i64) -> Result<(), Error> {
        self.script(ctx, GIVE_BACK, &[counter], &[holder, &exact(amount)?]).await.map(drop)
    }

    async fn settle(&self, ctx: &Context, spent: &SliceSpent<'_>) -> Result<(), Error> {
        self.script(ctx, SETTLE, &[spent.counter], &[spent.holder, &exact(spent.spent)?]).await.map(drop)
    }

    async fn share(&self, ctx: &Context, holder: &str, asks: &[TakeShare<'_>]) -> Result<Vec<Share>, Error> {
        if asks.is_empty() {
            return Ok(Vec::new());
        }
        let mut arguments = vec![holder.to_owned()];
        for ask in asks {
            let keep_ms = ask.keep_for.as_millis().clamp(1, 10_000_000_000_000).to_string();
            arguments.extend([exact(ask.limit)?, exact(ask.wants)?, keep_ms]);
        }
        let counters: Vec<&str> = asks.iter().map(|ask| ask.counter).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let Reply::List(list) = self.script(ctx, SHARE, &counters, &arguments).await? else {
            return Err(error::odd_reply());
        };
        let shares = list
            .chunks_exact(2)
            .map(|pair| Some(Share { amount: pair[0].parse().ok()?, others: pair[1].parse().ok()? }));
        let shares: Option<Vec<Share>> = shares.collect();
        shares.filter(|shares| shares.len() == asks.len()).ok_or_else(error::odd_reply)
    }
}
