//! The rules of the house, applied to the house.

use std::path::Path;
use std::sync::LazyLock;

use tidy::Repository;

static HOUSE: LazyLock<Repository> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Repository::read(&root, Path::new(env!("CARGO"))).expect("the repository can be read")
});

#[track_caller]
fn assert_tidy(problems: &[String]) {
    assert!(problems.is_empty(), "\n  {}\n", problems.join("\n  "));
}

#[test]
fn the_whole_house_is_seen() {
    let names: Vec<&str> = HOUSE.crates.iter().map(|one| one.name.as_str()).collect();
    for name in ["contract", "steward", "tidy", "store-sqlite"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert!(HOUSE.packages.iter().any(|package| package.name == "tokio"), "packages are read");
    assert!(HOUSE.files.contains_key("crates/tidy/tests/tidy.rs"), "files are read");
}

#[test]
fn crates_import_what_the_table_allows() {
    assert_tidy(&tidy::forbidden_edges(&HOUSE.crates));
}

#[test]
fn drivers_belong_to_one_crate() {
    assert_tidy(&tidy::drivers_out_of_place(&HOUSE.crates));
}

#[test]
fn manifests_take_lints_and_versions_from_the_workspace() {
    assert_tidy(&tidy::untidy_manifests(&HOUSE.crates, &HOUSE.files));
}

#[test]
fn names_say_something() {
    assert_tidy(&tidy::vague_names(HOUSE.files.keys().map(String::as_str)));
}

#[test]
fn adapters_have_the_same_shape() {
    assert_tidy(&tidy::misshapen_adapters(&HOUSE.crates, &HOUSE.files));
}

#[test]
fn no_crate_is_empty() {
    assert_tidy(&tidy::empty_crates(&HOUSE.crates, &HOUSE.files));
}

#[test]
fn only_authority_mints_permits() {
    assert_tidy(&tidy::minted_permits(&HOUSE.files));
}

#[test]
fn only_the_door_reads_the_environment_and_prints() {
    assert_tidy(&tidy::outside_contacts(&HOUSE.files));
}

#[test]
fn types_with_secrets_are_not_printable() {
    assert_tidy(&tidy::printable_secrets(&HOUSE.files));
}

#[test]
fn every_sql_file_is_loaded() {
    assert_tidy(&tidy::unloaded_sql(&HOUSE.files));
}

#[test]
fn nothing_is_put_off() {
    assert_tidy(&tidy::unfinished_work(&HOUSE.files));
}

#[test]
fn licenses_are_permissive() {
    assert_tidy(&tidy::forbidden_licenses(&HOUSE.packages));
}

#[test]
fn banned_packages_are_not_built() {
    assert_tidy(&tidy::banned_packages(&HOUSE.packages));
}

#[test]
fn packages_have_their_repairs() {
    assert_tidy(&tidy::outdated_packages(&HOUSE.packages));
}
