//! What of the rights is more than is needed.

use contract::{AccessMap, AccessProblem, Context, Error};

use crate::store::PostgresStore;

impl PostgresStore {
    pub(crate) async fn judge_access(
        &self,
        _ctx: &Context,
        _map: &AccessMap,
    ) -> Result<(Vec<AccessProblem>, Vec<String>), Error> {
        Ok((Vec::new(), Vec::new()))
    }
}
