//! Lists in numbered pages, over a store that lists by cursor: bounded in what they read.

use std::ops::ControlFlow;

use schemars::JsonSchema;
use serde::Serialize;

use crate::config::FieldError;
use crate::control::Error;
use crate::store::{self, Page, RecordCursor};

/// How many records a list looks at: who has more has to narrow it down.
pub const BOUND: usize = 10_000;

/// How many parts of a list are read: a store may give fewer records than it was asked for.
const READS: usize = 100;

/// The longest page.
const MAX_PER_PAGE: u32 = 100;

/// Which part of a list an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Pagination {
    /// How many there are in all.
    pub total: u64,
    /// This page, from 1.
    pub page: u32,
    /// How many one page has.
    pub per_page: u32,
    /// How many pages there are.
    pub pages: u64,
    /// Set when there are more than are looked at: the total counts those that were.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// The page that is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paging {
    page: u32,
    per_page: u32,
}

/// A page while it is being filled.
#[derive(Debug)]
pub(super) struct Window<T> {
    paging: Paging,
    seen: u64,
    pub(super) items: Vec<T>,
}

impl Paging {
    /// Checks what was asked for.
    pub(super) fn new(page: u32, per_page: u32) -> Result<Self, Error> {
        if !(1..=MAX_PER_PAGE).contains(&per_page) {
            return Err(Error::invalid(FieldError::new("per_page", per_page, "expected 1 to 100")));
        }
        let end = u64::from(page) * u64::from(per_page);
        if page == 0 || end > BOUND as u64 {
            let detail = format!("expected a page of the first {BOUND} entries, from 1");
            return Err(Error::invalid(FieldError::new("page", page, detail)));
        }
        Ok(Self { page, per_page })
    }

    pub(super) const fn window<T>(self) -> Window<T> {
        Window { paging: self, seen: 0, items: Vec::new() }
    }

    /// The page of a list that is whole in memory.
    pub(super) fn cut<T>(self, list: Vec<T>, truncated: bool) -> (Vec<T>, Pagination) {
        let mut window = self.window();
        for item in list {
            window.add(item);
        }
        let total = window.seen;
        (window.items, self.of(total, truncated))
    }

    /// What to say of a page of a list that has so many.
    pub(super) fn of(self, total: u64, truncated: bool) -> Pagination {
        let Self { page, per_page } = self;
        Pagination { total, page, per_page, pages: total.div_ceil(per_page.into()), truncated }
    }
}

impl<T> Window<T> {
    /// Counts an item, and keeps it if it is on the page.
    pub(super) fn add(&mut self, item: T) {
        let Paging { page, per_page } = self.paging;
        let first = u64::from(page - 1) * u64::from(per_page);
        if (first..first + u64::from(per_page)).contains(&self.seen) {
            self.items.push(item);
        }
        self.seen += 1;
    }

    /// Passes over what is not read because it is not on the page.
    const fn pass_to(&mut self, seen: u64) {
        self.seen = seen;
    }

    /// Whether nothing of the next so many would be on the page.
    fn is_past(&self, more: u64) -> bool {
        let Paging { page, per_page } = self.paging;
        let first = u64::from(page - 1) * u64::from(per_page);
        self.seen + more <= first || self.seen >= first + u64::from(per_page)
    }

    /// The page, of a list that was read to its end or to the bound.
    pub(super) fn counted(self, truncated: bool) -> (Vec<T>, Pagination) {
        let pagination = self.paging.of(self.seen, truncated);
        (self.items, pagination)
    }
}

/// Reads a list part by part; tells whether it is longer than the bound.
pub(super) async fn walk<T, F>(
    read: impl Fn(Option<RecordCursor>) -> F,
    mut visit: impl FnMut(T) -> ControlFlow<()>,
) -> Result<bool, Error>
where
    F: Future<Output = store::Result<Page<T>>>,
{
    let (mut after, mut seen) = (None, 0);
    for _ in 0..READS {
        let page = read(after).await?;
        for item in page.items {
            if seen == BOUND {
                return Ok(true);
            }
            seen += 1;
            if visit(item).is_break() {
                return Ok(false);
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Adds a list to a page: those of its records that make a row. Where it is known how many these are, it is read no
/// further than the page goes. Tells whether it is longer than what was looked at.
pub(super) async fn fill<T, R, F>(
    window: &mut Window<R>,
    total: Option<u64>,
    read: impl Fn(Option<RecordCursor>) -> F,
    row: impl Fn(T) -> Option<R>,
) -> Result<bool, Error>
where
    F: Future<Output = store::Result<Page<T>>>,
{
    let Some(total) = total else {
        return walk(read, |item| {
            row(item).into_iter().for_each(|row| window.add(row));
            ControlFlow::Continue(())
        })
        .await;
    };
    let end = window.seen + total;
    if !window.is_past(total) {
        walk(read, |item| {
            row(item).into_iter().for_each(|row| window.add(row));
            if window.is_past(total) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .await?;
    }
    window.pass_to(end);
    Ok(false)
}

/// The first page.
pub(super) const fn first() -> u32 {
    1
}

/// The usual length of a page.
pub(super) const fn twenty() -> u32 {
    20
}

/// That of a page of short entries.
pub(super) const fn fifty() -> u32 {
    50
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_its_part_and_says_how_many_there_are() {
        let paging = Paging::new(2, 3).expect("a page");
        let (items, pagination) = paging.cut((0..8).collect(), false);
        assert_eq!(items, [3, 4, 5]);
        assert_eq!((pagination.total, pagination.pages, pagination.truncated), (8, 3, false));
        let (items, pagination) = Paging::new(4, 3).expect("a page").cut((0..8).collect(), true);
        assert_eq!((items, pagination.pages), (vec![], 3));
        for (page, per_page, field) in [
            (0, 20, "page"),
            (1, 0, "per_page"),
            (1, 101, "per_page"),
            (101, 100, "page"),
            (u32::MAX, 100, "page"),
        ] {
            let Err(Error::Invalid(errors)) = Paging::new(page, per_page) else {
                panic!("{page} {per_page}")
            };
            assert_eq!(errors[0].field, field);
        }
    }

    #[tokio::test]
    async fn a_list_without_end_is_not_read_to_its_end() {
        let page = |_| async { Ok(Page { items: vec![(); 500], next: "1".parse().ok() }) };
        let mut count = 0;
        let truncated = walk(page, |()| {
            count += 1;
            ControlFlow::Continue(())
        });
        assert!(truncated.await.expect("read") && count == BOUND);
        let empty = |_| async { Ok(Page::<()> { items: Vec::new(), next: "1".parse().ok() }) };
        assert!(walk(empty, |()| ControlFlow::Continue(())).await.expect("read"));
    }
}
