//! Which of our crates may import which.

use crate::{Crate, Kind};

/// Crates of the mission: one noun each, never importing each other.
const ROOMS: [&str; 9] =
    ["stores", "gateway", "pipelines", "backup", "pm", "memory", "slo", "compliance", "docgen"];

/// Families of adapters with the words that their data is made of.
const ADAPTERS: [(&str, &[&str]); 10] = [
    ("store-", &["contract", "outbound", "schema"]),
    ("ai-", &["contract", "outbound", "wire"]),
    ("objects-", &["contract", "outbound"]),
    ("counters-", &["contract", "outbound"]),
    ("stream-", &["contract", "outbound", "schema"]),
    ("engine-", &["contract", "outbound", "schema"]),
    ("orchestrator-", &["contract", "outbound"]),
    ("monitor-", &["contract", "outbound"]),
    ("repository-", &["contract", "outbound"]),
    ("columnar-", &["contract"]),
];

/// The only adapters that import another: dialects of it.
const DIALECTS: [(&str, &str); 2] = [("store-redshift", "store-postgres"), ("ai-azure-openai", "ai-openai")];

/// What any crate may import for its tests.
const FOR_TESTS: [&str; 12] = [
    "ai-anthropic",
    "ai-azure-openai",
    "ai-gemini",
    "ai-openai",
    "columnar-parquet",
    "conformance",
    "counters-redis",
    "fake-ai",
    "repository-restic",
    "store-memory",
    "store-postgres",
    "store-sqlite",
];

/// What a crate may import, by ARCHITECTURE.md; `None` for a crate that the table does not know.
fn allowed(name: &str) -> Option<&'static [&'static str]> {
    const ROOM: &[&str] = &["contract", "ledger", "authority", "schema", "wire", "vault", "outbound"];
    match name {
        "schema" | "wire" | "tidy" => Some(&[]),
        "contract" => Some(&["schema", "wire"]),
        "outbound" | "ledger" => Some(&["contract"]),
        "vault" | "authority" => Some(&["contract", "ledger"]),
        "conformance" | "fake-ai" => Some(&["contract", "schema", "wire"]),
        room if ROOMS.contains(&room) => Some(ROOM),
        adapter => {
            ADAPTERS.iter().find(|(family, _)| adapter.starts_with(family)).map(|(_, allowed)| *allowed)
        }
    }
}

/// Crates that see everything: the door, and the measurements.
const SEE_EVERYTHING: [&str; 2] = ["steward", "benches"];

/// Crates that are no part of the product: nobody imports them but for tests. The demonstration runs `fake-ai`.
const NOT_IN_THE_PRODUCT: [&str; 5] = ["conformance", "tidy", "benches", "steward", "store-memory"];

/// Imports that the table of crates in ARCHITECTURE.md does not allow.
pub fn forbidden_edges(crates: &[Crate]) -> Vec<String> {
    let ours = |name: &str| crates.iter().any(|other| other.name == name);
    let mut problems = Vec::new();
    for one in crates {
        let folder_is_right = one.folder.rsplit('/').next() == Some(&one.name)
            && (one.folder.starts_with("adapters/") == is_adapter(&one.name));
        if !folder_is_right {
            problems.push(format!(
                "crate `{}` lies in `{}`: a crate is named as its folder",
                one.name, one.folder
            ));
        }
        let sees_everything = SEE_EVERYTHING.contains(&one.name.as_str());
        let Some(allowed) = allowed(&one.name).or(sees_everything.then_some(&[])) else {
            problems.push(format!(
                "crate `{}` is not in the table of crates: say in ARCHITECTURE.md what it may import",
                one.name
            ));
            continue;
        };
        for dependency in one.dependencies.iter().filter(|dependency| ours(&dependency.name)) {
            let to = dependency.name.as_str();
            let in_the_product =
                !NOT_IN_THE_PRODUCT.contains(&to) || (one.name == "benches" && to == "steward");
            let for_tests =
                dependency.kind == Kind::Dev && (FOR_TESTS.contains(&to) || one.name == "steward");
            let permitted = for_tests
                || allowed.contains(&to)
                || (sees_everything && in_the_product)
                || DIALECTS.contains(&(one.name.as_str(), to));
            if !permitted {
                problems.push(format!("`{}` must not import `{to}`", one.name));
            }
        }
    }
    problems
}

pub(crate) fn is_adapter(name: &str) -> bool {
    ADAPTERS.iter().any(|(family, _)| name.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dependency;

    fn house(from: &str, to: &str, kind: Kind) -> Vec<Crate> {
        let names = [
            "schema",
            "contract",
            "outbound",
            "ledger",
            "vault",
            "authority",
            "stores",
            "pm",
            "conformance",
            "steward",
            "tidy",
            "benches",
            "store-postgres",
            "store-redshift",
            "store-sqlite",
            "store-memory",
        ];
        names
            .into_iter()
            .map(|name| Crate {
                name: name.into(),
                folder: match name {
                    "benches" => name.into(),
                    name if is_adapter(name) => format!("adapters/{name}"),
                    name => format!("crates/{name}"),
                },
                dependencies: if name == from {
                    vec![Dependency { name: to.into(), kind }]
                } else {
                    Vec::new()
                },
            })
            .collect()
    }

    #[test]
    fn edges_follow_the_table() {
        for (from, to, kind) in [
            ("contract", "schema", Kind::Normal),
            ("ledger", "contract", Kind::Normal),
            ("stores", "authority", Kind::Normal),
            ("pm", "outbound", Kind::Normal),
            ("steward", "store-postgres", Kind::Normal),
            ("steward", "tidy", Kind::Dev),
            ("benches", "steward", Kind::Normal),
            ("store-redshift", "store-postgres", Kind::Normal),
            ("store-sqlite", "conformance", Kind::Dev),
            ("stores", "store-memory", Kind::Dev),
            ("stores", "store-postgres", Kind::Dev),
            ("stores", "serde", Kind::Normal),
        ] {
            assert_eq!(forbidden_edges(&house(from, to, kind)), Vec::<String>::new(), "{from} {to}");
        }
        for (from, to, kind) in [
            ("schema", "contract", Kind::Normal),
            ("contract", "ledger", Kind::Normal),
            ("outbound", "ledger", Kind::Normal),
            ("vault", "authority", Kind::Normal),
            ("authority", "vault", Kind::Normal),
            ("ledger", "vault", Kind::Build),
            ("stores", "pm", Kind::Normal),
            ("pm", "stores", Kind::Normal),
            ("pm", "stores", Kind::Dev),
            ("stores", "store-sqlite", Kind::Normal),
            ("stores", "steward", Kind::Dev),
            ("store-postgres", "ledger", Kind::Normal),
            ("store-postgres", "vault", Kind::Dev),
            ("store-sqlite", "store-postgres", Kind::Normal),
            ("store-sqlite", "conformance", Kind::Normal),
            ("conformance", "stores", Kind::Normal),
            ("steward", "conformance", Kind::Normal),
            ("steward", "store-memory", Kind::Normal),
            ("tidy", "schema", Kind::Normal),
            ("benches", "tidy", Kind::Normal),
        ] {
            let problems = forbidden_edges(&house(from, to, kind));
            assert_eq!(problems, [format!("`{from}` must not import `{to}`")], "{from} {to}");
        }
    }

    #[test]
    fn unknown_crates_and_wrong_folders_are_told() {
        let one = |name: &str, folder: &str| Crate {
            name: name.into(),
            folder: folder.into(),
            dependencies: Vec::new(),
        };
        for (name, folder) in
            [("kitchen", "crates/kitchen"), ("stores", "crates/databases"), ("store-x", "crates/store-x")]
        {
            assert_eq!(forbidden_edges(&[one(name, folder)]).len(), 1, "{name}");
        }
    }
}
