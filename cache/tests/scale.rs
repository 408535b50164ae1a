//! The page on scale quotes what the simulation prints, and that is the same each time.

#[path = "../examples/scale.rs"]
mod scale;

#[test]
fn the_page_quotes_the_simulation() {
    let printed = scale::report().unwrap();
    assert_eq!(scale::report().unwrap(), printed);
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/README.md");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(
        page.contains(&format!("```text\n{printed}```\n")),
        "the page has something else than\n{printed}"
    );
}
