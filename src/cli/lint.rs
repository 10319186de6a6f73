//! `lint`: finds problems of EventSources and Sensors in their manifests.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    output::{self, count},
    values,
};
use crate::tools::lint::{Finding, Linter, MAX_FILE, Report, Severity, sarif};

/// The name of standard input.
const STDIN: &str = "-";
/// Extensions of manifests, as `kubectl apply -f` has them.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
/// The deepest folder. Each level takes stack.
const MAX_FOLDERS: usize = 32;
/// The most files of all folders.
const MAX_FILES: usize = 10_000;

/// Finds problems of EventSources and Sensors in their manifests
///
/// Needs no cluster: for an editor, a repository of manifests, or CI. Checks `config` with the server's own parser, whether
/// Argo Events can connect, whether the paths of Sensors exist in the event, and whether their filters match whole names.
/// Other kinds of objects are ignored. Rules between objects, such as a Sensor and its EventSource, need both in the
/// same call.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  model-update-eventsource lint eventsource.yaml sensor.yaml
  model-update-eventsource lint --recursive --strict manifests/
  helm template my-team/ | model-update-eventsource lint -
  kubectl get eventsources,sensors -A -o yaml | model-update-eventsource lint -
  model-update-eventsource lint -R -o sarif manifests/ > lint.sarif

Exit status: 0 without errors; 1 with errors, with --strict also with warnings; 2 usage error.")]
pub(super) struct Lint {
    /// Files of YAML or JSON, folders of them, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Also folders in folders
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Output format
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Output,

    /// Fail on warnings, too
    #[arg(long)]
    strict: bool,

    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NAMESPACE", value_parser = values::namespace)]
    namespace: Option<Arc<str>>,

    /// Check only entries with this url, where others are for another server; may be repeated
    #[arg(long, value_name = "HOST:PORT", value_parser = values::grpc_target)]
    service: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    /// Lines as `FILE:LINE:COLUMN: error: message [rule]`
    #[default]
    Text,
    /// A JSON object with all findings
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
}

/// The report as JSON.
#[derive(Serialize)]
struct Json<'a> {
    success: bool,
    files: usize,
    objects: usize,
    errors: usize,
    warnings: usize,
    omitted: usize,
    findings: Vec<JsonFinding<'a>>,
}

#[derive(Serialize)]
struct JsonFinding<'a> {
    rule: &'a str,
    severity: Severity,
    file: Option<&'a str>,
    line: Option<usize>,
    column: Option<usize>,
    object: Option<&'a str>,
    message: &'a str,
}

impl Lint {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut linter = Linter::new(self.namespace.clone(), self.service.clone());
        for path in &self.files {
            match files(path, self.recursive) {
                Ok(files) if files.is_empty() => linter.without_manifests(&path.display().to_string()),
                Ok(files) => files.iter().for_each(|file| add(&mut linter, file)),
                Err(error) => linter.unreadable(&path.display().to_string(), &format!("{error:#}")),
            }
        }
        let report = linter.finish();
        let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
        let success = errors == 0 && !(self.strict && warnings > 0);
        match self.output {
            Output::Text => output::print(&report.findings.iter().map(line).collect::<String>())?,
            Output::Json => output::print_json(&json(&report, success))?,
            Output::Sarif => output::print_json(&sarif::log(&report))?,
        }
        output::say(&summary(&report, errors, warnings))?;
        Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The files that an argument names.
fn files(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    if path.as_os_str() == STDIN || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    walk(path, if recursive { MAX_FOLDERS } else { 0 }, &mut found)?;
    Ok(found)
}

/// Adds the manifests of a folder in the order of their names. Hidden folders, such as git's, are left out.
fn walk(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let mut entries = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>())
        .with_context(|| format!("folder {}", folder.display()))?;
    entries.sort();
    for path in entries {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() {
            // Links to folders could multiply the work with each level.
            if depth > 0 && !hidden && !path.is_symlink() {
                walk(&path, depth - 1, found)?;
            }
        } else if path.extension().is_some_and(|found| EXTENSIONS.iter().any(|known| found == *known)) {
            anyhow::ensure!(found.len() < MAX_FILES, "more than {MAX_FILES} manifests; lint its folders one by one");
            found.push(path);
        }
    }
    Ok(())
}

/// Adds a file, of which at most one byte more than the limit is read.
fn add(linter: &mut Linter, path: &Path) {
    let limit = MAX_FILE as u64 + 1;
    let mut content = Vec::new();
    let read = if path.as_os_str() == STDIN {
        io::stdin().lock().take(limit).read_to_end(&mut content)
    } else {
        fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut content))
    };
    let name = if path.as_os_str() == STDIN { "<stdin>".to_owned() } else { path.display().to_string() };
    match read {
        Ok(_) => linter.add(&name, &content),
        Err(error) => linter.unreadable(&name, &error.to_string()),
    }
}

/// One finding, in the form that editors and CI recognize.
fn line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut place = finding.file.as_deref().unwrap_or_default().to_owned();
    if let Some(at) = finding.at {
        place.push_str(&format!(":{}:{}", at.line, at.column));
    }
    let object = finding.object.as_deref().map(|object| format!("{object}: ")).unwrap_or_default();
    output::one_line(&format!("{place}: {severity}: {object}{} [{}]", finding.message, finding.rule.id)) + "\n"
}

fn json<'a>(report: &'a Report, success: bool) -> Json<'a> {
    let finding = |finding: &'a Finding| JsonFinding {
        rule: finding.rule.id,
        severity: finding.severity,
        file: finding.file.as_deref(),
        line: finding.at.map(|at| at.line),
        column: finding.at.map(|at| at.column),
        object: finding.object.as_deref(),
        message: &finding.message,
    };
    Json {
        success,
        files: report.files,
        objects: report.objects,
        errors: report.count(Severity::Error),
        warnings: report.count(Severity::Warning),
        omitted: report.omitted,
        findings: report.findings.iter().map(finding).collect(),
    }
}

/// The words after the findings.
fn summary(report: &Report, errors: usize, warnings: usize) -> String {
    let scope = format!("{} in {}", count(report.objects, "object"), count(report.files, "file"));
    let more = if report.omitted > 0 { format!(" (and {} more findings)", report.omitted) } else { String::new() };
    match (errors, warnings) {
        (0, 0) => format!("{scope}: no problems"),
        (0, _) => format!("{scope}: {}{more}", count(warnings, "warning")),
        (_, 0) => format!("{scope}: {}{more}", count(errors, "error")),
        _ => format!("{scope}: {}, {}{more}", count(errors, "error"), count(warnings, "warning")),
    }
}
