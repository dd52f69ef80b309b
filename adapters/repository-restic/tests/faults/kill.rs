//! A process that is killed while it writes leaves a sound repository.

use std::path::Path;
use std::process::Command;

use contract::{CheckDepth, ErrorKind, Layout, Repository};

use super::home::{Answer, Home, cases};
use crate::seal::Key;

const FOLDER: &str = "STEWARD_TEST_KILL_FOLDER";
const POINT: &str = "STEWARD_TEST_KILL_POINT";
const KEY: &str = "STEWARD_TEST_KILL_KEY";

/// Runs in a process of its own and dies there: `backup:3:before` before the third write of a backup.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is a part of others, which start it"]
async fn child() {
    let variable = |name| std::env::var(name).unwrap();
    let key = Key::from_text(&variable(KEY).into()).unwrap();
    let mut home = Home::at(Path::new(&variable(FOLDER)), key);
    home.limits.keep_marked_hours = 0;
    let point = variable(POINT);
    let [work, nth, when] = point.split(':').collect::<Vec<_>>()[..] else { panic!("{point}") };
    let (nth, before, mut seen) = (nth.parse::<usize>().unwrap(), when == "before", 0);
    home.judge(move |call| {
        if !["create", "remove"].contains(&call.what) {
            return Answer::Do;
        }
        seen += 1;
        // The call after the one that is to be the last was done.
        if seen == nth + usize::from(!before) {
            std::process::abort();
        }
        Answer::Do
    });
    let repository = home.repository();
    match work {
        "backup" => home.write(&repository, 3).await.map(|_| ()).unwrap(),
        "prune" => repository.prune(&home.ctx()).await.map(|_| ()).unwrap(),
        "forget" => {
            let kept = home.kept(&repository).await;
            repository.forget(&home.ctx(), &kept[..1]).await.unwrap();
        }
        other => panic!("{other}"),
    }
}

/// Whether it was killed; else it came to its end.
fn killed(home: &Home, point: &str) -> bool {
    use secrecy::ExposeSecret;
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::kill::child", "--ignored", "--nocapture"])
        .env(FOLDER, &home.root)
        .env(POINT, point)
        .env(KEY, home.key.to_text().expose_secret())
        .output()
        .unwrap();
    let killed = std::os::unix::process::ExitStatusExt::signal(&output.status).is_some();
    assert!(killed || output.status.success(), "{point}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(killed || String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{point}: no test ran");
    killed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_a_sound_repository() {
    let mut kills = 0;
    let step = usize::try_from(cases(3, 1)).unwrap();
    for work in ["backup", "prune", "forget"] {
        for when in ["before", "after"] {
            for nth in (1..).step_by(step) {
                let mut home = Home::new();
                home.limits.keep_marked_hours = 0;
                let repository = home.created().await;
                home.write(&repository, 1).await.unwrap();
                home.clock.advance_us(1000);
                home.write(&repository, 2).await.unwrap();
                if work == "prune" {
                    let kept = home.kept(&repository).await;
                    repository.forget(&home.ctx(), &kept[..1]).await.unwrap();
                    repository.prune(&home.ctx()).await.unwrap();
                }
                let point = format!("{work}:{nth}:{when}");
                if !killed(&home, &point) {
                    break;
                }
                kills += 1;
                let check = repository.check(&home.ctx(), CheckDepth::Everything).await.unwrap();
                assert_eq!(check.problems, Vec::<String>::new(), "{point}");
                let kept = home.kept(&repository).await;
                let ids: Vec<_> = kept.iter().filter_map(|kept| kept.id.as_deref()).collect();
                let allowed: &[&[&str]] = match work {
                    "backup" => &[&["1", "2"], &["1", "2", "3"]],
                    "prune" => &[&["2"]],
                    _ => &[&["1", "2"], &["2"]],
                };
                assert!(allowed.contains(&&ids[..]), "{point}: {ids:?}");
                for one in &kept {
                    home.restores(&repository, one).await.unwrap_or_else(|error| panic!("{point}: {error}"));
                }
                // Its lock stays, for as long as it could be alive.
                let left = |layout| !home.objects(layout).list("locks").unwrap().is_empty();
                if left(Layout::Stream) || left(Layout::Pages) {
                    let error = repository.prune(&home.ctx()).await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Conflict, "{point}: {error}");
                    home.clock.advance_us(31 * 60 * 1_000_000);
                    let done = repository.clean(&home.ctx()).await.unwrap();
                    assert!(done.iter().any(|line| line.contains("dead lock")), "{point}: {done:?}");
                }
                repository.prune(&home.ctx()).await.unwrap_or_else(|error| panic!("{point}: {error}"));
                home.write(&repository, 4).await.unwrap_or_else(|error| panic!("{point}: {error}"));
                for one in home.kept(&repository).await {
                    home.restores(&repository, &one).await.unwrap_or_else(|error| panic!("{point}: {error}"));
                }
            }
        }
    }
    eprintln!("{kills} processes killed");
    assert!(kills >= 8, "only {kills} were killed");
}

/// Runs in a mount namespace, on a disk of 24 MiB.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is a part of others, which start it"]
async fn full_disk_child() {
    let folder = std::env::var(FOLDER).unwrap();
    let home = Home::at(Path::new(&folder), Key::random().unwrap());
    let repository = home.created().await;
    home.write(&repository, 1).await.unwrap();
    for attempt in 0..2 {
        let writer = repository.begin(&home.ctx(), &home.label("2")).await.unwrap();
        for n in 10..20 {
            let body = contract::PartBody::Bytes(super::home::noise(8 << 20, n));
            writer.put(contract::Part { path: format!("part-{n}"), body }).await.ok();
        }
        let error = writer.commit(Box::new(super::home::manifest)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{attempt}: {error}");
        let kept = home.kept(&repository).await;
        assert_eq!(kept.len(), 1);
        home.restores(&repository, &kept[0]).await.unwrap();
        assert_eq!(home.files("tmp"), Vec::<std::path::PathBuf>::new());
    }
    let check = repository.check(&home.ctx(), CheckDepth::Everything).await.unwrap();
    assert_eq!(check.problems, Vec::<String>::new());
    let grown = Command::new("mount").args(["-o", "remount,size=200m", &folder]).status().unwrap();
    assert!(grown.success());
    home.write(&repository, 3).await.unwrap();
    for kept in home.kept(&repository).await {
        home.restores(&repository, &kept).await.unwrap();
    }
}

#[test]
fn a_full_disk_is_told_and_costs_nothing_that_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=24m none "$STEWARD_TEST_KILL_FOLDER" && exec "$0" --exact faults::kill::full_disk_child --ignored --nocapture"#;
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-ec", script])
        .arg(std::env::current_exe().unwrap())
        .env(FOLDER, folder.path())
        .output()
        .expect("this test needs `unshare` of util-linux");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
}
