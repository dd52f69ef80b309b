//! AI requests: keys, limits, budgets, routes, fallback, cost, receipts.

mod accounts;
mod breaker;
mod budget;
mod config;
pub mod cost;
mod fingerprint;
mod keeper;
pub mod limit;
mod meter;
mod pool;
pub mod price;
mod random;
mod retry;
mod table;
mod usage;
mod usd;

pub use accounts::{Accounts, Alert, Remaining, Standing};
pub use breaker::{Breaker, Pass};
pub use config::{
    AiConfig, Balance, BudgetConfig, BudgetScope, CacheConfig, Enforce, LimitsConfig, PassThroughConfig,
    Period, ProviderConfig, ProviderKind, RetryConfig, RouteConfig, StorePromptsConfig, TargetConfig,
    TimeoutsConfig,
};
pub use fingerprint::{Fingerprint, Fingerprints};
pub use meter::{
    Ask, Attempt, CacheDecision, Ending, Hold, Metering, Refusal, RequestId, Reservation, Settlement,
    Unmetered, What,
};
pub use pool::{Pool, ProviderKey};
pub use retry::RetryBudget;
pub use table::{
    Grant, Limits, OpenProvider, PassThrough, Project, ProjectParts, Reach, Rights, Route, Table, Target,
};
pub use usd::Usd;
