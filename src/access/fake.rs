//! An API server in memory, with users by token, and rights.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use tokio::time::sleep;

use super::{Access, AccessMetrics, Authentication, Mode, Options, ReviewError, Reviewer, Token, User, Verb};

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct FakeReviewer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    users: HashMap<String, User>,
    rights: HashSet<(String, String, Verb)>,
    fails: bool,
    reason: Option<String>,
    delay: Duration,
    reviews: Vec<String>,
}

impl FakeReviewer {
    pub(crate) fn add(&self, token: &str, name: &str) {
        let user = User { name: name.to_owned(), ..User::default() };
        self.0.lock().unwrap().users.insert(token.to_owned(), user);
    }

    pub(crate) fn allow(&self, name: &str, namespace: &str, verb: Verb) {
        self.0.lock().unwrap().rights.insert((name.to_owned(), namespace.to_owned(), verb));
    }

    pub(crate) fn revoke(&self) {
        let mut state = self.0.lock().unwrap();
        state.rights.clear();
    }

    /// Makes all tokens invalid.
    pub(crate) fn expire(&self) {
        self.0.lock().unwrap().users.clear();
    }

    pub(crate) fn fail(&self, fails: bool) {
        self.0.lock().unwrap().fails = fails;
    }

    /// Sets the reason for which tokens are invalid.
    pub(crate) fn reason(&self, reason: String) {
        self.0.lock().unwrap().reason = Some(reason);
    }

    /// Delays every review.
    pub(crate) fn delay(&self, delay: Duration) {
        self.0.lock().unwrap().delay = delay;
    }

    /// The reviews since the last call.
    pub(crate) fn reviews(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().reviews)
    }

    async fn review<T>(&self, what: String, answer: impl FnOnce(&State) -> T) -> Result<T, ReviewError> {
        let delay = self.0.lock().unwrap().delay;
        sleep(delay).await;
        let mut state = self.0.lock().unwrap();
        state.reviews.push(what);
        if state.fails { Err(ReviewError("429: too many requests".to_owned())) } else { Ok(answer(&state)) }
    }
}

impl Reviewer for FakeReviewer {
    fn authenticate<'a>(
        &'a self,
        token: &'a Token,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<Authentication, ReviewError>> {
        Box::pin(self.review(format!("token {}", token.secret()), |state| match state.users.get(token.secret()) {
            Some(user) => Authentication::User(Arc::new(user.clone())),
            None => Authentication::Invalid(state.reason.clone().unwrap_or_else(|| "unknown".to_owned())),
        }))
    }

    fn authorize<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
        verb: Verb,
    ) -> BoxFuture<'a, Result<bool, ReviewError>> {
        Box::pin(self.review(format!("{} {namespace}", verb.as_str()), move |state| {
            state.rights.contains(&(user.name.clone(), namespace.to_owned(), verb))
        }))
    }
}

/// Access control by this API server.
pub(crate) fn access(mode: Mode, reviewer: &FakeReviewer) -> Access {
    let options = Options { mode, ..Options::default() };
    Access::new(options, reviewer.clone(), AccessMetrics::new(&mut Registry::default()))
}
