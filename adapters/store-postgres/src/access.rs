//! Who may do what: the catalog's answer.

use async_trait::async_trait;
use contract::{
    Access, AccessMap, AccessProblem, AccessRole, Context, DefaultGrant, Error, Grant, Membership, Ownership,
};
use tokio_postgres::Client;

use crate::error::translate;
use crate::session::Purpose;
use crate::store::PostgresStore;

/// Most grants that are read.
const GRANTS_MAX: usize = 20_000;

#[async_trait]
impl Access for PostgresStore {
    async fn access(&self, ctx: &Context) -> Result<AccessMap, Error> {
        self.within(ctx, async {
            let session = self.open_to_look(ctx, Purpose::Read).await?;
            read(&session.client).await
        })
        .await
    }

    async fn review(
        &self,
        ctx: &Context,
        map: &AccessMap,
    ) -> Result<(Vec<AccessProblem>, Vec<String>), Error> {
        self.within(ctx, self.judge_access(ctx, map)).await
    }
}

async fn read(client: &Client) -> Result<AccessMap, Error> {
    let failed = |error: tokio_postgres::Error| translate(&error);
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let mut map = AccessMap::default();
    for row in client.query(include_str!("sql/access_roles.sql"), &[]).await.map_err(failed)? {
        map.roles.push(AccessRole {
            name: row.get("name"),
            login: row.get("login"),
            superuser: row.get("superuser"),
            create_database: row.get("create_database"),
            create_role: row.get("create_role"),
            replication: row.get("replication"),
            bypass_row_security: row.get("bypass_row_security"),
            inherit: row.get("inherit"),
            connections_max: row
                .get::<_, Option<i32>>("connections_max")
                .and_then(|max| u32::try_from(max).ok()),
            valid_until: row.get("valid_until"),
            expired: row.get("expired"),
            settings: row.get("settings"),
            predefined: row.get("predefined"),
            objects_owned: count(row.get("objects_owned")),
        });
    }
    for row in client.query(include_str!("sql/access_memberships.sql"), &[]).await.map_err(failed)? {
        map.memberships.push(Membership {
            role: row.get("role"),
            member: row.get("member"),
            admin: row.get("admin"),
            inherit: row.get("inherit"),
            set: row.get("set"),
            grantor: row.get("grantor"),
        });
    }
    let most = i64::try_from(GRANTS_MAX + 1).expect("the bound is small");
    for row in client.query(include_str!("sql/access_grants.sql"), &[&most]).await.map_err(failed)? {
        map.grants.push(Grant {
            kind: row.get("kind"),
            object: row.get("object"),
            owner: row.get("owner"),
            role: row.get("role"),
            privileges: row.get("privileges"),
            grantable: row.get("grantable"),
            grantor: row.get("grantor"),
        });
    }
    map.truncated = map.grants.len() > GRANTS_MAX;
    map.grants.truncate(GRANTS_MAX);
    for row in client.query(include_str!("sql/access_defaults.sql"), &[]).await.map_err(failed)? {
        map.defaults.push(DefaultGrant {
            owner: row.get("owner"),
            schema: row.get("schema"),
            kind: row.get("kind"),
            role: row.get("role"),
            privileges: row.get("privileges"),
            grantable: row.get("grantable"),
        });
    }
    for row in client.query(include_str!("sql/access_owners.sql"), &[]).await.map_err(failed)? {
        map.ownership.push(Ownership {
            role: row.get("role"),
            kind: row.get("kind"),
            objects: count(row.get("objects")),
            examples: row.get("examples"),
        });
    }
    Ok(map)
}
