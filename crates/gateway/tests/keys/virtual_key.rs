//! Made, shown once, found by hash, given a new value, withdrawn.

use contract::{ErrorKind, Role};
use gateway::{CreateKey, KEY_PREFIX, ListKeys, Names, RegenerateKey, RevokeKey};
use jiff::Timestamp;
use memchr::memmem;
use secrecy::{ExposeSecret, SecretString};

use crate::House;

pub(crate) fn request(name: &str) -> CreateKey {
    CreateKey {
        name: name.into(),
        routes: Vec::new(),
        models: Vec::new(),
        role: None,
        person: None,
        rpm: None,
        tpm: None,
        concurrent: None,
        expires: None,
    }
}

impl House {
    pub(crate) async fn create(&self, request: &CreateKey) -> Result<SecretString, contract::Error> {
        let (routes, providers) = (["fast", "smart"].map(String::from), ["openai".to_owned()]);
        let names = Names { routes: &routes, providers: &providers };
        let keys = self.keys();
        let plan = keys.plan_create(&self.ctx, request, names).await?;
        let permit = self.permit(&plan, "key.write");
        Ok(keys.create(&self.ctx, &permit, &plan, request, names).await?.1)
    }

    async fn regenerate(&self, name: &str, overlap_minutes: u32) -> Result<SecretString, contract::Error> {
        let request = RegenerateKey { name: name.into(), overlap_minutes: Some(overlap_minutes) };
        let plan = self.keys().plan_regenerate(&self.ctx, &request).await?;
        let permit = self.permit(&plan, "key.rotate");
        Ok(self.keys().regenerate(&self.ctx, &permit, &plan, &request).await?.1)
    }

    async fn revoke(&self, name: &str) -> Result<(), contract::Error> {
        let request = RevokeKey { name: name.into() };
        let plan = self.keys().plan_revoke(&self.ctx, &request).await?;
        let permit = self.permit(&plan, "key.remove");
        self.keys().revoke(&self.ctx, &permit, &plan, &request).await.map(|_| ())
    }

    /// Name of the key that this value opens now.
    async fn opens(&self, value: &SecretString) -> Option<String> {
        let (now, hash) = (
            contract::Context::now(&self.ctx),
            self.keys().fingerprints().of(value.expose_secret().as_bytes()),
        );
        let stored = self.keys().stored(&self.ctx).await.unwrap();
        let until = |end: &Option<Timestamp>| end.is_none_or(|end| end > now);
        let found = stored.into_iter().find(|stored| {
            stored.key.valid(now) && stored.hashes.iter().any(|(known, end)| *known == hash && until(end))
        });
        found.map(|stored| stored.key.name)
    }
}

#[tokio::test]
async fn a_key_is_found_by_its_hash_and_its_value_is_nowhere() {
    let house = House::new().await;
    let value = house.create(&request("ci")).await.unwrap();
    assert!(
        value.expose_secret().starts_with(KEY_PREFIX) && value.expose_secret().len() == KEY_PREFIX.len() + 43
    );
    assert_eq!(house.opens(&value).await.as_deref(), Some("ci"));
    assert_eq!(house.opens(&SecretString::from(format!("{}x", value.expose_secret()))).await, None);
    house.ledger.flush().await.unwrap();
    let secret = &value.expose_secret().as_bytes()[KEY_PREFIX.len()..];
    assert!(memmem::find(&house.files(), secret).is_none(), "the value lies in the state's folder");
    let listed = house.keys().list(&house.ctx, &ListKeys { all: true }).await.unwrap();
    assert!(!format!("{} {}", listed.text, listed.value).contains(std::str::from_utf8(secret).unwrap()));
    assert!(listed.text.contains("all routes"), "{}", listed.text);
}

#[tokio::test]
async fn a_new_value_ends_the_old_one_at_once_or_after_the_overlap() {
    let house = House::new().await;
    let first = house.create(&request("ci")).await.unwrap();
    let id = house.keys().all(&house.ctx).await.unwrap()[0].id.clone();
    let second = house.regenerate("ci", 0).await.unwrap();
    assert_eq!(house.opens(&first).await, None);
    house.wait_s(1);
    let third = house.regenerate("ci", 10).await.unwrap();
    assert_eq!(house.opens(&second).await.as_deref(), Some("ci"));
    assert_eq!(house.opens(&third).await.as_deref(), Some("ci"));
    house.wait_s(10 * 60);
    assert_eq!(house.opens(&second).await, None);
    assert_eq!(house.opens(&third).await.as_deref(), Some("ci"));
    let keys = house.keys().all(&house.ctx).await.unwrap();
    assert_eq!((keys.len(), &keys[0].id), (1, &id), "budgets follow the id");
    assert_eq!(house.regenerate("ci", 1_000_000).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn expired_and_revoked_keys_open_nothing_and_their_names_are_free_again() {
    let house = House::new().await;
    for expires in ["2026-03-04", "2026-03-05T00:00:00Z", "1d"] {
        let value = house
            .create(&CreateKey {
                expires: Some(expires.into()),
                ..request(expires.trim_end_matches('Z').split('T').next().unwrap())
            })
            .await;
        let value = match value {
            Ok(value) => value,
            Err(error) => panic!("{expires}: {error}"),
        };
        assert!(house.opens(&value).await.is_some(), "{expires}");
    }
    house.wait_s(24 * 3600);
    let now = contract::Context::now(&house.ctx);
    assert!(house.keys().all(&house.ctx).await.unwrap().iter().all(|key| !key.valid(now)));
    let again = house.create(&request("1d")).await.unwrap();
    house.revoke("1d").await.unwrap();
    assert_eq!(house.opens(&again).await, None);
    assert_eq!(house.revoke("1d").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(house.regenerate("1d", 0).await.unwrap_err().kind(), ErrorKind::NotFound);
    house.create(&request("1d")).await.unwrap();
    assert_eq!(house.create(&request("1d")).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn wrong_scopes_are_refused_with_what_there_is() {
    let house = House::new().await;
    let base = || request("ci");
    let list = |text: &str| vec![text.to_owned()];
    for (request, says) in [
        (CreateKey { name: "a b".into(), ..base() }, "name"),
        (CreateKey { name: "sk-steward-x".into(), ..base() }, "name"),
        (CreateKey { routes: list("fast,slow"), ..base() }, "fast, smart"),
        (CreateKey { models: list("azure/x"), ..base() }, "there are: openai"),
        (CreateKey { models: list("gpt-5"), ..base() }, "provider/model"),
        (CreateKey { role: Some(Role::Pm), ..base() }, "never approve"),
        (CreateKey { person: Some("a\nb".into()), ..base() }, "person"),
        (CreateKey { rpm: Some(0), ..base() }, "`rpm` is 0"),
        (CreateKey { expires: Some("soon".into()), ..base() }, "2026-12-31"),
        (CreateKey { expires: Some("2026-03-03".into()), ..base() }, "ended already"),
        (CreateKey { expires: Some("0d".into()), ..base() }, "ended already"),
    ] {
        let error = house.create(&request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(says), "{request:?}\n→ {error}");
    }
    assert!(house.keys().all(&house.ctx).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_changed_since_the_plan_is_not_touched() {
    let house = House::new().await;
    house.create(&request("ci")).await.unwrap();
    let request = RevokeKey { name: "ci".into() };
    let plan = house.keys().plan_revoke(&house.ctx, &request).await.unwrap();
    let permit = house.permit(&plan, "key.remove");
    house.wait_s(1);
    let value = house.regenerate("ci", 0).await.unwrap();
    let error = house.keys().revoke(&house.ctx, &permit, &plan, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(house.opens(&value).await.as_deref(), Some("ci"));
    let mut other = plan.clone();
    other.target = "ai:key/other".into();
    let error = house.keys().revoke(&house.ctx, &permit, &other, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "a permit for another plan");
}
