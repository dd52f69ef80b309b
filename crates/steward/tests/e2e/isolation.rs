//! Two projects on one state, served by one daemon: neither sees anything of the other's.

use std::path::Path;

use serde_json::{Value, json};

use crate::program::{Project, eventually};

/// Two projects with a store each and a state that lies beside them, named by different relative paths.
struct Two {
    /// Holds the state of both.
    _shared: Project,
    shop: Project,
    bank: Project,
}

fn two() -> Two {
    let shared = Project::new("");
    let state = Path::new("..").join(shared.path().file_name().unwrap()).join("state/state.db");
    let make = |name: &str, table: &str| {
        let yaml = format!("project: {name}\nstate: {}", state.display());
        Project::with_sqlite(&yaml, &format!("CREATE TABLE {table} (id INTEGER PRIMARY KEY, v TEXT)"))
    };
    let shop = make("shop", "toys");
    let bank = make("bank", "ledgers");
    // Each also has something that only it has.
    bank.run_with_input(&["secret", "put", "bank/vault_code"], "open-sesame-7").expect(0);
    shop.run_with_input(&["secret", "put", "shop/till_code"], "open-sesame-8").expect(0);
    bank.write(
        "steward.yaml",
        std::fs::read_to_string(bank.file("steward.yaml")).unwrap()
            + "  safe:\n    kind: sqlite\n    path: app.db\n",
    );
    bank.migrations(&[("0001_drop.sql", "DROP TABLE ledgers;\n-- steward: irreversible\n")]);
    Two { _shared: shared, shop, bank }
}

#[test]
fn projects_on_one_state_do_not_see_each_other() {
    let Two { _shared, shop, bank } = two();
    let waiting = bank.run(&["migration", "apply", "app", "--json"]).expect(3).json();
    let approval = waiting["approval"].as_str().unwrap();
    let inspected = bank.answer(&["store", "inspect", "app"]);
    let evidence = inspected["evidence"][0].as_str().unwrap();
    bank.write("task.md", "**Data Engineer Agent**: Take an inventory of the `app` store\n\n**Task**:\n- Inventory of the app store\n");
    bank.run(&["task", "run", "task.md"]);
    let tasks = bank.answer(&["task", "list"]);
    let task = tasks["value"]["tasks"][0]["id"].as_str().or_else(|| tasks["value"][0]["id"].as_str());
    let task = task.unwrap_or_else(|| panic!("{tasks}"));
    bank.run(&["file", "write", "src/pages/x.tsx", "--content", "x"]).expect(4);
    assert!(!bank.escalations("data_access_violation").is_empty());

    for args in [
        &["store", "inspect", "safe"][..],
        &["approval", "show", approval],
        &["approval", "deny", approval],
        &["evidence", evidence],
        &["task", "show", task],
        &["report", task],
    ] {
        let ended = shop.run_with_input(args, "a value that is long enough").expect(1);
        assert!(!ended.stderr.contains("ledgers") && ended.stdout.is_empty(), "{args:?}: {ended:?}");
    }
    let named = [&["secret", "remove", "bank/vault_code"][..], &["secret", "rotate", "bank/vault_code"]];
    for args in [
        &["store", "list"][..],
        &["store", "inspect", "app"],
        &["approval", "list"],
        &["secret", "list"],
        &["task", "list"],
        &["inbox", "list"],
        &["token", "list"],
        &["person", "list"],
        &["audit", "list", "--limit", "1000"],
        &["audit", "export"],
        &["status"],
    ] {
        let seen = shop.run(&[args, &["--json"]].concat()).expect(0).stdout;
        // The trail of this project quotes the ids that were asked for here in vain.
        let asked = if args[0] == "audit" { &[][..] } else { &[approval, evidence, task] };
        for theirs in ["bank", "ledgers", "vault_code"].iter().chain(asked) {
            assert!(!seen.contains(*theirs), "{args:?} shows {theirs}\n{seen}");
        }
    }
    // Last, because the trail quotes what was asked for.
    for args in named {
        shop.run_with_input(args, "a value that is long enough").expect(1);
    }
    assert_eq!(bank.number("SELECT count(*) FROM sqlite_master WHERE name = 'ledgers'"), 1);
    let secrets = bank.answer(&["secret", "list"]);
    assert_eq!(secrets["value"]["secrets"][0]["version"], 1, "{secrets}");
    shop.run(&["audit", "verify"]).expect(0);
}

#[test]
fn one_daemon_keeps_two_projects_apart() {
    let Two { _shared, shop, bank } = two();
    let (for_shop, for_bank) = (shop.token("agent", "requester"), bank.token("agent", "requester"));
    let files = [shop.file("steward.yaml"), bank.file("steward.yaml")];
    let daemon = shop.daemon(&["-f", files[0].to_str().unwrap(), "-f", files[1].to_str().unwrap()]);

    let tables = |token: &str| {
        let (status, answer) = daemon.post(token, "store/inspect", &json!({ "store": "app" }));
        assert_eq!(status, 200, "{answer}");
        answer["value"]["tables"]
            .as_array()
            .unwrap()
            .iter()
            .map(|table| table["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(tables(&for_shop), ["toys"]);
    assert_eq!(tables(&for_bank), ["ledgers"]);
    let (status, answer) = daemon.post(&for_shop, "store/inspect", &json!({ "store": "safe" }));
    assert_eq!(status, 404, "{answer}");
    assert!(!answer.to_string().contains("bank"), "{answer}");
    // There is no argument that names another project.
    let (status, _) = daemon.post(&for_shop, "store/inspect", &json!({ "store": "app", "project": "bank" }));
    assert_eq!(status, 400);

    let (_, waiting) = daemon.post(&for_bank, "migration/apply", &json!({ "store": "app" }));
    let approval = waiting["approval"].as_str().unwrap_or_else(|| panic!("{waiting}"));
    let (status, _) = daemon.post(&for_shop, "approval/show", &json!({ "id": approval }));
    assert_eq!(status, 404);
    let (_, status_of_shop) = daemon.post(&for_shop, "status/show", &json!({}));
    assert!(!status_of_shop.to_string().contains("bank"), "{status_of_shop}");
    let (_, audit) = daemon.post(&for_shop, "audit/list", &json!({ "limit": 1000 }));
    assert!(!audit.to_string().contains("bank") && !audit.to_string().contains("ledgers"), "{audit}");

    // A revoked token of one project leaves the other's of the same name alone.
    bank.run(&["token", "revoke", "agent"]).expect(0);
    eventually("the token is refused", || daemon.post(&for_bank, "store/list", &json!({})).0 == 401);
    assert_eq!(daemon.post(&for_shop, "store/list", &json!({})).0, 200);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn project_files_of_different_states_are_not_served_together() {
    let one = Project::new("project: one\n");
    let two = Project::new("project: two\n");
    let same = Project::new("project: one\n");
    std::fs::create_dir(one.file(".steward")).unwrap();
    same.write("steward.yaml", format!("project: one\nstate: {}\n", one.file(".steward/state.db").display()));
    let both = |other: &Project| {
        let files = [one.file("steward.yaml"), other.file("steward.yaml")];
        one.run(&["up", "-f", files[0].to_str().unwrap(), "-f", files[1].to_str().unwrap()]).expect(2)
    };
    let ended = both(&two);
    assert!(
        ended.stderr.contains("different state files") && ended.stderr.contains("hint: "),
        "{}",
        ended.stderr
    );
    let ended = both(&same);
    assert!(ended.stderr.contains("two files name the project `one`"), "{}", ended.stderr);
    let ended = one
        .run(&[
            "status",
            "-f",
            one.file("steward.yaml").to_str().unwrap(),
            "-f",
            two.file("steward.yaml").to_str().unwrap(),
        ])
        .expect(2);
    assert!(ended.stderr.contains("state"), "{}", ended.stderr);
    assert!(matches!(one.answer(&["status"])["value"], Value::Object(_)));
}
