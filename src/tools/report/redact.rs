//! Removal of secrets from texts. The server prints none of these, but other components and flags of users may.

/// Replaces what is removed.
pub(super) const REMOVED: &str = "(removed)";
/// Parts of names whose values are secrets.
const SECRET_NAMES: [&str; 7] = ["token", "secret", "password", "passwd", "headers", "credential", "apikey"];
/// Variables whose values are shown: those of this program, and of the SDK of OpenTelemetry.
const SHOWN_VARIABLES: [&str; 4] = ["MODEL_UPDATE_", "OTEL_", "POD_", "RUST_"];
/// Schemes of the places of models.
const STORES: [&str; 12] =
    ["gs", "s3", "s3a", "minio", "hdfs", "abfs", "abfss", "wasbs", "oss", "file", "mlflow-artifacts", "hf"];

/// Removes tokens, places of models and passwords in addresses from a text.
pub(super) fn text(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for word in text.split_inclusive(|c: char| c.is_whitespace() || "\"'`,;()[]{}<>\\".contains(c)) {
        let body = word.trim_end_matches(|c: char| c.is_whitespace() || "\"'`,;()[]{}<>\\".contains(c));
        let end = &word[body.len()..];
        // `key=gs://…`
        let (key, value) = match body.split_once('=') {
            Some((key, value)) if !key.contains("://") => (&body[..=key.len()], value),
            _ => ("", body),
        };
        clean.push_str(key);
        clean.push_str(&self::word(value));
        clean.push_str(end);
    }
    clean
}

fn word(word: &str) -> String {
    // `Bearer:eyJ…`
    let before = word.rfind([':', '=', '/']).map_or(0, |at| at + 1);
    if is_json_web_token(&word[before..]) {
        return format!("{}{REMOVED}", &word[..before]);
    }
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    // `a=b=gs://…` and `http://host?x=gs://…`: what comes before the name of a scheme is none of it.
    let is_store = |before: &str| {
        let start = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '-').map_or(0, |at| at + 1);
        before.get(start..).is_some_and(|scheme| STORES.contains(&scheme.to_ascii_lowercase().as_str()))
    };
    if let Some((at, _)) = word.match_indices("://").find(|(at, _)| is_store(&word[..*at])) {
        return format!("{}://{REMOVED}", &word[..at]);
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{REMOVED}@{host}{path}"),
        None => word.to_owned(),
    }
}

/// Returns whether a word is a token of a service account, or another JSON Web Token.
fn is_json_web_token(word: &str) -> bool {
    let is_base64 = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let parts: Vec<_> = word.split('.').collect();
    word.starts_with("eyJ") && parts.len() == 3 && parts.iter().all(|part| part.len() > 8 && is_base64(part))
}

/// Returns the value of an environment variable as it may be shown.
pub(super) fn variable(name: &str, value: &str) -> String {
    if is_secret(name) || !SHOWN_VARIABLES.iter().any(|prefix| name.starts_with(prefix)) {
        return REMOVED.to_owned();
    }
    text(value)
}

/// Returns a command line as it may be shown. The value of a flag may be the next word.
pub(super) fn arguments<'a>(arguments: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut is_value = false;
    let shown = arguments.map(|word| {
        let is_flag = word.starts_with('-');
        let shown = if is_value && !is_flag { REMOVED.to_owned() } else { argument(word) };
        is_value = is_flag && !word.contains('=') && is_secret(word);
        shown
    });
    shown.collect()
}

/// Returns a word of a command line as it may be shown.
fn argument(argument: &str) -> String {
    match argument.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={REMOVED}"),
        _ => text(argument),
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // Times for which answers about tokens are remembered, and the format of tokens.
    let is_setting = name.contains("cache") || name.contains("audience");
    !is_setting && SECRET_NAMES.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ0ZWFtIn0xx.c2lnbmF0dXJlLW9m";

    #[test]
    fn tokens_and_places_of_models_are_removed() {
        for (written, expected) in [
            ("plain text, with words", "plain text, with words"),
            ("a gs://bucket/model/1 b", "a gs://(removed) b"),
            ("{\"location\":\"s3://bucket/m\",\"n\":1}", "{\"location\":\"s3://(removed)\",\"n\":1}"),
            ("a=b=gs://bucket/m x:s3://bucket/m", "a=b=gs://(removed) x:s3://(removed)"),
            ("http://host/?from=gs://bucket/m", "http://host/?from=gs://(removed)"),
            ("größe:gs://bucket/m", "größe:gs://(removed)"),
            ("uri=minio://b/c\n", "uri=minio://(removed)\n"),
            ("http://user:secret@host:1/path", "http://(removed)@host:1/path"),
            ("http://host:1/a@b", "http://host:1/a@b"),
        ] {
            assert_eq!(text(written), expected);
        }
        assert_eq!(text(&format!("token={TOKEN}, and")), "token=(removed), and");
        assert_eq!(text(&format!("Bearer {TOKEN}\"")), "Bearer (removed)\"");
        assert_eq!(text(&format!("Authorization:{TOKEN}")), "Authorization:(removed)");
        assert_eq!(text("2026-01-01T00:00:00Z 1.2.3 a.b.c"), "2026-01-01T00:00:00Z 1.2.3 a.b.c");
    }

    #[test]
    fn values_of_flags_and_variables_are_shown_where_they_are_known() {
        for (name, value, expected) in [
            ("MODEL_UPDATE_AUTH", "token", "token"),
            ("MODEL_UPDATE_AUTH_CACHE_TOKEN", "60s", "60s"),
            ("MODEL_UPDATE_METADATA_STORE", "http://a:b@host:1", "http://(removed)@host:1"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=x", REMOVED),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317", "http://otel:4317"),
            ("AWS_SECRET_ACCESS_KEY", "x", REMOVED),
            ("ANYTHING", "x", REMOVED),
        ] {
            assert_eq!(variable(name, value), expected, "{name}");
        }
        assert_eq!(argument("--token=x"), "--token=(removed)");
        assert_eq!(argument("--max-streams=7"), "--max-streams=7");
        let shown = arguments(["--x-password", "hidden", "--max-streams", "7", "--x-token", "--y"].into_iter());
        assert_eq!(shown, ["--x-password", REMOVED, "--max-streams", "7", "--x-token", "--y"]);
    }
}
