//! The rules by their stable codes.

use contract::Severity;

/// A rule that a finding names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Stable code, such as `rewrite`.
    pub code: &'static str,
    /// How much a finding of it matters at most.
    pub severity: Severity,
    /// What it says.
    pub summary: &'static str,
    /// What to do instead.
    pub instead: &'static str,
}

const fn rule(code: &'static str, severity: Severity, summary: &'static str, instead: &'static str) -> Rule {
    Rule { code, severity, summary, instead }
}

/// All rules, sorted by code.
pub const RULES: [Rule; 25] = [
    rule(
        "busy_table",
        Severity::Warning,
        "a transaction that has been open for long holds a lock on the table now, so the statement would wait, and others behind it",
        "let it end first, or end it with `steward session end`",
    ),
    rule(
        "changes_rights",
        Severity::Warning,
        "who may do what, or what is enforced, changes",
        "let Security look at it",
    ),
    rule(
        "data_loss",
        Severity::Warning,
        "rows or values are gone afterwards, and undo brings none back",
        "take a verified backup first; drop in a migration of its own, after nothing reads it any more",
    ),
    rule(
        "enum_value_unusable",
        Severity::Critical,
        "a new enum value is used in the transaction that adds it",
        "add the value in a migration before",
    ),
    rule(
        "fails",
        Severity::Critical,
        "the server refuses the statement as the catalog is now",
        "as the finding says",
    ),
    rule(
        "foreign_key_without_index",
        Severity::Info,
        "no index leads with the referring columns, so each delete in the parent reads the whole table",
        "build one with CREATE INDEX CONCURRENTLY",
    ),
    rule(
        "index_blocks_all",
        Severity::Critical,
        "an index is built while readers and writers wait",
        "build a unique index CONCURRENTLY, then attach it with ADD CONSTRAINT … USING INDEX; REINDEX CONCURRENTLY",
    ),
    rule(
        "index_blocks_writes",
        Severity::Critical,
        "an index is built while writers wait",
        "CREATE INDEX CONCURRENTLY in a migration that says `-- steward: no-transaction`",
    ),
    rule(
        "invalid_leftover",
        Severity::Info,
        "when a concurrent build fails it leaves an invalid index behind, which IF NOT EXISTS takes for done",
        "look for it before trying again; `steward migration apply` does",
    ),
    rule(
        "lock_held_during_work",
        Severity::Critical,
        "a lock taken by an earlier statement of the transaction is held while this one works for long",
        "put the two into separate migrations",
    ),
    rule(
        "many_rows_changed",
        Severity::Critical,
        "many rows stay locked until the transaction ends, and all of them are written anew",
        "change them in batches by key range, each in a transaction of its own",
    ),
    rule("no_effect", Severity::Info, "nothing happens: the catalog is already so", "leave it out"),
    rule(
        "not_in_transaction",
        Severity::Critical,
        "the statement cannot run inside a transaction",
        "put it into a migration that says `-- steward: no-transaction`",
    ),
    rule(
        "null_values_found",
        Severity::Critical,
        "the planner's sample holds NULLs in a column that becomes NOT NULL",
        "fill them first, in batches",
    ),
    rule(
        "old_code_breaks",
        Severity::Warning,
        "statements of the running application fail afterwards",
        "expand, switch the application over, then contract",
    ),
    rule(
        "required_column",
        Severity::Critical,
        "a new column is required and has no default",
        "add it with a default, or nullable and fill it first",
    ),
    rule(
        "rewrite",
        Severity::Critical,
        "the whole table is written anew while readers and writers wait",
        "add a new column, fill it in batches, switch over, drop the old one; `steward migration plan --safe` names the steps",
    ),
    rule(
        "scan_blocks_all",
        Severity::Critical,
        "the whole table is read while readers and writers wait",
        "add the constraint NOT VALID, then VALIDATE it in a migration of its own",
    ),
    rule(
        "scan_blocks_writes",
        Severity::Critical,
        "the whole table is read while writers wait",
        "add the constraint NOT VALID, then VALIDATE it in a migration of its own",
    ),
    rule(
        "several_exclusive_locks",
        Severity::Warning,
        "one transaction locks several tables against everybody, so it can wait for one while it holds another",
        "one table a migration",
    ),
    rule(
        "transaction_control",
        Severity::Warning,
        "the file begins or ends transactions itself",
        "leave it to Steward, which records each step together with what it does",
    ),
    rule(
        "unjudged_code",
        Severity::Critical,
        "what runs stands elsewhere, so nobody can say what it locks and changes",
        "write its statements into the migration",
    ),
    rule(
        "unknown_statement",
        Severity::Critical,
        "the parser cannot read it, or nobody taught the judge what it does: it may block",
        "have someone read it who knows what it does",
    ),
    rule(
        "unlogged",
        Severity::Warning,
        "the table is not in the log: a crash empties it, and replicas do not have it",
        "keep it logged unless its rows can be made again",
    ),
    rule(
        "validated_at_once",
        Severity::Critical,
        "a constraint is added NOT VALID and validated in the same transaction, so the lock of the first is held during the second",
        "validate it in a migration of its own",
    ),
];

/// The rule of this code.
pub fn rule_of(code: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.code == code)
}

/// The page of the rules, as `docs/reference/lint-rules.md` has it.
pub fn rules_page() -> String {
    let mut out = String::from(
        "# Rules of `migration lint`\n\nGenerated from the code; do not edit. `-- steward: allow RULE reason` before a \
         statement allows one.\nAn error ends the command with exit code 5.\n\n\
         | rule | at most | what it says | instead |\n| --- | --- | --- | --- |\n",
    );
    for rule in RULES {
        let level = match rule.severity {
            Severity::Critical => "error",
            Severity::Warning => "warning",
            Severity::Info => "note",
        };
        let code = format!("| `{}`", rule.code);
        out.push_str(&[&code, level, rule.summary, rule.instead].join(" | "));
        out.push_str(" |\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_rules_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/lint-rules.md");
        if std::env::var_os("STEWARD_UPDATE").is_some() {
            std::fs::write(path, rules_page()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(page, rules_page(), "run `STEWARD_UPDATE=1 cargo test -p stores --lib lint`");
    }
}
