//! What others wrote against what others wrote: the official clients through the gateway to simulated providers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use fake_ai::{Answer, Ending, FakeAi, On, Part, Reply};
use serde_json::{Value, json};

use crate::stage::KEY;
use crate::{PROVIDER_KEYS, Scene};

/// Routes that the clients ask for; `hidden` is beyond their key.
const ROUTES: &str = "  routes:
    to-openai: { targets: [{ provider: openai, model: gpt-5-mini }] }
    to-anthropic: { targets: [{ provider: anthropic, model: claude-haiku-4-5 }] }
    to-gemini: { targets: [{ provider: gemini, model: gemini-2.5-flash }] }
    embed-openai: { targets: [{ provider: openai, model: text-embedding-3-small }] }
    embed-google: { targets: [{ provider: gemini, model: gemini-embedding-001 }] }
    limited: { targets: [{ provider: openai, model: limited }], retry: { attempts: 1 } }
    broken: { targets: [{ provider: openai, model: broken }], retry: { attempts: 1 } }
    wrong: { targets: [{ provider: openai, model: wrong }], retry: { attempts: 1 } }
    thinking: { targets: [{ provider: anthropic, model: thinking }] }
    cut-openai: { targets: [{ provider: openai, model: cut-openai }] }
    cut-anthropic: { targets: [{ provider: anthropic, model: cut-anthropic }] }
    hidden: { targets: [{ provider: openai, model: gpt-5 }] }
";
const REACH: &str = "to-openai,to-anthropic,to-gemini,embed-openai,embed-google,limited,broken,wrong,thinking,cut-openai,cut-anthropic";

/// Each with every surface of its own.
const CLIENTS: [&str; 4] = ["openai_client.py", "anthropic_client.py", "google_client.py", "clients.cjs"];

/// A picture of one pixel.
const PICTURE: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGOoBwAAgQCA05RTSgAAAABJRU5ErkJggg==";

/// What the scripts of [`ROUTES`] expect of the provider.
fn script(fake: &FakeAi) {
    fake.always(On::model("limited"), Reply::rate_limited("7"));
    fake.always(On::model("broken"), Reply::error(500, "server_error", "broken"));
    fake.always(On::model("wrong"), Reply::error(400, "invalid_request_error", "wrong"));
    let thought = Part::Thinking { text: "let me see".into(), signature: "c2lnbmF0dXJl+/==".into() };
    let answer = Answer { parts: vec![thought], ..Answer::default() }.and(Part::Text("done".into()));
    fake.always(On::model("thinking"), Reply::answer(answer));
    let half = || Reply::text("one two three four").cut_after_events(5, Ending::Clean);
    fake.always(On::model("cut-openai"), half());
    fake.always(On::model("cut-anthropic"), half());
}

/// Where `./test` has installed the clients.
pub(crate) fn installed(below: &str) -> PathBuf {
    Path::new(&conformance::server("STEWARD_TEST_AI_CLIENTS_URL")).join(below)
}

/// Runs a script of `clients/`; it ends with `ok`. Gives what it printed.
pub(crate) async fn run(name: &str, variables: &[(&str, &str)]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/scripts").join(name);
    let program = if name.ends_with(".py") { installed("venv/ai/bin/python") } else { PathBuf::from("node") };
    let output = tokio::process::Command::new(program)
        .arg(script)
        .env("NODE_PATH", installed("npm/ai/node_modules"))
        // Nothing of the machine's own set-up leads elsewhere.
        .env_remove("OPENAI_API_KEY")
        .env_remove("ANTHROPIC_API_KEY")
        .env_remove("ANTHROPIC_AUTH_TOKEN")
        .env_remove("GOOGLE_API_KEY")
        .env("NO_PROXY", "127.0.0.1")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("ok"), "{name}: {told}");
    told
}

/// Whether all of these fields stand together somewhere in a value.
fn has(value: &Value, fields: &Value) -> bool {
    let here = fields.as_object().unwrap().iter().all(|(name, field)| value.get(name) == Some(field));
    here || match value {
        Value::Array(list) => list.iter().any(|one| has(one, fields)),
        Value::Object(object) => object.values().any(|one| has(one, fields)),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn official_clients_are_content_on_every_surface_with_every_provider() {
    let gateway = Scene::new(ROUTES, Some(REACH)).await;
    script(&gateway.fake);
    let url = gateway.stage.url("");
    let with = [("GATEWAY", url.as_str()), ("KEY", KEY), ("PICTURE", PICTURE)];
    for client in CLIENTS {
        run(client, &with).await;
    }
    // Each provider got the picture in a format of its own, four times: from chat, responses, messages and Google's client.
    let mut pictures = BTreeMap::<&str, Vec<Value>>::new();
    for exchange in gateway.fake.requests() {
        if exchange.text().contains(PICTURE) {
            let provider =
                PROVIDER_KEYS.iter().find(|(_, key)| exchange.key().as_deref() == Some(*key)).unwrap().0;
            pictures.entry(provider).or_default().push(exchange.json());
        }
    }
    let whole = format!("data:image/png;base64,{PICTURE}");
    let count =
        |provider: &str, part: &Value| pictures[provider].iter().filter(|body| has(body, part)).count();
    let source = json!({ "type": "base64", "media_type": "image/png", "data": PICTURE });
    assert_eq!(count("anthropic", &source), 4, "{pictures:#?}");
    // Google's own client writes the name so, and it goes on as it came.
    let (ours, own) = (
        json!({ "mimeType": "image/png", "data": PICTURE }),
        json!({ "mime_type": "image/png", "data": PICTURE }),
    );
    assert_eq!((count("gemini", &ours), count("gemini", &own)), (3, 1), "{pictures:#?}");
    let (chat, responses) = (json!({ "url": whole }), json!({ "type": "input_image", "image_url": whole }));
    assert_eq!(count("openai", &chat) + count("openai", &responses), 4, "{pictures:#?}");
    assert!(count("openai", &responses) > 0 && count("openai", &chat) > 0, "{pictures:#?}");
    // However many clients came: a provider never sees the key of a client.
    for exchange in gateway.fake.requests() {
        assert!(!exchange.headers.iter().any(|(_, value)| value.contains(KEY)), "{exchange:?}");
        assert!(!exchange.query.contains("key="), "{exchange:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_works_on_models_of_others() {
    let gateway = Scene::new(ROUTES, None).await;
    for route in ["to-openai", "to-gemini", "to-anthropic"] {
        run("claude_code.py", &[("GATEWAY", &gateway.stage.url("")), ("KEY", KEY), ("MODEL", route)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_batches_and_training_work_with_the_official_client() {
    let jobs = crate::jobs::Paid::new().await;
    let url = jobs.url();
    run("openai_jobs.py", &[("GATEWAY", &url), ("KEY", KEY)]).await;
    jobs.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_kept_are_found_by_the_official_client() {
    let kept = crate::jobs::Paid::new().await;
    run("openai_responses.py", &[("GATEWAY", &kept.url()), ("KEY", KEY)]).await;
}
