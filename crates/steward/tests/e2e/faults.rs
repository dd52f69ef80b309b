//! Broken files, full disks and hostile input: a clear error, the right exit code, nothing lost, no secret shown.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::program::{Daemon, Ended, Project, eventually};

const SECRET: &str = "opal-thicket-murmur-93";

fn shop() -> Project {
    Project::with_sqlite(
        "project: shop",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT); INSERT INTO orders VALUES (1, 'a'), (2, 'b');",
    )
}

/// A clear error: what failed and, where something can be done, a hint; never a panic or a secret.
#[track_caller]
fn clear(ended: &Ended, parts: &[&str]) {
    assert!(ended.stderr.lines().any(|line| line.starts_with("error: ")), "{ended:?}");
    for part in parts {
        assert!(ended.stderr.contains(part), "wants {part}\n{ended:?}");
    }
    for never in ["panicked", "RUST_BACKTRACE", SECRET] {
        assert!(!ended.stderr.contains(never) && !ended.stdout.contains(never), "{ended:?}");
    }
}

#[test]
fn dead_store_fails_the_status_that_probes_it() {
    let project = Project::new(
        "project: shop\nstores:\n  app: { kind: sqlite, path: app.db }\n  \
         dead: { kind: postgres, url: \"postgres://127.0.0.1:1/shop\", reader: { user: steward_reader } }\n",
    );
    project.database().execute_batch("CREATE TABLE orders (id INTEGER)").unwrap();
    project.run(&["status"]).expect(0);
    let ended = project.run(&["status", "--probe"]).expect(5);
    assert!(ended.stdout.contains("dead: postgres DOES NOT ANSWER"), "{}", ended.stdout);
    assert!(ended.stdout.contains("app: sqlite"), "the others are shown too: {}", ended.stdout);
    let answer = project.run(&["status", "--probe", "--json"]).expect(5).json();
    assert_eq!(answer["findings"][0]["code"], "store_unreachable", "{answer}");
}

#[test]
fn damaged_state_file_is_said_and_left_as_it_is() {
    let project = shop();
    project.run_with_input(&["secret", "put", "a/b"], SECRET).expect(0);
    // What is in the log moves into the file when nobody has it open; one file is then the whole state.
    project.state().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let file = project.file(".steward/state.db");
    let whole = std::fs::read(&file).unwrap();
    let mut noise = whole.clone();
    for (i, byte) in noise.iter_mut().enumerate() {
        *byte = u8::try_from(i % 251).unwrap().wrapping_mul(31);
    }
    let mut middle = whole.clone();
    for byte in &mut middle[4096..20_000] {
        *byte ^= 0x5a;
    }
    let cases: [(&str, &[u8]); 4] = [
        ("noise", &noise),
        ("cut off", &whole[..whole.len() / 3 + 100]),
        ("damaged inside", &middle),
        ("text", b"project: this is no database, and long enough to look like something else entirely\n"),
    ];
    for (case, bytes) in cases {
        for wal in ["-wal", "-shm"] {
            drop(std::fs::remove_file(project.file(&format!(".steward/state.db{wal}"))));
        }
        std::fs::write(&file, bytes).unwrap();
        for args in
            [&["secret", "list"][..], &["store", "inspect", "app"], &["secret", "remove", "a/b"], &["up"]]
        {
            if args == ["up"] && case == "damaged inside" {
                continue; // What is damaged is not read at the start.
            }
            let ended = project.run(args);
            assert_eq!(ended.code, 1, "{case} {args:?}: {ended:?}");
            clear(&ended, &["state", "hint: "]);
        }
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "{case}: the file is as it was");
    }
    drop(std::fs::remove_file(project.file(".steward/state.db-wal")));
    drop(std::fs::remove_file(project.file(".steward/state.db-shm")));
    std::fs::write(&file, &whole).unwrap();
    project.run(&["secret", "list"]).expect(0);
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn edited_audit_trail_is_found_and_said() {
    let project = shop();
    project.run_with_input(&["secret", "put", "a/b"], SECRET).expect(0);
    project.run(&["audit", "verify"]).expect(0);
    let state = project.state();
    // The guards against edits are triggers; whoever has the file can drop them.
    let triggers: Vec<String> = state
        .prepare("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    for trigger in triggers {
        state.execute_batch(&format!("DROP TRIGGER \"{trigger}\"")).unwrap();
    }
    state.execute("UPDATE events SET actor = 'nobody' WHERE seq = 2", []).unwrap();
    drop(state);
    let ended = project.run(&["audit", "verify"]).expect(5);
    assert!(ended.stdout.contains("DAMAGED at entry 2"), "{}", ended.stdout);
    assert_eq!(project.escalations("security_violation").len(), 1);
}

/// Runs a shell script in a mount namespace of its own, where a folder can be a small or read-only file system.
pub(crate) fn in_mounts(project: &Project, script: &str) -> Output {
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-ec", script])
        .env("STEWARD", env!("CARGO_BIN_EXE_steward"))
        .env_remove("STEWARD_PROJECT_FILE")
        .current_dir(project.path())
        .output()
        .expect("this test needs `unshare` of util-linux");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !stderr.contains("unshare failed") && !stderr.contains("mount:"),
        "this test needs mount namespaces: {stderr}"
    );
    output
}

fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn state_on_a_read_only_file_system_is_refused() {
    let project = shop();
    project.run_with_input(&["secret", "put", "a/b"], SECRET).expect(0);
    let read_only = "mount --bind .steward .steward; mount -o remount,bind,ro .steward;";
    for command in ["secret remove a/b", "status", "file write notes.md --content x"] {
        let ended = ended(in_mounts(&project, &format!("{read_only} exec \"$STEWARD\" {command}")));
        assert_eq!(ended.code, 1, "{command}: {ended:?}");
        clear(&ended, &["state", "hint: "]);
    }
    assert!(!project.file("notes.md").exists(), "what cannot be recorded is not done");
    // A folder in which no state can be made.
    let fresh = shop();
    let ended = ended(in_mounts(
        &fresh,
        "mount --bind . .; mount -o remount,bind,ro .; cd \"$PWD\"; exec \"$STEWARD\" status",
    ));
    assert_eq!(ended.code, 1, "{ended:?}");
    clear(&ended, &["state", "hint: "]);
    assert!(!fresh.file(".steward").exists());
    project.run(&["secret", "list"]).expect(0);
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn full_disk_under_the_state_loses_nothing() {
    let project = shop();
    project.run_with_input(&["secret", "put", "a/b"], SECRET).expect(0);
    project.migrations(&[("0001_a.sql", "CREATE TABLE a (id INTEGER);\n-- steward: down\nDROP TABLE a;\n")]);
    // The state lies on a small disk; then something else fills it, down to a few blocks.
    let script = "
        mkdir small; mount -t tmpfs -o size=1m,mode=0700 tmpfs small; cp -p .steward/* small/; mount --bind small .steward
        set +e
        \"$STEWARD\" status >/dev/null || exit 90
        dd if=/dev/zero of=.steward/filler bs=4k 2>/dev/null
        printf %s 'another-long-value' | \"$STEWARD\" secret put c/d >put.out 2>put.err; echo $? >put.code
        \"$STEWARD\" migration apply app >apply.out 2>apply.err; echo $? >apply.code
        rm .steward/filler
        \"$STEWARD\" secret list >list.out 2>list.err; echo $? >list.code
        \"$STEWARD\" migration apply app >again.out 2>again.err; echo $? >again.code
        \"$STEWARD\" audit verify >verify.out 2>verify.err; echo $? >verify.code";
    let output = in_mounts(&project, script);
    assert!(output.status.success(), "{output:?}");
    let read = |name: &str| Ended {
        code: std::fs::read_to_string(project.file(&format!("{name}.code"))).unwrap().trim().parse().unwrap(),
        stdout: std::fs::read_to_string(project.file(&format!("{name}.out"))).unwrap(),
        stderr: std::fs::read_to_string(project.file(&format!("{name}.err"))).unwrap(),
    };
    for name in ["put", "apply"] {
        let full = read(name).expect(1);
        clear(&full, &["full"]);
        assert!(!full.stderr.contains("another-long-value"), "{full:?}");
    }
    let list = read("list").expect(0);
    assert!(list.stdout.contains("a/b") && !list.stdout.contains("c/d"), "{list:?}");
    read("again").expect(0);
    assert_eq!(project.number("SELECT count(*) FROM sqlite_master WHERE name = 'a'"), 1);
    read("verify").expect(0);
}

#[test]
fn missing_corrupt_and_locked_databases_are_said() {
    let project = shop();
    project.migrations(&[("0001_a.sql", "CREATE TABLE a (id INTEGER);\n-- steward: down\nDROP TABLE a;\n")]);
    let whole = std::fs::read(project.file("app.db")).unwrap();

    std::fs::remove_file(project.file("app.db")).unwrap();
    for args in [
        &["store", "inspect", "app"][..],
        &["store", "query", "app", "SELECT 1"],
        &["migration", "apply", "app"],
    ] {
        clear(&project.run(args).expect(1), &["app.db"]);
    }
    assert!(!project.file("app.db").exists(), "a missing database is not made anew");

    for bytes in [&b"this is not a database, however long one looks at it"[..], &[0x17; 8192]] {
        std::fs::write(project.file("app.db"), bytes).unwrap();
        for args in [&["store", "inspect", "app"][..], &["migration", "apply", "app"]] {
            clear(&project.run(args).expect(1), &["store: app"]);
        }
        assert_eq!(std::fs::read(project.file("app.db")).unwrap(), bytes);
    }
    assert!(!project.escalations("data_corruption").is_empty());

    std::fs::write(project.file("app.db"), &whole).unwrap();
    let other = project.database();
    other.execute_batch("BEGIN EXCLUSIVE; INSERT INTO orders VALUES (3, 'c')").unwrap();
    let ended =
        project.run(&["migration", "apply", "app", "--lock-timeout-ms", "200", "--timeout", "20"]).expect(1);
    clear(&ended, &["lock"]);
    other.execute_batch("COMMIT").unwrap();
    project.run(&["migration", "apply", "app"]).expect(0);
    assert_eq!(project.number("SELECT count(*) FROM orders"), 3);
}

#[test]
fn huge_task_file_is_refused_at_once() {
    let project = shop();
    let file = std::fs::File::create(project.file("task.yaml")).unwrap();
    file.set_len(100 << 20).unwrap();
    let ended = project.run(&["task", "run", "task.yaml"]).expect(2);
    clear(&ended, &["task.yaml", "hint: "]);
    // Reading it whole would cost far more; the limit leaves room for a busy machine.
    let file = std::fs::File::create(project.file("migrations.sql")).unwrap();
    file.set_len(100 << 20).unwrap();
    std::fs::create_dir_all(project.file("migrations/app")).unwrap();
    std::fs::rename(project.file("migrations.sql"), project.file("migrations/app/0001_huge.sql")).unwrap();
    let ended = project.run(&["migration", "apply", "app"]);
    assert!([1, 2].contains(&ended.code), "{ended:?}");
    clear(&ended, &["0001_huge.sql"]);
}

#[test]
fn yaml_bombs_in_tasks_are_refused() {
    let project = shop();
    let level = |i: u32| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","));
    let mut bomb =
        String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n") + &(1..30).map(level).collect::<Vec<_>>().concat();
    bomb.push_str("Task:\n  - *a29\n");
    let deep = format!("Task: {}", "[".repeat(200_000));
    for text in [bomb, deep] {
        project.write("task.yaml", text);
        let ended = project.run(&["task", "run", "task.yaml", "--timeout", "20"]);
        assert_ne!(ended.code, 0, "{ended:?}");
        assert!(ended.code == 2 || ended.code == 3, "{ended:?}");
        assert!(!ended.stderr.contains("panicked") && !ended.stderr.contains("overflow"), "{}", ended.stderr);
    }
}

#[test]
fn names_that_are_not_utf8_are_said_not_guessed() {
    let project = shop();
    let name = OsStr::from_bytes(b"t\xffsk.md");
    std::fs::write(project.path().join(name), "**Task**:\n- Inventory of the app store\n").unwrap();
    let output = project.command(&["task", "run"]).arg(name).output().unwrap();
    let task = ended(output);
    assert_eq!(task.code, 2, "{task:?}");
    assert!(task.stderr.contains("UTF-8") || task.stderr.contains("utf-8"), "{task:?}");

    project.write("task.md", b"**Task**:\n- Inventory of the \xff store\n");
    clear(&project.run(&["task", "run", "task.md"]).expect(2), &["UTF-8"]);

    std::fs::create_dir_all(project.file("migrations/app")).unwrap();
    let odd = project.file("migrations/app").join(OsStr::from_bytes(b"0001_\xff.sql"));
    std::fs::write(&odd, "CREATE TABLE a (id INTEGER);").unwrap();
    let bad_name = project.run(&["migration", "status", "app"]);
    assert!([1, 2].contains(&bad_name.code), "{bad_name:?}");
    clear(&bad_name, &["UTF-8"]);
    std::fs::remove_file(&odd).unwrap();
    project.write("migrations/app/0001_a.sql", b"CREATE TABLE a\xff (id INTEGER);");
    clear(&project.run(&["migration", "status", "app"]).expect(2), &["0001_a.sql", "UTF-8"]);

    // A folder whose name is not UTF-8 works like any other.
    let folder = project.path().join(OsStr::from_bytes(b"sh\xffp"));
    std::fs::create_dir(&folder).unwrap();
    for file in ["steward.yaml", "app.db"] {
        std::fs::copy(project.file(file), folder.join(file)).unwrap();
    }
    let output = project
        .command(&["store", "query", "app", "SELECT count(*) AS n FROM orders"])
        .current_dir(&folder)
        .output()
        .unwrap();
    let odd = ended(output);
    assert!(
        odd.code == 0 && odd.stdout.contains('2') || odd.code == 2 && odd.stderr.contains("UTF-8"),
        "{odd:?}"
    );
}

#[test]
fn odd_identifiers_and_values_come_back_as_they_are() {
    let project = Project::with_sqlite("project: shop", "");
    let names = [
        "it's",
        "say \"hi\"",
        "line\nbreak",
        "naïve—表",
        "semi;colon",
        "drop table x;--",
        "tab\there",
        "`tick`",
        "[br]",
    ];
    let database = project.database();
    for name in names {
        let quoted = name.replace('"', "\"\"");
        database
            .execute_batch(&format!(
                "CREATE TABLE \"{quoted}\" (\"{quoted} id\" INTEGER PRIMARY KEY, v TEXT)"
            ))
            .unwrap();
        database.execute(&format!("INSERT INTO \"{quoted}\" (v) VALUES (?)"), [name]).unwrap();
    }
    drop(database);
    let inspected = project.answer(&["store", "inspect", "app"]);
    let tables = inspected["value"]["tables"].as_array().unwrap();
    for name in names {
        let table =
            tables.iter().find(|table| table["name"] == json!(name) || table["name"]["name"] == json!(name));
        let table = table.unwrap_or_else(|| panic!("{name:?} is missing: {inspected}"));
        assert_eq!(table["rows"], 1, "{table}");
        assert_eq!(table["columns"][0]["name"], format!("{name} id"));
        let quoted = name.replace('"', "\"\"");
        let rows = project.answer(&["store", "query", "app", &format!("SELECT v FROM \"{quoted}\"")]);
        assert_eq!(rows["value"]["rows"], json!([[name]]), "{rows}");
    }
    for format in ["text", "mermaid"] {
        let text = project.run(&["store", "inspect", "app", "--format", format]).expect(0).stdout;
        // Control characters of the data do not reach a terminal.
        assert!(!text.contains('\t') && text.contains("表"), "{text}");
    }
    project.run(&["store", "consistency", "app"]).expect(0);
}

#[test]
fn queries_cannot_leave_read_only() {
    let project = shop();
    let before = std::fs::read(project.file("app.db")).unwrap();
    let cases = [
        "INSERT INTO orders VALUES (9, 'x')",
        "SELECT 1; DELETE FROM orders",
        "SELECT 1;;DROP TABLE orders;--",
        "WITH x AS (SELECT 1) INSERT INTO orders SELECT 9, 'x'",
        "WITH x AS (SELECT 1) DELETE FROM orders",
        "INSERT INTO orders VALUES (9, 'x') RETURNING id",
        "REPLACE INTO orders VALUES (1, 'x')",
        "ATTACH 'other.db' AS other",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "PRAGMA writable_schema = 1",
        "PRAGMA query_only = 0",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA user_version = 7",
        "SELECT load_extension('libc.so.6')",
        "SELECT writefile('stolen.txt', 'x')",
        "SELECT readfile('steward.yaml')",
        "SELECT edit('x')",
        "VACUUM",
        "VACUUM INTO 'copy.db'",
        "REINDEX",
        "ANALYZE",
        "BEGIN EXCLUSIVE",
        "COMMIT",
        "CREATE TEMP TABLE t (id INTEGER)",
        "CREATE TEMP TRIGGER t AFTER INSERT ON orders BEGIN SELECT 1; END",
        "UPDATE orders SET note = 'x'",
        "DROP TABLE orders",
        "ALTER TABLE orders ADD COLUMN x",
        "EXPLAIN DELETE FROM orders; DELETE FROM orders",
        "",
        "-- nothing",
    ];
    let mut files = listing(&project);
    files.push(".steward".into());
    files.sort();
    for sql in cases {
        let ended = project.run(&["store", "query", "app", sql]);
        assert!([1, 2].contains(&ended.code), "{sql}: {ended:?}");
        clear(&ended, &[]);
        assert_eq!(std::fs::read(project.file("app.db")).unwrap(), before, "{sql}");
    }
    assert_eq!(listing(&project), files, "no file was made");
}

fn listing(project: &Project) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(project.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn queries_are_bounded() {
    let project = shop();
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c";
    let rows = project.answer(&["store", "query", "app", endless, "--rows-max", "7"]);
    assert_eq!(rows["value"]["rows"].as_array().unwrap().len(), 7);
    assert!(!rows["value"]["truncated"].is_null(), "{rows}");
    let bytes = project.answer(&[
        "store",
        "query",
        "app",
        "SELECT zeroblob(100000), hex(zeroblob(100000))",
        "--bytes-max",
        "1000",
    ]);
    assert!(bytes["value"].to_string().len() < 2_000);
    let counting = format!("SELECT count(*) FROM ({endless})");
    let slow = project.run(&["store", "query", "app", &counting, "--timeout-ms", "200"]).expect(1);
    clear(&slow, &["took longer"]);
    let slow = project.run(&["store", "query", "app", &counting, "--timeout", "1"]).expect(1);
    clear(&slow, &[]);
}

#[test]
fn secrets_are_taken_out_of_everything_that_is_shown() {
    let project = shop();
    project.run_with_input(&["secret", "put", "a/b"], SECRET).expect(0);
    // The redactor knows what this process has read; a query that quotes a known secret is the worst case over one run.
    let token = project.token("agent", "requester");
    let export = project.run(&["audit", "export", "--json"]).expect(0).stdout;
    assert!(!export.contains(SECRET) && !export.contains(&token), "{export}");
    let state: Vec<u8> = std::fs::read_dir(project.file(".steward"))
        .unwrap()
        .flat_map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    for secret in [SECRET, token.as_str()] {
        assert!(!state.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}

/// A project whose daemon lets AI calls in for at most a hundredth of a dollar, and a key for it.
fn ai_shop(fake: &str) -> (Project, String) {
    let project = Project::new(&format!(
        "project: shop\nai:\n  providers:\n    openai: {{ kind: openai, url: {fake}/v1, keys: [openai/main] }}\n  \
         routes:\n    fast: {{ targets: [ {{ provider: openai, model: gpt-5-mini }} ] }}\n  \
         budgets:\n    month: {{ usd: 0.01, per: month, scope: project }}\nhttp:\n  listen: 127.0.0.1:0\n"
    ));
    project.run_with_input(&["secret", "put", "openai/main"], "provider-key-0123456789").expect(0);
    let made = project.run(&["ai", "keys", "create", "checkout"]).expect(0);
    let key = made.stdout.split_whitespace().find(|word| word.starts_with("sk-steward-")).unwrap().to_owned();
    (project, key)
}

/// Waits until the daemon answers AI calls, which it does once its budgets are at hand.
fn is_ready(runtime: &tokio::runtime::Runtime, url: &str, key: &str) {
    runtime.block_on(async {
        let asked = crate::program::client().get(format!("{url}/v1/models")).bearer_auth(key);
        assert_eq!(asked.send().await.unwrap().status().as_u16(), 200);
    });
}

/// Calls through the gateway until the budget is used up; how many were answered, and what the refusal says.
fn use_up(runtime: &tokio::runtime::Runtime, url: &str, key: &str) -> (usize, String) {
    // A prompt of 2,000 letters may cost a twentieth of the budget, and costs less.
    let call = serde_json::json!({
        "model": "fast", "max_completion_tokens": 100, "service_tier": "default",
        "messages": [{ "role": "user", "content": "a".repeat(2_000) }],
    });
    runtime.block_on(async {
        let client = crate::program::client();
        for answered in 0..10_000 {
            let response = client.post(format!("{url}/v1/chat/completions")).bearer_auth(key).json(&call);
            let response = response.send().await.unwrap();
            let status = response.status().as_u16();
            if status != 200 {
                assert_eq!(status, 402);
                return (answered, response.text().await.unwrap());
            }
        }
        panic!("the budget is never used up");
    })
}

/// What each call of [`use_up`] costs: 2,000 tokens in, 10 out of gpt-5-mini.
const CALL_USD_NANOS: i64 = 2_000 * 250 + 10 * 2_000;
const BUDGET_USD_NANOS: i64 = 10_000_000;

/// A simulated provider that counts what [`CALL_USD_NANOS`] says.
fn counting(runtime: &tokio::runtime::Runtime) -> fake_ai::FakeAi {
    let fake = runtime.block_on(fake_ai::FakeAi::start()).unwrap();
    let usage = fake_ai::Usage { input: 2_000, output: 10, ..fake_ai::Usage::default() };
    let answer = fake_ai::Answer::text("here it is").usage(usage);
    fake.always(fake_ai::On::any(), fake_ai::Reply::answer(answer));
    fake
}

#[test]
fn full_disk_under_a_serving_daemon_overspends_nothing_and_loses_no_spend() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fake = counting(&runtime);
    let (project, key) = ai_shop(&fake.url());
    // The daemon's state lies on a small disk, in a mount namespace of its own.
    let script = "mkdir small; mount -t tmpfs -o size=16m,mode=0700 tmpfs small; cp -p .steward/* small/
        mount --bind small .steward; exec \"$STEWARD\" up 2>daemon.log";
    let child = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-ec", script])
        .env("STEWARD", env!("CARGO_BIN_EXE_steward"))
        .env_remove("STEWARD_PROJECT_FILE")
        .current_dir(project.path())
        .spawn()
        .expect("this test needs `unshare` of util-linux");
    let pid = child.id().to_string();
    let daemon = Daemon::listening(child, &project.file("daemon.log"));
    let inside = |script: &str| {
        let output = Command::new("nsenter")
            .args(["--target", &pid, "--user", "--mount", "--preserve-credentials"])
            // The folder as the daemon sees it; outside of it nothing is written.
            .args([
                "sh",
                "-c",
                "cd \"$HERE\" && [ \"$(stat -f -c %T .steward)\" = tmpfs ] || exit 99; eval \"$0\"",
                script,
            ])
            .env("HERE", project.path())
            .env("STEWARD", env!("CARGO_BIN_EXE_steward"))
            .env_remove("STEWARD_PROJECT_FILE")
            .output()
            .expect("this test needs `nsenter` of util-linux");
        ended(output)
    };
    let log = || std::fs::read_to_string(project.file("daemon.log")).unwrap();
    is_ready(&runtime, &daemon.url, &key);
    // Something else fills the disk, down to the last block.
    let filled = inside(
        "ulimit -f 65536; cd .steward; for size in 64k 4k 1k; do dd if=/dev/zero bs=$size >>filler 2>/dev/null; done; df . | tail -1",
    );
    assert!(filled.stdout.contains("100%"), "{filled:?}");
    let (answered, refusal) = use_up(&runtime, &daemon.url, &key);
    let spent = i64::try_from(answered).unwrap() * CALL_USD_NANOS;
    assert!(spent <= BUDGET_USD_NANOS && answered >= 8, "{answered} calls, then {refusal}");
    assert!(refusal.contains("`month`"), "{refusal}");
    eventually("it is said", || log().contains("usage of AI calls cannot be written"));
    eventually("telling the PM was tried", || log().contains("cannot be written to the state file"));
    let (more, _) = use_up(&runtime, &daemon.url, &key);
    assert_eq!(more, 0, "nothing comes back while nothing can be written");

    // With room again every call is in the books, and the PM hears what happened.
    inside("rm .steward/filler");
    let cost = || {
        let ended = inside("exec \"$STEWARD\" ai cost --json");
        let answer = ended.json();
        (answer["value"]["total"]["requests"].as_i64(), answer["value"]["total"]["cost_usd_nanos"].as_i64())
    };
    let whole = (i64::try_from(answered).ok(), Some(spent));
    eventually("every call is written", || cost() == whole);
    eventually("the PM is told", || {
        let told = inside("exec \"$STEWARD\" inbox list --json").stdout;
        told.contains("cannot be written to the state file") && told.contains("used up")
    });
    inside("exec \"$STEWARD\" audit verify").expect(0);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn locked_state_under_a_serving_daemon_overspends_nothing_and_loses_no_spend() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fake = counting(&runtime);
    let (project, key) = ai_shop(&fake.url());
    let daemon = project.daemon(&[]);
    is_ready(&runtime, &daemon.url, &key);
    let locker = rusqlite::Connection::open(project.file(".steward/state.db")).unwrap();
    locker.busy_timeout(std::time::Duration::from_mins(1)).unwrap();
    locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    // Calls need no state file while it is locked, and none is let in beyond the budget.
    let (answered, refusal) = use_up(&runtime, &daemon.url, &key);
    let spent = i64::try_from(answered).unwrap() * CALL_USD_NANOS;
    assert!(spent <= BUDGET_USD_NANOS && answered >= 8, "{answered} calls, then {refusal}");
    assert!(refusal.contains("`month`"), "{refusal}");
    let log = || std::fs::read_to_string(project.file("daemon.log")).unwrap();
    eventually("it is said", || log().contains("usage of AI calls cannot be written"));
    locker.execute_batch("COMMIT").unwrap();
    eventually("every call is written", || {
        let answer = project.answer(&["ai", "cost"]);
        let total = &answer["value"]["total"];
        (total["requests"].as_i64(), total["cost_usd_nanos"].as_i64())
            == (i64::try_from(answered).ok(), Some(spent))
    });
    eventually("the PM is told", || {
        let told = project.run(&["inbox", "list", "--json"]).stdout;
        told.contains("cannot be written to the state file") && told.contains("used up")
    });
    project.run(&["audit", "verify"]).expect(0);
    assert_eq!(daemon.stop(), 0);
}

/// The setting is the server's own; the machine is made small, as far as Steward can tell.
#[test]
fn cache_that_takes_more_than_half_of_the_machine_is_found() {
    let url = conformance::postgres().replace("postgres@", "");
    let project = Project::new(&format!(
        "project: shop\nstores:\n  app:\n    kind: postgres\n    url: {url}\n    reader: {{ user: postgres }}\n  \
         elsewhere:\n    kind: postgres\n    url: {}\n    tls: disable\n    reader: {{ user: postgres }}\n",
        // It leads to this machine, and does not say so.
        url.replace("127.0.0.1", "0.0.0.0")
    ));
    project.write("meminfo", "MemTotal:         200000 kB\n");
    let health = "\"$STEWARD\" store health app --areas settings --json";
    let small =
        ended(in_mounts(&project, &format!("mount --bind meminfo /proc/meminfo; exec {health}"))).json();
    let large = ended(in_mounts(&project, &format!("exec {health}"))).json();
    let has = |answer: &Value| {
        let findings = answer["findings"].as_array().unwrap_or_else(|| panic!("{answer}"));
        findings.iter().any(|finding| finding["code"] == "shared_buffers_large")
    };
    assert!(has(&small) && !has(&large), "{small:#}\n{large:#}");
    let not_seen = |answer: &Value| answer["value"]["checks"][0]["because"].as_str().map(ToOwned::to_owned);
    assert_eq!(not_seen(&large), None, "{large:#}");
    let health = ["store", "health", "elsewhere", "--areas", "settings", "--json"];
    let remote = project.run(&health).json();
    assert!(not_seen(&remote).is_some_and(|because| because.contains("memory")), "{remote:#}");
}
