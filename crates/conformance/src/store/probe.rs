//! Cases of `Store` itself.

use std::time::Duration;

use contract::{Capability, ErrorKind, Query};

use super::Opened;

/// The probe names version, address and rights, and shows no secret.
pub async fn probe_says_what_is_there(opened: &Opened) {
    let ctx = opened.ctx();
    let probe = opened.store.probe(&ctx).await.unwrap();
    assert!(probe.version.starts_with(|c: char| c.is_ascii_digit()), "{probe:?}");
    for (field, text) in [
        ("address", &probe.address),
        ("identity", &probe.identity),
        ("reader", &probe.reader.user),
        ("read_only_by", &probe.read_only_by),
    ] {
        assert!(!text.is_empty(), "`{field}` is empty: {probe:?}");
    }
    assert!(probe.connect_ms >= 0.0);
    assert!(!probe.reader.superuser, "the suite reads with a login of few rights: {probe:?}");
    let text = format!("{probe:?}{}", serde_json::to_string(&probe).unwrap());
    for secret in &opened.secrets {
        assert!(!text.contains(secret), "the probe shows a secret");
    }
    let again = opened.admin.reopen().await.probe(&ctx).await.unwrap();
    assert_eq!(again.identity, probe.identity, "the identity stays");
    assert_eq!(opened.admin.steward_tables().await, Vec::<String>::new(), "a probe creates nothing");
}

/// The deadline holds for probes too.
pub async fn probe_past_its_deadline_times_out(opened: &Opened) {
    let ctx = opened.ctx().with_timeout(Duration::ZERO);
    let error = opened.soon(opened.store.probe(&ctx)).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::TimedOut]);
    let ctx = opened.ctx();
    ctx.cancellation().cancel();
    let error = opened.soon(opened.store.probe(&ctx)).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::Canceled]);
}

/// After `close`, calls end with `Canceled`, also those in flight.
pub async fn probe_of_a_closed_store_fails(opened: &Opened) {
    let ctx = opened.ctx();
    if let Some(relational) = opened.relational(Capability::Query).await {
        let query = Query::new(&opened.sql.slow);
        // The query has to be under way when the store closes.
        let close = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            opened.store.close().await;
        };
        let (answer, ()) = opened.soon(async { tokio::join!(relational.query(&ctx, &query), close) }).await;
        opened.expect_kind(&answer.unwrap_err(), &[ErrorKind::Canceled]);
    } else {
        opened.store.close().await;
    }
    let error = opened.soon(opened.store.probe(&ctx)).await.unwrap_err();
    opened.expect_kind(&error, &[ErrorKind::Canceled, ErrorKind::Unavailable]);
}

/// Roles exist exactly when their capability is declared.
pub async fn capabilities_match_the_roles(opened: &Opened) {
    let store = &opened.store;
    assert!(!store.kind().is_empty() && !store.name().is_empty());
    let family = [Capability::Inspect, Capability::Query, Capability::Explain];
    if store.relational().is_none() {
        assert!(
            !family.into_iter().any(|capability| opened.declares(capability)),
            "{:?}",
            store.capabilities()
        );
    }
    for capability in family {
        // Each of these asserts `Unsupported` where it is not declared.
        opened.relational(capability).await;
    }
    assert_eq!(store.execute().is_some(), opened.declares(Capability::Execute));
    assert_eq!(store.integrity().is_some(), opened.declares(Capability::Integrity));
}

/// The engine's own check finds nothing in a sound store, and says what was run.
pub async fn integrity_of_a_sound_store_is_clean(opened: &Opened) {
    let role = opened.store.integrity();
    assert_eq!(role.is_some(), opened.declares(Capability::Integrity));
    let Some(integrity) = role else { return };
    opened.make_victim().await;
    let contract::IntegrityReport { statement, problems, .. } =
        integrity.check_integrity(&opened.ctx(), std::time::Duration::from_mins(5)).await.unwrap();
    assert!(!statement.is_empty());
    assert_eq!(problems, []);
}
