//! The committed reference is the one that the program prints.

use std::path::Path;

use crate::program::Project;

#[test]
fn committed_reference_is_the_printed_one() {
    let printed = Project::new("project: shop\n").run(&["docs", "reference"]).expect(0).stdout;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/requests.md");
    // Set it to write the file anew.
    if std::env::var_os("STEWARD_UPDATE").is_some() {
        std::fs::write(&file, &printed).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == printed,
        "docs/reference/requests.md is out of date: run `STEWARD_UPDATE=1 cargo test -p steward --test e2e reference`"
    );
}
