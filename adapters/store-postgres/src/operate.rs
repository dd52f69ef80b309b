//! Operations on a running server: which login carries them out, and what each takes.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use contract::{Activity, Context, Error, ErrorKind, Operate, Operation, Prepared, Store};
use serde_json::Value;

use crate::error::translate;
use crate::session::{Purpose, Session};
use crate::store::{CATALOG_TIMEOUT, PostgresStore, milliseconds};

/// `Denied`, with who could.
pub(crate) fn denied(message: &str, who_could: &str) -> Error {
    Error::new(ErrorKind::Denied, message).hint(who_could)
}

#[async_trait]
impl Operate for PostgresStore {
    async fn activity(&self, ctx: &Context) -> Result<Activity, Error> {
        self.within(ctx, Box::pin(self.look_at_activity(ctx))).await
    }

    async fn prepare(&self, ctx: &Context, operation: &Operation) -> Result<Prepared, Error> {
        self.within(ctx, Box::pin(self.prepare_operation(ctx, operation))).await
    }

    async fn baseline(
        &self,
        ctx: &Context,
        operation: &Operation,
        predicted: &Value,
    ) -> Result<Value, Error> {
        match operation {
            Operation::Vacuum { .. } => self.within(ctx, self.vacuum_counts(ctx, predicted)).await,
            _ => Ok(Value::Null),
        }
    }

    async fn unfulfilled(
        &self,
        ctx: &Context,
        operation: &Operation,
        predicted: &Value,
        baseline: &Value,
    ) -> Result<Vec<String>, Error> {
        let look = Box::pin(async {
            match operation {
                Operation::EndSession { how, .. } => self.unended(ctx, predicted, *how).await,
                Operation::Vacuum { full, .. } => self.unvacuumed(ctx, predicted, baseline, *full).await,
                Operation::RebuildIndex { .. } => self.not_rebuilt(ctx, predicted).await,
                // Done means that nothing is left to do.
                Operation::Configure { .. } | Operation::Grant(_) | Operation::Revoke(_) => {
                    let again = Box::pin(self.prepare_operation(ctx, operation)).await?;
                    Ok(again
                        .steps
                        .iter()
                        .map(|step| format!("it is still to be done: {}", step.title))
                        .collect())
                }
            }
        });
        self.within(ctx, look).await
    }
}

impl PostgresStore {
    async fn prepare_operation(&self, ctx: &Context, operation: &Operation) -> Result<Prepared, Error> {
        let session = self.open_to_look(ctx, Purpose::Read).await?;
        self.refuse_unchangeable(ctx, &session).await?;
        match operation {
            Operation::EndSession { pid, backend_start, how, protected } => {
                self.prepare_end(ctx, *pid, backend_start, *how, *protected).await
            }
            Operation::Vacuum { tables, analyze, full, freeze } => {
                self.prepare_vacuum(&session, tables, *analyze, *full, *freeze).await
            }
            Operation::RebuildIndex { index, table, blocking } => {
                self.prepare_rebuild(&session, index.as_deref(), table.as_deref(), *blocking).await
            }
            Operation::Configure { setting, value, level, role } => {
                self.prepare_configure(ctx, &session, setting, value.as_deref(), *level, role.as_deref())
                    .await
            }
            Operation::Grant(change) => self.prepare_grant(&session, change).await,
            Operation::Revoke(change) => self.prepare_revoke(&session, change).await,
        }
    }

    /// A session in a read-only transaction that ends with it; of the administering login where ordinary ones find no
    /// place.
    pub(crate) async fn open_to_look(&self, ctx: &Context, purpose: Purpose) -> Result<Session, Error> {
        let (session, opened) = self.opener.open_or(ctx, purpose, Purpose::Administer).await?;
        if purpose != Purpose::Administer {
            self.is_full.store(opened != purpose, Ordering::Relaxed);
        }
        let timeout = ctx.remaining().map_or(CATALOG_TIMEOUT, |remaining| CATALOG_TIMEOUT.min(remaining));
        session
            .client
            .batch_execute(&format!(
                "BEGIN READ ONLY; SET LOCAL statement_timeout = {}{}",
                milliseconds(timeout),
                session.prelude
            ))
            .await
            .map_err(|error| translate(&error))?;
        Ok(session)
    }

    /// Refuses where no change can be made: on a copy that only reads.
    pub(crate) async fn refuse_unchangeable(&self, ctx: &Context, session: &Session) -> Result<(), Error> {
        if !session.rights.standby {
            return Ok(());
        }
        let standby = self.look_at_standby(ctx, session).await?;
        let error = Error::new(ErrorKind::Denied, "the server is a standby: it takes no changes of its own")
            .with("address", &self.opener.address);
        Err(match standby.primary {
            Some(primary) => error
                .with("primary", &primary)
                .hint(format!("change the primary, {primary}: point `url` (or `direct_url`) of this store to it")),
            None => error.hint(
                "point `url` (or `direct_url`) of this store to the primary; a login in pg_read_all_stats sees which it is",
            ),
        })
    }

    /// Refuses a session that is not ours alone: the change lock and the settings of a step would be somebody else's.
    pub(crate) fn refuse_shared(&self, session: &Session) -> Result<(), Error> {
        let Some(how) = &session.pooler else { return Ok(()) };
        Err(Error::new(
            ErrorKind::Unsupported,
            "this needs a session of its own, and a pooler in between shares sessions",
        )
        .with("address", &self.opener.address)
        .with("pooler", how)
        .hint(
            "set `direct_url: postgres://host:5432/database` of this store to the server behind the pooler",
        ))
    }

    /// The logins that may carry out plans, in the order in which they are tried: their keys in the configuration and
    /// their names. While ordinary logins find no place the writing one is none of them.
    pub(crate) fn acting_logins(&self) -> (Vec<&'static str>, Vec<String>) {
        let full = self.is_full.load(Ordering::Relaxed);
        [("writer", Purpose::Write), ("admin", Purpose::Administer)]
            .into_iter()
            .filter(|(_, purpose)| !full || *purpose == Purpose::Administer)
            .filter_map(|(key, purpose)| Some((key, self.opener.login(purpose)?.user.clone())))
            .unzip()
    }

    /// The key of the first configured login whose name is among `may`.
    pub(crate) fn first_of(&self, may: &[String]) -> Option<String> {
        let (keys, users) = self.acting_logins();
        keys.iter().zip(&users).find(|(_, user)| may.contains(user)).map(|(key, _)| (*key).to_owned())
    }

    /// Who could, in words: the owners or a superuser.
    pub(crate) fn who_owns(&self, owners: &[String]) -> String {
        let (keys, users) = self.acting_logins();
        let configured = keys
            .iter()
            .zip(&users)
            .map(|(key, user)| format!("{key} `{user}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let configured = if configured.is_empty() { "no login that changes".to_owned() } else { configured };
        let owners: Vec<String> = owners.iter().map(|owner| format!("`{owner}`")).collect();
        format!(
            "the owner {} or a superuser could; {} has: {configured}. Configure one of them as `admin`, or make the \
             writing login a member of the owner",
            owners.join(", "),
            self.name()
        )
    }
}
