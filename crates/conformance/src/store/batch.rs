//! Cases of batched steps.

use std::sync::Arc;

use contract::{
    Batch, Batches, Error, ErrorKind, Execution, Permit, Plan, PlanStep, Statement, StepMode, StepState,
};

use super::execute::{begin, begin_soon, progress, run};
use super::opened::{NoSecrets, Opened, change, permit_for, step};

use StepState::{Done, Pending, Started};

/// Rows of the table `many (id, name, n)`: even ids, so that rows can be put between them.
const ROWS: u64 = 25;

async fn make_many(opened: &Opened) {
    let rows: Vec<String> = (1..=ROWS).map(|i| format!("({}, 'name {}', 0)", i * 2, i % 3)).collect();
    opened
        .admin
        .run(&format!(
            "CREATE TABLE many (id INTEGER PRIMARY KEY, name TEXT NOT NULL, n INTEGER NOT NULL CHECK (n < 2)); \
             CREATE TABLE ended (times INTEGER); INSERT INTO many VALUES {};",
            rows.join(", ")
        ))
        .await;
}

/// A step that counts each row up once and says once that it has ended.
fn counting(key: &[&str]) -> PlanStep {
    let mut batches = Batches::new("many", key.iter().map(ToString::to_string).collect());
    batches.finish = vec![Statement::new("INSERT INTO ended VALUES (1)")];
    let mode = StepMode::Batched(Box::new(batches));
    step("0001/1", mode, &["UPDATE many SET n = n + 1 WHERE id > 0 AND {{batch}}"])
}

fn named(step: PlanStep, name: &str) -> PlanStep {
    let StepMode::Batched(mut batches) = step.mode else { unreachable!("made in batches") };
    batches.resume = Some(name.into());
    PlanStep { mode: StepMode::Batched(batches), ..step }
}

async fn batch(
    opened: &Opened,
    execution: &mut dyn Execution,
    plan: &Plan,
    rows_max: u64,
) -> Result<Batch, Error> {
    let ctx = opened.ctx();
    execution.run_batch(&ctx, &permit_for(&ctx, plan), plan, 0, rows_max).await
}

/// Runs all batches that are left; gives rows affected by each.
async fn to_the_end(opened: &Opened, execution: &mut dyn Execution, plan: &Plan, rows_max: u64) -> Vec<u64> {
    let mut affected = Vec::new();
    loop {
        let batch = batch(opened, execution, plan, rows_max).await.unwrap();
        affected.push(batch.rows_affected);
        if batch.done {
            return affected;
        }
        assert!(affected.len() < 100, "the step does not end: {affected:?}");
    }
}

/// How often each row was counted, as `n:rows`; and how often the step ended.
async fn counted(opened: &Opened) -> (Vec<String>, usize) {
    let rows = opened.rows("SELECT n, count(*) FROM many GROUP BY n ORDER BY n").await;
    let counted = rows.rows.iter().map(|row| format!("{}:{}", row[0], row[1])).collect();
    (counted, opened.rows("SELECT * FROM ended").await.rows.len())
}

async fn reaches_every_row_once(opened: &Opened, key: &[&str]) {
    let Some(role) = opened.execute() else { return };
    make_many(opened).await;
    let plan = change(opened, vec![counting(key)]);
    let mut execution = begin(opened, role, &plan).await.unwrap();
    let first = batch(opened, &mut *execution, &plan, 10).await.unwrap();
    assert_eq!((first.done, first.rows_affected, first.sessions_waiting), (false, 10, 0));
    assert_eq!((first.progress.batches, first.progress.rows_seen), (1, 10));
    assert_eq!(execution.state(&opened.ctx(), &plan, 0).await.unwrap(), Started);
    let begun = role.batches_begun(&opened.ctx()).await.unwrap();
    assert_eq!((begun.len(), begun[0].step.as_str(), begun[0].rows_affected), (1, "0001/1", 10));
    assert_eq!((begun[0].plan.clone(), begun[0].rows_seen), (plan.digest().0, 10));
    // Behind the last row that was there: not the step's business.
    opened.admin.run("INSERT INTO many VALUES (1001, 'zzz', 0), (1002, 'zzz', 0);").await;
    assert_eq!(to_the_end(opened, &mut *execution, &plan, 10).await.iter().sum::<u64>(), ROWS - 10);
    let after = batch(opened, &mut *execution, &plan, 10).await.unwrap();
    assert_eq!(
        (after.done, after.rows_affected, after.progress.rows_affected),
        (true, 0, ROWS),
        "done already"
    );
    assert_eq!(execution.state(&opened.ctx(), &plan, 0).await.unwrap(), Done);
    execution.finish(&opened.ctx()).await.unwrap();
    assert_eq!(counted(opened).await, (vec!["0:2".to_owned(), format!("1:{ROWS}")], 1));
    assert_eq!(role.batches_begun(&opened.ctx()).await.unwrap(), []);
}

/// Every row that was there at the start is reached, once, and the end is recorded with the last batch.
pub async fn batched_step_reaches_every_row_once(opened: &Opened) {
    reaches_every_row_once(opened, &["id"]).await;
}

/// The same by a key of a text and a number, whose texts sort otherwise than they do.
pub async fn batched_step_of_two_columns_reaches_every_row_once(opened: &Opened) {
    reaches_every_row_once(opened, &["name", "id"]).await;
}

/// Nothing to do is done with the first call.
pub async fn batched_step_of_an_empty_table_is_done_at_once(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    make_many(opened).await;
    opened.admin.run("DELETE FROM many;").await;
    let plan = change(opened, vec![counting(&["id"])]);
    let mut execution = begin(opened, role, &plan).await.unwrap();
    let only = batch(opened, &mut *execution, &plan, 10).await.unwrap();
    assert_eq!((only.done, only.rows_affected, only.progress.batches), (true, 0, 0));
    execution.finish(&opened.ctx()).await.unwrap();
    assert_eq!(progress(opened, &*opened.store, &plan).await, [Done]);
    assert_eq!(counted(opened).await, (Vec::new(), 1));
}

/// Another process goes on behind the last batch that was committed.
pub async fn batched_step_cut_short_goes_on_where_it_stopped(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    make_many(opened).await;
    let plan = change(opened, vec![counting(&["id"])]);
    let mut execution = begin(opened, role, &plan).await.unwrap();
    batch(opened, &mut *execution, &plan, 7).await.unwrap();
    drop(execution);
    let other = opened.admin.reopen().await;
    assert_eq!(progress(opened, &*other, &plan).await, [Started]);
    let mut execution = begin_soon(opened, other.execute().unwrap(), &plan).await;
    assert_eq!(to_the_end(opened, &mut *execution, &plan, 9).await, [9, 9, 0]);
    execution.finish(&opened.ctx()).await.unwrap();
    assert_eq!(counted(opened).await, (vec![format!("1:{ROWS}")], 1));
}

/// A new plan finds how far an unfinished step of the same name has come; one without the name begins at the beginning.
pub async fn batched_step_is_taken_over_by_its_name(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    make_many(opened).await;
    let one = change(opened, vec![named(counting(&["id"]), "count many")]);
    let mut two = one.clone();
    two.pre_state = "another".into();
    let mut execution = begin(opened, role, &one).await.unwrap();
    batch(opened, &mut *execution, &one, 10).await.unwrap();
    drop(execution);
    let mut execution = begin_soon(opened, role, &two).await;
    assert_eq!(to_the_end(opened, &mut *execution, &two, 10).await, [10, 5]);
    execution.finish(&opened.ctx()).await.unwrap();
    assert_eq!(counted(opened).await, (vec![format!("1:{ROWS}")], 1));
    assert_eq!(progress(opened, &*opened.store, &two).await, [Done]);
    assert_eq!(progress(opened, &*opened.store, &one).await, [Pending], "it was taken over");

    // What has ended is not gone on with: the same name begins anew, as after the change was taken back.
    opened.admin.run("UPDATE many SET n = 0;").await;
    let mut three = one.clone();
    three.pre_state = "a third".into();
    let mut execution = begin_soon(opened, role, &three).await;
    assert_eq!(to_the_end(opened, &mut *execution, &three, 100).await, [ROWS]);
    execution.finish(&opened.ctx()).await.unwrap();

    opened.admin.run("UPDATE many SET n = 0;").await;
    let (four, mut five) = (change(opened, vec![counting(&["id"])]), change(opened, vec![counting(&["id"])]));
    five.pre_state = "a fifth".into();
    let mut execution = begin_soon(opened, role, &four).await;
    batch(opened, &mut *execution, &four, 10).await.unwrap();
    drop(execution);
    opened.admin.run("UPDATE many SET n = 0;").await;
    let mut execution = begin_soon(opened, role, &five).await;
    assert_eq!(batch(opened, &mut *execution, &five, 5).await.unwrap().progress.rows_seen, 5);
}

/// A batch that cannot be done takes itself back with its record, and nothing else.
pub async fn batch_that_fails_leaves_the_ones_before(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    make_many(opened).await;
    // The 15th row refuses to be counted.
    opened.admin.run("UPDATE many SET n = 1 WHERE id = 30;").await;
    let plan = change(opened, vec![counting(&["id"])]);
    let mut execution = begin(opened, role, &plan).await.unwrap();
    batch(opened, &mut *execution, &plan, 10).await.unwrap();
    let error = batch(opened, &mut *execution, &plan, 10).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::Invalid]);
    assert_eq!(counted(opened).await, (vec!["0:14".into(), "1:11".into()], 0));
    assert_eq!(execution.state(&opened.ctx(), &plan, 0).await.unwrap(), Started);
    // Once the cause is gone, the same execution goes on.
    opened.admin.run("UPDATE many SET n = 0 WHERE id = 30;").await;
    assert_eq!(to_the_end(opened, &mut *execution, &plan, 10).await, [10, 5]);
    execution.finish(&opened.ctx()).await.unwrap();
    assert_eq!(counted(opened).await, (vec![format!("1:{ROWS}")], 1));
}

/// Canceled within a batch: the error says so, the batch is not there, the ones before are.
pub async fn batch_canceled_midway_leaves_the_ones_before(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    make_many(opened).await;
    opened.make_victim().await;
    let mut slow = counting(&["id"]);
    // Only the second batch is slow.
    slow.statements.push(Statement::new(format!(
        "{} WHERE EXISTS (SELECT 1 FROM many WHERE id = 22 AND n = 1)",
        opened.sql.slow_write
    )));
    let plan = change(opened, vec![slow]);
    let mut execution = begin(opened, role, &plan).await.unwrap();
    batch(opened, &mut *execution, &plan, 10).await.unwrap();
    let permit = permit_for(&opened.ctx(), &plan);
    let answer =
        opened.canceled_after(300, async |ctx| execution.run_batch(&ctx, &permit, &plan, 0, 10).await).await;
    opened.expect_kind(&answer.unwrap_err(), &[ErrorKind::Canceled]);
    drop(execution);
    assert_eq!(counted(opened).await, (vec!["0:15".into(), "1:10".into()], 0));
    assert_eq!(progress(opened, &*opened.store, &plan).await, [Started]);
    begin_soon(opened, role, &plan).await.finish(&opened.ctx()).await.unwrap();
}

/// A batched step is not run whole, another step not in batches, and neither without its permit.
pub async fn batched_step_is_run_only_in_batches(opened: &Opened) {
    let Some(role) = opened.execute() else { return };
    make_many(opened).await;
    let plan = change(opened, vec![counting(&["id"])]);
    let whole = change(opened, vec![step("1", StepMode::Transaction, &["UPDATE many SET n = n + 1"])]);
    let ctx = opened.ctx();
    let mut execution = begin(opened, role, &plan).await.unwrap();
    let error = run(opened, &mut *execution, &plan, 0).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::Invalid]);
    let elsewhere = Permit::mint(
        &ctx,
        "schema.migrate",
        "store:elsewhere",
        plan.digest(),
        None,
        std::time::Duration::from_mins(10),
    );
    for (permit, plan) in
        [(&elsewhere, &plan), (&permit_for(&ctx, &whole), &plan), (&permit_for(&ctx, &whole), &whole)]
    {
        let error = execution.run_batch(&ctx, permit, plan, 0, 10).await.unwrap_err();
        opened.expect_kind(&error, &[ErrorKind::Forbidden]);
    }
    execution.finish(&ctx).await.unwrap();
    let mut execution =
        role.begin(&ctx, &permit_for(&ctx, &whole), &whole, Arc::new(NoSecrets)).await.unwrap();
    let error = batch(opened, &mut *execution, &whole, 10).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::Invalid]);
    execution.finish(&ctx).await.unwrap();
    assert_eq!(counted(opened).await, (vec![format!("0:{ROWS}")], 0));
}
