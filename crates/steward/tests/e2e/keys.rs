//! Keys of backups: those that open a repository, and the one that signs what is in it.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::drill::master_key;
use crate::program::Project;

const SHOP: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT NOT NULL); \
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
     INSERT INTO orders SELECT i, 'order ' || i FROM n";

fn shop(yaml: &str) -> (Project, String) {
    let project = Project::with_sqlite(&format!("project: shop\n{yaml}"), SHOP);
    let made = project.run(&["backup", "setup", "--json"]).expect(0).json();
    let key = made["value"]["value"].as_str().unwrap_or_else(|| panic!("{made:#}")).to_owned();
    (project, key)
}

fn backup(project: &Project) -> String {
    let made = project.run(&["backup", "run", "app", "--json"]).json();
    made["value"]["backups"][0]["backup"]["id"].as_str().unwrap_or_else(|| panic!("{made:#}")).to_owned()
}

/// Whether restic opens the repository with this passphrase.
fn restic_opens(project: &Project, passphrase: &str) -> bool {
    let opens = |folder: &Path| {
        Command::new("restic")
            .args(["cat", "config", "--no-cache"])
            .env("RESTIC_REPOSITORY", folder)
            .env("RESTIC_PASSWORD", passphrase)
            .output()
            .expect("restic is installed")
            .status
            .success()
    };
    let both =
        ["stream", "pages"].map(|folder| opens(&project.file(&format!(".steward/backups/shop/{folder}"))));
    assert_eq!(both[0], both[1], "both halves have the same keys");
    both[0]
}

#[test]
fn keys_are_listed_tried_added_and_taken_out_of_force() {
    let (project, key) = shop("");
    let setup = |args: &[&str], input: &str| {
        let args: Vec<&str> = ["backup", "setup"].iter().chain(args).copied().collect();
        project.run_with_input(&args, input)
    };
    let listed = setup(&["--check"], "").expect(0);
    assert!(listed.stdout.contains("  recovery "), "{}", listed.stdout);
    let tried = setup(&["--test-recovery-key"], &key.to_lowercase()).expect(0);
    assert!(tried.stdout.contains("this is the recovery key of local"), "{}", tried.stdout);
    for (input, code, text) in [
        ("0000-0000-0000-0000-0000-0000-0000-0000", 1, "this key does not open the repository"),
        ("", 2, "no secret was given"),
    ] {
        let wrong = setup(&["--test-recovery-key"], input).expect(code);
        assert!(wrong.stderr.contains(text), "{}", wrong.stderr);
    }
    let weak = setup(&["--add-passphrase"], "password").expect(2);
    assert!(weak.stderr.contains("too weak"), "{}", weak.stderr);
    let both = setup(&["--check", "--new-recovery-key"], "").expect(2);
    assert!(both.stderr.contains("one thing at a time"), "{}", both.stderr);
    // A passphrase of one's own, rotated: the new one opens, the old one does not, and nothing was written anew.
    backup(&project);
    let (old, new) = ("velvet comet harbour nickel thistle", "quartz lantern meadow copper gravity");
    for passphrase in [old, new] {
        assert!(!restic_opens(&project, passphrase));
        setup(&["--add-passphrase"], passphrase).expect(0);
        assert!(restic_opens(&project, passphrase));
    }
    let other = setup(&["--test-recovery-key"], old).expect(1);
    assert!(other.stderr.contains("is not the recovery key but `passphrase`"), "{}", other.stderr);
    let keys = setup(&["--check", "--json"], "").expect(0).json()["value"]["keys"].clone();
    let made = |key: &&Value| key["label"] == "passphrase";
    let oldest =
        keys.as_array().unwrap().iter().filter(made).min_by_key(|key| key["created"].to_string()).unwrap();
    setup(&["--remove-key", &oldest["id"].as_str().unwrap()[..16]], "").expect(0);
    assert!(!restic_opens(&project, old) && restic_opens(&project, new) && restic_opens(&project, &key));
    // The only recovery key stays; another one takes it out of force, once it is known to be in somebody's hands.
    let recovery = keys.as_array().unwrap().iter().find(|key| key["label"] == "recovery").unwrap();
    let refused = setup(&["--remove-key", recovery["id"].as_str().unwrap()], "").expect(1);
    assert!(refused.stderr.contains("the only recovery key"), "{}", refused.stderr);
    assert!(setup(&["--remove-key", "ffffffffffff"], "").expect(1).stderr.contains("--check lists them"));
    let made = setup(&["--new-recovery-key", "--json"], "").expect(0).json();
    let newer = made["value"]["value"].as_str().unwrap();
    assert!(restic_opens(&project, newer) && restic_opens(&project, &key), "it may never have been read");
    let older = setup(&["--test-recovery-key"], &key).expect(0);
    assert!(older.stdout.contains("is newer: once it has been tried"), "{}", older.stdout);
    assert!(restic_opens(&project, newer) && restic_opens(&project, &key));
    let tried = setup(&["--test-recovery-key"], newer).expect(0);
    assert!(tried.stdout.contains("which is older, opens nothing any more"), "{}", tried.stdout);
    assert!(restic_opens(&project, newer) && !restic_opens(&project, &key));
    let lost = project.run_with_input(&["backup", "drill", "app", "--lose", "key"], &key).expect(5);
    assert!(lost.stdout.contains("this key does not open the repository"), "{}", lost.stdout);
    project.run_with_input(&["backup", "drill", "app", "--lose", "key"], newer).expect(0);
    project.run(&["backup", "verify", "app"]).expect(0);
    // Somebody takes the wrapper away: the next backup says so, and so does the check.
    for folder in ["stream", "pages"] {
        let keys = project.file(&format!(".steward/backups/shop/{folder}/keys"));
        for file in keys.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
            if std::fs::read_to_string(&file).unwrap().contains("recovery") {
                std::fs::remove_file(file).unwrap();
            }
        }
    }
    for args in [["backup", "run", "app"], ["backup", "setup", "--check"]] {
        project.run(&args).expect(5);
    }
    let missing = project.run(&["backup", "setup", "--check", "--json"]).expect(5).json();
    assert_eq!(missing["findings"][0]["code"], "recovery_key_missing", "{missing:#}");
    let secrets = format!("{}{}", missing, project.run(&["audit", "list", "--json"]).stdout);
    assert!(!secrets.contains(new) && !secrets.contains(newer), "no key is shown or recorded");
}

/// Whoever has the repository's key can write a backup into it, and cannot sign it.
#[test]
fn a_forged_backup_is_seen_and_refused() {
    let (project, _) = shop("");
    let own = backup(&project);
    let shown = project.run(&["backup", "show", &own, "--json"]).expect(0).json();
    assert_eq!(shown["value"]["manifest"]["signed"], "signed", "{shown:#}");
    let key = master_key(&project);
    let place = project.file(".steward/backups/shop");
    let yaml =
        format!("project: shop\nbackup:\n  repositories:\n    local: {{ url: {} }}\n", place.display());
    let thief = Project::with_sqlite(&yaml, "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT)");
    thief.run_with_input(&["secret", "put", "repository/local"], &key).expect(0);
    let forged = backup(&thief);
    let rebuilt = project.run(&["backup", "rebuild", "--json"]).expect(5).json();
    assert_eq!(rebuilt["value"]["not_trusted"], json!([forged]), "{rebuilt:#}");
    let listed = project.run(&["backup", "list"]).stdout;
    assert!(listed.contains("signed by a key that is none of this project's"), "{listed}");
    let verified = project.run(&["backup", "verify", &forged]).expect(5);
    assert!(
        verified.stdout.contains("NOT A BACKUP: the manifest is not to be trusted"),
        "{}",
        verified.stdout
    );
    let restore = |args: &[&str]| {
        let args: Vec<&str> = ["backup", "restore"].iter().chain(args).copied().collect();
        project.run(&args)
    };
    let refused = restore(&[&forged, "--to", "beside", "--name", "x.db"]).expect(1);
    assert!(
        refused.stderr.contains("--accept-unsigned") && !project.file("x.db").exists(),
        "{}",
        refused.stderr
    );
    restore(&[&forged, "--to", "beside", "--name", "x.db", "--accept-unsigned"]).expect(0);
    // The store's name still means what was made here.
    let newest = restore(&["app", "--to", "beside", "--name", "y.db", "--json"]).expect(0).json();
    assert_eq!(newest["value"]["backup"], own.as_str(), "{newest:#}");
}

/// What a key that was put out of force has signed is known by the list of backups; without that, not at all.
#[test]
fn the_signing_key_is_rotated() {
    let (project, _) = shop("");
    let public = |project: &Project| {
        project.run(&["backup", "setup", "--check", "--json"]).expect(0).json()["value"]["signing_key"]
            .clone()
    };
    let first = public(&project);
    let before = backup(&project);
    project.run(&["backup", "setup", "--new-signing-key"]).expect(0);
    assert_ne!(public(&project), first);
    let after = backup(&project);
    for id in [&before, &after] {
        project.run(&["backup", "verify", id]).expect(0);
    }
    project.state().execute_batch("DELETE FROM backups").unwrap();
    let rebuilt = project.run(&["backup", "rebuild", "--json"]).expect(5).json();
    assert_eq!(rebuilt["value"]["not_trusted"], json!([before]), "{rebuilt:#}");
    project.run(&["backup", "verify", &after]).expect(0);
    let refused = project.run(&["backup", "restore", &before]).expect(1);
    assert!(refused.stderr.contains("put out of force"), "{}", refused.stderr);
}
