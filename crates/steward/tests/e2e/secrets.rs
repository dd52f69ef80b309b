//! Secrets come in by prompt or pipe, lie sealed, and never come out again.

use crate::program::Project;

const VALUE: &str = "correct-horse-battery-staple";

fn state_bytes(project: &Project) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(project.file(".steward")).unwrap() {
        all.extend(std::fs::read(entry.unwrap().path()).unwrap());
    }
    all
}

#[test]
fn secret_lies_sealed_and_is_never_printed() {
    let project = Project::new("project: shop\n");
    let put = project.run_with_input(&["secret", "put", "orders/password"], &format!("{VALUE}\n")).expect(0);
    let list = project.run(&["secret", "list", "--json"]).expect(0);
    assert!(list.stdout.contains("orders/password"));
    let audit = project.run(&["audit", "export"]).expect(0);
    for text in [&put.stdout, &put.stderr, &list.stdout, &audit.stdout] {
        assert!(!text.contains(VALUE), "{text}");
    }
    assert!(!state_bytes(&project).windows(VALUE.len()).any(|window| window == VALUE.as_bytes()));
    // A second put is no rotation.
    project.run_with_input(&["secret", "put", "orders/password"], "other-value-1").expect(1);
    project.run_with_input(&["secret", "rotate", "orders/password"], "other-value-2").expect(0);
    let list = project.answer(&["secret", "list"]);
    assert_eq!(list["value"]["secrets"][0]["version"], 2);
    project.run_with_input(&["secret", "put", "empty"], "").expect(2);
}

#[test]
fn value_in_arguments_is_refused() {
    let project = Project::new("project: shop\n");
    let ended = project.run_with_input(&["secret", "put", "orders/password", VALUE], "x").expect(2);
    assert!(!ended.stderr.contains("panicked"));
    assert!(project.answer(&["secret", "list"])["value"]["secrets"].as_array().unwrap().is_empty());
}

#[test]
fn lost_or_wrong_master_key_is_said_and_damages_nothing() {
    let project = Project::new("project: shop\n");
    project.run_with_input(&["secret", "put", "orders/password"], VALUE).expect(0);
    let key = project.file(".steward/master.key");
    let right = std::fs::read(&key).unwrap();
    let database = project.file(".steward/state.db");
    let before = std::fs::read(&database).unwrap();

    std::fs::remove_file(&key).unwrap();
    let lost = project.run(&["secret", "list"]).expect(1);
    assert!(lost.stderr.contains("master") && lost.stderr.contains("hint: "), "{}", lost.stderr);
    assert!(!key.exists(), "a new key in place of the lost one would hide the loss");

    let other = Project::new("project: other\n");
    other.run(&["status"]).expect(0);
    std::fs::copy(other.file(".steward/master.key"), &key).unwrap();
    let wrong = project.run(&["secret", "list"]).expect(1);
    assert!(wrong.stderr.contains("key") && wrong.stderr.contains("hint: "), "{}", wrong.stderr);

    std::fs::write(&key, &right).unwrap();
    assert_eq!(std::fs::read(&database).unwrap(), before, "nothing was written under the wrong key");
    project.run(&["secret", "list"]).expect(0);
    project.run(&["audit", "verify"]).expect(0);
}

#[test]
fn key_file_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let project = Project::new("project: shop\n");
    project.run(&["status"]).expect(0);
    let key = project.file(".steward/master.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ended = project.run(&["status"]).expect(1);
    assert!(ended.stderr.contains("chmod"), "{}", ended.stderr);
}

#[test]
fn master_key_comes_from_the_environment_too() {
    let project = Project::new("project: shop\nmaster_key: { environment: SHOP_KEY }\n");
    let missing = project.run(&["status"]).expect(2);
    assert!(missing.stderr.contains("SHOP_KEY"), "{}", missing.stderr);
    let other = Project::new("project: other\n");
    other.run(&["status"]).expect(0);
    let value = std::fs::read_to_string(other.file(".steward/master.key")).unwrap();
    let output = project.command(&["status"]).env("SHOP_KEY", value.trim()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!project.file(".steward/master.key").exists());
}
