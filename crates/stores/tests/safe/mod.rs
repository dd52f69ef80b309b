//! The safe form of a migration: it ends where the original does, can be cut short anywhere, and says what it cannot do.

use contract::{ErrorKind, Plan};
use serde_json::{Value, json};
use stores::migration::MigrationFile;
use stores::{ApplyMigrations, InspectStore, PlanMigrations, RewriteMigration, RollbackMigrations};

use crate::world::{World, request};

/// Tables that the cases change; every case has its own.
const SETUP: &str = "CREATE TABLE people (id integer PRIMARY KEY, name text NOT NULL, team integer);\n\
    INSERT INTO people SELECT n, 'person ' || n, n % 7 FROM generate_series(1, 3000) AS n;\n\
    CREATE TABLE teams (id integer PRIMARY KEY);\nINSERT INTO teams SELECT n FROM generate_series(0, 6) AS n;\n";

/// What a case needs, and the migration that it applies.
struct Case {
    name: &'static str,
    setup: &'static str,
    up: &'static str,
    /// Parts of statements of the safe form, in their order.
    becomes: &'static [&'static str],
}

const fn case(
    name: &'static str,
    setup: &'static str,
    up: &'static str,
    becomes: &'static [&'static str],
) -> Case {
    Case { name, setup, up, becomes }
}

/// `{t}` is a table of the case's own, like `people`.
const CASES: &[Case] = &[
    case("index", "", "CREATE INDEX ON {t} (team)", &["CREATE INDEX CONCURRENTLY {t}_team_idx ON {t}"]),
    case(
        "unique index",
        "",
        "CREATE UNIQUE INDEX {t}_names ON {t} (lower(name), id) WHERE team > 2",
        &["CREATE UNIQUE INDEX CONCURRENTLY {t}_names"],
    ),
    case(
        "drop index",
        "CREATE INDEX {t}_x ON {t} (team)",
        "DROP INDEX {t}_x",
        &["DROP INDEX CONCURRENTLY {t}_x"],
    ),
    case(
        "foreign key",
        "",
        "ALTER TABLE {t} ADD FOREIGN KEY (team) REFERENCES teams (id) ON DELETE CASCADE",
        &[
            "FOREIGN KEY (team) REFERENCES teams(id) ON DELETE CASCADE NOT VALID",
            "VALIDATE CONSTRAINT {t}_team_fkey",
        ],
    ),
    case(
        "check",
        "",
        "ALTER TABLE {t} ADD CHECK (team >= 0)",
        &["CHECK (team >= 0) NOT VALID", "VALIDATE CONSTRAINT {t}_team_check"],
    ),
    case(
        "check of two columns",
        "",
        "ALTER TABLE {t} ADD CHECK (team >= 0 AND id > 0)",
        &["NOT VALID", "VALIDATE CONSTRAINT {t}_check"],
    ),
    case(
        "unique constraint",
        "",
        "ALTER TABLE {t} ADD UNIQUE (name)",
        &["CREATE UNIQUE INDEX CONCURRENTLY {t}_name_key", "UNIQUE USING INDEX {t}_name_key"],
    ),
    case(
        "primary key",
        "ALTER TABLE {t} DROP CONSTRAINT {t}_pkey;\nALTER TABLE {t} ALTER COLUMN id DROP NOT NULL",
        "ALTER TABLE {t} ADD PRIMARY KEY (id)",
        &[
            "CHECK (id IS NOT NULL) NOT VALID",
            "VALIDATE",
            "SET NOT NULL",
            "DROP CONSTRAINT",
            "CONCURRENTLY",
            "PRIMARY KEY USING INDEX",
        ],
    ),
    case(
        "not null",
        "",
        "ALTER TABLE {t} ALTER COLUMN team SET NOT NULL",
        &[
            "CHECK (team IS NOT NULL) NOT VALID",
            "VALIDATE CONSTRAINT steward_team_not_null",
            "SET NOT NULL",
            "DROP CONSTRAINT",
        ],
    ),
    case(
        "volatile default",
        "",
        "ALTER TABLE {t} ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid()",
        &[
            "ADD COLUMN token UUID",
            "SET DEFAULT gen_random_uuid()",
            "SET token = DEFAULT WHERE token IS NULL AND {{batch}}",
            "NOT VALID",
            "VALIDATE",
            "SET NOT NULL",
            "DROP CONSTRAINT",
        ],
    ),
    case(
        "serial",
        "",
        "ALTER TABLE {t} ADD COLUMN number serial",
        &[
            "CREATE SEQUENCE {t}_number_seq AS integer",
            "ADD COLUMN number integer",
            "OWNED BY",
            "SET DEFAULT nextval",
            "{{batch}}",
            "NOT VALID",
            "VALIDATE",
            "SET NOT NULL",
            "DROP CONSTRAINT",
        ],
    ),
    case("constant default", "", "ALTER TABLE {t} ADD COLUMN seen boolean NOT NULL DEFAULT false", &[]),
    case("time default", "", "ALTER TABLE {t} ADD COLUMN made timestamptz DEFAULT now()", &[]),
    case(
        "column with its constraints",
        "",
        "ALTER TABLE {t} ADD COLUMN boss integer REFERENCES people (id), ADD COLUMN rank integer CHECK (rank > 0), \
         ADD COLUMN code text UNIQUE",
        &[
            "ADD COLUMN boss",
            "NOT VALID",
            "VALIDATE CONSTRAINT {t}_boss_fkey",
            "ADD COLUMN rank",
            "NOT VALID",
            "VALIDATE CONSTRAINT {t}_rank_check",
            "ADD COLUMN code",
            "CONCURRENTLY {t}_code_key",
            "USING INDEX",
        ],
    ),
    case(
        "several actions",
        "",
        "ALTER TABLE {t} ADD COLUMN note text, ALTER COLUMN team SET NOT NULL, ALTER COLUMN team SET DEFAULT 0",
        &["ADD COLUMN note", "NOT VALID", "VALIDATE", "SET NOT NULL", "DROP CONSTRAINT", "SET DEFAULT 0"],
    ),
    case("update", "", "UPDATE {t} SET name = name || '!'", &["WHERE {{batch}}"]),
    case(
        "update of some",
        "",
        "UPDATE {t} AS p SET team = 0 WHERE p.team = 1 OR p.team = 2",
        &["WHERE (p.team = 1 OR p.team = 2) AND {{batch}}"],
    ),
    case("update of one", "", "UPDATE {t} SET team = 0 WHERE id = 7", &[]),
    case("delete", "", "DELETE FROM {t} WHERE team = 3", &["WHERE (team = 3) AND {{batch}}"]),
    case(
        "refresh",
        "CREATE MATERIALIZED VIEW {t}_v AS SELECT team, count(*) AS n FROM {t} GROUP BY team;\n\
         CREATE UNIQUE INDEX {t}_vi ON {t}_v (team);\nINSERT INTO {t} VALUES (-1, 'new', 9)",
        "REFRESH MATERIALIZED VIEW {t}_v",
        &["REFRESH MATERIALIZED VIEW CONCURRENTLY"],
    ),
    case(
        "index of partitions",
        "CREATE TABLE {t}_p (id integer, day date NOT NULL) PARTITION BY RANGE (day);\n\
         CREATE TABLE {t}_p1 PARTITION OF {t}_p FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');\n\
         CREATE TABLE {t}_p2 PARTITION OF {t}_p FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')",
        "CREATE INDEX {t}_days ON {t}_p (day, id)",
        &[
            "CREATE INDEX {t}_days ON ONLY {t}_p",
            "CONCURRENTLY {t}_p1_day_id_idx",
            "ATTACH",
            "CONCURRENTLY {t}_p2_day_id_idx",
            "ATTACH",
        ],
    ),
    case(
        "attach",
        "CREATE TABLE {t}_p (id integer, day date NOT NULL) PARTITION BY RANGE (day);\n\
         CREATE TABLE {t}_p1 (id integer, day date NOT NULL);\nINSERT INTO {t}_p1 VALUES (1, '2026-01-05')",
        "ALTER TABLE {t}_p ATTACH PARTITION {t}_p1 FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
        &[
            "CHECK (day IS NOT NULL AND day >= '2026-01-01' AND day < '2026-02-01') NOT VALID",
            "VALIDATE",
            "ATTACH PARTITION",
            "DROP CONSTRAINT",
        ],
    ),
    case(
        "detach",
        "CREATE TABLE {t}_p (id integer, day date NOT NULL) PARTITION BY RANGE (day);\n\
         CREATE TABLE {t}_p1 PARTITION OF {t}_p FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');\n\
         INSERT INTO {t}_p VALUES (1, '2026-01-05')",
        "ALTER TABLE {t}_p DETACH PARTITION {t}_p1",
        &["NOT VALID", "VALIDATE", "DETACH PARTITION {t}_p1 CONCURRENTLY", "DROP CONSTRAINT"],
    ),
    case(
        "detach beside a default partition",
        "CREATE TABLE {t}_p (id integer, day date NOT NULL) PARTITION BY RANGE (day);\n\
         CREATE TABLE {t}_d PARTITION OF {t}_p DEFAULT;\n\
         CREATE TABLE {t}_p1 PARTITION OF {t}_p FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
        "ALTER TABLE {t}_p DETACH PARTITION {t}_p1",
        &[],
    ),
    case(
        "rebuild of an index",
        "CREATE INDEX {t}_x ON {t} (team)",
        "REINDEX INDEX {t}_x",
        &["REINDEX INDEX CONCURRENTLY {t}_x"],
    ),
    case(
        "rebuild of all indexes",
        "",
        "REINDEX (VERBOSE) TABLE {t}",
        &["REINDEX (VERBOSE) TABLE CONCURRENTLY {t}"],
    ),
    case(
        "new table",
        "",
        "CREATE TABLE {t}_n (id integer PRIMARY KEY, person integer REFERENCES {t} (id));\nCREATE INDEX ON {t}_n (person)",
        &[],
    ),
];

fn table(index: usize) -> String {
    format!("people{index}")
}

fn files(list: &[(String, String)]) -> Vec<MigrationFile> {
    list.iter()
        .map(|(name, sql)| MigrationFile::new(format!("migrations/shop/{name}"), sql.as_str()))
        .collect()
}

async fn set_up(world: &World) {
    world.run(SETUP.trim_end_matches(";\n")).await;
    for (i, case) in CASES.iter().enumerate() {
        let t = table(i);
        let mut sql =
            format!("CREATE TABLE {t} (LIKE people INCLUDING ALL);\nINSERT INTO {t} SELECT * FROM people");
        if !case.setup.is_empty() {
            sql.push_str(";\n");
            sql.push_str(&case.setup.replace("{t}", &t));
        }
        world.run(&sql).await;
    }
    world.run("ANALYZE").await;
}

fn cases() -> Vec<(String, String)> {
    CASES
        .iter()
        .enumerate()
        .map(|(i, case)| {
            (
                format!("{:04}_{}.sql", i + 1, case.name.replace(' ', "_")),
                format!("{};\n", case.up.replace("{t}", &table(i))),
            )
        })
        .collect()
}

async fn plan(world: &World, files: &[MigrationFile], arguments: Value) -> Plan {
    let apply: ApplyMigrations = request(arguments);
    stores::migration::plan_apply(&world.ctx(), world, files, &apply).await.unwrap()
}

/// Structure of all tables, by name; and the rows of those whose content does not depend on chance.
async fn end(world: &World) -> Vec<(String, Value)> {
    let inspect: InspectStore = request(json!({"store": "shop"}));
    let schema = stores::inspect(&world.ctx(), world, &inspect).await.unwrap().value;
    let schema: schema::Schema = serde_json::from_value(schema.into_value()).unwrap();
    let structure = schema.structure();
    let mut end: Vec<(String, Value)> =
        structure.tables.iter().map(|table| (table.name.to_string(), json!(table))).collect();
    end.push(("others".into(), json!([structure.others, structure.views])));
    for (i, case) in CASES.iter().enumerate() {
        if !case.up.contains("uuid") && !case.up.contains("now()") {
            let sql = format!("SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM {} AS t", table(i));
            let rows =
                world.store.relational().unwrap().query(&world.ctx(), &contract::Query::new(sql)).await;
            end.push((format!("rows of {}", case.name), rows.unwrap().rows[0][0].clone()));
        }
    }
    end
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safe_form_ends_where_the_original_does() {
    let (original, safe) = (World::postgres("safe_original").await, World::postgres("safe_form").await);
    set_up(&original).await;
    set_up(&safe).await;
    let files = files(&cases());
    original.execute(&plan(&original, &files, json!({"store": "shop"})).await).await.unwrap();

    let preview: PlanMigrations = request(json!({"store": "shop", "safe": true}));
    let preview = stores::migration::preview(&safe.ctx(), &safe, &files, &preview).await.unwrap();
    for (i, case) in CASES.iter().enumerate() {
        let form = &preview.value["safe"][i];
        let becomes: Vec<&str> = form["statements"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|part| part["becomes"].as_array().unwrap())
            .map(|text| text.as_str().unwrap())
            .collect();
        assert_eq!(becomes.len(), case.becomes.len(), "{}: {form:#}", case.name);
        for (text, expected) in becomes.iter().zip(case.becomes) {
            assert!(
                text.contains(&expected.replace("{t}", &table(i))),
                "{}: `{expected}` in {becomes:#?}",
                case.name
            );
        }
        assert_eq!(form["file"].is_null(), case.becomes.is_empty(), "{}", case.name);
    }
    assert_eq!(preview.findings.iter().filter(|finding| finding.code == "not_made_safe").count(), 0);

    let outcome =
        safe.execute(&plan(&safe, &files, json!({"store": "shop", "safe": true})).await).await.unwrap();
    assert_eq!(outcome.value["verified"], json!(true), "{}", outcome.text);
    for (ended, expected) in end(&safe).await.iter().zip(&end(&original).await) {
        assert_eq!(ended, expected);
    }
    assert_eq!(plan(&safe, &files, json!({"store": "shop"})).await.steps, [], "both forms are one migration");
}

/// Statements that keep their form, and a part of the reason.
const UNSAFE: &[(&str, &str)] = &[
    ("ALTER TABLE people ALTER COLUMN team TYPE bigint", "expand and contract by hand"),
    ("ALTER TABLE people DROP COLUMN team", "must no longer name it"),
    ("ALTER TABLE people RENAME COLUMN team TO squad", "uses the old name"),
    ("ALTER TABLE people ADD COLUMN n integer NOT NULL", "without a default fails"),
    ("ALTER TABLE people ADD COLUMN n integer GENERATED ALWAYS AS IDENTITY", "writes the table anew"),
    ("ALTER TABLE people SET UNLOGGED", "writes the table anew"),
    ("VACUUM FULL people", "plain VACUUM"),
    ("TRUNCATE people", "waits for approval"),
    ("DROP TABLE people", "waits for approval"),
    ("DO $$ BEGIN PERFORM 1; END $$", "can do anything"),
    ("UPDATE people SET id = id + 1", "changes the key itself"),
    ("UPDATE people SET team = (SELECT max(p.team) FROM people AS p)", "see each other's work"),
    ("UPDATE keyless SET n = 1", "has no primary key"),
    ("ALTER TABLE keyless ADD COLUMN token uuid DEFAULT gen_random_uuid()", "no primary key to fill it by"),
    ("INSERT INTO teams SELECT id FROM people", "unknown number of rows"),
    ("REFRESH MATERIALIZED VIEW per_team", "with a unique index"),
    ("ALTER TABLE people FROBNICATE", "cannot be read"),
    ("REINDEX SCHEMA public", "rebuild them one by one"),
    ("ALTER DOMAIN code ADD CHECK (VALUE <> '')", "in a quiet hour"),
    ("ALTER DOMAIN code SET NOT NULL", "in a quiet hour"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_safe_form_is_said_with_the_reason() {
    let world = World::postgres("safe_refusals").await;
    world
        .run(&format!(
            "{SETUP}CREATE TABLE keyless (n integer);\n\
             CREATE DOMAIN code AS text;\n\
             CREATE MATERIALIZED VIEW per_team AS SELECT team, count(*) AS n FROM people GROUP BY team"
        ))
        .await;
    for (sql, reason) in UNSAFE {
        let one = files(&[("0001_one.sql".into(), format!("-- steward: no-transaction\n{sql};\n"))]);
        let preview: PlanMigrations = request(json!({"store": "shop", "safe": true}));
        let preview = stores::migration::preview(&world.ctx(), &world, &one, &preview).await;
        let preview = preview.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let part = &preview.value["safe"][0]["statements"][0];
        assert_eq!((&part["becomes"], &part["unsafe_still"]), (&json!([]), &json!(true)), "{sql}: {part:#}");
        assert!(part["note"].as_str().unwrap().contains(reason), "{sql}: {part:#}");
        assert!(preview.findings.iter().any(|finding| finding.code == "not_made_safe"), "{sql}");
        let rewrite: RewriteMigration = request(json!({"store": "shop", "migration": 1}));
        let error = stores::migration::safe_file(&world.ctx(), &world, &one, &rewrite).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{sql}: {error}");
    }
    // What belongs to one transaction stays in it, whatever else stands there.
    let bound = files(&[(
        "0001_bound.sql".into(),
        "SET search_path = other;\nCREATE INDEX ON people (team);\n".into(),
    )]);
    let preview: PlanMigrations = request(json!({"store": "shop", "safe": true}));
    let preview = stores::migration::preview(&world.ctx(), &world, &bound, &preview).await.unwrap();
    let note = preview.value["safe"][0]["statements"][1]["note"].as_str().unwrap();
    assert!(note.contains("`SET search_path = other` sets something for the statements after it"), "{note}");
}

/// Runs the first steps of a plan and stops, as a process that dies between two of them; `half`: one batch of the next.
async fn run_steps(world: &World, plan: &Plan, steps: usize, half: bool) {
    let ctx = world.ctx();
    let permit = conformance::permit_for(&ctx, plan);
    let secrets = std::sync::Arc::new(crate::world::secrets(&world.address));
    let role = world.store.execute().unwrap();
    let mut execution = role.begin(&ctx, &permit, plan, secrets).await.unwrap();
    for index in 0..steps {
        if matches!(plan.steps[index].mode, contract::StepMode::Batched(_)) {
            while !execution.run_batch(&ctx, &permit, plan, index, 1_000).await.unwrap().done {}
        } else {
            execution.run(&ctx, &permit, plan, index).await.unwrap();
        }
    }
    if half {
        assert!(!execution.run_batch(&ctx, &permit, plan, steps, 1_000).await.unwrap().done);
        let begun = role.batches_begun(&ctx).await.unwrap();
        assert_eq!((begun.len(), begun[0].rows_seen, begun[0].rows_expected), (1, 1_000, 3_000), "{begun:?}");
    }
    execution.finish(&ctx).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safe_application_cut_short_is_finished_in_its_form_and_taken_back() {
    let world = World::postgres("safe_cut").await;
    world.run(SETUP.trim_end_matches(";\n")).await;
    let up = "ALTER TABLE {t} ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid(), ADD UNIQUE (name);\n\
              UPDATE {t} SET team = team + 100;\n\
              -- steward: down\nALTER TABLE {t} DROP COLUMN token;\nALTER TABLE {t} DROP CONSTRAINT {t}_name_key;\n";
    let mut list = Vec::new();
    let (mut steps, mut cut) = (usize::MAX, 0);
    while cut < steps {
        let t = table(cut);
        world
            .run(&format!("CREATE TABLE {t} (LIKE people INCLUDING ALL);\nINSERT INTO {t} SELECT * FROM people;\nANALYZE {t}"))
            .await;
        list.push((format!("{:04}_change.sql", cut + 1), up.replace("{t}", &t)));
        let files = files(&list);
        let interrupted = plan(&world, &files, json!({"store": "shop", "safe": true})).await;
        // The first plan also makes the history.
        let own = interrupted.steps.iter().position(|step| step.id.ends_with("/begin")).unwrap();
        steps = interrupted.steps.len() - own;
        let next = own + cut;
        let half = matches!(interrupted.steps[next].mode, contract::StepMode::Batched(_));
        run_steps(&world, &interrupted, next, half).await;
        // Asked for anew, and not even as safe: it ends in the form in which it was begun.
        let anew = plan(&world, &files, json!({"store": "shop"})).await;
        if cut > 0 {
            assert!(anew.steps.len() < steps, "{cut}: {:?}", anew.summary);
            world.execute(&anew).await.unwrap();
        } else {
            world.execute(&interrupted).await.unwrap();
        }
        for (sql, expected) in [
            ("SELECT count(*) FROM {t} WHERE token IS NULL", 0),
            ("SELECT count(DISTINCT token) FROM {t}", 3_000),
            ("SELECT count(*) FROM {t} WHERE team BETWEEN 100 AND 106", 3_000),
            (
                "SELECT count(*) FROM pg_constraint WHERE conrelid = '{t}'::regclass AND conname LIKE 'steward%'",
                0,
            ),
            (
                "SELECT count(*) FROM pg_constraint WHERE conrelid = '{t}'::regclass AND conname = '{t}_name_key'",
                1,
            ),
        ] {
            assert_eq!(world.count(&sql.replace("{t}", &t)).await, Some(expected), "{cut}: {sql}");
        }
        cut += 1;
    }
    assert!(steps > 10, "{steps}");
    let files = files(&list);
    let rewrite: RewriteMigration = request(json!({"store": "shop", "migration": 1}));
    let error = stores::migration::safe_file(&world.ctx(), &world, &files, &rewrite).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let back: RollbackMigrations = request(json!({"store": "shop", "to": 0}));
    let back = stores::migration::plan_rollback(&world.ctx(), &world, &files, &back).await.unwrap();
    world.execute(&back).await.unwrap();
    for i in 0..steps {
        let columns =
            format!("SELECT count(*) FROM information_schema.columns WHERE table_name = '{}'", table(i));
        assert_eq!(world.count(&columns).await, Some(3));
    }
    // What was taken back can be applied again, from its beginning.
    world
        .execute(&plan(&world, &files, json!({"store": "shop", "safe": true, "to": 1})).await)
        .await
        .unwrap();
    assert_eq!(world.count("SELECT count(*) FROM people0 WHERE team >= 200").await, Some(3_000));
}

/// What the plan says of itself to a person: which tables, what is lost, and what stays as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plan_names_its_tables_its_losses_and_what_stays_unsafe() {
    let world = World::postgres("safe_said").await;
    world.run(&format!("{SETUP}CREATE INDEX people_team ON people (team)")).await;
    let of = async |sql: &str, safe: bool| {
        let files = files(&[("0001_change.sql".into(), format!("{sql};\n-- steward: irreversible\n"))]);
        let asked: PlanMigrations = request(json!({"store": "shop", "safe": safe}));
        stores::migration::preview(&world.ctx(), &world, &files, &asked).await.unwrap()
    };
    for (sql, tables, unknown) in [
        ("REINDEX TABLE people", vec!["people"], false),
        ("DROP INDEX people_team", vec!["people"], false),
        ("UPDATE public.people SET team = 1 WHERE id = 1;\nDROP INDEX people_team", vec!["people"], false),
        ("UPDATE people SET name = 'x'", vec!["people"], false),
        ("DO $$ BEGIN DELETE FROM people; END $$", vec![], true),
    ] {
        let summary = &of(sql, false).await.value["summary"].clone();
        let named: Vec<&str> =
            summary["tables"].as_array().unwrap().iter().map(|one| one["table"].as_str().unwrap()).collect();
        assert_eq!((named, &summary["tables_unknown"]), (tables, &json!(unknown)), "{sql}: {summary:#}");
    }
    // In batches or not, each row gets another value.
    for safe in [false, true] {
        let outcome = of("UPDATE people SET name = 'x'", safe).await;
        let loss = "values in all rows of `people` are overwritten";
        assert!(outcome.text.contains("critical  migrations/shop/0001_change.sql:"), "{}", outcome.text);
        assert!(outcome.value["summary"]["impact"].to_string().contains(loss), "{}", outcome.text);
    }
    let stays = of("ALTER TABLE people ALTER COLUMN team TYPE text", true).await;
    assert!(
        stays.text.contains("not made safe: `0001_change`, line 1: writes `people` anew"),
        "{}",
        stays.text
    );
}

/// Detaching has two transactions. Cut off between them, the partition is no longer read and not yet detached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partition_that_is_half_detached_is_detached_to_the_end() {
    let world = World::postgres("safe_detach").await;
    world
        .run(
            "CREATE TABLE days (id integer, day date NOT NULL) PARTITION BY RANGE (day);\n\
             CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
        )
        .await;
    let files = files(&[(
        "0001_detach.sql".into(),
        "ALTER TABLE days DETACH PARTITION days_1;\n-- steward: irreversible\n".into(),
    )]);
    let begun = plan(&world, &files, json!({"store": "shop", "safe": true})).await;
    let at = begun.steps.iter().position(|step| step.mode == contract::StepMode::Autocommit).unwrap();
    run_steps(&world, &begun, at, false).await;
    world
        .run_as_superuser(
            "SET allow_system_table_mods = on;\n\
             UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'days_1'::regclass",
        )
        .await;
    let left = plan(&world, &files, json!({"store": "shop"})).await;
    assert!(left.steps.iter().all(|step| step.mode == contract::StepMode::Transaction), "{:#?}", left.steps);
    let outcome = world.execute(&left).await.unwrap();
    assert_eq!(outcome.value["verified"], json!(true), "{}", outcome.text);
    for sql in [
        "SELECT count(*) FROM pg_inherits WHERE inhrelid = 'days_1'::regclass",
        "SELECT count(*) FROM pg_constraint WHERE conrelid = 'days_1'::regclass AND contype = 'c'",
    ] {
        assert_eq!(world.count(sql).await, Some(0), "{sql}");
    }
}

/// An index that others write to meanwhile is built beside the old one; a build that fails leaves that one behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebuild_that_fails_or_was_cut_short_leaves_no_index_behind() {
    let world = World::postgres("safe_rebuild").await;
    world
        .run(
            "CREATE TABLE codes (id integer PRIMARY KEY, code text);\n\
             INSERT INTO codes VALUES (1, 'a'), (2, 'a');\n\
             CREATE INDEX codes_code ON codes (code);\n\
             CREATE INDEX codes_pkey_ccold ON codes (id)",
        )
        .await;
    // Now it says that it is unique, and cannot be built.
    world
        .run_as_superuser(
            "SET allow_system_table_mods = on;\n\
             UPDATE pg_index SET indisunique = true WHERE indexrelid = 'codes_code'::regclass",
        )
        .await;
    let files = files(&[("0001_anew.sql".into(), "REINDEX TABLE codes;\n-- steward: irreversible\n".into())]);
    let indexes = "SELECT count(*) FROM pg_index WHERE indrelid = 'codes'::regclass";
    let asked = json!({"store": "shop", "safe": true});
    let error = world.execute(&plan(&world, &files, asked.clone()).await).await.unwrap_err();
    assert!(error.to_string().contains("could not create unique index"), "{error}");
    assert_eq!(world.count(indexes).await, Some(3), "what failed is gone, and what looks like it is not");

    // Killed, nobody takes it away: the next start does.
    world.run("DELETE FROM codes WHERE id = 2;\nCREATE INDEX codes_code_ccnew ON codes (code)").await;
    world
        .run_as_superuser(
            "SET allow_system_table_mods = on;\n\
             UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'codes_code_ccnew'::regclass",
        )
        .await;
    let outcome = world.execute(&plan(&world, &files, asked).await).await.unwrap();
    assert_eq!(outcome.value["verified"], json!(true), "{}", outcome.text);
    assert_eq!(world.count(&format!("{indexes} AND indisvalid")).await, Some(3));
    assert_eq!(world.count(indexes).await, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safe_form_as_a_file_is_a_migration() {
    let world = World::postgres("safe_file").await;
    world.run(SETUP.trim_end_matches(";\n")).await;
    let original = files(&[(
        "0001_change.sql".into(),
        "CREATE INDEX ON people (team);\nDELETE FROM people WHERE team = 3;\n-- steward: down\nDROP INDEX people_team_idx;\n"
            .into(),
    )]);
    let rewrite: RewriteMigration = request(json!({"store": "shop", "migration": "0001_change"}));
    let file = stores::migration::safe_file(&world.ctx(), &world, &original, &rewrite).await.unwrap();
    insta::assert_snapshot!(String::from_utf8(file.content.clone()).unwrap());
    let apply: ApplyMigrations = request(json!({"store": "shop"}));
    let plan = stores::migration::plan_apply(&world.ctx(), &world, &[file], &apply).await.unwrap();
    assert!(plan.destructive(), "a DELETE loses rows in any form");
    let outcome = world.execute(&plan).await.unwrap();
    assert_eq!(outcome.value["summary"]["type"], "schema and data", "{}", outcome.text);
    assert_eq!(world.count("SELECT count(*) FROM people WHERE team = 3").await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_changes_many_rows_in_batches() {
    let world = World::sqlite();
    world.seed().await;
    let files = files(&[(
        "0001_change.sql".into(),
        "UPDATE orders SET total = total + 1;\nDELETE FROM notes WHERE customer_id IS NULL;\n".into(),
    )]);
    let plan = plan(&world, &files, json!({"store": "shop", "safe": true})).await;
    let batched =
        plan.steps.iter().filter(|step| matches!(step.mode, contract::StepMode::Batched(_))).count();
    assert_eq!(batched, 2, "{:#?}", plan.steps);
    assert!(plan.destructive(), "an UPDATE of all rows loses what they held");
    let before = world.count("SELECT sum(total) FROM orders").await.unwrap();
    let outcome = world.execute(&plan).await.unwrap();
    assert_eq!(world.count("SELECT sum(total) FROM orders").await, Some(before + 20_000));
    assert_eq!(world.count("SELECT count(*) FROM notes").await, Some(2));
    assert!(outcome.value["steps"][2]["batches"].as_u64().unwrap() > 2, "{}", outcome.value);
}
