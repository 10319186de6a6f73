//! The pages of a listing.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use moka::sync::Cache;

use super::{error::CallError, metrics::Method, proto::ListOperationOptions};

/// Rows of a page, the maximum of the server first. Where a page is too large, smaller ones follow.
pub(super) const PAGE_SIZES: [usize; 3] = [100, 10, 1];
/// Pages of a size after which the next larger one is tried again.
const PAGES_UNTIL_LARGER: usize = 10;
/// Time for which the size of a namespace's pages is remembered. Its runs may become smaller.
const KNOWN_TTL: Duration = Duration::from_secs(600);
/// Maximum number of remembered sizes.
const MAX_KNOWN: u64 = 1024;
/// Maximum number of pages of a listing. A run has a few artifacts; a listing of 100,000 is an error of the store.
const MAX_PAGES: usize = 1000;

/// The size of the next page or batch.
#[derive(Debug, Default)]
pub(super) struct PageSize {
    /// Index in [`PAGE_SIZES`].
    size: usize,
    /// Pages of this size since it was chosen.
    pages: usize,
}

impl PageSize {
    /// Begins with the size at this index of [`PAGE_SIZES`].
    fn starting_at(size: usize) -> Self {
        Self { size, pages: 0 }
    }

    pub(super) fn rows(&self) -> usize {
        PAGE_SIZES[self.size]
    }

    /// Chooses a smaller size after a page that was too large. Returns false if there is none.
    pub(super) fn shrink(&mut self) -> bool {
        let is_smallest = self.size + 1 == PAGE_SIZES.len();
        if !is_smallest {
            *self = Self { size: self.size + 1, pages: 0 };
        }
        !is_smallest
    }

    /// Notes a page that was not too large.
    pub(super) fn fits(&mut self) {
        self.pages += 1;
        if self.size > 0 && self.pages >= PAGES_UNTIL_LARGER {
            *self = Self { size: self.size - 1, pages: 0 };
        }
    }
}

/// The sizes that fit the runs of namespaces in which larger pages were too large. The next lookup there begins with
/// them: a page that is too large costs the store as much as one that is read, and other namespaces wait for that.
#[derive(Clone, Debug)]
pub(super) struct KnownSizes(Cache<(Arc<str>, Method), usize>);

impl Default for KnownSizes {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_KNOWN).time_to_live(KNOWN_TTL).build())
    }
}

/// The pages of a listing, bounded in number.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    method: Method,
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
    pub(super) fn of(method: Method, namespace: &'a Arc<str>, known: &'a KnownSizes) -> Self {
        let size = known.0.get(&(namespace.clone(), method)).unwrap_or_default();
        Self {
            method,
            namespace,
            known,
            size: PageSize::starting_at(size),
            read: HashSet::new(),
            hasher: RandomState::new(),
            next: None,
            finished: false,
        }
    }

    /// Returns the options of the next request, or `None` after the last page.
    pub(super) fn next(&self) -> Option<ListOperationOptions> {
        let max_result_size = i32::try_from(self.size.rows()).ok();
        (!self.finished).then(|| ListOperationOptions { max_result_size, next_page_token: self.next.clone() })
    }

    /// Requests less at once, after a page that was too large. Returns false if a page of one row was too large.
    pub(super) fn shrink(&mut self) -> bool {
        let shrunk = self.size.shrink();
        if shrunk {
            self.known.0.insert((self.namespace.clone(), self.method), self.size.size);
        }
        shrunk
    }

    /// Takes the token of the next page from a response.
    pub(super) fn turn(&mut self, token: Option<String>) -> Result<(), CallError> {
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
