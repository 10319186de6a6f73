//! The values of arguments that are names: of the cluster, of the kubeconfig and of this program.

use std::{
    ffi::{OsStr, OsString},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use clap::{Arg, ArgMatches, Command, CommandFactory as _, FromArgMatches as _};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::{
    cli::{Cli, cluster::ClusterArgs},
    k8s::{Cluster, ClusterOptions, WorkflowQuery},
    tools::{
        DEFAULT_SELECTOR,
        known_names::{self, Offers},
        runbooks,
    },
};

/// The time limit of all requests for one completion. A person waits for them.
const DEADLINE: Duration = Duration::from_secs(2);

/// A kind of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Contexts,
    Namespaces,
    Workflows,
    Subscriptions,
    Runbooks,
    Commands,
}

/// The arguments whose values are names, by their commands; `None` is every command.
const ARGUMENTS: [(Option<&str>, &str, Names); 9] = [
    (None, "context", Names::Contexts),
    (None, "namespace", Names::Namespaces),
    (Some("check"), "install_namespace", Names::Namespaces),
    (Some("explain"), "workflow", Names::Workflows),
    (Some("redeliver"), "workflows", Names::Workflows),
    (None, "subscription", Names::Subscriptions),
    (Some("subscribe"), "remember", Names::Subscriptions),
    (Some("runbook"), "name", Names::Runbooks),
    (Some("man"), "command", Names::Commands),
];

/// Adds the names to the arguments of a command line. `words` are those before the completed one: they choose the cluster.
pub(super) fn with_names(command: Command, words: &[OsString]) -> Command {
    let choice = Arc::new(Choice::of(words));
    command.mut_subcommands(|subcommand| {
        let name = subcommand.get_name().to_owned();
        subcommand.mut_args(|argument| match names_of(&name, &argument) {
            Some(names) => {
                let choice = choice.clone();
                argument.add(ArgValueCompleter::new(move |begin: &OsStr| names.find(&choice, begin)))
            }
            None => argument,
        })
    })
}

fn names_of(command: &str, argument: &Arg) -> Option<Names> {
    let is_it = |(of, id, _): &&(Option<&str>, &str, Names)| {
        of.is_none_or(|of| of == command) && *id == argument.get_id().as_str()
    };
    ARGUMENTS.iter().find(is_it).map(|(_, _, names)| *names)
}

/// The cluster and the namespace that a line chooses.
#[derive(Clone, Debug, Default)]
struct Choice {
    cluster: ClusterOptions,
    namespace: Option<String>,
    all_namespaces: bool,
    selector: Option<String>,
}

impl Choice {
    /// Reads a line that is not complete.
    fn of(words: &[OsString]) -> Self {
        let matches = Cli::command().ignore_errors(true).try_get_matches_from(words);
        let Some((_, matches)) = matches.as_ref().ok().and_then(ArgMatches::subcommand) else { return Self::default() };
        let text = |id: &str| matches.try_get_one::<String>(id).ok().flatten().cloned();
        // Commands without a cluster do not have its flags.
        let has_cluster = matches.try_contains_id("kubeconfig").is_ok();
        let cluster = has_cluster.then(|| ClusterArgs::from_arg_matches(matches).ok()).flatten();
        let cluster = cluster.map(|arguments| arguments.options()).unwrap_or_default();
        Self {
            cluster: ClusterOptions { request_timeout: DEADLINE, ..cluster },
            namespace: text("namespace"),
            all_namespaces: matches.try_get_one::<bool>("all_namespaces").ok().flatten().copied().unwrap_or(false),
            selector: text("selector"),
        }
    }

    /// The Workflows of the line.
    fn query<'a>(&'a self, cluster: &'a Cluster) -> WorkflowQuery<'a> {
        let one = || self.namespace.as_deref().unwrap_or(cluster.default_namespace());
        WorkflowQuery {
            namespace: (!self.all_namespaces).then(one),
            selector: self.selector.as_deref().unwrap_or(DEFAULT_SELECTOR),
        }
    }
}

impl Names {
    /// Returns the names that begin like this. It ends within [`DEADLINE`], whatever the kubeconfig's plugins and the
    /// API server do.
    fn find(self, choice: &Arc<Choice>, begin: &OsStr) -> Vec<CompletionCandidate> {
        let Some(begin) = begin.to_str() else { return Vec::new() };
        let deadline = Instant::now() + DEADLINE;
        let (offers, names) = Offers::new(begin);
        let choice = choice.clone();
        thread::spawn(move || self.offer(&choice, offers));
        let mut found = Vec::new();
        while let Ok(name) = names.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            found.push(CompletionCandidate::new(name));
        }
        found
    }

    fn offer(self, choice: &Choice, mut offers: Offers) {
        let kubeconfig = || choice.cluster.kubeconfig_names();
        // That there are enough names ends nothing else here.
        let _enough = match self {
            Self::Contexts => offers.extend(kubeconfig().contexts.iter().map(String::as_str)),
            Self::Runbooks => offers.extend(runbooks::all().map(|runbook| runbook.name)),
            Self::Commands => {
                let command = Cli::command();
                offers.extend(command.get_subcommands().filter(|it| !it.is_hide_set()).map(Command::get_name))
            }
            // Those of the contexts are known also to a person who may not list namespaces.
            Self::Namespaces => offers.extend(kubeconfig().namespaces.iter().map(String::as_str)),
            Self::Workflows | Self::Subscriptions => std::ops::ControlFlow::Continue(()),
        };
        if !matches!(self, Self::Namespaces | Self::Workflows | Self::Subscriptions) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        // A failure means that there are no names: the line is typed by hand.
        let _answered = runtime.block_on(async {
            let cluster = Cluster::connect(&choice.cluster).await?;
            match self {
                Self::Namespaces => known_names::namespaces(&cluster, offers).await,
                Self::Workflows => known_names::workflows(&cluster, choice.query(&cluster), offers).await,
                _ => known_names::subscriptions(&cluster, choice.query(&cluster), offers).await,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_argument_exists() {
        let command = Cli::command();
        for (of, id, _) in ARGUMENTS {
            let mut commands = command.get_subcommands().filter(|it| of.is_none_or(|of| of == it.get_name()));
            assert!(commands.any(|it| it.get_arguments().any(|argument| argument.get_id() == id)), "{of:?} {id}");
        }
    }

    #[test]
    fn an_incomplete_line_chooses_the_cluster() {
        let line = "x redeliver -n team-a --context prod --as ann --selector a=b --subscription deployer run-x --since";
        let choice = Choice::of(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(choice.namespace.as_deref(), Some("team-a"));
        assert_eq!((choice.cluster.context.as_deref(), choice.cluster.user.as_deref()), (Some("prod"), Some("ann")));
        assert_eq!((choice.selector.as_deref(), choice.all_namespaces), (Some("a=b"), false));
        assert_eq!(choice.cluster.request_timeout, DEADLINE);
        let all = Choice::of(&["x", "explain", "-A", "--kubeconfig=f", "--unknown"].map(OsString::from));
        assert!(all.all_namespaces && all.cluster.kubeconfig.is_some_and(|path| path.as_os_str() == "f"));
        assert!(Choice::of(&[OsString::from("x")]).namespace.is_none());
    }
}
