//! Rights in a real database, changed through the program: they wait for Security, are given once, and have a way back.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::live::Live;
use crate::program::Ended;

const SIGRID: &str = "seven copper lanterns hum";

impl Live {
    /// A change of one right of a role; with `--json`, and whatever else is said.
    async fn access(&self, verb: &str, role: &str, more: &[&str]) -> Ended {
        let right = ["--privileges", "select", "--on", "table", "--objects", "public.orders", "--json"];
        self.run(&[&["store", "access", verb, "app", role], &right[..], more].concat()).await
    }

    /// Waits for Security, which approves; then it is done.
    async fn approved_access(&self, verb: &str, role: &str) -> Value {
        let waiting = self.access(verb, role, &[]).await.expect(3).json();
        assert_eq!(
            (&waiting["status"], &waiting["decided"]["approvers"]),
            (&json!("waiting"), &json!(["security"]))
        );
        let (project, id) = (Arc::clone(&self.project), waiting["approval"].as_str().unwrap().to_owned());
        let grant =
            move || project.run_on_terminal(&["approval", "grant", &id, "--person", "sigrid"], &[SIGRID]);
        tokio::task::spawn_blocking(grant).await.unwrap().expect(0);
        let done = self.access(verb, role, &[]).await.expect(0).json();
        assert_eq!((&done["status"], &done["value"]["verified"]), (&json!("done"), &json!(true)), "{done:#}");
        assert_eq!(
            (&done["plan"], &done["approval"]),
            (&waiting["plan"], &waiting["approval"]),
            "what was approved ran"
        );
        done
    }

    /// What Steward knows of the role's rights.
    async fn rights(&self, role: &str) -> Value {
        let listed =
            self.run(&["store", "access", "list", "app", "--role", role, "--json"]).await.expect(0).json();
        listed["value"].clone()
    }

    async fn may_read_orders(&self, role: &str) -> bool {
        let sql = format!("SELECT has_table_privilege('{role}', 'orders', 'SELECT')");
        self.session().await.query_one(&sql, &[]).await.unwrap().get(0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn right_waits_for_security_is_given_once_and_has_a_way_back() {
    let live = Live::new(conformance::postgres(), "access").await;
    let project = Arc::clone(&live.project);
    tokio::task::spawn_blocking(move || project.add_person("sigrid", SIGRID, &["security"])).await.unwrap();
    let role = format!("{}_reporting", live.name);
    let superuser = live.session().await;
    superuser.batch_execute(&format!("CREATE ROLE {role}")).await.unwrap();
    live.application()
        .await
        .batch_execute("CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE staff (id int PRIMARY KEY)")
        .await
        .unwrap();
    let before = live.rights(&role).await;

    // Nothing happens before Security has said so.
    let plan = live.access("grant", &role, &["--dry-run"]).await.expect(0).json();
    live.access("grant", &role, &[]).await.expect(3);
    assert!(!live.may_read_orders(&role).await);
    live.approved_access("grant", &role).await;
    assert!(live.may_read_orders(&role).await);
    let granted = live.rights(&role).await;
    let of_role: Vec<&Value> =
        granted["grants"].as_array().unwrap().iter().filter(|grant| grant["role"] == role.as_str()).collect();
    assert_eq!(of_role.len(), 1, "exactly this one: {granted:#}");
    assert_eq!(
        (&of_role[0]["object"], &of_role[0]["privileges"]),
        (&json!("public.orders"), &json!(["SELECT"]))
    );
    let again = live.access("grant", &role, &[]).await.expect(0).json();
    assert_eq!(again["value"]["nothing_to_do"], true, "{again:#}");

    // The plan holds the way back, and it leads exactly there.
    for step in plan["value"]["plan"]["steps"].as_array().unwrap_or_else(|| panic!("{plan:#}")) {
        for statement in step["undo"].as_array().unwrap() {
            superuser.batch_execute(statement["sql"].as_str().unwrap()).await.unwrap();
        }
    }
    assert_eq!(live.rights(&role).await, before);
    assert!(!live.may_read_orders(&role).await);

    // So does the opposite request, which waits as the first did; the old approval is used up.
    live.approved_access("grant", &role).await;
    live.approved_access("revoke", &role).await;
    assert_eq!(live.rights(&role).await, before);
    let nothing = live.access("revoke", &role, &[]).await.expect(0).json();
    assert_eq!(nothing["value"]["nothing_to_do"], true, "{nothing:#}");
    drop(superuser);
    live.session().await.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
    live.run(&["audit", "verify"]).await.expect(0);
}
