//! Cases of `Execute` and `Execution`.

use std::sync::Arc;
use std::time::Duration;

use contract::{
    Context, Error, ErrorKind, Execute, Execution, Permit, Plan, Query, Statement, StepMode, StepState, Store,
};
use serde_json::json;

use super::opened::{NoSecrets, Opened, Secrets, change, permit_for, step};

use StepMode::{Autocommit, Transaction};
use StepState::{Done, Pending, Started};

pub(super) async fn begin<'a>(
    opened: &Opened,
    role: &'a dyn Execute,
    plan: &Plan,
) -> Result<Box<dyn Execution + 'a>, Error> {
    let ctx = opened.ctx();
    role.begin(&ctx, &permit_for(&ctx, plan), plan, Arc::new(NoSecrets)).await
}

/// Begins, and waits for a lock whose holder is just being stopped.
pub(super) async fn begin_soon<'a>(
    opened: &Opened,
    role: &'a dyn Execute,
    plan: &Plan,
) -> Box<dyn Execution + 'a> {
    opened
        .soon(async {
            loop {
                match begin(opened, role, plan).await {
                    Ok(execution) => return execution,
                    Err(error) if error.kind() == ErrorKind::Conflict => {
                        // The interrupted thread or session needs a moment to let go.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
}

pub(super) async fn run(
    opened: &Opened,
    execution: &mut dyn Execution,
    plan: &Plan,
    index: usize,
) -> Result<u64, Error> {
    let ctx = opened.ctx();
    execution.run(&ctx, &permit_for(&ctx, plan), plan, index).await
}

pub(super) async fn progress(opened: &Opened, store: &dyn Store, plan: &Plan) -> Vec<StepState> {
    store.execute().expect("declared").progress(&opened.ctx(), plan).await.unwrap()
}

fn insert_two() -> Vec<contract::PlanStep> {
    vec![
        step("0001/1", Transaction, &["INSERT INTO victim VALUES (2, 'two')"]),
        step("0001/2", Transaction, &["INSERT INTO victim VALUES (3, 'three')"]),
    ]
}

async fn refuses(opened: &Opened, role: &dyn Execute, ctx: &Context, permit: &Permit, plan: &Plan) {
    let Err(error) = role.begin(ctx, permit, plan, Arc::new(NoSecrets)).await else {
        panic!("the permit does not cover this: {plan:?}")
    };
    opened.expect_kind(&error, &[ErrorKind::Forbidden]);
    // `begin` with the right permit, `run` with the wrong one.
    let mine = opened.ctx().with_clock(ctx.clock());
    let sound = change(opened, insert_two());
    let mut execution =
        role.begin(&mine, &permit_for(&mine, &sound), &sound, Arc::new(NoSecrets)).await.unwrap();
    let error = execution.run(ctx, permit, plan, 0).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::Forbidden]);
    execution.finish(&opened.ctx()).await.unwrap();
    assert_eq!(opened.victim().await, ["1:one"], "nothing has changed");
}

/// A permit for another plan, target or project changes nothing.
pub async fn execute_refuses_a_permit_for_something_else(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    opened.make_victim().await;
    let ctx = opened.ctx();
    let plan = change(opened, insert_two());

    let mut other = plan.clone();
    other.steps[1].statements[0].sql.push_str(" -- changed");
    refuses(opened, role, &ctx, &permit_for(&ctx, &other), &plan).await;

    let elsewhere =
        Permit::mint(&ctx, "schema.migrate", "store:elsewhere", plan.digest(), None, Duration::from_mins(10));
    refuses(opened, role, &ctx, &elsewhere, &plan).await;

    let foreign = Context::new("other-project", ctx.actor().clone());
    refuses(opened, role, &foreign, &permit_for(&ctx, &plan), &plan).await;
    refuses(opened, role, &ctx, &permit_for(&foreign, &plan), &plan).await;

    // A permit that covers a plan for another store does not open this one.
    let mut misdirected = plan.clone();
    misdirected.target = "store:elsewhere".into();
    refuses(opened, role, &ctx, &permit_for(&ctx, &misdirected), &misdirected).await;
}

/// A permit that has expired changes nothing.
pub async fn execute_refuses_an_expired_permit(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    opened.make_victim().await;
    let clock = Arc::new(contract::TestClock::at(opened.ctx().now()));
    let ctx = opened.ctx().with_clock(clock.clone());
    let plan = change(opened, insert_two());
    let permit =
        Permit::mint(&ctx, "schema.migrate", &plan.target, plan.digest(), None, Duration::from_mins(1));
    clock.advance_us(61_000_000);
    refuses(opened, role, &ctx, &permit, &plan).await;
}

/// `progress` of a store without the record says `Pending` and makes no table.
pub async fn execute_leaves_no_record_table_when_only_asked(opened: &Opened) {
    if opened.execute().is_none() {
        return;
    }
    let plan = change(opened, insert_two());
    assert_eq!(progress(opened, &*opened.store, &plan).await, [Pending, Pending]);
    let role = opened.store.execute().expect("declared");
    assert_eq!(role.records(&opened.ctx(), &["0001/1", "0001/2"]).await.unwrap(), 0);
    assert_eq!(opened.admin.steward_tables().await, Vec::<String>::new());
}

/// Run, recorded, and never again; the record is hidden from `inspect`.
pub async fn transaction_step_runs_once(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    opened.make_victim().await;
    let plan = change(opened, insert_two());
    let mut execution = begin(opened, role, &plan).await.unwrap();
    assert_eq!(execution.state(&opened.ctx(), &plan, 0).await.unwrap(), Pending);
    assert_eq!(run(opened, &mut *execution, &plan, 0).await.unwrap(), 1);
    assert_eq!(execution.state(&opened.ctx(), &plan, 0).await.unwrap(), Done);
    assert_eq!(progress(opened, &*opened.store, &plan).await, [Done, Pending]);
    assert_eq!(run(opened, &mut *execution, &plan, 0).await.unwrap(), 0, "done already");
    assert_eq!(run(opened, &mut *execution, &plan, 1).await.unwrap(), 1);
    execution.finish(&opened.ctx()).await.unwrap();
    assert_eq!(opened.victim().await, ["1:one", "2:two", "3:three"]);
    assert_eq!(progress(opened, &*opened.store, &plan).await, [Done, Done]);
    assert!(!opened.admin.steward_tables().await.is_empty(), "the store keeps the record");
    if let Some(relational) = opened.store.relational()
        && let Ok(schema) = relational.inspect(&opened.ctx()).await
    {
        assert_eq!(schema.tables.len(), 1, "Steward's own tables are hidden: {schema:?}");
    }
    let error = {
        let mut execution = begin(opened, role, &plan).await.unwrap();
        run(opened, &mut *execution, &plan, 9).await.unwrap_err()
    };
    opened.expect_kind(&error, &[ErrorKind::Invalid, ErrorKind::NotFound]);
}

/// A failing second statement takes the first and the record back.
pub async fn transaction_step_is_all_or_nothing(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    opened.make_victim().await;
    opened
        .admin
        .run("CREATE TABLE strict (id INTEGER PRIMARY KEY, name TEXT NOT NULL CHECK (name <> ''))")
        .await;
    for (statements, kind) in [
        (
            ["INSERT INTO victim VALUES (2, 'two')", "INSERT INTO victim VALUES (1, 'again')"],
            ErrorKind::AlreadyExists,
        ),
        (["INSERT INTO victim VALUES (2, 'two')", "INSERT INTO strict VALUES (1, NULL)"], ErrorKind::Invalid),
        (["INSERT INTO victim VALUES (2, 'two')", "INSERT INTO strict VALUES (1, '')"], ErrorKind::Invalid),
        (["CREATE TABLE fresh (id INTEGER)", "INSERT INTO nowhere VALUES (1)"], ErrorKind::NotFound),
        (
            ["ALTER TABLE victim ADD COLUMN extra TEXT", "CREATE TABLE victim (id INTEGER)"],
            ErrorKind::AlreadyExists,
        ),
        (["DELETE FROM victim", "not SQL at all"], ErrorKind::Invalid),
        (["DELETE FROM victim", "SELECT 1; SELECT 2"], ErrorKind::Invalid),
    ] {
        let plan = change(opened, vec![step("1", Transaction, &statements)]);
        let mut execution = begin(opened, role, &plan).await.unwrap();
        let error = run(opened, &mut *execution, &plan, 0).await.expect_err(statements[1]);
        opened.expect_kind(&error, &[kind]);
        assert_eq!(execution.state(&opened.ctx(), &plan, 0).await.unwrap(), Pending, "{statements:?}");
        execution.finish(&opened.ctx()).await.unwrap();
        assert_eq!(opened.victim().await, ["1:one"], "{statements:?}");
        assert_eq!(opened.rows("SELECT * FROM victim").await.columns, ["id", "name"], "{statements:?}");
    }
    let relational = opened.store.relational().expect("a store that executes can be read");
    let error = relational.query(&opened.ctx(), &Query::new("SELECT * FROM fresh")).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::NotFound]);
}

async fn slow_step_leaves_nothing(opened: &Opened, stop: impl AsyncFnOnce(&mut dyn Execution, &Plan)) {
    let Some(role) = opened.execute() else { return };
    opened.make_victim().await;
    let slow = ["INSERT INTO victim VALUES (2, 'two')", opened.sql.slow_write.as_str()];
    let plan = change(opened, vec![step("1", Transaction, &slow)]);
    let mut execution = begin(opened, role, &plan).await.unwrap();
    stop(&mut *execution, &plan).await;
    drop(execution);
    assert_eq!(opened.victim().await, ["1:one"]);
    assert_eq!(progress(opened, &*opened.store, &plan).await, [Pending]);
    begin_soon(opened, role, &plan).await.finish(&opened.ctx()).await.unwrap();
}

/// Canceled midway: the error says so, nothing remains, and the lock is free.
pub async fn transaction_step_canceled_midway_leaves_nothing(opened: &Opened) {
    slow_step_leaves_nothing(opened, async |execution, plan| {
        let permit = permit_for(&opened.ctx(), plan);
        let answer =
            opened.canceled_after(300, async |ctx| execution.run(&ctx, &permit, plan, 0).await).await;
        let error = answer.unwrap_err();
        opened.expect_kind(&error, &[ErrorKind::Canceled]);
    })
    .await;
}

/// Past the deadline: the same with `TimedOut`.
pub async fn transaction_step_past_its_deadline_leaves_nothing(opened: &Opened) {
    slow_step_leaves_nothing(opened, async |execution, plan| {
        let permit = permit_for(&opened.ctx(), plan);
        let ctx = opened.ctx().with_timeout(Duration::from_millis(300));
        let error = opened.soon(execution.run(&ctx, &permit, plan, 0)).await.unwrap_err();
        opened.expect_kind(&error, &[ErrorKind::TimedOut]);
    })
    .await;
}

/// A statement cannot end the transaction that the record belongs to.
pub async fn transaction_step_cannot_leave_its_transaction(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    opened.make_victim().await;
    for way_out in &opened.sql.leave_transaction {
        let statements =
            ["INSERT INTO victim VALUES (2, 'two')", way_out.as_str(), "INSERT INTO nowhere VALUES (1)"];
        let plan = change(opened, vec![step("1", Transaction, &statements)]);
        let mut execution = begin(opened, role, &plan).await.unwrap();
        let error = run(opened, &mut *execution, &plan, 0).await.expect_err(way_out);
        opened.expect_kind(&error, &[ErrorKind::Invalid, ErrorKind::Denied]);
        drop(execution);
        assert_eq!(opened.victim().await, ["1:one"], "{way_out}");
        assert_eq!(progress(opened, &*opened.store, &plan).await, [Pending], "{way_out}");
        begin_soon(opened, role, &plan).await.finish(&opened.ctx()).await.unwrap();
    }
}

/// A plan whose only step has taken effect but failed before its record said `done`.
async fn half_done(opened: &Opened, role: &dyn Execute, is_done: String, clean_up: &[&str]) -> Plan {
    opened.make_victim().await;
    // The second statement fails until someone makes the table.
    let mut half =
        step("1", Autocommit, &["CREATE INDEX victim_name ON victim (name)", "INSERT INTO later VALUES (1)"]);
    half.is_done = Some(Statement::new(is_done));
    half.clean_up = clean_up.iter().map(|sql| Statement::new(*sql)).collect();
    let plan = change(opened, vec![half]);
    let mut execution = begin(opened, role, &plan).await.unwrap();
    let error = run(opened, &mut *execution, &plan, 0).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::NotFound]);
    assert_eq!(execution.state(&opened.ctx(), &plan, 0).await.unwrap(), Started);
    drop(execution);
    assert_eq!(progress(opened, &*opened.store, &plan).await, [Started]);
    opened.admin.run("CREATE TABLE later (id INTEGER)").await;
    plan
}

/// Found `Started`, and the store says that the effect is there: recorded as done, not run again.
pub async fn autocommit_step_found_started_is_asked_first(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    let plan =
        half_done(opened, role, (opened.sql.index_exists)("victim_name"), &["DROP TABLE victim"]).await;
    let mut execution = begin_soon(opened, role, &plan).await;
    assert_eq!(run(opened, &mut *execution, &plan, 0).await.unwrap(), 0);
    assert_eq!(execution.state(&opened.ctx(), &plan, 0).await.unwrap(), Done);
    execution.finish(&opened.ctx()).await.unwrap();
    assert!(opened.rows("SELECT * FROM later").await.rows.is_empty(), "not run again");
    assert_eq!(opened.victim().await, ["1:one"], "not cleaned up");
}

/// Found `Started` without effect: cleaned up and run again.
pub async fn autocommit_step_found_started_is_cleaned_up_and_run_again(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    let never = (opened.sql.index_exists)("no_such_index");
    let plan = half_done(opened, role, never, &["DROP INDEX IF EXISTS victim_name"]).await;
    let mut execution = begin_soon(opened, role, &plan).await;
    assert_eq!(run(opened, &mut *execution, &plan, 0).await.unwrap(), 1);
    assert_eq!(run(opened, &mut *execution, &plan, 0).await.unwrap(), 0, "done already");
    execution.finish(&opened.ctx()).await.unwrap();
    assert_eq!(progress(opened, &*opened.store, &plan).await, [Done]);
    assert_eq!(opened.rows("SELECT * FROM later").await.rows, [[json!(1)]], "run to its end, once");
    let exists = opened.rows(&(opened.sql.index_exists)("victim_name")).await;
    assert!([json!(true), json!(1)].contains(&exists.rows[0][0]), "{exists:?}");
}

/// One execution per store, also from another process's handle; the second is told, not made to wait.
pub async fn second_execution_conflicts(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    opened.make_victim().await;
    let plan = change(opened, insert_two());
    let first = begin(opened, role, &plan).await.unwrap();
    let other = opened.admin.reopen().await;
    for second in [role, other.execute().unwrap()] {
        let Err(error) = opened.soon(begin(opened, second, &plan)).await else {
            panic!("two executions at once")
        };
        opened.expect_kind(&error, &[ErrorKind::Conflict]);
    }
    first.finish(&opened.ctx()).await.unwrap();
    let mut second = begin(opened, other.execute().unwrap(), &plan).await.unwrap();
    assert_eq!(run(opened, &mut *second, &plan, 0).await.unwrap(), 1);
    second.finish(&opened.ctx()).await.unwrap();
}

/// Eight plans at once through two handles: each is run once, none is lost.
pub async fn racing_executions_run_one_after_the_other(opened: &Opened) {
    if opened.execute().is_none() {
        return;
    }
    opened.make_victim().await;
    let other = opened.admin.reopen().await;
    let mut racers = Vec::new();
    for i in 0..8 {
        let sql = format!("UPDATE victim SET name = name || '{i}'");
        let plan = change(opened, vec![step("1", Transaction, &[&sql])]);
        let store = if i % 2 == 0 { Arc::clone(&opened.store) } else { Arc::clone(&other) };
        let ctx = opened.ctx();
        racers.push(tokio::spawn(async move {
            let permit = permit_for(&ctx, &plan);
            loop {
                match store
                    .execute()
                    .expect("declared")
                    .begin(&ctx, &permit, &plan, Arc::new(NoSecrets))
                    .await
                {
                    Ok(mut execution) => {
                        let rows = execution.run(&ctx, &permit, &plan, 0).await.unwrap();
                        execution.finish(&ctx).await.unwrap();
                        return rows;
                    }
                    Err(error) if error.kind() == ErrorKind::Conflict => {
                        // Someone else has the lock, for as long as an update takes.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }));
    }
    for racer in racers {
        assert_eq!(opened.soon(racer).await.unwrap(), 1);
    }
    let victim = opened.victim().await;
    let mut digits: Vec<char> = victim[0].trim_start_matches("1:one").chars().collect();
    digits.sort_unstable();
    assert_eq!(digits.iter().collect::<String>(), "01234567");
}

/// Dropping is enough; nobody has to call `finish`.
pub async fn dropped_execution_releases_the_lock(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    opened.make_victim().await;
    let plan = change(opened, insert_two());
    for index in 0..2 {
        let mut execution = begin_soon(opened, role, &plan).await;
        assert_eq!(run(opened, &mut *execution, &plan, index).await.unwrap(), 1);
        drop(execution);
    }
    assert_eq!(opened.victim().await, ["1:one", "2:two", "3:three"]);
}

/// Dropping the future of a running step and then the execution rolls back and releases the lock.
pub async fn execution_dropped_midway_leaves_nothing(opened: &Opened) {
    slow_step_leaves_nothing(opened, async |execution, plan| {
        let ctx = opened.ctx();
        let permit = permit_for(&ctx, plan);
        // Dropped at its await, as a task that is aborted.
        let dropped =
            tokio::time::timeout(Duration::from_millis(300), execution.run(&ctx, &permit, plan, 0)).await;
        assert!(dropped.is_err(), "the step is slow: {dropped:?}");
    })
    .await;
}

/// The change lock keeps out other executions, not the application.
pub async fn execution_lets_other_writers_write(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    opened.make_victim().await;
    let plan = change(opened, insert_two());
    let mut execution = begin(opened, role, &plan).await.unwrap();
    opened.soon(opened.admin.run("INSERT INTO victim VALUES (10, 'ten')")).await;
    assert_eq!(run(opened, &mut *execution, &plan, 0).await.unwrap(), 1);
    opened.soon(opened.admin.run("INSERT INTO victim VALUES (11, 'eleven')")).await;
    execution.finish(&opened.ctx()).await.unwrap();
    assert_eq!(opened.victim().await, ["1:one", "2:two", "10:ten", "11:eleven"]);
}

/// Another process takes over after a crash: what is done stays done, the rest is run.
pub async fn resumed_execution_continues_where_it_stopped(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    opened.make_victim().await;
    let plan = change(opened, insert_two());
    let mut execution = begin(opened, role, &plan).await.unwrap();
    run(opened, &mut *execution, &plan, 0).await.unwrap();
    drop(execution);
    let other = opened.admin.reopen().await;
    assert_eq!(progress(opened, &*other, &plan).await, [Done, Pending]);
    let mut execution = begin_soon(opened, other.execute().unwrap(), &plan).await;
    let mut rows = Vec::new();
    for index in 0..2 {
        rows.push(run(opened, &mut *execution, &plan, index).await.unwrap());
    }
    execution.finish(&opened.ctx()).await.unwrap();
    assert_eq!(rows, [0, 1]);
    assert_eq!(opened.victim().await, ["1:one", "2:two", "3:three"]);
}

/// Values are bound, secrets are quoted at the last moment, and neither shows in an error.
pub async fn statement_takes_its_values_and_secrets(opened: &Opened) {
    const SECRET: &str = "it's a {{secret}} 'x'; --";
    let Some(role) = opened.execute() else { return };
    opened.make_victim().await;
    let (first, second) = ((opened.sql.placeholder)(1), (opened.sql.placeholder)(2));
    let mut good = step("1", Transaction, &[]);
    good.statements = vec![
        Statement::with_parameters(
            format!("INSERT INTO victim VALUES ({first}, {second})"),
            vec![json!(2), json!("x'; DROP TABLE victim --")],
        ),
        Statement {
            secrets: [("word".to_owned(), "shop/word".to_owned())].into(),
            ..Statement::new("INSERT INTO victim VALUES (3, {{word}})")
        },
    ];
    let mut bad = step("2", Transaction, &[]);
    bad.statements = vec![Statement {
        secrets: [("word".to_owned(), "shop/word".to_owned())].into(),
        ..Statement::new("INSERT INTO victim VALUES (4, {{word}}) this is not SQL")
    }];
    let mut absent = step("3", Transaction, &[]);
    absent.statements = vec![Statement {
        secrets: [("word".to_owned(), "shop/no-such-secret".to_owned())].into(),
        ..Statement::new("INSERT INTO victim VALUES (5, {{word}})")
    }];
    let plan = change(opened, vec![good, bad, absent]);
    assert!(!format!("{plan:?}").contains(SECRET));
    let ctx = opened.ctx();
    let secrets = Arc::new(Secrets::new(&[("shop/word", SECRET)]));
    let mut execution = role.begin(&ctx, &permit_for(&ctx, &plan), &plan, secrets).await.unwrap();
    assert_eq!(run(opened, &mut *execution, &plan, 0).await.unwrap(), 2);
    let error = run(opened, &mut *execution, &plan, 1).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::Invalid]);
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("it's a") && !text.contains("it''s a"), "an error shows the secret: {text}");
    }
    let error = run(opened, &mut *execution, &plan, 2).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::NotFound]);
    execution.finish(&ctx).await.unwrap();
    assert_eq!(
        opened.victim().await,
        ["1:one".to_owned(), "2:x'; DROP TABLE victim --".to_owned(), format!("3:{SECRET}")]
    );
}

/// The record belongs to the plan's digest: another plan with the same step ids is another matter.
pub async fn plans_with_equal_steps_have_records_apart(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    opened.make_victim().await;
    let one = change(opened, vec![step("1", Transaction, &["UPDATE victim SET name = name || '!'"])]);
    let mut two = one.clone();
    two.pre_state = "another".into();
    assert_ne!(one.digest(), two.digest());
    for plan in [&one, &two, &one] {
        let mut execution = begin_soon(opened, role, plan).await;
        run(opened, &mut *execution, plan, 0).await.unwrap();
        execution.finish(&opened.ctx()).await.unwrap();
    }
    assert_eq!(opened.victim().await, ["1:one!!"]);
    for (ids, records) in [(&["1"][..], 2), (&["1", "2", "1"], 2), (&["2"], 0), (&[], 0), (&["it's"], 0)] {
        assert_eq!(role.records(&opened.ctx(), ids).await.unwrap(), records, "{ids:?}");
    }
}
