//! A PM's task from a file to a report, and the demo that plays one.

use crate::program::Project;

#[test]
fn demo_ends_as_told_and_works_twice() {
    let project = Project::new("");
    std::fs::remove_file(project.file("steward.yaml")).unwrap();
    let demo = project.file("demo");
    let run = |args: &[&str]| {
        let output = project.command(args).current_dir(&demo).output().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8(output.stdout).unwrap(), output.stderr)
    };
    project.run(&["demo", "--dir", "demo"]).expect(0);
    let story = project.run(&["demo", "--dir", "demo"]).expect(0).stdout;
    for part in ["A task from the PM", "The report", "audit trail intact", "Try next"] {
        assert!(story.contains(part), "{part} is missing\n{story}");
    }
    // The call of a model: said to be a simulation, over a socket, with a receipt that can be read later and names the cost.
    let chapter = story.split_once("\n5. ").unwrap().1.split_once("\n6. ").unwrap().0;
    let title = chapter.lines().next().unwrap();
    assert!(title.contains("simulation") && title.contains("plays the provider"), "{title}");
    assert!(chapter.contains("Over HTTP to http://127.0.0.1:"), "{chapter}");
    assert_eq!(chapter.matches("sk-steward-").count(), 1, "the key itself is not shown: {chapter}");
    let after = chapter.split_once("steward ai receipt ").unwrap().1;
    let receipt = after.split_whitespace().next().unwrap();
    let cost = after
        .lines()
        .find(|line| line.trim_start().starts_with("cost"))
        .unwrap_or_else(|| panic!("{chapter}"));
    let (code, stdout, _) = run(&["ai", "receipt", receipt]);
    assert!(code == 0 && stdout.contains(cost.trim()), "{cost}: {code} {stdout}");
    let (_, stdout, _) = run(&["ai", "cost", "--json"]);
    let all: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let total = &all["value"]["total"];
    assert!(total["requests"] == 1 && total["cost_usd_nanos"].as_i64() > Some(0), "{all}");
    // The backup was restored before it counted, and the lost database is the one that the rest of the story asks.
    let chapter = story.split_once("\n6. ").unwrap().1.split_once("\n7. ").unwrap().0;
    assert!(chapter.contains(": all as dumped"), "{chapter}");
    assert!(chapter.contains("Back after ") && demo.join("data/planes.db").is_file(), "{chapter}");
    let commands: Vec<&str> = story
        .split_once("Try next")
        .unwrap()
        .1
        .lines()
        .filter_map(|line| line.trim().strip_prefix("steward "))
        .collect();
    assert_eq!(commands.len(), 5, "{commands:?}");
    // Those that need a person at a terminal are told with `&&`.
    for command in commands.iter().filter(|command| !command.contains("&&")) {
        let args: Vec<&str> = command.split_whitespace().collect();
        let (code, stdout, stderr) = run(&args);
        // A refused path is a finding of `policy check`.
        assert!(matches!(code, 0 | 5), "{command}: {code} {}", String::from_utf8_lossy(&stderr));
        assert!(!stdout.is_empty(), "{command}");
    }

    // The same task again, in both forms: the index is there by now, the rest is decided as before.
    std::fs::copy(
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/flights/tasks/review.yaml"),
        demo.join("tasks/review.yaml"),
    )
    .unwrap();
    for file in ["tasks/review.md", "tasks/review.yaml"] {
        // One part is the Engineer's: of 1, 4, 3, 5 and 0 the first that applies is 4.
        let (code, stdout, stderr) = run(&["task", "run", file]);
        assert_eq!(code, 4, "{file}: {stdout}{}", String::from_utf8_lossy(&stderr));
        for part in ["Status", "Findings", "Issues", "Recommendations"] {
            assert!(stdout.contains(part), "{part} is missing\n{stdout}");
        }
    }
    let (_, list, _) = run(&["task", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let tasks = list["value"]["tasks"]
        .as_array()
        .or_else(|| list["value"].as_array())
        .unwrap_or_else(|| panic!("{list}"));
    assert_eq!(tasks.len(), 3, "{list}");
    for task in tasks {
        let id = task["id"].as_str().unwrap();
        let (code, shown, _) = run(&["task", "show", id]);
        assert!(code == 0 && shown.contains(id), "{code} {shown}");
        let (code, report, _) = run(&["report", id]);
        assert!(code == 0 && report.contains("Status"), "{code} {report}");
    }
    let (code, _, stderr) = run(&["report", "no-such-task"]);
    assert!(code == 1 && String::from_utf8_lossy(&stderr).contains("hint: "));
    assert_eq!(run(&["audit", "verify"]).0, 0);
}

#[test]
fn demo_leaves_a_folder_alone_that_is_not_its_own() {
    let project = Project::new("project: mine\n");
    let before = std::fs::read(project.file("steward.yaml")).unwrap();
    let ended = project.run(&["demo", "--dir", "."]).expect(1);
    assert!(ended.stderr.contains("--dir"), "{}", ended.stderr);
    assert_eq!(std::fs::read(project.file("steward.yaml")).unwrap(), before);
    assert_eq!(std::fs::read_dir(project.path()).unwrap().count(), 1);
}

#[test]
fn task_that_waits_ends_with_3_and_goes_on_after_the_grant() {
    let passphrase = "violet harbor tin kettle";
    let project = Project::with_sqlite(
        "project: shop",
        "CREATE TABLE old (id INTEGER PRIMARY KEY); INSERT INTO old VALUES (1);",
    );
    project.migrations(&[("0001_drop_old.sql", "DROP TABLE old;\n-- steward: irreversible\n")]);
    project.add_person("anna", passphrase, &["pm"]);
    project.write(
        "task.md",
        "**Data Engineer Agent**: Apply the pending migrations of the `app` store\n\n**Context**:\n- Store: app\n\n\
         **Task**:\n- Apply the pending migrations of the store\n\n**Expected Results**:\n- migration.applied\n",
    );
    let ran = project.run(&["task", "run", "task.md"]).expect(3);
    assert!(ran.stdout.contains("approval grant"), "{}", ran.stdout);
    assert_eq!(project.number("SELECT count(*) FROM sqlite_master WHERE name = 'old'"), 1);
    let list = project.answer(&["approval", "list", "--state", "waiting"]);
    let id = list["value"]["approvals"][0]["id"].as_str().unwrap_or_else(|| panic!("{list}"));
    project.run_on_terminal(&["approval", "grant", id, "--person", "anna"], &[passphrase]).expect(0);
    let tasks = project.answer(&["task", "list"]);
    let task = tasks["value"]["tasks"][0]["id"]
        .as_str()
        .or_else(|| tasks["value"][0]["id"].as_str())
        .unwrap()
        .to_owned();
    project.run(&["task", "resume", &task]).expect(0);
    assert_eq!(project.number("SELECT count(*) FROM sqlite_master WHERE name = 'old'"), 0);
    let report = project.run(&["report", &task]).expect(0);
    assert!(report.stdout.contains("anna"), "the report names the approver\n{}", report.stdout);
}

#[test]
fn unclear_task_asks_and_changes_nothing() {
    let project = Project::with_sqlite("project: shop", "CREATE TABLE old (id INTEGER PRIMARY KEY)");
    project.write(
        "task.md",
        "**Data Engineer Agent**: Make everything nicer\n\n**Task**:\n- Improve the vibe\n",
    );
    let ran = project.run(&["task", "run", "task.md"]).expect(3);
    assert!(ran.stdout.to_lowercase().contains("clarification"), "{}", ran.stdout);
    let empty = project.run_with_input(&["task", "run", "-"], "");
    assert_eq!(empty.code, 2, "{empty:?}");
    let piped = project.run_with_input(&["task", "run", "-"], "Take an inventory of the app store");
    assert_eq!(piped.code, 0, "{piped:?}");
    assert!(piped.stdout.contains("store.inspect"), "{}", piped.stdout);
}
