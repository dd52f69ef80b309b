//! The OpenAPI document against the daemon that serves it: PyPI schemathesis makes requests from it, good and bad, and
//! compares every answer with what the document says.

use std::process::{Command, Stdio};

use fake_ai::FakeAi;

use crate::program::{Daemon, Project};

/// The statuses from 501 say what a server behind ours did, or what it cannot do; 500 is a defect.
const CONFIG: &str =
    "[checks.not_a_server_error]\nexpected-statuses = [\"2xx\", \"4xx\", 501, 502, 503, 504]\n";

const CHECKS: &str =
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// Runs schemathesis on every operation; panics with its report when it finds something.
fn fuzz(project: &Project, daemon: &Daemon, token: &str, more: &[&str]) {
    project.write("schemathesis.toml", CONFIG);
    let program = conformance::server("STEWARD_TEST_SCHEMATHESIS_URL");
    let output = Command::new(program)
        .args([
            "--no-color",
            "--config-file",
            "schemathesis.toml",
            "run",
            &daemon.api("openapi.json"),
            "--checks",
            CHECKS,
            "--seed",
            "20261123",
        ])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        // A request that would take longer ends with a status that the document has.
        .args(["--header", "Steward-Timeout-Ms: 2000", "--request-timeout", "120"])
        .args(["--suppress-health-check", "all", "--workers", "2", "--continue-on-failure", "--no-shrink"])
        .args(["--generation-database", "none", "--output-sanitize", "true"])
        .args(more)
        .env("NO_PROXY", "127.0.0.1")
        .env_remove("PYTHONPATH")
        .current_dir(project.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let log = std::fs::read_to_string(project.file("daemon.log")).unwrap_or_default();
    assert!(output.status.success(), "{said}\n{}\n{log}", String::from_utf8_lossy(&output.stderr));
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn every_answer_is_as_the_document_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fake = runtime.block_on(FakeAi::start()).unwrap();
    let project = Project::with_sqlite(
        &format!(
            "project: shop
ai:
  providers:
    openai: {{ kind: openai, url: \"{}/v1\", keys: [openai/main] }}
  routes:
    fast: {{ targets: [ {{ provider: openai, model: gpt-5-mini }} ] }}
",
            fake.url()
        ),
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT NOT NULL); INSERT INTO orders VALUES (1, 'a')",
    );
    project.run_with_input(&["secret", "put", "openai/main"], "upstream-openai-key-12345678").expect(0);
    let token = project.token("fuzz", "requester");
    let daemon = project.daemon(&[]);
    if std::env::var_os("STEWARD_TEST_FULL").is_some() {
        fuzz(&project, &daemon, &token, &["--phases", "coverage,fuzzing", "--max-examples", "300"]);
    } else {
        fuzz(&project, &daemon, &token, &["--phases", "coverage,fuzzing", "--max-examples", "2"]);
    }
    assert_eq!(daemon.stop(), 0);
    project.run(&["audit", "verify"]).expect(0);
}
