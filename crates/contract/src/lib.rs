//! What an adapter promises: traits, capabilities, context, plans, permits and the one error type.

mod access;
mod actor;
pub mod ai;
mod answer;
mod backup;
mod batch;
pub mod cold;
pub mod columnar;
mod content;
mod context;
mod counters;
mod digest;
mod door;
mod error;
mod escalation;
mod health;
mod lock;
mod log;
mod operate;
mod permit;
mod plan;
mod progress;
pub mod quantity;
mod rowset;
mod secret;
mod slow;
mod store;

pub use access::{
    Access, AccessChange, AccessMap, AccessProblem, AccessRole, AccessTarget, DefaultGrant, Grant,
    Membership, Ownership,
};
pub use actor::{Actor, ActorKind, Role};
pub use answer::{Answer, AnswerStatus, Decided, Evidence, Finding, Outcome, Severity};
pub use backup::{
    BackupLabel, BackupMethod, BackupWriter, CheckDepth, Committed, Dump, DumpOptions, Dumped, Kept, Layout,
    Listing, Load, LoadTarget, MakeManifest, Medium, PART_BYTES_MAX, Part, PartBody, PartRecord, PartSink,
    PartSource, Preflight, Pruned, RecoveryPoint, Repository, RepositoryCheck, RepositoryKey, Restored,
    RowSum, Selection, SwapLeft, TableDigest, Tool, Whereabouts,
};
pub use batch::{BATCH, Batch, BatchPosition, BatchProgress, Batches, ReplicaLag};
pub use content::Content;
pub use context::{Clock, Context, SystemClock, TestClock};
pub use counters::{Share, SharedCounters, Slice, SliceSpent, TakeShare, TakeSlice};
pub use digest::{canonical_json, json_sha256_hex, sha256_hex};
pub use door::{Door, Effect, Request, RequestSpec};
pub use error::{Error, ErrorKind, Retry};
pub use escalation::Trigger;
pub use health::{Health, HealthArea, HealthCheck, HealthFinding, HealthScope, Seen};
pub use lock::LockHolder;
pub use log::{
    FollowLog, FollowOptions, LogGap, LogListing, LogPiece, LogPosition, LogSink, LogSpan, LogStart,
    LogState, Logs, Recovery, RecoveryTarget, check_marker,
};
pub use operate::{
    Activity, EndHow, LockOn, Operate, Operation, Prepared, SessionCount, SessionInfo, SettingLevel,
};
pub use permit::Permit;
pub use plan::{Plan, PlanDigest, PlanStep, Statement, StepMode};
pub use progress::{Progress, Watch};
pub use rowset::{
    Affinity, ColumnKind, Form, KeyRange, RangeDigest, RowChoice, RowEntry, RowHash, RowKey, RowSet,
    RowSetColumn, RowSetField, RowSetSpec, RowSetTable, RowSets, RowTraffic, form, key_form,
};
pub use secret::SecretSource;
pub use slow::{SlowAnswer, SlowStatements, StatementStatistics};
pub use store::{
    Capabilities, Capability, Execute, Execution, Explain, Integrity, IntegrityProblem, IntegrityReport,
    KeysCompared, Limits, Login, Probe, Query, Relational, RowPromise, RowTest, Rows, Standby, StepState,
    Store, StoreDirectory, TableScan, Truncation,
};
