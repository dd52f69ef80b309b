//! The project's prices and what AI calls cost: files are read here, the gateway reckons.

use contract::{Context, Error, ErrorKind, Outcome};
use gateway::price::PriceTable;
use gateway::{advise, job_view, reconcile, report, settings};
use ledger::Ledger;

use crate::ai::prices;
use crate::files;
use crate::project::Project;

fn over_built_in(project: &Project, path: &str) -> Result<PriceTable, Error> {
    PriceTable::built_in().with_overrides(&text(project, path)?).map_err(|error| error.with("file", path))
}

fn text(project: &Project, path: &str) -> Result<String, Error> {
    let bytes = files::read(&project.loaded().dir, path)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "there is no such file in the project").with("file", path)
    })?;
    files::utf8(path, bytes)
}

/// What AI calls cost, also under another table of the project.
pub(crate) async fn cost(
    ctx: &Context,
    ledger: &Ledger,
    project: &Project,
    request: &report::ShowCost,
) -> Result<Outcome, Error> {
    let other = match request.table.as_deref() {
        None if request.prices_of.is_some() => Some(prices(project)?),
        None => None,
        // The table that comes with this version, without the project's own prices.
        Some("built-in") => Some(PriceTable::built_in()),
        Some(path) => Some(over_built_in(project, path)?),
    };
    report::show_cost(ctx, ledger, &project.loaded().config.ai, other.as_ref(), request).await
}

/// What it will come to.
pub(crate) async fn forecast(
    ctx: &Context,
    ledger: &Ledger,
    project: &Project,
    request: &report::ForecastCost,
) -> Result<Outcome, Error> {
    let standings = settings::standings(ctx, ledger, &project.loaded().config.ai).await?;
    report::forecast(ctx, ledger, &standings, request).await
}

/// Our count against a provider's.
pub(crate) async fn compare(
    ctx: &Context,
    ledger: &Ledger,
    project: &Project,
    request: &reconcile::ReconcileUsage,
) -> Result<Outcome, Error> {
    let export = text(project, &request.file)?;
    let config = &project.loaded().config.ai;
    reconcile::reconcile(ctx, ledger, config, &prices(project)?, &export, request)
        .await
        .map_err(|error| error.with("file", &request.file))
}

/// What a file would cost as training or as a batch.
pub(crate) fn estimate(
    ctx: &Context,
    project: &Project,
    request: &job_view::EstimateJob,
) -> Result<Outcome, Error> {
    let content = text(project, &request.file)?;
    job_view::estimate(ctx, &project.loaded().config.ai, &prices(project)?, content.as_bytes(), request)
}

/// Where it could cost less.
pub(crate) async fn advise(
    ctx: &Context,
    ledger: &Ledger,
    project: &Project,
    request: &advise::AdviseCost,
) -> Result<Outcome, Error> {
    advise::advise(ctx, ledger, &project.loaded().config.ai, &prices(project)?, request).await
}
