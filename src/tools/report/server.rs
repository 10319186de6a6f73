//! Pages of the server's admin port, as text.

use crate::tools::admin::{self, Answer};

/// Attempts of a request: a port-forward may break off while the server closes the connection.
const ATTEMPTS: usize = 3;

/// Returns a page with its status if that is not 200. A refusal is a page, too: `/readyz` says why.
///
/// # Errors
/// There is no answer, described for people.
pub(super) async fn page(address: &str, path: &str) -> Result<String, String> {
    let mut attempts = 1;
    loop {
        match admin::get(address, path, None).await {
            Err(_) if attempts < ATTEMPTS => attempts += 1,
            Err(error) => return Err(error.to_string()),
            Ok(Answer { status, text }) if status.is_success() => return Ok(text),
            Ok(Answer { status, text }) => return Ok(format!("{status}\n{text}")),
        }
    }
}
