//! `explain`: why a run's event arrived, has not arrived yet, or never will.

mod print;

use std::{fmt::Display, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, builder::BoolishValueParser};
use tokio::{
    runtime::Runtime,
    time::{Instant, sleep, timeout},
};

use super::{
    cluster::{ClusterArgs, NamespacesArgs},
    endpoints::{AdminArgs, SourceArgs, TokenArgs},
    output::{self, Format, OutputArgs},
    values,
};
use crate::{
    admin::TraceUrl,
    clock::WallClock,
    delivery::ModelSource,
    k8s::Cluster,
    kfp, mlmd,
    model::TraceId,
    tools::{
        endpoints::{Endpoint, EndpointError},
        explain::{
            Explainer, Options, Runs,
            decision::Status,
            server::ServerReport,
            sources::{Access, Sources, Unreachable},
            story::Story,
        },
        names::NamedSubscription,
        sources::{Found, SourceOptions},
    },
};

/// The exit statuses of a run whose event is pending, and of one that has none.
const PENDING: u8 = 3;
const NEVER: u8 = 4;
/// The interval of `--watch`.
const POLL: Duration = Duration::from_secs(2);

/// Explains why a run's event arrived, has not arrived yet, or never will
///
/// Without the name of a Workflow: the last runs of a namespace, by subscription. With it: the whole story of the run, its
/// artifacts and why each counts or does not, the event, and what to do next.
///
/// Reads the Workflows, the EventSources, and Kubeflow's API or ML Metadata with your own rights, and decides by the server's
/// own rules. So it works while the server is down; the server is asked, too, if its admin port can be reached.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  # The last runs of a namespace
  model-update-eventsource explain -n team-a

  # One run: the whole story
  model-update-eventsource explain -n team-a penguin-x7k2p

  # In a script: wait until the event was delivered
  model-update-eventsource explain -n team-a penguin-x7k2p --subscription deployer --watch --timeout 10m -o name

  # With addresses of your own instead of port-forwards
  model-update-eventsource explain -n team-a --metadata-store 127.0.0.1:8081 --admin 127.0.0.1:8080

  # Kubeflow Pipelines 3 with several users: with a token for its API
  kubectl create token -n team-a default-editor --audience pipelines.kubeflow.org > token
  model-update-eventsource explain -n team-a penguin-x7k2p --kfp-token-file token

Exit status with a Workflow: 0 delivered; 3 pending (the run has not ended, has no metadata yet, the source of models is down, or the \
event was not delivered yet); 4 never (failed, no model, filtered, foreign, too large, superseded); 1 failure; 2 usage error. \
Of several subscriptions 3 if any is pending, else 4 if any is never. Without a Workflow 0.")]
pub(super) struct Explain {
    /// Name of the Workflow; without it, the last runs
    #[arg(value_name = "WORKFLOW")]
    workflow: Option<String>,

    #[command(flatten)]
    namespaces: NamespacesArgs,

    /// Only this subscription: its plain name, for all accounts that use it, or the scoped one of a mark
    #[arg(long, value_name = "NAME", value_parser = NamedSubscription::parse)]
    subscription: Option<NamedSubscription>,

    /// Number of runs in the table, newest first
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u16).range(1..=1000),
        conflicts_with = "workflow")]
    limit: u16,

    #[command(flatten)]
    output: OutputArgs,

    /// Repeat until no subscription is pending
    #[arg(short, long, requires = "workflow")]
    watch: bool,

    /// Time limit of --watch
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration, default_value = "10m", requires = "watch")]
    timeout: humantime::Duration,

    /// Address of a run's trace; {trace_id} is replaced, for example `https://jaeger.example/trace/{trace_id}`
    #[arg(long, env = "MODEL_UPDATE_TRACE_URL_TEMPLATE", value_name = "URL")]
    trace_url_template: Option<TraceUrl>,

    /// Label selector of runs, as the server's --selector [default: that of the server, else pipeline/runid]
    #[arg(long, env = "MODEL_UPDATE_SELECTOR", value_name = "SELECTOR", value_parser = values::selector)]
    selector: Option<String>,

    /// Explain for a server with --skip-labelled
    #[arg(long, env = "MODEL_UPDATE_SKIP_LABELLED", value_parser = BoolishValueParser::new())]
    skip_labelled: bool,

    #[command(flatten)]
    sources: SourceArgs,

    #[command(flatten)]
    admin: AdminArgs,

    #[command(flatten)]
    token: TokenArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// The addresses, which stay connected while the command runs.
struct Connections {
    cluster: Cluster,
    sources: Sources,
    admin: Result<Endpoint, EndpointError>,
    token: Option<String>,
    /// Those of the sources, with their names.
    source_endpoints: Vec<(ModelSource, Endpoint)>,
}

impl Connections {
    /// The failures of the port-forwards, which clients see only as connections that end.
    fn failed_forwards(&self) -> Vec<String> {
        let failure = |what: &dyn Display, endpoint: &Endpoint| {
            let reason = endpoint.forward.as_ref()?.last_error()?;
            Some(format!("the port-forward to {what} has failed: {reason}"))
        };
        let of_sources = self.source_endpoints.iter().filter_map(|(source, endpoint)| failure(source, endpoint));
        of_sources.chain(self.admin.iter().filter_map(|endpoint| failure(&"the server", endpoint))).collect()
    }
}

/// Returns the access to a source, and passes on its endpoint, which has to stay.
fn access<T>(
    found: Found,
    client: impl FnOnce(&str) -> anyhow::Result<T>,
    keep: impl FnOnce(Endpoint),
) -> anyhow::Result<Access<T>> {
    match found {
        Ok(endpoint) => {
            let client = client(&endpoint.url)?;
            keep(endpoint);
            Ok(Access::Reachable(Box::new(client)))
        }
        Err(error) => {
            let is_forbidden = matches!(&error, EndpointError::Cluster { error, .. } if error.is_forbidden());
            Ok(Access::Unreachable(Unreachable { message: error.to_string(), is_forbidden }))
        }
    }
}

impl Explain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = Runtime::new().context("cannot start the runtime")?;
        let code = runtime.block_on(self.explain());
        runtime.shutdown_background();
        code
    }

    async fn explain(&self) -> anyhow::Result<ExitCode> {
        let cluster = self.cluster.connect().await?;
        let namespace = self.namespaces.in_cluster(&cluster);
        let connections = self.connect(cluster).await?;
        match (&self.workflow, namespace) {
            (None, namespace) => self.table(&connections, namespace.as_deref()).await,
            (Some(_), None) => Err(output::usage("a Workflow has one namespace; write -n NAMESPACE instead of -A")),
            (Some(name), Some(namespace)) => self.story(&connections, &namespace, name).await,
        }
    }

    async fn connect(&self, cluster: Cluster) -> anyhow::Result<Connections> {
        let token = self.token.read()?;
        self.sources.check_token()?;
        let options = SourceOptions::from(self.sources.clone());
        let (kfp, mlmd, admin) =
            tokio::join!(options.kfp_api(Some(&cluster)), options.mlmd(Some(&cluster)), self.admin.resolve(&cluster));
        let mut source_endpoints = Vec::new();
        let mut keep = |source, endpoint| source_endpoints.push((source, endpoint));
        let kfp = kfp.map(|found| {
            let client = |url: &str| options.kfp_client(url, kfp::Options::default()).context("--kfp-api");
            access(found, client, |endpoint| keep(ModelSource::Kfp, endpoint))
        });
        let kfp = kfp.transpose()?;
        let mlmd = mlmd.map(|found| {
            let client = |url: &str| options.mlmd_client(url, mlmd::Options::default()).context("--metadata-store");
            access(found, client, |endpoint| keep(ModelSource::Mlmd, endpoint))
        });
        let sources = match (kfp, mlmd.transpose()?) {
            (Some(kfp), Some(mlmd)) => Sources::Both(kfp, mlmd),
            (Some(kfp), None) => Sources::Kfp(kfp),
            (None, Some(mlmd)) => Sources::Mlmd(mlmd),
            (None, None) => bail!("no source of models is asked"),
        };
        Ok(Connections { cluster, sources, admin, token, source_endpoints })
    }

    /// Reads what changes.
    async fn explainer(&self, connections: &Connections, namespace: Option<&str>) -> anyhow::Result<Explainer> {
        let server = match &connections.admin {
            Ok(admin) => ServerReport::ask(&admin.url, admin.describe(), namespace, connections.token.as_deref()).await,
            Err(error) => ServerReport::unreachable(error.to_string()),
        };
        let options = Options {
            selector: self.selector.clone(),
            skip_labelled: self.skip_labelled,
            subscription: self.subscription.clone(),
            clock: WallClock::default(),
        };
        let (cluster, sources) = (connections.cluster.clone(), connections.sources.clone());
        Explainer::new(cluster, sources, server, namespace, options).await.context("cannot read the EventSources")
    }

    async fn table(&self, connections: &Connections, namespace: Option<&str>) -> anyhow::Result<ExitCode> {
        let explainer = self.explainer(connections, namespace).await?;
        let runs = explainer.runs(namespace, usize::from(self.limit)).await.context("cannot list the Workflows")?;
        for note in explainer.notes().iter().chain(&connections.failed_forwards()) {
            output::say(&format!("note: {}", output::one_line(note)))?;
        }
        if let Some(line) = print::server_line(explainer.server()) {
            output::say(&line)?;
        }
        self.print_table(&runs, &explainer, namespace)?;
        Ok(ExitCode::SUCCESS)
    }

    fn print_table(&self, runs: &Runs, explainer: &Explainer, namespace: Option<&str>) -> anyhow::Result<()> {
        let place =
            namespace.map_or_else(|| "any namespace".to_owned(), |namespace| format!("the namespace {namespace}"));
        if runs.runs.is_empty() {
            output::say(&format!("no run was found in {place}"))?;
        }
        if runs.left_out > 0 {
            output::say(&format!("{} older runs are not shown; see --limit", runs.left_out))?;
        }
        let document =
            || serde_json::json!({"runs": runs.runs, "leftOut": runs.left_out, "server": explainer.server()});
        match self.output.output {
            Format::Json => output::print_json(&document()),
            Format::Yaml => output::print_yaml(&document()),
            Format::Name => {
                output::print(&runs.runs.iter().map(|run| output::workflow_line(&run.workflow)).collect::<String>())
            }
            Format::Table | Format::Wide if runs.runs.is_empty() => Ok(()),
            Format::Table | Format::Wide => {
                let wide = self.output.output == Format::Wide;
                let table = print::table(&runs.runs, namespace.is_none(), wide, WallClock::default().now());
                output::print(&table.render(output::has_colors()))
            }
        }
    }

    async fn story(&self, connections: &Connections, namespace: &str, name: &str) -> anyhow::Result<ExitCode> {
        let deadline = Instant::now() + *self.timeout;
        let mut story = self.read(connections, namespace, name).await?;
        let mut said = String::new();
        while self.watch && story.run.status() == Status::Pending && story.blocked.is_none() {
            let states = print::states(&story);
            if states != said {
                output::say(&states)?;
                said = states;
            }
            if Instant::now() >= deadline {
                output::say(&format!("still pending after {}", self.timeout))?;
                break;
            }
            sleep(POLL.min(deadline.saturating_duration_since(Instant::now()))).await;
            let rest = deadline.saturating_duration_since(Instant::now()).max(POLL);
            match timeout(rest, self.read(connections, namespace, name)).await {
                Ok(next) => story = next?,
                Err(_elapsed) => {}
            }
        }
        self.print_story(&story)?;
        if let Some(reason) = &story.blocked {
            bail!("the state of the event is not known, because {reason}");
        }
        Ok(match story.run.status() {
            Status::Delivered => ExitCode::SUCCESS,
            Status::Pending => ExitCode::from(PENDING),
            Status::Never => ExitCode::from(NEVER),
        })
    }

    async fn read(&self, connections: &Connections, namespace: &str, name: &str) -> anyhow::Result<Story> {
        let explainer = self.explainer(connections, Some(namespace)).await?;
        let story = explainer
            .run(namespace, name)
            .await
            .with_context(|| format!("cannot read the Workflow {namespace}/{name}"))?;
        match story {
            Some(mut story) => {
                story.notes.extend(connections.failed_forwards());
                Ok(story)
            }
            None => bail!(
                "the namespace {namespace} has no Workflow {name:?}; without a name, `explain -n {namespace}` shows the last runs"
            ),
        }
    }

    fn print_story(&self, story: &Story) -> anyhow::Result<()> {
        for note in &story.notes {
            output::say(&format!("note: {}", output::one_line(note)))?;
        }
        match self.output.output {
            Format::Json => output::print_json(&story),
            Format::Yaml => output::print_yaml(&story),
            Format::Name => output::print(&output::workflow_line(&story.run.workflow)),
            Format::Table | Format::Wide => {
                let wide = self.output.output == Format::Wide;
                let trace = story.run.trace_id.as_deref().and_then(TraceId::parse);
                let url = trace.zip(self.trace_url_template.as_ref()).map(|(id, template)| template.of(id));
                output::print(&print::story(story, url.as_deref(), wide, output::has_colors()))
            }
        }
    }
}
