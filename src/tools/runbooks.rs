//! The runbooks of the alerts, as in `docs/runbooks`.

/// The runbooks by the name of their alert, sorted.
const RUNBOOKS: [(&str, &str); 17] = [
    ("ModelUpdateDispatchFailing", include_str!("../../docs/runbooks/ModelUpdateDispatchFailing.md")),
    ("ModelUpdateEventsLateFast", include_str!("../../docs/runbooks/ModelUpdateEventsLateFast.md")),
    ("ModelUpdateEventsLateSlow", include_str!("../../docs/runbooks/ModelUpdateEventsLateSlow.md")),
    ("ModelUpdateEventsourceDown", include_str!("../../docs/runbooks/ModelUpdateEventsourceDown.md")),
    ("ModelUpdateKubernetesEventsFailing", include_str!("../../docs/runbooks/ModelUpdateKubernetesEventsFailing.md")),
    ("ModelUpdateLimitHit", include_str!("../../docs/runbooks/ModelUpdateLimitHit.md")),
    ("ModelUpdateLookupsFailing", include_str!("../../docs/runbooks/ModelUpdateLookupsFailing.md")),
    ("ModelUpdateMarksFailing", include_str!("../../docs/runbooks/ModelUpdateMarksFailing.md")),
    ("ModelUpdateRedeliveries", include_str!("../../docs/runbooks/ModelUpdateRedeliveries.md")),
    ("ModelUpdateReplicaDown", include_str!("../../docs/runbooks/ModelUpdateReplicaDown.md")),
    ("ModelUpdateRunsLost", include_str!("../../docs/runbooks/ModelUpdateRunsLost.md")),
    ("ModelUpdateRunsPending", include_str!("../../docs/runbooks/ModelUpdateRunsPending.md")),
    ("ModelUpdateScopeDown", include_str!("../../docs/runbooks/ModelUpdateScopeDown.md")),
    ("ModelUpdateSubscriberGone", include_str!("../../docs/runbooks/ModelUpdateSubscriberGone.md")),
    ("ModelUpdateSubscriptionShared", include_str!("../../docs/runbooks/ModelUpdateSubscriptionShared.md")),
    ("ModelUpdateSubscriptionsRefused", include_str!("../../docs/runbooks/ModelUpdateSubscriptionsRefused.md")),
    ("ModelUpdateWatchDown", include_str!("../../docs/runbooks/ModelUpdateWatchDown.md")),
];
/// The prefix of the names, which is optional.
const PREFIX: &str = "ModelUpdate";

/// A runbook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runbook {
    /// The name of the alert.
    pub name: &'static str,
    /// The page, in Markdown.
    pub text: &'static str,
}

impl Runbook {
    /// The first sentence of its meaning.
    pub fn summary(&self) -> String {
        let meaning = self.text.split("## Meaning").nth(1).unwrap_or_default().trim_start();
        let paragraph = meaning.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        match paragraph.split_once(". ") {
            Some((sentence, _)) => format!("{sentence}."),
            None => paragraph,
        }
    }
}

/// Returns all runbooks, by name.
pub fn all() -> impl Iterator<Item = Runbook> {
    RUNBOOKS.into_iter().map(|(name, text)| Runbook { name, text })
}

/// Returns the runbook of an alert. Upper and lower case do not matter, and `ModelUpdate` may be left out.
///
/// # Errors
/// The nearest name, if there is none of this name.
pub fn find(name: &str) -> Result<Runbook, &'static str> {
    let short = |name: &str| name.to_ascii_lowercase().trim_start_matches(&PREFIX.to_ascii_lowercase()).to_owned();
    let wanted = short(name);
    let found = all().find(|runbook| short(runbook.name) == wanted);
    found.ok_or_else(|| {
        let distance = |runbook: &Runbook| strsim::damerau_levenshtein(&short(runbook.name), &wanted);
        all().min_by_key(distance).map_or(PREFIX, |nearest| nearest.name)
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_page_of_the_folder_is_a_runbook() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = files.filter_map(|name| Some(name.strip_suffix(".md")?.to_owned())).collect();
        names.retain(|name| name != "README");
        names.sort();
        assert_eq!(all().map(|runbook| runbook.name).collect::<Vec<_>>(), names);
        for runbook in all() {
            assert!(runbook.text.starts_with(&format!("# {}\n", runbook.name)), "{}", runbook.name);
            let summary = runbook.summary();
            assert!(summary.len() > 20 && summary.ends_with(['.', ':']), "{}: {summary}", runbook.name);
        }
    }

    #[test]
    fn a_name_is_found_in_several_forms() {
        for name in ["ModelUpdateLimitHit", "modelupdatelimithit", "LimitHit", "limithit"] {
            assert_eq!(find(name).unwrap().name, "ModelUpdateLimitHit");
        }
        assert_eq!(find("LimitHits"), Err("ModelUpdateLimitHit"));
        assert_eq!(find("ModelUpdateWatchdown2"), Err("ModelUpdateWatchDown"));
    }
}
