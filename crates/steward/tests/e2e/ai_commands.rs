//! `steward ai …` where nothing is there yet, and with arguments that are wrong: each answer says what to do.

use crate::program::Project;

/// What a command says where there are no providers, routes, keys, budgets and calls.
const EMPTY: &[(&[&str], i32, &str)] = &[
    (&["models"], 0, "no models; `ai.providers` and `ai.routes` in steward.yaml name them"),
    (&["routes"], 0, "no routes; `ai.routes` in steward.yaml names them"),
    (&["keys"], 0, "no virtual keys; `steward ai keys create NAME` makes one"),
    (&["limits"], 0, "no budgets; `ai.budgets` in steward.yaml names them"),
    (&["usage"], 0, "no AI calls from"),
    (&["cost"], 0, "no AI calls from"),
    (&["cost", "--prices-of", "2026-01-01"], 0, "no AI calls from"),
    (&["forecast"], 0, "no forecast yet"),
    (&["advise"], 0, "nothing is measured yet"),
    (&["test"], 0, "no targets to test"),
    (&["scan", "."], 0, "no exposed keys and secrets in "),
    (&["jobs"], 0, "no batch and no training was made"),
    (&["prompts"], 0, "no stored prompts"),
    (&["receipt", "req_01jd6w2x8h0000000000000000"], 1, "`steward-receipt`"),
    (&["budget", "month", "--usd", "5"], 1, "`ai.budgets` in steward.yaml names them"),
    (&["limit", "lab", "--rpm", "5"], 1, "`steward ai keys list` shows them"),
    (&["keys", "revoke", "lab"], 1, "`steward ai keys list --all` shows them"),
];

/// What is wrong with arguments.
const WRONG: &[(&[&str], i32, &str)] = &[
    (&["models", "--key", "nobody"], 1, "no valid virtual key"),
    (&["models", "--what"], 2, "--what"),
    (&["routes", "fast"], 1, "there is no route `fast`"),
    (&["keys", "create"], 2, "<NAME>"),
    (&["keys", "create", "a b"], 2, "use 1 to 63 letters"),
    (&["keys", "create", "x", "--expires", "yesterday"], 2, "such as `2026-12-31`"),
    (&["keys", "create", "x", "--rpm", "-3"], 2, "a whole number from 0 on"),
    (&["keys", "create", "x", "--routes", "nowhere"], 2, "there is no route `nowhere`"),
    (&["limits", "--what"], 2, "--what"),
    (&["usage", "--by", "nothing"], 2, "possible values: model, provider, route"),
    (&["usage", "--since", "yesterday"], 2, "write it as `2026-11-01`"),
    (&["usage", "--since", "2026-12-01", "--until", "2026-11-01"], 2, "ends before it begins"),
    (&["cost", "--table", "nowhere.yaml"], 1, "nowhere.yaml"),
    (&["cost", "--prices-of", "2026-13-01"], 2, "write it as `2026-11-01`"),
    (&["forecast", "--by", "day"], 2, "`steward ai cost --by day`"),
    (&["test", "nowhere"], 1, "there is no route `nowhere`"),
    (&["scan", "/nowhere"], 1, "there is no such file or folder"),
    (&["receipt"], 2, "<ID>"),
    (&["receipt", "nonsense"], 1, "`steward-receipt`"),
    (&["import"], 2, "<PATH>"),
    (&["import", "nowhere.yaml"], 1, "there is no such file"),
    (&["import", "other.yaml"], 2, "`model_list`"),
    (&["import", "broken.yaml"], 2, "this is no YAML"),
    (&["budget"], 2, "<BUDGET>"),
    (&["keys", "rotate", "nowhere"], 1, "nowhere"),
    (&["budget", "month"], 1, "`ai.budgets` in steward.yaml names them"),
    (&["reconcile", "openai", "nowhere.csv"], 1, "nowhere.csv"),
    (&["nothing"], 2, "unrecognized subcommand"),
];

#[test]
fn each_command_says_what_is_missing_or_wrong() {
    let project = Project::new("project: empty\n");
    project.write("other.yaml", "models: 7\n");
    project.write("broken.yaml", ": : :\n");
    for (arguments, code, said) in EMPTY.iter().chain(WRONG) {
        let whole: Vec<&str> = ["ai"].iter().chain(*arguments).copied().collect();
        let ended = project.run(&whole);
        let told = if *code == 0 { &ended.stdout } else { &ended.stderr };
        assert!(ended.code == *code && told.contains(said), "{arguments:?}: {ended:?}");
        assert!(*code == 0 || ended.stdout.is_empty(), "{arguments:?}: {ended:?}");
        // The same for programs.
        let whole: Vec<&str> = whole.into_iter().chain(["--json"]).collect();
        let ended = project.run(&whole);
        let answer = ended.json();
        assert_eq!(ended.code, *code, "{arguments:?}: {ended:?}");
        if *code == 0 {
            assert_eq!(answer["status"], "done", "{arguments:?}: {answer}");
            assert!(answer["value"].is_object(), "{arguments:?}: {answer}");
        } else {
            assert!(answer["error"]["message"].is_string(), "{arguments:?}: {answer}");
        }
    }
    let cost = project.answer(&["ai", "cost", "--prices-of", "2026-01-01"]);
    assert_eq!(cost["value"]["replay"]["prices_of"], "2026-01-01", "{cost}");
    assert!(project.answer(&["ai", "cost"])["value"]["replay"].is_null());
}
