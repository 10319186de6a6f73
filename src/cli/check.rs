//! `check`: checks an installation and its dependencies.

use std::{
    env,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use humantime::format_duration;
use tokio::{runtime::Runtime, time::sleep};

use super::{
    cluster::ClusterArgs,
    endpoints::{AdminArgs, SourceArgs},
    output::{self, Tone},
    progress::Progress,
    values,
};
use crate::{
    access::Mode,
    app::Config,
    eventsource::TlsFiles,
    tools::check::{self, Check as Checked, Options, Outcome, Report},
};

/// The pause between two attempts with `--wait`.
const PAUSE: Duration = Duration::from_secs(2);
/// Characters of the subjects in a line of progress.
const MAX_PROGRESS: usize = 60;

/// Checks an installation, and what it depends on
///
/// The API server, Workflows, the rights of the server's account, Kubeflow's API and ML Metadata, Argo Events, the
/// EventSources that point to the server, and the Sensors that depend on them. Nothing is changed.
///
/// A missing right for one check is a warning that names the right.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  model-update-eventsource check
  model-update-eventsource check --pre --install-namespace kubeflow
  model-update-eventsource check --wait 2m -o short
  model-update-eventsource check --kfp-api ml-pipeline.kubeflow:8887 --kfp-token-file /var/run/secrets/kfp/token
  model-update-eventsource check -n team-a --service kfp-operator-model-update-eventsource-server.kfp-operator-system.svc:50051
  model-update-eventsource check -o json | jq '.categories[].checks[] | select(.result != \"success\")'

Exit status: 0 without errors, also with warnings; 1 with errors; 2 usage error.")]
pub(super) struct Check {
    /// Check before an install: the dependencies, and the rights of this account to install the chart
    #[arg(long)]
    pre: bool,

    /// Namespace of an install with --pre
    #[arg(long, value_name = "NAMESPACE", value_parser = values::one_namespace, default_value = "kfp-operator-system",
        requires = "pre")]
    install_namespace: String,

    /// Repeat failing checks for this time
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    wait: Option<humantime::Duration>,

    /// Output format
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Output,

    /// Namespace of runs, EventSources and Sensors [default: all]
    #[arg(short, long, value_name = "NAMESPACE", value_parser = values::one_namespace)]
    namespace: Option<String>,

    /// All namespaces, as by default
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    /// Address that EventSources have for the server, in addition to its Services; may be repeated
    #[arg(long, value_name = "HOST:PORT", value_parser = values::grpc_target)]
    service: Vec<String>,

    /// Longest outage after which no event may be missing; Workflows have to exist for longer
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration, default_value = "1day")]
    longest_outage: humantime::Duration,

    /// Namespaces that the server serves, where it does not serve all
    #[arg(long, help_heading = SERVER, env = "MODEL_UPDATE_NAMESPACES", value_name = "NAMESPACE,...", value_delimiter = ',',
        value_parser = values::one_namespace)]
    namespaces: Vec<String>,

    /// Access control of the server: audit and token need further rights
    #[arg(long, help_heading = SERVER, env = "MODEL_UPDATE_AUTH", value_name = "MODE", value_enum, default_value_t)]
    auth: Mode,

    /// The server writes Kubernetes Events, which needs a further right
    #[arg(long, help_heading = SERVER, env = "MODEL_UPDATE_KUBERNETES_EVENTS",
        value_parser = clap::builder::BoolishValueParser::new())]
    kubernetes_events: bool,

    /// Label selector of runs, as the server's --selector
    #[arg(long, help_heading = SERVER, env = "MODEL_UPDATE_SELECTOR", value_name = "SELECTOR",
        value_parser = values::selector, default_value_t = Config::default().selector)]
    selector: String,

    /// Certificate of the server, in PEM
    #[arg(long, help_heading = SERVER, env = "MODEL_UPDATE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate, in PEM
    #[arg(long, help_heading = SERVER, env = "MODEL_UPDATE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Certificates of the authorities of clients, in PEM
    #[arg(long, help_heading = SERVER, env = "MODEL_UPDATE_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,

    /// URL to which the server exports traces
    #[arg(long, help_heading = SERVER, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,

    #[command(flatten)]
    sources: SourceArgs,

    #[command(flatten)]
    admin: AdminArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

const SERVER: &str = "Flags of the server";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// All checks by subject
    #[default]
    Table,
    /// A JSON object
    Json,
    /// Only what is not as it should be
    Short,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = Runtime::new().context("cannot start the runtime")?;
        let (output, wait) = (self.output, self.wait);
        let options = self.options();
        let report = runtime.block_on(async {
            match wait {
                Some(wait) => until_success(&options, *wait).await,
                None => Ok(check::run(&options).await),
            }
        })?;
        match output {
            Output::Json => output::print_json(&report)?,
            Output::Table | Output::Short => {
                output::print(&text(&report, output == Output::Short, output::has_colors(), symbols()))?;
            }
        }
        Ok(if report.success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn options(self) -> Options {
        let tls = self.tls_cert.zip(self.tls_key);
        let client_ca = self.tls_client_ca;
        Options {
            cluster: self.cluster.options(),
            pre: self.pre,
            namespace: self.namespace,
            namespaces: self.namespaces,
            install_namespace: self.install_namespace,
            auth: self.auth,
            kubernetes_events: self.kubernetes_events,
            services: self.service,
            outage: *self.longest_outage,
            tls: tls.map(|(cert, key)| TlsFiles { cert, key, client_ca }),
            selector: self.selector,
            sources: self.sources.into(),
            admin: self.admin.given().map(ToOwned::to_owned),
            server_namespaces: self.admin.server_namespaces().to_vec(),
            otlp: self.otlp_endpoint.filter(|url| !url.trim().is_empty()),
        }
    }
}

/// Repeats the checks until they succeed, or the time is over.
async fn until_success(options: &Options, wait: Duration) -> anyhow::Result<Report> {
    let started = Instant::now();
    let mut progress = Progress::start();
    let mut is_said = false;
    loop {
        let report = check::run(options).await;
        let elapsed = started.elapsed();
        if report.success || elapsed + PAUSE > wait {
            progress.clear()?;
            return Ok(report);
        }
        let line = waiting(&report, elapsed, wait);
        if progress.is_terminal() {
            progress.show(&line)?;
        } else if !is_said {
            output::say(&line)?;
        }
        is_said = true;
        sleep(PAUSE).await;
    }
}

/// The line of progress: the checks that are waited for, with a count and the time.
fn waiting(report: &Report, elapsed: Duration, wait: Duration) -> String {
    let failed: Vec<&str> = report.with(Outcome::Error).map(|(_, check)| check.description.as_str()).collect();
    let first: String = failed.first().unwrap_or(&"").chars().take(MAX_PROGRESS).collect();
    let limit = format_duration(Duration::from_secs(wait.as_secs().max(1)));
    output::one_line(&format!(
        "waiting for {}, first: {first} ({} s of {limit})",
        output::count(failed.len(), "check"),
        elapsed.as_secs()
    ))
}

/// The signs of the outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Symbols {
    success: &'static str,
    warning: &'static str,
    error: &'static str,
}

const UNICODE: Symbols = Symbols { success: "√", warning: "‼", error: "×" };
const ASCII: Symbols = Symbols { success: "+", warning: "!", error: "x" };

/// The signs that the locale can show.
fn symbols() -> Symbols {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| env::var(name).ok());
    symbols_of(locale.into_iter().find(|value| !value.is_empty()).as_deref())
}

/// ASCII only where the locale names another encoding than UTF-8: in images without locales nothing is set.
fn symbols_of(locale: Option<&str>) -> Symbols {
    let is_unicode = |locale: &str| locale.to_ascii_lowercase().replace('-', "").contains("utf8");
    if locale.is_none_or(is_unicode) { UNICODE } else { ASCII }
}

impl Symbols {
    fn of(self, outcome: Outcome, colors: bool) -> String {
        let (sign, tone) = match outcome {
            Outcome::Success => (self.success, Tone::Good),
            Outcome::Warning => (self.warning, Tone::Attention),
            Outcome::Error => (self.error, Tone::Bad),
        };
        tone.paint(sign, colors).into_owned()
    }
}

/// The report for people, in the form of `linkerd check`.
fn text(report: &Report, short: bool, colors: bool, symbols: Symbols) -> String {
    let mut text = String::new();
    for category in &report.categories {
        let shown = |check: &&Checked| !short || check.result != Outcome::Success;
        let checks: Vec<&Checked> = category.checks.iter().filter(shown).collect();
        if checks.is_empty() {
            continue;
        }
        text.push_str(&format!("{}\n{}\n", category.category_name, "-".repeat(category.category_name.len())));
        for check in checks {
            text.push_str(&format!("{} {}\n", symbols.of(check.result, colors), output::one_line(&check.description)));
            for (label, words) in [("", &check.error), ("hint: ", &check.hint)] {
                if let Some(words) = words {
                    text.push_str(&format!("    {label}{}\n", output::one_line(words)));
                }
            }
        }
        text.push('\n');
    }
    let outcome = if report.success { Outcome::Success } else { Outcome::Error };
    text + &format!("Status check results are {}\n", symbols.of(outcome, colors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::check::Category;

    fn report(result: Outcome) -> Report {
        let check = |description: &str, result, words: Option<&str>| Checked {
            description: description.to_owned(),
            result,
            hint: words.map(|words| format!("mend {words}")),
            error: words.map(ToOwned::to_owned),
        };
        let checks = vec![check("answers", Outcome::Success, None), check("is new", result, Some("it\nis old"))];
        Report { success: result != Outcome::Error, categories: vec![Category { category_name: "api", checks }] }
    }

    #[test]
    fn the_text_has_the_form_of_linkerd() {
        let all = text(&report(Outcome::Warning), false, false, UNICODE);
        let expected =
            "api\n---\n√ answers\n‼ is new\n    it is old\n    hint: mend it is old\n\nStatus check results are √\n";
        assert_eq!(all, expected);
        let short = text(&report(Outcome::Error), true, false, ASCII);
        assert_eq!(
            short,
            "api\n---\nx is new\n    it is old\n    hint: mend it is old\n\nStatus check results are x\n"
        );
        assert!(text(&report(Outcome::Error), true, true, UNICODE).contains("\x1b[31m×\x1b[0m is new"));
        assert_eq!(text(&report(Outcome::Success), true, false, UNICODE), "Status check results are √\n");
    }

    #[test]
    fn signs_follow_the_locale() {
        for (locale, expected) in [
            (None, UNICODE),
            (Some("de_DE.UTF-8"), UNICODE),
            (Some("C.utf8"), UNICODE),
            (Some("C"), ASCII),
            (Some("en_US.ISO-8859-1"), ASCII),
        ] {
            assert_eq!(symbols_of(locale), expected, "{locale:?}");
        }
    }

    #[test]
    fn progress_has_a_count_and_the_time() {
        let line = waiting(&report(Outcome::Error), Duration::from_millis(4200), Duration::from_secs(60));
        assert_eq!(line, "waiting for 1 check, first: is new (4 s of 1m)");
    }
}
