//! The log: one line an event on standard error, as text or as flat JSON.

use std::{
    env,
    error::Error,
    fmt,
    io::{self, IsTerminal},
    panic,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{Subscriber, error, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{MakeWriter, layer},
    layer::SubscriberExt,
    reload,
    util::{SubscriberInitExt, TryInitError},
};

use super::Traces;

/// Directives that silence other crates. A directive of the user for the same target replaces them.
///
/// - kube logs every failed request. The caller logs these errors, throttled and with the consequence.
/// - The spans of traces are not log lines ([`super::trace::TARGET`]).
/// - h2 warns of every unsolicited acknowledgement, which any peer can send at any rate.
const SILENCED: &str = "kube_client::client=off,kube_client::client::tls=warn,\
                     h2::proto::ping_pong=error,modelupdate_trace=off";

/// The format of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Human-readable text.
    #[default]
    Text,
    /// One JSON object a line, with its fields at the top level.
    Json,
}

/// The filter of the log: a level, or directives such as `info,kube=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level(String);

/// The reason why a text is not a [`Level`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLevel {
    /// A part that is neither a level nor a directive. `EnvFilter` would take a misspelled level for the name of a
    /// target, and log nothing.
    #[error("{0:?} is neither a level (off, error, warn, info, debug, trace) nor of the form target=level")]
    Directive(String),
    /// A directive with a syntax error.
    #[error("{0}")]
    Malformed(String),
}

impl Default for Level {
    fn default() -> Self {
        Self("info".into())
    }
}

impl FromStr for Level {
    type Err = InvalidLevel;

    fn from_str(text: &str) -> Result<Self, InvalidLevel> {
        for directive in text.split(',').map(str::trim) {
            if !directive.contains(['=', '[']) && directive.parse::<LevelFilter>().is_err() || directive.is_empty() {
                return Err(InvalidLevel::Directive(directive.to_owned()));
            }
        }
        EnvFilter::builder().parse(text).map_err(|error| InvalidLevel::Malformed(error.to_string()))?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Level {
    fn filter(&self) -> EnvFilter {
        EnvFilter::builder().parse_lossy(format!("{SILENCED},{self}"))
    }
}

/// The subscriber for events and spans. The log and the traces have separate filters, so that neither changes the
/// other.
fn subscriber<W>(
    format: Format,
    level: &Level,
    colors: bool,
    writer: W,
    traces: &Traces,
) -> (impl Subscriber + Send + Sync + use<W>, reload::Handle<EnvFilter, Registry>)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(level.filter());
    let log = match format {
        Format::Text => layer().with_ansi(colors).with_writer(writer).with_filter(filter).boxed(),
        Format::Json => layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(writer)
            .with_filter(filter)
            .boxed(),
    };
    // Added one by one: joined by `and_then`, an absent layer would disable the other one.
    (tracing_subscriber::registry().with(log).with(traces.layer()), handle)
}

/// A log whose level can be changed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Handle {
    /// Absent where the process has no log.
    filter: Option<reload::Handle<EnvFilter, Registry>>,
    level: Arc<Mutex<Level>>,
}

impl Handle {
    /// The present level.
    pub fn level(&self) -> Level {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the level.
    ///
    /// # Errors
    /// If the process has no log any more.
    pub fn set(&self, level: &Level) -> Result<(), reload::Error> {
        if let Some(filter) = &self.filter {
            filter.reload(level.filter())?;
        }
        *self.level.lock().unwrap_or_else(PoisonError::into_inner) = level.clone();
        Ok(())
    }
}

/// Starts the log of the process on standard error, in color where [`has_colors`] says so, and the layer of the traces.
/// Panics are logged.
///
/// # Errors
/// If the process has a log already.
pub fn init(format: Format, level: &Level, traces: &Traces) -> Result<Handle, TryInitError> {
    let (subscriber, filter) = subscriber(format, level, has_colors(), io::stderr, traces);
    subscriber.try_init()?;
    panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let message = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)");
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        error!(location, error = message, "panicked");
    }));
    Ok(Handle { filter: Some(filter), level: Arc::new(Mutex::new(level.clone())) })
}

/// Returns whether standard error shows colors: it is a terminal, and `NO_COLOR` is not set.
pub fn has_colors() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns an error with its causes, in one line. Causes that the text already contains are skipped.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, info, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, level: &str, events: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let traces = Traces::default();
        let (subscriber, _) = subscriber(format, &level.parse().unwrap(), false, move || writer.clone(), &traces);
        tracing::subscriber::with_default(subscriber, events);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_fields_are_at_the_top_level() {
        let line = logged(Format::Json, "info", || info!(namespace = "team-a", count = 3, "a thing happened"));
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
        assert_eq!(object["message"], "a thing happened");
        assert_eq!(object["namespace"], "team-a");
        assert_eq!(object["count"], 3);
        assert_eq!(object["level"], "INFO");
        assert!(object.values().all(|value| !value.is_object() && !value.is_array()), "{line}");
    }

    #[test]
    fn text_is_one_line_with_its_fields() {
        let line = logged(Format::Text, "info", || {
            info!(namespace = "team-a", "a thing happened");
            debug!("not this");
        });
        assert!(line.ends_with("a thing happened namespace=\"team-a\"\n"), "{line:?}");
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn other_crates_are_silenced_unless_the_user_asks_for_them() {
        let events = || {
            warn!(target: "kube_client::client", "connection refused");
            warn!(target: "h2::proto::ping_pong", "recv PING ack that we never sent");
        };
        assert_eq!(logged(Format::Text, "debug", events), "");
        let directives = "info,kube_client::client=warn,h2::proto::ping_pong=warn";
        assert_eq!(logged(Format::Text, directives, events).lines().count(), 2);
    }

    #[test]
    fn a_chain_contains_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read the file: {0}")]
        struct WithCause(#[source] io::Error);
        #[derive(Debug, thiserror::Error)]
        #[error("cannot start")]
        struct WithoutCause(#[from] WithCause);
        let error = WithoutCause(WithCause(io::Error::other("disk on fire")));
        assert_eq!(chain(&error), "cannot start: cannot read the file: disk on fire");
    }

    #[test]
    fn a_misspelled_level_is_rejected() {
        for wrong in ["inof", "", "info,", "info,kube", "kube=loud"] {
            assert!(wrong.parse::<Level>().is_err(), "{wrong:?} was accepted");
        }
        for right in ["warn", "OFF", "info,kube=debug", "info,[span{a=1}]=trace"] {
            assert!(right.parse::<Level>().is_ok(), "{right:?} was rejected");
        }
    }
}
