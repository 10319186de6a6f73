//! The texts of `explain`.

use std::fmt::Write as _;

use crate::{
    cli::output::{ABSENT, Table, Tone, one_line},
    clock::WallClock,
    tools::explain::{
        decision::{Status, age},
        server::ServerReport,
        story::{ArtifactStory, RunStory, Story, SubscriptionStory},
    },
};

/// Artifacts that are shown without `-o wide`. Those that count are always shown.
const SHOWN_ARTIFACTS: usize = 20;

fn tone(status: Status) -> Tone {
    match status {
        Status::Delivered => Tone::Good,
        Status::Pending => Tone::Attention,
        Status::Never => Tone::Bad,
    }
}

fn plain(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Plain)
}

/// A table with a row for each run and subscription.
pub(super) fn table(runs: &[RunStory], with_namespace: bool, wide: bool, now: i64) -> Table {
    let mut header = vec!["WORKFLOW", "SUBSCRIPTION", "STATUS", "REASON", "AGE"];
    if with_namespace {
        header.insert(0, "NAMESPACE");
    }
    if wide {
        header.extend(["PIPELINE", "PHASE", "UID", "SOURCE", "MODELS", "MESSAGE"]);
    }
    let mut table = Table::new(header);
    for run in runs {
        for subscription in &run.subscriptions {
            let mut row = vec![
                plain(&run.workflow),
                plain(&subscription.name),
                (subscription.status.as_str().to_owned(), tone(subscription.status)),
                plain(reason(subscription)),
                plain(age(now - run.since)),
            ];
            if with_namespace {
                row.insert(0, plain(&run.namespace));
            }
            if wide {
                row.push(plain(run.pipeline_name.as_deref().unwrap_or(ABSENT)));
                let models = run.model_source.unwrap_or(ABSENT);
                row.extend([run.phase, &run.uid, &subscription.source, models, &subscription.message].map(plain));
            }
            table.row(row);
        }
    }
    table
}

/// The reason, with the time until which it holds.
fn reason(subscription: &SubscriptionStory) -> String {
    match &subscription.until {
        Some(until) => format!("{} until {until}", subscription.shown_reason),
        None => subscription.shown_reason.clone(),
    }
}

/// A note about a server that says nothing about itself.
pub(super) fn server_line(server: &ServerReport) -> Option<String> {
    let reason = server.error.as_deref().map(one_line);
    match (server.reachable, reason) {
        (true, None) => None,
        (true, Some(reason)) => Some(format!("note: the server at {} says nothing: {reason}", server.place())),
        (false, reason) => {
            Some(format!("note: the server was not asked: {}", reason.as_deref().unwrap_or("its address is not known")))
        }
    }
}

/// The states of a run's subscriptions in one line.
pub(super) fn states(story: &Story) -> String {
    let state = |it: &SubscriptionStory| format!("{} {}: {}", it.name, it.status.as_str(), reason(it));
    let states: Vec<String> = story.run.subscriptions.iter().map(state).collect();
    format!("{}: {}", story.run.workflow, one_line(&states.join("; ")))
}

/// The whole story of a run.
pub(super) fn story(story: &Story, trace_url: Option<&str>, wide: bool, colors: bool) -> String {
    let mut text = String::new();
    facts(&mut text, story, trace_url);
    section(&mut text, "Subscriptions");
    for subscription in &story.run.subscriptions {
        let status = tone(subscription.status).paint(subscription.status.as_str(), colors);
        let reason = Some(reason(subscription)).filter(|reason| *reason != subscription.status.as_str());
        let reason = reason.map(|reason| format!(", {}", one_line(&reason))).unwrap_or_default();
        line(&mut text, &format!("  {}: {status}{reason}", one_line(&subscription.name)));
        line(&mut text, &format!("    {}", one_line(&subscription.message)));
        line(&mut text, &format!("    Known from: {}", one_line(&subscription.source)));
        line(&mut text, &format!("    Next: {}", one_line(subscription.advice)));
    }
    if story.run.subscriptions.iter().all(|subscription| subscription.source == "assumed") {
        line(&mut text, "  No subscription is known for this namespace: explained for one with the defaults.");
    }
    section(&mut text, "Artifacts");
    artifacts(&mut text, story, wide);
    section(&mut text, "Event");
    line(&mut text, &format!("  {}", story.payload.as_deref().map_or_else(|| "none".to_owned(), one_line)));
    section(&mut text, "Marks");
    if story.marks.is_empty() {
        line(&mut text, "  none");
    }
    for mark in &story.marks {
        let stale = if mark.counts { "" } else { "; does not count, the run was restarted" };
        line(&mut text, &format!("  {} ({}{stale})", one_line(&mark.subscription), mark.outcome));
    }
    section(&mut text, "Server");
    server(&mut text, &story.server);
    text
}

fn facts(text: &mut String, story: &Story, trace_url: Option<&str>) {
    let run = &story.run;
    let now = WallClock::default().now();
    let ended = run.finished.as_ref().map(|finished| format!("{finished} ({} ago)", age(now - run.since)));
    let record = story.record.as_ref().map(|record| {
        let facts = [
            record.id.map(|id| format!("id {id}")),
            record.namespace.as_ref().map(|namespace| format!("namespace {namespace}")),
        ];
        let facts: Vec<String> = facts.into_iter().flatten().collect();
        let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
        format!("{} {}{facts}", record.kind, record.name)
    });
    let failure = story.lookup_error.as_ref().map(|failure| format!("{}: {}", failure.code, failure.message));
    for (label, value) in [
        ("Run", Some(format!("{}/{}", run.namespace, run.workflow))),
        ("UID", Some(run.uid.clone())),
        ("Run id", run.run_id.clone()),
        ("Pipeline", run.pipeline_name.clone()),
        ("Phase", Some(run.phase.to_owned())),
        ("Created", run.created.clone()),
        ("Finished", ended),
        (
            "Models from",
            run.source
                .map(|source| [Some(source.to_string()), record].into_iter().flatten().collect::<Vec<_>>().join(", ")),
        ),
        ("Lookup", failure),
        ("Trace", run.trace_id.clone()),
        ("", trace_url.map(ToOwned::to_owned)),
    ] {
        if let Some(value) = value {
            let label = if label.is_empty() { String::new() } else { format!("{label}:") };
            line(text, &format!("{label:<13}{}", one_line(&value)));
        }
    }
}

fn artifacts(text: &mut String, story: &Story, wide: bool) {
    artifact_table(text, &story.artifacts, story.artifacts_left_out, wide);
    for subscription in &story.run.subscriptions {
        if let Some(artifacts) = &subscription.artifacts {
            line(text, &format!("  For {}, which has other artifactTypes:", one_line(&subscription.name)));
            artifact_table(text, artifacts, story.artifacts_left_out, wide);
        }
    }
}

fn artifact_table(text: &mut String, artifacts: &[ArtifactStory], left_out: usize, wide: bool) {
    if artifacts.is_empty() {
        line(text, "  none was seen");
        return;
    }
    let mut header = vec!["ID", "TYPE", "OUTPUT", "COUNTS", "REASON", "LOCATION"];
    if wide {
        header.push("NAME");
    }
    let mut table = Table::new(header);
    // Models first, then those that are nearly models.
    let mut shown: Vec<&ArtifactStory> = artifacts.iter().collect();
    shown.sort_by_key(|artifact| (!artifact.counts, artifact.reason == "other_type"));
    let counting = artifacts.iter().filter(|artifact| artifact.counts).count();
    let limit = if wide { shown.len() } else { SHOWN_ARTIFACTS.max(counting) };
    let hidden = shown.len().saturating_sub(limit);
    for artifact in shown.into_iter().take(limit) {
        let place = [artifact.node.as_deref(), artifact.key.as_deref()].map(Option::unwrap_or_default);
        let (counts, tone) = if artifact.counts { ("yes", Tone::Good) } else { ("no", Tone::Plain) };
        let mut row = vec![
            plain(artifact.id.to_string()),
            plain(&artifact.type_name),
            plain(place.join(":").trim_matches(':')),
            (counts.to_owned(), tone),
            plain(format!("{}: {}", artifact.reason, artifact.message)),
            plain(&artifact.uri),
        ];
        if wide {
            row.push(plain(artifact.name.as_deref().unwrap_or(ABSENT)));
        }
        table.row(row);
    }
    for row in table.render(false).lines() {
        line(text, &format!("  {row}"));
    }
    if hidden > 0 {
        line(text, &format!("  and {hidden} more, see -o wide"));
    }
    if left_out > 0 {
        line(text, &format!("  and {left_out} more, which were not read"));
    }
}

fn server(text: &mut String, server: &ServerReport) {
    match (server.reachable, &server.error) {
        (true, None) => {
            let version = one_line(server.version.as_deref().unwrap_or("unknown"));
            let ready = if server.ready == Some(true) { "ready" } else { "not ready" };
            line(text, &format!("  {ready}, version {version}, at {}", one_line(server.place())));
            for problem in &server.problems {
                line(text, &format!("  {}", one_line(problem)));
            }
        }
        _ => {
            let words = server_line(server).unwrap_or_default();
            line(text, &format!("  {}", words.trim_start_matches("note: ")));
        }
    }
}

fn section(text: &mut String, title: &str) {
    line(text, &format!("\n{title}:"));
}

fn line(text: &mut String, words: &str) {
    // Writing to a string never fails.
    writeln!(text, "{words}").ok();
}
