//! restic's locks, so that a person's `restic prune` and ours keep away from each other.
//!
//! A lock is an encrypted record of who works, since when, and whether alone. It is written anew every few minutes; one
//! that is old was left by a process that died. Source: restic's design document, "Locks", and `internal/restic/lock.go`.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use contract::Clock;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::{Fault, FaultKind};
use crate::objects::Objects;
use crate::seal::{Key, name_of};

/// Before the `@` of the host in our locks. restic signals the process in a lock whose host is its own, and takes the lock
/// away if there is none; with a name of another host it looks at the age alone, also where we run in a container.
const HOST_PREFIX: &str = "steward@";

/// How old a lock is when restic takes it for a dead one's.
pub(crate) const STALE: SignedDuration = SignedDuration::from_mins(30);

/// The times of a lock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// Between writing a lock and looking whether another wrote one at the same moment.
    pub(crate) settle: Duration,
    /// Between two renewals.
    pub(crate) renew: Duration,
    /// A lock that could not be renewed for so long no longer protects.
    pub(crate) lost: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(200),
            renew: Duration::from_mins(5),
            lost: Duration::from_mins(20),
        }
    }
}

/// Whether others may work beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    Shared,
    Exclusive,
    /// As `Shared`, and kept out by nothing but another program that is at work: a restore must not wait for what a dead
    /// process or damage has left, and our own pruning harms no reader.
    Reading,
}

/// A lock as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) time: Timestamp,
    pub(crate) exclusive: bool,
    #[serde(default)]
    pub(crate) hostname: String,
    #[serde(default)]
    pub(crate) username: String,
    #[serde(default)]
    pub(crate) pid: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) uid: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) gid: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The shape that serde asks for.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Record {
    fn new(now: Timestamp, sharing: Sharing) -> Self {
        Self {
            time: now,
            exclusive: sharing == Sharing::Exclusive,
            hostname: format!("{HOST_PREFIX}{}", hostname()),
            username: "steward".into(),
            pid: std::process::id(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        }
    }

    /// Left by a Steward of this machine that died.
    pub(crate) fn is_our_dead(&self, now: Timestamp) -> bool {
        self.hostname == format!("{HOST_PREFIX}{}", hostname()) && self.is_stale(now)
    }

    pub(crate) fn is_stale(&self, now: Timestamp) -> bool {
        now.duration_since(self.time) > STALE
    }

    pub(crate) fn holder(&self) -> String {
        let how = if self.exclusive { "exclusively " } else { "" };
        format!(
            "{how}by `{}` on `{}`, process {}, since {}",
            self.username, self.hostname, self.pid, self.time
        )
    }
}

/// The name of this machine.
pub(crate) fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

/// A lock file and what it says; `None` where it cannot be read with this key.
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) record: Option<Record>,
}

/// All locks that are there.
pub(crate) fn seen(objects: &dyn Objects, key: &Key) -> Result<Vec<Seen>, Fault> {
    let mut seen = Vec::new();
    for found in objects.list("locks")? {
        let sealed = match objects.read(&found.path) {
            Ok(sealed) => sealed,
            Err(fault) if fault.kind == FaultKind::Missing => continue,
            Err(fault) => return Err(fault),
        };
        let record = key.open_record(&sealed).and_then(|json| serde_json::from_slice(&json).ok());
        seen.push(Seen { path: found.path, bytes: sealed.len() as u64, record });
    }
    Ok(seen)
}

/// Whether a lock is there; a listing may be older than the lock.
fn is_there(objects: &dyn Objects, path: &str) -> Result<bool, Fault> {
    if objects.list("locks")?.iter().any(|found| found.path == path) {
        return Ok(true);
    }
    match objects.read(path) {
        Ok(_) => Ok(true),
        Err(fault) if fault.kind == FaultKind::Missing => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Refuses if somebody's lock stands against ours.
fn look(objects: &dyn Objects, key: &Key, sharing: Sharing, now: Timestamp, mine: &str) -> Result<(), Fault> {
    for other in seen(objects, key)?.into_iter().filter(|other| other.path != mine) {
        let Some(record) = &other.record else {
            // restic leaves an empty file where it was killed while it wrote.
            if other.bytes == 0 || sharing == Sharing::Reading {
                continue;
            }
            return Err(Fault::new(
                FaultKind::Locked,
                format!("the lock `{}` cannot be read, so it may be an exclusive one", other.path),
            )
            .hint("if nobody uses the repository, remove it with `restic unlock --remove-all`"));
        };
        if record.is_our_dead(now) {
            if sharing != Sharing::Reading {
                objects.remove(&other.path)?;
            }
        } else if sharing == Sharing::Reading
            && (record.is_stale(now) || record.hostname.starts_with(HOST_PREFIX))
        {
            // Our own work deletes nothing that was needed within two days; restic's does so at once.
            tracing::debug!(lock = other.path, "a lock is passed over, because nothing is written");
        } else if record.exclusive || sharing == Sharing::Exclusive {
            let hint = if record.is_stale(now) {
                "its holder has not renewed it for half an hour; if that process is dead, run `restic unlock`"
            } else {
                "wait for it to end, then run this again"
            };
            return Err(Fault::new(
                FaultKind::Locked,
                format!("the repository is locked {}", record.holder()),
            )
            .hint(hint));
        }
    }
    Ok(())
}

struct State {
    path: String,
    renewed: Instant,
    /// By the wall clock, which goes on while the machine sleeps.
    renewed_at: Timestamp,
    ended: bool,
}

struct Inner {
    objects: Arc<dyn Objects>,
    key: Arc<Key>,
    clock: Arc<dyn Clock>,
    sharing: Sharing,
    timing: Timing,
    state: Mutex<State>,
    changed: Condvar,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, now: Timestamp) -> Result<String, Fault> {
        let json =
            serde_json::to_vec(&Record::new(now, self.sharing)).expect("numbers and texts become JSON");
        let sealed = self.key.seal(&json)?;
        let path = format!("locks/{}", name_of(&sealed));
        self.objects.create(&path, &[sealed.into()])?;
        Ok(path)
    }

    /// Writes the lock anew, then takes the old one away; never the other way round.
    fn renew(&self) -> Result<(), Fault> {
        let now = self.clock.now();
        let begun = Instant::now();
        let old = self.state().path.clone();
        // Somebody took it away, with `restic unlock --remove-all`: what we had protected may have changed since.
        if !is_there(&*self.objects, &old)? {
            return Err(lost("somebody removed our lock"));
        }
        let new = self.write(now)?;
        let mut state = self.state();
        state.path = new;
        state.renewed = begun;
        state.renewed_at = now;
        drop(state);
        if let Err(fault) = self.objects.remove(&old) {
            tracing::warn!(error = %fault, "an old lock stays");
        }
        Ok(())
    }

    fn keep(&self) {
        // An attempt that fails is repeated before the lock counts as lost.
        let pause = self.timing.renew;
        let mut wait = pause;
        loop {
            let state = self.state();
            let (state, _) = self
                .changed
                .wait_timeout_while(state, wait, |state| !state.ended)
                .unwrap_or_else(PoisonError::into_inner);
            if state.ended {
                return;
            }
            drop(state);
            wait = match self.renew() {
                Ok(()) => pause,
                Err(fault) => {
                    tracing::warn!(error = %fault, "the repository's lock could not be renewed");
                    pause / 5
                }
            };
        }
    }
}

fn lost(why: &str) -> Fault {
    Fault::new(FaultKind::Locked, format!("the lock on the repository was lost: {why}"))
        .hint("nothing was recorded; run it again")
}

/// A lock that is ours; dropped, it is given back.
pub(crate) struct Held {
    inner: Arc<Inner>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl Held {
    /// Takes the lock, or says who has it.
    pub(crate) fn take(
        objects: &Arc<dyn Objects>,
        key: &Arc<Key>,
        clock: &Arc<dyn Clock>,
        sharing: Sharing,
        timing: Timing,
    ) -> Result<Self, Fault> {
        look(&**objects, key, sharing, clock.now(), "")?;
        let now = clock.now();
        let inner = Arc::new(Inner {
            objects: Arc::clone(objects),
            key: Arc::clone(key),
            clock: Arc::clone(clock),
            sharing,
            timing,
            state: Mutex::new(State {
                path: String::new(),
                renewed: Instant::now(),
                renewed_at: now,
                ended: false,
            }),
            changed: Condvar::new(),
        });
        let path = inner.write(now)?;
        inner.state().path.clone_from(&path);
        // From here on dropping it gives the lock back.
        let held = Self { inner, keeper: Mutex::new(None) };
        std::thread::sleep(timing.settle);
        look(&**objects, key, sharing, clock.now(), &path)?;
        let inner = Arc::clone(&held.inner);
        let keeper = std::thread::Builder::new().name("repository-lock".into()).spawn(move || inner.keep());
        let keeper = keeper.map_err(|error| Fault::io("start a thread for", "locks", &error))?;
        held.keeper.lock().unwrap_or_else(PoisonError::into_inner).replace(keeper);
        Ok(held)
    }

    /// Whether the lock still protects, by what this process knows.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let state = self.inner.state();
        if state.ended {
            return Err(lost("it was given back"));
        }
        let asleep = self.inner.clock.now().duration_since(state.renewed_at).unsigned_abs();
        if state.renewed.elapsed().max(asleep) > self.inner.timing.lost {
            return Err(lost("it could not be renewed for too long"));
        }
        Ok(())
    }

    /// The same by what lies in the repository: our lock is there, and none that excludes it.
    pub(crate) fn check_there(&self) -> Result<(), Fault> {
        self.check()?;
        // A renewal between the two looks changes the name; once more is enough, renewals are minutes apart.
        for attempt in 0..2 {
            let path = self.inner.state().path.clone();
            if is_there(&*self.inner.objects, &path)? {
                return look(
                    &*self.inner.objects,
                    &self.inner.key,
                    self.inner.sharing,
                    self.inner.clock.now(),
                    &path,
                );
            }
            if attempt == 0 && self.inner.state().path == path {
                break;
            }
        }
        Err(lost("somebody removed it"))
    }
}

impl Held {
    /// Gives the lock back, once. The library's threads may keep what holds it for a moment after the work has ended.
    pub(crate) fn release(&self) {
        if std::mem::replace(&mut self.inner.state().ended, true) {
            return;
        }
        self.inner.changed.notify_all();
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper
            && keeper.join().is_err()
        {
            tracing::error!("the thread that renews the repository's lock panicked");
        }
        let path = self.inner.state().path.clone();
        if let Err(fault) = self.inner.objects.remove(&path) {
            tracing::warn!(error = %fault, "the repository's lock stays until it is cleaned");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}
