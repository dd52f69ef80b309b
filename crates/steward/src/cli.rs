//! The command line: nouns and verbs made from the requests, and the few commands that are about the process itself.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use contract::{
    Actor, Answer, AnswerStatus, Context, Effect, Error, ErrorKind, RequestSpec, Severity, Watch,
};
use futures::future::BoxFuture;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::config::{self, Loaded};
use crate::door::{Options, Steward, Surroundings};
use crate::mcp::Caller;
use crate::progress::Bar;
use crate::{arguments, daemon, demo, init, mcp, recover, request, terminal};

/// What ends a process: the code of STYLE.md.
pub(crate) mod exit {
    /// Done.
    pub(crate) const DONE: u8 = 0;
    /// Failed.
    pub(crate) const FAILED: u8 = 1;
    /// Wrong usage or configuration.
    pub(crate) const USAGE: u8 = 2;
    /// Waits for an approval or an answer.
    pub(crate) const WAITING: u8 = 3;
    /// Denied or escalated.
    pub(crate) const DENIED: u8 = 4;
    /// Findings: drift, a failed check.
    pub(crate) const FINDINGS: u8 = 5;
}

/// Nouns whose verb may be left out, with the verb that is meant.
const DEFAULT_VERBS: &[(&str, &str)] = &[
    ("status", "show"),
    ("inbox", "list"),
    ("evidence", "show"),
    ("report", "show"),
    ("keys", "list"),
    ("prompts", "list"),
    ("jobs", "list"),
];

/// Nouns in the order of the help, with what they are about.
const NOUNS: &[(&str, &str)] = &[
    ("status", "How everything is, on one screen"),
    ("task", "Tasks: hand one in, see the plan, go on with one"),
    ("report", "Reports of tasks"),
    ("inbox", "Escalations: what the PM must hear of"),
    ("store", "Databases: check, inspect, query, measure, set up"),
    ("backup", "Backups: set up, make, prove, restore"),
    ("archive", "Archived rows: list, verify, read where they lie, put back"),
    ("retention", "Rules for old rows: what each means now; delete by one"),
    ("index", "Indexes: advise, create, drop"),
    ("access", "Who may do what in a store: list, review, grant, revoke"),
    ("session", "Sessions of a database server: end one"),
    ("migration", "Schema migrations: write, plan, apply, roll back"),
    ("approval", "What waits for a person"),
    ("policy", "The authority matrix: who may do what"),
    ("person", "People who may approve"),
    ("token", "Bearer tokens for HTTP and MCP"),
    ("secret", "Secrets: put, rotate, remove"),
    ("ai", "AI calls: models, routes, keys, usage, cost, budgets, receipts"),
    ("jobs", "Batches and training at AI providers: list, show, estimate the cost"),
    ("keys", "Keys of the AI gateway: clients' virtual keys, and rotation of providers' keys"),
    ("prompts", "Stored prompts of AI calls: list, show, erase"),
    ("file", "Files of the project"),
    ("audit", "The audit trail"),
    ("evidence", "The statement that a number rests on, and its answer"),
    ("schedule", "Requests that the daemon makes by itself"),
    ("docs", "The reference, and documents of the data, generated from what is there"),
];

/// Nouns that may also be written after another, as in `steward store access list`.
const INNER: &[(&str, &str)] = &[("store", "access"), ("ai", "keys"), ("ai", "jobs"), ("ai", "prompts")];

/// The heading of the options that every command has.
const EVERYWHERE: &str = "Options of every command";

/// The whole command line.
pub(crate) fn command(specs: &[RequestSpec]) -> Command {
    command_of(specs, |_| true)
}

/// The command line, of which only those nouns and verbs are whole that may be written in it. To make them all takes longer
/// than much that is asked for.
fn command_of(specs: &[RequestSpec], written: impl Fn(&str) -> bool) -> Command {
    let mut root = Command::new("steward")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The data engineer that people and agents delegate to")
        .before_help("Example: steward demo")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(
            Arg::new("project_file")
                .long("project-file")
                .help_heading(EVERYWHERE)
                .short('f')
                .env("STEWARD_PROJECT_FILE")
                .global(true)
                .action(ArgAction::Append)
                .value_name("FILE")
                .help("The project file; several for `up` [default: steward.yaml here or above]"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .help_heading(EVERYWHERE)
                .global(true)
                .action(ArgAction::SetTrue)
                .help("Prints the answer as JSON"),
        )
        .arg(
            Arg::new("as")
                .long("as")
                .help_heading(EVERYWHERE)
                .global(true)
                .value_name("PERSON")
                .help("Asks in this person's name; their passphrase is asked for on the terminal"),
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .help_heading(EVERYWHERE)
                .global(true)
                .value_name("SECONDS")
                .value_parser(clap::value_parser!(u64).range(1..))
                .help("Ends the request after this time"),
        )
        .arg(
            Arg::new("log")
                .long("log")
                .help_heading(EVERYWHERE)
                .global(true)
                .env("STEWARD_LOG")
                .default_value("warn")
                .value_name("LEVEL")
                .help("Log lines on standard error: error, warn, info, debug, or a filter such as `stores=debug`"),
        );
    for (noun, about) in NOUNS {
        let mut command = noun_command(specs, noun, about, &written);
        for (_, inner) in INNER.iter().filter(|(outer, _)| outer == noun) {
            let about = NOUNS.iter().find(|(known, _)| known == inner).map_or("", |(_, about)| *about);
            command = command.subcommand(noun_command(specs, inner, about, &written));
        }
        root = root.subcommand(command);
    }
    root.subcommand(
        Command::new("init")
            .about("Writes a commented steward.yaml into this folder")
            .before_help("Example: steward init --project shop")
            .arg(
                Arg::new("project")
                    .long("project")
                    .value_name("NAME")
                    .help("The project's name [default: the folder's]"),
            ),
    )
    .subcommand(
        Command::new("recover")
            .about("Brings Steward itself back into an empty folder, from a repository and its recovery key")
            .before_help("Example: steward recover --repository /mnt/usb/backups/shop --dir /srv/shop")
            .arg(
                Arg::new("repository")
                    .long("repository")
                    .value_name("URL")
                    .required(true)
                    .help("Where the backup repository is, as in `backup.repositories.NAME.url`"),
            )
            .arg(
                Arg::new("dir")
                    .long("dir")
                    .value_name("DIR")
                    .default_value(".")
                    .help("The folder that becomes the project's; it must be empty"),
            )
            .arg(
                Arg::new("project")
                    .long("project")
                    .value_name("NAME")
                    .help("The project, where the repository holds several"),
            )
            .arg(
                Arg::new("backup")
                    .long("backup")
                    .value_name("ID")
                    .help("Another backup of Steward's own state than the newest"),
            )
            .arg(Arg::new("endpoint").long("endpoint").value_name("URL").help(
                "Of a bucket, s3://BUCKET/PREFIX: where its server is; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY open it",
            ))
            .arg(Arg::new("region").long("region").value_name("REGION").help("Of a bucket: its region"))
            .arg(Arg::new("signed_by").long("signed-by").value_name("KEY").help(
                "Take only what this key has signed, which `backup setup` has shown beside the recovery key",
            ))
            .arg(Arg::new("recovery_key_file").long("recovery-key-file").value_name("FILE").help(
                "File that holds the recovery key [default: it is asked for, or read from standard input]",
            )),
    )
    .subcommand(
        Command::new("demo")
            .about("Plays a whole task on a real dataset, in a folder of its own")
            .before_help("Example: steward demo --dir /tmp/steward-demo")
            .arg(
                Arg::new("dir")
                    .long("dir")
                    .value_name("DIR")
                    .default_value("./steward-demo")
                    .help("Folder to (re)create"),
            ),
    )
    .subcommand(
        Command::new("up")
            .about("Serves HTTP and MCP, runs schedules, delivers escalations")
            .before_help("Example: steward up"),
    )
    .subcommand(
        Command::new("mcp")
            .about("Serves MCP over standard input and output")
            .before_help("Example: claude mcp add steward -- steward mcp")
            .arg(
                Arg::new("name")
                    .long("name")
                    .value_name("NAME")
                    .default_value("mcp")
                    .help("Name of the agent in the audit trail"),
            )
            .arg(
                Arg::new("role")
                    .long("role")
                    .value_name("ROLE")
                    .value_parser(["reader", "requester"])
                    .default_value("requester")
                    .help("What the agent may ask for"),
            ),
    )
    .subcommand(
        Command::new("completion")
            .about("Prints a completion script for a shell")
            .before_help("Example: steward completion bash > /etc/bash_completion.d/steward")
            .arg(Arg::new("shell").required(true).value_parser(clap::value_parser!(clap_complete::Shell))),
    )
}

/// Reads a command line. Where it is not understood, or help is asked for, the whole of it says so.
fn parse(specs: &[RequestSpec], args: &[OsString]) -> Result<ArgMatches, clap::Error> {
    let few = command_of(specs, |word| args.iter().any(|arg| arg == word));
    few.try_get_matches_from(args).or_else(|_| command(specs).try_get_matches_from(args))
}

fn noun_command(
    specs: &[RequestSpec],
    noun: &'static str,
    about: &'static str,
    written: &impl Fn(&str) -> bool,
) -> Command {
    if !written(noun) {
        return Command::new(noun).about(about);
    }
    let of_noun: Vec<&RequestSpec> = specs.iter().filter(|spec| split(spec.name).0 == noun).collect();
    let mut command = Command::new(noun).about(about);
    if let Some(default) = default_spec(specs, noun) {
        let like = arguments::command(default, noun.to_owned());
        // With a verb written out, the arguments are the verb's.
        command = like.args_conflicts_with_subcommands(true).subcommand_negates_reqs(true);
    } else {
        command = command.subcommand_required(true).arg_required_else_help(true);
        if let Some(first) = of_noun.first() {
            command = command.before_help(format!("Example: {}", first.example));
        }
    }
    // Also the default verb can be written out.
    for spec in of_noun {
        let verb = split(spec.name).1;
        command = command.subcommand(if written(verb) {
            arguments::command(spec, verb.to_owned())
        } else {
            Command::new(verb).about(spec.summary)
        });
    }
    command
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((name, ""))
}

fn default_spec<'a>(specs: &'a [RequestSpec], noun: &str) -> Option<&'a RequestSpec> {
    let (_, verb) = DEFAULT_VERBS.iter().find(|(known, _)| *known == noun)?;
    specs.iter().find(|spec| split(spec.name) == (noun, verb))
}

/// Reads the command line, does what it says, and gives the exit code.
///
/// Boxed, so that the whole program is compiled with this crate and not once more with each that calls it.
pub fn run(args: Vec<OsString>, surroundings: Surroundings) -> BoxFuture<'static, u8> {
    Box::pin(obey(args, surroundings))
}

async fn obey(args: Vec<OsString>, surroundings: Surroundings) -> u8 {
    let specs = request::specs();
    // Where the arguments cannot be understood, whether JSON is wanted is seen from the words alone.
    let wants_json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    let matches = match parse(&specs, &args) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are answers, the rest is wrong usage.
            let text = error.render().to_string();
            if !error.use_stderr() {
                terminal::print(&text);
                return exit::DONE;
            }
            if wants_json {
                let (message, usage) = text.split_once("\n\n").unwrap_or((&text, ""));
                let message = message.strip_prefix("error: ").unwrap_or(message).trim();
                let wrong = Error::new(ErrorKind::Invalid, message).hint(usage.trim());
                print_error_json(&wrong, std::borrow::ToOwned::to_owned);
            }
            terminal::note(&text);
            return exit::USAGE;
        }
    };
    let json = matches.get_flag("json");
    if let Err(error) = crate::logging::start(matches.get_one::<String>("log").map_or("warn", String::as_str))
    {
        return fail(&error, json, std::borrow::ToOwned::to_owned);
    }
    match matches.subcommand() {
        Some(("completion", sub)) => {
            let shell = *sub.get_one::<clap_complete::Shell>("shell").expect("the argument is required");
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut command(&specs), "steward", &mut out);
            terminal::print(&String::from_utf8_lossy(&out));
            exit::DONE
        }
        Some(("init", sub)) => {
            let name = sub.get_one::<String>("project").map(String::as_str);
            match std::env::current_dir()
                .map_err(|cause| {
                    Error::new(ErrorKind::Other, "cannot find the current folder").because(cause)
                })
                .and_then(|dir| init::write(&dir, name))
            {
                Ok(text) if json => {
                    let answer = json!({ "request": "init", "status": "done", "text": text });
                    terminal::print_json(&answer);
                    exit::DONE
                }
                Ok(text) => {
                    terminal::print(&text);
                    exit::DONE
                }
                Err(error) => fail(&error, json, std::borrow::ToOwned::to_owned),
            }
        }
        Some(("demo", sub)) => {
            let dir = PathBuf::from(sub.get_one::<String>("dir").expect("the argument has a default"));
            match demo::run(&dir, surroundings).await {
                Ok(()) => exit::DONE,
                Err(error) => fail(&error, json, std::borrow::ToOwned::to_owned),
            }
        }
        Some(("recover", sub)) => match Box::pin(recover(sub, &surroundings)).await {
            Ok((value, _)) if json => {
                terminal::print_json(&json!({ "request": "recover", "status": "done", "value": value }));
                exit::DONE
            }
            Ok((_, text)) => {
                terminal::print(&text);
                exit::DONE
            }
            Err(error) => fail(&error, json, std::borrow::ToOwned::to_owned),
        },
        Some((noun, sub)) => Box::pin(in_project(&specs, &matches, noun, sub, surroundings)).await,
        None => exit::USAGE,
    }
}

/// The recovery key comes from the terminal, standard input or a file, never from the command line, which others can see.
async fn recover(sub: &ArgMatches, surroundings: &Surroundings) -> Result<(Value, String), Error> {
    let text = |name: &str| sub.get_one::<String>(name).cloned();
    let url = text("repository").expect("the argument is required");
    let recovery = recover::Recovery {
        dir: PathBuf::from(text("dir").expect("the argument has a default")),
        project: text("project"),
        backup: text("backup"),
        signed_by: text("signed_by"),
        endpoint: text("endpoint"),
        region: text("region"),
    };
    let key = match text("recovery_key_file") {
        None => terminal::secret("recovery key")?,
        Some(file) => {
            let read = zeroize::Zeroizing::new(std::fs::read_to_string(&file).map_err(|cause| {
                Error::new(ErrorKind::Invalid, "cannot read the recovery key")
                    .with("file", &file)
                    .because(cause)
            })?);
            SecretString::from(read.trim().to_owned())
        }
    };
    recover::run(&url, &recovery, &key, surroundings).await
}

async fn in_project(
    specs: &[RequestSpec],
    matches: &ArgMatches,
    noun: &str,
    sub: &ArgMatches,
    surroundings: Surroundings,
) -> u8 {
    let json = matches.get_flag("json");
    let steward = match open(matches, &surroundings).await {
        Ok(steward) => steward,
        Err(error) => return fail(&error, json, std::borrow::ToOwned::to_owned),
    };
    let result = match noun {
        "up" => daemon::run(Arc::clone(&steward), surroundings).await.map(|()| exit::DONE),
        "mcp" => Box::pin(serve_mcp(&steward, sub)).await.map(|()| exit::DONE),
        _ => submit(&steward, specs, matches, noun, sub).await,
    };
    let closed = steward.close().await;
    let result = result.and_then(|code| closed.map(|()| code));
    match result {
        Ok(code) => code,
        Err(error) => fail(&error, json, |text| steward.redact(text)),
    }
}

async fn open(matches: &ArgMatches, surroundings: &Surroundings) -> Result<Arc<Steward>, Error> {
    let mut files: Vec<PathBuf> =
        matches.get_many::<String>("project_file").into_iter().flatten().map(PathBuf::from).collect();
    if files.is_empty() {
        let here = std::env::current_dir()
            .map_err(|cause| Error::new(ErrorKind::Other, "cannot find the current folder").because(cause))?;
        files.push(config::find(&here)?);
    }
    let loaded = files.iter().map(|file| config::load(file)).collect::<Result<Vec<Loaded>, _>>()?;
    Steward::open(loaded, surroundings).await
}

async fn serve_mcp(steward: &Arc<Steward>, sub: &ArgMatches) -> Result<(), Error> {
    let name = sub.get_one::<String>("name").expect("the argument has a default");
    let role = sub.get_one::<String>("role").expect("the argument has a default");
    let role = contract::Role::parse(role).expect("clap accepts only roles");
    let project = only_project(steward)?;
    let actor = Actor::new(contract::ActorKind::Agent, name, [role]);
    mcp::serve_stdio(Arc::clone(steward), Caller { project, actor }).await
}

fn only_project(steward: &Steward) -> Result<String, Error> {
    match steward.projects().as_slice() {
        [one] => Ok(one.name().to_owned()),
        _ => Err(Error::new(ErrorKind::Invalid, "this command takes one project file")
            .with("flag", "--project-file")),
    }
}

async fn submit(
    steward: &Arc<Steward>,
    specs: &[RequestSpec],
    matches: &ArgMatches,
    noun: &str,
    sub: &ArgMatches,
) -> Result<u8, Error> {
    let (spec, sub) = match sub.subcommand() {
        Some((inner, sub)) if INNER.contains(&(noun, inner)) => match sub.subcommand() {
            Some((verb, sub)) => (specs.iter().find(|spec| split(spec.name) == (inner, verb)), sub),
            None => (default_spec(specs, inner), sub),
        },
        Some((verb, sub)) => (specs.iter().find(|spec| split(spec.name) == (noun, verb)), sub),
        None => (default_spec(specs, noun), sub),
    };
    let spec = spec.expect("clap accepts only known nouns and verbs");
    let arguments = arguments::to_json(spec, sub)?;
    let mut ctx = Context::new(&only_project(steward)?, Actor::local());
    if let Some(seconds) = matches.get_one::<u64>("timeout") {
        ctx = ctx.with_timeout(std::time::Duration::from_secs(*seconds));
    }
    if let Some(person) = matches.get_one::<String>("as") {
        let passphrase = terminal::secret(&format!("passphrase of {person}"))?;
        let actor = steward.people().prove(&ctx, person, passphrase).await?;
        ctx = ctx.with_actor(actor);
    }
    let cancellation = ctx.cancellation().clone();
    let interrupt = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            cancellation.cancel();
        }
    });
    let bar = Arc::new(Bar::new());
    let ctx = ctx.with_watch(Arc::clone(&bar) as Arc<dyn Watch>);
    let result = ask_and_submit(steward, &ctx, spec, sub, arguments).await;
    bar.clear();
    interrupt.abort();
    let answer = result?;
    if matches.get_flag("json") {
        terminal::print_json(&answer);
    } else {
        show(&answer);
    }
    let code = exit_code(&answer);
    // The process ends in a moment, which gives the memory back faster than freeing it piece by piece.
    std::mem::forget(answer);
    Ok(code)
}

async fn ask_and_submit(
    steward: &Arc<Steward>,
    ctx: &Context,
    spec: &RequestSpec,
    sub: &ArgMatches,
    arguments: Value,
) -> Result<Answer, Error> {
    let changes = spec.effect == Effect::Change;
    let dry_run = changes && sub.get_flag("dry_run");
    let mut options = Options { dry_run, terminal: terminal::can_ask(), reveal: true, ..Options::default() };
    if !dry_run {
        if matches!(spec.name, "keys.rotate" | "secret.rotate") {
            // Nobody types a secret for something that is not there.
            let preview = Options { dry_run: true, ..options.clone() };
            steward.submit_with(ctx, spec.name, arguments.clone(), preview).await?;
        }
        (options.secret, options.voucher) = secrets_for(steward, ctx, spec.name, &arguments).await?;
    }
    let by_secret = options.secret.is_some();
    if changes && !dry_run && !sub.get_flag("yes") && !by_secret && terminal::can_ask() {
        let preview = Options { dry_run: true, ..options.clone() };
        let plan = steward.submit_with(ctx, spec.name, arguments.clone(), preview).await?;
        if plan.status != AnswerStatus::Planned {
            return Ok(plan);
        }
        terminal::note(&plan.text);
        options.shown = plan.plan;
        if !terminal::confirm("Do this?") {
            return Err(Error::new(ErrorKind::Canceled, "nothing has changed"));
        }
    }
    steward.submit_with(ctx, spec.name, arguments, options).await
}

/// The secret or passphrase that goes with a request, and that of whoever vouches, typed or piped in.
async fn secrets_for(
    steward: &Steward,
    ctx: &Context,
    name: &str,
    arguments: &Value,
) -> Result<(Option<SecretString>, Option<SecretString>), Error> {
    let field = |field: &str| arguments.get(field).and_then(Value::as_str);
    let ask = |person: &str| terminal::secret(&format!("passphrase of {person}")).map(Some);
    Ok(match name {
        "secret.put" | "secret.rotate" => {
            (Some(terminal::secret(&format!("value of {}", field("name").unwrap_or_default()))?), None)
        }
        "keys.rotate" if arguments.get("staged") != Some(&Value::Bool(true)) => {
            let whose = field("key").or_else(|| field("provider")).unwrap_or_default();
            (Some(terminal::secret(&format!("new key for {whose}"))?), None)
        }
        "person.add" => {
            let voucher = match field("vouched_by") {
                Some(voucher) => ask(voucher)?,
                None if steward.people().needs_voucher(ctx).await? => {
                    return Err(Error::new(ErrorKind::Invalid, "someone must vouch for a further person")
                        .with("flag", "--vouched-by")
                        .hint("name a person with the role `pm` or `security`; `steward person list` shows them"));
                }
                None => None,
            };
            let prompt = format!("new passphrase of {}", field("name").unwrap_or_default());
            (Some(terminal::new_passphrase(&prompt)?), voucher)
        }
        "backup.setup" => {
            let wants = |flag: &str| arguments.get(flag) == Some(&Value::Bool(true));
            let given = if wants("test_recovery_key") {
                Some(terminal::secret("recovery key")?)
            } else if wants("add_passphrase") {
                Some(terminal::new_passphrase("new passphrase of the repository")?)
            } else {
                None
            };
            (given, None)
        }
        "backup.drill" => {
            let loses = |what: &str| field("lose") == Some(what);
            let wanted = loses("key")
                || (loses("machine") && arguments.get("with_recovery_key") == Some(&Value::Bool(true)));
            // Without one the drill says that it was not tried.
            (if wanted { terminal::secret_if_any("recovery key")? } else { None }, None)
        }
        "person.remove" => (ask(field("vouched_by").unwrap_or_default())?, None),
        "approval.grant" | "approval.deny" => {
            let person = match (field("person"), name) {
                (Some(person), _) => person.to_owned(),
                (None, _) => steward.approvals().approver(ctx, field("id").unwrap_or_default(), None).await?,
            };
            (ask(&person)?, None)
        }
        _ => (None, None),
    })
}

fn show(answer: &Answer) {
    let to_stderr = !matches!(answer.status, AnswerStatus::Done | AnswerStatus::Planned);
    let text = if answer.text.is_empty() && !answer.value.is_null() {
        serde_json::to_string_pretty(&answer.value).expect("answers are JSON")
    } else {
        answer.text.clone()
    };
    if to_stderr {
        terminal::note(&text);
    } else {
        terminal::print(&text);
    }
}

/// Requests that say whether something is as it should be: what they find decides the exit code. Those that propose, such
/// as `index.advise` and `migration.plan`, have done what they were asked for, whatever they found on the way.
pub(crate) const CHECKS: [&str; 29] = [
    "access.review",
    "ai.scan",
    "ai.test",
    "archive.list",
    "archive.verify",
    "audit.verify",
    "backup.copy",
    "backup.drill",
    "backup.follow",
    "backup.list",
    "backup.logs",
    "backup.prune",
    "backup.rebuild",
    "backup.run",
    "backup.setup",
    "backup.verify",
    "keys.rotate",
    "migration.lint",
    "migration.status",
    "policy.check",
    "policy.test",
    "status.show",
    "store.check",
    "store.compare",
    "store.consistency",
    "store.diff",
    "store.health",
    "store.locks",
    "store.slow",
];

/// The exit code that an answer ends with.
pub(crate) fn exit_code(answer: &Answer) -> u8 {
    match answer.status {
        AnswerStatus::Waiting => return exit::WAITING,
        AnswerStatus::Forbidden | AnswerStatus::Escalated => return exit::DENIED,
        AnswerStatus::Done | AnswerStatus::Planned => {}
    }
    // The report of a task that was run says itself how it ended; to show it again is another thing.
    let ran = ["task.run", "task.resume"].contains(&answer.request.as_str());
    if ran && let Some(code) = answer.value.get("exit_code").and_then(Value::as_u64) {
        return u8::try_from(code).unwrap_or(exit::FAILED);
    }
    // A linter warns of much that is meant; only what hurts fails a build.
    let lint = answer.request == "migration.lint";
    let least = if lint { Severity::Critical } else { Severity::Warning };
    let found = answer.findings.iter().any(|finding| finding.severity >= least);
    if CHECKS.contains(&answer.request.as_str()) && found { exit::FINDINGS } else { exit::DONE }
}

fn fail(error: &Error, json: bool, redact: impl Fn(&str) -> String) -> u8 {
    let text = redact(&error.to_string());
    if json {
        print_error_json(error, &redact);
    }
    terminal::note(&format!("error: {text}"));
    match error.kind() {
        ErrorKind::Invalid => exit::USAGE,
        ErrorKind::NeedsApproval => exit::WAITING,
        ErrorKind::Forbidden | ErrorKind::Escalated => exit::DENIED,
        _ => exit::FAILED,
    }
}

fn print_error_json(error: &Error, redact: impl Fn(&str) -> String) {
    let context = error.context().iter();
    let value = json!({ "error": {
        "kind": format!("{:?}", error.kind()),
        "message": redact(error.message()),
        "context": context.map(|(name, value)| ((*name).to_owned(), Value::String(redact(value))))
            .collect::<serde_json::Map<_, _>>(),
        "causes": error.causes().iter().map(|cause| redact(cause)).collect::<Vec<_>>(),
        "hint": error.hint_text().map(&redact),
    }});
    terminal::print_json(&value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_a_command_and_the_command_line_is_consistent() {
        let specs = request::specs();
        let command = command(&specs);
        for spec in &specs {
            let (noun, verb) = split(spec.name);
            let noun =
                command.find_subcommand(noun).unwrap_or_else(|| panic!("{noun} is missing from NOUNS"));
            assert!(noun.find_subcommand(verb).is_some(), "{}", spec.name);
        }
        command.debug_assert();
    }

    /// Splits a command line as a shell does, quotes only; a redirection ends it.
    fn words(line: &str) -> Vec<String> {
        let (mut out, mut word, mut quote, mut any) = (Vec::new(), String::new(), None, false);
        for c in line.chars() {
            match (quote, c) {
                (None, '>') => break,
                (None, '\'' | '"') => (quote, any) = (Some(c), true),
                (Some(open), c) if c == open => quote = None,
                (None, ' ') => {
                    if any || !word.is_empty() {
                        out.push(std::mem::take(&mut word));
                    }
                    any = false;
                }
                (_, c) => word.push(c),
            }
        }
        if any || !word.is_empty() {
            out.push(word);
        }
        out
    }

    fn answer(request: &str, severity: Severity) -> Answer {
        let finding = json!({"code": "c", "severity": severity, "title": "t", "object": "o", "evidence": []});
        serde_json::from_value(json!({
            "request": request, "status": "done", "value": null, "findings": [finding],
            "decided": {"decision": "permitted", "policies": []}, "elapsed_ms": 1.0,
        }))
        .expect("an answer")
    }

    #[test]
    fn what_a_check_finds_is_its_exit_code_and_a_note_is_not() {
        for spec in request::specs() {
            let code = |severity| exit_code(&answer(spec.name, severity));
            let checks = CHECKS.contains(&spec.name);
            assert_eq!(
                code(Severity::Critical),
                if checks { exit::FINDINGS } else { exit::DONE },
                "{}",
                spec.name
            );
            assert_eq!(code(Severity::Info), exit::DONE, "{}", spec.name);
            let lint = spec.name == "migration.lint";
            let warned = if checks && !lint { exit::FINDINGS } else { exit::DONE };
            assert_eq!(code(Severity::Warning), warned, "{}", spec.name);
        }
        let names: Vec<&str> = request::specs().iter().map(|spec| spec.name).collect();
        for check in CHECKS {
            assert!(names.contains(&check), "`{check}` is no request");
        }
    }

    /// A guide says it below the command that it means.
    #[test]
    fn what_a_document_promises_of_exit_code_5_is_so() {
        let specs = request::specs();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut promised = Vec::new();
        for file in std::fs::read_dir(root.join("docs/guides")).expect("the guides").flatten() {
            let text = std::fs::read_to_string(file.path()).expect("a guide");
            let named = |line: &str| {
                let words: Vec<&str> = line.split_whitespace().collect();
                specs.iter().map(|spec| spec.name).find(|name| {
                    let (noun, verb) = split(name);
                    let plain = words.first() == Some(&noun) && words.get(1) == Some(&verb);
                    plain || words.get(1) == Some(&noun) && words.get(2) == Some(&verb)
                })
            };
            let mut last = None;
            for line in text.lines() {
                if let Some(line) = line.trim().strip_prefix("$ steward ") {
                    last = named(line);
                }
                let lower = line.to_lowercase();
                if ["exit code 5", "exit code is 5"].iter().any(|way| lower.contains(way)) {
                    // A command in the sentence itself counts more than the one above.
                    let within =
                        line.split("`steward ").nth(1).and_then(|rest| named(rest.split('`').next()?));
                    let name = within.or(last);
                    let name = name.unwrap_or_else(|| panic!("{}: of what? {line}", file.path().display()));
                    assert!(CHECKS.contains(&name), "{}: `{name}` never ends with 5", file.path().display());
                    promised.push(name);
                }
            }
        }
        promised.sort_unstable();
        promised.dedup();
        let known = [
            "access.review",
            "backup.prune",
            "keys.rotate",
            "migration.lint",
            "store.compare",
            "store.health",
            "store.locks",
            "store.slow",
        ];
        assert_eq!(promised, known);
    }

    #[test]
    fn every_example_is_a_command_line_that_is_understood() {
        let specs = request::specs();
        let mut wrong = Vec::new();
        for spec in &specs {
            let example = spec.example.rsplit_once("| ").map_or(spec.example, |(_, command)| command);
            let words = words(example);
            match command(&specs).try_get_matches_from(&words) {
                Ok(matches) => {
                    let args: Vec<OsString> = words.into_iter().map(OsString::from).collect();
                    assert_eq!(parse(&specs, &args).ok(), Some(matches), "{example}");
                }
                Err(error) => wrong.push(format!("{}: {example}\n{error}", spec.name)),
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn command_lines_of_the_documents_are_understood() {
        let specs = request::specs();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut files = vec![root.join("README.md"), root.join("SECURITY.md"), root.join("AGENTS.md")];
        files.extend(
            std::fs::read_dir(root.join("docs/guides"))
                .expect("the guides")
                .flatten()
                .map(|entry| entry.path()),
        );
        let (mut wrong, mut count) = (Vec::new(), 0);
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a document");
            for line in text.lines().filter_map(|line| line.trim().strip_prefix("$ steward ")) {
                count += 1;
                let line = line.split(" #").next().unwrap_or(line).trim_end_matches('\\').trim();
                let words = words(&format!("steward {line}"));
                let args: Vec<OsString> = words.iter().map(OsString::from).collect();
                match (command(&specs).try_get_matches_from(words), parse(&specs, &args)) {
                    (Ok(whole), few) => assert_eq!(few.ok(), Some(whole), "{line}"),
                    (Err(error), few) => {
                        assert_eq!(few.err().map(|few| few.to_string()), Some(error.to_string()), "{line}");
                        if error.use_stderr() {
                            wrong.push(format!("{}: steward {line}\n{error}", file.display()));
                        }
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(count > 20, "only {count} command lines were found");
    }
}
