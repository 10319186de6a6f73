//! One watch: the lines that its answer is made of.

use std::{sync::Arc, time::Duration};

use axum::body::Bytes;
use futures::{Stream, stream};
use kube::core::Selector;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Counted, Refusal, State,
    object::{API_VERSION, Form, KIND, Object},
    objects::{EventType, Scope},
    request::Query,
};

/// How long a watch lasts whose client does not say: at least half an hour, at most twice that.
const LASTS: Duration = Duration::from_secs(1800);
/// When bookmarks begin, before the end of the watch, and how far they are apart then.
const BOOKMARKS_BEFORE_END: Duration = Duration::from_secs(2);
const BOOKMARKS_APART: Duration = Duration::from_secs(1);
/// How often bookmarks come before that.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// A watch under way.
pub(super) struct Watch {
    state: Arc<State>,
    scope: Scope,
    selector: Selector,
    form: Form,
    /// Everything up to here has been told.
    version: u64,
    changed: watch::Receiver<u64>,
    /// The state at the beginning, until it is told.
    initial: Option<Bytes>,
    bookmark: Option<Instant>,
    end: Instant,
    over: bool,
    _open: Counted,
}

impl Watch {
    pub(super) fn new(state: Arc<State>, scope: Scope, query: Query, form: Form) -> Result<Self, Refusal> {
        state.count(|requests| requests.watches += 1);
        let now = Instant::now();
        let end = now + query.timeout.unwrap_or_else(|| rand::rng().random_range(LASTS..LASTS * 2));
        let (version, initial) = match query.version {
            Some(version @ 1..) => (version, None),
            // No version, or any: what there is is added first.
            beginning => {
                let page = state.objects().list(&scope, &query.selector, None, None)?;
                let mut lines = Vec::new();
                page.items.iter().for_each(|item| line(&mut lines, "ADDED", &item.shown(form)));
                if query.bookmarks && beginning.is_some() {
                    line(&mut lines, "BOOKMARK", &bookmark(page.version, form, true));
                }
                (page.version, Some(lines.into()))
            }
        };
        let watch = Self {
            scope,
            selector: query.selector,
            form,
            version,
            changed: state.changed.subscribe(),
            initial,
            bookmark: None,
            end,
            over: false,
            _open: Counted::new(state.clone(), |requests| &mut requests.open_watches),
            state,
        };
        Ok(Self { bookmark: query.bookmarks.then(|| watch.next_bookmark(now)), ..watch })
    }

    /// The lines, some at a time.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
        stream::unfold(self, |mut watch| async move { watch.next().await.map(|lines| (Ok(lines), watch)) })
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.over {
                return None;
            }
            self.state.not_paused().await;
            if let Some(initial) = self.initial.take().filter(|initial| !initial.is_empty()) {
                return Some(initial);
            }
            let current = *self.changed.borrow_and_update();
            if let Some(lines) = self.changes(current) {
                return Some(lines);
            }
            let bookmark = self.bookmark;
            tokio::select! {
                changed = self.changed.changed() => self.over = changed.is_err(),
                () = sleep_until(bookmark.unwrap_or(self.end)), if bookmark.is_some() => {
                    self.bookmark = Some(self.next_bookmark(Instant::now()));
                    let mut lines = Vec::new();
                    line(&mut lines, "BOOKMARK", &self::bookmark(self.version.max(current), self.form, false));
                    return Some(lines.into());
                }
                () = sleep_until(self.end) => self.over = true,
            }
        }
    }

    /// What is new up to this version, if anything is.
    fn changes(&mut self, current: u64) -> Option<Bytes> {
        // A version that is not reached yet is waited for.
        if current <= self.version {
            return None;
        }
        let changes = self.state.objects().since(self.version, &self.scope, &self.selector);
        let mut lines = Vec::new();
        match changes {
            Ok(changes) => {
                for (event, object) in changes {
                    // There may be more than `current` already: it is not to be told twice.
                    self.version = self.version.max(version_of(&object));
                    line(&mut lines, name(event), &object.shown(self.form));
                }
                self.version = self.version.max(current);
            }
            Err(expired) => {
                line(&mut lines, "ERROR", &expired.status());
                self.over = true;
            }
        }
        (!lines.is_empty()).then(|| lines.into())
    }

    fn next_bookmark(&self, now: Instant) -> Instant {
        let last = self.end.checked_sub(BOOKMARKS_BEFORE_END).unwrap_or(now);
        if now < last { last.min(now + HEARTBEAT) } else { now + BOOKMARKS_APART }
    }
}

fn version_of(object: &Object) -> u64 {
    object.text("resourceVersion").parse().unwrap_or_default()
}

fn name(event: EventType) -> &'static str {
    match event {
        EventType::Added => "ADDED",
        EventType::Modified => "MODIFIED",
        EventType::Deleted => "DELETED",
    }
}

fn bookmark(version: u64, form: Form, initial_end: bool) -> Value {
    let (kind, api_version) = match form {
        Form::Full => (KIND, API_VERSION),
        Form::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1"),
    };
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if initial_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    json!({"kind": kind, "apiVersion": api_version, "metadata": metadata})
}

fn line(lines: &mut Vec<u8>, event: &str, object: &Value) {
    lines.extend_from_slice(json!({"type": event, "object": object}).to_string().as_bytes());
    lines.push(b'\n');
}
