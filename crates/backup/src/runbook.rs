//! The recovery runbook: what to do when a store is lost, with Steward and without, and how long it took when it was tried.

use std::fmt::Write as _;

use contract::quantity::{count, size, span};
use contract::{BackupMethod, Context, Effect, Error, Layout, Outcome, Request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Surroundings;
use crate::catalog::{self, Recorded, age_s};
use crate::drilled::{self, Drilled};
use crate::manifest::Manifest;
use crate::places::Places;
use crate::run::point;

/// Steward's own state as a store.
const OWN_STATE: &str = "steward";
/// Drills whose times are looked at.
const DRILLS: u32 = 100;
/// Of which so many are listed.
const DRILLS_SHOWN: usize = 5;

/// Writes the recovery runbook: commands with Steward and without, and the times of the last restores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportRunbook {
    /// Only this store. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
}

impl Request for ExportRunbook {
    const NAME: &'static str = "backup.export-runbook";
    const SUMMARY: &'static str =
        "Write the recovery runbook in Markdown: commands with Steward and without, and measured times";
    const EXAMPLE: &'static str = "steward backup export-runbook";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "backup.read";
    const POSITIONAL: &'static [&'static str] = &["store"];
}

/// Answers `backup.export-runbook`. `value`: `markdown`, `stores[] {store, backup, restore_ms}`.
///
/// # Errors
///
/// As the ledger's; a repository that does not answer is said in the text.
pub async fn export_runbook(
    ctx: &Context,
    around: &dyn Surroundings,
    request: &ExportRunbook,
) -> Result<Outcome, Error> {
    let now = ctx.now();
    let mut text = format!(
        "# Recovery runbook of {}\n\nWritten {}. Print it, and keep it with the recovery key: it is of use when this machine is gone.\n",
        ctx.project(),
        now.strftime("%Y-%m-%d %H:%M UTC"),
    );
    if request.store.is_none() {
        whole_machine(ctx, around, &mut text).await?;
    }
    let mut values = Vec::new();
    for (store, _) in around.stores().list(ctx) {
        if request.store.as_ref().is_some_and(|only| *only != store) {
            continue;
        }
        write!(text, "\n## {store}\n\n").expect("writing to a string does not fail");
        let Some(backup) = catalog::newest_proven(ctx, around.ledger(), &store).await? else {
            writeln!(
                text,
                "**There is no backup that was restored and compared.** Make one: `steward backup run {store}`."
            )
            .expect("writing to a string does not fail");
            values.push(json!({ "store": store, "backup": null, "restore_ms": null }));
            continue;
        };
        // From a copy where the first place is gone: that is when it is needed.
        let mut places = Places::of(&backup, None)?;
        match places.next(ctx, around, None).await {
            Ok(place) if store == OWN_STATE => own_state(&mut text, now, &place.backup, &place.manifest),
            Ok(place) => {
                one_store(&mut text, now, &place.backup, &place.manifest, &place.repository.address());
            }
            Err(error) => {
                writeln!(
                    text,
                    "The newest backup that counts is {}; no place of it answers: {error}",
                    backup.id
                )
                .expect("writing to a string does not fail");
            }
        }
        drilled(&mut text, &drilled::drills(ctx, around.ledger(), Some(&store), DRILLS).await?);
        values.push(json!({ "store": store, "backup": backup.id, "restore_ms": backup.restore_ms }));
    }
    Ok(Outcome::new(json!({ "markdown": text, "stores": values }), text))
}

fn one_store(text: &mut String, now: jiff::Timestamp, backup: &Recorded, manifest: &Manifest, address: &str) {
    let dumped = &manifest.dumped;
    let is_of_files = dumped.method == BackupMethod::Physical && dumped.tables.is_empty();
    let folder = match dumped.layout {
        Layout::Stream => "stream",
        Layout::Pages => "pages",
    };
    #[allow(clippy::cast_precision_loss)] // Tenths of a second are shown.
    let took =
        backup.restore_ms.map_or_else(|| "not known".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1e3));
    let end = if manifest.parts.iter().any(|part| part.path == "restore.sh") {
        format!(
            "cd restored/{} && sh restore.sh {}",
            backup.store,
            if is_of_files { "NEW_DATA_DIRECTORY" } else { "NEW_DATABASE" }
        )
    } else {
        let first = manifest.parts.first().map_or("", |part| part.path.as_str());
        format!("cp restored/{}/{first} {}", backup.store, shell(&dumped.address))
    };
    let compared = if is_of_files { "" } else { ", with every table compared" };
    // A whole server is put in place by hand; the answer of its restore has the commands.
    let in_place = if is_of_files {
        String::new()
    } else {
        format!(
            "In its place, with the PM's approval:\n\n```console\n$ steward backup restore {} --to in_place\n```\n\n",
            backup.id
        )
    };
    write!(
        text,
        "| | |\n| --- | --- |\n\
         | was | {} {} at `{}` |\n\
         | newest backup that counts | `{}`, as of {}, {} old |\n\
         | holds | {}, {} |\n\
         | last restore took | {took}{compared} |\n\n\
         With Steward, into a copy of its own; nothing else is touched:\n\n\
         ```console\n$ steward backup restore {}\n```\n\n\
         {in_place}Without Steward, on a machine with [restic](https://restic.net); it asks for the recovery key:\n\n\
         ```console\n$ export RESTIC_REPOSITORY={}\n$ restic restore {} --target restored\n$ {end}\n```\n",
        dumped.kind,
        dumped.version,
        dumped.address,
        backup.id,
        point(backup).strftime("%Y-%m-%d %H:%M:%SZ"),
        span(age_s(now, point(backup))),
        crate::run::holds(manifest),
        size(manifest.parts.iter().map(|part| part.bytes).sum()),
        backup.id,
        shell(&format!("{}/{folder}", address.trim_end_matches('/'))),
        backup.snapshot,
    )
    .expect("writing to a string does not fail");
    if address.starts_with("s3:") {
        text.push_str(
            "\nBefore them set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` to credentials that may read the bucket and write \
             locks in it.\n",
        );
    }
    for copied in backup.copies.iter().filter(|copied| copied.problem.is_none()) {
        writeln!(
            text,
            "\nA copy is in {}, there `{}`: `steward backup restore {} --from {}`",
            copied.repository, copied.snapshot, backup.id, copied.repository
        )
        .expect("writing to a string does not fail");
    }
    if is_of_files {
        write!(
            text,
            "\nWith the log behind it, to the last moment that is kept; with restic alone the pieces under `log/` are opened as the guide\n\
             `point-in-time-recovery` says:\n\n\
             ```console\n$ steward backup restore {} --until end\n```\n",
            backup.store
        )
        .expect("writing to a string does not fail");
    }
    for need in &dumped.needs {
        writeln!(text, "\nThe target needs: {need}").expect("writing to a string does not fail");
    }
    for left_out in &dumped.left_out {
        writeln!(text, "\nNot in the backup: {left_out}").expect("writing to a string does not fail");
    }
}

/// What to do when the machine is gone with Steward on it.
async fn whole_machine(ctx: &Context, around: &dyn Surroundings, text: &mut String) -> Result<(), Error> {
    text.push_str("\n## The machine is gone\n\n");
    let Some(own) = catalog::newest_proven(ctx, around.ledger(), OWN_STATE).await? else {
        text.push_str(
            "**Steward's own state has no backup that counts**, so it is set up anew; the data comes back without Steward, as \
             each store's section says. Make one: `steward backup run steward`.\n",
        );
        return Ok(());
    };
    let address = match around.repository(ctx, &own.repository).await {
        Ok(repository) => shell(&repository.address()),
        Err(_) => "WHERE_THE_REPOSITORY_IS".to_owned(),
    };
    write!(
        text,
        "On an empty machine, with the `steward` program, a copy of the repository and the recovery key, which it asks for:\n\n\
         ```console\n$ steward recover --repository {address} --dir {project}\n$ cd {project}\n$ steward backup list\n```\n\n\
         Then restore each store as below.\n",
        project = ctx.project(),
    )
    .expect("writing to a string does not fail");
    Ok(())
}

/// Steward's own state does not come back by copying a file.
fn own_state(text: &mut String, now: jiff::Timestamp, backup: &Recorded, manifest: &Manifest) {
    writeln!(
        text,
        "Steward's own state, secrets and settings. Newest backup that counts: `{}`, as of {}, {} old, {} in {}. It comes back as \
         the first section says.",
        backup.id,
        point(backup).strftime("%Y-%m-%d %H:%M:%SZ"),
        span(age_s(now, point(backup))),
        count(manifest.rows(), "row"),
        size(manifest.parts.iter().map(|part| part.bytes).sum()),
    )
    .expect("writing to a string does not fail");
}

/// What was measured when the loss was played.
fn drilled(text: &mut String, drills: &[Drilled]) {
    if drills.is_empty() {
        return;
    }
    text.push_str("\nWhen its loss was played:\n\n| when | what was lost | came to |\n| --- | --- | --- |\n");
    for drill in drills.iter().take(DRILLS_SHOWN) {
        let said = drill.said();
        let (_, came) = said.split_once(": ").unwrap_or(("", &said));
        writeln!(
            text,
            "| {} | {} | {came} |",
            drill.begun_at.strftime("%Y-%m-%d %H:%MZ"),
            drill.lose.as_str()
        )
        .expect("writing to a string does not fail");
    }
    if let (Some(median), Some(p95)) = drilled::measured(drills) {
        writeln!(
            text,
            "\nHalf of {} took at most {}, 95 of 100 at most {}.",
            count(drills.len() as u64, "drill"),
            drilled::seconds(median),
            drilled::seconds(p95)
        )
        .expect("writing to a string does not fail");
    }
}

/// A word of a shell, whatever is in it.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
