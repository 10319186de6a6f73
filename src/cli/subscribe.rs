//! `subscribe`: prints events as they come.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{
    runtime::Runtime,
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};

use super::{
    cluster::{ClusterArgs, NamespaceArgs},
    endpoints::{AdminArgs, ServerArgs, TokenArgs},
    output::{self, Tone, one_line, say, usage},
    values,
};
use crate::{
    k8s::Cluster,
    model::SubscriptionName,
    tools::{
        admin,
        subscribe::{
            Flags, StreamConfig,
            session::{Destination, Happening, Session},
        },
    },
};

/// The time for which a stream that remembers deliveries stays open behind its last event: longer than the server's
/// --confirm-after may be.
const CONFIRMATION: Duration = Duration::from_secs(5);
/// The interval of looks at the server's status.
const STATUS: Duration = Duration::from_secs(30);
/// The largest file that is read. The server refuses configurations above 64 KiB itself.
const MAX_FILE: u64 = 1 << 20;
/// Subscriptions in the line about pending runs.
const MAX_NAMED: usize = 20;

/// Prints events as they come
///
/// Subscribes to the runs of a namespace: on a terminal events are easy to read, in a pipe each payload is one line of JSON.
///
/// The stream is one for people: it begins with what succeeds from now on (--since: with past runs, too), sets no marks, and
/// takes no deliveries from other streams. --remember NAME makes it a subscription like an EventSource's. After a disconnect it
/// connects again and asks for what it has missed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  # Every event of a namespace until Ctrl-C, from a laptop
  model-update-eventsource subscribe -n team-a

  # What an EventSource with this configuration would have received in the last day, without taking anything from it
  model-update-eventsource subscribe -n team-a --config config.yaml --since 24h

  # Wait for the next model in a script
  model-update-eventsource subscribe -n team-a --once --timeout 10m | jq -r '.servingModelArtifacts[0].location'

Exit status: 0 done; 1 refused, or --timeout passed before --once or --count; 2 usage error, or flags contradict --config.")]
pub(super) struct Subscribe {
    #[command(flatten)]
    namespace: NamespaceArgs,

    /// File with an EventSource's configuration (the YAML of `config`); - is standard input
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Remember deliveries under this name: the stream then shares them with every subscription of that name
    #[arg(long, value_name = "NAME", value_parser = subscription)]
    remember: Option<String>,

    /// Begin with the runs that ended in this time until now
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    since: Option<humantime::Duration>,

    /// End after the first event
    #[arg(long, conflicts_with = "count")]
    once: bool,

    /// End after this number of events
    #[arg(long, value_name = "N")]
    count: Option<std::num::NonZeroU64>,

    /// End after this time
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    timeout: Option<humantime::Duration>,

    /// Only these pipelines: names or patterns, separated by commas
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    pipelines: Vec<String>,

    /// Artifact types that count as a serving model
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    artifact_types: Vec<String>,

    /// Outcomes of runs: succeeded, failed
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    statuses: Vec<String>,

    /// Further fields of the payload
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    include: Vec<String>,

    #[command(flatten)]
    server: ServerArgs,

    /// File with the certificates of the authorities of a server with TLS, in PEM; without it, those of the system
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    #[command(flatten)]
    token: TokenArgs,

    #[command(flatten)]
    admin: AdminArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

fn subscription(text: &str) -> Result<String, String> {
    SubscriptionName::new(text).map(|name| name.to_string()).map_err(|error| error.to_string())
}

impl Subscribe {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = Runtime::new().context("cannot start the runtime")?;
        let code = runtime.block_on(self.subscribe());
        runtime.shutdown_background();
        code
    }

    async fn subscribe(self) -> anyhow::Result<ExitCode> {
        let deadline = self.timeout.map(|time| Instant::now() + *time);
        // With both, no kubeconfig is needed, and no credential plugin is run.
        let needs_cluster = self.server.given().is_none() || self.namespace.given().is_none();
        let cluster = match self.cluster.connect_if(needs_cluster).await {
            Ok(cluster) => cluster,
            Err(_) if self.server.given().is_some() => None,
            Err(error) => {
                return Err(
                    error.context("a cluster is needed to find the server, unless its address is given with --server")
                );
            }
        };
        let config = self.stream_config(cluster.as_ref())?;
        let ca =
            self.ca.as_ref().map(|path| fs::read(path).with_context(|| format!("cannot read --ca {}", path.display())));
        let destination = Destination {
            server: self.server.given().map(ToOwned::to_owned),
            cluster: cluster.clone(),
            server_namespaces: self.admin.server_namespaces().to_vec(),
            token_file: self.token.token_file.clone(),
            ca: ca.transpose()?,
        };
        let mut session = Session::new(destination, config.clone(), self.timeout.is_some());
        let count = if self.once { Some(1) } else { self.count.map(Into::into) };
        let mut printed = 0;
        let status = self.watch_status(&config, cluster);
        let received = self.receive(&mut session, &config, count, &mut printed);
        let ended = match deadline {
            Some(deadline) => timeout_at(deadline, received).await,
            None => Ok(received.await),
        };
        status.into_iter().for_each(|task| task.abort());
        match (ended, count) {
            (Ok(result), _) => result,
            (Err(_elapsed), Some(count)) if printed < count => {
                say(&format!(
                    "The time limit (--timeout) has passed after {printed} of {count} events. `model-update-eventsource explain \
                     -n {}` says what became of the last runs.",
                    config.namespace()
                ))?;
                Ok(ExitCode::FAILURE)
            }
            (Err(_elapsed), _) => Ok(ExitCode::SUCCESS),
        }
    }

    /// Merges the file and the flags. Contradictions are usage errors.
    fn stream_config(&self, cluster: Option<&Cluster>) -> anyhow::Result<StreamConfig> {
        let file = self.config.as_ref().map(read_config).transpose()?;
        let lists = [
            ("pipelines", "--pipelines", &self.pipelines),
            ("artifactTypes", "--artifact-types", &self.artifact_types),
            ("statuses", "--statuses", &self.statuses),
            ("include", "--include", &self.include),
        ];
        let keys = lists.into_iter().filter(|(_, _, values)| !values.is_empty());
        let flags = Flags {
            namespace: self.namespace.given().map(ToOwned::to_owned),
            remember: self.remember.clone(),
            since: self.since.map(Into::into),
            keys: keys.map(|(key, flag, values)| (key, flag, json!(values))).collect(),
        };
        let config = StreamConfig::new(file.as_deref(), &flags, cluster.map(Cluster::default_namespace));
        config.map_err(|error| usage(error.to_string()))
    }

    /// Prints events until there are enough, or the stream is refused.
    async fn receive(
        &self,
        session: &mut Session,
        config: &StreamConfig,
        count: Option<u64>,
        printed: &mut u64,
    ) -> anyhow::Result<ExitCode> {
        let is_pretty = io::stdout().is_terminal();
        let mut enough = None;
        loop {
            let next = session.next();
            let happening = match enough {
                None => next.await,
                Some(at) => match timeout_at(at, next).await {
                    Ok(happening) => happening,
                    Err(_elapsed) => return Ok(ExitCode::SUCCESS),
                },
            };
            match happening? {
                Happening::Connected { server } => say(&waiting(config, &server))?,
                Happening::Lost { error, pause } => {
                    say(&format!("{error}; connecting again in {:.1} s", pause.as_secs_f64()))?;
                }
                Happening::Event { payload } => {
                    if !print(&payload, is_pretty)? {
                        return Ok(ExitCode::SUCCESS);
                    }
                    *printed += 1;
                    if count.is_none_or(|count| *printed < count) {
                        continue;
                    }
                    if config.remembered_as().is_none() {
                        return Ok(ExitCode::SUCCESS);
                    }
                    if enough.is_none() {
                        let seconds = CONFIRMATION.as_secs();
                        say(&format!(
                            "Staying {seconds} s until the delivery is confirmed; events that come with it count, too."
                        ))?;
                        enough = Some(Instant::now() + CONFIRMATION);
                    }
                }
            }
        }
    }

    /// Says from time to time how many runs are pending and filtered, where the server's admin port is known.
    fn watch_status(&self, config: &StreamConfig, cluster: Option<Cluster>) -> Option<JoinHandle<()>> {
        let is_known = self.admin.given().is_some() || (self.server.given().is_none() && cluster.is_some());
        if !is_known {
            return None;
        }
        let (admin, namespace, token) = (self.admin.clone(), config.namespace().to_owned(), self.token.clone());
        let is_given = admin.given().is_some();
        Some(tokio::spawn(async move {
            let endpoint = match (admin.given(), &cluster) {
                (Some(address), _) => Ok(crate::tools::endpoints::Endpoint::at(address)),
                (None, Some(cluster)) => admin.resolve(cluster).await,
                (None, None) => return,
            };
            let mut last = String::new();
            loop {
                sleep(if last.is_empty() { Duration::from_secs(1) } else { STATUS }).await;
                let words = match (&endpoint, token.read()) {
                    (Err(error), _) => Err(error.to_string()),
                    (_, Err(error)) => Err(format!("{error:#}")),
                    (Ok(endpoint), Ok(token)) => {
                        let page = admin::status(&endpoint.url, Some(&namespace), token.as_deref()).await;
                        page.map(|page| status_words(&page, &namespace)).map_err(|error| error.to_string())
                    }
                };
                match words {
                    Ok(words) if words != last => {
                        last = words;
                        // A closed standard error shows nothing anyway.
                        say(&last).ok();
                    }
                    Ok(_) => {}
                    // The numbers were not requested: the events matter.
                    Err(_) if !is_given => return,
                    Err(error) => {
                        say(&format!("no numbers of pending runs: {error}")).ok();
                        return;
                    }
                }
            }
        }))
    }
}

fn read_config(path: &PathBuf) -> anyhow::Result<Vec<u8>> {
    use io::Read as _;
    let mut text = Vec::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().lock().take(MAX_FILE).read_to_end(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text))
    };
    read.with_context(|| format!("cannot read --config {}", path.display()))?;
    Ok(text)
}

/// The description of what the stream waits for.
fn waiting(config: &StreamConfig, server: &str) -> String {
    let namespace = config.namespace();
    let begin = match (config.remembered_as(), config.past()) {
        (Some(name), _) => format!("as the subscription {name}, which remembers what it has received"),
        (None, Some(age)) => format!("of the last {} and from now on", humantime::format_duration(age)),
        (None, None) => "from now on".to_owned(),
    };
    format!("Connected to {server}: waiting for events of runs in {namespace}, {begin}.")
}

/// The numbers of pending and filtered runs of a namespace, from the status page.
fn status_words(page: &Value, namespace: &str) -> String {
    let is_here = |it: &&Value| it["namespace"] == namespace;
    let list = |key: &str| page[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let pending = list("tenants").iter().find(is_here).and_then(|it| it["pendingRuns"].as_u64()).unwrap_or(0);
    let mut words = format!("In {namespace}: {pending} pending");
    let here = || list("subscriptions").iter().filter(is_here);
    for subscription in here().take(MAX_NAMED) {
        let filtered = subscription["filteredRuns"].as_object().into_iter().flatten();
        let filtered: Vec<_> = filtered.map(|(reason, count)| format!("{count} filtered by {reason}")).collect();
        let pending = subscription["pendingRuns"].as_u64().unwrap_or(0);
        let name = one_line(subscription["name"].as_str().unwrap_or_default());
        words.push_str(&format!("; {name}: {}", [vec![format!("{pending} pending")], filtered].concat().join(", ")));
    }
    if let Some(more @ 1..) = here().count().checked_sub(MAX_NAMED) {
        words.push_str(&format!("; and {more} more subscriptions"));
    }
    words
}

/// Prints a payload. Returns whether standard output still has a reader.
fn print(payload: &str, is_pretty: bool) -> anyhow::Result<bool> {
    let text = if is_pretty { pretty(payload, output::has_colors()) } else { format!("{}\n", json_line(payload)) };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("cannot write to standard output"),
    }
}

/// A payload on one line. JSON has these characters between its tokens only; a peer that sends other text cannot break the
/// lines of a pipe.
fn json_line(payload: &str) -> String {
    payload.replace(|c: char| c < ' ', " ")
}

/// A payload for a terminal: the time, the pipeline, its models, and further fields.
fn pretty(payload: &str, colors: bool) -> String {
    let Ok(Value::Object(event)) = serde_json::from_str(payload) else { return format!("{}\n", one_line(payload)) };
    let text = |value: &Value| one_line(&value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned));
    let time = Timestamp::now().strftime("%H:%M:%SZ");
    let mut lines = format!("{time}  {}\n", Tone::Good.paint(&text(&event["pipelineName"]), colors));
    for model in event["servingModelArtifacts"].as_array().into_iter().flatten() {
        lines.push_str(&format!("           {}\n             {}\n", text(&model["location"]), text(&model["name"])));
    }
    for (key, value) in event.iter().filter(|(key, _)| !matches!(&***key, "pipelineName" | "servingModelArtifacts")) {
        lines.push_str(&format!("           {}: {}\n", one_line(key), text(value)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_on_a_terminal_has_a_line_for_each_part() {
        let payload = r#"{"pipelineName":"p\u001b[2J","servingModelArtifacts":[{"name":"m","location":"gs://m/1"}],"status":"succeeded"}"#;
        let text = pretty(payload, false);
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert!(lines[0].ends_with("Z  p [2J"), "no control characters of tenants: {text:?}");
        assert_eq!(lines[1..], ["gs://m/1", "m", "status: succeeded"]);
        assert_eq!(pretty("no\nJSON", false), "no JSON\n");
        assert_eq!(json_line("{\n\"a\": \"\u{9b}\"}\x1b"), "{ \"a\": \"\u{9b}\"} ");
    }

    #[test]
    fn the_status_names_pending_and_filtered_runs() {
        let page = json!({
            "tenants": [{"namespace": "other", "pendingRuns": 7}, {"namespace": "team", "pendingRuns": 3}],
            "subscriptions": [
                {"namespace": "team", "name": "deployer", "pendingRuns": 2, "filteredRuns": {"max_age": 4}},
                {"namespace": "other", "name": "x", "pendingRuns": 9, "filteredRuns": {}},
            ],
        });
        assert_eq!(status_words(&page, "team"), "In team: 3 pending; deployer: 2 pending, 4 filtered by max_age");
        assert_eq!(status_words(&json!({}), "team"), "In team: 0 pending");
    }
}
