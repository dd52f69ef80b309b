//! AI requests: keys, limits, budgets, routes, fallback, cost, receipts.

mod accounts;
pub mod advise;
mod answer;
mod attempt;
mod balance;
mod breaker;
mod budget;
mod cache;
mod catalog;
mod compare;
mod config;
pub mod cost;
mod fingerprint;
mod flight;
mod forward;
mod grant;
mod handle;
mod header;
mod hit_rate;
mod hold;
mod import;
mod in_force;
mod job;
mod job_call;
mod job_tally;
pub mod job_view;
mod job_word;
mod keeper;
mod key;
pub mod limit;
mod lookout;
mod meter;
mod metrics;
mod models;
mod notice;
mod once;
mod peer;
mod pool;
pub mod price;
mod probe;
pub mod prompts;
mod random;
mod raw;
pub mod receipt;
pub mod reconcile;
mod relay;
mod remote;
mod repeats;
pub mod report;
mod retry;
mod rotate;
pub mod scan;
mod scrub;
mod semantic;
mod sense;
pub mod settings;
mod share;
mod shelf;
mod spans;
mod states;
mod surface;
mod table;
mod trace;
mod transcript;
mod usage;
mod usd;
mod view;
mod watch;

pub use accounts::{Accounts, Alarm, Remaining, Standing};
pub use answer::{Answer, BodyError};
pub use breaker::{Breaker, Pass};
pub use catalog::{Catalog, Retired};
pub use config::{
    AiConfig, Balance, BudgetConfig, BudgetScope, CacheConfig, CachePer, CountersConfig, CountersKind,
    Enforce, LimitsConfig, PassThroughConfig, Period, ProviderConfig, ProviderKind, RetryConfig, RouteConfig,
    SemanticConfig, ServiceCanary, StorePromptsConfig, TargetConfig, TimeoutsConfig,
};
pub use fingerprint::{Fingerprint, Fingerprints};
pub use grant::{Callable, compile};
pub use handle::Gateway;
pub use hit_rate::HitRate;
pub use import::{ImportConfig, import};
pub use job::{Jobs, tuned};
pub use key::{
    CreateKey, GENERATION, KEY_PREFIX, ListKeys, Names, RegenerateKey, RevokeKey, StoredKey, VirtualKey,
    VirtualKeys,
};
pub use meter::{
    Ask, Attempt, CacheDecision, CacheNote, Ending, Hold, Likeness, Metering, Refusal, RequestId,
    Reservation, Settlement, Unmetered, What,
};
pub use metrics::Metrics;
pub use notice::{Notice, Notices};
pub use peer::Peer;
pub use pool::{KeyId, KeyState, Lent, Pool, ProviderKey};
pub use probe::{Probe, ProjectCanary, probe};
pub use prompts::PromptStore;
pub use retry::RetryBudget;
pub use rotate::{Canary, CanaryAnswer, NEXT_SUFFIX, Next, RotateKeys, Rotation, Rotations, Serving, Stage};
pub use spans::Spans;
pub use states::{About, State, States, snapshot};
pub use table::{
    Grant, KeyVersions, Limits, OpenProvider, PassThrough, Project, ProjectParts, Reach, Rights, Route,
    Table, Target, Tuned,
};
pub use trace::Trace;
pub use transcript::Transcripts;
pub use usd::Usd;
pub use view::{ListModels, ListRoutes, ScanPath, TestTargets, key_lines, models, routes, test};
pub use watch::{Trouble, Watch};
