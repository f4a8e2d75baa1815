//! The configurations of `docs/forward-auth.md`, as they stand there.

const DOCUMENT: &str = include_str!("../../../docs/forward-auth.md");

/// The code blocks below a heading, in their order.
pub(super) fn blocks(heading: &str) -> Vec<&'static str> {
    let (_, section) = DOCUMENT.split_once(&format!("\n## {heading}\n")).expect("a heading");
    let section = section.split("\n## ").next().unwrap();
    section.split("\n```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap().1).collect()
}

/// A block with one thing replaced, which it must have as often as this.
pub(super) fn replaced(block: &str, what: &str, times: usize, by: &str) -> String {
    assert_eq!(block.matches(what).count(), times, "{what} in:\n{block}");
    block.replace(what, by)
}
