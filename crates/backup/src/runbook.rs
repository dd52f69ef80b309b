//! The recovery runbook: what to do when a store is lost, with Steward and without, and how long it took when it was tried.

use std::fmt::Write as _;

use contract::quantity::{count, size, span};
use contract::{Context, Effect, Error, Layout, Outcome, Request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Surroundings;
use crate::catalog::{self, Recorded, age_s};
use crate::manifest::Manifest;
use crate::run::{point, read_manifest};

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
        let repository = around.repository(ctx, &backup.repository).await?;
        match read_manifest(ctx, &repository, &backup).await {
            Ok(manifest) => one_store(&mut text, now, &backup, &manifest, &repository.address()),
            Err(error) => {
                writeln!(
                    text,
                    "The newest backup that counts is {}; its repository does not answer: {error}",
                    backup.id
                )
                .expect("writing to a string does not fail");
            }
        }
        values.push(json!({ "store": store, "backup": backup.id, "restore_ms": backup.restore_ms }));
    }
    Ok(Outcome::new(json!({ "markdown": text, "stores": values }), text))
}

fn one_store(text: &mut String, now: jiff::Timestamp, backup: &Recorded, manifest: &Manifest, address: &str) {
    let dumped = &manifest.dumped;
    let folder = match dumped.layout {
        Layout::Stream => "stream",
        Layout::Pages => "pages",
    };
    #[allow(clippy::cast_precision_loss)] // Tenths of a second are shown.
    let took =
        backup.restore_ms.map_or_else(|| "not known".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1e3));
    let end = if manifest.parts.iter().any(|part| part.path == "restore.sh") {
        format!("cd restored/{} && sh restore.sh NEW_DATABASE", backup.store)
    } else {
        let first = manifest.parts.first().map_or("", |part| part.path.as_str());
        format!("cp restored/{}/{first} {}", backup.store, shell(&dumped.address))
    };
    write!(
        text,
        "| | |\n| --- | --- |\n\
         | was | {} {} at `{}` |\n\
         | newest backup that counts | `{}`, as of {}, {} old |\n\
         | holds | {} in {}, {} |\n\
         | last restore took | {took}, with every table compared |\n\n\
         With Steward, into a copy of its own; nothing else is touched:\n\n\
         ```console\n$ steward backup restore {}\n```\n\n\
         In its place, with the PM's approval:\n\n\
         ```console\n$ steward backup restore {} --to in_place\n```\n\n\
         Without Steward, on a machine with [restic](https://restic.net); it asks for the recovery key:\n\n\
         ```console\n$ export RESTIC_REPOSITORY={}\n$ restic restore {} --target restored\n$ {end}\n```\n",
        dumped.kind,
        dumped.version,
        dumped.address,
        backup.id,
        point(backup).strftime("%Y-%m-%d %H:%M:%SZ"),
        span(age_s(now, point(backup))),
        count(manifest.rows(), "row"),
        count(dumped.tables.len() as u64, "table"),
        size(manifest.parts.iter().map(|part| part.bytes).sum()),
        backup.id,
        backup.id,
        shell(&format!("{}/{folder}", address.trim_end_matches('/'))),
        backup.snapshot,
    )
    .expect("writing to a string does not fail");
    for need in &dumped.needs {
        writeln!(text, "\nThe target needs: {need}").expect("writing to a string does not fail");
    }
    for left_out in &dumped.left_out {
        writeln!(text, "\nNot in the backup: {left_out}").expect("writing to a string does not fail");
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
