//! The token of the account, from a file that Kubernetes replaces before the token expires. It is read again when it is
//! used and a few seconds old.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tracing::{info, warn};

/// Age at which the file is read again.
const MAX_AGE: Duration = Duration::from_secs(5);
/// Maximum time of reading. The file may be on a volume that does not answer, and the time is part of the call: shorter
/// than what makes a call long or slow (`limit`).
const READ_TIMEOUT: Duration = Duration::from_millis(250);
/// Maximum size of the file in bytes. Tokens of service accounts have one or two thousand.
const MAX_SIZE: u64 = 64 * 1024;

/// The value of the header `authorization`.
type Header = MetadataValue<Ascii>;

/// A token in a file. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Token(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    read: Instant,
    /// True while it is read again.
    is_reading: bool,
    /// The last token that could be read.
    header: Option<Header>,
    /// The problem of the last reading.
    problem: Option<String>,
}

impl Token {
    /// Reads the file for the first time. A file that is missing is a warning: calls are made without a token, which an
    /// installation for a single user accepts.
    pub(super) fn new(path: PathBuf) -> Self {
        let (header, problem) = match read(&path) {
            Ok(header) => (Some(header), None),
            Err(error) => (None, Some(error.to_string())),
        };
        if let Some(error) = &problem {
            warn!(path = %path.display(), error, "cannot read the token for Kubeflow's API, calling without one");
        }
        Self(Arc::new(Inner {
            path,
            state: Mutex::new(State { read: Instant::now(), is_reading: false, header, problem }),
        }))
    }

    /// Returns the current token.
    pub(super) async fn header(&self) -> Option<Header> {
        {
            let mut state = self.0.lock();
            // Others use the last token meanwhile.
            if state.read.elapsed() < MAX_AGE || std::mem::replace(&mut state.is_reading, true) {
                return state.header.clone();
            }
            state.read = Instant::now();
        }
        let token = self.clone();
        let reading = tokio::task::spawn_blocking(move || token.0.note(read(&token.0.path)));
        // Too late, it serves a later call.
        drop(timeout(READ_TIMEOUT, reading).await);
        self.0.lock().header.clone()
    }

    /// Has the file read again for the next call: the server did not accept the token.
    pub(super) fn refused(&self) {
        let mut state = self.0.lock();
        // Not more often than once a second.
        if let Some(earlier) = Instant::now().checked_sub(MAX_AGE)
            && state.read.elapsed() >= Duration::from_secs(1)
        {
            state.read = earlier;
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every operation under this lock is complete or has no effect.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, outcome: io::Result<Header>) {
        let mut state = self.lock();
        state.is_reading = false;
        let path = self.path.display();
        match outcome {
            Ok(header) => {
                if state.problem.take().is_some() {
                    info!(%path, "read the token for Kubeflow's API");
                }
                state.header = Some(header);
            }
            Err(error) => {
                let problem = error.to_string();
                if state.problem.as_ref() != Some(&problem) {
                    warn!(%path, %error, "cannot read the token for Kubeflow's API, using the last one");
                }
                state.problem = Some(problem);
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Header> {
    let mut text = String::new();
    File::open(path)?.take(MAX_SIZE + 1).read_to_string(&mut text)?;
    let invalid = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem);
    let token = text.trim();
    if token.is_empty() || text.len() as u64 > MAX_SIZE {
        return Err(invalid("the file is empty, or larger than 64 KiB"));
    }
    let mut header = Header::try_from(format!("Bearer {token}")).map_err(|_| invalid("the file contains no token"))?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn text(token: &Token) -> Option<String> {
        token.header().await.map(|header| header.to_str().unwrap().to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_file_is_used_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let token = Token::new(path.clone());
        assert_eq!(text(&token).await, None);
        fs::write(&path, "one\n").unwrap();
        assert_eq!(text(&token).await, None, "read a moment ago");
        for (content, expected) in
            [("one\n", "Bearer one"), ("two", "Bearer two"), ("", "Bearer two"), ("a\nb", "Bearer two")]
        {
            fs::write(&path, content).unwrap();
            tokio::time::advance(MAX_AGE).await;
            assert_eq!(text(&token).await.as_deref(), Some(expected), "{content:?}");
        }
        fs::remove_file(&path).unwrap();
        tokio::time::advance(MAX_AGE).await;
        assert_eq!(text(&token).await.as_deref(), Some("Bearer two"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_read_again_soon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "one").unwrap();
        let token = Token::new(path.clone());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(text(&token).await.as_deref(), Some("Bearer one"));
        fs::write(&path, "two").unwrap();
        token.refused();
        assert_eq!(text(&token).await.as_deref(), Some("Bearer one"), "read less than a second ago");
        tokio::time::advance(Duration::from_secs(1)).await;
        token.refused();
        assert_eq!(text(&token).await.as_deref(), Some("Bearer two"));
    }
}
