//! A bucket of S3 or of a server that speaks as S3 does.
//!
//! Objects are written once, under a condition where the server knows it. A bucket with object lock keeps every version:
//! what is written over an object is then a version beside it, and the first one with the right bytes is read.

mod answer;
mod client;
mod file;
mod pace;
mod sign;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use md5::{Digest as _, Md5};

#[cfg(test)]
pub(crate) use self::client::Call;
pub(crate) use self::client::{Client, Identity, Settings};
#[cfg(test)]
pub(crate) use self::pace::Nap;
pub(crate) use self::pace::{Pace, RealNap};

use self::answer::Element;
use self::client::Answer;
#[cfg(not(test))]
use self::client::Call;
use self::file::Content;
use crate::config::{LockMode, ObjectLock};
use crate::error::{Fault, FaultKind};
use crate::objects::{Found, Objects};
use crate::seal::name_of;

/// An object that is longer is written in parts of this length.
const PART_BYTES: usize = 32 << 20;
/// Where the upload of an object that was never finished is listed, before its id and its path.
const UPLOADS: &str = "uploads/";
/// More pages than a bucket of a billion objects has: a server that never ends is not believed.
const PAGES_MAX: usize = 1_000_000;
/// Where it is written down when locks were last prolonged, by the seconds since 1970.
const PROLONGED: &str = "prolonged";
/// What is taken away again by whoever wrote it, and so never locked.
pub(crate) const LOCKS: &str = "locks/";
/// Files of archives; a repository has none.
pub(crate) const ARCHIVES: &str = "archives/";

/// A version of an object.
#[derive(Debug, Clone)]
struct Version {
    id: String,
    is_latest: bool,
    /// It says that the object was removed.
    is_marker: bool,
    bytes: u64,
    modified: Timestamp,
}

/// The objects of a bucket below a prefix.
pub(crate) struct Bucket {
    client: Arc<Client>,
    who: Arc<Identity>,
    /// Without a `/` at its end; may be empty.
    root: String,
    lock: Option<ObjectLock>,
    /// Whether the server knows `If-None-Match`.
    conditional: AtomicBool,
    part_bytes: usize,
    /// Versions to read instead of the latest, by path.
    chosen: Mutex<HashMap<String, String>>,
    looked: OnceLock<()>,
    /// Versions of our own locks, so that nothing is left of them.
    own: Mutex<HashMap<String, String>>,
}

fn odd(what: &str) -> Fault {
    Fault::new(FaultKind::Unavailable, format!("the server's answer is not understood: {what}"))
}

fn time(text: Option<&str>) -> Timestamp {
    text.and_then(|text| text.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Whether a path ends with the hash of the object's bytes.
fn is_named(path: &str) -> bool {
    crate::backend::id_of(path).is_some() && !path.starts_with(LOCKS)
}

impl Bucket {
    pub(crate) fn new(client: Arc<Client>, who: Arc<Identity>, root: &str, lock: Option<ObjectLock>) -> Self {
        Self {
            client,
            who,
            root: root.trim_matches('/').to_owned(),
            lock,
            conditional: AtomicBool::new(true),
            part_bytes: PART_BYTES,
            chosen: Mutex::default(),
            looked: OnceLock::new(),
            own: Mutex::default(),
        }
    }

    /// The same with other parts.
    #[cfg(test)]
    pub(crate) fn with_part_bytes(mut self, bytes: usize) -> Self {
        self.part_bytes = bytes;
        self
    }

    /// Versions of an object, the newest first.
    #[cfg(test)]
    pub(crate) fn versions_of(&self, path: &str) -> Result<Vec<String>, Fault> {
        let versions = self.versions(path)?.remove(path).unwrap_or_default();
        Ok(versions.into_iter().filter(|version| !version.is_marker).map(|version| version.id).collect())
    }

    #[cfg(test)]
    pub(crate) fn delete_version(&self, path: &str, id: &str) -> Result<(), Fault> {
        self.delete(path, Some(id)).map(|_| ())
    }

    fn key(&self, path: &str) -> String {
        if self.root.is_empty() { path.to_owned() } else { format!("{}/{path}", self.root) }
    }

    /// The path of a key below the prefix.
    fn path<'a>(&self, key: &'a str) -> Option<&'a str> {
        if self.root.is_empty() { Some(key) } else { key.strip_prefix(&self.root)?.strip_prefix('/') }
    }

    fn chosen(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, call: &Call<'_>, judged: &[u16]) -> Result<Answer, Fault> {
        self.client.call(&self.who, call, judged)
    }

    /// Pages of a listing: gives each page, and asks for the next with the query that `next` makes of it.
    fn pages(
        &self,
        doing: &str,
        query: &[(&'static str, String)],
        mut page: impl FnMut(&Element) -> Option<Vec<(&'static str, String)>>,
    ) -> Result<(), Fault> {
        let mut more: Vec<(&'static str, String)> = Vec::new();
        for _ in 0..PAGES_MAX {
            let query = query.iter().chain(&more).cloned().collect();
            let answer = self.call(&Call { query, doing, ..Call::default() }, &[])?;
            let document = Element::read(&answer.body).ok_or_else(|| odd("a listing is no XML"))?;
            let next = page(&document);
            if document.text("IsTruncated") != Some("true") {
                return Ok(());
            }
            match next {
                Some(next) if next != more => more = next,
                _ => return Err(odd("a listing that goes on does not say where")),
            }
        }
        Err(odd("a listing does not end"))
    }

    fn objects(&self, folder: &str) -> Result<Vec<Found>, Fault> {
        let mut found = Vec::new();
        let query = [("list-type", "2".to_owned()), ("prefix", self.key(&format!("{folder}/")))];
        let mut bad = false;
        self.pages("list", &query, |page| {
            for object in page.all("Contents") {
                let (Some(key), Some(bytes)) = (object.text("Key"), object.text("Size")) else {
                    bad = true;
                    continue;
                };
                let (Some(path), Ok(bytes)) = (self.path(key), bytes.parse()) else {
                    bad = true;
                    continue;
                };
                // Some programs make empty objects for folders.
                if !path.ends_with('/') {
                    found.push(Found {
                        path: path.to_owned(),
                        bytes,
                        modified: time(object.text("LastModified")),
                    });
                }
            }
            Some(vec![("continuation-token", page.text("NextContinuationToken")?.to_owned())])
        })?;
        if bad { Err(odd("a listing has an object without name or size")) } else { Ok(found) }
    }

    /// All versions of the objects whose keys begin so, the newest first, by path.
    fn versions(&self, prefix: &str) -> Result<BTreeMap<String, Vec<Version>>, Fault> {
        let mut found: BTreeMap<String, Vec<Version>> = BTreeMap::new();
        let query = [("versions", String::new()), ("prefix", self.key(prefix))];
        self.pages("list the versions of", &query, |page| {
            for element in
                page.each().filter(|element| matches!(element.name.as_str(), "Version" | "DeleteMarker"))
            {
                let (Some(key), Some(id)) = (element.text("Key"), element.text("VersionId")) else {
                    continue;
                };
                let Some(path) = self.path(key) else { continue };
                found.entry(path.to_owned()).or_default().push(Version {
                    id: id.to_owned(),
                    is_latest: element.text("IsLatest") == Some("true"),
                    is_marker: element.name == "DeleteMarker",
                    bytes: element.text("Size").and_then(|size| size.parse().ok()).unwrap_or(0),
                    modified: time(element.text("LastModified")),
                });
            }
            let key = page.text("NextKeyMarker")?.to_owned();
            let mut next = vec![("key-marker", key)];
            next.extend(page.text("NextVersionIdMarker").map(|id| ("version-id-marker", id.to_owned())));
            Some(next)
        })?;
        Ok(found)
    }

    fn get(&self, path: &str, version: Option<&str>, range: Option<(u64, u64)>) -> Result<Answer, Fault> {
        let query = version.map(|id| ("versionId", id.to_owned())).into_iter().collect();
        let headers =
            range.map(|(start, end)| ("range", format!("bytes={start}-{end}"))).into_iter().collect();
        self.call(&Call { key: &self.key(path), query, headers, doing: "read", ..Call::default() }, &[416])
    }

    /// Of several versions of an object that is named after its bytes, the first that has them; else the latest.
    fn sound<'a>(&self, path: &str, versions: &'a [Version]) -> Result<Option<&'a Version>, Fault> {
        let name = path.rsplit('/').next().unwrap_or_default();
        for version in versions.iter().rev().filter(|version| !version.is_marker) {
            match self.get(path, Some(&version.id), None) {
                Ok(answer) if name_of(&answer.body) == name => return Ok(Some(version)),
                Ok(_) => {}
                Err(fault) if fault.kind == FaultKind::Missing => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(None)
    }

    /// The objects of a folder where each has its versions: what was written over one is passed by.
    fn listed_by_version(&self, folder: &str) -> Result<Vec<Found>, Fault> {
        let mut found = Vec::new();
        for (path, versions) in self.versions(&format!("{folder}/"))? {
            let Some(latest) = versions.iter().find(|version| version.is_latest).or(versions.first()) else {
                continue;
            };
            // Removed by a pruning; its bytes wait for the end of their retention.
            if latest.is_marker {
                continue;
            }
            let mut meant = latest;
            let several = versions.iter().filter(|version| !version.is_marker).count() > 1;
            if several
                && is_named(&path)
                && let Some(sound) = self.sound(&path, &versions)?
            {
                if sound.id != latest.id {
                    tracing::warn!(path, "an object was written over; its first version is read");
                    self.chosen().insert(path.clone(), sound.id.clone());
                }
                meant = sound;
            }
            found.push(Found { path: path.clone(), bytes: meant.bytes, modified: meant.modified });
        }
        Ok(found)
    }

    /// The version to read, where it is not the latest.
    fn version_of(&self, path: &str) -> Result<Option<String>, Fault> {
        if self.lock.is_none() {
            return Ok(None);
        }
        // Its name says nothing of its bytes, and it is written once: the first counts since it was last put aside.
        if path == "config" || path.starts_with(ARCHIVES) {
            let versions = self.versions(path)?.remove(path).unwrap_or_default();
            let since = versions.iter().take_while(|version| !version.is_marker);
            return Ok(since.last().map(|version| version.id.clone()));
        }
        if !is_named(path) {
            return Ok(None);
        }
        // Packs are read in pieces, which tell nothing of their hash: once it is looked whether any was written over.
        if path.starts_with("data/") && self.looked.get().is_none() {
            self.listed_by_version("data")?;
            self.looked.get_or_init(|| ());
        }
        Ok(self.chosen().get(path).cloned())
    }

    fn lock_headers(&self, path: &str, body: &Bytes) -> Vec<(&'static str, String)> {
        match &self.lock {
            Some(lock) if !path.starts_with(LOCKS) => vec![
                ("x-amz-object-lock-mode", lock.mode.as_s3().to_owned()),
                ("x-amz-object-lock-retain-until-date", self.until(*lock).to_string()),
                // The server wants to be sure of the bytes that it will have to keep.
                ("content-md5", STANDARD.encode(Md5::digest(body))),
            ],
            _ => Vec::new(),
        }
    }

    fn until(&self, lock: ObjectLock) -> Timestamp {
        let until = self.client.clock.now() + SignedDuration::from_hours(24 * i64::from(lock.days));
        Timestamp::from_second(until.as_second()).unwrap_or(until)
    }

    /// Whether an object with these bytes is there.
    fn holds(&self, path: &str, content: &Bytes) -> Result<Option<bool>, Fault> {
        match self.get(path, None, None) {
            Ok(answer) => Ok(Some(answer.body == *content)),
            Err(fault) if fault.kind == FaultKind::Missing => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn taken(path: &str) -> Fault {
        Fault::new(FaultKind::Locked, format!("`{path}` is there already with other bytes"))
    }

    fn put(&self, path: &str, body: &Bytes) -> Result<(), Fault> {
        let key = self.key(path);
        let mut call =
            Call { method: Method::PUT, key: &key, body: body.clone(), doing: "write", ..Call::default() };
        call.headers = self.lock_headers(path, body);
        if self.conditional.load(Ordering::Relaxed) {
            call.headers.push(("if-none-match", "*".to_owned()));
            let answer = self.call(&call, &[412, 501])?;
            if answer.status == 412 {
                // An attempt whose answer was lost wrote it, or somebody else did.
                return match self.holds(path, body)? {
                    Some(true) => Ok(()),
                    Some(false) => Err(Self::taken(path)),
                    None => Err(Fault::new(
                        FaultKind::Unavailable,
                        format!("cannot write `{path}`: it was there and is not"),
                    )),
                };
            }
            if answer.status != 501 {
                self.remember(path, &answer);
                return Ok(());
            }
            self.conditional.store(false, Ordering::Relaxed);
            call.headers.pop();
        }
        match self.holds(path, body)? {
            Some(true) => return Ok(()),
            Some(false) => return Err(Self::taken(path)),
            None => {}
        }
        let answer = self.call(&call, &[])?;
        self.remember(path, &answer);
        Ok(())
    }

    fn remember(&self, path: &str, answer: &Answer) {
        if path.starts_with(LOCKS)
            && let Some(version) = answer.header("x-amz-version-id").filter(|id| *id != "null")
        {
            self.own().insert(path.to_owned(), version.to_owned());
        }
    }

    /// Writes an object in parts; nothing is left of it after an error, as far as the server can be reached.
    fn put_in_parts(&self, path: &str, content: &Content<'_>) -> Result<(), Fault> {
        match self.holds_all(path, content)? {
            Some(true) => return Ok(()),
            Some(false) => return Err(Self::taken(path)),
            None => {}
        }
        let key = self.key(path);
        let begin = Call {
            method: Method::POST,
            key: &key,
            query: vec![("uploads", String::new())],
            headers: self
                .lock_headers(path, &Bytes::new())
                .into_iter()
                .filter(|(name, _)| *name != "content-md5")
                .collect(),
            doing: "begin the upload of",
            ..Call::default()
        };
        let answer = self.call(&begin, &[])?;
        let id = Element::read(&answer.body)
            .and_then(|document| document.text("UploadId").map(str::to_owned))
            .ok_or_else(|| odd("an upload has no id"))?;
        let finished = self.upload(&key, &id, content);
        if let Err(fault) = finished {
            // The answer may have been lost, and the object be there.
            if matches!(self.holds_all(path, content), Ok(Some(true))) {
                return Ok(());
            }
            if let Err(left) = self.abort(&key, &id) {
                tracing::warn!(error = %left, "an upload that was not finished stays until it is cleaned");
            }
            return Err(fault);
        }
        Ok(())
    }

    fn upload(&self, key: &str, id: &str, content: &Content<'_>) -> Result<(), Fault> {
        let mut parts = Vec::new();
        for (number, start) in (1_u32..).zip((0..content.bytes()).step_by(self.part_bytes)) {
            let piece = content.piece(start, self.part_bytes)?;
            let call = Call {
                method: Method::PUT,
                key,
                query: vec![("partNumber", number.to_string()), ("uploadId", id.to_owned())],
                headers: vec![("content-md5", STANDARD.encode(Md5::digest(&piece)))],
                body: piece,
                doing: "write a part of",
            };
            let answer = self.call(&call, &[])?;
            let etag = answer.header("etag").ok_or_else(|| odd("a part has no tag"))?;
            let etag = etag.replace('&', "&amp;").replace('<', "&lt;");
            parts.push(format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"));
        }
        let end = Call {
            method: Method::POST,
            key,
            query: vec![("uploadId", id.to_owned())],
            headers: vec![("if-none-match", "*".to_owned())],
            body: format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", parts.concat()).into(),
            doing: "finish the upload of",
        };
        let answer = self.call(&end, &[])?;
        // A failure may come after the server has begun to answer with a success.
        match Element::read(&answer.body) {
            Some(document) if document.name != "Error" => Ok(()),
            _ => Err(odd("an upload was not finished")),
        }
    }

    fn abort(&self, key: &str, id: &str) -> Result<(), Fault> {
        let call = Call {
            method: Method::DELETE,
            key,
            query: vec![("uploadId", id.to_owned())],
            doing: "give up the upload of",
            ..Call::default()
        };
        self.call(&call, &[404]).map(|_| ())
    }

    fn delete(&self, path: &str, version: Option<&str>) -> Result<Answer, Fault> {
        let query = version.map(|id| ("versionId", id.to_owned())).into_iter().collect();
        let call =
            Call { method: Method::DELETE, key: &self.key(path), query, doing: "remove", ..Call::default() };
        self.call(&call, &[404])
    }

    /// What the bucket says of itself; `None` where it has no such setting.
    fn bucket_setting(&self, name: &'static str) -> Result<Option<Element>, Fault> {
        let call =
            Call { query: vec![(name, String::new())], doing: "ask for the settings of", ..Call::default() };
        let answer = self.call(&call, &[404])?;
        let document = Element::read(&answer.body);
        if answer.status == 404 {
            return match document.as_ref().and_then(|it| it.text("Code")) {
                Some("NoSuchBucket") => {
                    // The same question once more, so that it is answered with words.
                    self.call(&call, &[])?;
                    Ok(None)
                }
                _ => Ok(None),
            };
        }
        document.map(Some).ok_or_else(|| odd("a setting is no XML"))
    }

    /// Whether the bucket keeps versions and can lock them.
    fn can_lock(&self) -> Result<bool, Fault> {
        let versioning = self.bucket_setting("versioning")?;
        if versioning.as_ref().and_then(|it| it.text("Status")) != Some("Enabled") {
            return Ok(false);
        }
        let lock = self.bucket_setting("object-lock")?;
        Ok(lock.as_ref().and_then(|it| it.text("ObjectLockEnabled")) == Some("Enabled"))
    }

    /// Until when an object is locked.
    pub(crate) fn retained(&self, path: &str) -> Result<Option<Timestamp>, Fault> {
        let version = self.chosen().get(path).cloned();
        let query = version.map(|id| ("versionId", id)).into_iter().collect();
        let key = self.key(path);
        let call = Call { method: Method::HEAD, key: &key, query, doing: "look at", ..Call::default() };
        let answer = self.call(&call, &[])?;
        Ok(answer.header("x-amz-object-lock-retain-until-date").and_then(|date| date.parse().ok()))
    }

    /// Whether our own credentials may remove what backups need: asked for an object that is not there.
    fn may_remove(&self) -> Result<bool, Fault> {
        let path = format!("data/00/{}", "0".repeat(64));
        match self.delete(&path, None) {
            Ok(answer) => {
                // Where versions are kept, removing nothing leaves a mark.
                if let Some(marker) = answer.header("x-amz-version-id").filter(|id| *id != "null") {
                    self.delete(&path, Some(marker)).ok();
                }
                Ok(true)
            }
            Err(fault) if fault.kind == FaultKind::Denied => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Locks again what was written so long ago and is locked for less than half of the time.
    pub(crate) fn prolong_older_than(&self, age: SignedDuration) -> Result<u64, Fault> {
        let Some(lock) = &self.lock else { return Ok(0) };
        let now = self.client.clock.now();
        let half = SignedDuration::from_hours(12 * i64::from(lock.days));
        let until = self.until(*lock);
        let mut prolonged = 0_u64;
        let mut found = Vec::new();
        for folder in ["data", "index", "snapshots", "keys", "log"] {
            found.extend(self.list(folder)?);
        }
        let config = Found { path: "config".into(), bytes: 0, modified: Timestamp::UNIX_EPOCH };
        for object in found.into_iter().chain([config]) {
            // A lock lasts from when an object was written, or from when it was prolonged.
            if now.duration_since(object.modified) < age {
                continue;
            }
            if self.retained(&object.path)?.is_some_and(|until| until.duration_since(now) >= half) {
                continue;
            }
            let body = Bytes::from(format!(
                "<Retention><Mode>{}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>",
                lock.mode.as_s3()
            ));
            let mut query = vec![("retention", String::new())];
            query.extend(self.chosen().get(&object.path).map(|id| ("versionId", id.clone())));
            let call = Call {
                method: Method::PUT,
                key: &self.key(&object.path),
                query,
                headers: vec![("content-md5", STANDARD.encode(Md5::digest(&body)))],
                body,
                doing: "lock",
            };
            self.call(&call, &[])?;
            prolonged += 1;
        }
        Ok(prolonged)
    }

    fn without_lock(&self) -> Fault {
        Fault::new(
            FaultKind::Invalid,
            format!(
                "`object_lock` is set, and the bucket `{}` has no object lock",
                self.client.settings.bucket
            ),
        )
        .hint("make a bucket with versioning and object lock, or remove `object_lock`")
    }
}

impl Objects for Bucket {
    fn address(&self) -> String {
        self.client.settings.address(&self.root)
    }

    fn prepare(&self) -> Result<(), Fault> {
        if self.lock.is_some() && !self.can_lock()? {
            return Err(self.without_lock());
        }
        Ok(())
    }

    fn list(&self, folder: &str) -> Result<Vec<Found>, Fault> {
        if self.lock.is_some() && !format!("{folder}/").starts_with(LOCKS) {
            return self.listed_by_version(folder);
        }
        self.objects(folder)
    }

    fn read(&self, path: &str) -> Result<Bytes, Fault> {
        let version = self.version_of(path)?;
        let bytes = self.get(path, version.as_deref(), None)?.body;
        if !is_named(path) || path.rsplit('/').next() == Some(&name_of(&bytes)) {
            return Ok(bytes);
        }
        // Changed on its way, or in its place; the second time tells, and where versions are kept the first of them.
        if self.lock.is_some()
            && let Some(versions) = self.versions(path)?.remove(path)
            && let Some(sound) = self.sound(path, &versions)?
        {
            tracing::warn!(path, "an object was written over; its first version is read");
            self.chosen().insert(path.to_owned(), sound.id.clone());
            return Ok(self.get(path, Some(&sound.id), None)?.body);
        }
        Ok(self.get(path, version.as_deref(), None)?.body)
    }

    fn read_range(&self, path: &str, start: u64, length: u64) -> Result<Bytes, Fault> {
        let short = || Fault::damaged(path, "it is too short");
        let Some(last) = length.checked_sub(1) else { return Ok(Bytes::new()) };
        let version = self.version_of(path)?;
        let end = start.checked_add(last).ok_or_else(short)?;
        let answer = self.get(path, version.as_deref(), Some((start, end)))?;
        let bytes = match answer.status {
            206 => answer.body,
            // A server that knows no ranges.
            200 => {
                let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
                let range = range.filter(|(_, end)| *end < answer.body.len());
                range.map(|(start, end)| answer.body.slice(start..=end)).ok_or_else(short)?
            }
            _ => return Err(short()),
        };
        if bytes.len() as u64 == length { Ok(bytes) } else { Err(short()) }
    }

    fn create(&self, path: &str, content: &[Bytes]) -> Result<(), Fault> {
        let body = match content {
            [one] => one.clone(),
            pieces => pieces.concat().into(),
        };
        let written = if body.len() > self.part_bytes {
            self.put_in_parts(path, &Content::Held(&body))
        } else {
            self.put(path, &body)
        };
        // It was written while nobody told us so.
        match written {
            Err(fault)
                if fault.kind == FaultKind::Unavailable
                    && matches!(self.holds(path, &body), Ok(Some(true))) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    fn remove(&self, path: &str) -> Result<(), Fault> {
        if let Some((id, path)) = path.strip_prefix(UPLOADS).and_then(|rest| rest.split_once('/')) {
            return self.abort(&self.key(path), id);
        }
        let version = self.own().remove(path);
        match self.delete(path, version.as_deref()) {
            // Whoever may remove a lock may not always remove its version.
            Err(fault) if fault.kind == FaultKind::Denied && version.is_some() => self.delete(path, None),
            other => other,
        }
        .map(|_| ())
    }

    fn put_aside(&self, path: &str, to: &str) -> Result<(), Fault> {
        let bytes = self.get(path, None, None)?.body;
        self.put(to, &bytes)?;
        self.remove(path)
    }

    fn unfinished(&self) -> Result<Vec<Found>, Fault> {
        let mut found = Vec::new();
        let prefix = if self.root.is_empty() { String::new() } else { format!("{}/", self.root) };
        let query = [("uploads", String::new()), ("prefix", prefix)];
        self.pages("list the uploads of", &query, |page| {
            for upload in page.all("Upload") {
                let (Some(key), Some(id)) = (upload.text("Key"), upload.text("UploadId")) else { continue };
                let Some(path) = self.path(key) else { continue };
                let modified = time(upload.text("Initiated"));
                found.push(Found { path: format!("{UPLOADS}{id}/{path}"), bytes: 0, modified });
            }
            let key = page.text("NextKeyMarker")?.to_owned();
            let mut next = vec![("key-marker", key)];
            next.extend(page.text("NextUploadIdMarker").map(|id| ("upload-id-marker", id.to_owned())));
            Some(next)
        })?;
        Ok(found)
    }

    fn changeable(&self) -> Result<Option<String>, Fault> {
        let bucket = &self.client.settings.bucket;
        let Some(lock) = &self.lock else {
            return Ok(Some(if self.may_remove()? {
                format!(
                    "our own credentials may delete what is in the bucket `{bucket}`: give them the policy of the guide on \
                     backups elsewhere, and set `object_lock`"
                )
            } else {
                format!(
                    "our own credentials may delete nothing but locks, but others may have more rights in the bucket \
                     `{bucket}`: make it with object lock, and set `object_lock`"
                )
            }));
        };
        if !self.can_lock()? {
            return Ok(Some(format!("`object_lock` is set, and the bucket `{bucket}` has no object lock")));
        }
        if lock.mode == LockMode::Governance && self.may_remove()? {
            return Ok(Some(format!(
                "the lock is in governance mode, and our own credentials may delete in the bucket `{bucket}`: give them the \
                 policy of the guide on backups elsewhere, or set `mode: compliance`"
            )));
        }
        // What was written before the lock was set, or long ago, is looked at itself.
        let now = self.client.clock.now();
        let mut oldest = self.list("data")?;
        oldest.extend(self.list("snapshots")?);
        let Some(oldest) = oldest.into_iter().min_by_key(|found| found.modified) else { return Ok(None) };
        Ok(match self.retained(&oldest.path)? {
            Some(until) if until > now => None,
            Some(until) => Some(format!(
                "the lock of `{}` ended at {until}; the next backup locks again what is still needed",
                oldest.path
            )),
            None => Some(format!(
                "`{}` was written without a lock, before `object_lock` was set; the next backup locks it",
                oldest.path
            )),
        })
    }

    fn prolong(&self) -> Result<u64, Fault> {
        let Some(lock) = &self.lock else { return Ok(0) };
        let now = self.client.clock.now();
        let half = SignedDuration::from_hours(12 * i64::from(lock.days));
        // Each object is asked about itself, so this is not done after every backup.
        let last = self
            .objects(PROLONGED)?
            .into_iter()
            .filter_map(|found| Timestamp::from_second(found.path.rsplit('/').next()?.parse().ok()?).ok());
        if last.max().is_some_and(|last| now.duration_since(last) < half / 2) {
            return Ok(0);
        }
        let prolonged = self.prolong_older_than(half)?;
        self.put(&format!("{PROLONGED}/{}", now.as_second()), &Bytes::from(prolonged.to_string()))?;
        Ok(prolonged)
    }

    fn sweep(&self) -> Result<u64, Fault> {
        self.sweep_below("")
    }
}

impl Bucket {
    /// Takes away for good what was removed below a prefix and whose retention has ended; gives how many bytes.
    pub(crate) fn sweep_below(&self, prefix: &str) -> Result<u64, Fault> {
        if self.lock.is_none() {
            return Ok(0);
        }
        let mut bytes = 0;
        for (path, versions) in self.versions(prefix)? {
            let removed = versions.iter().any(|version| version.is_latest && version.is_marker);
            if !removed {
                continue;
            }
            let mut all_gone = true;
            for version in versions.iter().filter(|version| !version.is_marker) {
                match self.delete(&path, Some(&version.id)) {
                    Ok(_) => bytes += version.bytes,
                    // Its retention has not ended.
                    Err(fault) if fault.kind == FaultKind::Denied => all_gone = false,
                    Err(fault) => return Err(fault),
                }
            }
            if all_gone {
                for marker in versions.iter().filter(|version| version.is_marker) {
                    self.delete(&path, Some(&marker.id))?;
                }
            }
        }
        Ok(bytes)
    }
}
