//! `steward up`: serves HTTP and MCP, runs schedules, goes on with what was interrupted, delivers escalations.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use contract::{Actor, ActorKind, AnswerStatus, Context, Error, ErrorKind};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Loaded;
use crate::door::{Options, Steward, Surroundings};
use crate::lookout::Lookout;
use crate::project::Project;
use crate::{due, reconcile, serve, terminal, tls};

/// How often changes made by other processes are looked for.
const POLL: Duration = Duration::from_millis(200);
/// How often the lock is tried within one poll.
const LOCK_TRIES: u32 = 4;
/// How often due schedules and deliveries are looked for.
const TICK: Duration = Duration::from_secs(1);
/// How often it is looked whether every log is followed that should be.
const FOLLOW_AGAIN: Duration = Duration::from_secs(5);
/// How long after it ended a log is followed again.
const FOLLOW_PAUSE: Duration = Duration::from_secs(30);

/// The lock of the one daemon of a state; the file holds its pid.
struct Lock {
    _file: File,
}

fn lock_file(state: &Path) -> PathBuf {
    state.with_extension("daemon")
}

fn lock(state: &Path) -> Result<Lock, Error> {
    let path = lock_file(state);
    let fail = |cause: std::io::Error| {
        Error::new(ErrorKind::Denied, "cannot write the daemon's lock file")
            .with("file", path.display())
            .because(cause)
    };
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(fail)?;
    let mut free = false;
    for _ in 0..LOCK_TRIES {
        free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if free {
            break;
        }
        // `steward status` holds it for a moment to find out whether a daemon does.
        std::thread::sleep(POLL / LOCK_TRIES);
    }
    if !free {
        let mut pid = String::new();
        file.read_to_string(&mut pid).map_err(fail)?;
        // Usage, not failure: exit code 2.
        return Err(Error::new(ErrorKind::Invalid, format!("a daemon runs already, pid {}", pid.trim()))
            .with("state", state.display())
            .hint("one daemon serves a state; name all its project files: `steward up -f a/steward.yaml -f b/steward.yaml`"));
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "{}", std::process::id()))
        .and_then(|()| file.flush())
        .map_err(fail)?;
    Ok(Lock { _file: file })
}

/// Keys that are in use lie in memory: a crash must not write them into a file.
fn leave_no_core() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "a crash may leave a core file with keys in it");
    }
}

/// The pid of the daemon that serves this state, if one runs.
pub(crate) fn running(state: &Path) -> Option<String> {
    let mut file = File::options().read(true).open(lock_file(state)).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return None; // Nobody holds it; our shared lock ends with the file.
    }
    let mut pid = String::new();
    file.read_to_string(&mut pid).ok()?;
    Some(pid.trim().to_owned())
}

/// Runs until SIGTERM or SIGINT, then lets what is in flight end.
///
/// # Errors
///
/// `Invalid`: another daemon serves this state (its pid is named), or the address is taken. `Denied`, `Unavailable`.
pub(crate) async fn run(steward: Arc<Steward>, _surroundings: Surroundings) -> Result<(), Error> {
    leave_no_core();
    let _lock = lock(steward.state())?;
    let projects = steward.projects();
    let first = projects.first().ok_or_else(|| Error::new(ErrorKind::Invalid, "no project is open"))?;
    let http = first.loaded().config.http.clone();
    let address: SocketAddr = http
        .listen
        .parse()
        .map_err(|cause| Error::new(ErrorKind::Invalid, "this is no address").because(cause))?;
    let tls = http.tls.as_ref().map(|tls| tls::server_config(&first.loaded().dir, tls)).transpose()?;
    let listener = TcpListener::bind(address).await.map_err(|cause| {
        Error::new(ErrorKind::Invalid, format!("cannot listen on {address}"))
            .with("key", "http.listen")
            .because(cause)
            .hint("choose a free port, or end the program that has it")
    })?;
    let address = listener.local_addr().unwrap_or(address);
    for project in &projects {
        let count = reconcile::project(&steward, project).await?;
        if count > 0 {
            terminal::note(&format!("{}: {count} interrupted changes were taken up", project.name()));
        }
        due::take_up(&steward, &system(&steward, project), project).await?;
    }
    let stop = CancellationToken::new();
    let tracker = TaskTracker::new();
    let scheme = if tls.is_some() { "https" } else { "http" };
    // Before anybody can know that it is there: a signal that is not caught yet would cut off who is being answered.
    let signals = Signals::catch()?;
    terminal::note(&format!("steward listens on {scheme}://{address} (API under /api/v1, MCP under /mcp)"));
    let (ai, inbox) = crate::ai::Ai::start(Arc::clone(&steward)).await?;
    let app = crate::http::app(Arc::clone(&steward), Arc::clone(&ai), address, &http.hosts, stop.clone());
    let gateway = ai.gateway();
    let server = {
        let (stop, connections) = (stop.clone(), tracker.clone());
        let doors = serve::Doors { gateway: Arc::clone(&gateway), app };
        tracker.spawn(async move { serve::serve(listener, tls, doors, stop, &connections).await })
    };
    tracker.spawn(Arc::clone(&ai).follow(inbox, stop.clone(), tracker.clone()));
    tracker.spawn(follow_changes(Arc::clone(&steward), stop.clone()));
    tracker.spawn(tick(Arc::clone(&steward), stop.clone(), tracker.clone()));
    tracker.spawn(follow_logs(Arc::clone(&steward), stop.clone(), tracker.clone()));

    signals.wait().await;
    tracing::info!("stopping");
    stop.cancel();
    tracker.close();
    let drain = Duration::from_secs(http.drain_s);
    let drained = async {
        tracker.wait().await;
        gateway.settled().await;
        steward.settled(drain).await
    };
    if tokio::time::timeout(drain, drained).await.is_err() {
        tracing::warn!("requests in flight were cut off");
    }
    ai.prompts.close().await;
    // After the last request has ended; what cannot be written is said in the log.
    // A job that is being made must be known before the end; one that takes longer is found by the next start.
    drop(tokio::time::timeout(Duration::from_secs(10), ai.jobs.close()).await);
    if let Err(error) = ai.accounts.close().await {
        tracing::error!(%error, "usage of AI calls could not be written at the end");
    }
    match server.await {
        Ok(result) => result,
        Err(_) => Ok(()),
    }
}

/// The signals that end the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches them from now on.
    fn catch() -> Result<Self, Error> {
        let fail =
            |cause: std::io::Error| Error::new(ErrorKind::Other, "cannot wait for signals").because(cause);
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(fail)?,
            interrupt: signal(SignalKind::interrupt()).map_err(fail)?,
        })
    }

    async fn wait(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Follows what other processes change: secrets (connections are made anew) and the files of the projects.
async fn follow_changes(steward: Arc<Steward>, stop: CancellationToken) {
    let mut secrets = steward.ledger().generation("secrets").await.unwrap_or(0);
    let mut stamps: Vec<(String, u64)> = Vec::new();
    for project in steward.projects() {
        // Read again at once: the files may have changed since they were loaded.
        stamps.push((project.name().to_owned(), 0));
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLL) => {}
        }
        match steward.ledger().generation("secrets").await {
            Ok(now) if now != secrets => {
                secrets = now;
                for project in steward.projects() {
                    project.reconnect().await;
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot read the generation"),
        }
        for project in steward.projects() {
            let stamp = stamp(project.loaded());
            match stamps.iter_mut().find(|(name, _)| name == project.name()) {
                None => stamps.push((project.name().to_owned(), stamp)),
                Some((_, known)) if *known != stamp => {
                    *known = stamp;
                    reload(&steward, &project);
                }
                Some(_) => {}
            }
        }
    }
}

/// Changes when the project file or a policy is written, added or removed.
fn stamp(loaded: &Loaded) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    let mut add = |path: &Path| {
        let modified =
            std::fs::metadata(path).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        (path, modified).hash(&mut hasher);
    };
    add(&loaded.file);
    let policies = loaded.dir.join(crate::project::POLICIES_DIR);
    add(&policies);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(policies).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in &files {
        add(file);
    }
    hasher.finish()
}

fn reload(steward: &Steward, old: &Project) {
    let reloaded = crate::config::load(&old.loaded().file).and_then(|loaded| {
        if loaded.config.project != old.name() || loaded.state_path() != *steward.state() {
            return Err(Error::new(ErrorKind::Invalid, "`project` and `state` change only with a new start"));
        }
        Project::open(loaded, old.secrets())
    });
    match reloaded {
        Ok(project) => {
            tracing::info!(project = project.name(), "project file read again");
            steward.replace_project(Arc::new(project));
        }
        // The last good configuration stays in force.
        Err(error) => tracing::error!(error = %error, "the changed project file is not used"),
    }
}

/// Starts what is due, delivers what waits.
async fn tick(steward: Arc<Steward>, stop: CancellationToken, tracker: TaskTracker) {
    let mut lookout = Lookout::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        for project in steward.projects() {
            let ctx = system(&steward, &project).with_cancellation(stop.child_token());
            if let Err(error) = due::run(&steward, &ctx, &project, &tracker).await {
                tracing::warn!(error = steward.redact(&error.to_string()), "cannot run the schedules");
            }
            if let Err(error) = lookout.look(&steward, &ctx, &project, &tracker).await {
                tracing::warn!(error = steward.redact(&error.to_string()), "cannot look at the backups");
            }
            if let Err(error) = steward.approvals().expire(&ctx).await {
                tracing::warn!(error = steward.redact(&error.to_string()), "cannot mark expired approvals");
            }
            if let Err(error) = go_on_with_tasks(&steward, &ctx, &tracker).await {
                tracing::warn!(error = steward.redact(&error.to_string()), "cannot go on with tasks");
            }
            if let Err(error) = deliver(&steward, &ctx, &project).await {
                tracing::warn!(error = steward.redact(&error.to_string()), "cannot deliver escalations");
            }
        }
    }
}

/// Sees to it that the log of every plan that says so is followed, as the project files are at the moment.
async fn follow_logs(steward: Arc<Steward>, stop: CancellationToken, tracker: TaskTracker) {
    let mut following: HashMap<(String, String), JoinHandle<()>> = HashMap::new();
    let mut bases: HashMap<(String, String), JoinHandle<()>> = HashMap::new();
    loop {
        for project in steward.projects() {
            for (name, plan) in &project.loaded().config.backup.plans {
                if plan.logs != Some(backup::LogMode::Continuous) {
                    continue;
                }
                let key = (project.name().to_owned(), name.clone());
                let ctx = system(&steward, &project)
                    .with_actor(Actor::new(ActorKind::Schedule, name, []))
                    .with_cancellation(stop.child_token());
                // Beside each other: while a base backup is made, the log that belongs to it is followed already.
                if following.get(&key).is_none_or(JoinHandle::is_finished) {
                    let task = follow_log(Arc::clone(&steward), ctx.clone(), name.clone(), stop.clone());
                    following.insert(key.clone(), tracker.spawn(task));
                }
                if bases.get(&key).is_none_or(JoinHandle::is_finished) {
                    let (steward, project) = (Arc::clone(&steward), Arc::clone(&project));
                    let task = make_base(steward, project, ctx, name.clone(), stop.clone());
                    bases.insert(key, tracker.spawn(task));
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(FOLLOW_AGAIN) => {}
        }
    }
}

/// Follows the log of one plan until that ends.
async fn follow_log(steward: Arc<Steward>, ctx: Context, plan: String, stop: CancellationToken) {
    let arguments = serde_json::json!({ "plan": plan });
    let followed = steward.submit_with(&ctx, "backup.follow", arguments, Options::default()).await;
    match followed {
        _ if stop.is_cancelled() => {}
        Ok(answer) if answer.status == AnswerStatus::Done => {
            tracing::error!(plan, "the log has a gap; it is followed on behind it");
            return;
        }
        Ok(_) => tracing::error!(plan, "the log is not followed: the authority matrix does not let it"),
        Err(error) => {
            tracing::error!(plan, error = steward.redact(&error.to_string()), "the log is not followed");
        }
    }
    // Whatever stands in the way is looked at again, and not at once.
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(FOLLOW_PAUSE) => {}
    }
}

/// Makes the base backup that a gap in the log of a plan calls for, if there is one, also after a start that follows it.
async fn make_base(
    steward: Arc<Steward>,
    project: Arc<Project>,
    ctx: Context,
    plan: String,
    stop: CancellationToken,
) {
    let room = crate::backups::Room::new(&steward, &project);
    let made = match backup::base_wanted(&ctx, &room, &plan).await {
        Ok(None) => return,
        Ok(Some(gap)) => {
            tracing::error!(plan, gap, "the log has a gap; a new base backup is made");
            let arguments = serde_json::json!({ "plan": plan });
            steward.submit_with(&ctx, "backup.run", arguments, Options::default()).await
        }
        Err(error) => Err(error),
    };
    match made {
        _ if stop.is_cancelled() => return,
        Ok(answer) if answer.status == AnswerStatus::Done => return,
        Ok(_) => tracing::error!(plan, "no new base backup: the authority matrix does not let it"),
        Err(error) => {
            tracing::error!(plan, error = steward.redact(&error.to_string()), "no new base backup");
        }
    }
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(FOLLOW_PAUSE) => {}
    }
}

fn system(steward: &Steward, project: &Project) -> Context {
    Context::new(project.name(), Actor::system()).with_clock(Arc::clone(steward.clock()))
}

/// Goes on with tasks whose approval was granted meanwhile.
async fn go_on_with_tasks(steward: &Arc<Steward>, ctx: &Context, tracker: &TaskTracker) -> Result<(), Error> {
    let rows = steward
        .ledger()
        .query(
            "SELECT DISTINCT a.task, a.requester FROM approvals a JOIN tasks t ON t.project = a.project AND t.id = a.task \
             WHERE a.project = ? AND a.state = 'granted' AND t.state = 'waiting'",
            vec![ctx.project().into()],
        )
        .await?;
    for row in &rows {
        let task = row.get_text("task")?.to_owned();
        let lease = format!("go-on:{task}");
        // Tried at most once a minute: an approval whose plan has changed stays granted until it expires.
        if steward.ledger().acquire_lease(ctx, &lease, Duration::from_mins(1)).await?.is_none() {
            continue;
        }
        // In the name of whoever asked: what follows is decided and recorded as theirs.
        let (steward, ctx) = (Arc::clone(steward), ctx.clone().with_actor(row.get_json("requester")?));
        tracker.spawn(async move {
            let arguments = serde_json::json!({ "task": task });
            match steward.submit_with(&ctx, "task.resume", arguments, Options::default()).await {
                Ok(_) => tracing::info!(task, "went on with an approved task"),
                Err(error) => tracing::warn!(
                    task,
                    error = steward.redact(&error.to_string()),
                    "cannot go on with the task"
                ),
            }
        });
    }
    Ok(())
}

/// Sends what waits for a webhook. Also called at the end of a command when no daemon runs: the PM must hear at once.
///
/// # Errors
///
/// As the ledger's; `NotFound`: a webhook's secret. A receiver that fails is tried again later.
pub(crate) async fn deliver(steward: &Steward, ctx: &Context, project: &Project) -> Result<(), Error> {
    let waiting = steward
        .ledger()
        .query(
            "SELECT 1 AS n FROM deliveries WHERE project = ? AND next_us IS NOT NULL AND next_us <= ? LIMIT 1",
            vec![ctx.project().into(), ctx.now().as_microsecond().into()],
        )
        .await?;
    if waiting.is_empty() {
        return Ok(());
    }
    let mut webhooks = Vec::new();
    for (name, webhook) in &project.loaded().config.webhooks {
        let secret = steward.vault().get(ctx, &webhook.secret).await?;
        webhooks.push(pm::Webhook { name: name.clone(), url: webhook.url.clone(), secret });
    }
    pm::deliver_due(ctx, steward.ledger(), &webhooks, &outward()?).await.map(|_| ())
}

fn outward() -> Result<outbound::Client, Error> {
    outbound::Client::new(outbound::Options::default())
}

/// Sends one signed body to a webhook of the project file.
///
/// # Errors
///
/// `NotFound`: the webhook's secret. Otherwise as the HTTP client's.
pub(crate) async fn post(
    steward: &Steward,
    ctx: &Context,
    project: &Project,
    name: &str,
    body: &Value,
) -> Result<(), Error> {
    let Some(webhook) = project.loaded().config.webhooks.get(name) else { return Ok(()) };
    let secret = steward.vault().get(ctx, &webhook.secret).await?;
    let body = body.to_string().into_bytes();
    let at = ctx.now().as_second();
    let signature = format!("t={at},v1={}", pm::sign(&secret, at, &body));
    let headers = [("X-Steward-Signature", signature.as_str()), ("X-Steward-Event", "audit_head")];
    outward()?.post_json(ctx, &webhook.url, &headers, body).await.map(|_| ())
}
