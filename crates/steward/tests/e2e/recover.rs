//! Steward itself comes back: on an empty machine, from a repository and its recovery key alone.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::faults::in_mounts;
use crate::program::{Ended, Project};

const SHOP: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT NOT NULL); \
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
     INSERT INTO orders SELECT i, 'order ' || i FROM n";

/// A project with a repository elsewhere, a secret, a policy and a migration; and its recovery key.
struct Shop {
    project: Project,
    repository: tempfile::TempDir,
    key: String,
}

impl Shop {
    fn new() -> Self {
        let repository = tempfile::tempdir().unwrap();
        let yaml = format!(
            "project: shop\nbackup:\n  repositories:\n    main: {{ url: {} }}\n",
            repository.path().join("shop").display()
        );
        let project = Project::with_sqlite(&yaml, SHOP);
        project.write("policies/own.cedar", "");
        project.write("migrations/app/0001_more.sql", "-- steward: up\nSELECT 1;\n");
        project.run_with_input(&["secret", "put", "till/token"], "hunter2-hunter2").expect(0);
        let made = project.run(&["backup", "setup", "--json"]).expect(0).json();
        let key = made["value"]["value"].as_str().unwrap_or_else(|| panic!("{made:#}")).to_owned();
        Self { project, repository, key }
    }

    fn repository(&self) -> PathBuf {
        self.repository.path().join("shop")
    }

    fn backup(&self, store: &str) -> Value {
        let made = self.project.run(&["backup", "run", store, "--json"]).expect(0).json();
        let made = made["value"]["backups"][0].clone();
        assert_eq!(
            (&made["backup"]["level"], &made["proof"]["problems"]),
            (&json!("l3"), &json!([])),
            "{made:#}"
        );
        made
    }

    /// The machine burns: nothing is left but the repository.
    fn lose(self) -> (tempfile::TempDir, String) {
        let path = self.project.path().to_owned();
        drop(self.project);
        assert!(!path.exists());
        (self.repository, self.key)
    }
}

/// Recovers into an empty folder.
fn recover(repository: &Path, key: &str) -> (Project, Ended) {
    let project = Project::empty();
    let ended = project.run_with_input(
        &["recover", "--repository", repository.to_str().unwrap(), "--json"],
        &format!("{key}\n"),
    );
    (project, ended)
}

fn rows(file: &Path) -> i64 {
    rusqlite::Connection::open(file)
        .unwrap()
        .query_row("SELECT count(*) FROM orders", [], |row| row.get(0))
        .unwrap()
}

fn ids(project: &Project) -> Vec<String> {
    let listed = project.run(&["backup", "list", "--json"]).json();
    let mut ids: Vec<String> = listed["value"]["backups"]
        .as_array()
        .unwrap_or_else(|| panic!("{listed:#}"))
        .iter()
        .filter(|backup| backup["state"] == "complete")
        .map(|backup| backup["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

/// The state is older than the newest backup of a store: that one is known all the same.
#[test]
fn on_an_empty_machine_all_is_back_and_every_backup_is_known() {
    let shop = Shop::new();
    shop.backup("app");
    shop.backup("steward");
    shop.project.database().execute_batch("DELETE FROM orders WHERE id > 2000").unwrap();
    shop.backup("app");
    let before = ids(&shop.project);
    assert_eq!(before.len(), 3);
    let digest = shop.project.run(&["backup", "show", "app", "--json"]).expect(0).json();
    let (repository, key) = shop.lose();

    let (project, ended) = recover(&repository.path().join("shop"), &key);
    let recovered = ended.expect(0).json();
    assert_eq!(recovered["value"]["project"], "shop", "{recovered:#}");
    assert_eq!(recovered["value"]["notes"], json!([]), "{recovered:#}");
    assert_eq!(recovered["value"]["backups"], json!({ "app": 2, "steward": 1 }), "{recovered:#}");
    for file in ["steward.yaml", "policies/own.cedar", "migrations/app/0001_more.sql", ".steward/master.key"]
    {
        assert!(project.file(file).is_file(), "{file}");
    }
    assert!(!project.file(".steward-recovering").exists(), "nothing is left of the way");
    assert_eq!(ids(&project), before);
    // The secrets open: with the old master key the repository's key is read, which lies in the vault.
    let secrets = project.run(&["secret", "list"]).expect(0).stdout;
    assert!(secrets.contains("till/token"), "{secrets}");
    let restored = project.run(&["backup", "restore", "app", "--to", "beside", "--name", "app.db"]).expect(0);
    assert_eq!(rows(&project.file("app.db")), 2000, "{}", restored.stdout);
    let shown = project.run(&["backup", "show", "app", "--json"]).expect(0).json();
    assert_eq!(
        shown["value"]["manifest"]["dumped"]["tables"],
        digest["value"]["manifest"]["dumped"]["tables"]
    );
    project.run(&["backup", "verify", "app"]).expect(0);
    project.run(&["audit", "verify"]).expect(0);
    // And Steward lives on there; that the file lies elsewhere now is said until a person has said that it should.
    for _ in 0..2 {
        let moved = project.run(&["backup", "run", "app"]).expect(5);
        assert!(moved.stdout.contains("the address leads elsewhere now"), "{}", moved.stdout);
    }
    project.add_person("maria", "a long enough passphrase", &["pm"]);
    let asked = project.run(&["backup", "accept", "app"]).expect(3);
    let approval =
        asked.stderr.split_whitespace().find(|word| word.starts_with("approval-")).unwrap().to_owned();
    let granted = project.run_on_terminal(
        &["approval", "grant", &approval, "--person", "maria"],
        &["a long enough passphrase"],
    );
    assert_eq!(granted.code, 0, "{}", granted.stdout);
    project.run(&["backup", "accept", "app"]).expect(0);
    project.run(&["backup", "run", "app"]).expect(0);
    project.run(&["backup", "run", "steward"]).expect(0);
    project.run(&["status"]).expect(0);
}

/// The repository of a project that names none lies in its folder; here it was moved from there to another disk.
#[test]
fn a_repository_that_lies_elsewhere_now_is_led_to() {
    let project = Project::with_sqlite("project: shop", SHOP);
    let made = project.run(&["backup", "setup", "--json"]).expect(0).json();
    let key = made["value"]["value"].as_str().unwrap().to_owned();
    project.run(&["backup", "run", "app"]).expect(0);
    project.run(&["backup", "run", "steward"]).expect(0);
    let disk = tempfile::tempdir().unwrap();
    let moved = disk.path().join("copy of shop");
    std::fs::rename(project.file(".steward/backups/shop"), &moved).unwrap();
    drop(project);
    let (project, ended) = recover(&moved, &key);
    let recovered = ended.expect(0).json();
    assert!(recovered["value"]["notes"][0].as_str().unwrap().contains("a link there"), "{recovered:#}");
    project.run(&["backup", "verify", "app"]).expect(0);
    project.run(&["backup", "restore", "app", "--to", "beside", "--name", "app.db"]).expect(0);
    assert_eq!(rows(&project.file("app.db")), 3000);
}

#[test]
fn what_cannot_be_recovered_is_said_and_leaves_the_folder_as_it_was() {
    let shop = Shop::new();
    shop.backup("app");
    let repository = shop.repository();
    let none = |ended: Ended, project: &Project, code: i32, text: &str| {
        let ended = ended.expect(code);
        assert!(ended.stderr.contains(text), "{}", ended.stderr);
        assert_eq!(project.path().read_dir().unwrap().count(), 0, "{text}");
        assert!(!format!("{}{}", ended.stderr, ended.stdout).contains(&shop.key), "the key is shown");
    };
    let (project, ended) = recover(&repository, &shop.key);
    none(ended, &project, 1, "steward backup run steward");
    shop.backup("steward");
    let (project, ended) = recover(&repository, "0000-0000-0000-0000-0000-0000-0000-0000");
    none(ended, &project, 1, "this key does not open the repository");
    let (project, ended) = recover(&repository.join("nothing"), &shop.key);
    none(ended, &project, 1, "no repository is at");
    let (project, ended) = recover(&repository, "");
    none(ended, &project, 2, "no secret was given");
    let signed_by = |key: &str| {
        let project = Project::empty();
        let args = ["recover", "--repository", repository.to_str().unwrap(), "--signed-by", key];
        let ended = project.run_with_input(&args, &shop.key);
        (project, ended)
    };
    let (project, ended) = signed_by("AAAA");
    none(ended, &project, 1, "not signed by the key that was named");
    let checked = shop.project.run(&["backup", "setup", "--check", "--json"]).expect(0).json();
    signed_by(checked["value"]["signing_key"].as_str().unwrap_or_else(|| panic!("{checked:#}"))).1.expect(0);
    let foreign = Project::new("project: other");
    let refused =
        foreign.run_with_input(&["recover", "--repository", repository.to_str().unwrap()], &shop.key);
    let refused = refused.expect(1);
    assert!(refused.stderr.contains("the folder is not empty"), "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(foreign.file("steward.yaml")).unwrap(), "project: other");
    // In small letters and from a file, as from a note; into a folder that is not there yet.
    let project = Project::empty();
    project.write("key.txt", format!("{}\n", shop.key.to_lowercase()));
    let args = ["recover", "--dir", "new", "--recovery-key-file", "key.txt", "--repository"];
    let args: Vec<&str> = args.into_iter().chain([repository.to_str().unwrap()]).collect();
    project.run(&args).expect(0);
    assert!(project.file("new/steward.yaml").is_file());
}

/// The disk of the new machine is too small: it says so, and the folder is empty again.
#[test]
fn a_disk_that_fills_up_leaves_nothing() {
    let shop = Shop::new();
    shop.backup("steward");
    let project = Project::empty();
    project.write("key.txt", &shop.key);
    let script = format!(
        "mkdir small; mount -t tmpfs -o size=256k,mode=0700 tmpfs small; set +e
         \"$STEWARD\" recover --repository '{}' --dir small --recovery-key-file key.txt >out 2>err; echo $? >code
         ls -A small >left",
        shop.repository().display()
    );
    let output = in_mounts(&project, &script);
    assert!(output.status.success(), "{output:?}");
    let read = |name: &str| std::fs::read_to_string(project.file(name)).unwrap();
    assert_eq!((read("code").trim(), read("left").as_str()), ("1", ""), "{}", read("err"));
    assert!(read("err").contains("error: ") && !read("err").contains(&shop.key), "{}", read("err"));
}

#[test]
fn the_name_of_the_state_is_reserved_and_other_requests_do_not_know_it() {
    let project = Project::new("project: shop\nstores:\n  steward:\n    kind: sqlite\n    path: a.db\n");
    let refused = project.run(&["backup", "list"]).expect(2);
    assert!(
        refused.stderr.contains("stores.steward") && refused.stderr.contains("Steward's own state"),
        "{}",
        refused.stderr
    );
    let shop = Shop::new();
    let unknown = shop.project.run(&["store", "inspect", "steward"]).expect(1);
    assert!(unknown.stderr.contains("there is no store `steward`"), "{}", unknown.stderr);
    shop.backup("steward");
    let refused =
        shop.project.run(&["backup", "restore", "steward", "--to", "beside", "--name", "x"]).expect(1);
    assert!(refused.stderr.contains("steward recover"), "{}", refused.stderr);
    // A scratch copy can be looked at, and holds no key.
    let copy = shop.project.run(&["backup", "restore", "steward", "--json"]).expect(0).json();
    let folder = PathBuf::from(copy["value"]["address"].as_str().unwrap());
    assert!(folder.join("files/steward.yaml").is_file(), "{copy:#}");
    assert!(folder.join("restored.db").is_file() && !folder.join("master.key").exists());
}
