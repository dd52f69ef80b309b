//! A wrong project file is an error with file, line, key and hint; exit code 2; nothing is started.

use crate::program::Project;

#[test]
fn wrong_project_files_are_refused_before_anything_starts() {
    let cases: [(&str, &[&str]); 8] = [
        ("project: shop\nstors: {}\n", &["unknown field `stors`", "line: 2", "key: stors"]),
        (
            "project: shop\nstores:\n  a:\n    kind: sqlite\n    path: [1]\n",
            &["line: 5", "key: stores.a.path"],
        ),
        ("project: shop\nstores:\n  a:\n    kind: mysql\n", &["unknown variant `mysql`"]),
        (
            "project: shop\nstores:\n  a:\n    kind: postgres\n    url: postgres://u:hunter2hunter2@h/d\n    reader: { user: u }\n",
            &["key: stores.a.url", "line: 5"],
        ),
        (
            "project: shop\nstores:\n  a:\n    kind: postgres\n    url: not a url\n    reader: { user: u }\n",
            &["key: stores.a.url"],
        ),
        ("project: shop\nhttp:\n  listen: 0.0.0.0:7878\n", &["only with TLS", "key: http.listen", "line: 3"]),
        ("project: shop\nenvironment: prod\n", &["unknown variant `prod`", "line: 2"]),
        ("project: shop\nproject: shop\n", &["duplicate", "line: 2"]),
    ];
    for (yaml, expected) in cases {
        let project = Project::new(yaml);
        let ended = project.run(&["status"]).expect(2);
        for part in expected.iter().chain(&["error: ", "file: ", "steward.yaml", "hint: "]) {
            assert!(ended.stderr.contains(part), "{yaml}\nwants {part}\n{}", ended.stderr);
        }
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
        assert!(ended.stdout.is_empty());
        assert!(!project.file(".steward").exists(), "{yaml}");
    }
}

#[test]
fn unreadable_project_files_are_refused() {
    let project = Project::new("");
    std::fs::remove_file(project.file("steward.yaml")).unwrap();
    let ended = project.run(&["status"]).expect(2);
    assert!(ended.stderr.contains("steward init"), "{}", ended.stderr);
    project.write("steward.yaml", b"project: sh\xffop\n");
    let ended = project.run(&["status"]).expect(2);
    assert!(ended.stderr.contains("not UTF-8") && ended.stderr.contains("line: 1"), "{}", ended.stderr);
    let ended = project.run(&["status", "--project-file", "no/such.yaml"]).expect(2);
    assert!(ended.stderr.contains("no/such.yaml"), "{}", ended.stderr);
}

#[test]
fn init_writes_a_file_that_works() {
    let project = Project::new("");
    std::fs::remove_file(project.file("steward.yaml")).unwrap();
    project.run(&["init", "--project", "shop"]).expect(0);
    let status = project.run(&["status"]).expect(0);
    assert!(status.stdout.contains("project shop"), "{}", status.stdout);
    let again = project.run(&["init", "--project", "other"]).expect(1);
    assert!(again.stderr.contains("already"), "{}", again.stderr);
}

#[test]
fn help_begins_with_an_example_and_wrong_usage_ends_with_2() {
    let project = Project::new("project: shop\n");
    for args in [&["--help"][..], &["store", "inspect", "--help"], &["status", "--help"], &["up", "--help"]] {
        let help = project.run(args).expect(0);
        assert!(help.stdout.trim_start().starts_with("Example:"), "{args:?}\n{}", help.stdout);
    }
    for args in [&["store", "inspect"][..], &["nonsense"], &["store", "inspect", "a", "--nonsense"]] {
        project.run(args).expect(2);
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(project.run(&["completion", shell]).expect(0).stdout.contains("inspect"));
    }
}
