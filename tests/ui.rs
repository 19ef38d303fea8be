//! What rustc says about mistakes in an entity, and which forms it must accept.
//!
//! Each file in `ui/<key>/` and `ui_build/<key>/` has one mistake and starts with the rule it proves. Its `.stderr` is the whole answer of the
//! compiler: a second error there is a consequence that the derive should have prevented. The files are blessed with the
//! compiler of the CI; run with `TRYBUILD=overwrite` to bless them again.
//!
//! The messages about codecs and databases depend on what is enabled, so these tests want every database and codec.
#![cfg(all(
    feature = "postgres",
    feature = "mysql",
    feature = "sqlite",
    feature = "msgpack",
    feature = "postcard",
    feature = "json",
))]

#[test]
fn mistakes_are_explained() {
    // A set without a passing case is checked as a whole, which is many times faster than case by case.
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*/*.rs");
}

#[test]
fn mistakes_that_only_a_build_finds_are_explained_and_correct_forms_compile() {
    // Whether a database fits an entity is asked where the repository is made, and only a build gets there. A set with a
    // passing case is built.
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui_build/*/*.rs");
    cases.pass("tests/ui_pass/*.rs");
}
