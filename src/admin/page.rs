//! The status page: health, what blocks, subscriptions, the last problems and deliveries, scopes, limits that were hit, and
//! the configuration.
//!
//! It is complete without scripts. Its own script requests the page again every few seconds, and replaces what has changed.

use super::{
    Admin,
    html::{Cell, Html, Tone, duration},
    statusz::{self, Problem, RunProblem, Statusz, SubscriptionStatus},
};
use crate::telemetry;

pub(super) const STYLE: &str = include_str!("status.css");
pub(super) const SCRIPT: &str = include_str!("status.js");
/// Nothing is loaded from elsewhere, and nothing inline is executed.
pub(super) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
     connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const TITLE: &str = "Model Update Eventsource";
/// Rows of a table. `/statusz.json` has more.
const MAX_ROWS: usize = 100;

/// Returns the page about a status.
pub(super) fn full(admin: &Admin, status: &Statusz) -> String {
    let now = admin.clock.now();
    let mut html = begin(status.ready, &status.problems, None);
    tiles(&mut html, status);
    section(&mut html, "subscriptions", "Subscriptions", |html| subscriptions(html, status));
    section(&mut html, "problems", "Recent problems", |html| problems(html, &status.recent_problems, now));
    section(&mut html, "deliveries", "Recent deliveries", |html| deliveries(html, status, now));
    section(&mut html, "scopes", "Watches", |html| scopes(html, status));
    section(&mut html, "limits", "Limits hit", |html| limits(html, status));
    section(&mut html, "configuration", "Configuration", |html| configuration(html, admin));
    end(html, status.ready, status.namespace.as_deref().unwrap_or_default())
}

/// Returns the page for a reader who may not see more than the health, with the reason. With `is_locked`, a token would
/// show more.
pub(super) fn health(admin: &Admin, namespace: &str, notice: &str, is_locked: bool) -> String {
    let ready = admin.readiness.is_ready();
    let mut html = begin(ready, &statusz::problems_of(admin), Some(is_locked));
    section(&mut html, "more", "More", |html| {
        html.raw("<p>").text(notice).raw("</p>\n");
    });
    end(html, ready, namespace)
}

fn begin(ready: bool, problems: &[Problem], restricted: Option<bool>) -> Html {
    let mut html = Html::default();
    html.raw(match restricted {
        Some(true) => "<main id=\"status\" data-locked>\n",
        _ => "<main id=\"status\">\n",
    });
    let (words, tone) = match (ready, problems) {
        (true, []) => ("Ready", Tone::Good),
        (true, _) => ("Ready, with problems", Tone::Neutral),
        (false, _) => ("Not ready", Tone::Bad),
    };
    html.raw("<section aria-labelledby=\"health\">\n<h2 id=\"health\" class=\"hidden\">Health</h2>\n");
    html.raw("<p class=\"state ").raw(tone.class()).raw("\" role=\"status\">").text(words).raw("</p>\n");
    if problems.is_empty() {
        html.raw("<p class=\"empty\">Nothing blocks delivery.</p>\n");
    } else {
        html.raw("<ul class=\"problems\">\n");
        for Problem { name, reason } in problems {
            html.raw("<li><strong>").text(name).raw("</strong> ").text(reason).raw("</li>\n");
        }
        html.raw("</ul>\n");
    }
    html.raw("</section>\n");
    html
}

fn end(mut html: Html, ready: bool, namespace: &str) -> String {
    html.raw("</main>");
    let title = if ready { TITLE.to_owned() } else { format!("Not ready: {TITLE}") };
    let version = format!("{} ({})", telemetry::VERSION, telemetry::REVISION);
    // The content comes last: it may contain the names of the places.
    include_str!("status.html")
        .replace("{title}", &title)
        .replace("{version}", &version)
        .replace("{namespace}", namespace)
        .replace("{status}", &html.into_string())
}

fn section(html: &mut Html, id: &str, heading: &str, content: impl FnOnce(&mut Html)) {
    html.raw("<section aria-labelledby=\"")
        .raw(id)
        .raw("\">\n<h2 id=\"")
        .raw(id)
        .raw("\">")
        .text(heading)
        .raw("</h2>\n");
    content(html);
    html.raw("</section>\n");
}

fn tiles(html: &mut Html, status: &Statusz) {
    let pending: usize = status.tenants.iter().map(|tenant| tenant.pending_runs).sum();
    let oldest = status.tenants.iter().filter_map(|tenant| tenant.oldest_pending_seconds).max();
    let tiles = [
        ("Subscribers", status.subscribers.to_string()),
        ("Pending runs", pending.to_string()),
        ("Oldest pending", oldest.map_or_else(|| "none".to_owned(), duration)),
        ("Workflows", status.workflows.to_string()),
        ("Up for", duration(status.uptime_seconds)),
    ];
    html.raw("<dl class=\"tiles\">\n");
    for (name, value) in tiles {
        html.raw("<div><dt>").text(name).raw("</dt><dd>").text(&value).raw("</dd></div>\n");
    }
    html.raw("</dl>\n");
}

fn subscriptions(html: &mut Html, status: &Statusz) {
    let rows = status.subscriptions.iter().take(MAX_ROWS).map(|it| {
        [
            Cell::Code(it.namespace.to_string()),
            Cell::Code(it.name.clone()),
            Cell::Text(peers(it)),
            Cell::Number(it.pending_runs.to_string()),
            it.oldest_pending_seconds.map_or(Cell::Empty, |seconds| Cell::Number(duration(seconds))),
            if it.runs_without_context > 0 { Cell::Number(it.runs_without_context.to_string()) } else { Cell::Empty },
            filtered(it),
            options(it),
        ]
    });
    let headings =
        ["Namespace", "Subscription", "Subscribers", "Pending", "Oldest", "No context", "Filtered", "Options"];
    let caption = "Subscriptions with a stream, their subscribers, and the runs that are pending or filtered";
    html.table(caption, headings, rows, "No subscriber is connected.");
    let all = status.subscriptions.len() + status.omitted_subscriptions;
    rest(html, all);
}

/// The end of a list that is longer than the page shows.
fn rest(html: &mut Html, all: usize) {
    if all > MAX_ROWS {
        let text = format!("{} more: choose a namespace, or read statusz.json.", all - MAX_ROWS);
        html.raw("<p class=\"empty\">").text(&text).raw("</p>\n");
    }
}

fn peers(subscription: &SubscriptionStatus) -> String {
    let more = subscription.streams.saturating_sub(subscription.peers.len());
    let mut text = subscription.peers.join(", ");
    if more > 0 {
        text.push_str(&format!("{}{more} more", if text.is_empty() { "" } else { ", " }));
    }
    text
}

fn filtered(subscription: &SubscriptionStatus) -> Cell {
    if subscription.filtered_runs.is_empty() {
        return Cell::Empty;
    }
    let reasons = subscription.filtered_runs.iter().map(|(reason, runs)| format!("{runs} by {reason}"));
    Cell::Text(reasons.collect::<Vec<_>>().join(", "))
}

fn options(subscription: &SubscriptionStatus) -> Cell {
    match (subscription.latest_only, subscription.remember) {
        (false, true) => Cell::Empty,
        (true, true) => Cell::Code("latestOnly".to_owned()),
        (false, false) => Cell::Code("remember: false".to_owned()),
        (true, false) => Cell::Code("latestOnly, remember: false".to_owned()),
    }
}

fn problems(html: &mut Html, problems: &[RunProblem], now: i64) {
    let rows = problems.iter().take(MAX_ROWS).map(|it| {
        let tone = if matches!(it.reason, "no_model" | "superseded") { Tone::Neutral } else { Tone::Bad };
        [
            time(&it.time, now),
            Cell::Code(it.namespace.to_string()),
            Cell::Code(it.workflow.to_string()),
            it.subscription.clone().map_or_else(|| Cell::Text("all".to_owned()), Cell::Code),
            Cell::Tag(it.reason, tone),
            Cell::Text(it.text.clone()),
            trace(it.trace_id.as_deref(), it.trace_url.as_deref()),
        ]
    });
    let headings = ["Time", "Namespace", "Workflow", "Subscription", "Reason", "What happened", "Trace"];
    html.table("Runs without an event, or with a late one; the newest first", headings, rows, "None since the start.");
    rest(html, problems.len());
}

fn deliveries(html: &mut Html, status: &Statusz, now: i64) {
    let rows = status.recent_deliveries.iter().take(MAX_ROWS).map(|it| {
        [
            time(&it.time, now),
            Cell::Code(it.namespace.to_string()),
            Cell::Code(it.workflow.to_string()),
            Cell::Code(it.subscription.clone()),
            it.seconds_from_finish.map_or(Cell::Empty, |seconds| Cell::Number(duration(seconds))),
            trace(it.trace_id.as_deref(), it.trace_url.as_deref()),
        ]
    });
    let headings = ["Time", "Namespace", "Workflow", "Subscription", "After the end", "Trace"];
    html.table("Confirmed deliveries; the newest first", headings, rows, "None since the start.");
    rest(html, status.recent_deliveries.len());
}

fn scopes(html: &mut Html, status: &Statusz) {
    let rows = status.scopes.iter().take(MAX_ROWS).map(|it| {
        let state = match (it.listed, &it.reason) {
            (true, None) => Cell::Tag("served", Tone::Good),
            (true, Some(_)) => Cell::Tag("failing", Tone::Bad),
            (false, _) => Cell::Tag("not listed", Tone::Bad),
        };
        [Cell::Text(it.name.clone()), state, it.reason.clone().map_or(Cell::Empty, Cell::Text)]
    });
    html.table("Watches of Workflows", ["Watch", "State", "Reason"], rows, "No watch of this namespace.");
    rest(html, status.scopes.len());
}

fn limits(html: &mut Html, status: &Statusz) {
    let rows = status.limits.iter().map(|it| [Cell::Code(it.limit.to_owned()), Cell::Number(it.hits.to_string())]);
    html.table("Limits that were hit, of all namespaces", ["Limit", "Hits"], rows, "None since the start.");
}

fn configuration(html: &mut Html, admin: &Admin) {
    html.raw("<dl class=\"facts\">\n");
    for (name, value) in &admin.facts {
        html.raw("<div><dt>").text(name).raw("</dt><dd>").text(value).raw("</dd></div>\n");
    }
    html.raw("</dl>\n");
}

fn time(text: &str, now: i64) -> Cell {
    let ago = text.parse::<jiff::Timestamp>().map_or(0, |time| now.saturating_sub(time.as_second()));
    Cell::Time { ago: format!("{} ago", duration(u64::try_from(ago).unwrap_or(0))), time: text.to_owned() }
}

fn trace(id: Option<&str>, url: Option<&str>) -> Cell {
    // The first digits suffice to tell two apart.
    let short = |id: &str| format!("{}…", id.get(..8).unwrap_or(id));
    match (id, url) {
        (Some(id), Some(url)) => Cell::Link { address: url.to_owned(), text: short(id) },
        (Some(id), None) => Cell::Code(id.to_owned()),
        _ => Cell::Empty,
    }
}
