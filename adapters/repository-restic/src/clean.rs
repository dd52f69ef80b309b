//! Taking away what interrupted runs have left, and putting aside what keeps the repository from being used.

use std::sync::Arc;

use contract::Context;
use jiff::SignedDuration;
use rustic_core::RepairIndexOptions;

use crate::backend::{Access, Backend, id_of, read_named};
use crate::check;
use crate::error::{Fault, FaultKind, OrFault};
use crate::keyfile;
use crate::lock::{self, Sharing};
use crate::place::Place;
use crate::seal::Key;

/// Nobody writes one file for so long.
const UNFINISHED_AGE: SignedDuration = SignedDuration::from_hours(24);

/// Cleans one repository; gives what was done.
pub(crate) fn clean(ctx: &Context, place: &Place, key: &Arc<Key>) -> Result<Vec<String>, Fault> {
    let mut done = Vec::new();
    let folder = place.folder();
    let objects = &*place.objects;
    let now = ctx.now();
    place.refuse_foreign(key)?;
    for found in objects.unfinished()? {
        if now.duration_since(found.modified) > UNFINISHED_AGE {
            objects.remove(&found.path)?;
            done.push(format!("{folder}: removed `{}`, which was never finished", found.path));
        }
    }
    for seen in lock::seen(objects, key)? {
        match &seen.record {
            Some(record) if record.is_our_dead(now) => {
                objects.remove(&seen.path)?;
                done.push(format!("{folder}: removed a dead lock, held {}", record.holder()));
            }
            Some(record) if record.is_stale(now) => done.push(format!(
                "{folder}: left a lock that nobody renews, held {}; `restic unlock` removes it",
                record.holder()
            )),
            _ => {}
        }
    }
    match place.look(key) {
        Ok(_) => {}
        Err(fault) if fault.kind == FaultKind::Damaged => {
            let _held = place.lock(key, &ctx.clock(), Sharing::Exclusive)?;
            match objects.put_aside("config", &aside("config", ctx)) {
                Ok(()) => {}
                Err(missing) if missing.kind == FaultKind::Missing => {}
                Err(other) => return Err(other),
            }
            place.write_config(ctx, key)?;
            done.push(format!("{folder}: wrote a new config, because {fault}"));
        }
        Err(fault) => return Err(fault),
    }
    let mut indexes = Vec::new();
    for kind in ["snapshots", "keys", "data", "index"] {
        for found in objects.list(kind)? {
            if id_of(&found.path).is_none() {
                continue;
            }
            let is_bad = found.bytes == 0
                || (kind == "index"
                    && read_named(objects, &found.path).is_err_and(|fault| fault.kind == FaultKind::Damaged));
            if !is_bad {
                continue;
            }
            if kind == "index" {
                indexes.push(found.path);
            } else {
                objects.put_aside(&found.path, &aside(&found.path, ctx))?;
                done.push(format!("{folder}: put `{}` aside, which is empty", found.path));
            }
        }
    }
    // What an index says is in the packs too, so one that cannot be read costs nothing but reading them.
    if !indexes.is_empty() || check::lacks_index(ctx, place, key)? {
        let held = Arc::new(place.lock(key, &ctx.clock(), Sharing::Exclusive)?);
        for path in indexes {
            objects.put_aside(&path, &aside(&path, ctx))?;
            done.push(format!("{folder}: put `{path}` aside, which is damaged"));
        }
        let backend = Backend::new(ctx, &place.objects, Access::RepairIndex(Arc::clone(&held), key.copy()));
        let repaired = backend
            .open(key)
            .and_then(|repository| {
                repository.repair_index(&RepairIndexOptions::default(), false).or_fault("make a new index")
            })
            .map_err(|fault| backend.explain(fault));
        held.release();
        repaired?;
        done.push(format!("{folder}: wrote a new index of what the packs say"));
    }
    Ok(done)
}

/// Makes keys whole whose file one of both has lost: half of a key restores half of the backups.
pub(crate) fn keys(ctx: &Context, places: &[Place; 2], key: &Arc<Key>) -> Result<Vec<String>, Fault> {
    let mut done = Vec::new();
    if lacking(places)?.is_empty() {
        return Ok(done);
    }
    // Whoever takes a key away has a lock there; what is half because of that is looked at next time.
    let [stream, _] = places;
    let held = match stream.lock(key, &ctx.clock(), Sharing::Exclusive) {
        Err(fault) if fault.kind == FaultKind::Locked => return Ok(done),
        held => held?,
    };
    for Lacking { path, from, to, is_damaged } in lacking(places)? {
        let content = read_named(&*from.objects, &path)?;
        if is_damaged {
            to.objects.put_aside(&path, &aside(&path, ctx))?;
            done.push(format!("{}: put `{path}` aside, which is damaged", to.folder()));
        }
        to.objects.create(&path, &[content])?;
        if held.check_there().is_err() {
            // Somebody has begun to take it away since.
            to.objects.remove(&path)?;
            return Ok(done);
        }
        done.push(format!("{}: wrote `{path}` again, as {} has it", to.folder(), from.folder()));
    }
    held.release();
    Ok(done)
}

/// A key of which one place has a sound file and the other has none.
struct Lacking<'a> {
    path: String,
    from: &'a Place,
    to: &'a Place,
    is_damaged: bool,
}

fn lacking([stream, pages]: &[Place; 2]) -> Result<Vec<Lacking<'_>>, Fault> {
    let mut lacking = Vec::new();
    let files = [keyfile::key_files(&*stream.objects)?, keyfile::key_files(&*pages.objects)?];
    for (from, to, had, others) in
        [(stream, pages, &files[0], &files[1]), (pages, stream, &files[1], &files[0])]
    {
        for (id, _) in had.iter().filter(|(_, file)| file.as_ref().is_ok_and(|file| file.check().is_ok())) {
            let is_damaged = match others.iter().find(|(other, _)| other == id) {
                None => false,
                Some((_, Err(fault))) if fault.kind == FaultKind::Damaged => true,
                Some(_) => continue,
            };
            lacking.push(Lacking { path: format!("keys/{id}"), from, to, is_damaged });
        }
    }
    Ok(lacking)
}

/// Where a file is put that must not be where it is.
fn aside(path: &str, ctx: &Context) -> String {
    format!("aside/{}-{}", ctx.now().as_second(), path.replace('/', "-"))
}
