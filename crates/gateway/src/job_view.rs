//! Requests about batches and training: what is under way, what it came to, what it would cost.

use contract::{Context, Effect, Error, ErrorKind, Evidence, Outcome, Request};
use jiff::Timestamp;
use ledger::Ledger;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::AiConfig;
use crate::cost::training_cost;
use crate::job::Job;
use crate::job_tally::{Requests, Training, Wrong};
use crate::price::PriceTable;
use crate::report::columns;
use crate::usd::Usd;

/// Jobs that are listed at most.
const LISTED_MAX: i64 = 1_000;

/// Lists batches and training that were made through the gateway, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListJobs {
    /// Only those that have not ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
}

impl Request for ListJobs {
    const NAME: &'static str = "jobs.list";
    const SUMMARY: &'static str =
        "List batches and training at providers, what is set aside for them and what they cost";
    const EXAMPLE: &'static str = "steward ai jobs list --open";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.usage.read";
    const POSITIONAL: &'static [&'static str] = &[];
}

/// Shows a batch or a training: how it stands, what is set aside, what it cost, the model that it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowJob {
    /// Its id at the provider, such as `batch_abc`, or that of its receipt.
    pub id: String,
}

impl Request for ShowJob {
    const NAME: &'static str = "jobs.show";
    const SUMMARY: &'static str = "A batch or a training: state, money, and the model that it made";
    const EXAMPLE: &'static str = "steward ai jobs show ftjob-abc123";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.usage.read";
    const POSITIONAL: &'static [&'static str] = &["id"];
}

/// Estimates what a file would cost as training, or as a batch, before anything is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EstimateJob {
    /// The file in the project folder: JSON lines, examples for training or requests of a batch.
    pub file: String,
    /// The model that is to be trained; a batch's requests name theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Passes over the file. Default: what the provider chooses by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
    /// The provider in the project file. Default: the only one of OpenAI's kind, else the prices of OpenAI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

impl Request for EstimateJob {
    const NAME: &'static str = "jobs.estimate";
    const SUMMARY: &'static str = "What a file would cost as training or as a batch, before it is sent";
    const EXAMPLE: &'static str =
        "steward ai jobs estimate training.jsonl --model gpt-4o-mini-2024-07-18 --epochs 3";
    const EFFECT: Effect = Effect::Read;
    const ACTION: &'static str = "ai.usage.read";
    const POSITIONAL: &'static [&'static str] = &["file"];
}

fn usd(nanos: i64) -> String {
    Usd::from_nanos(nanos).to_string()
}

fn describe(job: &Job) -> Value {
    json!({
        "id": job.id, "kind": job.kind.as_str(), "provider": job.provider, "remote_id": job.remote_id,
        "state": job.state, "status": job.status, "made_at": job.made, "settled_at": job.settled,
        "key": job.body.key_name, "person": job.body.person, "requests": job.body.requests,
        "models": job.body.charges.iter().map(|charge| &charge.model).collect::<Vec<_>>(),
        "base_model": job.base_model, "tuned_model": job.tuned_model, "epochs": job.body.epochs,
        "set_aside_usd_nanos": job.set_aside, "cost_usd_nanos": job.cost, "problem": job.problem,
    })
}

fn answered(ctx: &Context, statement: &str, value: Value, text: String) -> Outcome {
    let mut outcome = Outcome::new(value.clone(), text);
    let subject = format!("project:{}", ctx.project());
    outcome.evidence.push(Evidence::new(&subject, statement, value, ctx.now(), 0.0));
    outcome
}

/// Answers `jobs.list`.
///
/// # Errors
///
/// As the ledger's.
pub async fn list(ctx: &Context, ledger: &Ledger, request: &ListJobs) -> Result<Outcome, Error> {
    let rows = ledger
        .query(
            "SELECT * FROM ai_jobs WHERE project = ? AND (? = 0 OR state IN ('creating', 'open')) \
             ORDER BY made_us DESC LIMIT ?",
            vec![ctx.project().into(), request.open.into(), LISTED_MAX.into()],
        )
        .await?;
    let jobs: Vec<Job> = rows.iter().map(Job::read).collect::<Result<_, _>>()?;
    let mut table = vec![
        ["made", "job", "kind", "provider", "status", "set aside", "cost USD"].map(str::to_owned).to_vec(),
    ];
    for job in &jobs {
        let name = if job.remote_id.is_empty() { &job.id } else { &job.remote_id };
        let status = if job.state == "refused" { "refused" } else { job.status.as_str() };
        table.push(vec![
            job.made.strftime("%Y-%m-%d %H:%M").to_string(),
            name.clone(),
            job.kind.as_str().to_owned(),
            job.provider.clone(),
            status.to_owned(),
            if job.cost.is_some() { "-".into() } else { usd(job.set_aside) },
            job.cost.map_or_else(|| "-".to_owned(), usd),
        ]);
    }
    let text = match (jobs.is_empty(), request.open) {
        (true, true) => "no batch and no training is under way\n".to_owned(),
        (true, false) => "no batch and no training was made through the gateway\n".to_owned(),
        (false, _) => columns(&table),
    };
    let value = json!({ "jobs": jobs.iter().map(describe).collect::<Vec<_>>() });
    Ok(answered(ctx, "jobs.list", value, text))
}

/// Answers `jobs.show`.
///
/// # Errors
///
/// `NotFound`: this project has no such job.
pub async fn show(ctx: &Context, ledger: &Ledger, request: &ShowJob) -> Result<Outcome, Error> {
    let rows = ledger
        .query(
            "SELECT * FROM ai_jobs WHERE project = ? AND (id = ? OR remote_id = ?) ORDER BY made_us DESC LIMIT 1",
            vec![ctx.project().into(), (&request.id).into(), (&request.id).into()],
        )
        .await?;
    let Some(row) = rows.first() else {
        return Err(Error::new(ErrorKind::NotFound, "this project has no such batch and no such training")
            .with("id", &request.id)
            .hint("`steward ai jobs list` shows those that were made through the gateway"));
    };
    let job = Job::read(row)?;
    let mut lines = vec![format!(
        "{} {} at {}: {}",
        job.kind.as_str(),
        if job.remote_id.is_empty() { "(not made)" } else { &job.remote_id },
        job.provider,
        if job.status.is_empty() { &job.state } else { &job.status }
    )];
    let whose = if job.body.person.is_empty() { String::new() } else { format!(" of {}", job.body.person) };
    lines.push(format!("made     {} by key `{}`{whose}", job.made, job.body.key_name));
    let epochs = if job.body.epochs > 0 { format!(", {} epochs", job.body.epochs) } else { String::new() };
    let of = if job.body.epochs > 0 { "examples" } else { "requests" };
    lines.push(format!("asks     {} {of}{epochs}", job.body.requests));
    match (job.cost, job.settled) {
        (Some(cost), Some(settled)) => {
            lines.push(format!(
                "cost     {} USD, settled at {settled}; {} USD had been set aside",
                usd(cost),
                usd(job.set_aside)
            ));
            lines.push(format!("receipt  steward ai receipt {}", job.id));
        }
        _ => lines.push(format!("money    {} USD are set aside until it ends", usd(job.set_aside))),
    }
    if let Some(model) = &job.tuned_model {
        lines.push(format!(
            "model    {}/{model}, for this project's keys and as a target of its routes",
            job.provider
        ));
    }
    if let Some(problem) = &job.problem {
        lines.push(format!("problem  {problem}"));
    }
    lines.push(String::new());
    Ok(answered(ctx, &format!("jobs.show {}", request.id), describe(&job), lines.join("\n")))
}

/// Answers `jobs.estimate`, by the lines of the file.
///
/// # Errors
///
/// `Invalid`: the file is neither. `NotFound`: the model has no price; says which key to set.
pub fn estimate(
    ctx: &Context,
    config: &AiConfig,
    prices: &PriceTable,
    content: &[u8],
    request: &EstimateJob,
) -> Result<Outcome, Error> {
    let (provider, kind) = provider_of(config, request)?;
    let lines =
        || content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let first: Value = lines()
        .next()
        .and_then(|line| serde_json::from_slice(line).ok())
        .ok_or_else(|| invalid("the file holds no lines of JSON", request))?;
    if first.get("url").is_some() && first.get("body").is_some() {
        return batch(ctx, prices, (&provider, kind), lines(), request);
    }
    if first.get("messages").or_else(|| first.get("prompt")).or_else(|| first.get("input")).is_none() {
        return Err(invalid("the lines are neither examples for training nor requests of a batch", request)
            .hint("examples have `messages`, requests have `custom_id`, `url` and `body`"));
    }
    let model = request
        .model
        .as_deref()
        .ok_or_else(|| invalid("which model is to be trained?", request).hint("name it with `--model`"))?;
    let mut training = Training::default();
    for (number, line) in lines().enumerate() {
        if serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err() {
            return Err(invalid("a line is no JSON", request).with("line", number + 1));
        }
        training.line(line);
    }
    let row = prices.training(&provider, model).or_else(|| prices.training(kind, model));
    let Some(row) = row else {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no price for training `{model}`"))
            .with("provider", &provider)
            .hint(format!(
                "add `training` to the row `ft:{model}` in the project's file of prices (key `ai.prices`)"
            )));
    };
    let at = ctx.now();
    let held = row.prices_at(at);
    let epochs = training.epochs(request.epochs.map(u64::from));
    let of = |tokens: u64| training_cost(held, tokens.saturating_mul(epochs)).unwrap_or_default();
    let (likely, most) = (of(training.tokens), of(training.tokens_max));
    let chosen = if request.epochs.is_some() { "" } else { " (as the provider chooses)" };
    let text = format!(
        "training {model} on {} examples, {epochs} epochs{chosen}\ntokens   about {} in each epoch, at most {}\nprice    {} \
         USD for a million tokens, row {} of table {}\ncost     about {likely} USD, at most {most} USD; a strict budget must \
         have that much left\n",
        training.examples,
        training.tokens,
        training.tokens_max,
        held.training.unwrap_or_default(),
        row.row(held),
        prices.version(),
    );
    let value = json!({
        "kind": "fine_tuning", "model": model, "examples": training.examples, "epochs": epochs,
        "tokens_estimate": training.tokens, "tokens_max": training.tokens_max, "usd_estimate": likely.to_string(),
        "usd_max": most.to_string(), "price_row": row.row(held), "price_table": prices.version(),
    });
    Ok(answered(ctx, &format!("jobs.estimate {}", request.file), value, text))
}

fn batch<'l>(
    ctx: &Context,
    prices: &PriceTable,
    (provider, kind): (&str, &str),
    lines: impl Iterator<Item = &'l [u8]>,
    request: &EstimateJob,
) -> Result<Outcome, Error> {
    let find = |model: &str| prices.find(provider, model).or_else(|| prices.find(kind, model));
    let at: Timestamp = ctx.now();
    let mut requests = Requests::new(&find, at, true);
    let wrong = |wrong: Wrong| {
        let kind = if wrong.is_price { ErrorKind::NotFound } else { ErrorKind::Invalid };
        Error::new(kind, wrong.message).with("file", &request.file)
    };
    for line in lines {
        requests.line(line).map_err(wrong)?;
    }
    let charges = requests.charges().map_err(wrong)?;
    let sum = |of: fn(&crate::hold::Charge) -> i64| charges.iter().map(of).fold(0, i64::saturating_add);
    let (likely, most) = (sum(|charge| charge.usual_usd_nanos), sum(|charge| charge.bound_usd_nanos));
    let models: Vec<&str> = charges.iter().map(|charge| charge.model.as_str()).collect();
    let text = format!(
        "batch of {} requests to {}\ncost     about {} USD, at most {} USD in the batch tier; a strict budget must have that \
         much left\n",
        requests.count,
        models.join(", "),
        usd(likely),
        usd(most),
    );
    let value = json!({
        "kind": "batch", "requests": requests.count, "models": models, "usd_estimate": usd(likely),
        "usd_max": usd(most), "price_table": prices.version(),
    });
    Ok(answered(ctx, &format!("jobs.estimate {}", request.file), value, text))
}

fn invalid(why: &str, request: &EstimateJob) -> Error {
    Error::new(ErrorKind::Invalid, why).with("file", &request.file)
}

/// Name and kind of the provider whose prices hold.
fn provider_of(config: &AiConfig, request: &EstimateJob) -> Result<(String, &'static str), Error> {
    use crate::config::ProviderKind;
    if let Some(name) = &request.provider {
        let provider = config.providers.get(name).ok_or_else(|| {
            let known: Vec<&str> = config.providers.keys().map(String::as_str).collect();
            Error::new(ErrorKind::NotFound, format!("there is no provider `{name}`"))
                .hint(format!("there are: {}", known.join(", ")))
        })?;
        return Ok((name.clone(), provider.kind.as_str()));
    }
    let trains = |kind: ProviderKind| matches!(kind, ProviderKind::Openai | ProviderKind::AzureOpenai);
    let mut fitting = config.providers.iter().filter(|(_, provider)| trains(provider.kind));
    match (fitting.next(), fitting.next()) {
        (Some((name, provider)), None) => Ok((name.clone(), provider.kind.as_str())),
        _ => Ok(("openai".into(), ProviderKind::Openai.as_str())),
    }
}
