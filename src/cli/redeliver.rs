//! `redeliver`: has events of runs sent again.

use std::{
    collections::HashSet,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, anyhow, bail};
use clap::{ArgGroup, Args};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{runtime::Runtime, time::timeout};

use super::{
    cluster::{ClusterArgs, NamespaceArgs},
    output::{self, ABSENT, Format, OutputArgs, Table, Tone, count, say, usage},
    progress::Progress,
    values,
};
use crate::{
    k8s::{Cluster, Right, WorkflowQuery},
    model::glob,
    tools::{
        DEFAULT_SELECTOR,
        explain::story::time,
        names::NamedSubscription,
        redeliver::{
            self, LeftOut, Step, Window, Wish,
            change::{self, Awaited, ChangeError, Fate},
        },
    },
};

/// Names of runs in one line of words. Tables have all of them.
const NAMED: usize = 10;

/// Has the events of runs sent again
///
/// Removes the marks with which the server remembers that a subscription has received the events of these runs. The server
/// then sends them at once to a subscription that is attached, and to another one when it attaches. No other subscription
/// receives anything.
///
/// The runs are named, or those of a time window (--since), or all. A subscription with latestOnly receives only the newest
/// of several runs of a pipeline; the others are marked again without an event.
///
/// Needs the rights to get (or list) and patch workflows.argoproj.io in the namespace.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("runs").args(["workflows", "since", "all"]).multiple(true).required(true))]
#[command(after_long_help = "\
Examples:
  # One run
  model-update-eventsource redeliver -n team-a penguin-x7k2p --subscription deployer

  # After an outage behind the EventSource: all runs of the last three hours. Show them first
  model-update-eventsource redeliver -n team-a --since 3h --subscription deployer --dry-run
  model-update-eventsource redeliver -n team-a --since 3h --subscription deployer --wait

  # One pipeline, from a script
  model-update-eventsource redeliver -n team-a --all --pipeline 'penguin-*' --subscription deployer --yes -o json

  # Never send a run to this subscription
  model-update-eventsource redeliver -n team-a penguin-x7k2p --subscription deployer --mark

Exit status: 0 done, nothing to do, or the answer was no; 1 failure, or not delivered within --timeout; 2 usage error, or --yes is missing.")]
pub(super) struct Redeliver {
    /// Names of Workflows
    #[arg(value_name = "WORKFLOW", conflicts_with_all = ["since", "all", "pipeline"])]
    workflows: Vec<String>,

    /// Subscription: its plain name, for all accounts that use it, or the scoped one of a mark
    #[arg(long, value_name = "NAME", value_parser = NamedSubscription::parse)]
    subscription: NamedSubscription,

    #[command(flatten)]
    namespace: NamespaceArgs,

    /// All succeeded runs that ended in this time until now
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    since: Option<humantime::Duration>,

    /// All succeeded runs
    #[arg(long)]
    all: bool,

    /// Only runs of pipelines with this name, or a name that matches this pattern; may be repeated
    #[arg(long, value_name = "GLOB", value_parser = pattern)]
    pipeline: Vec<String>,

    /// Label selector of runs, as the server's --selector
    #[arg(long, env = "MODEL_UPDATE_SELECTOR", value_name = "SELECTOR", value_parser = values::selector,
        default_value = DEFAULT_SELECTOR)]
    selector: String,

    /// Set the marks instead: the events are never sent
    #[arg(long, conflicts_with = "wait")]
    mark: bool,

    /// Show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    /// Wait until the events are delivered
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,

    /// Time limit of --wait
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration, default_value = "5m", requires = "wait")]
    timeout: humantime::Duration,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

fn pattern(text: &str) -> Result<String, String> {
    glob::check(text).map_err(|error| format!("not a glob pattern: {error}; write one such as 'penguin-*'"))?;
    Ok(text.to_owned())
}

/// The outcome of the changes.
#[derive(Debug, Default)]
struct Outcome {
    changed: Vec<Step>,
    failed: Vec<(String, ChangeError)>,
    ended: Vec<(String, Fate)>,
    /// Still awaited at the end of the time limit.
    awaited: Vec<String>,
}

impl Redeliver {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = Runtime::new().context("cannot start the runtime")?;
        let code = runtime.block_on(self.redeliver());
        runtime.shutdown_background();
        code
    }

    fn wish(&self) -> Wish {
        if self.mark { Wish::Skip } else { Wish::Redeliver }
    }

    async fn redeliver(self) -> anyhow::Result<ExitCode> {
        let cluster = self.cluster.connect().await?;
        let namespace = self.namespace.in_cluster(&cluster);
        let (steps, left_out) = self.plan(&cluster, &namespace).await?;
        self.describe(&namespace, &steps, &left_out)?;
        if steps.is_empty() {
            if self.output.output == Format::Json || self.output.output == Format::Yaml {
                self.print(&namespace, &steps, &left_out, &Outcome::default())?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        if self.dry_run {
            self.print(&namespace, &steps, &left_out, &Outcome::default())?;
            say("Nothing was changed (--dry-run).")?;
            return Ok(ExitCode::SUCCESS);
        }
        require_right(&cluster, &namespace).await?;
        if !self.yes && !self.confirmed(&steps)? {
            say("Nothing was changed.")?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut outcome = self.apply(&cluster, steps.clone()).await?;
        if self.wait && !outcome.changed.is_empty() {
            self.await_deliveries(&cluster, &namespace, &mut outcome).await?;
        } else if !outcome.changed.is_empty() {
            say(&self.next_words())?;
        }
        self.print(&namespace, &steps, &left_out, &outcome)?;
        let is_done = outcome.failed.is_empty() && outcome.awaited.is_empty();
        Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Returns the changes, and the runs that need or allow none.
    async fn plan(&self, cluster: &Cluster, namespace: &str) -> anyhow::Result<(Vec<Step>, Vec<(String, LeftOut)>)> {
        if self.workflows.is_empty() {
            let since = self.since.map(|length| redeliver::begin(Timestamp::now().as_second(), *length));
            let query = WorkflowQuery { namespace: Some(namespace), selector: &self.selector };
            let found = cluster.workflows(query).await;
            let found = found.with_context(|| format!("cannot list the Workflows of the namespace {namespace}"))?;
            let window = Window { since, pipelines: &self.pipeline };
            return Ok(redeliver::steps(found, &window, &self.subscription, self.wish()));
        }
        let (mut steps, mut left_out, mut absent) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for name in self.workflows.iter().filter(|name| seen.insert(*name)) {
            let found = cluster.workflow(namespace, name).await;
            match found.with_context(|| format!("cannot read the Workflow {namespace}/{name}"))? {
                None => absent.push(name.as_str()),
                Some(found) => match redeliver::step(found, &self.subscription, self.wish()) {
                    Ok(step) => steps.push(step),
                    Err(reason) => left_out.push((name.clone(), reason)),
                },
            }
        }
        if !absent.is_empty() {
            bail!(
                "the namespace {namespace} has no Workflow {}; list them with `kubectl get workflows -n {namespace}`",
                absent.join(", ")
            );
        }
        Ok((steps, left_out))
    }

    /// Says what will be done.
    fn describe(&self, namespace: &str, steps: &[Step], left_out: &[(String, LeftOut)]) -> anyhow::Result<()> {
        let subscription = &self.subscription;
        if steps.is_empty() {
            let found =
                if left_out.is_empty() { "no run of the selection has ended with success" } else { "see below" };
            say(&format!("Nothing to do for the subscription {subscription} in {namespace}: {found}."))?;
        } else if self.mark {
            say(&format!("{} of {namespace} will never be sent to {subscription}.", count(steps.len(), "run")))?;
        } else {
            let events = count(steps.iter().map(|step| step.events).sum(), "event");
            let names: Vec<_> = redeliver::subscriptions(steps).into_iter().collect();
            let (runs, names) = (count(steps.len(), "run"), listed(&names));
            say(&format!("{events} of {runs} of {namespace} will be sent again; marks to remove: {names}."))?;
        }
        let mut reasons: Vec<LeftOut> = left_out.iter().map(|(_, reason)| *reason).collect();
        reasons.sort_unstable();
        reasons.dedup();
        for reason in reasons {
            let names: Vec<_> =
                left_out.iter().filter(|(_, other)| *other == reason).map(|(name, _)| name.as_str()).collect();
            say(&format!("Left out, because each {reason}: {}", listed(&names)))?;
        }
        Ok(())
    }

    /// Asks on a terminal.
    fn confirmed(&self, steps: &[Step]) -> anyhow::Result<bool> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(usage(
                "there is no terminal to ask on; repeat with --yes, or with --dry-run to see what it would do",
            ));
        }
        if self.output.output == Format::Table {
            output::print(&table(steps, None, false).render(output::has_colors()))?;
        }
        let question = if self.mark { "Set the marks?" } else { "Send again?" };
        write!(io::stderr(), "{question} [y/N] ").context("cannot write to standard error")?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    async fn apply(&self, cluster: &Cluster, steps: Vec<Step>) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut progress = Progress::start();
        let total = steps.len();
        for step in steps {
            progress.show(&format!("changing marks: {} of {total}", outcome.changed.len() + outcome.failed.len()))?;
            let name = step.found.workflow.name.to_string();
            match change::apply(cluster, step, &self.subscription, self.wish()).await {
                Ok(step) => outcome.changed.push(step),
                Err(error @ ChangeError::Forbidden { .. }) => {
                    progress.clear()?;
                    let changed = outcome.changed.len();
                    return Err(anyhow!(error)
                        .context(format!("cannot change {name}; {} changed before", count(changed, "run"))));
                }
                Err(error) => {
                    progress.clear()?;
                    say(&format!("{name} was not changed: {error}"))?;
                    outcome.failed.push((name, error));
                }
            }
        }
        progress.clear()?;
        Ok(outcome)
    }

    fn next_words(&self) -> String {
        let subscription = &self.subscription;
        if self.mark {
            return "Done. The server counts these events as delivered.".to_owned();
        }
        format!(
            "Done. The server sends the events now if {subscription} is attached, otherwise when it attaches; it sets the marks \
             again when they are delivered (--wait waits for that)."
        )
    }

    async fn await_deliveries(&self, cluster: &Cluster, namespace: &str, outcome: &mut Outcome) -> anyhow::Result<()> {
        let mut awaited = Awaited::new(namespace, &self.subscription, &outcome.changed);
        let total = awaited.len();
        let mut progress = Progress::start();
        let waited = timeout(*self.timeout, async {
            while !awaited.is_empty() {
                let (left, seconds) = (awaited.len(), awaited.elapsed().as_secs());
                progress
                    .show(&format!("waiting for the delivery of {left} of {} ({seconds} s)", count(total, "run")))?;
                match awaited.next(cluster).await {
                    Ok(ended) => {
                        for (name, fate) in ended {
                            progress.clear()?;
                            say(&format!("{name} {}", words(fate, awaited.elapsed().as_secs_f64())))?;
                            outcome.ended.push((name, fate));
                        }
                    }
                    Err(error) if error.is_forbidden() => return Err(error.into()),
                    Err(error) => progress.show(&format!("{error}; trying again ({seconds} s)"))?,
                }
            }
            anyhow::Ok(())
        })
        .await;
        progress.clear()?;
        if let Ok(result) = waited {
            return result;
        }
        outcome.awaited = awaited.names().into_iter().map(ToOwned::to_owned).collect();
        say(&format!(
            "Not delivered within {}: {}. Is {} attached? Its marks are removed, so its events are sent when it attaches; see \
             `model-update-eventsource explain -n {namespace}`.",
            self.timeout,
            listed(&awaited.names()),
            self.subscription,
        ))
    }

    /// Prints the data.
    fn print(
        &self,
        namespace: &str,
        steps: &[Step],
        left_out: &[(String, LeftOut)],
        outcome: &Outcome,
    ) -> anyhow::Result<()> {
        let done = (!self.dry_run).then_some(outcome);
        match self.output.output {
            Format::Table => output::print(&table(steps, done, false).render(output::has_colors())),
            Format::Wide => output::print(&table(steps, done, true).render(output::has_colors())),
            Format::Json => output::print_json(&self.json(namespace, steps, left_out, done)),
            Format::Yaml => output::print_yaml(&self.json(namespace, steps, left_out, done)),
            Format::Name => {
                let names = steps.iter().map(|step| output::workflow_line(&step.found.workflow.name));
                output::print(&names.collect::<String>())
            }
        }
    }

    fn json(&self, namespace: &str, steps: &[Step], left_out: &[(String, LeftOut)], done: Option<&Outcome>) -> Value {
        let run = |step: &Step| {
            let workflow = &step.found.workflow;
            json!({
                "workflow": workflow.name, "uid": workflow.uid.to_string(), "pipelineName": workflow.pipeline.known(),
                "finished": time(workflow.end()), "events": step.events,
                "marks": step.marks.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "state": done.map_or("planned", |done| state(step, done).0),
            })
        };
        let left_out = left_out.iter().map(|(name, reason)| json!({"workflow": name, "reason": reason.to_string()}));
        json!({
            "namespace": namespace, "subscription": self.subscription.as_str(), "action": self.wish(),
            "dryRun": self.dry_run, "events": steps.iter().map(|step| step.events).sum::<usize>(),
            "runs": steps.iter().map(run).collect::<Vec<_>>(), "leftOut": left_out.collect::<Vec<_>>(),
        })
    }
}

/// Fails if the user may not change marks, before any is changed.
async fn require_right(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    let right = Right::workflows("patch", Some(namespace));
    match cluster.allowed(&right).await {
        Ok(false) => bail!("you may not change marks; ask for the right to {right}"),
        Ok(true) => Ok(()),
        // An account that may not ask for its rights may still have them.
        Err(error) if error.is_forbidden() => Ok(()),
        Err(error) => Err(error).context("cannot ask for your rights"),
    }
}

/// The state of a run in a word.
fn state(step: &Step, outcome: &Outcome) -> (&'static str, Tone) {
    let name = &*step.found.workflow.name;
    let is_named = |other: &str| other == name;
    if let Some((_, fate)) = outcome.ended.iter().find(|(other, _)| is_named(other)) {
        return match fate {
            Fate::Delivered => ("delivered", Tone::Good),
            Fate::Gone => ("deleted", Tone::Attention),
            Fate::Restarted => ("restarted", Tone::Attention),
        };
    }
    if outcome.failed.iter().any(|(other, _)| is_named(other)) {
        return ("failed", Tone::Bad);
    }
    if outcome.awaited.iter().any(|other| is_named(other)) {
        return ("pending", Tone::Attention);
    }
    if step.events == 0 { ("marked", Tone::Good) } else { ("unmarked", Tone::Good) }
}

fn words(fate: Fate, seconds: f64) -> String {
    match fate {
        Fate::Delivered => format!("was delivered after {seconds:.1} s"),
        Fate::Gone => "was deleted; its event is sent only if it was pending for an attached subscription".to_owned(),
        Fate::Restarted => "was restarted; its event is sent when it ends".to_owned(),
    }
}

fn table(steps: &[Step], done: Option<&Outcome>, wide: bool) -> Table {
    let columns = ["WORKFLOW", "PIPELINE", "ENDED", "MARKS", "EVENTS"];
    let wide_columns: &[_] = if wide { &["UID"] } else { &[] };
    let state_column: &[_] = if done.is_some() { &["STATE"] } else { &[] };
    let mut table = Table::new(columns.iter().chain(wide_columns).chain(state_column).copied());
    for step in steps {
        let workflow = &step.found.workflow;
        let marks: Vec<_> = step.marks.iter().map(ToString::to_string).collect();
        let mut cells = vec![
            workflow.name.to_string(),
            workflow.pipeline.known().unwrap_or(ABSENT).to_owned(),
            time(workflow.end()).unwrap_or_else(|| ABSENT.to_owned()),
            marks.join(","),
            step.events.to_string(),
        ];
        cells.extend(wide.then(|| workflow.uid.to_string()));
        let state = done.map(|done| state(step, done)).map(|(word, tone)| (word.to_owned(), tone));
        table.row(cells.into_iter().map(|text| (text, Tone::Plain)).chain(state));
    }
    table
}

/// Some of these names.
fn listed(names: &[&str]) -> String {
    match names.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!("{} and {more} more", names[..NAMED].join(", ")),
        _ => names.join(", "),
    }
}
