//! Statements by time, from the extension `pg_stat_statements`.

use async_trait::async_trait;
use contract::{Context, Error, SlowAnswer, SlowStatements, Store};

use crate::store::PostgresStore;

#[async_trait]
impl SlowStatements for PostgresStore {
    async fn slow_statements(&self, _: &Context, _: u32) -> Result<SlowAnswer, Error> {
        Err(self.unsupported("slow_statements", "not yet", "wait"))
    }
}
