//! The pages of a listing.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use moka::sync::Cache;

use super::error::CallError;

/// Rows of a page, the maximum of the server first. Where a page is too large, smaller ones follow.
pub(crate) type PageSizes = [usize; 3];
/// Pages of a size after which the next larger one is tried again.
const PAGES_UNTIL_LARGER: usize = 10;
/// Time for which the size of a namespace's pages is remembered. Its runs may become smaller.
const KNOWN_TTL: Duration = Duration::from_secs(600);
/// Maximum number of remembered sizes.
const MAX_KNOWN: u64 = 1024;
/// Maximum number of pages of a listing. A run has a few artifacts; a listing of 100,000 is an error of the store.
const MAX_PAGES: usize = 1000;

/// The size of the next page or batch.
#[derive(Debug)]
pub(crate) struct PageSize {
    sizes: PageSizes,
    /// Index in the sizes.
    size: usize,
    /// Pages of this size since it was chosen.
    pages: usize,
}

impl PageSize {
    /// Begins with the largest of these sizes.
    pub(crate) fn new(sizes: PageSizes) -> Self {
        Self { sizes, size: 0, pages: 0 }
    }

    pub(crate) fn rows(&self) -> usize {
        self.sizes[self.size]
    }

    /// Chooses a smaller size after a page that was too large. Returns false if there is none.
    pub(crate) fn shrink(&mut self) -> bool {
        let is_smallest = self.size + 1 == self.sizes.len();
        if !is_smallest {
            *self = Self { size: self.size + 1, pages: 0, ..*self };
        }
        !is_smallest
    }

    /// Notes a page that was not too large.
    pub(crate) fn fits(&mut self) {
        self.pages += 1;
        if self.size > 0 && self.pages >= PAGES_UNTIL_LARGER {
            *self = Self { size: self.size - 1, pages: 0, ..*self };
        }
    }
}

/// The sizes that fit the runs of namespaces in which larger pages were too large. The next lookup there begins with
/// them: a page that is too large costs the store as much as one that is read, and other namespaces wait for that.
#[derive(Clone, Debug)]
pub(crate) struct KnownSizes(Cache<(Arc<str>, &'static str), usize>);

impl Default for KnownSizes {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_KNOWN).time_to_live(KNOWN_TTL).build())
    }
}

/// A page to request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Maximum number of rows.
    pub(crate) rows: i32,
    /// The token from the page before; `None` for the first page.
    pub(crate) token: Option<String>,
}

/// The pages of a listing, bounded in number.
#[derive(Debug)]
pub(crate) struct Pages<'a> {
    method: &'static str,
    namespace: &'a Arc<str>,
    known: &'a KnownSizes,
    size: PageSize,
    /// Hashes of the tokens of the pages after the first that have been read.
    read: HashSet<u64>,
    hasher: RandomState,
    next: Option<String>,
    finished: bool,
}

impl<'a> Pages<'a> {
    /// The pages of a listing for a run of this namespace.
    pub(crate) fn of(method: &'static str, namespace: &'a Arc<str>, known: &'a KnownSizes, sizes: PageSizes) -> Self {
        let size = known.0.get(&(namespace.clone(), method)).unwrap_or_default();
        Self {
            method,
            namespace,
            known,
            size: PageSize { size, ..PageSize::new(sizes) },
            read: HashSet::new(),
            hasher: RandomState::new(),
            next: None,
            finished: false,
        }
    }

    /// Returns the next page to request, or `None` after the last one.
    pub(crate) fn next(&self) -> Option<Page> {
        let rows = i32::try_from(self.size.rows()).unwrap_or(i32::MAX);
        (!self.finished).then(|| Page { rows, token: self.next.clone() })
    }

    /// Requests less at once, after a page that was too large. Returns false if a page of one row was too large.
    pub(crate) fn shrink(&mut self) -> bool {
        let shrunk = self.size.shrink();
        if shrunk {
            self.known.0.insert((self.namespace.clone(), self.method), self.size.size);
        }
        shrunk
    }

    /// Takes the token of the next page from a response.
    pub(crate) fn turn(&mut self, token: Option<String>) -> Result<(), CallError> {
        self.size.fits();
        self.next = token.filter(|token| !token.is_empty());
        self.finished = self.next.is_none();
        let method = self.method;
        if let Some(token) = &self.next
            && !self.read.insert(self.hasher.hash_one(token))
        {
            return Err(CallError::malformed(format!(
                "{method}: the token of a page repeats, so the listing is endless"
            )));
        }
        if self.read.len() >= MAX_PAGES {
            return Err(CallError::malformed(format!("{method}: more than {MAX_PAGES} pages")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
