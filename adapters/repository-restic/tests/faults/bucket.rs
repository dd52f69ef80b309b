//! A repository in a bucket: of a real server, or of one that fails when it is told to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{Clock, Context, Error, ErrorKind, Layout, SecretSource, SystemClock};
use http::Method;
use secrecy::SecretString;

use super::home::Home;
use crate::config::ObjectLock;
use crate::objects::Objects;
use crate::repository::{InBucket, ResticRepository};
use crate::s3::{Bucket, Call, Client, Identity, Nap, Settings};

/// Secrets that a test changes.
#[derive(Default)]
pub(super) struct Secrets(pub(super) Mutex<HashMap<String, String>>);

#[async_trait]
impl SecretSource for Secrets {
    async fn secret(&self, _ctx: &Context, name: &str) -> Result<SecretString, Error> {
        let secrets = self.0.lock().unwrap();
        let text = secrets.get(name).ok_or_else(|| Error::new(ErrorKind::NotFound, "no such secret"))?;
        Ok(text.clone().into())
    }
}

/// Waits nowhere, and counts how long it would have.
#[derive(Default)]
pub(super) struct NoNap(pub(super) Mutex<Vec<Duration>>);

impl Nap for NoNap {
    fn nap(&self, how_long: Duration) {
        self.0.lock().unwrap().push(how_long);
    }
}

pub(super) const PREFIX: &str = "steward";

/// A repository in a bucket.
pub(super) struct Place {
    pub(super) home: Home,
    pub(super) secrets: Arc<Secrets>,
    pub(super) naps: Arc<NoNap>,
    pub(super) inside: InBucket,
}

pub(super) fn settings(url: &str, bucket: &str) -> Settings {
    Settings {
        endpoint: url.parse().unwrap(),
        bucket: bucket.to_owned(),
        region: "us-east-1".into(),
        path_style: true,
        timeout: Duration::from_mins(1),
        attempts_max: 8,
        extra_roots_pem: None,
    }
}

impl Place {
    pub(super) fn at(settings: Settings, lock: Option<ObjectLock>) -> Self {
        Self::with_clock(settings, lock, Arc::new(SystemClock))
    }

    pub(super) fn with_clock(settings: Settings, lock: Option<ObjectLock>, clock: Arc<dyn Clock>) -> Self {
        let home = Home::new();
        let secrets = Arc::new(Secrets::default());
        for (name, text) in [
            ("far/writer", "writer:writersecret".to_owned()),
            ("far/pruner", "pruner:prunersecret".to_owned()),
            ("far/root", "root:rootsecret".to_owned()),
            ("far/other", "other:othersecret".to_owned()),
            ("repository/far", secrecy::ExposeSecret::expose_secret(&home.key.to_text()).to_owned()),
        ] {
            secrets.0.lock().unwrap().insert(name.into(), text);
        }
        let naps = Arc::new(NoNap::default());
        let nap: Arc<dyn Nap> = naps.clone();
        let client = Arc::new(Client::new(settings, None, nap, clock));
        let who = |name: &str| Arc::new(Identity::new(name, secrets.clone()));
        let inside = InBucket {
            client,
            writer: who("far/writer"),
            pruner: Some(who("far/pruner")),
            prefix: PREFIX.into(),
            lock,
        };
        Self { home, secrets, naps, inside }
    }

    pub(super) fn repository(&self) -> ResticRepository {
        let secrets = self.secrets.clone();
        ResticRepository::in_bucket("far", "repository/far", secrets, &self.inside, self.home.limits)
    }

    /// The same, made.
    pub(super) async fn created(&self) -> ResticRepository {
        let repository = self.repository();
        contract::Repository::create(&repository, &self.home.ctx()).await.unwrap();
        repository
    }

    /// Somebody with credentials.
    pub(super) async fn who(&self, secret: &str) -> Arc<Identity> {
        let who = Arc::new(Identity::new(secret, self.secrets.clone()));
        who.fetch(&self.home.ctx()).await.unwrap();
        who
    }

    /// The objects of the repository for rows, as somebody sees them.
    pub(super) async fn objects(&self, secret: &str) -> Bucket {
        let who = self.who(secret).await;
        let root = format!("{PREFIX}/{}", crate::place::folder_of(Layout::Stream));
        Bucket::new(Arc::clone(&self.inside.client), who, &root, self.inside.lock)
    }

    /// What lies below the prefix, as somebody sees it.
    pub(super) async fn bucket(&self, secret: &str) -> Bucket {
        let who = self.who(secret).await;
        Bucket::new(Arc::clone(&self.inside.client), who, PREFIX, self.inside.lock)
    }

    /// A request as somebody makes it.
    pub(super) async fn ask(&self, secret: &str, call: Call<'static>) -> Result<u16, crate::error::Fault> {
        let (client, who) = (Arc::clone(&self.inside.client), self.who(secret).await);
        tokio::task::spawn_blocking(move || client.call(&who, &call, &[]).map(|answer| answer.status))
            .await
            .unwrap()
    }
}

/// The real server of the tests.
pub(super) fn server() -> String {
    std::env::var("STEWARD_TEST_VERSITYGW_URL").expect(
        "this test needs an S3 server: export STEWARD_TEST_VERSITYGW_URL=$(testbed/testbed up versitygw && testbed/testbed url versitygw)",
    )
}

/// The policy that the guide gives, for this bucket and the server's users.
pub(super) fn policy(bucket: &str) -> String {
    let guide = include_str!("../../../../docs/guides/backups-elsewhere.md");
    let json = guide.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    json.replace("arn:aws:iam::111122223333:user/", "").replace("shop-backups", bucket)
}

/// A repository in a new bucket of the real server, under the policy of the guide.
pub(super) async fn real(lock: Option<ObjectLock>) -> Place {
    let mut random = [0; 8];
    crate::seal::fill_random(&mut random).unwrap();
    let bucket = format!("test-{}", crate::seal::hex(&random));
    let place = Place::at(settings(&server(), &bucket), lock);
    let headers =
        if lock.is_some() { vec![("x-amz-bucket-object-lock-enabled", "true".into())] } else { vec![] };
    let make = Call { method: Method::PUT, headers, doing: "make", ..Call::default() };
    place.ask("far/root", make).await.unwrap();
    let set = Call {
        method: Method::PUT,
        query: vec![("policy", String::new())],
        body: Bytes::from(policy(&bucket)),
        doing: "set the policy of",
        ..Call::default()
    };
    place.ask("far/root", set).await.unwrap();
    place
}

/// Blocks beside the runtime.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// All objects of the repository for rows.
pub(super) async fn paths(objects: Bucket, folder: &'static str) -> Vec<String> {
    let listed = blocking(move || objects.list(folder)).await.unwrap();
    let mut paths: Vec<String> = listed.into_iter().map(|found| found.path).collect();
    paths.sort();
    paths
}
