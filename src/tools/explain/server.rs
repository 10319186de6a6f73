//! The server's own word, from its admin port.

use serde::{Deserialize, Serialize};

use super::{decision::ServerWord, subscriptions::Stream};
use crate::{
    model::{SkipReason, Subscription, Workflow},
    tools::admin,
};

/// The report of the server, as far as it can be asked.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerReport {
    /// It has answered.
    pub reachable: bool,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The reason why it could not be asked, or did not say everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// It is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Its problems, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    #[serde(skip)]
    status: Option<Statusz>,
}

/// The parts of `/statusz.json` that matter here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Statusz {
    version: String,
    ready: bool,
    selector: String,
    namespaces: Vec<String>,
    problems: Vec<Problem>,
    subscriptions: Vec<OpenSubscription>,
    recent_deliveries: Vec<RunNote>,
    recent_problems: Vec<RunNote>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    name: String,
    reason: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OpenSubscription {
    namespace: String,
    name: String,
    streams: usize,
    pending_runs: usize,
    latest_only: bool,
    remember: Option<bool>,
}

/// A delivery, or a problem of a run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RunNote {
    time: String,
    uid: String,
    subscription: Option<String>,
    reason: String,
}

impl ServerReport {
    /// A server that cannot be asked, for this reason.
    pub fn unreachable(error: String) -> Self {
        Self { error: Some(error), ..Self::default() }
    }

    /// Asks the server at `http://HOST:PORT` about a namespace, or all. The address is described by `address`.
    pub async fn ask(url: &str, address: String, namespace: Option<&str>, token: Option<&str>) -> Self {
        let (reachable, status, error) = match admin::status::<Statusz>(url, namespace, token).await {
            Ok(status) => (true, Some(status), None),
            Err(error) => (error.is_answer(), None, Some(error.to_string())),
        };
        let of = |text: &String| (!text.is_empty()).then(|| text.clone());
        Self {
            reachable,
            address: Some(address),
            error,
            version: status.as_ref().and_then(|status| of(&status.version)),
            ready: status.as_ref().map(|status| status.ready),
            problems: status.iter().flat_map(|status| &status.problems).map(Problem::sentence).collect(),
            status,
        }
    }

    /// Its address, for messages.
    pub fn place(&self) -> &str {
        self.address.as_deref().unwrap_or("an unknown address")
    }

    /// The server's selector.
    pub fn selector(&self) -> Option<&str> {
        self.status.as_ref().map(|status| status.selector.as_str()).filter(|selector| !selector.is_empty())
    }

    /// Returns whether the server does not serve a namespace.
    pub fn excludes(&self, namespace: &str) -> bool {
        self.status.as_ref().is_some_and(|status| {
            !status.namespaces.is_empty() && !status.namespaces.iter().any(|served| served == namespace)
        })
    }

    /// The subscriptions with open streams, without those of people.
    pub fn streams(&self) -> Vec<Stream> {
        let open = self.status.iter().flat_map(|status| &status.subscriptions);
        open.filter(|open| open.remember != Some(false))
            .map(|open| Stream {
                namespace: open.namespace.clone(),
                name: open.name.clone(),
                latest_only: open.latest_only,
            })
            .collect()
    }

    /// The statement of the server about a run and a subscription.
    pub fn word(&self, run: &Workflow, subscription: &Subscription) -> ServerWord<'_> {
        let Some(status) = &self.status else { return ServerWord::Unknown };
        let uid = run.uid.to_string();
        let is_about = |note: &&RunNote| {
            note.uid == uid && note.subscription.as_deref() == Some(subscription.name.as_str()) && is_after(note, run)
        };
        let superseded = SkipReason::Superseded.as_str();
        if let Some(note) = status.recent_deliveries.iter().find(is_about) {
            return ServerWord::Delivered(&note.time);
        }
        if let Some(note) = status.recent_problems.iter().filter(is_about).find(|note| note.reason == superseded) {
            return ServerWord::Superseded(&note.time);
        }
        let mut open = status.subscriptions.iter();
        let is_open = |open: &&OpenSubscription| {
            open.namespace == *run.namespace && open.name == subscription.name.as_str() && open.remember != Some(false)
        };
        match open.find(is_open) {
            Some(open) => ServerWord::Streams { streams: open.streams, pending: open.pending_runs },
            None => ServerWord::NoStream,
        }
    }
}

impl Problem {
    fn sentence(&self) -> String {
        format!("{}: {}", self.name, self.reason)
    }
}

/// Returns whether a note is about the present end of the run, not about that of an earlier attempt.
fn is_after(note: &RunNote, run: &Workflow) -> bool {
    note.time.parse::<jiff::Timestamp>().is_ok_and(|time| time.as_second() >= run.finished)
}

#[cfg(test)]
mod tests;
