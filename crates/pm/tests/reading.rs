//! Tasks that cannot be read: what a person is told, and that nothing large or hostile gets in.

use contract::ErrorKind;
use pm::{Autonomy, Form, TASK_BYTES_MAX, Task};

fn told(file: &str, text: &str) -> String {
    let error = Task::parse(file, text).expect_err(text);
    assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
    error.to_string()
}

#[test]
fn mistakes_in_yaml_are_told_with_file_line_key_and_hint() {
    insta::assert_snapshot!(told("t.yaml", "Context:\n  - a\nTsak:\n  - b\n"), @r"
    `Tsak` is not a key of a task
      file: t.yaml
      line: 3
      key: Tsak
    hint: did you mean `task`?
    ");
    insta::assert_snapshot!(told("t.yaml", "Task: a\nautonomy: everything\n"), @r"
    `everything` is not an autonomy
      file: t.yaml
      line: 2
      key: autonomy
    hint: write `plan_only`, `auto_allowed` or `full`
    ");
    insta::assert_snapshot!(told("t.yaml", "Task: a\nacceptance:\n  - rows(orders) >= 1\n  - p95_ms(query) < fast\n"), @r#"
    `p95_ms(query) < fast` is not an acceptance check
      file: t.yaml
      line: 4
      key: acceptance
      character: 17
      expected: a number
    hint: write for example `p95_ms(query) < 50`, `rows(orders) >= 10`, `orphans(orders.customer_id) == 0`, `index.exists(orders, customer_id)` or `migration.applied("0003_x")`
    "#);
    insta::assert_snapshot!(told("t.yaml", "Task: a\nacceptance:\n  rows: 3\n"), @r"
    `acceptance` is keys with values, not a list of checks
      file: t.yaml
      line: 2
      key: acceptance
    hint: write one check per line, such as `- p95_ms(query) < 50`
    ");
    insta::assert_snapshot!(told("t.yaml", "Task: a\nbudget_usd: much\n"), @r"
    `budget_usd` is a text, not an amount
      file: t.yaml
      line: 2
      key: budget_usd
    hint: write US dollars as a number, such as `budget_usd: 2.50`
    ");
    insta::assert_snapshot!(told("t.yaml", "Task: a\ndeadline: tomorrow\n"), @r"
    `deadline` is not a time
      file: t.yaml
      line: 2
      key: deadline
    hint: write it as `2026-12-01T18:00:00Z` or `2026-12-01`
    ");
    insta::assert_snapshot!(told("t.yaml", "Task:\n  - - nested\n"), @r"
    a list inside a list
      file: t.yaml
      line: 2
      key: Task
    hint: write one `- ` line per point
    ");
    insta::assert_snapshot!(told("t.yaml", "Task: a\ntask: b\n"), @r"
    `task` is given twice
      file: t.yaml
      line: 2
      key: task
    hint: keep one of them
    ");
    insta::assert_snapshot!(told("t.yaml", "Context:\n  - a\n"), @r"
    the task does not say what is to be done
      file: t.yaml
      key: Task
    hint: add `Task:` with at least one line, such as `- check the store orders for orphan rows`
    ");
    insta::assert_snapshot!(told("t.yaml", "- a\n- b\n"), @r"
    a task has keys, this is a list
      file: t.yaml
      line: 1
    hint: begin with `Context:`, `Task:`, `Standards:` and `Previous Learning:`
    ");
    insta::assert_snapshot!(told("t.yaml", "Task: a\n  b: [c\n"), @r"
    not valid YAML
      file: t.yaml
      line: 2
      column: 4
      reason: mapping values are not allowed in this context at line 2, column 4
    hint: quote texts that hold `: `, `#`, `*`, `&`, `{` or `[`, and indent with spaces
    ");
    insta::assert_snapshot!(told("t.yaml", "id: ../../etc\nTask: a\n"), @r"
    `../../etc` is not an id
      file: t.yaml
      line: 1
      key: id
    hint: use up to 64 letters, digits, `-`, `_` and `.`
    ");
    insta::assert_snapshot!(told("t.md", "**Task**: look\n\n**Acceptance**:\n- p95_ms(query) <\n"), @r#"
    `p95_ms(query) <` is not an acceptance check
      character: 16
      expected: a number
      file: t.md
      line: 3
      key: Acceptance
    hint: write for example `p95_ms(query) < 50`, `rows(orders) >= 10`, `orphans(orders.customer_id) == 0`, `index.exists(orders, customer_id)` or `migration.applied("0003_x")`
    "#);
    insta::assert_snapshot!(told("t.txt", " \n"), @r"
    the task is empty
      file: t.txt
    hint: write what is to be done, such as: check the store `orders` for orphan rows
    ");
}

#[test]
fn bombs_are_refused_by_budget() {
    let mut laughs = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (name, before) in
        ["b", "c", "d", "e", "f", "g", "h", "i"].iter().zip(["a", "b", "c", "d", "e", "f", "g", "h"])
    {
        let list = vec![format!("*{before}"); 10].join(", ");
        laughs = format!("{laughs}{name}: &{name} [{list}]\n");
    }
    let deep = format!("Task: {}x{}\n", "[".repeat(5_000), "]".repeat(5_000));
    let block_deep =
        (0..2_000).map(|depth| format!("{}a:", " ".repeat(depth))).collect::<Vec<_>>().join("\n");
    let many = format!("Task:\n{}", "  - x\n".repeat(100_000));
    let merges = format!("a: &a {{x: 1}}\nTask:\n{}", "  <<: *a\n".repeat(1_000));
    for (name, text) in
        [("laughs", laughs), ("deep", deep), ("block", block_deep), ("many", many), ("merges", merges)]
    {
        let error = Task::parse("bomb.yaml", &text).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
    }
}

#[test]
fn a_hundred_megabytes_are_refused_without_being_read() {
    struct Endless(usize);
    impl std::io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let bytes = buffer.len().min(100_000_000 - self.0);
            buffer[..bytes].fill(b'a');
            self.0 += bytes;
            Ok(bytes)
        }
    }
    let mut reader = Endless(0);
    let error = Task::read_text("big.yaml", &mut reader).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(reader.0 <= TASK_BYTES_MAX + 1, "{} bytes were read", reader.0);
    insta::assert_snapshot!(error.to_string(), @r"
    the task is larger than 1 MiB
      file: big.yaml
    hint: a task says what is to be done; name data by its store and table
    ");
    assert!(Task::parse("big.txt", &"a ".repeat(TASK_BYTES_MAX)).is_err());
}

#[test]
fn text_that_is_not_utf8_is_told_with_its_line() {
    let error = Task::read_text("t.txt", &b"Task: a\ncaf\xe9\n"[..]).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @r"
    the task is not UTF-8 text
      file: t.txt
      line: 2
    hint: save it as UTF-8
    ");
}

#[test]
fn the_missions_yaml_is_read_whatever_its_case() {
    for text in [
        "Context:\n  - needs\nTask:\n  - do\nStandards:\n  - rule\nPrevious Learning:\n  - lesson\n",
        "CONTEXT: needs\nTASK: do\nSTANDARDS: rule\nPREVIOUS_LEARNING: lesson\n",
        "context: [needs]\ntask: [do]\nstandards: [rule]\nprevious-learning: [lesson]\n",
        r#"{"Context": ["needs"], "Task": ["do"], "Standards": ["rule"], "Previous Learning": ["lesson"]}"#,
        "```yaml\nContext: needs\nTask: do\nStandards: rule\nPrevious Learning: lesson\n```\n",
    ] {
        let task = Task::parse("-", text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(task.form, Form::Yaml, "{text}");
        let read = [&task.context, &task.task, &task.standards, &task.previous_learning]
            .map(|items| items[0].text());
        assert_eq!(read, ["needs", "do", "rule", "lesson"], "{text}");
    }
}

#[test]
fn prose_is_read_and_what_is_unknown_is_kept() {
    let text = include_str!("tasks/performance-prose.md");
    let task = Task::parse("performance-prose.md", text).unwrap();
    assert_eq!(task.form, Form::Prose);
    assert_eq!(task.title, "Review the performance of the order lookup");
    assert_eq!(task.ticket.as_deref(), Some("ISS-0346"));
    assert_eq!(task.task.len(), 3);
    assert_eq!(task.acceptance[0].to_string(), "p95_ms(query) < 50");
    assert_eq!(task.expected_results, ["A short summary"]);
    let kept: Vec<&str> = task.sections.iter().map(|section| section.heading.as_str()).collect();
    assert_eq!(kept, ["TEMPORAL CONTEXT", "Authority", "Progress Reporting", "Escalation"]);
    assert!(task.notes.iter().any(|note| note.contains("grants nothing")), "{:?}", task.notes);
}

#[test]
fn settings_are_read() {
    let task = Task::parse(
        "t.yaml",
        "id: A-1\nticket: 17\nproject: p\nenvironment: production\ndeadline: 2030-01-01\nbudget_usd: 2.5\n\
         autonomy: plan_only\nTask: look\n",
    )
    .unwrap();
    assert_eq!((task.id.as_deref(), task.ticket.as_deref()), (Some("A-1"), Some("17")));
    assert_eq!(task.autonomy, Autonomy::PlanOnly);
    assert_eq!(task.deadline.unwrap().to_string(), "2030-01-02T00:00:00Z");
    assert_eq!(task.budget_usd, Some(2.5));
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_task_or_a_clear_error(text in "\\PC{0,200}") {
        for file in ["t.yaml", "t.md", "-"] {
            if let Err(error) = Task::parse(file, &text) {
                proptest::prop_assert_eq!(error.kind(), ErrorKind::Invalid);
            }
        }
    }
}
